//! While a saga runs: which steps start, when it has completed, and what makes it compensate.

use super::attempts::Activity;
use super::call::{Request, reads_any};
use super::record::{Cause, Change, Settlement};
use super::{Bounds, Millis, Saga, SagaState, StepState};
use crate::definition::{Step, StepIndex};
use crate::planted::{Planted, planted};
use crate::template::Expression;

/// Why a step was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotStarted {
    /// A template cannot be rendered, or the condition cannot be evaluated: which one, and why.
    NotRendered(String),
    /// With what it sends the saga is larger than the journal takes.
    TooLarge {
        /// Of the saga, as JSON.
        bytes: usize,
    },
}

impl From<String> for NotStarted {
    fn from(reason: String) -> NotStarted {
        NotStarted::NotRendered(reason)
    }
}

impl std::fmt::Display for NotStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotStarted::NotRendered(reason) => f.write_str(reason),
            NotStarted::TooLarge { bytes } => {
                write!(f, "with its calls the saga is larger than the journal takes: {bytes} bytes")
            }
        }
    }
}

/// What of a compensation can only be rendered once its transaction was answered.
const ANSWER: &[&str] = &["transaction", "response"];

impl Saga {
    pub(super) fn go_forward(&mut self, now: Millis) {
        if now >= self.deadline() {
            let reason = format!("the deadline of {:?} passed", self.definition.deadline);
            return self.begin_compensating(Cause { failed_step: None, reason, at: Some(now) }, now);
        }
        if let Some(failed) = self.failed_step() {
            return self.begin_compensating(self.cause_of(failed, now), now);
        }
        // A step that is skipped may let the next one start, so this repeats until nothing moves.
        while let Some(ready) = self.ready_step(now) {
            if let Err(error) = self.start(ready, now) {
                let settlement = Settlement::Rejected { reason: error.to_string() };
                self.change(Change::Settled { step: ready, settlement }, now);
                return self.begin_compensating(self.cause_of(ready, now), now);
            }
        }
        if self.progress.steps.iter().all(|step| step.state.lets_successors_start()) {
            self.end(SagaState::Completed, now);
        }
    }

    fn ready_step(&self, now: Millis) -> Option<StepIndex> {
        let may_start = |step: &Step| {
            step.after.iter().all(|before| self.step_state(*before).is_some_and(StepState::lets_successors_start))
        };
        let waits = |index: StepIndex| self.step_state(index) == Some(StepState::Waiting);
        // Started on a copy, a step shows whether it can be rendered.
        let jumps = |index: StepIndex| planted(Planted::AfterIgnored) && self.clone().start(index, now).is_ok();
        if planted(Planted::OneAfterAnother) && self.progress.steps.iter().any(|step| step.state == StepState::InFlight)
        {
            return None;
        }
        let mut steps = self.definition.steps.iter().enumerate();
        steps.find(|(index, step)| waits(*index) && (may_start(step) || jumps(*index))).map(|(index, _)| index)
    }

    pub(super) fn failed_step(&self) -> Option<StepIndex> {
        let failed = |state: StepState| matches!(state, StepState::Rejected | StepState::Unknown);
        self.progress.steps.iter().position(|step| failed(step.state))
    }

    pub(super) fn cause_of(&self, failed: StepIndex, now: Millis) -> Cause {
        let reason = self.progress.steps.get(failed).map_or_else(String::new, |step| {
            let why = step.reason.as_deref().unwrap_or_default();
            match step.state {
                StepState::Unknown => format!("whether step `{}` was done is unknown: {why}", step.name),
                _ => format!("step `{}` was rejected: {why}", step.name),
            }
        });
        Cause { failed_step: Some(failed), reason, at: Some(now) }
    }

    pub(super) fn begin_compensating(&mut self, cause: Cause, now: Millis) {
        self.change(Change::Compensating(cause), now);
        self.compensating_since = now;
    }

    /// Starts a step whose turn has come: skips it, or renders what it sends and records the intent. After an error
    /// nothing has changed.
    pub(super) fn start(&mut self, index: StepIndex, now: Millis) -> Result<(), NotStarted> {
        let definition = std::sync::Arc::clone(&self.definition);
        let Some(step) = definition.steps.get(index) else { return Ok(()) };
        if let Some(when) = &step.when
            && !self.condition_holds(when)?
            && !planted(Planted::WhenIgnored)
        {
            self.change(Change::Skipped { step: index }, now);
            return Ok(());
        }
        let request = self.render(&step.transaction, None).map_err(|error| format!("transaction.{error}"))?;
        let compensation = self.render_early(step, &request)?;
        let intent = Change::InFlight { step: index, request: Some(Box::new(request)), compensation, at: Some(now) };
        if self.bounds != Bounds::NONE {
            let bytes = intent.bytes();
            let of_saga = self.recorded_bytes().saturating_add(bytes);
            if bytes > self.bounds.record_bytes || of_saga > self.bounds.saga_bytes {
                return Err(NotStarted::TooLarge { bytes: of_saga });
            }
        }
        let recorded = self.change(intent, now);
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.transaction.activity = Activity::AwaitingRecord(recorded);
        }
        Ok(())
    }

    fn condition_holds(&self, when: &Expression) -> Result<bool, String> {
        let saga = self.saga_facts();
        when.evaluate_bool(&self.facts(&saga, None)).map_err(|error| format!("when: {error}"))
    }

    /// A compensation that does not read the transaction's answer is rendered before the transaction is sent: what
    /// cannot be undone is not done. Of another, the templates that do not read the answer are tried.
    pub(super) fn render_early(&self, step: &Step, request: &Request) -> Result<Option<Box<Request>>, String> {
        let Some(call) = &step.compensation else { return Ok(None) };
        let transaction = self.transaction_facts(step, Some(request), None);
        let failed = |error| format!("compensation.{error}");
        if reads_any(call, &[ANSWER]) {
            let saga = self.saga_facts();
            Request::check(call, &self.facts(&saga, Some(&transaction)), &[ANSWER]).map_err(failed)?;
            return Ok(None);
        }
        let rendered = self.render(call, Some(&transaction)).map_err(failed)?;
        Ok(Some(Box::new(rendered)))
    }
}
