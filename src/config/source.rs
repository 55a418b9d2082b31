//! The two forms in which Envoy hands over a configuration, both made into JSON.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use deserr::ValuePointerRef;
use prost::Message;
use prost_types::value::Kind;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::{ConfigurationErrors, Errors, join, show};
use super::located::path_of;
use crate::facts::NUMBER_TOKEN;

/// What a configuration may be handed over as.
const FORMS: &str = "JSON text, or a serialized google.protobuf.Struct";

/// Reads JSON text or a serialized `google.protobuf.Struct`, and records fields that are given twice.
///
/// # Errors
///
/// When the bytes are neither, are empty, or are nested too deep to be read.
pub(super) fn read(bytes: &[u8], errors: &mut Errors) -> Result<Value, ConfigurationErrors> {
    if bytes.trim_ascii().is_empty() {
        let expected = "at least `version: 1`; an empty configuration, also an empty Struct, says nothing";
        return Err(ConfigurationErrors::whole("no bytes", expected));
    }
    if is_struct(bytes) { read_struct(bytes, errors) } else { read_json(bytes, errors) }
}

/// A Struct begins with the tag of its first entry, 0x0a, which is also a line feed. But each entry holds the tag of its
/// value, 0x12, and JSON text never holds that byte: in strings, control characters are escaped.
fn is_struct(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x0a) && bytes.contains(&0x12)
}

fn read_json(bytes: &[u8], errors: &mut Errors) -> Result<Value, ConfigurationErrors> {
    let repeated = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Unrepeated { location: ValuePointerRef::Origin, repeated: &repeated };
    let value = seed.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    for path in repeated.take() {
        errors.push(&path, "a field that is given twice", "each field once");
    }
    value.map_err(|error| {
        let found = show(&Value::from(String::from_utf8_lossy(bytes)));
        ConfigurationErrors::whole(found, format!("{FORMS} ({error})"))
    })
}

