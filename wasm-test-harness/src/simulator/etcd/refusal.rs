//! What etcd says when it does not do what it is asked.

use std::borrow::Cow;

use serde_json::json;

/// A refusal: a code of gRPC, and a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    code: u8,
    text: Cow<'static, str>,
}

const UNKNOWN: u8 = 2;
const INVALID_ARGUMENT: u8 = 3;
const NOT_FOUND: u8 = 5;
const RESOURCE_EXHAUSTED: u8 = 8;
const FAILED_PRECONDITION: u8 = 9;
const OUT_OF_RANGE: u8 = 11;
const UNIMPLEMENTED: u8 = 12;
const UNAVAILABLE: u8 = 14;
const UNAUTHENTICATED: u8 = 16;

impl Refusal {
    /// A key is empty.
    pub const EMPTY_KEY: Refusal = Refusal::fixed(INVALID_ARGUMENT, "etcdserver: key is not provided");
    /// An operation of a transaction is none of those that there are.
    pub const EMPTY_OPERATION: Refusal = Refusal::fixed(INVALID_ARGUMENT, "etcdserver: key not found");
    /// A transaction writes a key twice.
    pub const DUPLICATE_KEY: Refusal =
        Refusal::fixed(INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request");
    /// A transaction has too many operations.
    pub const TOO_MANY_OPERATIONS: Refusal =
        Refusal::fixed(INVALID_ARGUMENT, "etcdserver: too many operations in txn request");
    /// What is to be agreed on is more than a member sends to another.
    pub const TOO_LARGE: Refusal = Refusal::fixed(INVALID_ARGUMENT, "etcdserver: request is too large");
    /// The quota is used up.
    pub const NO_SPACE: Refusal = Refusal::fixed(RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded");
    /// There is no such lease.
    pub const NO_LEASE: Refusal = Refusal::fixed(NOT_FOUND, "etcdserver: requested lease not found");
    /// There is a lease with this id.
    pub const LEASE_EXISTS: Refusal = Refusal::fixed(FAILED_PRECONDITION, "etcdserver: lease already exists");
    /// No lease may be this long.
    pub const LEASE_TOO_LONG: Refusal = Refusal::fixed(OUT_OF_RANGE, "etcdserver: too large lease TTL");
    /// A revision that is not yet.
    pub const FUTURE_REVISION: Refusal =
        Refusal::fixed(OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision");
    /// A revision that is no longer kept.
    pub const COMPACTED: Refusal =
        Refusal::fixed(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted");
    /// Nobody has to say who they are.
    pub const NO_AUTHENTICATION: Refusal =
        Refusal::fixed(FAILED_PRECONDITION, "etcdserver: authentication is not enabled");
    /// The user or the password is wrong.
    pub const AUTHENTICATION_FAILED: Refusal =
        Refusal::fixed(INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password");
    /// A call says nothing of who makes it.
    pub const NO_USER: Refusal = Refusal::fixed(INVALID_ARGUMENT, "etcdserver: user name is empty");
    /// A token that is none, or not any more.
    pub const INVALID_TOKEN: Refusal = Refusal::fixed(UNAUTHENTICATED, "etcdserver: invalid auth token");
    /// The members have not agreed in time: whether it was done, or will be, nobody knows.
    pub const TIMED_OUT: Refusal = Refusal::fixed(UNAVAILABLE, "etcdserver: request timed out");
    /// The member that was asked has lost its leader meanwhile: the same.
    pub const LEADER_CHANGED: Refusal = Refusal::fixed(UNAVAILABLE, "etcdserver: leader changed");

    const fn fixed(code: u8, text: &'static str) -> Refusal {
        Refusal { code, text: Cow::Borrowed(text) }
    }

    /// A body that cannot be read.
    pub fn malformed(text: String) -> Refusal {
        Refusal { code: INVALID_ARGUMENT, text: text.into() }
    }

    /// A body that cannot be read, of a request that is a stream of requests: there, the gateway says no more than that
    /// something was wrong.
    pub fn malformed_in_stream(text: String) -> Refusal {
        Refusal { code: UNKNOWN, text: text.into() }
    }

    /// A message of so many bytes is more than a server of gRPC takes.
    pub fn too_large_for_grpc(bytes: usize, limit_bytes: usize) -> Refusal {
        let text = format!("grpc: received message larger than max ({bytes} vs. {limit_bytes})");
        Refusal { code: RESOURCE_EXHAUSTED, text: text.into() }
    }

    /// The real one can do this, the simulated one cannot.
    pub fn not_simulated(field: &str) -> Refusal {
        Refusal { code: UNIMPLEMENTED, text: format!("the simulated etcd has no {field}").into() }
    }

    /// The status and the body of its answer.
    pub fn answer(&self) -> (u16, Vec<u8>) {
        let status = match self.code {
            INVALID_ARGUMENT | OUT_OF_RANGE => 400,
            NOT_FOUND => 404,
            FAILED_PRECONDITION => 412,
            RESOURCE_EXHAUSTED => 429,
            UNAUTHENTICATED => 401,
            UNIMPLEMENTED => 501,
            UNAVAILABLE => 503,
            _ => 500,
        };
        let body = json!({"error": self.text, "message": self.text, "code": self.code});
        (status, body.to_string().into_bytes())
    }
}
