//! A saga as it is kept: a line that says whose it is, and a line for each of its records.

use serde::{Deserialize, Serialize};

use crate::journal::StartKey;
use crate::journal::replay::{Reader, Unreadable, add_needs};
use crate::planted::{Planted, planted};
use crate::saga::record::{Change, RECORD_VERSION, Record};
use crate::saga::step_states::StepStates;
use crate::saga::{Millis, Reply, SagaState};

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// [`RECORD_VERSION`] of whoever wrote it last.
    pub(super) version: u32,
    /// What any of its records needs, and the head itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) needs: Vec<String>,
    /// Id of the saga.
    pub(super) saga: String,
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
    /// Of the client's request, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) start: Option<StartKey>,
    /// The saga has ended, and is retained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<Ended>,
    /// The owner's beat when it resumed the saga; none where it has begun it, or has not resumed it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resumed: Option<u64>,
    /// So many owners in a row died soon after they had resumed the saga: it may be what kills them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) suspicion: u32,
    /// Why nobody resumes the saga any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quarantined: Option<String>,
}

/// What is retained of a saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ended {
    /// When.
    pub(super) at: Millis,
    /// What its client was told, and is told again.
    pub(super) reply: Reply,
}

// As serde wants it.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A saga as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) head: Head,
    /// The lines of the records.
    pub(super) records: Vec<u8>,
}

impl Head {
    /// What every record changes. It is written in this module's form.
    fn takes(&mut self, record: &Record) {
        self.version = RECORD_VERSION;
        self.sequence = record.sequence;
        add_needs(&mut self.needs, record);
        self.steps.take(record);
    }
}

impl Slot {
    pub(super) fn new(saga: &str, owner: &str, epoch: u32, start: Option<&StartKey>) -> Slot {
        let head = Head {
            version: RECORD_VERSION,
            needs: Vec::new(),
            saga: saga.to_owned(),
            owner: owner.to_owned(),
            epoch,
            sequence: 0,
            state: SagaState::Running,
            steps: StepStates::default(),
            start: start.cloned(),
            ended: None,
            resumed: None,
            suspicion: 0,
            quarantined: None,
        };
        Slot { head, records: Vec::new() }
    }

    pub(super) fn parse(bytes: &[u8], reader: Reader) -> Result<Slot, Unreadable> {
        let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
        let head = reader.parse(lines.next().unwrap_or_default())?;
        Ok(Slot { head, records: lines.next().unwrap_or_default().to_vec() })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Nothing in a head can fail to become JSON.
        let mut bytes = serde_json::to_vec(&self.head).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.records);
        bytes
    }

    pub(super) fn append(&mut self, record: &Record) {
        self.head.takes(record);
        if record.changes.iter().any(|change| matches!(change, Change::Compensating(_))) {
            self.head.state = SagaState::Compensating;
        }
        // JSON has no line breaks of its own, and nothing in a record can fail to become JSON.
        self.records.extend(serde_json::to_vec(record).unwrap_or_default());
        self.records.push(b'\n');
    }

    /// The saga has ended: of its records nothing is needed any more but the answer.
    pub(super) fn end(&mut self, record: &Record, now: Millis) {
        self.head.takes(record);
        // Nothing that is left needs more than any module knows.
        if !planted(Planted::NeedsKeptWithAnswer) {
            self.head.needs.clear();
        }
        self.records.clear();
        for change in &record.changes {
            if let Change::Ended { state, reply, .. } = change {
                self.head.state = *state;
                self.head.ended = Some(Ended { at: now, reply: reply.clone() });
            }
        }
    }

    pub(super) fn records(&self, reader: Reader) -> Result<Vec<Record>, Unreadable> {
        let lines = self.records.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        reader.records(lines, self.head.sequence)
    }
}
