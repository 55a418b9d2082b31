//! The two forms of a configuration.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::value::Kind;
use serde_json::{Map, Number, Value};

/// `value` as a serialized `google.protobuf.Struct`, in which all numbers are doubles. None: it is no object.
pub fn to_struct(value: &Value) -> Option<Vec<u8>> {
    match kind_of(value) {
        Kind::StructValue(message) => Some(message.encode_to_vec()),
        _ => None,
    }
}

fn kind_of(value: &Value) -> Kind {
    let message = |value: &Value| prost_types::Value { kind: Some(kind_of(value)) };
    match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(prost_types::ListValue { values: items.iter().map(message).collect() }),
        Value::Object(entries) => {
            let fields: BTreeMap<_, _> = entries.iter().map(|(key, value)| (key.clone(), message(value))).collect();
            Kind::StructValue(prost_types::Struct { fields })
        }
    }
}

/// A serialized `google.protobuf.Struct` as JSON. None: it is none.
pub(crate) fn from_struct(bytes: &[u8]) -> Option<Value> {
    let message = prost_types::Struct::decode(bytes).ok()?;
    Some(json_of(Kind::StructValue(message)))
}

fn json_of(kind: Kind) -> Value {
    let value = |value: prost_types::Value| value.kind.map_or(Value::Null, json_of);
    match kind {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(value) => Value::Bool(value),
        Kind::StringValue(text) => Value::String(text),
        // Back in the Struct, both are the same double.
        Kind::NumberValue(number) if number.fract() == 0.0 && number.abs() < 1e15 => Value::from(number as i64),
        Kind::NumberValue(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        Kind::ListValue(list) => list.values.into_iter().map(value).collect(),
        Kind::StructValue(message) => {
            Value::Object(message.fields.into_iter().map(|(key, field)| (key, value(field))).collect::<Map<_, _>>())
        }
    }
}
