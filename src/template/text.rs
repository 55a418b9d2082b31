//! Texts with `${...}`, and what may come out of them at each place.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::text_body::inside_of_raw;
use super::{Expression, Facts, Fault, Reads, RenderError, Scope, TemplateError, scan};

/// Where a template's text goes; decides what values may look like there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `:path` of a call, with or without a query. Begins with a literal `/`. Values are percent-encoded but for
    /// unreserved characters (RFC 3986, 2.3), and no segment of the path becomes `.`, `..` or empty through one.
    Path,
    /// A header. Values with control characters are refused.
    Header,
    /// `:authority` of a call. Values with other characters than those of `host:port` are refused.
    Authority,
    /// A body or a part of one: anything.
    Text,
}

/// What is percent-encoded in a path: everything but unreserved characters.
pub(super) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest path, header value or authority that is rendered, in bytes. Servers answer longer ones 414 or 431: a
/// compensation that no participant takes would never end, so it is refused before anything is sent.
const LONGEST_BYTES: usize = 8 * 1024;

/// A text with `${...}`.
#[derive(Clone, Debug)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
    place: Place,
    reads: Reads,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Literal(String),
    Value(Expression),
    /// `${raw(...)}`, without the `raw`.
    Raw(Expression),
}

impl Template {
    /// Compiles `source`, whose expressions may read what `scope` says.
    ///
    /// # Errors
    ///
    /// Those of [`Expression::compile`]; a `${` without its `}`; literal text that does not fit the place.
    pub fn compile(source: &str, place: Place, scope: &Scope) -> Result<Template, TemplateError> {
        let parts = parts(source, scope)?;
        if parts.iter().any(|part| matches!(part, Part::Raw(_))) {
            let expected = "the expression alone: a value is encoded for its place";
            return Err(TemplateError::new(source, None, Fault::new("`raw(...)`", expected)));
        }
        if scope.is_judged() {
            check_literals(&parts, place).map_err(|fault| TemplateError::new(source, None, fault))?;
        }
        let mut reads = Reads::default();
        for part in &parts {
            if let Part::Value(expression) = part {
                reads.extend(expression.reads());
            }
        }
        Ok(Template { source: source.to_owned(), parts, place, reads })
    }

    /// The paths that its expressions read.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// As configured.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text, if nothing in it is a value of a request or an answer.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Literal(literal)] => Some(literal),
            _ => None,
        }
    }

    /// The text, fit for its place.
    ///
    /// # Errors
    ///
    /// An expression that cannot be evaluated, or whose value is null, a list, a map, or does not fit the place.
    pub fn render(&self, facts: &Facts) -> Result<String, RenderError> {
        let mut text = String::new();
        let mut segments = Segments::default();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => {
                    if self.place == Place::Path {
                        segments.literal(literal).map_err(|error| segments.blame(error))?;
                    }
                    text.push_str(literal);
                }
                Part::Value(expression) | Part::Raw(expression) => {
                    let value = expression.evaluate_text(facts)?;
                    let fitted = fitted(&value, self.place).map_err(|reason| expression.error(&reason))?;
                    if self.place == Place::Path {
                        segments.value(&fitted, expression);
                    }
                    text.push_str(&fitted);
                }
            }
        }
        if self.place == Place::Path {
            segments.end().map_err(|error| segments.blame(error))?;
        }
        if self.place == Place::Authority && text.is_empty() {
            let source = self.last_value().map_or("", Expression::source);
            return Err(RenderError::new(source, "an empty authority"));
        }
        if self.place != Place::Text && text.len() > LONGEST_BYTES {
            let source = self.last_value().map_or("", Expression::source);
            let reason = format!("gives {} bytes where at most {LONGEST_BYTES} may stand", text.len());
            return Err(RenderError::new(source, &reason));
        }
        Ok(text)
    }

    fn last_value(&self) -> Option<&Expression> {
        self.parts.iter().rev().find_map(|part| match part {
            Part::Value(expression) | Part::Raw(expression) => Some(expression),
            Part::Literal(_) => None,
        })
    }
}

