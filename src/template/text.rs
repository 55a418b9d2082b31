//! Texts with `${...}`, and what may come out of them at each place.

use super::part::{Mark, Part, parts};
use super::{Expression, Facts, Fault, Place, Reads, RenderError, Scope, TemplateError, link, path};

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

impl Template {
    /// Compiles `source`, whose expressions may read what `scope` says.
    ///
    /// # Errors
    ///
    /// Those of [`Expression::compile`]; a `${` without its `}`; literal text that does not fit the place.
    pub fn compile(source: &str, place: Place, scope: &Scope) -> Result<Template, TemplateError> {
        let parts = parts(source, scope)?;
        let misplaced = parts.iter().find_map(|part| match part {
            Part::Value(_, mark) => mark.fault_at(place),
            Part::Literal(_) => None,
        });
        if let Some(fault) = misplaced {
            return Err(TemplateError::new(source, None, fault));
        }
        if scope.is_judged() {
            check_literals(&parts, place).map_err(|fault| TemplateError::new(source, None, fault))?;
        }
        let mut reads = Reads::default();
        for part in &parts {
            if let Part::Value(expression, _) = part {
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

    /// The expression that puts a link of an answer into a path as if it were a name: its slashes are encoded.
    pub fn encoded_link(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Value(expression, Mark::None) if self.place == Place::Path && expression.reads().is_link() => {
                Some(expression.source())
            }
            _ => None,
        })
    }

    /// The text, fit for its place.
    ///
    /// # Errors
    ///
    /// An expression that cannot be evaluated, or whose value is null, a list, a map, or does not fit the place.
    pub fn render(&self, facts: &Facts) -> Result<String, RenderError> {
        let mut text = String::new();
        if self.place == Place::Path {
            text = path::render(&self.parts, facts)?;
        } else {
            for part in &self.parts {
                match part {
                    Part::Literal(literal) => text.push_str(literal),
                    Part::Value(expression, _) => {
                        let value = expression.evaluate_text(facts)?;
                        check(&value, self.place).map_err(|reason| expression.error(&reason))?;
                        text.push_str(&value);
                    }
                }
            }
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
            Part::Value(expression, _) => Some(expression),
            Part::Literal(_) => None,
        })
    }
}

/// Whether `value` may stand at `place`, or why it may not.
fn check(value: &str, place: Place) -> Result<(), String> {
    match place {
        Place::Path | Place::Text => Ok(()),
        Place::Header => match value.chars().find(|&c| is_control(c)) {
            Some(c) => Err(format!("gives the control character {c:?}, which a header cannot hold")),
            None => Ok(()),
        },
        Place::Authority => match value.chars().find(|&c| !is_authority(c)) {
            Some(c) => Err(format!("gives {c:?}, which is no part of `host:port`")),
            None => Ok(()),
        },
    }
}

fn check_literals(parts: &[Part], place: Place) -> Result<(), Fault> {
    let literals = || {
        parts.iter().filter_map(|part| match part {
            Part::Literal(literal) => Some(literal.as_str()),
            Part::Value(..) => None,
        })
    };
    let find = |refused: fn(char) -> bool| literals().flat_map(str::chars).find(|&c| refused(c));
    let (character, expected) = match place {
        Place::Text => return Ok(()),
        Place::Path => (find(|c| !link::is_path(c)), "a path: characters of a URI, others percent-encoded"),
        Place::Header => (find(is_control), "a header's value without control characters"),
        Place::Authority => (find(|c| !is_authority(c)), "`host:port`"),
    };
    if let Some(character) = character {
        return Err(Fault::new(format!("the character {character:?}"), expected));
    }
    if place == Place::Authority && parts.is_empty() {
        return Err(Fault::new("nothing", expected));
    }
    if place == Place::Path { path::check(parts) } else { Ok(()) }
}

fn is_authority(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._:[]".contains(c)
}

fn is_control(c: char) -> bool {
    c < ' ' || c == '\u{7f}'
}
