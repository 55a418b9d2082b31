//! The pieces of a text with `${...}`, and the places where such texts stand.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use super::link::LinkPart;
use super::{Expression, Fault, Scope, TemplateError, scan};

/// Where a template's text goes; decides what values may look like there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `:path` of a call, with or without a query. Begins with a literal `/`. Values are percent-encoded but for
    /// unreserved characters (RFC 3986, 2.3), and no segment of the path becomes `.`, `..` or empty through one. Those of
    /// `path(...)` and `query(...)` are parts of links: checked, and not encoded once more.
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

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Literal(String),
    Value(Expression, Mark),
}

/// What is written around the expression of a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing: the value is encoded for its place.
    None,
    /// `raw(...)`: it goes in as it is.
    Raw,
    /// `path(...)`, `query(...)`: it is this part of a link.
    Link(LinkPart),
}

impl Mark {
    const ALL: [(&str, Mark); 3] =
        [("raw(", Mark::Raw), ("path(", Mark::Link(LinkPart::Path)), ("query(", Mark::Link(LinkPart::Query))];

    /// The mark of a placeholder, and the expression inside of it.
    fn of(source: &str) -> (Mark, &str) {
        let marked = Mark::ALL.into_iter().find_map(|(call, mark)| {
            let inside = source.trim().strip_prefix(call)?.strip_suffix(')')?;
            scan::is_balanced(inside).then_some((mark, inside))
        });
        marked.unwrap_or((Mark::None, source))
    }

    /// Where it cannot stand, why.
    pub(super) fn fault_at(self, place: Place) -> Option<Fault> {
        match self {
            Mark::None => None,
            Mark::Link(_) if place == Place::Path => None,
            Mark::Raw => Some(Fault::new("`raw(...)`", "the expression alone: a value is encoded for its place")),
            Mark::Link(_) => Some(Fault::new("`path(...)` or `query(...)`", "it in the `path` of a call")),
        }
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
            let (mark, expression) = Mark::of(expression);
            parts.push(Part::Value(Expression::compile(expression, scope)?, mark));
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
