//! Attempts of the calls of a step: what is under way, what waits, and what an ended attempt means.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::call::{CallId, CallKind, Request};
use super::outcome::{Outcome, Sent, classify};
use super::record::{Change, Settlement};
use super::retry::{back_off, back_off_asked, jitter};
use super::{Action, AttemptResult, IllegalEvent, Millis, Report, Saga, SagaState};
use crate::definition::{Retry, Step, StepIndex};
use crate::planted::{Planted, planted};

/// What of a step is not recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Runtime {
    pub(super) transaction: Attempts,
    pub(super) compensation: Attempts,
    /// Rendered before the transaction is sent, where the compensation does not read its answer.
    pub(super) early_compensation: Option<Box<Request>>,
    /// The transaction is sent again only to learn whether it was done.
    pub(super) resolving: bool,
}

/// The attempts of one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts {
    pub(super) activity: Activity,
    /// Attempts that left the proxy.
    sent: u32,
    /// Attempts that failed, those that never left included: they drive the back-off.
    failures: u32,
    /// Some attempt may have been done without our knowing.
    pub(super) saw_unknown: bool,
    /// Why the last attempt failed.
    pub(super) reason: String,
    /// The next attempt is not due before then, whatever record it awaits.
    pub(super) not_before: Millis,
}

/// What a call is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
    #[default]
    Idle,
    /// To be sent as soon as the record of this sequence is durable.
    AwaitingRecord(u64),
    /// An attempt is under way.
    InFlight,
    /// To be sent as soon as [`Attempts::not_before`] has passed.
    BackingOff,
}

impl Runtime {
    pub(super) fn next_due(&self) -> Option<Millis> {
        let mut calls = [&self.transaction, &self.compensation].into_iter();
        calls.find(|attempts| attempts.activity == Activity::BackingOff).map(|attempts| attempts.not_before)
    }

    /// True where a call can be sent only after the record of that sequence.
    pub(super) fn waits_for(&self, sequence: u64) -> bool {
        let awaiting = Activity::AwaitingRecord(sequence);
        self.transaction.activity == awaiting || self.compensation.activity == awaiting
    }

    pub(super) fn attempts(&mut self, kind: CallKind) -> &mut Attempts {
        match kind {
            CallKind::Transaction => &mut self.transaction,
            CallKind::Compensation => &mut self.compensation,
        }
    }
}

impl Saga {
    /// Sends every call whose record is durable and whose back-off is over.
    pub(super) fn send_what_is_due(&mut self, now: Millis) {
        for index in self.step_indices() {
            for kind in [CallKind::Transaction, CallKind::Compensation] {
                let durable = self.durable;
                let Some(attempts) = self.runtime.get_mut(index).map(|step| step.attempts(kind)) else { continue };
                if matches!(attempts.activity, Activity::AwaitingRecord(sequence) if sequence <= durable) {
                    attempts.activity = Activity::BackingOff;
                }
                if attempts.activity == Activity::BackingOff && attempts.not_before <= now {
                    self.send(index, kind);
                }
            }
        }
    }

    fn send(&mut self, index: StepIndex, kind: CallKind) {
        let Some(attempts) = self.runtime.get_mut(index).map(|step| step.attempts(kind)) else { return };
        attempts.sent = attempts.sent.saturating_add(1);
        attempts.activity = Activity::InFlight;
        let id = CallId { step: index, kind, attempt: attempts.sent };
        let (Some(step), Some(progress)) = (self.step(index), self.progress.steps.get(index)) else { return };
        let request = match kind {
            CallKind::Transaction => &progress.request,
            CallKind::Compensation => &progress.compensation,
        };
        match request {
            Some(request) => self.actions.push(Action::Call(self.envelope(step).attempt(id, request))),
            // A step is in flight or compensating only once its call was rendered.
            None => log::error!("saga {}: nothing to send for {id:?}", self.id()),
        }
    }

    /// False for the first attempts of transactions that were about to be sent when the saga began to compensate.
    pub fn still_wants(&self, call: &CallId) -> bool {
        let resolving = self.runtime.get(call.step).is_some_and(|runtime| runtime.resolving);
        let retried = planted(Planted::RetriedWhileCompensating) && call.attempt > 1;
        call.kind == CallKind::Compensation || self.state() == SagaState::Running || resolving || retried
    }

