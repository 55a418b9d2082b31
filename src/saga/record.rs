//! What a saga writes to its journal.
//!
//! A record is a list of changes. The live saga makes every change through [`Progress::apply`] before it collects it
//! into a record, and a replay calls the same function, so replaying any prefix of the records gives the state that
//! wrote them. Back-offs are not recorded, and of attempts only so many that nothing grows with their number.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::call::Request;
use super::state::{IllegalTransition, SagaState, StepState};
use super::{Millis, SagaId};
use crate::answer::Reply;
use crate::definition::StepIndex;
use crate::planted::{Planted, planted, tomorrow};

/// Version of the form of what journals keep. It is raised only when the form as such changes: what is new in a value it
/// names in its `needs`.
pub const RECORD_VERSION: u32 = 2;
/// The oldest version that this module reads. What it goes on with it writes in its own.
pub const OLDEST_VERSION: u32 = 1;
/// Every feature that a value may need and this module knows. What needs another is for a module that knows it.
pub const FEATURES: &[&str] = &[];

/// One write: all the changes that must be durable before the saga goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`] of whoever wrote it.
    pub version: u32,
    /// The features without which its changes cannot be understood; most records need none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// 1 for the first record of a saga, then without gaps.
    pub sequence: u64,
    /// In the order in which they were made.
    #[cfg_attr(feature = "planted-faults", serde(with = "tomorrow::changes"))]
    pub changes: Vec<Change>,
}

impl Record {
    /// A record of this version.
    pub fn new(sequence: u64, changes: Vec<Change>) -> Record {
        let mut needs: Vec<String> = changes.iter().filter_map(feature_of).map(str::to_owned).collect();
        needs.sort_unstable();
        needs.dedup();
        if planted(Planted::NeedsNotWritten) {
            needs.clear();
        }
        let version = RECORD_VERSION + u32::from(planted(Planted::NewestVersionAlways) && tomorrow::is_chosen());
        Record { version, needs, sequence, changes }
    }

    /// Whether it is the saga's last.
    pub fn ends(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::Ended { .. }))
    }
}

/// The feature without which a change cannot be understood: one of [`FEATURES`]. None: every module from
/// [`OLDEST_VERSION`] on knows the change, or may pass over what is new in it.
fn feature_of(change: &Change) -> Option<&'static str> {
    tomorrow::feature_of(change)
}

/// One change of a saga's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The saga exists.
    Begun(Begun),
    /// The step's condition was false. It is not evaluated again.
    Skipped {
        /// Index of the step.
        step: StepIndex,
    },
    /// The step's transaction is about to be sent (again, where the step was unknown).
    InFlight {
        /// Index of the step.
        step: StepIndex,
        /// The rendered transaction; none where an earlier change carried it.
        request: Option<Box<Request>>,
        /// The compensation, where it was rendered before the transaction is sent: it is never rendered again. None:
        /// there is nothing to undo, it needs the participant's answer, or an earlier change carried it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compensation: Option<Box<Request>>,
        /// Wall time of the change: no attempt was made before it. Version 1 did not say it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Millis>,
    },
    /// Attempts of the step's transaction have been made, and have not settled it.
    Attempted {
        /// Index of the step.
        step: StepIndex,
        /// How many, in all epochs.
        sent: u32,
        /// One of them came to unknown.
        unknown: bool,
    },
    /// The step settled.
    Settled {
        /// Index of the step.
        step: StepIndex,
        /// How.
        settlement: Settlement,
    },
    /// From now on the saga undoes what was done.
    Compensating(Cause),
    /// The step's compensation is about to be sent.
    StepCompensating {
        /// Index of the step.
        step: StepIndex,
    },
    /// The step's compensation was applied.
    StepCompensated {
        /// Index of the step.
        step: StepIndex,
    },
    /// The saga does not get on by itself. It is still tried.
    Stuck(Stuck),
    /// The saga ended, and this is what its client gets.
    Ended {
        /// `Completed` or `Compensated`.
        state: SagaState,
        /// The answer.
        reply: Reply,
        /// It has sent nothing, and its client was told so: the same request may begin anew.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        nothing_sent: bool,
    },
}

/// What a saga begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// UUIDv7, as `saga-id` gives it.
    pub id: SagaId,
    /// Name of the definition.
    pub definition: String,
    /// What templates read of the client's request.
    pub request: Json,
    /// Headers of the client's request that go with every call.
    pub forwarded: Vec<(String, String)>,
    /// Wall time of the begin.
    pub begun_at: Millis,
    /// Wall time past which no transaction is attempted.
    pub deadline: Millis,
    /// How deep it is in sagas that call each other: 1 where no saga has called. Version 1 did not say it.
    #[serde(default = "outermost")]
    pub depth: u8,
    /// Who began it: what [`crate::journal::who`] gives. Version 1 did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
}

// As serde wants it.
fn outermost() -> u8 {
    1
}