/// Reads JSON as `serde_json::Value` does, and notes the paths of repeated keys, of which that would keep the last.
#[derive(Clone, Copy)]
struct Unrepeated<'a> {
    location: ValuePointerRef<'a>,
    repeated: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Unrepeated<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unrepeated<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) =
            items.next_element_seed(Unrepeated { location: self.location.push_index(list.len()), ..self })?
        {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == NUMBER_TOKEN {
                return number(&entries.next_value::<String>()?).map_err(Error::custom);
            }
            let location = self.location.push_key(&key);
            let value = entries.next_value_seed(Unrepeated { location, ..self })?;
            if object.contains_key(&key) {
                self.repeated.borrow_mut().push(path_of(location));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A number as it is written, if a double can tell about how large it is.
fn number(digits: &str) -> Result<Value, String> {
    let number: Number = digits.parse().map_err(|error| format!("{digits}: {error}"))?;
    match number.as_f64() {
        Some(_) => Ok(Value::Number(number)),
        None => Err(format!("{digits} is larger than any double")),
    }
}

fn read_struct(bytes: &[u8], errors: &mut Errors) -> Result<Value, ConfigurationErrors> {
    let message = prost_types::Struct::decode(bytes).map_err(|error| {
        ConfigurationErrors::whole(
            format!("{} bytes that begin like a Struct", bytes.len()),
            format!("{FORMS} ({error})"),
        )
    })?;
    Ok(object_of(message.fields, "", errors))
}

fn object_of(fields: BTreeMap<String, prost_types::Value>, path: &str, errors: &mut Errors) -> Value {
    let entry = |(key, value): (String, prost_types::Value)| {
        let value = json_of(value, &join(path, &key), errors);
        (key, value)
    };
    Value::Object(fields.into_iter().map(entry).collect())
}

/// Recursion is bounded: `prost` refuses messages that are nested deeper than 100.
fn json_of(value: prost_types::Value, path: &str, errors: &mut Errors) -> Value {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(value),
        Some(Kind::StringValue(value)) => Value::String(value),
        Some(Kind::NumberValue(value)) => number_of(value).unwrap_or_else(|| {
            errors.push(path, value.to_string(), "a number that is finite");
            Value::Null
        }),
        Some(Kind::StructValue(value)) => object_of(value.fields, path, errors),
        Some(Kind::ListValue(list)) => {
            let item = |(index, value)| json_of(value, &format!("{path}[{index}]"), errors);
            Value::Array(list.values.into_iter().enumerate().map(item).collect())
        }
    }
}

/// All numbers of a Struct are doubles; a whole one was written, and is sent, without a point.
fn number_of(value: f64) -> Option<Value> {
    /// 2^63, which every `i64` is less than.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if value.fract() == 0.0 && (-BEYOND..BEYOND).contains(&value) {
        return Some(Value::from(value as i64));
    }
    Number::from_f64(value).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(key: &str, kind: Kind) -> Vec<u8> {
        let value = prost_types::Value { kind: Some(kind) };
        prost_types::Struct { fields: BTreeMap::from([(key.to_owned(), value)]) }.encode_to_vec()
    }

    fn read_alone(bytes: &[u8]) -> Result<(Value, Errors), ConfigurationErrors> {
        let mut errors = Errors::default();
        read(bytes, &mut errors).map(|value| (value, errors))
    }

    #[test]
    fn a_struct_and_json_text_are_told_apart_whatever_their_length() {
        for length in 0..300 {
            let text = "x".repeat(length);
            let (value, _) = read_alone(&field("k", Kind::StringValue(text.clone()))).unwrap();
            assert_eq!(value, json!({"k": text}));
            let json = format!("\n{{\"k\": \"{text}\"}}");
            assert_eq!(read_alone(json.as_bytes()).unwrap().0, value);
        }
    }

    #[test]
    fn whole_doubles_of_a_struct_become_integers() {
        for (double, expected) in [(201.0, "201"), (-3.0, "-3"), (-0.0, "0"), (0.5, "0.5"), (1e300, "1e+300")] {
            let (value, errors) = read_alone(&field("k", Kind::NumberValue(double))).unwrap();
            assert_eq!(value["k"].to_string(), expected);
            assert!(errors.0.is_empty());
        }
    }

    #[test]
    fn a_number_of_a_struct_that_json_cannot_hold_is_refused() {
        let (_, errors) = read_alone(&field("k", Kind::NumberValue(f64::NAN))).unwrap();
        assert_eq!(errors.0[0].to_string(), "k: found NaN, expected a number that is finite");
    }

    #[test]
    fn every_repeated_key_is_found_with_its_path() {
        let (_, errors) = read_alone(br#"{"a": 1, "b": [{"c": 1, "c": 2}], "a": {"d": 1, "d": 2}}"#).unwrap();
        let paths: Vec<_> = errors.0.into_iter().map(|error| error.path).collect();
        assert_eq!(paths, ["b[0].c", "a.d", "a"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_line_and_column() {
        let cases: [(&[u8], &str); 6] = [
            (b"", "empty"),
            (b" \n\t", "empty"),
            (b"version: 1", "line 1 column 1"),
            (b"{\n  \"version\": 1,\n}", "line 3 column 1"),
            (b"{} {}", "trailing characters at line 1 column 4"),
            (b"{\"version\": \"\xff\"}", "line 1 column 14"),
        ];
        for (bytes, expected) in cases {
            let error = read_alone(bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused_in_both_forms() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let error = read_alone(deep.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("recursion limit"), "{error}");

        let mut kind = Kind::BoolValue(true);
        for _ in 0..200 {
            let value = prost_types::Value { kind: Some(kind) };
            kind = Kind::ListValue(prost_types::ListValue { values: vec![value] });
        }
        let error = read_alone(&field("k", kind)).unwrap_err().to_string();
        assert!(error.contains("recursion limit"), "{error}");
    }

    #[test]
    fn a_struct_that_is_cut_short_is_refused() {
        let bytes = field("key", Kind::StringValue("value".to_owned()));
        let error = read_alone(&bytes[..bytes.len() - 1]).unwrap_err().to_string();
        assert!(error.contains("begin like a Struct"), "{error}");
    }
}
