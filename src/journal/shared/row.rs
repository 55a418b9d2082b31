//! The rows of the table of VMs: who lives, who has gone, and who has taken over whose sagas.
//!
//! Rows are numbered without gaps and are used again, so there are never more of them than VMs that had sagas at one
//! time.

use serde::{Deserialize, Serialize};

use crate::journal::replay::{Reader, Unreadable};
use crate::saga::record::RECORD_VERSION;

/// Shared data is one map for every module without a `vm_id`, other people's included.
const PREFIX: &str = "sagabox";

/// How many sagas a VM retains, and how large they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) sagas: usize,
    pub(super) bytes: usize,
}

/// A row, as it is kept. Only its VM writes it while that lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// [`RECORD_VERSION`] of whoever wrote it.
    pub(super) version: u32,
    /// What whoever reads it must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) needs: Vec<String>,
    /// Whose sagas are in its slots: the VM's name, which is never used again.
    pub(super) vm: String,
    pub(super) state: RowState,
    /// Raised with every tick of the VM.
    pub(super) beat: u64,
    /// What the VM retained as it last raised its beat.
    pub(super) retained: Counts,
}

/// What has become of the VM of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RowState {
    /// It lives as long as its beat is raised.
    Serving,
    /// It was dead. This VM finishes its sagas.
    TakenBy(String),
    /// It has gone. Nobody has the row: who can read a saga in it, or retains one, takes that over.
    Left,
    /// No slot is in use.
    Free,
}

impl Row {
    pub(super) fn new(vm: String) -> Row {
        Row {
            version: RECORD_VERSION,
            needs: Vec::new(),
            vm,
            state: RowState::Serving,
            beat: 0,
            retained: Counts::default(),
        }
    }

    /// As it was written, by whatever version. What changes in it is written in this module's.
    pub(super) fn parse(bytes: &[u8], reader: Reader) -> Result<Row, Unreadable> {
        let row: Row = reader.parse(bytes)?;
        Ok(Row { version: RECORD_VERSION, ..row })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Nothing in a row can fail to become JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Where a row is kept.
pub(super) fn row_key(row: u32) -> String {
    format!("{PREFIX}/vm/{row}")
}

/// Where the configuration is kept with which the sagas of a row began.
pub(super) fn configuration_key(row: u32) -> String {
    format!("{PREFIX}/vm/{row}/configuration")
}

/// Where the start keys of a bucket are kept.
pub(super) fn bucket_key(bucket: u32) -> String {
    format!("{PREFIX}/key/{bucket}")
}

/// Where a saga is kept.
pub(super) fn slot_key(row: u32, slot: u32) -> String {
    format!("{PREFIX}/vm/{row}/saga/{slot}")
}