/// Splits `source` into its pieces. `$${` is a literal `${`; a `$` before anything else stands for itself.
pub(super) fn parts(source: &str, scope: &Scope) -> Result<Vec<Part>, TemplateError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = source;
    while let Some(character) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("$${") {
            literal.push_str("${");
            rest = after;
        } else if let Some(inside) = rest.strip_prefix("${") {
            let offset = Some(source.len() - rest.len());
            let end = scan::length_of_expression(inside).and_then(|length| inside.split_at_checked(length));
            let Some((expression, after)) = end else {
                let fault = Fault::new("`${` without its `}`", "`${expression}`, or `$${` for a literal `${`");
                return Err(TemplateError::new(source, offset, fault));
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(match inside_of_raw(expression) {
                Some(inside) => Part::Raw(Expression::compile(inside, scope)?),
                None => Part::Value(Expression::compile(expression, scope)?),
            });
            rest = after.strip_prefix('}').unwrap_or(after);
        } else {
            literal.push(character);
            rest = rest.get(character.len_utf8()..).unwrap_or_default();
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

/// `value` as it may stand at `place`, or why it may not.
fn fitted(value: &str, place: Place) -> Result<Cow<'_, str>, String> {
    match place {
        Place::Path => Ok(Cow::from(utf8_percent_encode(value, ENCODED))),
        Place::Text => Ok(Cow::Borrowed(value)),
        Place::Header => match value.chars().find(|&c| is_control(c)) {
            Some(c) => Err(format!("gives the control character {c:?}, which a header cannot hold")),
            None => Ok(Cow::Borrowed(value)),
        },
        Place::Authority => match value.chars().find(|&c| !is_authority(c)) {
            Some(c) => Err(format!("gives {c:?}, which is no part of `host:port`")),
            None => Ok(Cow::Borrowed(value)),
        },
    }
}

fn check_literals(parts: &[Part], place: Place) -> Result<(), Fault> {
    let literals = || {
        parts.iter().filter_map(|part| match part {
            Part::Literal(literal) => Some(literal.as_str()),
            Part::Value(_) | Part::Raw(_) => None,
        })
    };
    let find = |refused: fn(char) -> bool| literals().flat_map(str::chars).find(|&c| refused(c));
    let (character, expected) = match place {
        Place::Text => return Ok(()),
        Place::Path => (find(|c| !is_path(c)), "a path: characters of a URI, others percent-encoded"),
        Place::Header => (find(is_control), "a header's value without control characters"),
        Place::Authority => (find(|c| !is_authority(c)), "`host:port`"),
    };
    if let Some(character) = character {
        return Err(Fault::new(format!("the character {character:?}"), expected));
    }
    if place == Place::Authority && parts.is_empty() {
        return Err(Fault::new("nothing", expected));
    }
    if place == Place::Path { check_path(parts) } else { Ok(()) }
}

fn check_path(parts: &[Part]) -> Result<(), Fault> {
    match parts.first() {
        Some(Part::Literal(literal)) if literal.starts_with('/') && !literal.starts_with("//") => {}
        _ => {
            return Err(Fault::new("another beginning", "a path that begins with one literal `/`"));
        }
    }
    let mut segments = Segments { refuse_literal_dots: true, ..Segments::default() };
    let dots = |_| Fault::new("a segment `.` or `..`", "a path without them");
    for part in parts {
        match part {
            // Each piece by itself: `%` before a value would make an escape of what the value begins with.
            Part::Literal(literal) if !has_whole_escapes(literal) => {
                return Err(Fault::new("a `%` without two hexadecimal digits", "a percent-encoded byte: `%25`"));
            }
            Part::Literal(literal) => segments.literal(literal).map_err(dots)?,
            // Some value that is harmless.
            Part::Value(expression) | Part::Raw(expression) => segments.value("x", expression),
        }
    }
    segments.end().map_err(dots)
}

fn has_whole_escapes(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let mut bytes = after.bytes();
        (0..2).all(|_| bytes.next().is_some_and(|byte| byte.is_ascii_hexdigit()))
    })
}

/// The characters of RFC 3986 for paths and queries, and `[]`, which queries hold in practice.
fn is_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?%[]".contains(c)
}

fn is_authority(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._:[]".contains(c)
}

fn is_control(c: char) -> bool {
    c < ' ' || c == '\u{7f}'
}

/// Watches the segments of a path while it is put together: a value must not make one that means another resource.
#[derive(Default)]
struct Segments<'a> {
    segment: String,
    /// The last expression that has put something into the segment.
    by: Option<&'a Expression>,
    in_query: bool,
    refuse_literal_dots: bool,
}

impl<'a> Segments<'a> {
    fn literal(&mut self, text: &str) -> Result<(), &'static str> {
        for character in text.chars() {
            match character {
                _ if self.in_query => return Ok(()),
                '/' => {
                    self.end()?;
                    self.segment.clear();
                    self.by = None;
                }
                '?' => {
                    self.end()?;
                    self.in_query = true;
                }
                other => self.segment.push(other),
            }
        }
        Ok(())
    }

    fn value(&mut self, encoded: &str, by: &'a Expression) {
        if !self.in_query {
            self.segment.push_str(encoded);
            self.by = Some(by);
        }
    }

    /// Judges the segment that ends here.
    fn end(&self) -> Result<(), &'static str> {
        if self.in_query {
            return Ok(());
        }
        // A literal `%2e` means a dot as well; a value cannot bring one.
        let plain = self.segment.replace("%2e", ".").replace("%2E", ".");
        match plain.as_str() {
            "" if self.by.is_some() => Err("gives an empty segment of the path"),
            "." | ".." if self.by.is_some() || self.refuse_literal_dots => {
                Err("gives a segment `.` or `..` of the path")
            }
            _ => Ok(()),
        }
    }

    fn blame(&self, reason: &str) -> RenderError {
        match self.by {
            Some(expression) => expression.error(reason),
            None => RenderError::new(&self.segment, reason),
        }
    }
}
