//! Reading that goes on after an error, so that all errors come at once.
//!
//! `deserr` gathers the errors of one object's fields, but then gives no object. [`Located`] keeps the error where the
//! value would be, so that what is around it can still be read and checked for its meaning.

use std::ops::ControlFlow;

use deserr::{
    DeserializeError, Deserr, ErrorKind, IntoValue, MergeWithError, Sequence, Value, ValueKind, ValuePointerRef,
};

use super::error::{ConfigurationError, Errors, join, quote, show};

/// What `deserr` could not read, before it is opened.
#[derive(Debug, Default)]
pub(super) struct Faults {
    errors: Vec<ConfigurationError>,
    /// Keys that the object which was read does not have.
    unknown_keys: Vec<String>,
}

impl Faults {
    /// A single fault.
    pub(super) fn one(location: ValuePointerRef, found: String, expected: impl Into<String>) -> Self {
        let error = ConfigurationError { path: path_of(location), found, expected: expected.into() };
        Self { errors: vec![error], unknown_keys: Vec::new() }
    }

    /// A value of a kind that cannot be meant.
    pub(super) fn wrong<V: IntoValue>(location: ValuePointerRef, found: Value<V>, expected: impl Into<String>) -> Self {
        Self::one(location, show(&serde_json::Value::from(found)), expected)
    }
}

impl MergeWithError<Faults> for Faults {
    fn merge(before: Option<Self>, mut other: Self, _: ValuePointerRef) -> ControlFlow<Self, Self> {
        let mut all = before.unwrap_or_default();
        all.errors.append(&mut other.errors);
        all.unknown_keys.append(&mut other.unknown_keys);
        ControlFlow::Continue(all)
    }
}

impl DeserializeError for Faults {
    fn error<V: IntoValue>(
        before: Option<Self>,
        error: ErrorKind<V>,
        location: ValuePointerRef,
    ) -> ControlFlow<Self, Self> {
        let fault = match error {
            ErrorKind::IncorrectValueKind { actual, accepted } => Self::wrong(location, actual, kinds(accepted)),
            ErrorKind::MissingField { field } => {
                Self::one(location.push_key(field), "nothing".to_owned(), "a value: the field is required")
            }
            ErrorKind::UnknownKey { key, accepted } => {
                let expected = format!("one of the fields {}", accepted.join(", "));
                let mut fault = Self::one(location.push_key(key), "an unknown field".to_owned(), expected);
                fault.unknown_keys.push(key.to_owned());
                fault
            }
            ErrorKind::UnknownValue { value, accepted } => {
                Self::one(location, quote(value), format!("one of {}", accepted.join(", ")))
            }
            ErrorKind::BadSequenceLen { actual, expected } => {
                Self::one(location, format!("{} items", actual.len()), format!("{expected} items"))
            }
            ErrorKind::Unexpected { msg } => Self::one(location, "a value".to_owned(), msg),
        };
        Self::merge(before, fault, location)
    }
}

fn kinds(accepted: &[ValueKind]) -> String {
    let names: Vec<&str> = accepted
        .iter()
        .map(|kind| match kind {
            ValueKind::Null => "null",
            ValueKind::Boolean => "true or false",
            ValueKind::Integer | ValueKind::NegativeInteger => "an integer",
            ValueKind::Float => "a number",
            ValueKind::String => "a string",
            ValueKind::Sequence => "a list",
            ValueKind::Map => "an object",
        })
        .collect();
    names.join(" or ")
}

/// The path of a place in a configuration, as errors show it.
pub(super) fn path_of(location: ValuePointerRef) -> String {
    match location {
        ValuePointerRef::Origin => String::new(),
        ValuePointerRef::Key { key, prev } => join(&path_of(*prev), key),
        ValuePointerRef::Index { index, prev } => format!("{}[{index}]", path_of(*prev)),
    }
}

/// A value, or what is wrong with it, and where it stands. Reading one never fails; opening it tells.
#[derive(Debug)]
pub(super) struct Located<T> {
    path: String,
    value: Option<T>,
    errors: Vec<ConfigurationError>,
}

/// A value that could be read, and where it stands.
#[derive(Debug)]
pub(super) struct At<T> {
    pub(super) path: String,
    pub(super) value: T,
}

impl<T> Located<T> {
    /// Hands over the value, and what was wrong. Both come where an object has unknown fields besides good ones.
    pub(super) fn open(mut self, errors: &mut Errors) -> Option<At<T>> {
        errors.0.append(&mut self.errors);
        let path = self.path;
        self.value.map(|value| At { path, value })
    }
}

/// Opens a field that may be left out.
pub(super) fn optional<T>(field: Option<Located<T>>, errors: &mut Errors) -> Option<At<T>> {
    field.and_then(|located| located.open(errors))
}

/// Opens the field `name` of the object at `parent`, which must be there.
pub(super) fn required<T>(
    field: Option<Located<T>>,
    parent: &str,
    name: &str,
    expected: &str,
    errors: &mut Errors,
) -> Option<At<T>> {
    if field.is_none() {
        errors.push(&join(parent, name), "nothing", expected);
    }
    optional(field, errors)
}

/// Compiles a field that may be left out: none where it is faulty, `Some(None)` where it is left out.
pub(super) fn unless_faulty<T, U>(
    field: Option<Located<T>>,
    errors: &mut Errors,
    compile: impl FnOnce(At<T>, &mut Errors) -> Option<U>,
) -> Option<Option<U>> {
    match field {
        None => Some(None),
        Some(field) => field.open(errors).and_then(|given| compile(given, errors)).map(Some),
    }
}

impl<T: Deserr<Faults>> Deserr<Faults> for Located<T> {
    fn deserialize_from_value<V: IntoValue>(value: Value<V>, location: ValuePointerRef) -> Result<Self, Faults> {
        let path = path_of(location);
        let mut json = serde_json::Value::from(value);
        let faults = match T::deserialize_from_value(json.clone().into_value(), location) {
            Ok(value) => {
                return Ok(Self { path, value: Some(value), errors: Vec::new() });
            }
            Err(faults) => faults,
        };
        // An object with fields that do not exist is read once more without them: what else it says is checked too.
        let mut value = None;
        if let (Some(object), false) = (json.as_object_mut(), faults.unknown_keys.is_empty()) {
            object.retain(|key, _| !faults.unknown_keys.contains(key));
            value = T::deserialize_from_value(json.into_value(), location).ok();
        }
        Ok(Self { path, value, errors: faults.errors })
    }
}

#[cfg(feature = "schema")]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Located<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }
}
