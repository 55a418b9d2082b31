//! The sagas of one VM: the one place that performs actions and feeds in events.
//!
//! ```text
//!   begin(request) ----+
//!   ended(token) ------+--> Saga::handle --> actions --> Journal::write | Host::dispatch | Host::reply
//!   due() -------------+         ^                            |               |
//!     |                          +---- Written, NotSent ------+---------------+
//!     +--> Journal::tick --> orphans --> Saga::resume --> actions, as above
//!
//!   settle() --> Journal::next_call --> Host::ask --> ended(token) --> Journal::call_ended --> Written, orphans
//! ```
//!
//! What it needs of the proxy it takes as a [`Host`], so it knows nothing of Envoy and is tested natively.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::definition::{Definition, Limits};
use crate::facts::ClientRequest;
use crate::journal::{IdempotencyKey, Journal, JournalCall, Ownership, SharedData};
use crate::planted::{Planted, planted};
use crate::saga::{
    Action, AttemptResult, CallId, CallKind, DispatchRefusal, Event, JOURNAL_TOO_SLOW, Millis, OutgoingCall, Problem,
    Reply, Report, Saga, SagaId,
};

mod begin;
mod breadcrumb;
mod calls;
mod depth;
mod forwarded;
mod headers;
mod news;
mod ownership;
mod repeated;
mod room;
mod suspension;
#[cfg(test)]
mod tests;
mod writes;

use breadcrumb::{Breadcrumb, Crumb};
use repeated::Waiting;
use room::Room;
use suspension::Suspension;

pub use begin::not_handed_over;
pub use headers::{HeadersRead, MAX_HEADER_BYTES};
pub use room::Reserved;

/// Names a callout under way.
pub type Token = u32;

/// Names a client that waits for an answer.
pub type Client = u32;

/// What a coordinator needs of the proxy that it runs in.
pub trait Host: SharedData {
    /// Milliseconds since the Unix epoch; never goes back.
    fn now(&self) -> Millis;
    /// Wall time, in milliseconds since the Unix epoch: goes on while the machine is suspended, and jumps when it is set.
    fn wall_time(&self) -> Millis {
        self.now()
    }
    /// Random bytes for the id of a saga.
    fn random(&mut self) -> [u8; 10];
    /// Sends a call. The answer comes back through [`Coordinator::ended`], once.
    fn dispatch(&mut self, call: &OutgoingCall) -> Result<Token, DispatchRefusal>;
    /// Sends a call of the journal. The answer comes back through [`Coordinator::ended`], once.
    fn ask(&mut self, call: &JournalCall) -> Result<Token, DispatchRefusal>;
    /// Answers a client. One that has gone is ignored.
    fn reply(&mut self, client: Client, reply: &Reply);
    /// Counts something that an operator should be able to see growing.
    fn count(&mut self, counter: Counter);
    /// Bytes that the VM holds beyond what its configurations take, for all of its coordinators. A host that does not
    /// count holds nothing.
    fn allocated_bytes(&self) -> usize {
        0
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counter {
    /// An event did not fit the state of its saga: a defect of this program.
    IllegalEvent,
    /// A saga was marked stuck.
    Stuck,
    /// A configured reply could not be rendered; the client got the default body.
    ReplyNotRendered,
    /// A saga whose VM has gone was resumed by another.
    TakenOver,
    /// A saga goes on in another VM, which took this one for dead.
    GoneElsewhere,
    /// A saga was set aside: nobody can resume it.
    Quarantined,
    /// 404 to a compensation was taken for "nothing to undo".
    NothingToUndo,
    /// A saga without owner is left to a module that can read it.
    LeftAlone,
    /// A request that matches was refused, because nobody would have held it while its saga runs.
    RequestNotHeld,
    /// The body of an answer was not kept, for want of room or as it has too many values.
    AnswerNotKept,
}

impl Counter {
    /// Every counter.
    pub const ALL: [Counter; 10] = [
        Counter::IllegalEvent,
        Counter::Stuck,
        Counter::ReplyNotRendered,
        Counter::TakenOver,
        Counter::GoneElsewhere,
        Counter::Quarantined,
        Counter::NothingToUndo,
        Counter::LeftAlone,
        Counter::RequestNotHeld,
        Counter::AnswerNotKept,
    ];

    /// Name of the metric.
    pub fn name(self) -> &'static str {
        match self {
            Counter::IllegalEvent => "sagabox_illegal_events",
            Counter::Stuck => "sagabox_sagas_stuck",
            Counter::ReplyNotRendered => "sagabox_replies_not_rendered",
            Counter::TakenOver => "sagabox_sagas_taken_over",
            Counter::GoneElsewhere => "sagabox_sagas_gone_elsewhere",
            Counter::Quarantined => "sagabox_sagas_quarantined",
            Counter::NothingToUndo => "sagabox_compensations_not_found",
            Counter::LeftAlone => "sagabox_sagas_left_alone",
            Counter::RequestNotHeld => "sagabox_requests_not_held",
            Counter::AnswerNotKept => "sagabox_answers_not_kept",
        }
    }
}

/// A client's request that matched a definition.
#[derive(Clone, Debug)]
pub struct MatchedRequest {
    /// Who waits for the answer.
    pub client: Client,
    /// The definition that it matched.
    pub definition: Arc<Definition>,
    /// What the match took out of the path.
    pub params: Vec<(String, String)>,
    /// The whole request.
    pub request: ClientRequest,
}

type Key = u64;

/// Who waits for a callout.
#[derive(Debug)]
enum Callout {
    Saga {
        saga: Key,
        id: CallId,
        /// Bytes, for its answer.
        reserved: usize,
    },
    Journal(u64),
}

#[derive(Debug)]
struct Entry {
    saga: Saga,
    client: Option<Client>,
    start: Option<IdempotencyKey>,
    /// Of a first attempt, until the journal has taken its key.
    request: Option<Box<MatchedRequest>>,
    due: Option<Millis>,
}

/// The sagas of one VM. See the module's text.
#[derive(Debug)]
pub struct Coordinator<J> {
    journal: J,
    limits: Limits,
    room: Room,
    forward_headers: Vec<String>,
    sagas: HashMap<Key, Entry>,
    /// By id.
    keys: HashMap<SagaId, Key>,
    clients: HashMap<Client, Key>,
    waiting: Waiting,
    breadcrumb: Breadcrumb,
    suspension: Suspension,
    callouts: HashMap<Token, Callout>,
    due: BTreeSet<(Millis, Key)>,
    next_key: Key,
}

impl<J: Journal> Coordinator<J> {
    /// The only coordinator of its VM, without sagas. `forward_headers` are lower-case.
    pub fn new(journal: J, limits: Limits, forward_headers: Vec<String>) -> Coordinator<J> {
        Coordinator::sharing(Reserved::default(), journal, limits, forward_headers)
    }

