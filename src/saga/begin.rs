//! How a saga begins: everything that can be known to fail is found before anything is sent.

use std::sync::Arc;

use serde_json::Value as Json;

use super::attempts::Runtime;
use super::forward::NotStarted;
use super::record::{Begun, Change, Progress};
use super::{Action, Bounds, Millis, Saga, SagaId, Told, Wal};
use crate::definition::Definition;
use crate::planted::{Planted, planted};

/// What a saga begins with.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The definition that the client's request matched.
    pub definition: Arc<Definition>,
    /// UUIDv7 in its usual text form.
    pub id: SagaId,
    /// Raised by every takeover; 1 for a saga that begins.
    pub epoch: u32,
    /// The client's request, as [`crate::facts::request`] gives it.
    pub request: Json,
    /// Headers of the client's request that go with every call.
    pub forwarded: Vec<(String, String)>,
    /// How deep it is in sagas that call each other: 1 where no saga has called.
    pub depth: u8,
    /// Who begins it, as a hash.
    pub who: String,
    /// What the journal takes.
    pub bounds: Bounds,
}

/// The client's request does not give what the first steps need. Nothing was sent and there is no saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeginRefused {
    /// Name of the step.
    pub step: String,
    /// Where in the step, which expression, and why.
    pub reason: String,
    /// The request is not wrong, but what the step would send is larger than the journal takes.
    pub is_too_large: bool,
}

impl std::fmt::Display for BeginRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step `{}`: {}", self.step, self.reason)
    }
}

impl std::error::Error for BeginRefused {}

impl Saga {
    /// Begins a saga at the time `now`: gives it with its first actions.
    ///
    /// # Errors
    /// The condition, the transaction or the compensation of a step without `after` cannot be rendered from the request.
    pub fn begin(begin: Begin, now: Millis) -> Result<(Saga, Vec<Action>), BeginRefused> {
        let definition = begin.definition;
        let deadline_ms = u64::try_from(definition.deadline.as_millis()).unwrap_or(u64::MAX);
        let mut saga = Saga {
            epoch: begin.epoch,
            progress: Progress::new(definition.steps.iter().map(|step| step.name.as_str())),
            runtime: definition.steps.iter().map(|_| Runtime::default()).collect(),
            wal: Wal::after(0),
            bounds: begin.bounds,
            told: Told::nothing(definition.steps.len()),
            told_next: Told::nothing(definition.steps.len()),
            begun_too_late: false,
            said_stuck: false,
            ends_unsent: false,
            ended_at: None,
            compensating_since: 0,
            answered: false,
            over: false,
            actions: Vec::new(),
            definition: Arc::clone(&definition),
        };
        let begun = Begun {
            id: begin.id,
            definition: definition.name.clone(),
            request: definition.reads.project(&["request"], &begin.request),
            forwarded: begin.forwarded,
            begun_at: now,
            deadline: now.saturating_add(deadline_ms),
            depth: begin.depth,
            who: Some(begin.who),
        };
        saga.change(Change::Begun(begun), now);
        for (index, step) in definition.steps.iter().enumerate() {
            let later = planted(Planted::OneAfterAnother) && index > 0;
            if step.after.is_empty() && !later {
                saga.start(index, now).map_err(|error| BeginRefused {
                    step: step.name.clone(),
                    is_too_large: matches!(error, NotStarted::TooLarge { .. }),
                    reason: error.to_string(),
                })?;
            }
        }
        saga.advance(now);
        let actions = std::mem::take(&mut saga.actions);
        Ok((saga, actions))
    }
}
