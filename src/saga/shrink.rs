//! A record that the journal takes in no case, as larger than its limit: the saga compensates with a small one.
//!
//! Nothing has followed from what is in it, in memory as little as outside: what it awaits is not sent. So what makes it
//! large is left out, the steps that were to be sent next are not, and what is small is written in its place.

use super::attempts::Activity;
use super::record::{Cause, Change, Settlement};
use super::{Action, IllegalEvent, Millis, Reply, Report, Saga, SagaState, StepState, not_outstanding};
use crate::definition::StepIndex;

/// How long to wait until the same is tried again.
const AGAIN_AFTER_MS: Millis = 5_000;

impl Saga {
    pub(super) fn shrink(&mut self, sequence: u64, now: Millis) -> Result<(), IllegalEvent> {
        let changes = self.wal.refused(sequence).map_err(|outstanding| not_outstanding(sequence, outstanding))?;
        self.told_next.clone_from(&self.told);
        let bytes = |changes: &[Change]| changes.iter().map(Change::bytes).sum::<usize>();
        let before = bytes(&changes);
        let small: Vec<Change> = changes.into_iter().filter_map(|change| self.made_small(change)).collect();
        if bytes(&small) >= before {
            self.wal.put_back(small, now, now.saturating_add(AGAIN_AFTER_MS));
            self.mark_stuck("the journal takes no record of it, however small".to_owned(), now);
            return Ok(());
        }
        self.wal.put_back(small, now, 0);
        if self.state() == SagaState::Running {
            let reason = "the journal takes no record as large as what its steps have answered".to_owned();
            self.begin_compensating(Cause { failed_step: None, reason, at: Some(now) }, now);
        }
        Ok(())
    }

    /// A change without what makes it large. None: it is taken back.
    fn made_small(&mut self, change: Change) -> Option<Change> {
        match change {
            Change::Settled { step, settlement: Settlement::Succeeded { compensation, .. } } => {
                let kept = serde_json::json!({});
                if let Some(name) = self.step(step).map(|step| step.name.clone()) {
                    self.progress.facts.insert(name, kept.clone());
                }
                Some(Change::Settled { step, settlement: Settlement::Succeeded { kept, compensation } })
            }
            Change::InFlight { step, .. } if self.is_about_to_start(step) => {
                self.progress.take_back_start(step);
                if let Some(runtime) = self.runtime.get_mut(step) {
                    runtime.transaction.activity = Activity::Idle;
                }
                None
            }
            Change::Ended { state, nothing_sent, reply } => {
                let reply = if nothing_sent { reply } else { self.small_reply(state) };
                self.progress.reply = Some(reply.clone());
                Some(Change::Ended { state, reply, nothing_sent })
            }
            other => Some(other),
        }
    }

    /// The step's first attempt waits for its record.
    fn is_about_to_start(&self, index: StepIndex) -> bool {
        let waits = |activity| matches!(activity, Activity::AwaitingRecord(_));
        let runtime = self.runtime.get(index);
        self.step_state(index) == Some(StepState::InFlight)
            && runtime.is_some_and(|runtime| waits(runtime.transaction.activity) && !runtime.resolving)
    }

    fn small_reply(&mut self, state: SagaState) -> Reply {
        let reason = "the journal takes no record as large as it".to_owned();
        self.actions.push(Action::Report(Report::ReplyNotRendered { reason }));
        self.default_reply_at_end(state)
    }
}