/// How a step's transaction came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// It was done.
    Succeeded {
        /// What later expressions read of the step: `request` and `response`.
        kept: Json,
        /// The rendered compensation; none where there is nothing to undo, or where it was recorded before.
        compensation: Option<Box<Request>>,
    },
    /// It was certainly not done.
    Rejected {
        /// Why, for people.
        reason: String,
    },
    /// It may have been done.
    Unknown {
        /// Why, for people.
        reason: String,
        /// The rendered compensation; none where there is nothing to undo, where it was recorded before, or where it
        /// needs the participant's answer.
        compensation: Option<Box<Request>>,
    },
}

impl Change {
    /// Its length as JSON, in bytes, and a little more: exact where it is large.
    pub fn bytes(&self) -> usize {
        length(self, self.held_bytes())
    }

    fn held_bytes(&self) -> usize {
        let of = |request: &Option<Box<Request>>| request.as_deref().map_or(0, Request::held_bytes);
        match self {
            Change::Begun(begun) => {
                let forwarded = begun.forwarded.iter().map(|(name, value)| name.len() + value.len() + 8);
                text_bytes(&begun.request).saturating_add(forwarded.sum())
            }
            Change::InFlight { request, compensation, .. } => of(request).saturating_add(of(compensation)),
            Change::Settled { settlement, .. } => settlement.held_bytes(),
            Change::Compensating(cause) => cause.reason.len(),
            Change::Stuck(stuck) => stuck.reason.len(),
            Change::Ended { reply, .. } => reply.held_bytes(),
            Change::Skipped { .. }
            | Change::Attempted { .. }
            | Change::StepCompensating { .. }
            | Change::StepCompensated { .. } => 0,
        }
    }
}

/// Below it a change is not measured exactly.
const CERTAINLY_SMALL_BYTES: usize = 4 << 10;

/// About how long a value is as JSON, in bytes.
pub fn text_bytes(value: &Json) -> usize {
    match value {
        Json::Null | Json::Bool(_) => 5,
        Json::Number(_) => 24,
        Json::String(text) => text.len() + 3,
        Json::Array(items) => items.iter().map(text_bytes).sum::<usize>() + 2,
        Json::Object(members) => {
            members.iter().map(|(name, member)| name.len() + 4 + text_bytes(member)).sum::<usize>() + 2
        }
    }
}

/// How long a value is as JSON, in bytes, and a little more: exact where what it holds is large.
pub(super) fn length(value: &impl Serialize, held_bytes: usize) -> usize {
    // Text may grow sixfold as JSON (`\u0000`), and what stands around it is short.
    let most = held_bytes.saturating_mul(6).saturating_add(512);
    if most <= CERTAINLY_SMALL_BYTES { most } else { json_length(value) }
}

fn json_length(value: &impl Serialize) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        // Nothing that is recorded can fail to become JSON.
        Err(_) => usize::MAX,
    }
}

impl Settlement {
    /// Its length as JSON, in bytes, and a little more: exact where it is large.
    pub fn bytes(&self) -> usize {
        length(self, self.held_bytes())
    }

    fn held_bytes(&self) -> usize {
        let of = |request: &Option<Box<Request>>| request.as_deref().map_or(0, Request::held_bytes);
        match self {
            Settlement::Succeeded { kept, compensation } => text_bytes(kept).saturating_add(of(compensation)),
            Settlement::Unknown { reason, compensation } => reason.len().saturating_add(of(compensation)),
            Settlement::Rejected { reason } => reason.len(),
        }
    }

    /// The state of a step that settled so.
    pub fn state(&self) -> StepState {
        match self {
            Settlement::Succeeded { .. } => StepState::Succeeded,
            Settlement::Rejected { .. } => StepState::Rejected,
            Settlement::Unknown { .. } => StepState::Unknown,
        }
    }
}

/// Why a saga compensates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The first step to settle as rejected or unknown; none where the deadline did it.
    pub failed_step: Option<StepIndex>,
    /// For people.
    pub reason: String,
    /// Wall time of the decision. Version 1 did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Millis>,
}

/// That a saga does not get on by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Wall time since which it does not.
    pub since: Millis,
    /// For people.
    pub reason: String,
}

/// The recorded part of a saga: what a replay restores.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// Where the saga is.
    pub state: SagaState,
    /// None before the first change.
    pub begun: Option<Begun>,
    /// One for each step of the definition, in its order.
    pub steps: Vec<StepProgress>,
    /// What expressions read as `steps.NAME`, by name.
    pub facts: Map<String, Json>,
    /// Set once the saga compensates.
    pub cause: Option<Cause>,
    /// Set once the saga did not get on by itself.
    pub stuck: Option<Stuck>,
    /// Set once the saga has ended.
    pub reply: Option<Reply>,
}

