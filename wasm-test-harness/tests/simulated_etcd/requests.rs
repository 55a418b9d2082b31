//! Requests to draw: few keys, so that they meet, and everything that may be said of them.
//!
//! Revisions and leases are not known when a request is drawn. `@rev3` stands for the third revision of a sequence,
//! `@lease1` for the lease that was last granted under this number.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// Where a request goes, and what it says.
#[derive(Debug, Clone)]
pub struct Request {
    /// The path.
    pub path: &'static str,
    /// The body, with what it refers to.
    pub body: Value,
}

/// Numbers under which leases are granted.
pub const LEASES: i64 = 3;

/// One that is drawn.
pub fn request() -> impl Strategy<Value = Request> {
    let lease = || (0..LEASES).prop_map(|number| json!(format!("@lease{number}")));
    let of_lease = |paths: Vec<&'static str>| (select(paths), lease()).prop_map(|(path, id)| (path, json!({"ID": id})));
    let request = prop_oneof![
        4 => range().prop_map(|body| ("/v3/kv/range", body)),
        5 => put().prop_map(|body| ("/v3/kv/put", body)),
        2 => delete_range().prop_map(|body| ("/v3/kv/deleterange", body)),
        9 => txn(3).prop_map(|body| ("/v3/kv/txn", body)),
        2 => (60..70i64).prop_map(|ttl| ("/v3/lease/grant", json!({"TTL": ttl.to_string()}))),
        1 => (lease(), 60..70i64).prop_map(|(id, ttl)| ("/v3/lease/grant", json!({"TTL": ttl, "ID": id}))),
        1 => of_lease(vec!["/v3/lease/revoke", "/v3/kv/lease/revoke"]),
        1 => of_lease(vec!["/v3/lease/keepalive"]),
        1 => (select(vec!["/v3/lease/timetolive", "/v3/kv/lease/timetolive"]), lease(), any::<bool>())
            .prop_map(|(path, id, keys)| (path, json!({"ID": id, "keys": keys}))),
        1 => select(vec!["/v3/lease/leases", "/v3/kv/lease/leases"]).prop_map(|path| (path, json!({}))),
        1 => revision().prop_map(|revision| ("/v3/kv/compaction", json!({"revision": revision}))),
    ];
    request.prop_map(|(path, body)| Request { path, body })
}

fn encoded(bytes: &[u8]) -> Value {
    json!(STANDARD.encode(bytes))
}

fn key() -> impl Strategy<Value = Value> {
    let keys: [&[u8]; 6] = [b"\0", b"a", b"a\0", b"ab", b"b", b"\xff"];
    prop_oneof![40 => select(keys.to_vec()).prop_map(encoded), 1 => Just(json!(""))]
}

fn range_end() -> impl Strategy<Value = Value> {
    let ends: [&[u8]; 5] = [b"\0", b"a", b"ac", b"c", b"\xff\xff"];
    prop_oneof![3 => Just(Value::Null), 4 => select(ends.to_vec()).prop_map(encoded)]
}

fn value() -> impl Strategy<Value = Value> {
    let values: [&[u8]; 4] = [b"", b"x", b"y", b"yy"];
    select(values.to_vec()).prop_map(encoded)
}

fn revision() -> impl Strategy<Value = Value> {
    prop_oneof![20 => (0..14i64).prop_map(|number| json!(format!("@rev{number}"))), 1 => Just(json!("-2"))]
}

fn put() -> impl Strategy<Value = Value> {
    let lease = prop_oneof![
        2 => Just(Value::Null),
        1 => (0..LEASES).prop_map(|number| json!(format!("@lease{number}"))),
    ];
    (key(), value(), lease).prop_map(|(key, value, lease)| json!({"key": key, "value": value, "lease": lease}))
}

fn delete_range() -> impl Strategy<Value = Value> {
    (key(), range_end()).prop_map(|(key, end)| json!({"key": key, "range_end": end}))
}

fn range() -> impl Strategy<Value = Value> {
    let revision = prop_oneof![3 => Just(Value::Null), 1 => revision()];
    let order = select(vec![Value::Null, Value::Null, json!("ASCEND"), json!("NONE"), json!(1)]);
    let flag = || prop_oneof![3 => Just(Value::Null), 1 => any::<bool>().prop_map(Value::from)];
    (key(), range_end(), -1..5i64, revision, order, flag(), flag()).prop_map(
        |(key, end, limit, revision, order, keys_only, count_only)| {
            json!({"key": key, "range_end": end, "limit": limit.to_string(), "revision": revision, "sort_order": order,
                "keys_only": keys_only, "count_only": count_only})
        },
    )
}

fn compare() -> impl Strategy<Value = Value> {
    let fields = ["VERSION/version", "CREATE/create_revision", "MOD/mod_revision", "LEASE/lease", "VALUE/value"];
    let mixed = ["MOD/version", "VALUE/lease", "LEASE/value", "VERSION/none", "VALUE/none"];
    let field = prop_oneof![9 => select(fields.to_vec()), 1 => select(mixed.to_vec())];
    let result = select(vec!["EQUAL", "EQUAL", "GREATER", "LESS", "NOT_EQUAL"]);
    (key(), field, result, revision(), value(), 0..4i64, 0..LEASES).prop_map(
        |(key, field, result, revision, value, number, lease)| {
            let (target, field) = field.split_once('/').expect("they are pairs");
            let operand = match field {
                "version" => json!(number),
                "lease" if number == 0 => json!("0"),
                "lease" => json!(format!("@lease{lease}")),
                "value" => value,
                _ if number == 0 => json!(0),
                _ => revision,
            };
            let mut compare = json!({"key": key, "target": target, "result": result});
            compare[field] = operand;
            compare
        },
    )
}

fn txn(depth: u32) -> BoxedStrategy<Value> {
    let plain = prop_oneof![
        3 => range().prop_map(|body| json!({"request_range": body})),
        5 => put().prop_map(|body| json!({"request_put": body})),
        3 => delete_range().prop_map(|body| json!({"request_delete_range": body})),
    ];
    let operation = if depth == 0 {
        plain.boxed()
    } else {
        let nested = txn(depth - 1).prop_map(|body| json!({"request_txn": body}));
        prop_oneof![60 => plain, 30 => nested, 1 => Just(json!({}))].boxed()
    };
    let operations = || prop::collection::vec(operation.clone(), 0..4);
    (prop::collection::vec(compare(), 0..3), operations(), operations())
        .prop_map(|(compare, success, failure)| json!({"compare": compare, "success": success, "failure": failure}))
        .boxed()
}

/// A body with what it refers to put in.
pub fn resolved(body: &Value, refer: &dyn Fn(&str) -> Option<String>) -> Value {
    match body {
        Value::String(text) => text.strip_prefix('@').and_then(refer).map_or_else(|| body.clone(), Value::String),
        Value::Array(list) => list.iter().map(|one| resolved(one, refer)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), resolved(value, refer)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        _ => body.clone(),
    }
}
