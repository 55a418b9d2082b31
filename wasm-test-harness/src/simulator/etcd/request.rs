//! Requests, and how they are read.

use serde_json::value::RawValue;

use super::json::{self, Fields};
use super::refusal::Refusal;

/// What it takes to read a message.
pub trait Request: Sized {
    /// From its fields.
    fn read(fields: &Fields) -> Result<Self, Refusal>;
}

/// Asks for keys.
#[derive(Debug, Default)]
pub struct Range {
    /// The first key, or the only one.
    pub key: Vec<u8>,
    /// The key after the last one; empty for a single key, a zero byte for all that follow.
    pub range_end: Vec<u8>,
    /// At most so many; all, unless it is positive.
    pub limit: i64,
    /// As it was at this revision; as it is now, unless it is positive.
    pub revision: i64,
    /// 0 for none, 1 for ascending.
    pub sort_order: i64,
    /// Whether it may be answered by a member that lags behind.
    pub serializable: bool,
    /// Without values.
    pub keys_only: bool,
    /// Without keys.
    pub count_only: bool,
}

/// Sets a key.
#[derive(Debug)]
pub struct Put {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The lease with which it ends, or 0.
    pub lease: i64,
}

/// Removes keys.
#[derive(Debug)]
pub struct DeleteRange {
    /// The first key, or the only one.
    pub key: Vec<u8>,
    /// As in [`Range::range_end`].
    pub range_end: Vec<u8>,
}

/// Does one thing or another.
#[derive(Debug)]
pub struct Txn {
    /// What has to hold.
    pub compare: Vec<Compare>,
    /// What is done if all of it holds.
    pub success: Vec<Operation>,
    /// What is done otherwise.
    pub failure: Vec<Operation>,
}

/// One thing that a transaction does.
#[derive(Debug)]
pub enum Operation {
    /// None that there is.
    Empty,
    /// Asks for keys.
    Range(Range),
    /// Sets a key.
    Put(Put),
    /// Removes keys.
    DeleteRange(DeleteRange),
    /// Does one thing or another, within the same transaction.
    Txn(Txn),
}

/// What is said of a key.
#[derive(Debug)]
pub struct Compare {
    /// The key.
    pub key: Vec<u8>,
    /// The number of what of it is compared: an index of `TARGETS`.
    pub target: i64,
    /// The number of how: an index of `RESULTS`.
    pub result: i64,
    /// With what. It should be of the target's kind, but need not.
    pub operand: Option<Operand>,
}

/// What is compared with.
#[derive(Debug)]
pub enum Operand {
    /// With how often it was set.
    Version(i64),
    /// With when it came to be.
    CreateRevision(i64),
    /// With when it was last set.
    ModRevision(i64),
    /// With its value.
    Value(Vec<u8>),
    /// With its lease.
    Lease(i64),
}

/// A lease's id, and what else is said of it.
#[derive(Debug)]
pub struct OfLease {
    /// The lease; for a grant, 0 for one that etcd chooses.
    pub id: i64,
    /// For how many seconds, in a grant.
    pub ttl_s: i64,
    /// Whether to tell its keys.
    pub keys: bool,
}

/// Forgets what was before a revision.
#[derive(Debug)]
pub struct Compaction {
    /// The oldest revision that is kept.
    pub revision: i64,
}

/// A request of which nothing matters but that it can be read.
#[derive(Debug)]
pub struct Any;

const RESULTS: [&str; 4] = ["EQUAL", "GREATER", "LESS", "NOT_EQUAL"];
const TARGETS: [&str; 5] = ["VERSION", "CREATE", "MOD", "VALUE", "LEASE"];
const SORT_ORDERS: [&str; 3] = ["NONE", "ASCEND", "DESCEND"];
const SORT_TARGETS: [&str; 5] = ["KEY", "VERSION", "CREATE", "MOD", "VALUE"];

/// Reads a body; an empty one is a message without fields.
pub fn read<R: Request>(body: &[u8]) -> Result<R, Refusal> {
    match json::first_value(body).map_err(Refusal::malformed)? {
        Some(value) => read_value(value),
        None => R::read(&Fields::default()),
    }
}

fn read_value<R: Request>(value: &RawValue) -> Result<R, Refusal> {
    R::read(&Fields::of(value).map_err(Refusal::malformed)?)
}

