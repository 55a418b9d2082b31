//! CEL expressions (<https://cel.dev>) and `${...}` templates over requests and responses.
//!
//! Everything is checked when it is compiled: syntax, variables, the fields of what has a fixed shape, functions, and
//! that only steps are read that come before. What is left for run time is what only the data decides: a field that
//! is not there, a value of the wrong type, a number that overflows. That is a [`RenderError`], never a panic.
//!
//! ```text
//! source -> scan (bounds, end of `${`) -> parser of `cel` -> check (names, functions; paths become look-ups)
//! facts  -> the paths read become CEL values -> `cel` evaluates -> value -> text for its place, or JSON
//! ```
//!
//! Functions: `size startsWith endsWith contains string int double`; macros: `has all exists exists_one map filter`;
//! optionals: `a.?b`, `a[?b]`, `optional.of`, `optional.none`, `or`, `orValue`, `hasValue`, `value`; all operators.
//!
//! A value that is read by its bare path (`${request.body.id}`) is passed on exactly as it came. Where CEL computes
//! with it, a whole number that fits 64 bits is an `int` and every other number a `double`. A number that neither holds
//! exactly is passed on digit for digit, and is an error where anything is computed with it.

mod body;
mod body_kind;
mod budget;
mod check;
mod digits;
mod expression;
mod functions;
mod link;
mod part;
mod path;
mod reads;
mod scan;
mod scope;
mod steps;
mod text;
mod text_body;
mod value;

use std::fmt;

use serde_json::{Map, Value as Json};

pub use body::{Body, BodyError, BodyTemplate};
pub use body_kind::{BodyKind, FORM};
pub use expression::Expression;
pub use part::Place;
pub use reads::Reads;
pub use scope::Scope;
pub use text::Template;

/// What an evaluation reads, as built by [`crate::facts`]. What is `None` is "not there".
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The client's request.
    pub request: Option<&'a Json>,
    /// A participant's answer; for the predicates `success` and `rejected`.
    pub response: Option<&'a Json>,
    /// In a compensation, its own transaction: `request`, `response`, `idempotency_key`.
    pub transaction: Option<&'a Json>,
    /// By name, the steps that have a result: `request` and `response` of each. Skipped steps are left out.
    pub steps: Option<&'a Map<String, Json>>,
    /// `id`, `name`, and in replies `status`, `failed_step`, `reason`.
    pub saga: Option<&'a Json>,
}

/// The configuration's fault: an expression or a template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The expression or template as configured.
    pub text: String,
    /// Where in `text`, in bytes, if known.
    pub offset: Option<usize>,
    /// What is there; one line of bounded length.
    pub found: String,
    /// What should be there; one line.
    pub expected: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", shortened(&self.text))?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": found {}, expected {}", self.found, self.expected)
    }
}

impl std::error::Error for TemplateError {}

impl TemplateError {
    fn new(text: &str, offset: Option<usize>, fault: Fault) -> Self {
        // The parser repeats what it could not read, and names of fields can be any text.
        let expected = fault.expected.chars().map(printed).collect();
        TemplateError { text: text.to_owned(), offset, found: shortened(&fault.found), expected }
    }
}

/// The data's fault: an expression that cannot be evaluated, or whose value does not fit its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderError {
    /// The expression as configured.
    pub expression: String,
    /// Why; one line of bounded length.
    pub reason: String,
}

impl fmt::Display for RenderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", shortened(&self.expression), self.reason)
    }
}

impl std::error::Error for RenderError {}

impl RenderError {
    fn new(expression: &str, reason: &str) -> Self {
        RenderError { expression: expression.to_owned(), reason: shortened(reason) }
    }
}

/// A [`TemplateError`] that does not yet know its text.
#[derive(Debug)]
struct Fault {
    found: String,
    expected: String,
}

impl Fault {
    fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Fault { found: found.into(), expected: expected.into() }
    }
}

/// One line of at most 200 characters: errors hold what clients sent, and go into logs and answers.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    let mut line: String = text.chars().take(MOST).map(printed).collect();
    if text.chars().nth(MOST).is_some() {
        line.push('…');
    }
    line
}

/// A character as it may stand in a line of a log.
fn printed(character: char) -> char {
    if character.is_control() { ' ' } else { character }
}

#[cfg(test)]
mod tests;
