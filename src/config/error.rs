//! What is wrong with a configuration, and where.

use std::fmt;

use serde_json::Value;

use crate::template::TemplateError;

/// Longest text of a value that an error repeats, in characters.
const LONGEST_FOUND: usize = 80;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationError {
    /// Where, such as `sagas[0].steps[2].transaction.path`; empty for the configuration as a whole.
    pub path: String,
    /// The value there, as JSON and shortened, or `nothing`.
    pub found: String,
    /// What should have been there.
    pub expected: String,
}

impl fmt::Display for ConfigurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "the configuration" } else { &self.path };
        write!(f, "{path}: found {}, expected {}", self.found, self.expected)
    }
}

/// Everything that is wrong with a configuration, in the order in which it was read; never empty.
///
/// Displays as one line for each error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationErrors(pub Vec<ConfigurationError>);

impl fmt::Display for ConfigurationErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigurationErrors {}

impl ConfigurationErrors {
    /// A single error about the configuration as a whole.
    pub(super) fn whole(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self(vec![ConfigurationError { path: String::new(), found: found.into(), expected: expected.into() }])
    }
}

/// Collects errors while the rest of the configuration is still being checked.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) Vec<ConfigurationError>);

impl Errors {
    /// Records that the text `found` at `path` is not what was `expected`.
    pub(super) fn add(&mut self, path: &str, found: &str, expected: impl Into<String>) {
        self.push(path, shorten(&quote(found)), expected);
    }

    /// Records that an expression or template cannot be used.
    pub(super) fn template(&mut self, path: &str, error: &TemplateError) {
        let place = error.offset.map(|offset| format!("at byte {offset}: ")).unwrap_or_default();
        let found = format!("{} ({place}{})", shorten(&quote(&error.text)), error.found);
        self.push(path, found, error.expected.clone());
    }

    /// Records an error about something that is no single text: `found` is a description.
    pub(super) fn push(&mut self, path: &str, found: impl Into<String>, expected: impl Into<String>) {
        self.0.push(ConfigurationError { path: path.to_owned(), found: found.into(), expected: expected.into() });
    }
}

/// The path of the field `key` of the object at `parent`.
pub(super) fn join(parent: &str, key: &str) -> String {
    match (parent.is_empty(), is_plain(key)) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{parent}.{key}"),
        (_, false) => format!("{parent}[{}]", shorten(&quote(key))),
    }
}

/// A value as an error shows it: one line, and not long.
pub(super) fn show(value: &Value) -> String {
    shorten(&printed(value))
}

/// `text` as a JSON string.
pub(super) fn quote(text: &str) -> String {
    printed(&Value::from(text))
}

/// A name as it is, or quoted if it is none.
pub(super) fn word(name: &str) -> String {
    if is_plain(name) { name.to_owned() } else { shorten(&quote(name)) }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// JSON without control characters: it escapes those below the space itself, but not those from U+007F to U+009F, which
/// terminals heed as well.
fn printed(value: &Value) -> String {
    let mut printed = String::new();
    for character in value.to_string().chars() {
        if character.is_control() {
            printed.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            printed.push(character);
        }
    }
    printed
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST_FOUND) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_shortened_between_characters() {
        let shown = show(&Value::from("é".repeat(200)));
        assert_eq!(shown.chars().count(), LONGEST_FOUND + 3);
        assert!(shown.ends_with("é..."));
    }

    #[test]
    fn an_error_is_one_line_whatever_was_found() {
        let mut errors = Errors::default();
        errors.add("sagas[0].name", "a\nb", "a name");
        let line = ConfigurationErrors(errors.0).to_string();
        assert_eq!(line, r#"sagas[0].name: found "a\nb", expected a name"#);
    }

    #[test]
    fn an_error_holds_no_control_character_whatever_was_found() {
        assert_eq!(quote("a\u{7f}\u{9b}b"), r#""a\u007f\u009bb""#);
        assert_eq!(show(&serde_json::json!(["\u{9b}31m"])), r#"["\u009b31m"]"#);
        for source in ["a\n\"b \u{9b}", "request['a\nb']", "steps['a\nb'].response", "a\nb", "'a'.b\u{7f}(\n)"] {
            let scope = crate::template::Scope::condition(&[]);
            let error = crate::template::Expression::compile(source, &scope).unwrap_err();
            let mut errors = Errors::default();
            errors.template("path", &error);
            let line = ConfigurationErrors(errors.0).to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn a_key_that_is_no_plain_word_is_quoted_in_a_path() {
        assert_eq!(join("a.b", "c"), "a.b.c");
        assert_eq!(join("", "c"), "c");
        assert_eq!(join("a", "c.d"), r#"a["c.d"]"#);
        assert_eq!(join("a", ""), r#"a[""]"#);
    }
}
