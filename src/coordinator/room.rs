//! Whether there is room in the VM's memory for what is about to come into it.
//!
//! What is held is what the allocator gave ([`super::Host::allocated_bytes`]), whatever it is for: requests, sagas, answers,
//! records on their way, clients that wait; of all coordinators of the VM. On top of that comes what is reserved: each
//! transaction under way has reserved what its answer may add, so that there is room when it arrives.
//!
//! | what comes | may come while |
//! | --- | --- |
//! | a saga that begins | seven eighths of `max_bytes` hold it with what its calls reserve: those under way get on |
//! | a transaction to be sent, a client that waits, an answer of a transaction | `max_bytes` hold it |
//! | a saga that is taken over | `max_bytes` hold it, or it is the only one |
//! | a compensation or a resolving transaction to be sent | always |
//! | their answers | half as much again as `max_bytes` holds it, or it is small |
//!
//! What undoes a saga is never kept waiting: were it to wait for room, a VM full of sagas that have to be undone would wait
//! for itself. Small answers are let in for the same reason: one that resolves a step is what its compensation is made of.
//! Sagas that run may all wait for room: their deadlines end that.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use super::{Host, MatchedRequest};
use crate::definition::{Definition, StepIndex};
use crate::facts::{MAX_VALUES, ParticipantResponse, Weight};
use crate::planted::{Planted, planted};
use crate::saga::{Problem, Reply};

/// What is reserved for the answer of a step of which none has come yet.
const FIRST_RESERVATION: usize = 1 << 10;
/// What a saga takes by itself, without its request.
const SAGA: usize = 4 << 10;
/// An answer to what undoes a saga that is let in whatever is held.
const SMALL_ANSWER: usize = 16 << 10;

/// What all coordinators of one VM have reserved, in bytes: they share its memory.
#[derive(Clone, Debug, Default)]
pub struct Reserved(Rc<Cell<usize>>);

impl Reserved {
    fn add(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    fn sub(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_sub(bytes));
    }
}

/// Why a call was sent whose answer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To do something.
    Forward,
    /// To undo it, or to learn what there is to undo.
    Backward,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Room {
    max_bytes: usize,
    reserved: Reserved,
    /// Of `reserved`, what is this coordinator's.
    own: usize,
    /// What answers have added lately: by the name of the saga, then by step.
    marks: HashMap<String, Vec<usize>>,
}

impl Room {
    pub(super) fn new(max_bytes: usize, reserved: Reserved) -> Room {
        Room { max_bytes, reserved, own: 0, marks: HashMap::new() }
    }

    /// Bytes that are neither held nor reserved.
    pub(super) fn free(&self, host: &impl Host) -> usize {
        self.free_of(self.max_bytes, host)
    }

    fn free_of(&self, limit: usize, host: &impl Host) -> usize {
        limit.saturating_sub(host.allocated_bytes()).saturating_sub(self.reserved.0.get())
    }

    /// What sagas that begin may fill.
    fn limit_of_begin(&self) -> usize {
        self.max_bytes - self.max_bytes / 8
    }

    fn free_for_begin(&self, host: &impl Host) -> usize {
        self.free_of(self.limit_of_begin(), host)
    }

    /// What a saga may add that a request begins, about.
    pub(super) fn cost_of_begin(&self, host: &impl Host, matched: &MatchedRequest) -> Result<usize, NeverFits> {
        if planted(Planted::BodyNotWeighed) {
            return Ok(0);
        }
        let MatchedRequest { definition, request, .. } = matched;
        let weight = Weight::of(&request.body, self.free_for_begin(host) / 8);
        if weight.has_too_many_values {
            return Err(NeverFits::TooManyValues);
        }
        // What was received, and what of it is kept: both are there for a moment.
        let of_request = weight.bytes.saturating_add(header_bytes(&request.headers)).saturating_mul(2);
        if of_request > self.limit_of_begin() {
            return Err(NeverFits::TooLarge);
        }
        let steps = definition.steps.len();
        let answers = (0..steps).map(|step| self.reservation(definition, step)).fold(0, usize::saturating_add);
        // Each call may carry the body. However many there are: into an empty VM the saga must fit.
        let calls = request.body.len().saturating_mul(steps);
        let quarter = self.max_bytes / 4;
        Ok(of_request.saturating_add(answers.min(quarter)).saturating_add(calls.min(quarter)).saturating_add(SAGA))
    }

    /// Whether a saga may begin that adds so much.
    pub(super) fn takes(&self, host: &impl Host, cost: usize) -> bool {
        cost <= self.free_for_begin(host)
    }

