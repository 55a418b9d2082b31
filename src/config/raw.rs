//! A configuration as it is written: which fields there are, and of what kind. What they mean is checked elsewhere.
//!
//! The JSON Schema is generated from these types, with these comments as its descriptions. Every field is optional here,
//! so that what is missing is told together with all other errors.

use std::collections::BTreeMap;

use deserr::Deserr;
#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde_json::Value;

use super::located::{Faults, Located};
use super::scalar::{Period, Size, Whole};

/// Header names and values.
pub(super) type RawHeaders = BTreeMap<String, Located<String>>;

/// Fields of a form by name: templates, numbers or booleans.
pub(super) type RawForm = BTreeMap<String, Located<Value>>;

/// The configuration of Sagabox.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Sagabox"))]
pub(super) struct RawConfiguration {
    /// The version of this format: 1.
    #[cfg_attr(feature = "schema", schemars(required, range(min = 1, max = 1)))]
    #[deserr(default)]
    pub(super) version: Option<Located<Whole>>,
    /// What this instance of the filter does. Default: `coordinator`.
    #[deserr(default)]
    pub(super) role: Option<Located<RawRole>>,
    /// Of a coordinator: `true` where `allow_on_headers_stop_iteration` is not set and an instance with `role: gate`
    /// follows; held headers are then let through to it. Default: `false`.
    #[deserr(default)]
    pub(super) gate: Option<Located<bool>>,
    /// Saga definitions; the first whose `match` holds is taken. Default: none.
    #[deserr(default)]
    pub(super) sagas: Option<Located<Vec<Located<RawSaga>>>>,
    /// Where sagas are kept. Default: in the shared data of the proxy process.
    #[deserr(default)]
    pub(super) journal: Option<Located<RawJournal>>,
    /// Bounds of what one worker holds.
    #[deserr(default)]
    pub(super) limits: Option<Located<RawLimits>>,
    /// Request headers to copy to every call, besides the trace headers, which always are. Default: none.
    #[deserr(default)]
    pub(super) forward_headers: Option<Located<Vec<Located<String>>>>,
}

/// What an instance of the filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Faults, rename_all = lowercase)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(inline, rename = "Role", rename_all = "lowercase"))]
pub(super) enum RawRole {
    /// Takes requests and runs their sagas.
    Coordinator,
    /// The second instance of a pair: holds back requests that the first one took. Takes no other fields.
    Gate,
}

/// Where sagas are kept.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Journal"))]
pub(super) struct RawJournal {
    /// In etcd, where they outlive the proxy's process and its node. Without it: in the shared data of the process.
    #[deserr(default)]
    pub(super) etcd: Option<Located<RawEtcd>>,
}

/// A journal in etcd.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Etcd"))]
pub(super) struct RawEtcd {
    /// Envoy cluster of etcd's client URLs.
    #[cfg_attr(feature = "schema", schemars(required))]
    #[deserr(default)]
    pub(super) cluster: Option<Located<String>>,
    /// What every key begins with. Default: `sagabox`.
    #[deserr(default)]
    pub(super) prefix: Option<Located<String>>,
    /// So long after the end of a proxy its sagas are taken over; at least `2s`. etcd may grant more. Default: `10s`.
    #[deserr(default)]
    pub(super) lease: Option<Located<Period>>,
    /// Of one call to etcd. Default: `1s`.
    #[deserr(default)]
    pub(super) timeout: Option<Located<Period>>,
    /// What becomes of sagas without owner. Default: `take-over`.
    #[deserr(default)]
    pub(super) recovery: Option<Located<RawRecovery>>,
    /// User of etcd, where it has authentication. Default: none.
    #[deserr(default)]
    pub(super) username: Option<Located<String>>,
    /// The user's password. Default: none.
    #[deserr(default)]
    pub(super) password: Option<Located<String>>,
}

/// What becomes of sagas without owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserr)]
#[deserr(error = Faults, rename_all = lowercase)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(inline, rename = "Recovery"))]
pub(super) enum RawRecovery {
    /// They are taken over.
    #[deserr(rename = "take-over")]
    #[cfg_attr(feature = "schema", schemars(rename = "take-over"))]
    TakeOver,
    /// They stay where they are: for the time after etcd was restored from an old snapshot.
    #[deserr(rename = "hold")]
    #[cfg_attr(feature = "schema", schemars(rename = "hold"))]
    Hold,
}

/// Bounds of what one worker holds.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Limits"))]
pub(super) struct RawLimits {
    /// Sagas in flight; past it 503 with `retry-after`. Default: 10000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 4294967295_u32)))]
    #[deserr(default)]
    pub(super) max_sagas: Option<Located<Whole>>,
    /// Bytes of memory that a worker holds, of all instances in its VM; past it 503 with `retry-after`. Default: 64MiB.
    #[deserr(default)]
    pub(super) max_bytes: Option<Located<Size>>,
    /// Of a request's body (past it 413) and of an answer's (past it the body is not kept). Default: 1MiB.
    #[deserr(default)]
    pub(super) max_body: Option<Located<Size>>,
    /// Finished sagas that are remembered for their start keys, per proxy process. Default: 10000.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 4294967295_u32)))]
    #[deserr(default)]
    pub(super) max_retained: Option<Located<Whole>>,
    /// Bytes of finished sagas, per proxy process. Default: 64MiB.
    #[deserr(default)]
    pub(super) max_retained_bytes: Option<Located<Size>>,
    /// How long a finished saga is remembered for its start key. Default: 1h.
    #[deserr(default)]
    pub(super) retention: Option<Located<Period>>,
}

