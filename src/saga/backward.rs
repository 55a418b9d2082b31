//! While a saga compensates: what is resolved, what is undone in which order, and when it is over.
//!
//! A step's compensation is sent when the step and every step after it have settled and none of the latter is left to
//! undo. So independent steps are undone all at once, dependent ones in reverse, and a compensation that fails holds up
//! only what it came after.

use super::attempts::{Activity, Runtime};
use super::record::Change;
use super::{Millis, STUCK_AFTER_MS, Saga, SagaState, StepState};
use crate::definition::StepIndex;
use crate::planted::{Planted, planted};

impl Saga {
    pub(super) fn go_backward(&mut self, now: Millis) {
        for index in self.step_indices() {
            self.settle_what_is_not_under_way(index, now);
            self.resolve(index, now);
        }
        for index in self.step_indices() {
            if self.may_be_compensated(index) {
                self.compensate(index, now);
            }
        }
        if self.step_indices().all(|index| self.is_undone(index)) {
            self.end_undone(now);
        } else if now >= self.compensating_since.saturating_add(STUCK_AFTER_MS) {
            self.mark_stuck(self.why_not_over(), now);
        }
    }

    /// Nothing is sent before the begin is durable. A saga whose deadline passes before that has sent nothing, but whether
    /// it has begun at all has to be known before its client can be told.
    fn end_undone(&mut self, now: Millis) {
        if !self.has_begun() && self.wal.has_outstanding() {
            self.begun_too_late = true;
            return;
        }
        self.end(SagaState::Compensated, now);
    }

    /// No attempt of a transaction is made any more: a step in a back-off, or whose first attempt still waits for its
    /// record, settles as what its attempts came to.
    fn settle_what_is_not_under_way(&mut self, index: StepIndex, now: Millis) {
        let is_known = self.is_known(index);
        let Some(runtime) = self.runtime.get_mut(index) else { return };
        let activity = runtime.transaction.activity;
        let overtaken = planted(Planted::CompensationOvertakesAttempt) && activity == Activity::InFlight && is_known;
        runtime.transaction.saw_unknown |= overtaken;
        let retried = planted(Planted::RetriedWhileCompensating) && activity == Activity::BackingOff;
        let waits = !matches!(activity, Activity::Idle | Activity::InFlight) && !retried;
        if !(waits || overtaken) || runtime.resolving {
            return;
        }
        if !runtime.is_quiet() && !overtaken {
            runtime.transaction.activity = Activity::Inherited;
            return;
        }
        let reason = match runtime.transaction.reason.as_str() {
            "" => "not attempted: the saga was to be compensated".to_owned(),
            last => last.to_owned(),
        };
        self.give_up(index, reason, now);
    }

    /// An unknown step whose compensation needs the participant's answer is sent again under its key, to learn it: at
    /// the transaction's intervals, so the back-off after its last attempt goes on.
    fn resolve(&mut self, index: StepIndex, now: Millis) {
        if self.step_state(index) != Some(StepState::Unknown)
            || !self.needs_answer(index)
            || planted(Planted::UnknownNotResolved)
        {
            return;
        }
        if self.key_has_expired(index, now) {
            return self.mark_stuck(self.too_old(index), now);
        }
        let intent = Change::InFlight { step: index, request: None, compensation: None, at: None };
        let recorded = self.change(intent, now);
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.resolving = true;
            runtime.transaction.activity = Activity::AwaitingRecord(recorded);
        }
    }

    pub(super) fn too_old(&self, index: StepIndex) -> String {
        let name = self.step(index).map_or("", |step| &step.name);
        format!(
            "step `{name}` may have been done, and was sent too long ago to be asked for again: \
             the participant may have forgotten its key, and would do it a second time"
        )
    }

    pub(super) fn needs_answer(&self, index: StepIndex) -> bool {
        self.has_compensation(index) && !self.is_known(index)
    }

    pub(super) fn has_compensation(&self, index: StepIndex) -> bool {
        self.step(index).is_some_and(|step| step.compensation.is_some())
    }

    /// True where the step's compensation has been rendered.
    fn is_known(&self, index: StepIndex) -> bool {
        self.progress.steps.get(index).is_some_and(|progress| progress.compensation.is_some())
    }

    fn may_be_compensated(&self, index: StepIndex) -> bool {
        let done = matches!(self.step_state(index), Some(StepState::Succeeded | StepState::Unknown));
        let mut successors = self.step(index).into_iter().flat_map(|step| &step.successors);
        let in_turn = planted(Planted::OrderOfCompensationsIgnored) || successors.all(|after| self.is_undone(*after));
        done && self.is_known(index) && self.is_quiet(index) && in_turn
    }

    /// No attempt of an owner before can be under way any more.
    fn is_quiet(&self, index: StepIndex) -> bool {
        self.runtime.get(index).is_none_or(Runtime::is_quiet)
    }

    /// True where nothing of the step is left to undo, and nothing of it under way.
    fn is_undone(&self, index: StepIndex) -> bool {
        self.is_quiet(index) && self.has_nothing_to_undo(index)
    }

    fn has_nothing_to_undo(&self, index: StepIndex) -> bool {
        match self.step_state(index) {
            Some(StepState::NotStarted | StepState::Skipped | StepState::Rejected | StepState::Compensated) => true,
            Some(StepState::Succeeded) if planted(Planted::SuccessWithoutCompensationTaken) => !self.is_known(index),
            Some(StepState::Unknown) if planted(Planted::UnknownNotResolved) => !self.is_known(index),
            Some(StepState::Succeeded | StepState::Unknown) => !self.has_compensation(index),
            Some(StepState::Compensating) => planted(Planted::CompensationsNotAwaited),
            _ => false,
        }
    }

    /// The compensation is sent once that it will be is durable, and with it all that led to it. An owner that finds the
    /// saga without that record knows that nothing was sent: a first 404 is then no success.
    fn compensate(&mut self, index: StepIndex, now: Millis) {
        let recorded = self.change(Change::StepCompensating { step: index }, now);
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.compensation.activity = Activity::AwaitingRecord(recorded);
        }
    }

    fn why_not_over(&self) -> String {
        let steps = self.progress.steps.iter().zip(&self.runtime).filter_map(|(step, runtime)| {
            let attempts = match step.state {
                StepState::InFlight => &runtime.transaction,
                StepState::Compensating => &runtime.compensation,
                _ => return None,
            };
            Some(format!("step `{}` is {}: {}", step.name, step.state.name(), attempts.reason))
        });
        let waits: Vec<String> = steps.collect();
        format!("not undone after {} s: {}", STUCK_AFTER_MS / 1_000, waits.join("; "))
    }
}
