//! Answers, and how the gateway writes them: numbers of 64 bits as strings, bytes in base64, nothing that is empty.
//! Fields are etcd's, and so are their names.

use serde::{Serialize, Serializer};

use super::json::encode_bytes;
use super::store::Entry;

/// A number that is left out when it is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Int(pub i64);

/// Bytes that are left out when there are none.
#[derive(Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode_bytes(&self.0))
    }
}

/// Whether a field is left out.
fn absent<T: Empty>(value: &T) -> bool {
    value.is_empty()
}

trait Empty {
    fn is_empty(&self) -> bool;
}

impl Empty for Int {
    fn is_empty(&self) -> bool {
        self.0 == 0
    }
}

impl Empty for Bytes {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Empty for bool {
    fn is_empty(&self) -> bool {
        !self
    }
}

impl<T> Empty for Vec<T> {
    fn is_empty(&self) -> bool {
        Vec::is_empty(self)
    }
}

/// Who answers, and at which revision. Within a transaction there is at most the revision.
#[derive(Debug, Default, Serialize)]
pub struct Header {
    #[serde(skip_serializing_if = "absent")]
    pub cluster_id: Int,
    #[serde(skip_serializing_if = "absent")]
    pub member_id: Int,
    #[serde(skip_serializing_if = "absent")]
    pub revision: Int,
    #[serde(skip_serializing_if = "absent")]
    pub raft_term: Int,
}

/// Nothing but a header.
#[derive(Debug, Serialize)]
pub struct Done {
    pub header: Header,
}

/// Keys that were asked for.
#[derive(Debug, Serialize)]
pub struct Range {
    pub header: Header,
    #[serde(skip_serializing_if = "absent")]
    pub kvs: Vec<KeyValue>,
    #[serde(skip_serializing_if = "absent")]
    pub more: bool,
    #[serde(skip_serializing_if = "absent")]
    pub count: Int,
}

/// A key with what is under it.
#[derive(Debug, Serialize)]
pub struct KeyValue {
    #[serde(skip_serializing_if = "absent")]
    pub key: Bytes,
    pub create_revision: Int,
    pub mod_revision: Int,
    pub version: Int,
    #[serde(skip_serializing_if = "absent")]
    pub value: Bytes,
    #[serde(skip_serializing_if = "absent")]
    pub lease: Int,
}

impl KeyValue {
    /// Of an entry, with its value or without.
    pub fn of(key: &[u8], entry: &Entry, keys_only: bool) -> KeyValue {
        let value = if keys_only { Vec::new() } else { entry.value.clone() };
        KeyValue {
            key: Bytes(key.to_vec()),
            create_revision: Int(entry.create_revision),
            mod_revision: Int(entry.mod_revision),
            version: Int(entry.version),
            value: Bytes(value),
            lease: Int(entry.lease),
        }
    }
}

/// How many keys were removed.
#[derive(Debug, Serialize)]
pub struct DeleteRange {
    pub header: Header,
    #[serde(skip_serializing_if = "absent")]
    pub deleted: Int,
}

/// Which way a transaction went, and what came of it.
#[derive(Debug, Serialize)]
pub struct Txn {
    pub header: Header,
    #[serde(skip_serializing_if = "absent")]
    pub succeeded: bool,
    #[serde(skip_serializing_if = "absent")]
    pub responses: Vec<Response>,
}

/// What came of one operation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "they are etcd's names")]
pub enum Response {
    ResponseRange(Range),
    ResponsePut(Done),
    ResponseDeleteRange(DeleteRange),
    ResponseTxn(Txn),
}

/// A lease. What was not asked for is left out.
#[derive(Debug, Default, Serialize)]
pub struct Lease {
    pub header: Header,
    #[serde(rename = "ID", skip_serializing_if = "absent")]
    pub id: Int,
    #[serde(rename = "TTL", skip_serializing_if = "absent")]
    pub ttl_s: Int,
    #[serde(rename = "grantedTTL", skip_serializing_if = "absent")]
    pub granted_ttl_s: Int,
    #[serde(skip_serializing_if = "absent")]
    pub keys: Vec<Bytes>,
}

/// One answer of a stream of answers.
#[derive(Debug, Serialize)]
pub struct Streamed {
    pub result: Lease,
}

/// All leases.
#[derive(Debug, Serialize)]
pub struct Leases {
    pub header: Header,
    #[serde(skip_serializing_if = "absent")]
    pub leases: Vec<LeaseId>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub struct LeaseId {
    #[serde(rename = "ID")]
    pub id: Int,
}
