//! What an ended attempt of a transaction means for its step: it settles, or is tried again.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::attempts::{Activity, Runtime};
use super::call::{CallKind, Request};
use super::outcome::{Mode, Verdict, hear, transaction};
use super::record::{Change, Settlement};
use super::{AttemptResult, Bounds, Millis, Saga, SagaState};
use crate::definition::{Step, StepIndex};
use crate::planted::{Planted, planted};

/// So many attempts are recorded one by one; after that, each time their number has doubled.
const RECORDED_ONE_BY_ONE: u32 = 64;

impl Saga {
    pub(super) fn transaction_ended(&mut self, index: StepIndex, step: &Step, result: &AttemptResult, now: Millis) {
        let Some(mode) = self.runtime.get(index).map(Runtime::mode) else { return };
        let late = mode != Mode::Resolving && self.state() == SagaState::Compensating;
        match transaction(hear(&step.transaction, CallKind::Transaction, result, now), mode) {
            Verdict::Succeeded(_) if late && planted(Planted::LateSuccessForgotten) => {
                self.settle(index, Settlement::Rejected { reason: "too late".to_owned() }, now);
            }
            Verdict::Succeeded(response) => match self.succeeded(index, step, response) {
                Ok(settlement) => self.settle(index, settlement, now),
                // What cannot be undone was not a success.
                Err(reason) => self.outcome_unknown(index, step, reason, now),
            },
            Verdict::Rejected(reason) => self.settle(index, Settlement::Rejected { reason }, now),
            Verdict::GiveUp(reason) => self.give_up(index, reason, now),
            Verdict::NotDone { reason, retry_after, counts } => {
                self.try_transaction_again(index, step, reason, retry_after, counts, now);
            }
            Verdict::Unknown(reason) => self.outcome_unknown(index, step, reason, now),
        }
    }