    /// The same beside others of its VM, which share what is `reserved`.
    pub fn sharing(reserved: Reserved, journal: J, limits: Limits, forward_headers: Vec<String>) -> Coordinator<J> {
        Coordinator {
            journal,
            room: Room::new(limits.max_bytes, reserved),
            limits,
            forward_headers,
            sagas: HashMap::new(),
            keys: HashMap::new(),
            clients: HashMap::new(),
            waiting: Waiting::default(),
            breadcrumb: Breadcrumb::default(),
            suspension: Suspension::default(),
            callouts: HashMap::new(),
            due: BTreeSet::new(),
            next_key: 0,
        }
    }

    /// A callout has ended. An unknown token is ignored: its saga has gone.
    pub fn ended(&mut self, host: &mut impl Host, token: Token, result: AttemptResult) {
        match self.callouts.remove(&token) {
            Some(Callout::Saga { saga, id, reserved }) => {
                let callback = match id.kind {
                    CallKind::Transaction => "the answer of a transaction",
                    CallKind::Compensation => "the answer of a compensation",
                };
                self.leave_crumb(host, saga, Some(&id), callback);
                self.answered(host, saga, id, result, reserved);
            }
            Some(Callout::Journal(number)) => self.journal_answered(host, number, &result),
            None => log::debug!("callout {token} has ended, but no saga waits for it"),
        }
    }

    /// Does what has become due.
    pub fn due(&mut self, host: &mut impl Host) {
        let now = host.now();
        for crumb in self.breadcrumb.look(host, now) {
            log::error!("a VM of this process has died in the middle of its work: {crumb}");
        }
        self.look_at_owners(host, now);
        let due: Vec<Key> = self.due.range(..=(now, Key::MAX)).map(|(_, key)| *key).collect();
        for key in due {
            self.leave_crumb(host, key, None, "a timer");
            self.feed(host, key, Event::Due);
        }
        self.answer_waiting(host, now);
    }

