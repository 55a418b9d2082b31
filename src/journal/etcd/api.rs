//! What is said to etcd, and what it says: the JSON gateway of etcd 3.4 and newer.
//!
//! Source: etcd's `rpc.proto`, in its JSON form: bytes are base64, 64-bit integers are strings, what is zero is left out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Of a transaction.
pub(super) const TXN: &str = "/v3/kv/txn";
/// Of a grant of a lease.
pub(super) const GRANT: &str = "/v3/lease/grant";
/// Of a keepalive of a lease.
pub(super) const KEEPALIVE: &str = "/v3/lease/keepalive";
/// Of an authentication.
pub(super) const AUTHENTICATE: &str = "/v3/auth/authenticate";

/// Keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl From<&str> for Bytes {
    fn from(text: &str) -> Bytes {
        Bytes(text.as_bytes().to_vec())
    }
}

impl Bytes {
    /// As text; what is not UTF-8 was not written by this program.
    pub(super) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes).map_err(D::Error::custom)
    }
}

/// A 64-bit integer, as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Int(pub(super) i64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Int, D::Error> {
        struct IntVisitor;
        impl Visitor<'_> for IntVisitor {
            type Value = Int;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a 64-bit integer, as text or as a number")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Int, E> {
                text.parse().map(Int).map_err(E::custom)
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Int, E> {
                Ok(Int(number))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<Int, E> {
                i64::try_from(number).map(Int).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(IntVisitor)
    }
}

/// A transaction: its requests are all done or none, by what the comparisons come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Txn {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) compare: Vec<Compare>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) success: Vec<Request>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) failure: Vec<Request>,
}

/// A comparison of a key with what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Compare {
    key: Bytes,
    result: &'static str,
    #[serde(flatten)]
    target: Target,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "target")]
enum Target {
    #[serde(rename = "CREATE")]
    Create { create_revision: Int },
    #[serde(rename = "MOD")]
    Mod { mod_revision: Int },
}

impl Compare {
    /// The key was made at this revision; 0: there is none.
    pub(super) fn created(key: &str, revision: i64) -> Compare {
        Compare { key: key.into(), result: "EQUAL", target: Target::Create { create_revision: Int(revision) } }
    }

    /// The key was written last at this revision.
    pub(super) fn unchanged(key: &str, revision: i64) -> Compare {
        Compare { key: key.into(), result: "EQUAL", target: Target::Mod { mod_revision: Int(revision) } }
    }
}

/// One request of a transaction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) enum Request {
    #[serde(rename = "request_range")]
    Range(Range),
    #[serde(rename = "request_put")]
    Put(Put),
    #[serde(rename = "request_delete_range")]
    Delete(Range),
    #[serde(rename = "request_txn")]
    Txn(Txn),
}

/// Some keys, in their order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Range {
    key: Bytes,
    #[serde(skip_serializing_if = "is_empty")]
    range_end: Bytes,
    #[serde(skip_serializing_if = "is_zero")]
    limit: Int,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    keys_only: bool,
}

/// A write.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Put {
    key: Bytes,
    value: Bytes,
    #[serde(skip_serializing_if = "is_zero")]
    lease: Int,
}

// As serde wants them.
fn is_empty(bytes: &Bytes) -> bool {
    bytes.0.is_empty()
}
fn is_zero(int: &Int) -> bool {
    int.0 == 0
}

impl Request {
    /// Reads one key.
    pub(super) fn get(key: &str) -> Request {
        Request::Range(Range { key: key.into(), ..Range::default() })
    }

    /// Reads one key without its value.
    pub(super) fn look(key: &str) -> Request {
        Request::Range(Range { key: key.into(), keys_only: true, ..Range::default() })
    }

    /// Reads the keys under a prefix that ends with a slash: those after `after`, if it is given, and at most `limit`.
    pub(super) fn list(prefix: &str, after: Option<&str>, limit: Option<u32>, keys_only: bool) -> Request {
        // The next key after a key is the same with a byte more.
        let from = after.map_or_else(|| prefix.to_owned(), |after| format!("{after}\0"));
        let limit = Int(limit.map_or(0, i64::from));
        Request::Range(Range { key: from.as_str().into(), range_end: end_of(prefix), limit, keys_only })
    }

    /// Deletes one key.
    pub(super) fn delete(key: &str) -> Request {
        Request::Delete(Range { key: key.into(), ..Range::default() })
    }

