//! The states of a saga and of a step, and the one table of legal transitions.
//!
//! The live run and the replay of a journal go through the same two functions, so a record can hold nothing that the
//! run could not have done, and the run can do nothing that a replay would refuse.
//!
//! ```text
//! saga:  running -> completed
//!        running -> compensating -> compensated
//! step:  waiting -> in_flight -> succeeded | rejected | unknown
//!        waiting -> skipped | not_started | rejected
//!        unknown -> in_flight                        a further attempt: recovery, resolving
//!        succeeded | unknown -> compensating -> compensated
//! ```

use serde::{Deserialize, Serialize};

/// Where a saga is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaState {
    /// Transactions are being sent.
    Running,
    /// A step was rejected or is unknown, or the deadline passed: what was done is being undone.
    Compensating,
    /// Every transaction succeeded or was skipped by its condition.
    Completed,
    /// Every transaction that succeeded, or may have, has been compensated.
    Compensated,
}

impl SagaState {
    /// Takes the state a saga should move to; gives it back where the move is legal.
    pub fn next(self, to: SagaState) -> Result<SagaState, IllegalTransition> {
        use SagaState::{Compensated, Compensating, Completed, Running};
        match (self, to) {
            (Running, Completed | Compensating) | (Compensating, Compensated) => Ok(to),
            _ => Err(IllegalTransition { of: "saga", from: self.name(), to: to.name() }),
        }
    }

    /// The state as `saga-status`, replies and logs name it.
    pub fn name(self) -> &'static str {
        match self {
            SagaState::Running => "running",
            SagaState::Compensating => "compensating",
            SagaState::Completed => "completed",
            SagaState::Compensated => "compensated",
        }
    }

    /// True once nothing more will be done.
    pub fn has_ended(self) -> bool {
        matches!(self, SagaState::Completed | SagaState::Compensated)
    }
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// A step before it has not succeeded yet.
    Waiting,
    /// Its condition was false.
    Skipped,
    /// The saga compensated before the step's turn came.
    NotStarted,
    /// The intent to send its transaction is recorded; it has not settled.
    InFlight,
    /// The transaction was done, and its compensation is known.
    Succeeded,
    /// The transaction was certainly not done and never will be.
    Rejected,
    /// The transaction may have been done.
    Unknown,
    /// Its compensation is being sent.
    Compensating,
    /// Its compensation was applied.
    Compensated,
}

impl StepState {
    /// Takes the state a step should move to; gives it back where the move is legal.
    pub fn next(self, to: StepState) -> Result<StepState, IllegalTransition> {
        use StepState::*;
        match (self, to) {
            // A step whose templates cannot be rendered is rejected without having been in flight.
            (Waiting, Skipped | NotStarted | InFlight | Rejected)
            | (InFlight, Succeeded | Rejected | Unknown)
            | (Unknown, InFlight | Compensating)
            | (Succeeded, Compensating)
            | (Compensating, Compensated) => Ok(to),
            _ => Err(IllegalTransition { of: "step", from: self.name(), to: to.name() }),
        }
    }

    /// The state as replies and logs name it.
    pub fn name(self) -> &'static str {
        match self {
            StepState::Waiting => "waiting",
            StepState::Skipped => "skipped",
            StepState::NotStarted => "not_started",
            StepState::InFlight => "in_flight",
            StepState::Succeeded => "succeeded",
            StepState::Rejected => "rejected",
            StepState::Unknown => "unknown",
            StepState::Compensating => "compensating",
            StepState::Compensated => "compensated",
        }
    }

    /// True where the step lets the steps after it start.
    pub fn lets_successors_start(self) -> bool {
        matches!(self, StepState::Succeeded | StepState::Skipped)
    }

    /// True where no attempt of the transaction is under way or will be made on its own account.
    pub fn has_settled(self) -> bool {
        !matches!(self, StepState::Waiting | StepState::InFlight)
    }
}

/// A move that the table does not have: a defect of this program or a damaged journal, never a participant's doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IllegalTransition {
    /// `saga` or `step`.
    pub of: &'static str,
    /// Name of the state it is in.
    pub from: &'static str,
    /// Name of the state it should have moved to.
    pub to: &'static str,
}

impl std::fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a {} cannot go from {} to {}", self.of, self.from, self.to)
    }
}

impl std::error::Error for IllegalTransition {}
