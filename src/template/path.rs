//! The path of a call, put together so that no value means another resource.

use percent_encoding::utf8_percent_encode;

use super::link::{self, LinkPart};
use super::part::{ENCODED, Mark, Part};
use super::{Expression, Facts, Fault, RenderError};

/// The path, with its query.
pub(super) fn render(parts: &[Part], facts: &Facts) -> Result<String, RenderError> {
    let mut text = String::new();
    let mut segments = Segments::default();
    let takes_query = parts.iter().any(|part| matches!(part, Part::Value(_, Mark::Link(LinkPart::Query))));
    for part in parts {
        match part {
            Part::Literal(literal) => {
                segments.literal(literal).map_err(|error| segments.blame(error))?;
                text.push_str(literal);
            }
            Part::Value(expression, mark) => {
                let value = expression.evaluate_text(facts)?;
                let fitted = match mark {
                    Mark::Link(part) => {
                        let linked = link::part(&value, *part, takes_query).map_err(|why| expression.error(&why))?;
                        segments.link(linked, *part, expression);
                        linked.to_owned()
                    }
                    Mark::None | Mark::Raw => {
                        let encoded = utf8_percent_encode(&value, ENCODED).to_string();
                        segments.value(&encoded, expression);
                        encoded
                    }
                };
                text.push_str(&fitted);
            }
        }
    }
    segments.end().map_err(|error| segments.blame(error))?;
    Ok(text)
}

/// Whether the literals make a path, whatever the values are.
pub(super) fn check(parts: &[Part]) -> Result<(), Fault> {
    match parts.first() {
        Some(Part::Literal(literal)) if literal.starts_with('/') && !literal.starts_with("//") => {}
        Some(Part::Value(_, Mark::Link(LinkPart::Path))) => {}
        _ => {
            let expected = "a path that begins with one literal `/`, or with `${path(...)}` of a link";
            return Err(Fault::new("another beginning", expected));
        }
    }
    let mut segments = Segments { refuse_literal_dots: true, ..Segments::default() };
    let dots = |_| Fault::new("a segment `.` or `..`", "a path without them");
    for (index, part) in parts.iter().enumerate() {
        match part {
            // Each piece by itself: `%` before a value would make an escape of what the value begins with.
            Part::Literal(literal) if !link::has_whole_escapes(literal) => {
                return Err(Fault::new("a `%` without two hexadecimal digits", "a percent-encoded byte: `%25`"));
            }
            Part::Literal(literal) => segments.literal(literal).map_err(dots)?,
            Part::Value(_, Mark::Link(LinkPart::Path)) if index > 0 => {
                return Err(Fault::new("`path(...)` after something else", "it at the beginning of the path"));
            }
            Part::Value(_, Mark::Link(LinkPart::Query)) if !segments.in_query => {
                return Err(Fault::new("`query(...)` in the path", "it after a literal `?`"));
            }
            // Some value that is harmless.
            Part::Value(expression, _) => segments.value("x", expression),
        }
    }
    segments.end().map_err(dots)
}

/// Watches the segments of a path while it is put together: a value must not make one that means another resource.
#[derive(Default)]
struct Segments<'a> {
    segment: String,
    /// The last expression that has put something into the segment.
    by: Option<&'a Expression>,
    in_query: bool,
    may_be_empty: bool,
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
                    (self.by, self.may_be_empty) = (None, false);
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

    /// A part of a link, which was judged already. What is put behind it goes on in its last segment.
    fn link(&mut self, text: &str, part: LinkPart, by: &'a Expression) {
        if part == LinkPart::Path {
            self.value(text.rsplit('/').next().unwrap_or_default(), by);
            // A link may end with a slash.
            self.may_be_empty = true;
        }
    }

    /// Judges the segment that ends here.
    fn end(&self) -> Result<(), &'static str> {
        if self.in_query {
            return Ok(());
        }
        // A literal `%2e` means a dot as well; a value cannot bring one.
        let plain = self.segment.replace("%2e", ".").replace("%2E", ".");
        // Behind a literal `;` stand parameters of the segment.
        match plain.split(';').next().unwrap_or_default() {
            "" if self.by.is_some() && !self.may_be_empty => Err("gives an empty segment of the path"),
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