    /// Reserves room for the answer of a step, and says how much. None: there is none.
    pub(super) fn reserve(&mut self, host: &impl Host, definition: &Definition, step: StepIndex) -> Option<usize> {
        let bytes = self.reservation(definition, step);
        if bytes > self.free(host) {
            return None;
        }
        self.reserved.add(bytes);
        self.own = self.own.saturating_add(bytes);
        Some(bytes)
    }

    pub(super) fn release(&mut self, bytes: usize) {
        if planted(Planted::ReservationKept) {
            return;
        }
        self.reserved.sub(bytes);
        self.own = self.own.saturating_sub(bytes);
    }

    /// Takes the body from an answer for which there is no room; it is then as one above `max_body`. `reserved` was
    /// reserved for it until now.
    pub(super) fn let_in(
        &self,
        host: &impl Host,
        answer: &mut ParticipantResponse,
        purpose: Purpose,
        reserved: usize,
    ) -> Result<(), NoRoomFor> {
        let Some(body) = &answer.body else { return Ok(()) };
        if planted(Planted::AnswersNotCounted) {
            return Ok(());
        }
        let (free, small) = match purpose {
            Purpose::Forward => (self.free(host), reserved),
            Purpose::Backward => (self.free_of(self.max_bytes.saturating_add(self.max_bytes / 2), host), SMALL_ANSWER),
        };
        let weight = Weight::of(body, free / 2);
        // The tree, and what is kept of it.
        let fits = weight.bytes <= small || weight.bytes.saturating_mul(2) <= free;
        if fits && !weight.has_too_many_values {
            return Ok(());
        }
        let bytes = body.len();
        answer.body = None;
        Err(NoRoomFor { bytes, weight })
    }

    /// An answer of a step has added so much.
    pub(super) fn learn(&mut self, definition: &Definition, step: StepIndex, added: usize) {
        let most = self.largest_reservation();
        if !self.marks.contains_key(&definition.name) {
            self.marks.insert(definition.name.clone(), Vec::new());
        }
        let Some(marks) = self.marks.get_mut(&definition.name) else { return };
        if marks.len() <= step {
            marks.resize(step.saturating_add(1), FIRST_RESERVATION);
        }
        let Some(mark) = marks.get_mut(step) else { return };
        // A single large answer is forgotten after some dozens of small ones.
        *mark = added.max(*mark - *mark / 16).max(FIRST_RESERVATION).min(most);
    }

    /// For the next answer of a step: what the largest of the last ones has added.
    fn reservation(&self, definition: &Definition, step: StepIndex) -> usize {
        let mark = self.marks.get(&definition.name).and_then(|marks| marks.get(step));
        mark.copied().unwrap_or(FIRST_RESERVATION).min(self.largest_reservation())
    }

    /// Whatever answers add, some calls can be under way.
    fn largest_reservation(&self) -> usize {
        self.max_bytes / 16
    }
}

impl Drop for Room {
    /// Nothing comes any more for which a coordinator has reserved that goes.
    fn drop(&mut self) {
        self.reserved.sub(self.own);
    }
}

/// Why a request begins no saga, however much is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NeverFits {
    /// Its body has more values than may be parsed.
    TooManyValues,
    /// It takes more than sagas may fill.
    TooLarge,
}

impl NeverFits {
    pub(super) fn reply(self) -> Reply {
        match self {
            NeverFits::TooManyValues => {
                let detail = format!("the body of a request that begins a saga may have at most {MAX_VALUES} values");
                Problem::new(413, "too-many-values", "The body has too many values", detail).into_reply()
            }
            NeverFits::TooLarge => {
                let detail = "the request takes more memory than this proxy gives to all sagas".to_owned();
                Problem::new(413, "body-too-large", "The body is too large", detail).into_reply()
            }
        }
    }
}

/// An answer for whose body there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoomFor {
    pub(super) bytes: usize,
    pub(super) weight: Weight,
}

impl std::fmt::Display for NoRoomFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let NoRoomFor { bytes, weight } = self;
        write!(f, "an answer of {bytes} bytes was not kept: ")?;
        match weight.has_too_many_values {
            true => f.write_str("it has too many values"),
            false => write!(f, "of limits.max_bytes not as much is free as it may take, {} bytes", weight.bytes),
        }
    }
}

/// What headers take, as they came and as values.
pub(super) fn header_bytes(headers: &[(String, Vec<u8>)]) -> usize {
    let of_one = |(name, value): &(String, Vec<u8>)| name.len().saturating_add(value.len()).saturating_add(96);
    headers.iter().map(of_one).fold(0, usize::saturating_add)
}
