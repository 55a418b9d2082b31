//! What a configuration means, once it has been checked: sagas, their steps, calls and replies.
//!
//! Everything here is immutable after loading and shared by all sagas that began under it.

use std::time::Duration;

use crate::matcher::Matcher;
use crate::template::{BodyTemplate, Expression, Reads, Template};

pub mod stored;

/// Index of a step in [`Definition::steps`].
pub type StepIndex = usize;

/// One saga definition.
#[derive(Debug)]
pub struct Definition {
    /// Unique among the definitions of a configuration.
    pub name: String,
    /// Which requests begin this saga.
    pub matcher: Matcher,
    /// Past it, counted from the begin, no transaction is attempted and the saga compensates.
    pub deadline: Duration,
    /// Gives the start key of a request, a string; none: the header `idempotency-key`.
    pub start_key: Option<Expression>,
    /// In the order of the configuration.
    pub steps: Vec<Step>,
    /// What the client gets when every transaction has succeeded.
    pub completed: ReplyTemplate,
    /// What the client gets when everything has been compensated.
    pub compensated: ReplyTemplate,
    /// Every path that any expression of this saga reads, rooted at `request`, `steps`, `transaction`, `response`, `saga`.
    /// Of the client's request only what is named here is kept.
    pub reads: Reads,
}

impl Definition {
    /// What all of its expressions read.
    pub(crate) fn all_reads(&self) -> Reads {
        let mut reads = Reads::default();
        for step in &self.steps {
            step.when.iter().for_each(|when| reads.extend(when.reads()));
            step.transaction.extend_reads(&mut reads);
            step.compensation.iter().for_each(|compensation| compensation.extend_reads(&mut reads));
        }
        for reply in [&self.completed, &self.compensated] {
            reply.headers.iter().for_each(|(_, value)| reads.extend(value.reads()));
            reply.body.iter().for_each(|body| reads.extend(body.reads()));
        }
        reads
    }
}

impl Call {
    /// Adds what a call reads, its predicates included.
    fn extend_reads(&self, reads: &mut Reads) {
        reads.extend(self.authority.reads());
        reads.extend(self.path.reads());
        self.headers.iter().for_each(|(_, value)| reads.extend(value.reads()));
        self.body.iter().for_each(|body| reads.extend(body.reads()));
        let predicates = [&self.success, &self.rejected];
        predicates.into_iter().flatten().for_each(|predicate| reads.extend(predicate.reads()));
    }
}

/// One step: a transaction and, where there is something to undo, its compensation.
#[derive(Debug)]
pub struct Step {
    /// Unique in the saga.
    pub name: String,
    /// Steps that must have succeeded (or been skipped) before this one starts, as configured.
    pub after: Vec<StepIndex>,
    /// `after`, transitively: ascending, without this step.
    pub predecessors: Vec<StepIndex>,
    /// The steps that name this one in their `after`, transitively: ascending, without this step.
    pub successors: Vec<StepIndex>,
    /// False skips the step; none is true.
    pub when: Option<Expression>,
    /// What the step does.
    pub transaction: Call,
    /// What undoes it; none: there is nothing to undo.
    pub compensation: Option<Call>,
}

/// A call to a participant.
#[derive(Debug)]
pub struct Call {
    /// Envoy cluster that the callout goes to.
    pub cluster: String,
    /// `:authority` of the callout.
    pub authority: Template,
    /// HTTP method, upper-case as configured.
    pub method: String,
    /// `:path`, which may hold a query.
    pub path: Template,
    /// Names are lower-case.
    pub headers: Vec<(String, Template)>,
    /// None: no body is sent.
    pub body: Option<BodyTemplate>,
    /// Longest time that one attempt may take; at least 1 ms, at most `i32::MAX` ms.
    pub per_try_timeout: Duration,
    /// For how long the participant keeps an idempotency key: no transaction is sent later than that after its first
    /// attempt.
    pub key_lifetime: Duration,
    /// Intervals between attempts, and how many there may be.
    pub retry: Retry,
    /// None: 2xx (for compensations see [`crate::saga`]).
    pub success: Option<Expression>,
    /// None: 4xx except 408, 425 and 429.
    pub rejected: Option<Expression>,
}

/// How attempts follow each other: exponential back-off with full jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// Counts the first attempt; none for compensations, which are retried until they succeed.
    pub max_attempts: Option<u32>,
    /// Upper bound of the first wait.
    pub base_interval: Duration,
    /// Upper bound of every wait.
    pub max_interval: Duration,
}

/// One of the two answers that a saga can end with.
#[derive(Debug)]
pub struct ReplyTemplate {
    /// 200 to 599.
    pub status: u16,
    /// Names are lower-case.
    pub headers: Vec<(String, Template)>,
    /// None: a JSON summary, for `compensated` an RFC 9457 problem.
    pub body: Option<BodyTemplate>,
}

/// Bounds of what one worker holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Sagas in flight; and requests that are coming in.
    pub max_sagas: usize,
    /// Bytes of memory that are held, of all coordinators of the VM; and what the proxy keeps of requests until they are
    /// answered.
    pub max_bytes: usize,
    /// Bytes of a request's body (past it the client gets 413) and of a participant's answer (past it the body is not kept).
    pub max_body: usize,
    /// What the process remembers of sagas that have ended.
    pub retained: Retained,
}

/// Where sagas are kept that are to outlive the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Envoy cluster of etcd's client URLs.
    pub cluster: String,
    /// Of every key.
    pub prefix: String,
    /// Time to live of a VM's lease: so long after its end its sagas are taken over. etcd may grant more.
    pub lease: Duration,
    /// Longest time that one call to etcd may take.
    pub timeout: Duration,
    /// Whether sagas without owner are taken over.
    pub takes_over: bool,
    /// None: etcd knows no users.
    pub credentials: Option<Credentials>,
}

/// By which etcd knows its user.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// In the clear.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Bounds of what the VMs of a process remember of sagas that have ended, for their start keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Sagas.
    pub sagas: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// For how long.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_sagas: 10_000, max_bytes: 64 << 20, max_body: 1 << 20, retained: Retained::default() }
    }
}

impl Default for Retained {
    fn default() -> Self {
        Self { sagas: 10_000, bytes: 64 << 20, time: Duration::from_secs(60 * 60) }
    }
}
