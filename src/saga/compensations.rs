//! What an ended attempt of a compensation means for its step: it is undone, or tried again.

use super::attempts::Runtime;
use super::call::CallKind;
use super::outcome::{Heard, UndoVerdict, Undoing, compensation, hear};
use super::record::Change;
use super::{Action, AttemptResult, Millis, Report, Saga};
use crate::definition::{Step, StepIndex};
use crate::planted::{Planted, planted};

impl Saga {
    pub(super) fn compensation_ended(&mut self, index: StepIndex, step: &Step, result: &AttemptResult, now: Millis) {
        let Some(call) = &step.compensation else { return };
        let known = self.undoing(index, now);
        let timeout_ms = self.timeout_ms(index, CallKind::Compensation);
        let heard = hear(call, CallKind::Compensation, result, now);
        let Some(attempts) = self.runtime.get_mut(index).map(|runtime| &mut runtime.compensation) else { return };
        if heard == Heard::NotFound && known.need_not_exist {
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
}
