//! Everything that happened in a run, in order: what the checker looks at, what people read, and what is hashed.

use std::collections::BTreeSet;

use std::fmt::Write as _;

use xxhash_rust::xxh3::Xxh3;

use super::host::{Callout, Headers, Nanos, Status, text};
use super::journal_view::Durable;
use super::process::ContextId;

/// Which stream of a client's request: an index into [`History::streams`].
pub type StreamId = usize;
/// Which call to a participant: an index into [`History::calls`].
pub type CallId = usize;
/// Which VM of which proxy.
pub type VmId = (usize, usize);

/// A request of a client that has reached a proxy.
#[derive(Debug, Clone)]
pub struct StreamRecord {
    /// Index in the plan.
    pub client: usize,
    /// The VM that serves it; none: it was refused before.
    pub vm: Option<VmId>,
    /// The configuration under which it is served.
    pub version: usize,
    /// The roots of the filters that serve it.
    pub roots: Vec<ContextId>,
    /// Tells the sagas of requests apart that are otherwise the same: proxies give every request one.
    pub request_id: String,
    /// When the last of it came to the VM; none: not yet.
    pub whole_at: Option<Nanos>,
}

/// A call that has left a proxy, or was refused by it.
#[derive(Debug, Clone)]
pub struct CallRecord {
    /// When it left.
    pub at: Nanos,
    /// The VM that made it.
    pub vm: VmId,
    /// What it sent.
    pub callout: Callout,
}

impl CallRecord {
    /// A header that is text.
    pub fn header(&self, name: &str) -> &str {
        text(&self.callout.headers, name).unwrap_or_default()
    }

    /// Whether it is a compensation.
    pub fn is_compensation(&self) -> bool {
        self.header("saga-action") == "compensation"
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An answer of the proxy.
    Answer {
        /// Its status.
        status: u32,
        /// Without `:status`.
        headers: Headers,
        /// All of it.
        body: Vec<u8>,
    },
    /// The application's answer: the request was none of the filter's business.
    Application,
    /// Its connection was cut, for this reason.
    Cut(&'static str),
}

/// What a participant did about a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It did the transaction.
    Applied,
    /// It had done so before.
    AppliedBefore,
    /// It undid the transaction.
    Compensated,
    /// It had done so before.
    CompensatedBefore,
    /// There was nothing to undo, and never will be.
    Buried,
    /// It did nothing, and answered so.
    Nothing,
}

/// How a call ended for the VM that had made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The participant has answered so.
    Answered(u16),
    /// The participant has answered so, with a body that is not what it should be.
    Unreadable(u16),
    /// The participant has answered so, and asked to be left alone for so many seconds.
    PutOff(u16, u32),
    /// The proxy has answered so in its place: 503 for a reset, 504 for a timeout.
    Proxy(u16),
    /// It was cut short.
    Broken,
    /// The VM has gone.
    Forgotten,
}

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A client's request has reached a proxy.
    Requested(StreamId),
    /// A client was told something.
    Told(StreamId, Told),
    /// A client went away.
    Left(StreamId),
    /// A call has left its proxy.
    Called(CallId),
    /// A call was refused by its proxy.
    CallRefused(CallId, Status),
    /// A participant has dealt with a call, or with a copy of it.
    Dealt {
        /// Which call.
        call: CallId,
        /// What came of it.
        deed: Deed,
        /// The status that it answers, whether that arrives or not.
        answers: u16,
    },
    /// A call has ended for its VM.
    Ended(CallId, Ended),
    /// A call was sent of which the journal does not have what it must.
    NotJournaled(CallId, String),
    /// A client was told an end that the journal does not have.
    EndNotJournaled(StreamId, String),
    /// That is in the journal of a saga from now on.
    Durable(String, Durable),
    /// A VM of the older version has changed what is for the newer one.
    NotLeftAlone(String),
    /// A saga was taken from an owner that lives, or changed by who does not own it.
    Unowned(String),
    /// A VM has trapped, and why.
    Trapped(VmId, String),
    /// A VM has gone, with everything in it.
    VmGone(VmId, &'static str),
    /// A VM does nothing until then.
    Stalled(VmId, Nanos),
    /// A VM has started with a version of the configuration; false: it refused it.
    VmStarted(VmId, usize, bool),
    /// A root of a VM has let go.
    RootEnded(VmId, u32),
    /// A line of a VM's log.
    Logged(VmId, u32, String),
    /// Anything else that happened to something.
    Happened(String, String),
}

