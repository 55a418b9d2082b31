//! What a VM sees of its proxy: the meaning of the host calls, without the bytes of the ABI.
//!
//! ```text
//!   callback of the VM --> host calls --> [`Host`] --> effects, which the proxy takes when the callback has returned
//! ```
//!
//! Envoy does the same: it answers a stream, or tells the owner of a queue, only after the callback. Where the ABI's
//! documentation is silent, what is here was tried on a running Envoy (`tests/envoy_behaviour`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use rand::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::journal_view::Records;
use super::process::{ContextId, Process, VmIndex};

/// Nanoseconds of virtual time since the run began.
pub type Nanos = u64;
/// Lines of headers, names in lower case.
pub type Headers = Vec<(String, Vec<u8>)>;

/// Wall time at which every run begins: 2026-01-01, in nanoseconds since the Unix epoch.
pub const BEGINNING_NS: u64 = 1_767_225_600_000_000_000;

/// What a host call comes to, by the numbers of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// There is no such thing.
    NotFound = 1,
    /// The arguments make no sense here.
    BadArgument = 2,
    /// The queue has no item.
    Empty = 7,
    /// Another value has been written meanwhile.
    CasMismatch = 8,
    /// Envoy could not.
    InternalFailure = 10,
}

/// A request that leaves the proxy.
#[derive(Debug, Clone)]
pub struct Callout {
    /// Names it towards the VM.
    pub token: u32,
    /// The context that gets the answer.
    pub context: ContextId,
    /// Where it goes.
    pub cluster: String,
    /// With `:method`, `:path` and `:authority`.
    pub headers: Headers,
    /// Empty: none.
    pub body: Vec<u8>,
    /// 0: none.
    pub timeout_ms: u32,
    /// What shared data has of its saga in this moment.
    pub journaled: Option<Records>,
}

/// How a callout ended, as the VM is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalloutAnswer {
    /// An answer, from the participant or from the proxy in its place.
    Whole {
        /// With `:status`.
        headers: Headers,
        /// All of it.
        body: Vec<u8>,
    },
    /// It was cut short, or too large: the VM is told of 0 headers.
    Broken,
}

/// An answer that a VM gives to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// The stream that was effective.
    pub stream: ContextId,
    /// As it was given.
    pub status: u32,
    /// As they were given.
    pub headers: Headers,
    /// As it was given.
    pub body: Vec<u8>,
}

/// What a VM wants the proxy to do.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send this.
    Call(Callout),
    /// A callout was refused at once, for this reason. Its token is 0.
    CallRefused(Callout, Status),
    /// Answer a client.
    Reply(LocalReply),
    /// Call a root every so many milliseconds from now on; 0: not any more.
    TickPeriod(ContextId, u32),
    /// Tell the root of a VM that its queue has an item.
    QueueReady(VmIndex, ContextId, u32),
    /// A root that was asked to end has ended.
    Done(ContextId),
    /// A line of the log: level (0 trace to 5 critical) and text.
    Log(u32, String),
}

/// A request as the filters of its stream see it.
#[derive(Debug, Default)]
pub struct StreamData {
    /// With `:method`, `:path` and `:authority`.
    pub headers: Headers,
    /// What of the body is held.
    pub body: Vec<u8>,
    /// Bytes of the body that the proxy has received.
    pub received: usize,
    /// What filters have written of the stream, by its path.
    pub properties: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The property by which a proxy tells how much it has received of a request, in bytes: its headers, and its body so far.
const TOTAL_SIZE: &[u8] = b"request\0total_size";

impl StreamData {
    /// What a filter reads under a path, whose parts are joined by zeros. None: there is nothing.
    pub fn property(&self, path: &[u8]) -> Option<Vec<u8>> {
        if path != TOTAL_SIZE {
            return self.properties.get(path).cloned();
        }
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        Some((headers as i64 + self.received as i64).to_le_bytes().to_vec())
    }
}

/// Virtual time of one run, shared by everything in it.
#[derive(Debug, Default)]
pub struct Clock {
    now: Cell<Nanos>,
}

impl Clock {
    /// Time since the run began.
    pub fn now(&self) -> Nanos {
        self.now.get()
    }

