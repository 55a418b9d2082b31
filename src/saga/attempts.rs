//! Attempts of the calls of a step: what is under way, what waits, and when the next one is sent.

use std::sync::Arc;
use std::time::Duration;

use super::call::{CallId, CallKind, Request};
use super::outcome::Mode;
use super::record::{Change, Stuck};
use super::retry::{back_off, back_off_asked, jitter};
use super::wal::{ChangeNumber, Wal};
use super::{Action, AttemptResult, IllegalEvent, Millis, Report, Saga, SagaState};
use crate::definition::{Retry, StepIndex};
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
    pub(super) failures: u32,
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
    pub(super) not_found_since: Option<Millis>,
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

    pub(super) fn mode(&self) -> Mode {
        match (self.resolving, self.transaction.saw_unknown) {
            (true, _) => Mode::Resolving,
            (false, true) => Mode::TryingAgain,
            (false, false) => Mode::Trying,
        }
    }
}

impl Attempts {
    /// The last attempt came to unknown: it may be worked on for as long as it might have taken.
    pub(super) fn came_to_unknown(&mut self, timeout_ms: u32) {
        self.saw_unknown = true;
        // Whoever answers 404 after that says it anew.
        self.not_found_since = None;
        self.busy_until = self.busy_until.max(self.sent_at.saturating_add(timeout_ms.into()));
    }
}

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
            (SagaState::Running, _) => self.deadline_of_record().saturating_sub(now),
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
            let may_be_known = attempts.sent > 0 || attempts.saw_unknown;
            if !waits || !may_be_known || !self.key_has_expired(index, now) {
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
        if std::mem::replace(&mut self.said_stuck, true) {
            return;
        }
        // Nothing is recorded of a saga after its end.
        if !self.state().has_ended() {
            self.change(Change::Stuck(Stuck { since: now, reason: reason.clone() }), now);
        }
        self.actions.push(Action::Report(Report::Stuck { reason }));
    }
}
