//! The saga: a value that takes events and gives actions.
//!
//! ```text
//!              Saga::begin ------------------+
//!                                            v
//!   Written ----------+                  [ advance ] --> Action::Write(record)     nothing is sent before
//!   AttemptEnded -----+--> handle ----->  forward or     ... Event::Written ...    the record that implies
//!   Due --------------+    (settle)       backward   --> Action::Call, Reply       it is durable
//! ```
//!
//! [`Saga::handle`] is pure: no host call, no clock, no randomness. Whoever drives it (see [`crate::coordinator`])
//!
//! - performs every [`Action`] in order and feeds what becomes of it back as an [`Event`];
//! - calls it with [`Event::Due`] once [`Saga::next_due`] has passed, and asks `next_due` anew after every call;
//! - drops it after [`Action::End`].
//!
//! Words are those of Garcia-Molina and Salem, "Sagas" (SIGMOD 1987).

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::definition::{Call, Definition, Step, StepIndex};
use crate::planted::{Planted, planted};
use crate::template::Facts;

mod attempt_result;
mod attempts;
mod backward;
mod begin;
mod call;
mod compensations;
mod forward;
pub mod outcome;
pub mod record;
mod reply;
mod resume;
pub mod retry;
mod shrink;
mod state;
pub(crate) mod step_states;
mod told;
mod transactions;
mod wal;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::definitions as definitions_for_tests;

pub use crate::answer::{Problem, Reply};
pub use attempt_result::{AttemptResult, DispatchRefusal};
use attempts::Runtime;
pub use begin::{Begin, BeginRefused};
pub use call::{CallError, CallId, CallKind, Envelope, MAX_DEPTH, OutgoingCall, Request};
use record::{Change, Progress, Record, StepProgress};
pub(crate) use reply::JOURNAL_TOO_SLOW;
pub use resume::{NotResumable, Resume};

pub use state::{IllegalTransition, SagaState, StepState};
use told::Told;
pub use wal::Bounds;
use wal::{ChangeNumber, Wal};

/// Milliseconds since the Unix epoch.
pub type Millis = u64;

/// UUIDv7 in its usual text form.
pub type SagaId = String;

/// How long past the deadline a client is kept before it gets 504.
pub const CLIENT_GRACE_MS: u64 = 5_000;

/// How long a saga compensates before it is marked `stuck`.
pub const STUCK_AFTER_MS: u64 = 5 * 60 * 1_000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The journal holds every record up to this sequence.
    Written {
        /// As in [`Record::sequence`].
        sequence: u64,
    },
    /// The journal takes no record as large as that of this sequence. Nothing of it was written.
    TooLarge {
        /// As in [`Record::sequence`].
        sequence: u64,
    },
    /// An attempt has ended, one way or another. Due exactly once for every [`Action::Call`].
    AttemptEnded {
        /// As in [`OutgoingCall::id`].
        id: CallId,
        /// What came of it.
        result: AttemptResult,
    },
    /// [`Saga::next_due`] has passed. Harmless when it has not.
    Due,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the record durable, then say [`Event::Written`]. A saga has at most one write outstanding.
    Write(Arc<Record>),
    /// Send a call, and say [`Event::AttemptEnded`] when it has ended.
    Call(OutgoingCall),
    /// Answer the client, if it is still there. At most once for a saga.
    Reply(Reply),
    /// Tell the operator.
    Report(Report),
    /// The saga has ended: forget it.
    End(SagaState),
}

/// What an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The saga does not get on by itself; it is still retried.
    Stuck {
        /// Why.
        reason: String,
    },
    /// The configured reply could not be rendered, or is larger than the journal takes; the client gets the default body.
    ReplyNotRendered {
        /// The expression and why.
        reason: String,
    },
    /// 404 was taken for "nothing to undo": it was answered for long enough.
    NothingToUndo {
        /// Name of the step.
        step: String,
    },
}

/// An event that does not fit the state. It has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllegalEvent {
    /// What arrived and what was expected.
    pub reason: String,
}

impl std::fmt::Display for IllegalEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for IllegalEvent {}

/// One saga under way.
#[derive(Clone, Debug)]
pub struct Saga {
    definition: Arc<Definition>,
    epoch: u32,
    progress: Progress,
    /// What is not recorded: attempts and back-offs. One for each step.
    runtime: Vec<Runtime>,
    wal: Wal,
    bounds: Bounds,
    /// What the journal has acknowledged, as far as clients are told of it.
    told: Told,
    /// What of `told` the record that is outstanding will make.
    told_next: Told,
    /// The deadline has passed before the journal had the first record: nothing was sent.
    begun_too_late: bool,
    /// That it does not get on by itself was said, by this owner or one before.
    said_stuck: bool,
    /// It ends, or has ended, as one that has sent nothing: the same request may begin anew.
    ends_unsent: bool,
    /// When the end was decided.
    ended_at: Option<Millis>,
    /// When compensating began.
    compensating_since: Millis,
    /// The client has its answer.
    answered: bool,
    /// The end has been acted upon.
    over: bool,
    actions: Vec<Action>,
}