/// One saga: which requests begin it, what it does, and what the client is told.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Saga"))]
pub(super) struct RawSaga {
    /// Unique among the sagas.
    #[cfg_attr(feature = "schema", schemars(required, regex(pattern = r"^[a-z0-9-]{1,63}$")))]
    #[deserr(default)]
    pub(super) name: Option<Located<String>>,
    /// Which requests begin this saga; all that is given must hold.
    #[cfg_attr(feature = "schema", schemars(with = "RawMatch", rename = "match"))]
    #[deserr(rename = "match", default)]
    pub(super) matching: Option<Located<RawMatch>>,
    /// Past it no transaction is attempted and the saga compensates. Default: 10s.
    #[deserr(default)]
    pub(super) deadline: Option<Located<Period>>,
    /// CEL giving a string: requests with the same key, of the same caller, get the same saga and the same answer. Empty:
    /// no key. Default: the header `idempotency-key`.
    #[deserr(default)]
    pub(super) start_key: Option<Located<String>>,
    /// Run at the same time, except where `after` names steps that come first.
    #[cfg_attr(feature = "schema", schemars(required, length(min = 1, max = 64)))]
    #[deserr(default)]
    pub(super) steps: Option<Located<Vec<Located<RawStep>>>>,
    /// What the client is answered.
    #[deserr(default)]
    pub(super) reply: Option<Located<RawReplies>>,
}

/// Which requests begin a saga. `CONNECT` and upgrades never do. The query string does not take part.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Match"))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = [
    {"required": ["path"]}, {"required": ["path_prefix"]}, {"required": ["path_template"]}])))]
pub(super) struct RawMatch {
    /// Upper-case. Default: any.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = r"^[^a-z\s]+$")))]
    #[deserr(default)]
    pub(super) method: Option<Located<String>>,
    /// The whole path.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^/")))]
    #[deserr(default)]
    pub(super) path: Option<Located<String>>,
    /// The path's first segments: `/trips` is a prefix of `/trips/7` and not of `/tripsy`.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^/")))]
    #[deserr(default)]
    pub(super) path_prefix: Option<Located<String>>,
    /// `/trips/{id}` gives `request.params.id`, which is never empty.
    #[cfg_attr(feature = "schema", schemars(regex(pattern = "^/")))]
    #[deserr(default)]
    pub(super) path_template: Option<Located<String>>,
    /// Compared without port and case. Default: any.
    #[deserr(default)]
    pub(super) host: Option<Located<String>>,
    /// All of them must hold.
    #[deserr(default)]
    pub(super) headers: Option<Located<Vec<Located<RawHeaderMatch>>>>,
}

/// What must hold of one request header.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "HeaderMatch"))]
#[cfg_attr(feature = "schema", schemars(extend("oneOf" = [
    {"required": ["exact"]}, {"required": ["prefix"]}, {"required": ["present"]}])))]
pub(super) struct RawHeaderMatch {
    /// In any case.
    #[cfg_attr(feature = "schema", schemars(required))]
    #[deserr(default)]
    pub(super) name: Option<Located<String>>,
    /// The whole value.
    #[deserr(default)]
    pub(super) exact: Option<Located<String>>,
    /// What the value begins with.
    #[deserr(default)]
    pub(super) prefix: Option<Located<String>>,
    /// `true`: the header is there; `false`: it is not.
    #[deserr(default)]
    pub(super) present: Option<Located<bool>>,
}

/// One step: a transaction and what undoes it.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Step"))]
pub(super) struct RawStep {
    /// Unique in the saga; no word that CEL reserves.
    #[cfg_attr(feature = "schema", schemars(required, regex(pattern = r"^[a-z][a-z0-9_]{0,62}$")))]
    #[deserr(default)]
    pub(super) name: Option<Located<String>>,
    /// Steps that must have succeeded, or been skipped, before this one starts. Default: none.
    #[deserr(default)]
    pub(super) after: Option<Located<Vec<Located<String>>>>,
    /// CEL; false skips the step. Default: `true`.
    #[deserr(default)]
    pub(super) when: Option<Located<String>>,
    /// What the step does.
    #[cfg_attr(feature = "schema", schemars(with = "RawCall"))]
    #[deserr(default)]
    pub(super) transaction: Option<Located<RawCall>>,
    /// What undoes it. `cluster`, `destination`, `authority`, `per_try_timeout` and `key_lifetime` are the transaction's
    /// where they are left out. Default: there is nothing to undo.
    #[deserr(default)]
    pub(super) compensation: Option<Located<RawCall>>,
}

