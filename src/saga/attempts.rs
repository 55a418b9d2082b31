//! Attempts of the calls of a step: what is under way, what waits, and what an ended attempt means.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::call::{CallId, CallKind, Request};
use super::outcome::{Heard, Mode, UndoVerdict, Undoing, Verdict, compensation, hear, transaction};
use super::record::{Change, Settlement, Stuck};
use super::retry::{back_off, back_off_asked, jitter};
use super::wal::{ChangeNumber, Wal};
use super::{Action, AttemptResult, Bounds, IllegalEvent, Millis, Report, Saga, SagaState};
use crate::definition::{Retry, Step, StepIndex};
use crate::planted::{Planted, planted};

/// What of a step is not recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Runtime {
    pub(super) transaction: Attempts,
    pub(super) compensation: Attempts,
    /// A compensation of a step in flight that was rendered again at a takeover: records of version 1 do not hold it.
    pub(super) rendered_again: Option<Box<Request>>,
    /// The transaction is sent again only to learn whether it was done.
    pub(super) resolving: bool,
    /// An attempt of an owner that has gone may be under way until then.
    pub(super) inherited_until: Option<Millis>,
}

/// The attempts of one call.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempts {
    pub(super) activity: Activity,
    /// Attempts that left a proxy, those of owners before included as far as they were recorded.
    pub(super) sent: u32,
    /// Attempts that failed, those that never left included: they drive the back-off.
    failures: u32,
    /// Some attempt may have been done without our knowing.
    pub(super) saw_unknown: bool,
    /// Why the last attempt failed.
    pub(super) reason: String,
    /// The next attempt is not due before then, whatever record it awaits.
    pub(super) not_before: Millis,
    /// When the last attempt was sent.
    sent_at: Millis,
    /// An attempt that came to unknown may have been worked on until then.
    pub(super) busy_until: Millis,
    /// When 404 was answered first.
    not_found_since: Option<Millis>,
}

/// What a call is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
    #[default]
    Idle,
    /// To be sent as soon as the change of this number is durable.
    AwaitingRecord(ChangeNumber),
    /// An attempt is under way.
    InFlight,
    /// No further attempt is made, but one of an owner before may be under way.
    Inherited,
    /// To be sent as soon as [`Attempts::not_before`] has passed.
    BackingOff,
}

impl Runtime {
    pub(super) fn next_due(&self) -> Option<Millis> {
        let mut calls = [&self.transaction, &self.compensation].into_iter();
        let back_off = calls.find(|attempts| attempts.activity == Activity::BackingOff);
        back_off.map(|attempts| attempts.not_before).into_iter().chain(self.inherited_until).min()
    }

    /// True where a call can be sent only once the journal has a change that it does not have yet.
    pub(super) fn awaits_record(&self, wal: &Wal) -> bool {
        let awaits = |attempts: &Attempts| match attempts.activity {
            Activity::AwaitingRecord(change) => !wal.is_durable(change),
            _ => false,
        };
        awaits(&self.transaction) || awaits(&self.compensation)
    }

    pub(super) fn attempts(&mut self, kind: CallKind) -> &mut Attempts {
        match kind {
            CallKind::Transaction => &mut self.transaction,
            CallKind::Compensation => &mut self.compensation,
        }
    }

    /// No attempt of an owner before can be under way any more.
    pub(super) fn is_quiet(&self) -> bool {
        self.inherited_until.is_none()
    }

    fn mode(&self) -> Mode {
        match (self.resolving, self.transaction.saw_unknown) {
            (true, _) => Mode::Resolving,
            (false, true) => Mode::TryingAgain,
            (false, false) => Mode::Trying,
        }
    }
}

impl Attempts {
    /// The last attempt came to unknown: it may be worked on for as long as it might have taken.
    fn came_to_unknown(&mut self, timeout_ms: u32) {
        self.saw_unknown = true;
        self.busy_until = self.busy_until.max(self.sent_at.saturating_add(timeout_ms.into()));
    }
}

/// So many attempts are recorded one by one; after that, each time their number has doubled.
const RECORDED_ONE_BY_ONE: u32 = 8;

