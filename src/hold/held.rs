//! What a VM's clients make the proxy hold: the requests that match, from their headers until they are answered.
//!
//! A header that was sent before costs a client of HTTP/2 a byte or two (HPACK), and the proxy all of its length again; and a
//! request that never ends is never answered. So requests have limits from their first byte on, in
//!
//! - number: requests that are not whole yet, or that the coordinator has not taken yet;
//! - bytes: what Envoy keeps of them, headers and body, until they are answered. Nothing that is copied of a request is
//!   larger than that;
//! - time: a request has to be whole [`COLLECT_MS`] after its headers, or within the deadline of its saga where that is longer.
//!
//! ```text
//!   admit --> Collecting --hand_over--> HandedOver --take--> Taken
//!    |        |  |   |                  |                    |
//!    |        |  |   gone               gone                 gone
//!    |        |  |   v                  v                    v
//!    |        |  |   (forgotten)        Abandoned --take-->  (forgotten)
//!    |        |  look: too late
//!    +--------+--refused: forgotten
//! ```
//!
//! The roots of one VM share its memory: two listeners with one `vm_id`, a new configuration and the one before. So they
//! share what is counted, [`HeldByVm`]; each compares it with its own limits.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::coordinator::Client;
use crate::definition::Limits;
use crate::planted::{Planted, planted};
use crate::saga::{Millis, Problem, Reply};

/// Milliseconds from the headers of a request to its end.
pub const COLLECT_MS: Millis = 30_000;

/// What a line of a header takes besides its name and its value, in bytes, about.
const LINE_BYTES: u64 = 64;

/// What all roots of one VM hold.
#[derive(Debug, Default)]
pub struct HeldByVm {
    collecting: Cell<usize>,
    bytes: Cell<u64>,
}

/// A limit that a request has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldLimit {
    /// `limits.max_sagas`.
    Number,
    /// `limits.max_bytes`.
    Bytes,
    /// [`COLLECT_MS`], or its saga's deadline.
    Time,
}

impl HeldLimit {
    /// The answer to a request that has passed it. It tells no lie where a saga may have begun before for the same request.
    pub fn reply(self, may_be_repeated: bool) -> Reply {
        let detail = match self {
            HeldLimit::Number => "as many requests are coming in as this proxy takes (limits.max_sagas)",
            HeldLimit::Bytes => "requests take as much memory as this proxy gives them (limits.max_bytes)",
            HeldLimit::Time => "the request has not come to its end in time",
        };
        if may_be_repeated { Problem::fate_unknown(detail) } else { Problem::overload(detail) }
    }
}

/// A request whose headers are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// Whose it is.
    pub client: Client,
    /// What Envoy counts of its headers, in bytes.
    pub header_bytes: u64,
    /// How many lines they have.
    pub header_lines: usize,
    /// The deadline of its saga.
    pub deadline_ms: Millis,
    /// A saga may have begun before for the same request.
    pub may_be_repeated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Its body, or the end of it, is still to come. `due`: when it is late; none: no turn has come since its headers.
    Collecting { due: Option<Millis> },
    /// It is whole, and lies in the inbox of its root.
    HandedOver,
    /// So it does, and its client has gone.
    Abandoned,
    /// The coordinator has it: Envoy keeps it until it is answered.
    Taken,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    stage: Stage,
    time_ms: Millis,
    headers: u64,
    body: u64,
    may_be_repeated: bool,
}

/// The requests of one root. See the module's text.
#[derive(Debug)]
pub struct HeldRequests {
    vm: Rc<HeldByVm>,
    max_requests: usize,
    max_bytes: u64,
    requests: BTreeMap<Client, Held>,
    /// Those that are collected: without a time yet, and by their time.
    arrived: BTreeSet<Client>,
    due: BTreeSet<(Millis, Client)>,
}

impl HeldRequests {
    /// None yet. `vm` is that of all roots of the VM.
    pub fn new(vm: Rc<HeldByVm>, limits: &Limits) -> HeldRequests {
        let max_bytes = u64::try_from(limits.max_bytes).unwrap_or(u64::MAX);
        let (requests, arrived, due) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        HeldRequests { vm, max_requests: limits.max_sagas, max_bytes, requests, arrived, due }
    }

    /// The headers of a request are here.
    ///
    /// # Errors
    ///
    /// A limit is passed: the request is to be refused, and is not held.
    pub fn admit(&mut self, incoming: Incoming) -> Result<(), HeldLimit> {
        let Incoming { client, header_bytes, header_lines, deadline_ms, may_be_repeated } = incoming;
        let lines = u64::try_from(header_lines).unwrap_or(u64::MAX).saturating_mul(LINE_BYTES);
        let headers = header_bytes.saturating_add(lines);
        if self.vm.collecting.get() >= self.max_requests && !planted(Planted::CollectedWithoutLimit) {
            return Err(HeldLimit::Number);
        }
        self.check_room_for(headers)?;
        let (stage, time_ms) = (Stage::Collecting { due: None }, deadline_ms.max(COLLECT_MS));
        self.forget(client);
        self.requests.insert(client, Held { stage, time_ms, headers, body: 0, may_be_repeated });
        self.arrived.insert(client);
        self.vm.collecting.set(self.vm.collecting.get().saturating_add(1));
        self.vm.bytes.set(self.vm.bytes.get().saturating_add(headers));
        Ok(())
    }

