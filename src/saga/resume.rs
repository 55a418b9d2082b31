//! How a saga goes on whose owner has gone: from what its records say.
//!
//! What was not recorded is not known. A step in flight may have been done: it is sent again under its key while the
//! saga runs and the deadline allows, and is undone otherwise. A compensation may have been sent: it is sent again, and
//! finding nothing to undo is a success then. Attempts are counted anew, under a higher epoch.

use std::sync::Arc;

use super::attempts::{Activity, Runtime};
use super::call::Request;
use super::record::Progress;
use super::{Action, Millis, Saga, SagaState, StepState};
use crate::definition::{Definition, StepIndex};
use crate::planted::{Planted, planted};

/// What a saga is resumed from.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The definition with which the saga began.
    pub definition: Arc<Definition>,
    /// What a replay of its records gives.
    pub progress: Progress,
    /// Sequence of the last of them.
    pub sequence: u64,
    /// Higher than that of the owner before.
    pub epoch: u32,
}

/// The records are not those of a saga of this definition. Nothing may be done for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotResumable {
    /// They do not begin with a begin.
    NeverBegun,
    /// They are of other steps than the definition has.
    OtherSteps {
        /// Names of the steps in the records.
        recorded: Vec<String>,
    },
}

impl std::fmt::Display for NotResumable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotResumable::NeverBegun => f.write_str("its records do not say how it began"),
            NotResumable::OtherSteps { recorded } => {
                write!(f, "its records are of the steps {}, which the definition does not have", recorded.join(", "))
            }
        }
    }
}

impl std::error::Error for NotResumable {}

impl Saga {
    /// Takes a saga up again at the time `now`: gives it with its first actions. Whoever waited for it was told nothing
    /// that the records do not hold, and may be told again.
    ///
    /// # Errors
    /// The records are not those of a saga of this definition.
    pub fn resume(resume: Resume, now: Millis) -> Result<(Saga, Vec<Action>), NotResumable> {
        let Resume { definition, progress, sequence, epoch } = resume;
        if progress.begun.is_none() {
            return Err(NotResumable::NeverBegun);
        }
        let same = progress.steps.iter().map(|step| &step.name).eq(definition.steps.iter().map(|step| &step.name));
        if !same {
            let recorded = progress.steps.into_iter().map(|step| step.name).collect();
            return Err(NotResumable::OtherSteps { recorded });
        }
        let mut saga = Saga {
            epoch,
            runtime: definition.steps.iter().map(|_| Runtime::default()).collect(),
            progress,
            unwritten: Vec::new(),
            next_sequence: sequence.saturating_add(1),
            outstanding: None,
            durable: sequence,
            begun_too_late: false,
            compensating_since: now,
            stuck: None,
            answered: false,
            over: false,
            actions: Vec::new(),
            definition,
        };
        for index in saga.step_indices() {
            saga.resume_step(index);
        }
        saga.advance(now);
        let actions = std::mem::take(&mut saga.actions);
        Ok((saga, actions))
    }

    fn resume_step(&mut self, index: StepIndex) {
        let Some(state) = self.step_state(index) else { return };
        let compensating = self.state() == SagaState::Compensating;
        let early_compensation = if state == StepState::InFlight { self.render_early_again(index) } else { None };
        let needs_answer = self.has_compensation(index) && early_compensation.is_none();
        let Some(runtime) = self.runtime.get_mut(index) else { return };
        match state {
            StepState::InFlight => {
                runtime.early_compensation = early_compensation;
                runtime.transaction.saw_unknown = !planted(Planted::InFlightTakenForNotSent);
                runtime.transaction.reason = OWNER_GONE.to_owned();
                // While the saga compensates only what must be known to undo it is asked for again; the rest settles.
                runtime.resolving = compensating && needs_answer;
                runtime.transaction.activity = Activity::BackingOff;
            }
            StepState::Compensating => {
                runtime.compensation.saw_unknown = true;
                runtime.compensation.reason = OWNER_GONE.to_owned();
                runtime.compensation.activity = Activity::BackingOff;
            }
            _ => {}
        }
    }

    /// A compensation that does not read the answer was rendered before the transaction was sent, and is not recorded
    /// until the step settles. The same values give the same call.
    fn render_early_again(&self, index: StepIndex) -> Option<Box<Request>> {
        let step = self.step(index)?;
        let request = self.progress.steps.get(index)?.request.as_deref()?;
        // It could be rendered then.
        self.render_early(step, request).ok().flatten()
    }
}

/// Why an attempt came to unknown whose end nobody saw.
const OWNER_GONE: &str = "whoever had sent it has gone";
