//! Where sagas are kept, so that they outlive the VM that drives them.
//!
//! ```text
//!   Saga -- Action::Write(record) --> Journal::write --> Written | Pending | Lost | Refused
//!   a VM dies --> Journal::tick of another one --> Orphan --> Saga::resume
//!   Journal::next_call --> the proxy --> where the journal is --> Journal::call_ended --> News
//! ```
//!
//! The saga writes ahead: it emits a record and waits until the journal has it. What kind of journal that is the saga
//! does not know. One that is not in the proxy itself makes calls, which whoever drives it sends, and has news.

use std::sync::Arc;

use crate::definition::Definition;
use crate::saga::record::{Progress, Record};
use crate::saga::{AttemptResult, Bounds, Millis, Reply, Resume, SagaId, SagaState};

mod any;
mod etcd;
mod replay;
mod shared;
mod start_key;
#[cfg(test)]
mod tests;

pub use any::AnyJournal;
pub use etcd::EtcdJournal;
pub use shared::SharedJournal;
pub use start_key::{AttemptKeys, HEADERS_READ, IdempotencyKey, StartKey, who};

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
    /// What becomes of it will be among the [`News`].
    Pending,
    /// The saga belongs to another VM. Nothing was written, and nothing more may be done for it here.
    Lost,
    /// The journal has no room, or cannot be reached. Only of a saga's first record: nothing was written.
    Refused,
    /// The record is larger than the journal takes: nothing was written. The saga may write a smaller one in its place.
    TooLarge,
    /// Another saga has begun under the start key. Only of a saga's first record: nothing was written.
    KeyTaken,
}

/// What there is under a start key.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// No saga, or none any more.
    Nothing,
    /// That is not known yet: the journal has been asked. To be asked again.
    Asked,
    /// The saga of another request.
    OtherRequest,
    /// Something that this module cannot read.
    Unreadable,
    /// A saga of this request that has not ended.
    UnderWay(OpenSaga),
    /// A saga of this request that has ended with this answer.
    Ended(Reply),
}

/// A saga that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSaga {
    /// Its id.
    pub saga: SagaId,
    /// Where it is.
    pub state: SagaState,
    /// Nobody goes on with it: it waits for an operator.
    pub is_set_aside: bool,
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

impl Orphan {
    /// What it is resumed from, where the journal takes so much.
    pub fn resume(self, bounds: Bounds) -> Resume {
        let Orphan { definition, progress, sequence, epoch } = self;
        Resume { definition, progress, sequence, epoch, bounds }
    }
}

/// What has become of a record whose fate was pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Id of the saga.
    pub saga: SagaId,
    /// Sequence of the record.
    pub sequence: u64,
    /// Never [`Acknowledgement::Pending`].
    pub acknowledgement: Acknowledgement,
}

/// What has come of a look at the other owners, or of a call.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// What was pending.
    pub fates: Vec<Fate>,
    /// Others have taken this VM for dead: these sagas are theirs.
    pub lost: Vec<SagaId>,
    /// To be resumed here.
    pub orphans: Vec<Orphan>,
    /// Sagas that have been set aside, each with the reason.
    pub quarantined: Vec<(String, String)>,
    /// Ids of sagas (of what names none, keys) without owner that only another module can read, each with the reason. They
    /// are told once by each VM, and stay as they are.
    pub left_alone: Vec<(String, String)>,
}

/// Whether a saga is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// It is.
    Ours,
    /// It was a moment ago; by now another may have taken it over. Nothing is to be sent for it.
    Unsure,
    /// It is another's.
    Lost,
}

/// A call to where the journal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalCall {
    /// Names it when it has ended.
    pub number: u64,
    /// Envoy cluster.
    pub cluster: String,
    /// All headers, pseudo headers first.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: String,
    /// Milliseconds that it may take; never 0.
    pub timeout_ms: u32,
}

/// A place that keeps sagas.
pub trait Journal {
    /// What it takes.
    fn bounds(&self) -> Bounds {
        Bounds::NONE
    }

    /// Takes a record.
    fn write(&mut self, store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement;

    /// Nobody can wait any longer for the first record of a saga. True: it was certainly not written, and will not be.
    fn withdraw(&mut self, _saga: &str) -> bool {
        false
    }

    /// What is known at once of a start key. A journal that is not in the proxy knows nothing at once: there the begin of
    /// a second saga is refused.
    fn find(&self, store: &impl SharedData, start: &StartKey) -> Found;

    /// What has begun under a start key, in any VM, for somebody who has asked since then. That nothing has begun may be
    /// said to nobody who has asked later than it was so.
    fn look(&mut self, store: &impl SharedData, start: &StartKey, _since: Millis, _now: Millis) -> Found {
        self.find(store, start)
    }

    /// Whether a saga that was begun or taken over here is still ours. Asked before anything is sent for it.
    fn owns(&mut self, store: &mut impl SharedData, saga: &str, now: Millis) -> Ownership;

    /// Time may have stood still here, and not where others look whether this VM lives: whether sagas are still ours is
    /// to be asked anew.
    fn doubt_ownership(&mut self, _now: Millis) {}

    /// Sets a saga aside that cannot be resumed: nobody tries to any more, and it stays where it is.
    fn quarantine(&mut self, store: &mut impl SharedData, saga: &str, why: &str);

    /// Shows that this VM lives, and looks for owners that do not. To be called when [`Journal::next_due`] has passed;
    /// harmless before.
    fn tick(&mut self, store: &mut impl SharedData, now: Millis) -> News;

    /// So much memory is left for sagas that are taken over, in bytes, from now on. A journal that was never told has
    /// as much as it wants.
    fn offer_room(&mut self, _bytes: usize) {}

    /// When the next tick is due.
    fn next_due(&self) -> Millis;

    /// The next call to be made; to be asked for after everything else, until there is none.
    fn next_call(&mut self, _now: Millis) -> Option<JournalCall> {
        None
    }

    /// A call has ended. Due exactly once for each.
    fn call_ended(&mut self, _number: u64, _result: &AttemptResult, _now: Millis) -> News {
        News::default()
    }

    /// No saga will begin here any more, and none is left.
    fn leave(&mut self, store: &mut impl SharedData);
}
