//! Simulated participants: they keep their word as the real ones do (`crate::participant`), in memory.
//!
//! Transactions and compensations are idempotent under their key; a compensation accepts that its transaction never
//! happened; and once it was applied, the same transaction arriving late is refused. They keep a key, and the tombstone of
//! a compensation, for as long as the definition says, and a call has that long to arrive: what it is compared with is the
//! time at which it was sent.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use rand::Rng;
use rand_pcg::Pcg64Mcg;

use super::history::{CallId, CallRecord, Deed};
use super::host::Nanos;
use crate::participant::{Action, Fault, Faults};

/// What a participant answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// JSON, where there is a body.
    pub body: Option<Json>,
}

impl Answer {
    /// An error that says why.
    pub fn error(status: u16, why: &str) -> Answer {
        Answer { status, body: Some(json!({"error": why})) }
    }
}

#[derive(Debug)]
struct Booking {
    id: String,
    key: String,
    step: (String, String),
    guest: String,
    answer: Json,
    cancelled: bool,
    made_at: Nanos,
}

/// How large an answer is that is large, in bytes.
const LARGE_BYTES: std::ops::Range<usize> = 500_000..900_000;

/// One participant.
#[derive(Debug, Default)]
pub struct Participant {
    role: String,
    bookings: Vec<Booking>,
    /// Tombstones, each with when it was made.
    buried_keys: BTreeMap<String, Nanos>,
    buried_steps: BTreeMap<(String, String), Nanos>,
    /// When each key of a transaction was seen first.
    keys: BTreeMap<String, Nanos>,
    guests: BTreeMap<String, String>,
    /// Faults for single guests.
    pub faults: Faults,
    /// Keys on which it is working.
    pub busy: BTreeSet<String>,
    /// Keys of transactions on which it is working so that nothing shows before it is done, each with when its attempt
    /// times out.
    pub hidden: BTreeMap<String, Nanos>,
    /// For how long it keeps keys and tombstones; none: for ever.
    pub key_lifetime: Option<Nanos>,
    /// Some of its answers are large: drawn from this.
    pub large_answers: Option<Pcg64Mcg>,
    /// Whether it refuses a step of a saga; once it was asked, for good.
    pub refuses: BTreeMap<(String, String), bool>,
    /// Calls that it has put off: a copy that arrives later is put off, too. Were it done, nobody would undo it, since
    /// "not now" is an answer that says that nothing was done.
    pub put_off: BTreeSet<CallId>,
    /// So many reasons to be down.
    pub down: u32,
}

impl Participant {
    /// One without bookings. Their ids will begin with `role`.
    pub fn new(role: &str) -> Participant {
        Participant { role: role.to_owned(), ..Participant::default() }
    }

    /// The fault that acts on this call. Whose call it is, is found out as a real participant does.
    pub fn take_fault(&mut self, call: &CallRecord) -> Option<Fault> {
        let saga = call.header("saga-id").to_owned();
        if call.is_compensation() {
            let booking = self.find(call.header(":path")).map(|index| self.bookings[index].guest.clone());
            let guest = booking.or_else(|| self.guests.get(&saga).cloned())?;
            return self.faults.take(&guest, Action::Compensation);
        }
        let guest = body(call)?.get("guest")?.as_str()?.to_owned();
        self.guests.insert(saga, guest.clone());
        self.faults.take(&guest, Action::Transaction)
    }

    /// A call has come to it: from now on it knows its key.
    pub fn sees(&mut self, call: &CallRecord, now: Nanos) {
        let key = call.header("idempotency-key");
        if self.keys.get(key).is_none_or(|since| self.forgets(*since, call.at)) {
            self.keys.insert(key.to_owned(), now);
        }
    }

    /// Whether it has forgotten what it has known since then when a call comes that was sent at this time.
    fn forgets(&self, since: Nanos, sent: Nanos) -> bool {
        self.key_lifetime.is_some_and(|lifetime| since + lifetime < sent)
    }

    /// Whether it works on a transaction of which a compensation that comes now does not find anything.
    pub fn hides(&self, compensation: &CallRecord, now: Nanos) -> bool {
        let (saga, step) = step(compensation);
        let until = self.hidden.get(&format!("{saga}.{step}.t"));
        until.is_some_and(|until| now < *until)
    }

    /// Does what a call asks for, as far as it can be granted.
    pub fn apply(&mut self, call: &CallRecord, now: Nanos) -> (Answer, Deed) {
        match (call.header(":method"), call.header(":path")) {
            ("POST", "/bookings") => self.book(call, now),
            ("DELETE", path) if path.starts_with("/bookings/") => self.cancel(call, now),
            _ => (Answer::error(404, "no such route"), Deed::Nothing),
        }
    }