    /// Lets time pass; it never goes back.
    pub fn advance_to(&self, at: Nanos) {
        self.now.set(self.now.get().max(at));
    }
}

/// The proxy as one VM sees it.
#[derive(Debug)]
pub struct Host {
    /// Which VM of the process this is.
    pub vm: VmIndex,
    /// Shared with the other VMs.
    pub process: Rc<RefCell<Process>>,
    clock: Rc<Clock>,
    /// How far this machine's wall clock is off, in nanoseconds.
    wall_offset: Rc<Cell<i64>>,
    seed: u64,
    draws: BTreeMap<usize, Pcg64Mcg>,
    /// What a host call without a context of its own is about.
    pub effective: ContextId,
    /// The roots that live.
    pub roots: BTreeMap<ContextId, Vec<u8>>,
    /// The streams that live, each with the request that all filters of its chain share.
    pub streams: BTreeMap<ContextId, Rc<RefCell<StreamData>>>,
    /// The answer that a callback is about.
    pub answer: Option<CalloutAnswer>,
    /// What is to be done after the callback.
    pub effects: Vec<Effect>,
    /// Environment variables of the VM.
    pub environment: Vec<(String, String)>,
}

impl Host {
    /// A proxy without contexts. `seed` is of this VM alone.
    pub fn new(
        vm: VmIndex,
        process: Rc<RefCell<Process>>,
        clock: Rc<Clock>,
        wall_offset: Rc<Cell<i64>>,
        seed: u64,
    ) -> Host {
        Host {
            vm,
            process,
            clock,
            wall_offset,
            seed,
            draws: BTreeMap::new(),
            effective: 0,
            roots: BTreeMap::new(),
            streams: BTreeMap::new(),
            answer: None,
            effects: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The monotonic clock.
    pub fn monotonic_ns(&self) -> u64 {
        self.clock.now()
    }

    /// The wall clock, which may be wrong and may jump.
    pub fn wall_ns(&self) -> u64 {
        BEGINNING_NS.saturating_add(self.clock.now()).saturating_add_signed(self.wall_offset.get())
    }

    /// Random bytes. Each length has a stream of numbers of its own: what the module's standard library draws for its
    /// hash maps does not change what the filter draws for ids.
    pub fn random(&mut self, bytes: &mut [u8]) {
        let seed = self.seed ^ (bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let draws = self.draws.entry(bytes.len()).or_insert_with(|| Pcg64Mcg::seed_from_u64(seed));
        draws.fill_bytes(bytes);
    }

    /// Sends a request from the effective context.
    ///
    /// # Errors
    /// As [`Process::admit_callout`]. [`Status::BadArgument`] also where a pseudo-header is missing.
    pub fn dispatch(
        &mut self,
        cluster: String,
        headers: Headers,
        body: Vec<u8>,
        timeout_ms: u32,
    ) -> Result<u32, Status> {
        let complete = [":method", ":path", ":authority"].iter().all(|name| value(&headers, name).is_some());
        let journaled = text(&headers, "saga-id").and_then(|saga| self.process.borrow().records(saga));
        let mut callout = Callout { token: 0, context: self.effective, cluster, headers, body, timeout_ms, journaled };
        let admitted = self.process.borrow_mut().admit_callout(&callout.cluster);
        match admitted.and_then(|token| if complete { Ok(token) } else { Err(Status::BadArgument) }) {
            Ok(token) => {
                callout.token = token;
                self.effects.push(Effect::Call(callout));
                Ok(token)
            }
            Err(status) => {
                self.effects.push(Effect::CallRefused(callout, status));
                Err(status)
            }
        }
    }

    /// Makes a context the effective one.
    ///
    /// # Errors
    /// [`Status::BadArgument`]: it has gone.
    pub fn set_effective(&mut self, context: ContextId) -> Result<(), Status> {
        if !self.roots.contains_key(&context) && !self.streams.contains_key(&context) {
            return Err(Status::BadArgument);
        }
        self.effective = context;
        Ok(())
    }

    /// Answers the effective stream. With a root effective it succeeds and answers nobody.
    pub fn reply(&mut self, status: u32, mut headers: Headers, body: Vec<u8>) {
        // Envoy says so of every body of which its sender does not say what it is.
        if !body.is_empty() && value(&headers, "content-type").is_none() {
            headers.push(("content-type".to_owned(), b"text/plain".to_vec()));
        }
        if self.streams.contains_key(&self.effective) {
            self.effects.push(Effect::Reply(LocalReply { stream: self.effective, status, headers, body }));
        }
    }

    /// Sets the period of the effective root's ticks: the countdown starts anew.
    pub fn set_tick_period(&mut self, period_ms: u32) {
        self.effects.push(Effect::TickPeriod(self.effective, period_ms));
    }

    /// Registers a queue for the effective root.
    pub fn register_queue(&mut self, name: &str) -> u32 {
        self.process.borrow_mut().register_queue(name, (self.vm, self.effective))
    }

    /// Adds an item to a queue.
    ///
    /// # Errors
    /// [`Status::NotFound`].
    pub fn enqueue(&mut self, queue: u32, item: &[u8]) -> Result<(), Status> {
        let owner = self.process.borrow_mut().enqueue(queue, item).ok_or(Status::NotFound)?;
        self.effects.push(Effect::QueueReady(owner.0, owner.1, queue));
        Ok(())
    }

    /// The request of the effective stream.
    ///
    /// # Errors
    /// [`Status::BadArgument`]: no stream is effective.
    pub fn stream(&self) -> Result<Rc<RefCell<StreamData>>, Status> {
        self.streams.get(&self.effective).cloned().ok_or(Status::BadArgument)
    }

    /// The configuration of the effective root.
    pub fn configuration(&self) -> &[u8] {
        self.roots.get(&self.effective).map_or(&[], Vec::as_slice)
    }
}

/// The first line of a header.
pub fn value<'a>(headers: &'a Headers, name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_slice())
}

/// The first line of a header that is UTF-8.
pub fn text<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    std::str::from_utf8(value(headers, name)?).ok()
}