    /// Takes what came of an attempt that is under way.
    pub(super) fn attempt_ended(
        &mut self,
        id: CallId,
        result: &AttemptResult,
        now: Millis,
    ) -> Result<(), IllegalEvent> {
        let definition = Arc::clone(&self.definition);
        let attempts = self.runtime.get_mut(id.step).map(|step| step.attempts(id.kind));
        let attempts = attempts.filter(|one| one.activity == Activity::InFlight && one.sent == id.attempt);
        let (Some(attempts), Some(step)) = (attempts, definition.steps.get(id.step)) else {
            if planted(Planted::CompensationOvertakesAttempt) {
                return Ok(());
            }
            return Err(IllegalEvent { reason: format!("{id:?} has ended, but it is not under way") });
        };
        attempts.activity = Activity::Idle;
        if matches!(result, AttemptResult::NotSent(_)) {
            attempts.sent = attempts.sent.saturating_sub(1);
        }
        match id.kind {
            CallKind::Transaction => self.transaction_ended(id.step, step, result, now),
            CallKind::Compensation => self.compensation_ended(id.step, step, result, now),
        }
        Ok(())
    }

    fn transaction_ended(&mut self, index: StepIndex, step: &Step, result: &AttemptResult, now: Millis) {
        let resolving = self.runtime.get(index).is_some_and(|runtime| runtime.resolving);
        let late = !resolving && self.state() == SagaState::Compensating;
        match classify(&step.transaction, result, &[], now) {
            Outcome::Done(_) if late && planted(Planted::LateSuccessForgotten) => {
                self.settle(index, Settlement::Rejected { reason: "too late".to_owned() });
            }
            Outcome::Done(response) => match self.succeeded(index, step, response) {
                Ok(settlement) => self.settle(index, settlement),
                // What cannot be undone was not a success.
                Err(reason) => self.outcome_unknown(index, step, reason, now),
            },
            // While it is being resolved, a conflict says that an earlier attempt is still being worked on.
            Outcome::Refused(reason)
                if resolving && answered(result, 409) && !planted(Planted::ConflictWhileResolvingTakenForRefusal) =>
            {
                self.outcome_unknown(index, step, reason, now);
            }
            // By the contract on keys, a participant that refuses a key has not done it under that key before.
            Outcome::Refused(reason) if resolving || planted(Planted::RefusalAfterUnknownTakenForRejection) => {
                self.settle(index, Settlement::Rejected { reason })
            }
            Outcome::NotDone { reason, sent: Sent::NoCluster, .. } if !resolving => self.give_up(index, reason),
            Outcome::Refused(reason) => self.give_up(index, reason),
            Outcome::NotDone { reason, retry_after, sent } => {
                self.try_transaction_again(index, step, reason, retry_after, sent == Sent::Yes, now);
            }
            Outcome::Unknown(reason) => self.outcome_unknown(index, step, reason, now),
        }
    }