impl Saga {
    /// Sends every call whose record is durable and whose back-off is over.
    pub(super) fn send_what_is_due(&mut self, now: Millis) {
        for index in self.step_indices() {
            for kind in [CallKind::Transaction, CallKind::Compensation] {
                let Some(attempts) = self.runtime.get_mut(index).map(|step| step.attempts(kind)) else { continue };
                if matches!(attempts.activity, Activity::AwaitingRecord(change) if self.wal.is_durable(change)) {
                    attempts.activity = Activity::BackingOff;
                }
                if attempts.activity == Activity::BackingOff && attempts.not_before <= now {
                    self.send(index, kind, now);
                }
            }
        }
    }

    fn send(&mut self, index: StepIndex, kind: CallKind, now: Millis) {
        let Some(attempts) = self.runtime.get_mut(index).map(|step| step.attempts(kind)) else { return };
        attempts.sent = attempts.sent.saturating_add(1);
        attempts.sent_at = now;
        attempts.activity = Activity::InFlight;
        let id = CallId { step: index, kind, attempt: attempts.sent };
        let (Some(step), Some(progress)) = (self.step(index), self.progress.steps.get(index)) else { return };
        let request = match kind {
            CallKind::Transaction => &progress.request,
            CallKind::Compensation => &progress.compensation,
        };
        // Only while the saga runs does its deadline bound what an attempt is good for.
        let left_ms = match (self.state(), request) {
            (SagaState::Running, _) => self.deadline().saturating_sub(now),
            (_, Some(request)) => request.timeout_ms.into(),
            (_, None) => 0,
        };
        match request {
            Some(request) => self.actions.push(Action::Call(self.envelope(step).attempt(id, request, left_ms))),
            // A step is in flight or compensating only once its call was rendered.
            None => log::error!("saga {}: nothing to send for {id:?}", self.id()),
        }
    }

    /// What an owner before had under way is over with its timeout, and no key outlives its participant's memory.
    pub(super) fn let_attempts_expire(&mut self, now: Millis) {
        for index in self.step_indices() {
            let Some(runtime) = self.runtime.get_mut(index) else { continue };
            runtime.inherited_until = runtime.inherited_until.filter(|until| *until > now);
            let attempts = &runtime.transaction;
            let waits = matches!(attempts.activity, Activity::BackingOff | Activity::AwaitingRecord(_));
            if !waits || attempts.sent == 0 || !self.key_has_expired(index, now) {
                continue;
            }
            self.give_up(index, self.too_old(index), now);
        }
    }

    /// Whether the participant may have forgotten the key of a step's transaction: then it would do it a second time.
    pub(super) fn key_has_expired(&self, index: StepIndex, now: Millis) -> bool {
        let (Some(step), Some(progress)) = (self.step(index), self.progress.steps.get(index)) else { return false };
        let begun_at = || self.progress.begun.as_ref().map(|begun| begun.begun_at);
        let Some(first) = progress.first_attempt_at.or_else(begun_at) else { return false };
        let lifetime = u64::try_from(step.transaction.key_lifetime.as_millis()).unwrap_or(u64::MAX);
        now >= first.saturating_add(lifetime) && !planted(Planted::KeyLifetimeIgnored)
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
        let Some(mode) = self.runtime.get(index).map(Runtime::mode) else { return };
        let late = mode != Mode::Resolving && self.state() == SagaState::Compensating;
        match transaction(hear(&step.transaction, CallKind::Transaction, result, now), mode) {
            Verdict::Succeeded(_) if late && planted(Planted::LateSuccessForgotten) => {
                self.settle(index, Settlement::Rejected { reason: "too late".to_owned() }, now);
            }
            Verdict::Succeeded(response) => match self.succeeded(index, step, response) {
                Ok(settlement) => self.settle(index, settlement, now),
                // What cannot be undone was not a success.
                Err(reason) => self.outcome_unknown(index, step, reason, now),
            },
            Verdict::Rejected(reason) => self.settle(index, Settlement::Rejected { reason }, now),
            Verdict::GiveUp(reason) => self.give_up(index, reason, now),
            Verdict::NotDone { reason, retry_after, counts } => {
                self.try_transaction_again(index, step, reason, retry_after, counts, now);
            }
            Verdict::Unknown(reason) => self.outcome_unknown(index, step, reason, now),
        }
    }

