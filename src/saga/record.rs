//! What a saga writes to its journal.
//!
//! A record is a list of changes. The live saga makes every change through [`Progress::apply`] before it collects it
//! into a record, and a replay calls the same function, so replaying any prefix of the records gives the state that
//! wrote them. Attempts and back-offs are not recorded: nothing grows with their number.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::answer::Reply;
use super::call::Request;
use super::state::{IllegalTransition, SagaState, StepState};
use super::{Millis, SagaId};
use crate::definition::StepIndex;

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
    pub changes: Vec<Change>,
}

impl Record {
    /// A record of this version.
    pub fn new(sequence: u64, changes: Vec<Change>) -> Record {
        let mut needs: Vec<String> = changes.iter().filter_map(feature_of).map(str::to_owned).collect();
        needs.sort_unstable();
        needs.dedup();
        Record { version: RECORD_VERSION, needs, sequence, changes }
    }

    /// Whether it is the saga's last.
    pub fn ends(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::Ended { .. }))
    }
}

/// The feature without which a change cannot be understood: one of [`FEATURES`]. None: every module from
/// [`OLDEST_VERSION`] on knows the change, or may pass over what is new in it.
fn feature_of(_change: &Change) -> Option<&'static str> {
    None
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
}

/// How a step's transaction came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// It was done.
    Succeeded {
        /// What later expressions read of the step: `request` and `response`.
        kept: Json,
        /// The rendered compensation; none where there is nothing to undo.
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
        /// The rendered compensation; none where there is nothing to undo, or where it needs the participant's answer.
        compensation: Option<Box<Request>>,
    },
}

impl Settlement {
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
            Change::InFlight { step, request } => {
                self.move_step(*step, StepState::InFlight)?;
                if let (Some(step), Some(request)) = (self.steps.get_mut(*step), request) {
                    step.request = Some(request.clone());
                }
            }
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

    fn settle(&mut self, index: StepIndex, settlement: &Settlement) -> Result<(), IllegalTransition> {
        self.move_step(index, settlement.state())?;
        let Some(step) = self.steps.get_mut(index) else { return Ok(()) };
        match settlement {
            Settlement::Succeeded { kept, compensation } => {
                step.compensation = compensation.clone();
                step.settled_unknown = false;
                self.facts.insert(step.name.clone(), kept.clone());
            }
            Settlement::Rejected { reason } => {
                step.compensation = None;
                step.reason = Some(reason.clone());
            }
            Settlement::Unknown { reason, compensation } => {
                step.compensation = compensation.clone();
                step.settled_unknown = true;
                step.reason = Some(reason.clone());
            }
        }
        Ok(())
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
        }
    }
}