impl Saga {
    /// Takes an event and the time; gives what is to be done now, in order. An event that does not fit is an error and
    /// changes nothing.
    pub fn handle(&mut self, event: Event, now: Millis) -> Result<Vec<Action>, IllegalEvent> {
        match event {
            Event::Written { sequence } => self.acknowledged(sequence)?,
            Event::TooLarge { sequence } => self.shrink(sequence, now)?,
            Event::AttemptEnded { id, result } => self.attempt_ended(id, &result, now)?,
            Event::Due => {}
        }
        self.advance(now);
        Ok(std::mem::take(&mut self.actions))
    }

    /// When to call [`Saga::handle`] with [`Event::Due`] if nothing else happens before; none: only events matter.
    pub fn next_due(&self) -> Option<Millis> {
        if self.over {
            return None;
        }
        let deadline = (self.state() == SagaState::Running).then(|| self.deadline());
        let client = (!self.answered).then(|| self.client_waits_until());
        // One that waits for its begin is stuck only with the journal.
        let stuck = (self.state() == SagaState::Compensating && self.stuck().is_none() && !self.begun_too_late)
            .then(|| self.compensating_since.saturating_add(STUCK_AFTER_MS));
        // An end that the journal does not take leaves the saga where it is, for all that others see.
        let unended = self.ended_at.filter(|_| !self.said_stuck).map(|at| at.saturating_add(STUCK_AFTER_MS));
        let steps = self.runtime.iter().filter_map(Runtime::next_due);
        // A fault that never writes for time alone must not wake for it either: it would wake for ever.
        let wal = if planted(Planted::WrittenOnlyWhenAwaited) { None } else { self.wal.next_due() };
        steps.chain(deadline).chain(client).chain(stuck).chain(unended).chain(wal).min()
    }

    /// As in `saga-id`.
    pub fn id(&self) -> &str {
        self.progress.begun.as_ref().map_or("", |begun| &begun.id)
    }

    /// As in `saga-epoch`.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The definition under which the saga began.
    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Whether the journal has its first record.
    pub fn has_begun(&self) -> bool {
        self.wal.has_begun()
    }

    /// Where the saga is.
    pub fn state(&self) -> SagaState {
        self.progress.state
    }

    /// The recorded part, as a replay of its records restores it.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Why the saga does not get on by itself, if so.
    pub fn stuck(&self) -> Option<&str> {
        self.progress.stuck.as_ref().map(|stuck| stuck.reason.as_str())
    }

    /// Bytes that the journal holds of the saga, or will once it has every change, about.
    fn recorded_bytes(&self) -> usize {
        let begun = self.progress.begun.as_ref().map_or(0, |begun| record::text_bytes(&begun.request));
        let kept: usize = self.progress.facts.values().map(record::text_bytes).sum();
        let calls = |step: &StepProgress| {
            let calls = [&step.request, &step.compensation];
            calls.into_iter().flatten().map(|request| request.held_bytes()).sum::<usize>()
        };
        begun + kept + self.progress.steps.iter().map(calls).sum::<usize>()
    }

    fn deadline(&self) -> Millis {
        let late = if planted(Planted::DeadlineIgnored) { 24 * 60 * 60 * 1_000 } else { 0 };
        self.deadline_of_record().saturating_add(late)
    }

    /// What participants are told: also by a saga that ignores it.
    fn deadline_of_record(&self) -> Millis {
        self.progress.begun.as_ref().map_or(0, |begun| begun.deadline)
    }

    /// From when on the client is told that the saga goes on.
    pub fn client_waits_until(&self) -> Millis {
        self.deadline().saturating_add(CLIENT_GRACE_MS)
    }

    fn acknowledged(&mut self, sequence: u64) -> Result<(), IllegalEvent> {
        self.wal.acknowledged(sequence).map_err(|outstanding| not_outstanding(sequence, outstanding))?;
        self.told.clone_from(&self.told_next);
        Ok(())
    }

    /// Does everything that the state and the time allow. The one place from which actions come.
    fn advance(&mut self, now: Millis) {
        if self.over {
            return;
        }
        self.let_attempts_expire(now);
        if self.state() == SagaState::Running {
            self.go_forward(now);
        }
        if self.state() == SagaState::Compensating {
            self.go_backward(now);
        }
        self.write_what_is_due(now);
        self.send_what_is_due(now);
        self.answer(now);
    }

    /// Makes a change and remembers that no record holds it yet. Gives its number.
    fn change(&mut self, change: Change, now: Millis) -> ChangeNumber {
        match self.progress.apply(&change) {
            Ok(()) => self.wal.push(change, now),
            // Every caller has looked at the state before; were one wrong, the saga stays where it is, and says so.
            Err(illegal) => {
                log::error!("saga {}: {illegal}", self.id());
                ChangeNumber::MAX
            }
        }
    }