    /// Whether the answer of a callout is the journal's, and is read whole however large it is.
    pub fn is_of_journal(&self, token: Token) -> bool {
        matches!(self.callouts.get(&token), Some(Callout::Journal(_)))
    }

    /// When [`Coordinator::due`] has something to do if nothing else happens before.
    pub fn next_due(&self) -> Millis {
        let saga = self.due.first().map_or(Millis::MAX, |(due, _)| *due);
        saga.min(self.journal.next_due()).min(self.waiting.next_due())
    }

    /// A client has gone. Its saga goes on.
    pub fn client_gone(&mut self, client: Client) {
        self.waiting.gone(client);
        let Some(key) = self.clients.remove(&client) else { return };
        if planted(Planted::SagaDroppedWithClient) {
            self.forget(key);
        }
        if let Some(entry) = self.sagas.get_mut(&key) {
            entry.client = None;
        }
    }

    /// No saga will begin here any more, and none is under way.
    pub fn leave(&mut self, host: &mut impl Host) {
        self.journal.leave(host);
    }

    /// Sagas under way.
    pub fn open(&self) -> usize {
        self.sagas.len()
    }

    fn add(&mut self, saga: Saga, client: Option<Client>, start: Option<IdempotencyKey>) -> Key {
        self.next_key = self.next_key.wrapping_add(1);
        let key = self.next_key;
        self.clients.extend(client.map(|client| (client, key)));
        self.keys.insert(saga.id().to_owned(), key);
        self.sagas.insert(key, Entry { saga, client, start, request: None, due: None });
        key
    }

    /// Before anything is done for a saga of which the VM may die.
    fn leave_crumb(&mut self, host: &mut impl Host, key: Key, call: Option<&CallId>, callback: &str) {
        let Some(Entry { saga, .. }) = self.sagas.get(&key) else { return };
        let step = call.and_then(|call| saga.definition().steps.get(call.step)).map(|step| step.name.clone());
        let (id, name) = (saga.id().to_owned(), saga.definition().name.clone());
        let crumb = Crumb { saga: id, name, step: step.unwrap_or_default(), callback: callback.to_owned() };
        self.breadcrumb.leave(host, &crumb);
    }

    fn feed(&mut self, host: &mut impl Host, key: Key, event: Event) {
        let now = host.now();
        let actions = self.handle(host, key, event, now);
        self.run(host, key, actions, now);
    }

    fn handle(&mut self, host: &mut impl Host, key: Key, event: Event, now: Millis) -> Vec<Action> {
        let Some(entry) = self.sagas.get_mut(&key) else { return Vec::new() };
        entry.saga.handle(event, now).unwrap_or_else(|illegal| {
            log::error!("saga {}: {illegal}", entry.saga.id());
            host.count(Counter::IllegalEvent);
            Vec::new()
        })
    }

