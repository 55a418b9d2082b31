//! What is kept in etcd, and under which keys.

use serde::{Deserialize, Serialize};

use crate::journal::StartKey;
use crate::journal::replay::add_needs;
use crate::saga::record::{Change, RECORD_VERSION, Record};
use crate::saga::step_states::StepStates;
use crate::saga::{Reply, SagaState};

/// The keys, under the configured prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn under(prefix: &str) -> Keys {
        Keys { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    pub(super) fn vms(&self) -> String {
        format!("{}/vm/", self.prefix)
    }

    pub(super) fn vm(&self, vm: &str) -> String {
        format!("{}/vm/{vm}", self.prefix)
    }

    pub(super) fn sagas(&self) -> String {
        format!("{}/saga/", self.prefix)
    }

    pub(super) fn saga(&self, saga: &str) -> String {
        format!("{}/saga/{saga}", self.prefix)
    }

    /// What is left for a while of a saga that has ended. No scan reads it.
    pub(super) fn ended(&self, saga: &str) -> String {
        format!("{}/ended/{saga}", self.prefix)
    }

    pub(super) fn records(&self, saga: &str) -> String {
        format!("{}/record/{saga}/", self.prefix)
    }

    /// In the order of their sequences.
    pub(super) fn record(&self, saga: &str, sequence: u64) -> String {
        format!("{}{sequence:010}", self.records(saga))
    }

    pub(super) fn start(&self, start: &StartKey) -> String {
        format!("{}/start/{}", self.prefix, start.key)
    }

    /// Written with every begin, for etcd to refuse.
    pub(super) fn room(&self) -> String {
        format!("{}/room", self.prefix)
    }

    pub(super) fn all_definitions(&self) -> String {
        format!("{}/definitions/", self.prefix)
    }

    pub(super) fn definitions(&self, hash: &str) -> String {
        format!("{}/definitions/{hash}", self.prefix)
    }

    /// Names the journal in the shared data of a process.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// What a key is called below its parent.
pub(super) fn last_part(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or_default()
}

/// A VM that lives: its key is on its lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VmRow {
    pub(super) version: u32,
    /// What whoever reads it must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) needs: Vec<String>,
    /// Hash of the definitions under which its sagas begin.
    pub(super) definitions: String,
}

/// What every version says of a head in the same way.
#[derive(Debug, Deserialize)]
pub(super) struct Owned {
    pub(super) owner: String,
}

/// Whose a saga is, and where it is. Its records have keys of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// [`RECORD_VERSION`] of whoever wrote it last.
    pub(super) version: u32,
    /// What any of its records needs, and the head itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) needs: Vec<String>,
    /// Name of the VM that may write and send for it.
    pub(super) owner: String,
    /// Raised by every takeover.
    pub(super) epoch: u32,
    /// Sequence of the last record.
    pub(super) sequence: u64,
    /// Where the saga is.
    pub(super) state: SagaState,
    /// Where its steps are. The first version did not say so.
    #[serde(default, skip_serializing_if = "StepStates::is_empty")]
    pub(super) steps: StepStates,
    /// Hash of the definitions under which it began.
    pub(super) definitions: String,
    /// Of the client's request, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<StartKey>,
    /// Its owner has resumed it a moment ago, and may die of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) on_probation: bool,
    /// So many owners in a row have died on probation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) suspicion: u32,
    /// Why nobody resumes the saga any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quarantined: Option<String>,
}

// As serde wants it.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Which saga has begun under a start key, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StartRow {
    pub(super) version: u32,
    /// What whoever reads it must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) needs: Vec<String>,
    /// Id of the saga.
    pub(super) saga: String,
    /// As in [`StartKey::request`].
    pub(super) request: String,
    /// What its client was told, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<Reply>,
}

impl StartRow {
    pub(super) fn new(start: &StartKey, saga: &str, reply: Option<Reply>) -> StartRow {
        let (saga, request) = (saga.to_owned(), start.request.clone());
        StartRow { version: RECORD_VERSION, needs: Vec::new(), saga, request, reply }
    }
}

impl Head {
    /// After this record.
    pub(super) fn after(mut self, record: &Record) -> Head {
        self.version = RECORD_VERSION;
        self.sequence = record.sequence;
        add_needs(&mut self.needs, record);
        self.steps.take(record);
        for change in &record.changes {
            match change {
                Change::Compensating(_) => self.state = SagaState::Compensating,
                Change::Ended { state, .. } => self.state = *state,
                _ => {}
            }
        }
        self
    }
}

/// A value as it is kept.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // Nothing in these can fail to become JSON.
    serde_json::to_vec(value).unwrap_or_default()
}