    /// Deletes the keys under a prefix that ends with a slash.
    pub(super) fn delete_under(prefix: &str) -> Request {
        Request::Delete(Range { key: prefix.into(), range_end: end_of(prefix), ..Range::default() })
    }

    /// Writes a key, which goes with the lease if one is given.
    pub(super) fn put(key: &str, value: Vec<u8>, lease: Option<i64>) -> Request {
        Request::Put(Put { key: key.into(), value: Bytes(value), lease: Int(lease.unwrap_or(0)) })
    }
}

/// The first key behind all keys that begin with `prefix`.
fn end_of(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    Bytes(end)
}

/// Asks for a lease.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Grant {
    /// Seconds.
    #[serde(rename = "TTL")]
    pub(super) ttl: Int,
}

/// Asks for a lease to live on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct KeepAlive {
    #[serde(rename = "ID")]
    pub(super) id: Int,
}

/// Asks for a token.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Authenticate<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// A token.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Authenticated {
    pub(super) token: String,
}

/// A lease, as it was granted or lives on. Without a TTL it does not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Lease {
    #[serde(rename = "ID")]
    pub(super) id: Int,
    #[serde(rename = "TTL")]
    pub(super) ttl: Int,
}

/// The first and only answer of a stream of them.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Streamed<T> {
    pub(super) result: T,
}

/// What has become of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TxnAnswer {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    pub(super) responses: Vec<Response>,
}

/// Of an answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) revision: Int,
}

/// What has become of one request of a transaction. Puts and deletions say nothing that matters.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Response {
    response_range: Option<Ranged>,
    response_txn: Option<TxnAnswer>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Ranged {
    kvs: Vec<KeyValue>,
}

/// A key with its value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) create_revision: Int,
    pub(super) mod_revision: Int,
    pub(super) lease: Int,
}

impl TxnAnswer {
    /// What the `index`th request found, where it was a range.
    pub(super) fn found(&self, index: usize) -> &[KeyValue] {
        let range = self.responses.get(index).and_then(|response| response.response_range.as_ref());
        range.map_or(&[], |range| range.kvs.as_slice())
    }

    /// What has become of the `index`th request, where it was a transaction.
    pub(super) fn nested(&self, index: usize) -> Option<&TxnAnswer> {
        self.responses.get(index).and_then(|response| response.response_txn.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_transaction_is_said_as_the_gateway_reads_it() {
        let txn = Txn {
            compare: vec![Compare::created("a", 0), Compare::unchanged("b", 7)],
            success: vec![Request::put("a", b"1".to_vec(), Some(5)), Request::delete_under("p/")],
            failure: vec![Request::get("a"), Request::list("p/", Some("p/k"), Some(2), true)],
        };
        let said = serde_json::to_value(Request::Txn(txn)).unwrap();
        let expected = json!({"request_txn": {
            "compare": [{"key": "YQ==", "result": "EQUAL", "target": "CREATE", "create_revision": "0"},
                        {"key": "Yg==", "result": "EQUAL", "target": "MOD", "mod_revision": "7"}],
            "success": [{"request_put": {"key": "YQ==", "value": "MQ==", "lease": "5"}},
                        {"request_delete_range": {"key": "cC8=", "range_end": "cDA="}}],
            "failure": [{"request_range": {"key": "YQ=="}},
                        {"request_range": {"key": "cC9rAA==", "range_end": "cDA=", "limit": "2", "keys_only": true}}],
        }});
        assert_eq!(said, expected);
    }

    #[test]
    fn what_is_left_out_of_an_answer_is_zero() {
        let text = r#"{"header": {"revision": "9"}, "succeeded": true, "responses": [
            {"response_txn": {"header": {}, "responses": [{"response_range": {"header": {"revision": "9"}}}]}},
            {"response_put": {}}]}"#;
        let answer: TxnAnswer = serde_json::from_str(text).unwrap();
        let nested = answer.nested(0).unwrap();
        assert!(!nested.succeeded && nested.found(0).is_empty() && nested.found(1).is_empty());
        assert!(answer.nested(1).is_none() && answer.nested(2).is_none());
        assert_eq!(answer.header.revision, Int(9));
        let gone: Streamed<Lease> = serde_json::from_str(r#"{"result": {"ID": "99"}}"#).unwrap();
        assert_eq!((gone.result.id, gone.result.ttl), (Int(99), Int(0)));
    }
}