    /// Emits a record, if something waits for one, or has not been written for long, and none is outstanding.
    fn write_what_is_due(&mut self, now: Millis) {
        let is_awaited = self.state().has_ended() || self.runtime.iter().any(|step| step.awaits_record(&self.wal));
        // Clients are told so, and then another owner must not decide otherwise.
        let tells = || self.wal.unwritten().iter().any(|change| matches!(change, Change::Compensating(_)));
        let is_due = || self.wal.next_due().is_some_and(|due| due <= now);
        if !is_awaited && (planted(Planted::WrittenOnlyWhenAwaited) || !(tells() || is_due())) {
            return;
        }
        let Some(record) = self.wal.next_record(self.bounds, now) else { return };
        record.changes.iter().for_each(|change| self.told_next.acknowledge(change));
        self.actions.push(Action::Write(record));
    }

    /// Answers the client: with the end once that is durable, or that the saga goes on once it has waited long enough.
    fn answer(&mut self, now: Millis) {
        if self.state().has_ended() && self.wal.is_settled() {
            self.over = true;
            if let Some(reply) = self.progress.reply.clone().filter(|_| !self.answered) {
                self.answered = true;
                self.actions.push(Action::Reply(reply));
            }
            self.actions.push(Action::End(self.state()));
            return;
        }
        if self.ended_at.is_some_and(|at| now >= at.saturating_add(STUCK_AFTER_MS)) {
            self.mark_stuck("the journal does not take its end".to_owned(), now);
        }
        if !self.answered && now >= self.client_waits_until() {
            self.answered = true;
            let reply = if self.ends_unsent { self.perhaps_unsent_reply() } else { self.still_working_reply() };
            self.actions.push(Action::Reply(reply));
        } else if planted(Planted::ToldBeforeDone) && !self.answered && self.last_step_is_under_way() {
            self.answered = true;
            let reply = self.reply_at_end(SagaState::Completed);
            self.actions.push(Action::Reply(reply));
        } else if planted(Planted::ToldBeforeWritten) && !self.answered && self.state().has_ended() {
            self.answered = true;
            self.actions.extend(self.progress.reply.clone().map(Action::Reply));
        }
    }

    /// For [`Planted::ToldBeforeDone`]: true where the saga completes if the one step in flight succeeds.
    fn last_step_is_under_way(&self) -> bool {
        let mut left = self.progress.steps.iter().filter(|step| !step.state.lets_successors_start());
        let last = left.next().is_some_and(|step| step.state == StepState::InFlight) && left.next().is_none();
        last && self.state() == SagaState::Running
    }

    fn step(&self, index: StepIndex) -> Option<&Step> {
        self.definition.steps.get(index)
    }

    fn step_state(&self, index: StepIndex) -> Option<StepState> {
        self.progress.steps.get(index).map(|step| step.state)
    }

    fn step_indices(&self) -> std::ops::Range<StepIndex> {
        0..self.definition.steps.len()
    }

    /// What later expressions may keep of a step: its request and response, as far as they are read.
    fn kept_facts(&self, step: &Step, request: Option<&Request>, response: Json) -> Json {
        let prefix = ["steps", step.name.as_str()];
        let mut facts = json!({ "response": response });
        if let (Some(request), Some(facts)) = (request, facts.as_object_mut())
            && self.definition.reads.any_under(&["steps", &step.name, "request"])
        {
            facts.insert("request".to_owned(), request.facts());
        }
        self.definition.reads.project(&prefix, &facts)
    }

    /// Renders a call of a step. `transaction` is what the compensation reads under that name.
    fn render(&self, call: &Call, transaction: Option<&Json>) -> Result<Request, CallError> {
        let saga = self.saga_facts();
        Request::render(call, &self.facts(&saga, transaction))
    }

    fn facts<'a>(&'a self, saga: &'a Json, transaction: Option<&'a Json>) -> Facts<'a> {
        Facts {
            request: self.progress.begun.as_ref().map(|begun| &begun.request),
            steps: Some(&self.progress.facts),
            saga: Some(saga),
            transaction,
            response: None,
        }
    }

    /// `saga` as calls and conditions read it.
    fn saga_facts(&self) -> Json {
        json!({ "id": self.id(), "name": self.definition.name })
    }

    fn envelope<'a>(&'a self, step: &'a Step) -> Envelope<'a> {
        Envelope {
            saga_id: self.id(),
            saga_name: &self.definition.name,
            step: &step.name,
            epoch: self.epoch,
            forwarded: self.progress.begun.as_ref().map_or(&[], |begun| &begun.forwarded),
            depth: self.progress.begun.as_ref().map_or(1, |begun| begun.depth),
        }
    }
}

fn not_outstanding(sequence: u64, outstanding: Option<u64>) -> IllegalEvent {
    IllegalEvent { reason: format!("the journal says something of record {sequence}, outstanding is {outstanding:?}") }
}
