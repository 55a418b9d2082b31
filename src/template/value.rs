//! JSON to CEL values and back, and values as text.

use std::collections::HashMap;

use cel::Value;
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::Val;
use serde_json::{Map, Number, Value as Json};

use super::digits::{Digits, is_exactly};

/// `json` as a CEL value that borrows its texts. Whole numbers that fit 64 bits are `int`, others `double`; what neither
/// holds exactly is passed on, but nothing can be computed with it.
pub(super) fn from_json(json: &Json) -> Box<dyn Val + '_> {
    match json {
        Json::Null => Box::new(CelNull),
        Json::Bool(value) => Box::new(CelBool::from(*value)),
        Json::Number(number) => from_number(number),
        Json::String(text) => Box::new(CelString::from(text.as_str())),
        Json::Array(items) => {
            let items: Vec<Box<dyn Val + '_>> = items.iter().map(from_json).collect();
            Box::new(CelList::from(items))
        }
        Json::Object(fields) => from_fields(fields),
    }
}

fn from_number(number: &Number) -> Box<dyn Val> {
    if let Some(value) = number.as_i64() {
        return Box::new(CelInt::from(value));
    }
    let digits = number.to_string();
    match number.as_f64().filter(|double| is_exactly(*double, &digits)) {
        Some(double) => Box::new(CelDouble::from(double)),
        None => Digits(digits).into_value(),
    }
}

/// The same, of an object's fields.
pub(super) fn from_fields(fields: &Map<String, Json>) -> Box<dyn Val + '_> {
    let fields: HashMap<CelMapKey<'_>, Box<dyn Val + '_>> =
        fields.iter().map(|(name, value)| (CelMapKey::from(name.as_str()), from_json(value))).collect();
    Box::new(CelMap::from(fields))
}

/// What it costs to copy a value, in units of about one small allocation.
pub(super) fn weight(json: &Json) -> i64 {
    match json {
        Json::String(text) => 1 + i64::try_from(text.len() / 64).unwrap_or(i64::MAX / 2),
        Json::Array(items) => items.iter().map(weight).fold(1, i64::saturating_add),
        Json::Object(fields) => fields.values().map(weight).fold(1, i64::saturating_add),
        _ => 1,
    }
}

/// A CEL value as JSON, or why it is none.
pub(super) fn to_json(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::UInt(value) => Json::from(*value),
        Value::Float(value) => {
            Json::Number(Number::from_f64(*value).ok_or_else(|| format!("{value} is no number in JSON"))?)
        }
        Value::String(text) => Json::String(text.as_str().to_owned()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        Value::Map(map) => {
            // In order, as a call that is sent again must be the same call.
            let mut fields: Vec<(String, &Value)> =
                map.map.iter().map(|(key, value)| (key.to_string(), value)).collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            let fields = fields.into_iter().map(|(name, value)| Ok((name, to_json(value)?)));
            Json::Object(fields.collect::<Result<_, String>>()?)
        }
        other => match Digits::of(other) {
            Some(digits) => Json::Number(digits.0.parse().map_err(|_| format!("{} is no number in JSON", digits.0))?),
            None => return Err(format!("{} cannot be sent as JSON", kind(other))),
        },
    })
}

/// A value as text, or why it has none: null, lists and maps are mistakes more often than they are wanted.
pub(super) fn to_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.as_str().to_owned()),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Int(value) => Ok(value.to_string()),
        Value::UInt(value) => Ok(value.to_string()),
        Value::Float(value) if value.is_finite() => Ok(double_to_text(*value)),
        other => match Digits::of(other) {
            Some(digits) => Ok(digits.0.clone()),
            None => Err(format!("{} cannot be put into text", kind(other))),
        },
    }
}

/// The same for JSON that was read by its bare path, and is passed on as it came.
pub(super) fn json_to_text(value: &Json) -> Result<String, String> {
    match value {
        Json::String(text) => Ok(text.clone()),
        Json::Bool(value) => Ok(value.to_string()),
        Json::Number(number) => Ok(number.to_string()),
        Json::Null => Err("null cannot be put into text".to_owned()),
        Json::Array(_) => Err("a list cannot be put into text".to_owned()),
        Json::Object(_) => Err("a map cannot be put into text".to_owned()),
    }
}

/// As CEL's `string()` writes it.
fn double_to_text(value: f64) -> String {
    CelDouble::from(value).to_string()
}

/// What a value is, for messages: they name types, not what a client sent.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Int(_) | Value::UInt(_) => "a whole number",
        Value::Float(value) if value.is_finite() => "a double",
        Value::Float(_) => "a number that is not finite",
        Value::String(_) => "a text",
        Value::Bytes(_) => "bytes",
        Value::List(_) => "a list",
        Value::Map(_) => "a map",
        digits if Digits::of(digits).is_some() => "a number that neither an int nor a double holds exactly",
        Value::Opaque(_) => "an optional (see `orValue`)",
        _ => "this value",
    }
}
