//! How a saga goes on whose owner has gone: from what its records say.
//!
//! What was not recorded is not known. A step in flight may have been done: it is sent again under its key while the
//! saga runs and the deadline allows, and is undone otherwise. A compensation may have been sent: it is sent again, and
//! finding nothing to undo may be a success then. Attempts are counted on, under a higher epoch.
//!
//! The participant may still be working on what the owner before had sent: its attempt is under way until its own timeout
//! after the takeover. The transaction may be sent again meanwhile, for its key is the same; its compensation may not.

use std::sync::Arc;

use super::attempts::{Activity, Runtime};
use super::call::{CallKind, Request};
use super::record::Progress;
use super::{Action, Bounds, Millis, Saga, SagaState, StepState, Told, Wal};
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
    /// What the journal takes.
    pub bounds: Bounds,
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
        let Resume { definition, progress, sequence, epoch, bounds } = resume;
        if progress.begun.is_none() {
            return Err(NotResumable::NeverBegun);
        }
        let same = progress.steps.iter().map(|step| &step.name).eq(definition.steps.iter().map(|step| &step.name));
        if !same {
            let recorded = progress.steps.into_iter().map(|step| step.name).collect();
            return Err(NotResumable::OtherSteps { recorded });
        }
        let told = Told::of(&progress);
        let mut saga = Saga {
            epoch,
            runtime: definition.steps.iter().map(|_| Runtime::default()).collect(),
            wal: Wal::after(sequence),
            bounds,
            told_next: told.clone(),
            told,
            begun_too_late: false,
            said_stuck: progress.stuck.is_some(),
            ends_unsent: false,
            ended_at: None,
            compensating_since: progress.cause.as_ref().and_then(|cause| cause.at).unwrap_or(now),
            progress,
            answered: false,
            over: false,
            actions: Vec::new(),
            definition,
        };
        // What has failed before may be in the records without what followed from it, which was to be in the next.
        let failed = saga.failed_step().filter(|_| saga.state() == SagaState::Running);
        for index in saga.step_indices() {
            saga.resume_step(index, now);
        }
        if let Some(failed) = failed {
            saga.begin_compensating(saga.cause_of(failed, now), now);
        }
        saga.advance(now);
        let actions = std::mem::take(&mut saga.actions);
        Ok((saga, actions))
    }

    fn resume_step(&mut self, index: StepIndex, now: Millis) {
        let Some(progress) = self.progress.steps.get(index) else { return };
        let (state, attempts, saw_unknown) = (progress.state, progress.attempts, progress.saw_unknown);
        let was_rendered = progress.request.is_some();
        let after_an_heir = self.epoch > 2;
        let compensating = self.state() == SagaState::Compensating;
        let is_unrecorded = state == StepState::InFlight && progress.compensation.is_none();
        let rendered_again = if is_unrecorded { self.render_early_again(index) } else { None };
        let needs_answer = self.needs_answer(index) && rendered_again.is_none();
        let until = |timeout_ms: u32| now.saturating_add(timeout_ms.into());
        let busy_until = until(self.timeout_ms(index, CallKind::Transaction));
        let compensation_busy_until = until(self.timeout_ms(index, CallKind::Compensation));
        let Some(runtime) = self.runtime.get_mut(index) else { return };
        runtime.transaction.sent = attempts;
        // When the owner before had sent what came to unknown is not known.
        if state == StepState::InFlight || saw_unknown {
            runtime.transaction.busy_until = busy_until;
        }
        match state {
            // Its request was larger than the journal takes: it was never sent.
            StepState::InFlight if !was_rendered => runtime.transaction.activity = Activity::BackingOff,
            StepState::InFlight => {
                runtime.rendered_again = rendered_again;
                runtime.transaction.sent = runtime.transaction.sent.max(1);
                runtime.transaction.saw_unknown = !planted(Planted::InFlightTakenForNotSent);
                runtime.transaction.reason = OWNER_GONE.to_owned();
                // While the saga compensates only what must be known to undo it is asked for again; the rest settles.
                runtime.resolving = compensating && needs_answer;
                runtime.transaction.activity = Activity::BackingOff;
                runtime.inherited_until = Some(busy_until);
            }
            StepState::Compensating => {
                runtime.compensation.sent = 1;
                runtime.compensation.saw_unknown = true;
                runtime.compensation.reason = OWNER_GONE.to_owned();
                runtime.compensation.activity = Activity::BackingOff;
                runtime.compensation.busy_until = compensation_busy_until;
            }
            _ => runtime.transaction.saw_unknown = saw_unknown,
        }
        // An heir that dies may itself have awaited what the owner before it had under way.
        let may_be_inherited = matches!(state, StepState::Unknown | StepState::Succeeded | StepState::Rejected);
        if after_an_heir && may_be_inherited && was_rendered {
            runtime.inherited_until = Some(busy_until);
        }
        if planted(Planted::InheritedAttemptNotAwaited) {
            runtime.inherited_until = None;
        }
        let used_up = self.step(index).and_then(|step| step.transaction.retry.max_attempts);
        let used_up = used_up.is_some_and(|max| self.runtime.get(index).is_some_and(|one| one.transaction.sent >= max));
        if state == StepState::InFlight && was_rendered && !compensating && used_up {
            self.give_up(index, OWNER_GONE.to_owned(), now);
        }
    }

    /// A compensation that does not read the answer was rendered before the transaction was sent. Version 1 did not record
    /// it until the step settled. The same values give the same call.
    fn render_early_again(&self, index: StepIndex) -> Option<Box<Request>> {
        let step = self.step(index)?;
        let request = self.progress.steps.get(index)?.request.as_deref()?;
        // It could be rendered then.
        self.render_early(step, request).ok().flatten()
    }
}

/// Why an attempt came to unknown whose end nobody saw.
const OWNER_GONE: &str = "whoever had sent it has gone";