    /// Performs actions, and those that follow from them at once, in order. All of them at the same time `now`: a
    /// call that the proxy refuses at once is due again later at the earliest, so this ends.
    fn run(&mut self, host: &mut impl Host, key: Key, actions: Vec<Action>, now: Millis) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.perform(host, key, action, now) {
                actions.extend(self.handle(host, key, event, now));
            }
        }
        self.reschedule(key);
    }

    fn perform(&mut self, host: &mut impl Host, key: Key, action: Action, now: Millis) -> Option<Event> {
        let entry = self.sagas.get_mut(&key)?;
        match action {
            Action::Write(record) => return self.write(host, key, &record, now),
            // What was refused just before may have made the saga compensate.
            Action::Call(call) if !entry.saga.still_wants(&call.id) => {
                let result = AttemptResult::NotSent(DispatchRefusal::Obsolete);
                return Some(Event::AttemptEnded { id: call.id, result });
            }
            Action::Call(call) => return self.send(host, key, &call),
            // It is not true that it goes on.
            Action::Reply(_) if !entry.saga.has_begun() && self.journal.withdraw(entry.saga.id()) => {
                // Whether another has begun under its key is not known either.
                let refusal = match &self.sagas.get(&key)?.start {
                    None => Problem::overload(JOURNAL_TOO_SLOW),
                    Some(_) => Problem::fate_unknown("the journal does not answer"),
                };
                self.refused_by_journal(host, key, &refusal);
            }
            Action::Reply(reply) => {
                // Its key may turn out to be another's: then there never is a saga of this id.
                let may_never_be = !entry.saga.has_begun() && entry.start.is_some();
                let reply = if may_never_be { Problem::fate_unknown("the journal does not answer") } else { reply };
                if let Some(client) = entry.client.take() {
                    self.clients.remove(&client);
                    let client = if planted(Planted::AnswerToWrongClient) { self.exchanged(client) } else { client };
                    host.reply(client, &reply);
                }
            }
            Action::Report(report) => tell(host, &entry.saga, &report),
            Action::End(state) => {
                log::debug!("saga {} is {}", entry.saga.id(), state.name());
                self.forget(key);
            }
        }
        None
    }

    fn send(&mut self, host: &mut impl Host, key: Key, call: &OutgoingCall) -> Option<Event> {
        let saga = &self.sagas.get(&key)?.saga;
        if self.suspension.look(host.wall_time(), host.now()) {
            self.journal.doubt_ownership(host.now());
        }
        // A turn may take long, and its thread may stop in it.
        let refusal = match self.journal.owns(host, saga.id(), host.now()) {
            Ownership::Ours => match self.dispatch(host, key, call) {
                Ok(()) => return None,
                Err(refusal) => refusal,
            },
            // It can be sent once that is certain again.
            Ownership::Unsure => DispatchRefusal::OwnershipUncertain,
            // Another VM has the saga, and may be sending for it.
            Ownership::Lost => {
                self.goes_on_elsewhere(host, key);
                return None;
            }
        };
        Some(Event::AttemptEnded { id: call.id, result: AttemptResult::NotSent(refusal) })
    }

    /// For [`Planted::AnswerToWrongClient`]: gives the client that has waited longest, whose saga gets this one in its
    /// place; this one where no other waits.
    fn exchanged(&mut self, client: Client) -> Client {
        let Some((other, key)) = self.clients.iter().map(|(other, key)| (*other, *key)).min_by_key(|(_, key)| *key)
        else {
            return client;
        };
        self.clients.remove(&other);
        self.clients.insert(client, key);
        if let Some(entry) = self.sagas.get_mut(&key) {
            entry.client = Some(client);
        }
        other
    }

    fn forget(&mut self, key: Key) {
        let Some(entry) = self.sagas.remove(&key) else { return };
        self.keys.remove(entry.saga.id());
        if let Some(due) = entry.due {
            self.due.remove(&(due, key));
        }
        if let Some(client) = entry.client {
            self.clients.remove(&client);
        }
        // What was needed at the worst moment would count for ever.
        if self.sagas.len() < self.sagas.capacity() / 8 {
            self.sagas.shrink_to(self.sagas.capacity() / 4);
        }
    }

    fn reschedule(&mut self, key: Key) {
        let Some(entry) = self.sagas.get_mut(&key) else { return };
        let due = entry.saga.next_due();
        if due != entry.due {
            if let Some(before) = entry.due {
                self.due.remove(&(before, key));
            }
            self.due.extend(due.map(|due| (due, key)));
            entry.due = due;
        }
    }
}

/// The answer to a request whose body is larger than `limit` bytes.
pub fn too_large(limit: usize) -> Reply {
    let detail = format!("a request that begins a saga may have a body of at most {limit} bytes");
    Problem::new(413, "body-too-large", "The body is too large", detail).into_reply()
}

fn too_large_for_the_journal() -> Reply {
    let detail = "the journal takes nothing as large as what this request begins".to_owned();
    Problem::new(413, "saga-too-large", "The saga is too large", detail).into_reply()
}

fn tell(host: &mut impl Host, saga: &Saga, report: &Report) {
    let name = &saga.definition().name;
    match report {
        Report::Stuck { reason } => {
            log::warn!("saga {} ({name}) is stuck, and goes on trying: {reason}", saga.id());
            host.count(Counter::Stuck);
        }
        Report::ReplyNotRendered { reason } => {
            log::warn!("saga {} ({name}): its reply is the default one: {reason}", saga.id());
            host.count(Counter::ReplyNotRendered);
        }
        Report::NothingToUndo { step } => {
            log::warn!("saga {} ({name}): 404 says that step `{step}` has nothing to undo", saga.id());
            host.count(Counter::NothingToUndo);
        }
    }
}
