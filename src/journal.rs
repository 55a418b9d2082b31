//! Where sagas are kept, so that they outlive the VM that drives them.
//!
//! ```text
//!   Saga -- Action::Write(record) --> Journal::write --> Written | Lost | Refused
//!   a VM dies --> Journal::tick of another one --> Orphan --> Saga::resume
//! ```
//!
//! The saga writes ahead: it emits a record and waits until the journal has it. What kind of journal that is the saga
//! does not know.

use std::sync::Arc;

use crate::definition::Definition;
use crate::saga::record::{Progress, Record};
use crate::saga::{Millis, Reply, Resume, SagaId, SagaState};

mod shared;
mod start_key;

pub use shared::SharedJournal;
pub use start_key::StartKey;

/// Names one state of a value of shared data; every write gives it another.
pub type Version = u32;

/// Somebody else has written the value in between. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

/// What the VMs of one proxy process share: a map with compare-and-swap. It dies with the process, and nothing in it can
/// be deleted.
pub trait SharedData {
    /// The value of a key; none where there never was one.
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)>;

    /// Writes a value where it is still of the version that was read; with none, only where there is no value yet.
    ///
    /// # Errors
    /// It is not.
    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict>;
}

/// A record to be kept.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Id of the saga.
    pub saga: &'a str,
    /// Its epoch, as whoever writes knows it.
    pub epoch: u32,
    /// Records of one saga come in the order of their sequence, one at a time.
    pub record: &'a Record,
    /// Of the client's request. The saga is found by it until some time after its end.
    pub start: Option<&'a StartKey>,
    /// The time.
    pub now: Millis,
}

/// What a journal says when it is given a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The record is as durable as this journal makes it.
    Written,
    /// The saga belongs to another VM. Nothing was written, and nothing more may be done for it here.
    Lost,
    /// The journal has no room. Only of a saga's first record: nothing was written.
    Refused,
    /// Another saga has begun under the start key. Only of a saga's first record: nothing was written.
    KeyTaken,
}

/// What there is under a start key.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// No saga, or none any more.
    Nothing,
    /// The saga of another request.
    OtherRequest,
    /// A saga of this request that has not ended.
    UnderWay {
        /// Its id.
        saga: SagaId,
        /// Where it is.
        state: SagaState,
    },
    /// A saga of this request that has ended with this answer.
    Ended(Reply),
}

/// A saga whose owner has gone, and which is ours now.
#[derive(Clone, Debug)]
pub struct Orphan {
    /// The definition with which it began.
    pub definition: Arc<Definition>,
    /// What its records say.
    pub progress: Progress,
    /// Sequence of the last of them.
    pub sequence: u64,
    /// Higher than that of the owner before.
    pub epoch: u32,
}

impl From<Orphan> for Resume {
    fn from(orphan: Orphan) -> Resume {
        let Orphan { definition, progress, sequence, epoch } = orphan;
        Resume { definition, progress, sequence, epoch }
    }
}

/// What has come of a look at the other owners.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    /// Others have taken this VM for dead: these sagas are theirs.
    pub lost: Vec<SagaId>,
    /// To be resumed here.
    pub orphans: Vec<Orphan>,
    /// Sagas that have been set aside, each with the reason.
    pub quarantined: Vec<(String, String)>,
}

/// A place that keeps sagas.
pub trait Journal {
    /// Takes a record.
    fn write(&mut self, store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement;

    /// What has begun under a start key, in any VM.
    fn find(&self, store: &impl SharedData, start: &StartKey) -> Found;

    /// Whether a saga that was begun or taken over here is still ours. Asked before anything is sent for it.
    fn owns(&mut self, store: &mut impl SharedData, saga: &str) -> bool;

    /// Sets a saga aside that cannot be resumed: nobody tries to any more, and it stays where it is.
    fn quarantine(&mut self, store: &mut impl SharedData, saga: &str, why: &str);

    /// Shows that this VM lives, and looks for owners that do not. To be called when [`Journal::next_due`] has passed;
    /// harmless before.
    fn tick(&mut self, store: &mut impl SharedData, now: Millis) -> Tick;

    /// When the next tick is due.
    fn next_due(&self) -> Millis;

    /// No saga will begin here any more, and none is left.
    fn leave(&mut self, store: &mut impl SharedData);
}