/// A call to a participant.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Call"))]
#[cfg_attr(feature = "schema", schemars(extend("not" = {"required": ["cluster", "destination"]})))]
pub(super) struct RawCall {
    /// Envoy cluster; one that cannot be a host name, such as one with a `|`, needs `authority`.
    #[deserr(default)]
    pub(super) cluster: Option<Located<String>>,
    /// Instead of `cluster`, as in Istio's VirtualService.
    #[deserr(default)]
    pub(super) destination: Option<Located<RawDestination>>,
    /// A template. Default: `host:port` of the destination, else the cluster's name.
    #[deserr(default)]
    pub(super) authority: Option<Located<String>>,
    /// Upper-case.
    #[cfg_attr(feature = "schema", schemars(required, regex(pattern = r"^[^a-z\s]+$")))]
    #[deserr(default)]
    pub(super) method: Option<Located<String>>,
    /// A template, which may contain a query.
    #[cfg_attr(feature = "schema", schemars(required, regex(pattern = "^/")))]
    #[deserr(default)]
    pub(super) path: Option<Located<String>>,
    /// Templates by header name.
    #[deserr(default)]
    pub(super) headers: Option<Located<RawHeaders>>,
    /// An object or list is sent as JSON, a string as text; strings in it are templates. In text a value is encoded for
    /// the `content-type` (form, JSON, XML); text of other types needs `${raw(...)}`.
    #[deserr(default)]
    pub(super) body: Option<Located<Value>>,
    /// Instead of `body`: the fields of a form, sent as `application/x-www-form-urlencoded`.
    #[deserr(default)]
    pub(super) form: Option<Located<RawForm>>,
    /// Longest time of one attempt. Default: 5s.
    #[deserr(default)]
    pub(super) per_try_timeout: Option<Located<Period>>,
    /// For how long the participant keeps an idempotency key: no transaction is sent later than that after its first
    /// attempt. Default: 24h.
    #[deserr(default)]
    pub(super) key_lifetime: Option<Located<Period>>,
    /// How attempts follow each other.
    #[deserr(default)]
    pub(super) retry: Option<Located<RawRetry>>,
    /// CEL over `response`. Default: 2xx; of compensations also 410, and 404 where there need be nothing to undo.
    #[deserr(default)]
    pub(super) success: Option<Located<String>>,
    /// CEL over `response`: the participant certainly did nothing and never will; tried after `success`.
    /// Default: 4xx except 408, 425 and 429.
    #[deserr(default)]
    pub(super) rejected: Option<Located<String>>,
}

/// A service of the mesh; becomes the cluster `outbound|port|subset|host`.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Destination"))]
pub(super) struct RawDestination {
    /// The full name, such as `hotel.travel.svc.cluster.local`.
    #[cfg_attr(feature = "schema", schemars(required))]
    #[deserr(default)]
    pub(super) host: Option<Located<String>>,
    /// The service's port.
    #[cfg_attr(feature = "schema", schemars(required, range(min = 1, max = 65535)))]
    #[deserr(default)]
    pub(super) port: Option<Located<Whole>>,
    /// A subset of the service's DestinationRule. Default: none.
    #[deserr(default)]
    pub(super) subset: Option<Located<String>>,
}

/// Exponential back-off with full jitter.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Retry"))]
pub(super) struct RawRetry {
    /// Counts the first attempt. Default: 3. Refused on a compensation, which is retried until it succeeds.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 4294967295_u32)))]
    #[deserr(default)]
    pub(super) max_attempts: Option<Located<Whole>>,
    /// Upper bound of the first wait. Default: 50ms.
    #[deserr(default)]
    pub(super) base_interval: Option<Located<Period>>,
    /// Upper bound of every wait. Default: 5s.
    #[deserr(default)]
    pub(super) max_interval: Option<Located<Period>>,
}

/// What the client is answered.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Replies"))]
pub(super) struct RawReplies {
    /// When every transaction has succeeded. Default status: 200.
    #[deserr(default)]
    pub(super) completed: Option<Located<RawReply>>,
    /// When everything has been compensated. Default status: 409.
    #[deserr(default)]
    pub(super) compensated: Option<Located<RawReply>>,
}

/// One answer to the client.
#[derive(Debug, Deserr)]
#[deserr(error = Faults, deny_unknown_fields)]
#[cfg_attr(feature = "schema", derive(JsonSchema), schemars(deny_unknown_fields, rename = "Reply"))]
pub(super) struct RawReply {
    /// 200 to 599; 204, 205 and 304 take no body.
    #[cfg_attr(feature = "schema", schemars(range(min = 200, max = 599)))]
    #[deserr(default)]
    pub(super) status: Option<Located<Whole>>,
    /// Templates by header name.
    #[deserr(default)]
    pub(super) headers: Option<Located<RawHeaders>>,
    /// As in a call. Default: a JSON summary, for `compensated` an RFC 9457 problem.
    #[deserr(default)]
    pub(super) body: Option<Located<Value>>,
}