/// See the module's text.
#[derive(Default)]
pub struct History {
    /// Requests of clients.
    pub streams: Vec<StreamRecord>,
    /// Calls to participants.
    pub calls: Vec<CallRecord>,
    /// Sagas that were open in the memory of a process when it was killed.
    pub lost: BTreeSet<String>,
    /// VMs that run the newer one of two versions.
    pub newer: BTreeSet<VmId>,
    /// In order.
    pub happenings: Vec<(Nanos, Happening)>,
    hasher: Xxh3,
}

impl History {
    /// The stream whose request has begun the saga of which this is the first call. A proxy in front may have sent the
    /// request several times: whole, and to this root, it came first in that stream.
    pub fn stream_of_request(&self, first: &CallRecord) -> Option<StreamId> {
        let (request_id, root, now) = (first.header("x-request-id"), first.callout.context, first.at);
        let of_request = || (0..self.streams.len()).filter(|id| self.streams[*id].request_id == request_id);
        let whole = |id: &StreamId| self.streams[*id].whole_at.is_some_and(|at| at <= now);
        let is_here = |id: &StreamId| {
            let stream = &self.streams[*id];
            stream.vm == Some(first.vm) && stream.roots.contains(&root)
        };
        let begun_here = of_request().find(|id| is_here(id) && whole(id));
        begun_here.or_else(|| of_request().find(whole)).or_else(|| of_request().next())
    }

    /// Writes down what has just happened.
    pub fn add(&mut self, at: Nanos, happening: Happening) {
        // What the filter says of itself is not what it does.
        if !matches!(happening, Happening::Logged(..)) {
            let line = self.line(at, &happening);
            self.hasher.update(line.as_bytes());
        }
        if let Happening::Called(call) | Happening::CallRefused(call, _) = &happening
            && let Some(call) = self.calls.get(*call)
        {
            for (name, value) in &call.callout.headers {
                self.hasher.update(name.as_bytes());
                self.hasher.update(value);
            }
            self.hasher.update(&call.callout.timeout_ms.to_le_bytes());
            self.hasher.update(&call.callout.body);
        }
        if let Happening::Told(_, Told::Answer { headers, .. }) = &happening {
            for (name, value) in headers {
                self.hasher.update(name.as_bytes());
                self.hasher.update(value);
            }
        }
        self.happenings.push((at, happening));
    }

    /// The same for the same seed and the same filter: of every line but the log's, and of what every call carried.
    pub fn hash(&self) -> u64 {
        self.hasher.digest()
    }

    /// All that happened, one line each, in columns: when (ms), where, what. With `log`, also what the filter logged.
    pub fn trace(&self, log: bool) -> String {
        let shown = |happening: &Happening| log || !matches!(happening, Happening::Logged(_, level, _) if *level < 3);
        let lines = self.happenings.iter().filter(|(_, happening)| shown(happening));
        lines.map(|(at, happening)| self.line(*at, happening)).collect()
    }

    fn line(&self, at: Nanos, happening: &Happening) -> String {
        let (place, what) = self.describe(happening);
        let mut line = String::new();
        let _ = writeln!(line, "{:>12.3}  {place:<12} {what}", at as f64 / 1e6);
        line
    }