    fn outcome_unknown(&mut self, index: StepIndex, step: &Step, reason: String, now: Millis) {
        let timeout_ms = self.timeout_ms(index, CallKind::Transaction);
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.transaction.came_to_unknown(timeout_ms);
        }
        self.try_transaction_again(index, step, reason, None, true, now);
    }

    /// How long an attempt of a call may take; 0 before it was rendered.
    pub(super) fn timeout_ms(&self, index: StepIndex, kind: CallKind) -> u32 {
        let request = self.progress.steps.get(index).and_then(|step| match kind {
            CallKind::Transaction => step.request.as_ref(),
            CallKind::Compensation => step.compensation.as_ref(),
        });
        request.map_or(0, |request| request.timeout_ms)
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
        let resolving = runtime.resolving;
        let again = resolving || (running && !given_up && (attempts_left || !counts));
        runtime.transaction.reason.clone_from(&reason);
        // A step that is given up waits as well: it may have to be resolved, and what the participant has asked for
        // holds for that attempt, too.
        self.back_off(index, CallKind::Transaction, &step.transaction.retry, asked, now);
        if !again {
            self.give_up(index, reason, now);
        } else if counts && !resolving {
            self.record_attempts(index, now);
        }
    }

    /// `max_attempts` is the saga's: another owner goes on counting.
    fn record_attempts(&mut self, index: StepIndex, now: Millis) {
        let Some(attempts) = self.runtime.get(index).map(|runtime| &runtime.transaction) else { return };
        let (sent, unknown) = (attempts.sent, attempts.saw_unknown);
        if sent > RECORDED_ONE_BY_ONE && !sent.is_power_of_two() {
            return;
        }
        let new = Change::Attempted { step: index, sent, unknown };
        let amended = self.wal.amend(|change| {
            let is_older = matches!(change, Change::Attempted { step, .. } if *step == index);
            if is_older {
                change.clone_from(&new);
            }
            is_older
        });
        match amended {
            // Only the change that is not written yet is another.
            true => {
                if let Err(illegal) = self.progress.apply(&new) {
                    log::error!("saga {}: {illegal}", self.id());
                }
            }
            false => {
                self.change(new, now);
            }
        }
    }

    /// Settles a step whose transaction is not attempted any more.
    pub(super) fn give_up(&mut self, index: StepIndex, reason: String, now: Millis) {
        let Some(runtime) = self.runtime.get(index) else { return };
        let settlement = if runtime.transaction.saw_unknown && !planted(Planted::UnknownTakenForRejected) {
            Settlement::Unknown { reason, compensation: runtime.rendered_again.clone() }
        } else {
            Settlement::Rejected { reason }
        };
        self.settle(index, settlement, now);
    }

    fn settle(&mut self, index: StepIndex, settlement: Settlement, now: Millis) {
        self.change(Change::Settled { step: index, settlement }, now);
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.transaction.activity = Activity::Idle;
            runtime.resolving = false;
        }
    }

    /// How a step settles whose transaction was done: with the compensation rendered, or why it cannot be.
    fn succeeded(&self, index: StepIndex, step: &Step, response: Json) -> Result<Settlement, String> {
        let progress = self.progress.steps.get(index);
        let request = progress.and_then(|progress| progress.request.as_deref());
        let is_recorded = progress.is_some_and(|progress| progress.compensation.is_some());
        let rendered_again = self.runtime.get(index).and_then(|runtime| runtime.rendered_again.clone());
        let compensation = match (&step.compensation, rendered_again) {
            (None, _) => None,
            (Some(_), _) if is_recorded => None,
            (Some(_), Some(again)) => Some(again),
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
        let kept = self.kept_facts(step, request, response);
        self.fitting(kept, compensation)
    }

    /// A result as the journal takes it. While the saga compensates nothing but replies reads what a step was answered:
    /// there it is left out where it is too large. Else it is no success: what the journal does not hold another owner
    /// does not know.
    fn fitting(&self, kept: Json, compensation: Option<Box<Request>>) -> Result<Settlement, String> {
        let Bounds { record_bytes, saga_bytes } = self.bounds;
        if self.bounds == Bounds::NONE {
            return Ok(Settlement::Succeeded { kept, compensation });
        }
        let settlement = Settlement::Succeeded { kept, compensation };
        let bytes = settlement.bytes();
        if bytes <= record_bytes && self.recorded_bytes().saturating_add(bytes) <= saga_bytes {
            return Ok(settlement);
        }
        match settlement {
            Settlement::Succeeded { compensation, .. } if self.state() == SagaState::Compensating => {
                Ok(Settlement::Succeeded { kept: json!({}), compensation })
            }
            _ => Err(format!("its answer is larger than the journal keeps: {bytes} bytes")),
        }
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
        let known = self.undoing(index, now);
        let timeout_ms = self.timeout_ms(index, CallKind::Compensation);
        let heard = hear(call, CallKind::Compensation, result, now);
        let Some(attempts) = self.runtime.get_mut(index).map(|runtime| &mut runtime.compensation) else { return };
        if heard == Heard::NotFound {
            attempts.not_found_since.get_or_insert(now);
        }
        let given_up = planted(Planted::CompensationGivenUp) && attempts.failures >= 2;
        let (reason, asked) = match compensation(heard, known) {
            UndoVerdict::Done => return self.compensated(index, now),
            _ if given_up => return self.compensated(index, now),
            UndoVerdict::NothingToUndo => {
                self.actions.push(Action::Report(Report::NothingToUndo { step: step.name.clone() }));
                return self.compensated(index, now);
            }
            UndoVerdict::Refused(reason) => {
                let why = format!("the compensation of step `{}` was refused: {reason}", step.name);
                self.mark_stuck(why, now);
                (reason, None)
            }
            UndoVerdict::NotDone { reason, retry_after } => (reason, retry_after),
            UndoVerdict::Unknown(reason) => {
                attempts.came_to_unknown(timeout_ms);
                (reason, None)
            }
        };
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.compensation.reason = reason;
        }
        self.back_off(index, CallKind::Compensation, &call.retry, asked, now);
    }

    fn compensated(&mut self, index: StepIndex, now: Millis) {
        self.change(Change::StepCompensated { step: index }, now);
    }

    /// What is known of a step whose compensation has been answered.
    fn undoing(&self, index: StepIndex, now: Millis) -> Undoing {
        let settled_unknown = self.progress.steps.get(index).is_some_and(|progress| progress.settled_unknown);
        let timeout_ms = u64::from(self.timeout_ms(index, CallKind::Transaction));
        let Some(Runtime { transaction, compensation, .. }) = self.runtime.get(index) else {
            return Undoing { need_not_exist: false, may_be_worked_on: false, not_found_for_long: false };
        };
        let worked_on_until = transaction.busy_until.max(compensation.busy_until);
        let not_found_for_long = compensation
            .not_found_since
            .is_some_and(|since| now >= since.max(worked_on_until).saturating_add(timeout_ms));
        Undoing {
            // Only what is known to have succeeded, and was never compensated, must be there.
            need_not_exist: settled_unknown || compensation.saw_unknown,
            may_be_worked_on: compensation.saw_unknown,
            not_found_for_long,
        }
    }

    pub(super) fn back_off(
        &mut self,
        index: StepIndex,
        kind: CallKind,
        retry: &Retry,
        asked: Option<Duration>,
        now: Millis,
    ) {
        let stuck = self.stuck().is_some();
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

    /// Says once that the saga does not get on by itself, and since when.
    pub(super) fn mark_stuck(&mut self, reason: String, now: Millis) {
        if self.stuck().is_none() {
            self.change(Change::Stuck(Stuck { since: now, reason: reason.clone() }), now);
            self.actions.push(Action::Report(Report::Stuck { reason }));
        }
    }
}
