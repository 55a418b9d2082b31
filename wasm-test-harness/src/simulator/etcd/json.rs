//! JSON as the gateway reads it: Go's `jsonpb`, with its leniences and the texts of its errors.
//!
//! A number may be a string, a name may be in camelCase, `null` counts as absent, a name that nobody knows is passed
//! over, and so is what follows the first value. Values stay as they were sent until they are looked at, so that
//! nesting has no limit here.

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Go takes base64 only with padding, and does not look at bits that are left over.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// The first value of a body, or nothing if there is none.
pub fn first_value(body: &[u8]) -> Result<Option<&RawValue>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    <&RawValue>::deserialize(&mut reader).map(Some).map_err(|error| syntax_error(body, &error))
}

/// Bytes as the gateway writes them.
pub fn encode_bytes(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// The fields of a message.
#[derive(Default)]
pub struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    /// Of an object; `null` has none.
    pub fn of(value: &'a RawValue) -> Result<Fields<'a>, String> {
        match kind(value.get()) {
            Kind::Null => Ok(Fields::default()),
            Kind::Object => serde_json::from_str(value.get()).map(Fields).map_err(|error| error.to_string()),
            other => Err(mismatch(other, "map[string]json.RawMessage")),
        }
    }

    /// A field that is there and is not `null`.
    pub fn value(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.get(name).or_else(|| self.0.get(&camel_case(name)));
        found.copied().filter(|value| kind(value.get()) != Kind::Null)
    }

    /// The first of these fields that is there.
    pub fn any_of(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.value(name).is_some())
    }

    /// Bytes in base64, empty where there are none.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, String> {
        self.value(name).map_or(Ok(Vec::new()), bytes)
    }

    /// A number of 64 bits, 0 where there is none.
    pub fn int(&self, name: &str) -> Result<i64, String> {
        self.value(name).map_or(Ok(0), |value| int(value, "int64"))
    }

    /// True or false, false where it is absent.
    pub fn flag(&self, name: &str) -> Result<bool, String> {
        match self.value(name).map(RawValue::get) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(mismatch(kind(other), "bool")),
        }
    }

    /// A value of an enumeration of this type with these names, as its number; 0 where there is none.
    pub fn choice(&self, name: &str, enumeration: &str, names: &[&str]) -> Result<i64, String> {
        let Some(value) = self.value(name) else {
            return Ok(0);
        };
        if kind(value.get()) != Kind::Text {
            return int(value, enumeration);
        }
        let chosen: String = serde_json::from_str(value.get()).map_err(|error| error.to_string())?;
        let number = names.iter().position(|one| *one == chosen).and_then(|at| i64::try_from(at).ok());
        number.ok_or_else(|| format!("unknown value {} for enum {enumeration}", value.get()))
    }

    /// Several values, none where there is no list.
    pub fn list(&self, name: &str) -> Result<Vec<&'a RawValue>, String> {
        let Some(value) = self.value(name) else {
            return Ok(Vec::new());
        };
        if kind(value.get()) != Kind::List {
            return Err(mismatch(kind(value.get()), "[]json.RawMessage"));
        }
        serde_json::from_str(value.get()).map_err(|error| error.to_string())
    }
}

/// Bytes in base64.
pub fn bytes(value: &RawValue) -> Result<Vec<u8>, String> {
    match kind(value.get()) {
        Kind::Text => {}
        // Go reads a list of numbers as bytes, too.
        Kind::List => return serde_json::from_str(value.get()).map_err(|error| error.to_string()),
        other => return Err(mismatch(other, "[]uint8")),
    }
    let text: String = serde_json::from_str(value.get()).map_err(|error| error.to_string())?;
    BASE64.decode(&text).map_err(|_| format!("illegal base64 data at input byte {}", wrong_byte(&text)))
}

/// A number, which may be in quotes.
pub fn int(value: &RawValue, go_type: &str) -> Result<i64, String> {
    let raw = value.get();
    let text = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(raw).trim_ascii();
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    if text.is_empty() {
        return Err("unexpected end of JSON input".to_owned());
    }
    match serde_json::from_str::<&RawValue>(text) {
        Err(error) => Err(syntax_error(text.as_bytes(), &error)),
        Ok(value) => match kind(value.get()) {
            Kind::Null => Ok(0),
            Kind::Number => Err(format!("json: cannot unmarshal number {text} into Go value of type {go_type}")),
            other => Err(mismatch(other, go_type)),
        },
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Null,
    Bool,
    Number,
    Text,
    List,
    Object,
}

/// Which kind of value this is, by how it begins: that it is one is known.
fn kind(raw: &str) -> Kind {
    match raw.as_bytes().first() {
        Some(b'n') => Kind::Null,
        Some(b't' | b'f') => Kind::Bool,
        Some(b'"') => Kind::Text,
        Some(b'[') => Kind::List,
        Some(b'{') => Kind::Object,
        _ => Kind::Number,
    }
}

fn mismatch(kind: Kind, go_type: &str) -> String {
    let name = match kind {
        Kind::Null => "null",
        Kind::Bool => "bool",
        Kind::Number => "number",
        Kind::Text => "string",
        Kind::List => "array",
        Kind::Object => "object",
    };
    format!("json: cannot unmarshal {name} into Go value of type {go_type}")
}

/// What Go says of JSON that is none. It says more than this of what was expected in place of a character.
fn syntax_error(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected EOF".to_owned();
    }
    let line = text.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
    let met = line.get(error.column().saturating_sub(1)).copied().unwrap_or_default();
    format!("invalid character '{}' looking for beginning of value", char::from(met))
}

/// Where Go finds base64 wrong: at the first byte that is none of it, where padding is missing or does not end it, or
/// where a group of four begins that is too short.
fn wrong_byte(text: &str) -> usize {
    let of_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let Some(at) = text.bytes().position(|byte| !of_base64(&byte)) else {
        return text.len() / 4 * 4;
    };
    let bytes = text.as_bytes();
    match (bytes.get(at), at % 4, bytes.get(at + 1)) {
        (Some(b'='), 2, Some(b'=')) => at + 2,
        (Some(b'='), 2, None) | (Some(b'='), 3, _) => at + 1,
        _ => at,
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |camel, word| {
        let mut letters = word.chars();
        camel + &letters.next().map(|letter| letter.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    })
}