    /// What a success looks like that was none.
    pub fn pretended(call: &CallRecord) -> Answer {
        if call.is_compensation() {
            Answer { status: 200, body: Some(json!({"state": "cancelled"})) }
        } else {
            Answer { status: 201, body: Some(json!({})) }
        }
    }

    /// Guests with a booking that stands.
    pub fn held(&self) -> BTreeSet<String> {
        let held = self.bookings.iter().filter(|booking| !booking.cancelled);
        held.map(|booking| booking.guest.clone()).collect()
    }

    /// Bookings that stand of a step of a saga, and those that do not.
    pub fn bookings(&self, saga: &str, step: &str) -> (usize, usize) {
        let of_step = |booking: &&Booking| booking.step.0 == saga && booking.step.1 == step;
        let (cancelled, held): (Vec<_>, Vec<_>) = self.bookings.iter().filter(of_step).partition(|one| one.cancelled);
        (held.len(), cancelled.len())
    }

    /// The bookings of a saga in the order in which they were made: id, step, and whether it stands.
    pub fn bookings_of(&self, saga: &str) -> impl Iterator<Item = (&str, &str, bool)> {
        let of_saga = self.bookings.iter().filter(move |booking| booking.step.0 == saga);
        of_saga.map(|booking| (booking.id.as_str(), booking.step.1.as_str(), !booking.cancelled))
    }

    fn book(&mut self, call: &CallRecord, now: Nanos) -> (Answer, Deed) {
        let asked = body(call);
        let Some((Json::Object(asked), guest)) =
            asked.map(|asked| (asked.clone(), asked["guest"].as_str().map(str::to_owned)))
        else {
            return (Answer::error(422, "expected a JSON object with a guest"), Deed::Nothing);
        };
        let Some(guest) = guest else {
            return (Answer::error(422, "expected a JSON object with a guest"), Deed::Nothing);
        };
        let key = call.header("idempotency-key").to_owned();
        let step = step(call);
        let buried = [self.buried_keys.get(&key), self.buried_steps.get(&step)];
        if buried.into_iter().flatten().any(|since| !self.forgets(*since, call.at)) {
            return (Answer::error(409, "it was compensated, which is final"), Deed::Nothing);
        }
        // What it has done under a key that it has forgotten it does not know to be the same.
        let known_since = self.keys.get(&key).copied().unwrap_or(0);
        let before = self.bookings.iter().find(|booking| booking.key == key && booking.made_at >= known_since);
        if let Some(before) = before {
            return (Answer { status: 201, body: Some(before.answer.clone()) }, Deed::AppliedBefore);
        }
        let id = format!("{}-{}", self.role, self.bookings.len() + 1);
        let mut answer = asked;
        answer.insert("id".to_owned(), id.clone().into());
        if let Some(random) = &mut self.large_answers {
            let bytes = random.random_range(LARGE_BYTES);
            answer.insert("note".to_owned(), "x".repeat(bytes).into());
        }
        let answer = Json::Object(answer);
        self.bookings.push(Booking { id, key, step, guest, answer: answer.clone(), cancelled: false, made_at: now });
        (Answer { status: 201, body: Some(answer) }, Deed::Applied)
    }

    fn cancel(&mut self, call: &CallRecord, now: Nanos) -> (Answer, Deed) {
        let path = call.header(":path");
        let deed = match self.find(path).and_then(|index| self.bookings.get_mut(index)) {
            Some(booking) => {
                let before = std::mem::replace(&mut booking.cancelled, true);
                self.buried_keys.insert(booking.key.clone(), now);
                self.buried_steps.insert(booking.step.clone(), now);
                self.buried_steps.insert(step(call), now);
                if before { Deed::CompensatedBefore } else { Deed::Compensated }
            }
            None => match path.strip_prefix("/bookings/by-key/") {
                Some(key) => {
                    self.buried_steps.insert(step(call), now);
                    if self.buried_keys.insert(key.to_owned(), now).is_none() {
                        Deed::Buried
                    } else {
                        Deed::CompensatedBefore
                    }
                }
                None => return (Answer::error(404, "no such booking"), Deed::Nothing),
            },
        };
        (Answer { status: 204, body: None }, deed)
    }

    fn find(&self, path: &str) -> Option<usize> {
        match path.strip_prefix("/bookings/by-key/") {
            // The last: of another, made before the key was forgotten, whoever asks does not know.
            Some(key) => self.bookings.iter().rposition(|booking| booking.key == key),
            None => {
                let id = path.strip_prefix("/bookings/")?;
                self.bookings.iter().position(|booking| booking.id == id)
            }
        }
    }
}

/// The saga and the step that a call names.
pub fn step(call: &CallRecord) -> (String, String) {
    (call.header("saga-id").to_owned(), call.header("saga-step").to_owned())
}

fn body(call: &CallRecord) -> Option<Json> {
    serde_json::from_slice(&call.callout.body).ok()
}