fn without(fields: &Fields, names: &[&'static str]) -> Result<(), Refusal> {
    fields.any_of(names).map_or(Ok(()), |name| Err(Refusal::not_simulated(name)))
}

impl Request for Range {
    fn read(fields: &Fields) -> Result<Range, Refusal> {
        without(fields, &["min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"])?;
        let read = || {
            let key = fields.bytes("key")?;
            let range_end = fields.bytes("range_end")?;
            let limit = fields.int("limit")?;
            let revision = fields.int("revision")?;
            let sort_order = fields.choice("sort_order", "etcdserverpb.RangeRequest_SortOrder", &SORT_ORDERS)?;
            let sort_target = fields.choice("sort_target", "etcdserverpb.RangeRequest_SortTarget", &SORT_TARGETS)?;
            let serializable = fields.flag("serializable")?;
            let keys_only = fields.flag("keys_only")?;
            let count_only = fields.flag("count_only")?;
            let range = Range { key, range_end, limit, revision, sort_order, serializable, keys_only, count_only };
            Ok((range, sort_target))
        };
        let (range, sort_target) = read().map_err(Refusal::malformed)?;
        match (range.sort_order, sort_target) {
            (0 | 1, 0) => Ok(range),
            _ => Err(Refusal::not_simulated("sort_order but ASCEND, and no sort_target but KEY")),
        }
    }
}

impl Request for Put {
    fn read(fields: &Fields) -> Result<Put, Refusal> {
        without(fields, &["prev_kv", "ignore_value", "ignore_lease"])?;
        let read = || Ok(Put { key: fields.bytes("key")?, value: fields.bytes("value")?, lease: fields.int("lease")? });
        read().map_err(Refusal::malformed)
    }
}

impl Request for DeleteRange {
    fn read(fields: &Fields) -> Result<DeleteRange, Refusal> {
        without(fields, &["prev_kv"])?;
        let read = || Ok(DeleteRange { key: fields.bytes("key")?, range_end: fields.bytes("range_end")? });
        read().map_err(Refusal::malformed)
    }
}

impl Request for Txn {
    fn read(fields: &Fields) -> Result<Txn, Refusal> {
        Ok(Txn {
            compare: read_all(fields, "compare")?,
            success: read_all(fields, "success")?,
            failure: read_all(fields, "failure")?,
        })
    }
}

fn read_all<R: Request>(fields: &Fields, name: &str) -> Result<Vec<R>, Refusal> {
    fields.list(name).map_err(Refusal::malformed)?.into_iter().map(read_value).collect()
}

impl Request for Operation {
    fn read(fields: &Fields) -> Result<Operation, Refusal> {
        if let Some(range) = fields.value("request_range") {
            return read_value(range).map(Operation::Range);
        }
        if let Some(put) = fields.value("request_put") {
            return read_value(put).map(Operation::Put);
        }
        if let Some(delete) = fields.value("request_delete_range") {
            return read_value(delete).map(Operation::DeleteRange);
        }
        fields.value("request_txn").map_or(Ok(Operation::Empty), |txn| read_value(txn).map(Operation::Txn))
    }
}

impl Request for Compare {
    fn read(fields: &Fields) -> Result<Compare, Refusal> {
        without(fields, &["range_end"])?;
        let number = |name: &str| fields.value(name).map(|value| json::int(value, "int64")).transpose();
        let read = || {
            let result = fields.choice("result", "etcdserverpb.Compare_CompareResult", &RESULTS)?;
            let target = fields.choice("target", "etcdserverpb.Compare_CompareTarget", &TARGETS)?;
            let key = fields.bytes("key")?;
            let version = number("version")?.map(Operand::Version);
            let created = number("create_revision")?.map(Operand::CreateRevision);
            let modified = number("mod_revision")?.map(Operand::ModRevision);
            let lease = number("lease")?.map(Operand::Lease);
            let value = fields.value("value").map(json::bytes).transpose()?.map(Operand::Value);
            let operand = version.or(created).or(modified).or(lease).or(value);
            Ok(Compare { key, target, result, operand })
        };
        read().map_err(Refusal::malformed)
    }
}

impl Request for OfLease {
    fn read(fields: &Fields) -> Result<OfLease, Refusal> {
        let read = || Ok(OfLease { ttl_s: fields.int("TTL")?, id: fields.int("ID")?, keys: fields.flag("keys")? });
        read().map_err(Refusal::malformed)
    }
}

impl Request for Compaction {
    fn read(fields: &Fields) -> Result<Compaction, Refusal> {
        fields.int("revision").map(|revision| Compaction { revision }).map_err(Refusal::malformed)
    }
}

impl Request for Any {
    fn read(_: &Fields) -> Result<Any, Refusal> {
        Ok(Any)
    }
}