/// The recorded part of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepProgress {
    /// Name in the definition.
    pub name: String,
    /// Where the step is.
    pub state: StepState,
    /// The rendered transaction, once it was about to be sent.
    pub request: Option<Box<Request>>,
    /// The rendered compensation, once it was known.
    pub compensation: Option<Box<Request>>,
    /// Whether the outcome that is compensated was unknown.
    pub settled_unknown: bool,
    /// Why the step was rejected or is unknown.
    pub reason: Option<String>,
    /// Wall time before which no attempt of the transaction was made, once one was about to be.
    pub first_attempt_at: Option<Millis>,
    /// Attempts of the transaction that were recorded.
    pub attempts: u32,
    /// One of them came to unknown.
    pub saw_unknown: bool,
}

impl Progress {
    /// Takes the names of the definition's steps; gives a saga to which nothing has happened.
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Progress {
        Progress {
            state: SagaState::Running,
            begun: None,
            steps: names.map(StepProgress::new).collect(),
            facts: Map::new(),
            cause: None,
            stuck: None,
            reply: None,
        }
    }

    /// Makes one change. An illegal one changes nothing.
    pub fn apply(&mut self, change: &Change) -> Result<(), IllegalTransition> {
        match change {
            Change::Begun(begun) => {
                if self.begun.is_some() {
                    return Err(IllegalTransition { of: "saga", from: self.state.name(), to: "begun" });
                }
                self.begun = Some(begun.clone());
            }
            Change::Skipped { step } => self.move_step(*step, StepState::Skipped)?,
            Change::InFlight { step, request, compensation, at } => {
                self.move_step(*step, StepState::InFlight)?;
                if let Some(step) = self.steps.get_mut(*step) {
                    replace_if_given(&mut step.request, request);
                    replace_if_given(&mut step.compensation, compensation);
                    step.first_attempt_at = step.first_attempt_at.or(*at);
                }
            }
            Change::Attempted { step, sent, unknown } => {
                let step = self.step_in_flight(*step)?;
                step.attempts = *sent;
                step.saw_unknown |= *unknown;
            }
            Change::Stuck(stuck) => self.stuck = Some(stuck.clone()),
            Change::Settled { step, settlement } => self.settle(*step, settlement)?,
            Change::Compensating(cause) => {
                self.state = self.state.next(SagaState::Compensating)?;
                self.cause = Some(cause.clone());
                for step in &mut self.steps {
                    if step.state == StepState::Waiting {
                        step.state = step.state.next(StepState::NotStarted)?;
                    }
                }
            }
            Change::StepCompensating { step } => self.move_step(*step, StepState::Compensating)?,
            Change::StepCompensated { step } => self.move_step(*step, StepState::Compensated)?,
            Change::Ended { state, reply, .. } => {
                self.state = self.state.next(*state)?;
                self.reply = Some(reply.clone());
            }
        }
        Ok(())
    }

    /// Forgets what a step would have sent that no record holds, and that was never sent.
    pub(super) fn forget_calls(&mut self, index: StepIndex) {
        if let Some(step) = self.steps.get_mut(index) {
            (step.request, step.compensation) = (None, None);
        }
    }

    fn settle(&mut self, index: StepIndex, settlement: &Settlement) -> Result<(), IllegalTransition> {
        self.move_step(index, settlement.state())?;
        let Some(step) = self.steps.get_mut(index) else { return Ok(()) };
        match settlement {
            Settlement::Succeeded { kept, compensation } => {
                replace_if_given(&mut step.compensation, compensation);
                step.settled_unknown = false;
                self.facts.insert(step.name.clone(), kept.clone());
            }
            Settlement::Rejected { reason } => {
                step.compensation = None;
                step.reason = Some(reason.clone());
            }
            Settlement::Unknown { reason, compensation } => {
                replace_if_given(&mut step.compensation, compensation);
                step.settled_unknown = true;
                step.saw_unknown = true;
                step.reason = Some(reason.clone());
            }
        }
        Ok(())
    }

    fn step_in_flight(&mut self, index: StepIndex) -> Result<&mut StepProgress, IllegalTransition> {
        let illegal = |from: &'static str| IllegalTransition { of: "step", from, to: "attempted" };
        let step = self.steps.get_mut(index).ok_or_else(|| illegal("missing"))?;
        if step.state == StepState::InFlight { Ok(step) } else { Err(illegal(step.state.name())) }
    }

    fn move_step(&mut self, index: StepIndex, to: StepState) -> Result<(), IllegalTransition> {
        let missing = IllegalTransition { of: "step", from: "missing", to: to.name() };
        let step = self.steps.get_mut(index).ok_or(missing)?;
        step.state = step.state.next(to)?;
        Ok(())
    }
}

impl StepProgress {
    fn new(name: &str) -> StepProgress {
        StepProgress {
            name: name.to_owned(),
            state: StepState::Waiting,
            request: None,
            compensation: None,
            settled_unknown: false,
            reason: None,
            first_attempt_at: None,
            attempts: 0,
            saw_unknown: false,
        }
    }
}

/// What an earlier change carried stays where this one carries nothing.
fn replace_if_given(held: &mut Option<Box<Request>>, given: &Option<Box<Request>>) {
    if let Some(given) = given {
        *held = Some(given.clone());
    }
}