    fn describe(&self, happening: &Happening) -> (String, String) {
        match happening {
            Happening::Requested(stream) => {
                let record = self.streams.get(*stream);
                let vm = record.and_then(|record| record.vm).map_or("nobody".to_owned(), vm_name);
                (self.client(*stream), format!("--> {vm}  asks"))
            }
            Happening::Told(stream, told) => (self.client(*stream), format!("<--  {}", told.line())),
            Happening::Left(stream) => (self.client(*stream), "x    goes away".to_owned()),
            Happening::Called(call) => self.call(*call, "-->", String::new()),
            Happening::CallRefused(call, status) => {
                self.call(*call, "-x ", format!("refused by the proxy: {status:?}"))
            }
            Happening::Dealt { call, deed, answers } => {
                let cluster = self.calls.get(*call).map_or(String::new(), |call| call.callout.cluster.clone());
                (cluster, format!("     {}  {deed:?}, answers {answers}", self.name(*call)))
            }
            Happening::Ended(call, ended) => self.call(*call, "<--", format!("{ended:?}")),
            Happening::NotJournaled(call, what) => ("journal".to_owned(), format!("{}: {what}", self.name(*call))),
            Happening::EndNotJournaled(stream, what) => (self.client(*stream), format!("was told {what}")),
            Happening::Durable(saga, what) => {
                ("journal".to_owned(), format!("saga ..{} is durable: {what:?}", last_digits(saga)))
            }
            Happening::NotLeftAlone(what) => ("journal".to_owned(), what.clone()),
            Happening::Unowned(what) => ("journal".to_owned(), what.clone()),
            Happening::Trapped(vm, why) => (vm_name(*vm), format!("TRAP {why}")),
            Happening::VmGone(vm, why) => (vm_name(*vm), format!("GONE {why}")),
            Happening::Stalled(vm, until) => (vm_name(*vm), format!("is stalled until {:.3}", *until as f64 / 1e6)),
            Happening::VmStarted(vm, version, taken) => {
                let taken = if *taken { "" } else { ", which it refuses" };
                (vm_name(*vm), format!("STARTS with configuration {version}{taken}"))
            }
            Happening::RootEnded(vm, root) => (vm_name(*vm), format!("root {root} has ended")),
            Happening::Logged(vm, level, text) => (vm_name(*vm), format!("log {level}: {text}")),
            Happening::Happened(place, what) => (place.clone(), what.clone()),
        }
    }

    fn client(&self, stream: StreamId) -> String {
        self.streams.get(stream).map_or(String::new(), |record| format!("client {}", record.client))
    }

    fn call(&self, call: CallId, arrow: &str, more: String) -> (String, String) {
        let Some(record) = self.calls.get(call) else { return (String::new(), String::new()) };
        let what = format!("{arrow} {:<8} {}  {more}", record.callout.cluster, self.name(call));
        (vm_name(record.vm), what.trim_end().to_owned())
    }

    /// A call for people: which saga, step, half and attempt.
    pub fn name(&self, call: CallId) -> String {
        let Some(call) = self.calls.get(call) else { return String::new() };
        let id = call.header("saga-id");
        let id = last_digits(id);
        let half = if call.is_compensation() { "undo" } else { "do" };
        let (step, attempt) = (call.header("saga-step"), call.header("saga-attempt"));
        format!("saga ..{id} {half} {step} #{attempt} {} {}", call.header(":method"), call.header(":path"))
    }
}

/// What tells sagas apart.
fn last_digits(id: &str) -> &str {
    id.get(id.len().saturating_sub(8)..).unwrap_or(id)
}

/// A VM for people.
pub fn vm_name((proxy, vm): VmId) -> String {
    format!("proxy{proxy}.vm{vm}")
}

impl Told {
    /// In a few words.
    pub fn summary(&self) -> String {
        match self {
            Told::Answer { status, headers, .. } => {
                format!("{status} {}", text(headers, "saga-status").unwrap_or("no saga"))
            }
            Told::Application => "the application's answer".to_owned(),
            Told::Cut(why) => format!("connection cut: {why}"),
        }
    }

    fn line(&self) -> String {
        match self {
            Told::Answer { body, .. } => format!("{}  {}", self.summary(), String::from_utf8_lossy(body)),
            Told::Application | Told::Cut(_) => self.summary(),
        }
    }
}