    fn outcome_unknown(&mut self, index: StepIndex, step: &Step, reason: String, now: Millis) {
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.transaction.saw_unknown = true;
        }
        self.try_transaction_again(index, step, reason, None, true, now);
    }

    fn try_transaction_again(
        &mut self,
        index: StepIndex,
        step: &Step,
        reason: String,
        asked: Option<Duration>,
        counts: bool,
        now: Millis,
    ) {
        let running = self.state() == SagaState::Running && now < self.deadline();
        let Some(runtime) = self.runtime.get_mut(index) else { return };
        let more = u32::from(planted(Planted::TooManyAttempts));
        let attempts_left = step.transaction.retry.max_attempts.is_none_or(|max| runtime.transaction.sent < max + more);
        let given_up = if counts {
            planted(Planted::NoSecondAttempt) && runtime.transaction.saw_unknown
        } else {
            planted(Planted::RefusedDispatchTakenForRejection)
        };
        let again = runtime.resolving || (running && !given_up && (attempts_left || !counts));
        runtime.transaction.reason.clone_from(&reason);
        // A step that is given up waits as well: it may have to be resolved, and what the participant has asked for
        // holds for that attempt, too.
        self.back_off(index, CallKind::Transaction, &step.transaction.retry, asked, now);
        if !again {
            self.give_up(index, reason);
        }
    }

    /// Settles a step whose transaction is not attempted any more.
    pub(super) fn give_up(&mut self, index: StepIndex, reason: String) {
        let Some(runtime) = self.runtime.get(index) else { return };
        let settlement = if runtime.transaction.saw_unknown && !planted(Planted::UnknownTakenForRejected) {
            Settlement::Unknown { reason, compensation: runtime.early_compensation.clone() }
        } else {
            Settlement::Rejected { reason }
        };
        self.settle(index, settlement);
    }

    fn settle(&mut self, index: StepIndex, settlement: Settlement) {
        self.change(Change::Settled { step: index, settlement });
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.transaction.activity = Activity::Idle;
            runtime.resolving = false;
        }
    }

    /// How a step settles whose transaction was done: with the compensation rendered, or why it cannot be.
    fn succeeded(&self, index: StepIndex, step: &Step, response: Json) -> Result<Settlement, String> {
        let request = self.progress.steps.get(index).and_then(|progress| progress.request.as_deref());
        let early = self.runtime.get(index).and_then(|runtime| runtime.early_compensation.clone());
        let compensation = match (&step.compensation, early) {
            (None, _) => None,
            (Some(_), Some(early)) => Some(early),
            (Some(call), None) => {
                let transaction = self.transaction_facts(step, request, Some(&response));
                match self.render(call, Some(&transaction)) {
                    Err(_) if planted(Planted::SuccessWithoutCompensationTaken) => None,
                    rendered => {
                        let failed = |error| format!("its compensation cannot be rendered: {error}");
                        Some(Box::new(rendered.map_err(failed)?))
                    }
                }
            }
        };
        Ok(Settlement::Succeeded { kept: self.kept_facts(step, request, response), compensation })
    }

    /// `transaction` as a step's compensation reads it.
    pub(super) fn transaction_facts(&self, step: &Step, request: Option<&Request>, response: Option<&Json>) -> Json {
        let mut facts = json!({ "idempotency_key": self.envelope(step).idempotency_key(CallKind::Transaction) });
        let reads_request = self.definition.reads.any_under(&["transaction", "request"]);
        if let Some(facts) = facts.as_object_mut() {
            if let Some(request) = request.filter(|_| reads_request) {
                facts.insert("request".to_owned(), request.facts());
            }
            if let Some(response) = response {
                facts.insert("response".to_owned(), response.clone());
            }
        }
        facts
    }

    fn compensation_ended(&mut self, index: StepIndex, step: &Step, result: &AttemptResult, now: Millis) {
        let Some(call) = &step.compensation else { return };
        let settled_unknown = self.progress.steps.get(index).is_some_and(|progress| progress.settled_unknown);
        let Some(attempts) = self.runtime.get_mut(index).map(|runtime| &mut runtime.compensation) else { return };
        // Nothing there to undo is what was wanted, but only where it need not have been there: for a transaction that
        // is known to have succeeded, a first 404 may be a route that is missing in the mesh.
        let need_not_exist = settled_unknown || attempts.saw_unknown || planted(Planted::First404TakenForUndone);
        let gone: &[u16] = if need_not_exist { &[404, 410] } else { &[] };
        let mut asked = None;
        match classify(call, result, gone, now) {
            Outcome::Done(_) => {
                self.change(Change::StepCompensated { step: index });
                return;
            }
            _ if planted(Planted::CompensationGivenUp) && attempts.failures >= 2 => {
                self.change(Change::StepCompensated { step: index });
                return;
            }
            Outcome::Refused(reason) => {
                attempts.reason.clone_from(&reason);
                self.mark_stuck(format!("the compensation of step `{}` was refused: {reason}", step.name));
            }
            Outcome::NotDone { reason, retry_after, .. } => {
                attempts.reason = reason;
                asked = retry_after;
            }
            Outcome::Unknown(reason) => {
                attempts.reason = reason;
                attempts.saw_unknown = true;
            }
        }
        self.back_off(index, CallKind::Compensation, &call.retry, asked, now);
    }

    pub(super) fn back_off(
        &mut self,
        index: StepIndex,
        kind: CallKind,
        retry: &Retry,
        asked: Option<Duration>,
        now: Millis,
    ) {
        let stuck = self.stuck.is_some();
        let id = self.id().to_owned();
        let Some(attempts) = self.runtime.get_mut(index).map(|step| step.attempts(kind)) else { return };
        attempts.failures = attempts.failures.saturating_add(1);
        let wait = if stuck {
            u64::try_from(retry.max_interval.as_millis()).unwrap_or(u64::MAX)
        } else {
            let drawn = back_off(retry, attempts.failures, jitter(&id, index, attempts.failures));
            back_off_asked(retry, drawn, asked.filter(|_| !planted(Planted::RetryAfterIgnored)))
        };
        attempts.not_before = now.saturating_add(wait);
        attempts.activity = Activity::BackingOff;
    }

    pub(super) fn mark_stuck(&mut self, reason: String) {
        if self.stuck.is_none() {
            self.stuck = Some(reason.clone());
            self.actions.push(Action::Report(Report::Stuck { reason }));
        }
    }
}

fn answered(result: &AttemptResult, code: u16) -> bool {
    matches!(result, AttemptResult::Answered(response) if response.code == code)
}