    fn outcome_unknown(&mut self, index: StepIndex, step: &Step, reason: String, now: Millis) {
        let timeout_ms = self.timeout_ms(index, CallKind::Transaction);
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.transaction.came_to_unknown(timeout_ms);
        }
        self.try_transaction_again(index, step, reason, None, true, now);
    }

    /// How long an attempt of a call may take; 0 before it was rendered.
    pub(super) fn timeout_ms(&self, index: StepIndex, kind: CallKind) -> u32 {
        let request = self.progress.steps.get(index).and_then(|step| match kind {
            CallKind::Transaction => step.request.as_ref(),
            CallKind::Compensation => step.compensation.as_ref(),
        });
        request.map_or(0, |request| request.timeout_ms)
    }

    fn try_transaction_again(
        &mut self,
        index: StepIndex,
        step: &Step,
        reason: String,
        asked: Option<Duration>,
        counts: bool,
        now: Millis,
    ) {
        let running = self.state() == SagaState::Running && now < self.deadline();
        let Some(runtime) = self.runtime.get_mut(index) else { return };
        let more = u32::from(planted(Planted::TooManyAttempts));
        let attempts_left = step.transaction.retry.max_attempts.is_none_or(|max| runtime.transaction.sent < max + more);
        let given_up = if counts {
            planted(Planted::NoSecondAttempt) && runtime.transaction.saw_unknown
        } else {
            planted(Planted::RefusedDispatchTakenForRejection)
        };
        let resolving = runtime.resolving;
        let again = resolving || (running && !given_up && (attempts_left || !counts));
        runtime.transaction.reason.clone_from(&reason);
        // A step that is given up waits as well: it may have to be resolved, and what the participant has asked for
        // holds for that attempt, too.
        self.back_off(index, CallKind::Transaction, &step.transaction.retry, asked, now);
        if !again {
            self.give_up(index, reason, now);
        } else if counts && !resolving {
            self.record_attempts(index, now);
        }
    }

    /// `max_attempts` is the saga's: another owner goes on counting.
    fn record_attempts(&mut self, index: StepIndex, now: Millis) {
        let Some(attempts) = self.runtime.get(index).map(|runtime| &runtime.transaction) else { return };
        let (sent, unknown) = (attempts.sent, attempts.saw_unknown);
        if sent > RECORDED_ONE_BY_ONE && !sent.is_power_of_two() {
            return;
        }
        let new = Change::Attempted { step: index, sent, unknown };
        let amended = self.wal.amend(|change| {
            let is_older = matches!(change, Change::Attempted { step, .. } if *step == index);
            if is_older {
                change.clone_from(&new);
            }
            is_older
        });
        match amended {
            // Only the change that is not written yet is another.
            true => {
                if let Err(illegal) = self.progress.apply(&new) {
                    log::error!("saga {}: {illegal}", self.id());
                }
            }
            false => {
                self.change(new, now);
            }
        }
    }

    /// Settles a step whose transaction is not attempted any more.
    pub(super) fn give_up(&mut self, index: StepIndex, reason: String, now: Millis) {
        let Some(runtime) = self.runtime.get(index) else { return };
        let settlement = if runtime.transaction.saw_unknown && !planted(Planted::UnknownTakenForRejected) {
            Settlement::Unknown { reason, compensation: runtime.rendered_again.clone() }
        } else {
            Settlement::Rejected { reason }
        };
        self.settle(index, settlement, now);
    }

    fn settle(&mut self, index: StepIndex, settlement: Settlement, now: Millis) {
        self.change(Change::Settled { step: index, settlement }, now);
        if let Some(runtime) = self.runtime.get_mut(index) {
            runtime.transaction.activity = Activity::Idle;
            runtime.resolving = false;
        }
    }

    /// How a step settles whose transaction was done: with the compensation rendered, or why it cannot be.
    fn succeeded(&self, index: StepIndex, step: &Step, response: Json) -> Result<Settlement, String> {
        let progress = self.progress.steps.get(index);
        let request = progress.and_then(|progress| progress.request.as_deref());
        let is_recorded = progress.is_some_and(|progress| progress.compensation.is_some());
        let rendered_again = self.runtime.get(index).and_then(|runtime| runtime.rendered_again.clone());
        let compensation = match (&step.compensation, rendered_again) {
            (None, _) => None,
            (Some(_), _) if is_recorded => None,
            (Some(_), Some(again)) => Some(again),
            (Some(call), None) => {
                let transaction = self.transaction_facts(step, request, Some(&response));
                match self.render(call, Some(&transaction)) {
                    Err(_) if planted(Planted::SuccessWithoutCompensationTaken) => None,
                    rendered => {
                        let failed = |error| format!("its compensation cannot be rendered: {error}");
                        Some(Box::new(rendered.map_err(failed)?))
                    }
                }
            }
        };
        let kept = self.kept_facts(step, request, response);
        self.fitting(kept, compensation)
    }

    /// A result as the journal takes it. While the saga compensates nothing but replies reads what a step was answered:
    /// there it is left out where it is too large. Else it is no success: what the journal does not hold another owner
    /// does not know.
    fn fitting(&self, kept: Json, compensation: Option<Box<Request>>) -> Result<Settlement, String> {
        let Bounds { record_bytes, saga_bytes } = self.bounds;
        if self.bounds == Bounds::NONE {
            return Ok(Settlement::Succeeded { kept, compensation });
        }
        let settlement = Settlement::Succeeded { kept, compensation };
        let bytes = settlement.bytes();
        if bytes <= record_bytes && self.recorded_bytes().saturating_add(bytes) <= saga_bytes {
            return Ok(settlement);
        }
        match settlement {
            Settlement::Succeeded { compensation, .. } if self.state() == SagaState::Compensating => {
                Ok(Settlement::Succeeded { kept: json!({}), compensation })
            }
            _ => Err(format!("its answer is larger than the journal keeps: {bytes} bytes")),
        }
    }

    /// `transaction` as a step's compensation reads it.
    pub(super) fn transaction_facts(&self, step: &Step, request: Option<&Request>, response: Option<&Json>) -> Json {
        let mut facts = json!({ "idempotency_key": self.envelope(step).idempotency_key(CallKind::Transaction) });
        let reads_request = self.definition.reads.any_under(&["transaction", "request"]);
        if let Some(facts) = facts.as_object_mut() {
            if let Some(request) = request.filter(|_| reads_request) {
                facts.insert("request".to_owned(), request.facts());
            }
            if let Some(response) = response {
                let read = self.definition.reads.project(&["transaction", "response"], response);
                facts.insert("response".to_owned(), read);
            }
        }
        facts
    }
}