    /// Envoy has so many bytes of its body by now.
    ///
    /// # Errors
    ///
    /// A limit is passed: the request is to be refused with the answer, and is not held any more.
    pub fn receive(&mut self, client: Client, body: usize) -> Result<(), Reply> {
        let Some(held) = self.requests.get_mut(&client) else { return Ok(()) };
        let body = u64::try_from(body).unwrap_or(u64::MAX);
        let more = body.saturating_sub(held.body);
        held.body = held.body.saturating_add(more);
        let may_be_repeated = held.may_be_repeated;
        let room = self.check_room_for(more);
        self.vm.bytes.set(self.vm.bytes.get().saturating_add(more));
        room.map_err(|limit| {
            self.forget(client);
            limit.reply(may_be_repeated)
        })
    }

    fn check_room_for(&self, more: u64) -> Result<(), HeldLimit> {
        let fits = self.vm.bytes.get().saturating_add(more) <= self.max_bytes;
        if fits || planted(Planted::CollectedWithoutLimit) { Ok(()) } else { Err(HeldLimit::Bytes) }
    }

    /// Whether its end is still waited for.
    pub fn is_collecting(&self, client: Client) -> bool {
        self.requests.get(&client).is_some_and(|held| matches!(held.stage, Stage::Collecting { .. }))
    }

    /// It is whole, and was left for its root.
    pub fn hand_over(&mut self, client: Client) {
        let Some(held) = self.requests.get_mut(&client) else { return };
        if let Stage::Collecting { due } = held.stage {
            held.stage = Stage::HandedOver;
            self.stop_clock(client, due);
        }
    }

    fn stop_clock(&mut self, client: Client, due: Option<Millis>) {
        match due {
            Some(due) => self.due.remove(&(due, client)),
            None => self.arrived.remove(&client),
        };
    }

    /// The root takes it for the coordinator, which has limits of its own.
    pub fn take(&mut self, client: Client) {
        let Some(held) = self.requests.get_mut(&client) else { return };
        match held.stage {
            Stage::HandedOver => {
                held.stage = Stage::Taken;
                self.vm.collecting.set(self.vm.collecting.get().saturating_sub(1));
            }
            Stage::Abandoned => self.forget(client),
            Stage::Collecting { .. } | Stage::Taken => {}
        }
    }

    /// Its stream has ended, or was answered.
    pub fn gone(&mut self, client: Client) {
        let Some(held) = self.requests.get_mut(&client) else { return };
        match held.stage {
            // A copy lies in the inbox.
            Stage::HandedOver => held.stage = Stage::Abandoned,
            Stage::Collecting { .. } | Stage::Taken => self.forget(client),
            Stage::Abandoned => {}
        }
    }

    fn forget(&mut self, client: Client) {
        let Some(held) = self.requests.remove(&client) else { return };
        if let Stage::Collecting { due } = held.stage {
            self.stop_clock(client, due);
        }
        if planted(Planted::PlaceNotGivenBack) {
            return;
        }
        if held.stage != Stage::Taken {
            self.vm.collecting.set(self.vm.collecting.get().saturating_sub(1));
        }
        self.vm.bytes.set(self.vm.bytes.get().saturating_sub(held.headers).saturating_sub(held.body));
    }

    /// When [`HeldRequests::look`] has something to do; none: nothing is collected.
    pub fn next_look(&self) -> Option<Millis> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Gives the requests that have not come to their end in time, with their answers; they are not held any more. To be
    /// called in every turn: streams have no clock, and the time of a request begins with the first look after its headers.
    pub fn look(&mut self, now: Millis) -> Vec<(Client, Reply)> {
        for client in std::mem::take(&mut self.arrived) {
            let Some(held) = self.requests.get_mut(&client) else { continue };
            let due = now.saturating_add(held.time_ms);
            held.stage = Stage::Collecting { due: Some(due) };
            self.due.insert((due, client));
        }
        let is_endless = planted(Planted::CollectedForEver);
        let late = self.due.range(..=(now, Client::MAX)).filter(|_| !is_endless).map(|(_, client)| *client);
        let late: Vec<Client> = late.collect();
        let answers = late.into_iter().filter_map(|client| {
            let held = self.requests.get(&client)?;
            let reply = HeldLimit::Time.reply(held.may_be_repeated);
            self.forget(client);
            Some((client, reply))
        });
        answers.collect()
    }
}

impl Drop for HeldRequests {
    /// The root has ended; those that stay go on to count without it.
    fn drop(&mut self) {
        while let Some(client) = self.requests.keys().next().copied() {
            self.forget(client);
        }
    }
}

#[cfg(test)]
mod tests;
