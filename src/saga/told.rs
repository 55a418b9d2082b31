//! What clients are told of a saga that has not ended: what its last acknowledged record says, and nothing that is only in
//! memory. Another owner knows no more than that, and may decide otherwise.

use super::record::{Cause, Change, Progress, Stuck};
use super::state::{SagaState, StepState};

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) state: SagaState,
    /// One for each step of the definition, in its order.
    pub(super) steps: Vec<StepState>,
    pub(super) cause: Option<Cause>,
    pub(super) stuck: Option<Stuck>,
}

impl Told {
    /// Of a saga with so many steps that no record says anything of.
    pub(super) fn nothing(steps: usize) -> Told {
        Told { state: SagaState::Running, steps: vec![StepState::Waiting; steps], cause: None, stuck: None }
    }

    /// Of what the journal holds.
    pub(super) fn of(progress: &Progress) -> Told {
        Told {
            state: progress.state,
            steps: progress.steps.iter().map(|step| step.state).collect(),
            cause: progress.cause.clone(),
            stuck: progress.stuck.clone(),
        }
    }

    /// Takes a change that was acknowledged.
    pub(super) fn acknowledge(&mut self, change: &Change) {
        match change {
            Change::Begun(_) | Change::Attempted { .. } => {}
            Change::Skipped { step } => self.set(*step, StepState::Skipped),
            Change::InFlight { step, .. } => self.set(*step, StepState::InFlight),
            Change::Settled { step, settlement } => self.set(*step, settlement.state()),
            Change::Compensating(cause) => {
                self.state = SagaState::Compensating;
                self.cause = Some(cause.clone());
                for state in self.steps.iter_mut().filter(|state| **state == StepState::Waiting) {
                    *state = StepState::NotStarted;
                }
            }
            Change::StepCompensating { step } => self.set(*step, StepState::Compensating),
            Change::StepCompensated { step } => self.set(*step, StepState::Compensated),
            Change::Stuck(stuck) => self.stuck = Some(stuck.clone()),
            Change::Ended { state, .. } => self.state = *state,
        }
    }

    /// An end is told only as such, with its reply.
    pub(super) fn open_state(&self) -> SagaState {
        match self.state {
            SagaState::Completed | SagaState::Running => SagaState::Running,
            SagaState::Compensating | SagaState::Compensated => SagaState::Compensating,
        }
    }

    fn set(&mut self, step: usize, to: StepState) {
        if let Some(state) = self.steps.get_mut(step) {
            *state = to;
        }
    }
}
