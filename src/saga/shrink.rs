//! A record that the journal takes in no case, as larger than its limit: it is cut into smaller ones, and where a single
//! change is too large, the saga compensates without what makes it so.
//!
//! Nothing has followed from what is in the record, in memory as little as outside: what awaits it is not sent.

use super::attempts::Activity;
use super::record::{Cause, Change, Settlement};
use super::{Action, IllegalEvent, Millis, Reply, Report, Saga, SagaState, StepState, not_outstanding};
use crate::definition::StepIndex;

/// How long to wait until the same is tried again.
const AGAIN_AFTER_MS: Millis = 5_000;

impl Saga {
    pub(super) fn shrink(&mut self, sequence: u64, now: Millis) -> Result<(), IllegalEvent> {
        let mut changes = self.wal.refused(sequence).map_err(|outstanding| not_outstanding(sequence, outstanding))?;
        self.told_next.clone_from(&self.told);
        let refused_bytes: usize = changes.iter().map(Change::bytes).sum();
        let is_one = changes.len() == 1;
        changes.append(&mut self.wal.take_unwritten());
        if !is_one {
            self.bounds.record_bytes = self.bounds.record_bytes.min(refused_bytes / 2);
            self.wal.put_back(changes, now, 0);
            return Ok(());
        }
        let small: Vec<Change> = changes.into_iter().map(|change| self.made_small(change)).collect();
        let is_smaller = small.first().is_some_and(|first| first.bytes() < refused_bytes);
        let not_before = if is_smaller { 0 } else { now.saturating_add(AGAIN_AFTER_MS) };
        self.wal.put_back(small, now, not_before);
        if self.state() == SagaState::Running {
            let reason = "the journal takes no record as large as what its steps send or have answered".to_owned();
            self.begin_compensating(Cause { failed_step: None, reason, at: Some(now) }, now);
        }
        if !is_smaller {
            self.mark_stuck("the journal takes no record of it, however small".to_owned(), now);
        }
        Ok(())
    }

    /// A change without what makes it large.
    fn made_small(&mut self, change: Change) -> Change {
        match change {
            Change::Settled { step, settlement: Settlement::Succeeded { compensation, .. } } => {
                let kept = serde_json::json!({});
                if let Some(name) = self.step(step).map(|step| step.name.clone()) {
                    self.progress.facts.insert(name, kept.clone());
                }
                Change::Settled { step, settlement: Settlement::Succeeded { kept, compensation } }
            }
            Change::InFlight { step, at, .. } if self.was_never_sent(step) => {
                self.progress.forget_calls(step);
                Change::InFlight { step, request: None, compensation: None, at }
            }
            Change::Ended { state, nothing_sent, reply } => {
                let reply = if nothing_sent { reply } else { self.small_reply(state) };
                self.progress.reply = Some(reply.clone());
                Change::Ended { state, reply, nothing_sent }
            }
            other => other,
        }
    }

    /// The step's first attempt waits for its record, or waited for it until the saga was to be compensated.
    fn was_never_sent(&self, index: StepIndex) -> bool {
        let Some(transaction) = self.runtime.get(index).map(|runtime| &runtime.transaction) else { return false };
        let never = transaction.sent == 0 && !transaction.saw_unknown;
        match self.step_state(index) {
            Some(StepState::InFlight) => never && matches!(transaction.activity, Activity::AwaitingRecord(_)),
            Some(StepState::Rejected) => never,
            _ => false,
        }
    }

    fn small_reply(&mut self, state: SagaState) -> Reply {
        let reason = "the journal takes no record as large as it".to_owned();
        self.actions.push(Action::Report(Report::ReplyNotRendered { reason }));
        self.default_reply_at_end(state)
    }
}
