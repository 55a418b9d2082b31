//! The journal in the shared data of the proxy process: sagas outlive their VM and its configuration, not the process.
//!
//! ```text
//!   sagabox/vm/0                  who the VM is, its beat, how much it retains
//!   sagabox/vm/0/configuration    the definitions under which its sagas began
//!   sagabox/vm/0/saga/0           a saga: owner, epoch, sequence; then its records, a line each
//!   sagabox/vm/0/saga/1           (free)
//!   sagabox/key/17                which sagas have begun under start keys of this bucket
//!   sagabox/vm/1                  taken by the VM of row 0, which finishes the sagas in its slots
//! ```
//!
//! A VM has a row of its own, and its sagas are in the slots of that row. Nothing can be deleted from shared data, so rows
//! and slots are numbered and used again, and a slot that is not in use is empty.
//!
//! A VM shows that it lives by raising its beat. One whose beat others have seen unchanged over several beats of their own
//! is dead to them: wall clocks jump. Whoever first writes into the row that it has taken it over has it, then writes
//! itself and a higher epoch into each of its slots. Every write compares the value that was read, and before anything is
//! sent the VM looks whether its row is still its own: so one that was only slow does nothing for a saga that is not its
//! own any more.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::replay::Reader;
use super::{Acknowledgement, Entry, Found, Journal, News, Orphan, Ownership, SharedData, StartKey};
use crate::definition;
use crate::planted::{Planted, planted};
use crate::saga::Millis;
use crate::saga::record::RECORD_VERSION;

mod index;
mod own;
mod retained;
mod row;
mod slot;
mod takeover;
#[cfg(test)]
mod tests;

use own::OwnRow;
use retained::Retained;
use row::{Row, RowState, slot_key};
use slot::Slot;
use takeover::{TakenRow, Watched};

/// How often a VM raises its beat and looks at those of others.
const BEAT_MS: Millis = 500;
/// More VMs than any process has had sagas in at one time.
const MAX_ROWS: u32 = 4_096;
/// A value that only one VM writes changes under its hands only once, when it is taken over; then another owner is in it.
const MAX_TRIES: u32 = 64;

/// See the module's text.
#[derive(Debug)]
pub struct SharedJournal {
    base_name: String,
    reader: Reader,
    /// How often this VM has been taken for dead.
    deposed: u32,
    /// The sagas that others have taken over since the last tick.
    lost: Vec<String>,
    definitions: Vec<u8>,
    bounds: definition::Retained,
    own: Option<OwnRow>,
    places: HashMap<String, Place>,
    retained: Retained,
    watched: BTreeMap<u32, Watched>,
    taken: BTreeMap<u32, TakenRow>,
    /// What was told to be left alone: sagas, and rows.
    left_alone: BTreeSet<String>,
    /// Bytes that sagas may take which are taken over.
    room: usize,
    /// Sagas that may be what kills VMs: they are resumed one at a time.
    suspects: VecDeque<Orphan>,
    /// The suspect that was resumed last, and the beat at which it has lived long enough.
    on_probation: Option<(String, u64)>,
    beat_at: Millis,
}

/// Where a saga is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    row: u32,
    slot: u32,
}

impl SharedJournal {
    /// Takes the VM's name, which no other VM has or has had, the definitions under which its sagas begin as they are
    /// stored, and the bounds of what the
    /// process retains.
    pub fn new(name: String, definitions: Vec<u8>, bounds: definition::Retained) -> SharedJournal {
        SharedJournal {
            base_name: name,
            reader: Reader::default(),
            deposed: 0,
            lost: Vec::new(),
            definitions,
            bounds,
            own: None,
            places: HashMap::new(),
            retained: Retained::default(),
            watched: BTreeMap::new(),
            taken: BTreeMap::new(),
            left_alone: BTreeSet::new(),
            room: usize::MAX,
            suspects: VecDeque::new(),
            on_probation: None,
            beat_at: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn knows(&mut self, features: &'static [&'static str]) {
        self.reader = Reader::of(features);
    }

    fn name(&self) -> String {
        if self.deposed == 0 { self.base_name.clone() } else { format!("{}.{}", self.base_name, self.deposed) }
    }

    fn begin(&mut self, store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement {
        if entry.record.ends() && entry.start.is_none() {
            // It has sent nothing, and never will: there is nothing to take over.
            return Acknowledgement::Written;
        }
        let mut slot = Slot::new(entry.saga, &self.name(), entry.epoch, entry.start);
        slot.append(entry.record);
        if entry.record.ends() {
            slot.end(entry.record, entry.now);
        }
        for _ in 0..MAX_TRIES {
            let lost = planted(Planted::BegunInLostRow);
            if !lost {
                self.confirm_own_row(store);
            }
            slot.head.owner = self.name();
            let Some((place, read)) = self.free_place(store) else { continue };
            if store.set_shared(&slot_key(place.row, place.slot), &slot.encode(), read).is_err() {
                self.release(store, place);
            } else if lost || self.confirm_own_row(store) {
                return self.begun(store, entry, place, &slot);
            } else if !empty(store, place, &slot) {
                return Acknowledgement::Lost;
            }
        }
        Acknowledgement::Refused
    }

    /// The saga is in its slot. With a start key it exists only once that names it: until then nothing has been sent, and
    /// whoever finds the slot of a dead VM empties it.
    fn begun(&mut self, store: &mut impl SharedData, entry: Entry<'_>, place: Place, slot: &Slot) -> Acknowledgement {
        if let Some(start) = entry.start
            && !index::insert(store, start, entry.saga, place, self.reader)
        {
            if self.update(store, place, |_| Some(Vec::new())).is_some() {
                self.release(store, place);
            }
            return Acknowledgement::KeyTaken;
        }
        match self.found_after_naming(store, entry, place) {
            Acknowledgement::Written if slot.head.ended.is_some() => self.retain(store, slot, place, entry.now),
            Acknowledgement::Written => {
                self.places.insert(entry.saga.to_owned(), place);
            }
            other => return other,
        }
        Acknowledgement::Written
    }

    /// Whoever took this VM for dead between the two writes has emptied the slot, which no key named then.
    fn found_after_naming(&self, store: &mut impl SharedData, entry: Entry<'_>, place: Place) -> Acknowledgement {
        let Some(start) = entry.start else { return Acknowledgement::Written };
        let bytes = store.shared(&slot_key(place.row, place.slot)).map(|(bytes, _)| bytes).unwrap_or_default();
        match Slot::parse(&bytes, self.reader).ok().map(|slot| slot.head) {
            Some(head) if head.saga == entry.saga && head.owner == self.name() => Acknowledgement::Written,
            Some(head) if head.saga == entry.saga => Acknowledgement::Lost,
            _ => {
                index::remove(store, start, entry.saga, self.reader);
                Acknowledgement::Refused
            }
        }
    }

    /// A saga that has ended is remembered for its start key.
    fn retain(&mut self, store: &mut impl SharedData, slot: &Slot, place: Place, now: Millis) {
        let (Some(start), Some(ended)) = (&slot.head.start, &slot.head.ended) else { return };
        let ended_at = if planted(Planted::ReplyNotRetained) { 0 } else { ended.at };
        let bytes = slot.encode().len();
        self.retained.add(ended_at, slot.head.saga.clone(), start.clone(), place, bytes);
        self.forget_past(store, now);
    }

    /// Reads a saga, changes it, and writes it where nobody has in between. None: it is not ours.
    fn update(
        &self,
        store: &mut impl SharedData,
        place: Place,
        mut change: impl FnMut(&mut Slot) -> Option<Vec<u8>>,
    ) -> Option<()> {
        let key = slot_key(place.row, place.slot);
        let owner = self.name();
        for _ in 0..MAX_TRIES {
            let (bytes, version) = store.shared(&key)?;
            let mut slot = Slot::parse(&bytes, self.reader).ok().filter(|slot| slot.head.owner == owner)?;
            let value = change(&mut slot)?;
            if store.set_shared(&key, &value, Some(version)).is_ok() {
                return Some(());
            }
        }
        None
    }

    fn append(&mut self, store: &mut impl SharedData, place: Place, entry: Entry<'_>) -> Acknowledgement {
        let mut written = None;
        let done = self.update(store, place, |slot| {
            let follows = slot.head.sequence.checked_add(1) == Some(entry.record.sequence);
            if slot.head.epoch != entry.epoch || !follows {
                return None;
            }
            if !entry.record.ends() {
                slot.append(entry.record);
            } else if slot.head.start.is_some() {
                slot.end(entry.record, entry.now);
            } else if planted(Planted::SlotNotEmptied) {
                slot.append(entry.record);
            } else {
                return Some(Vec::new());
            }
            written = Some(slot.clone());
            Some(slot.encode())
        });
        if done.is_none() {
            return Acknowledgement::Lost;
        }
        if entry.record.ends() {
            self.places.remove(entry.saga);
            match written {
                Some(slot) => self.retain(store, &slot, place, entry.now),
                None => self.release(store, place),
            }
        }
        Acknowledgement::Written
    }

    /// A slot is empty again.
    fn release(&mut self, store: &mut impl SharedData, place: Place) {
        if let Some(own) = self.own.as_mut().filter(|own| own.number == place.row) {
            own.free.insert(place.slot);
        } else {
            self.release_taken(store, place);
        }
    }
}

impl Journal for SharedJournal {
    fn write(&mut self, store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement {
        match self.places.get(entry.saga).copied() {
            Some(place) => self.append(store, place, entry),
            None if entry.record.sequence == 1 => self.begin(store, entry),
            None => Acknowledgement::Lost,
        }
    }

    fn find(&self, store: &impl SharedData, start: &StartKey) -> Found {
        index::find(store, start, self.reader)
    }

    fn owns(&mut self, store: &mut impl SharedData, saga: &str, _now: Millis) -> Ownership {
        // Its row may be one that this VM has taken over: that can be taken from it while its own is not.
        let place = if self.confirm_own_row(store) { self.places.get(saga).copied() } else { None };
        let ours = place.is_some_and(|place| self.confirm_row(store, place.row));
        if ours { Ownership::Ours } else { Ownership::Lost }
    }

    fn quarantine(&mut self, store: &mut impl SharedData, saga: &str, why: &str) {
        let Some(place) = self.places.remove(saga) else { return };
        let marked = self.update(store, place, |slot| {
            (slot.head.version, slot.head.quarantined) = (RECORD_VERSION, Some(why.to_owned()));
            Some(slot.encode())
        });
        if marked.is_none() {
            log::error!("saga {saga} was not set aside: it is not ours any more");
        }
    }

    fn tick(&mut self, store: &mut impl SharedData, now: Millis) -> News {
        let mut tick = News::default();
        if now < self.beat_at {
            return tick;
        }
        self.beat_at = now.saturating_add(BEAT_MS);
        let retained = self.retained.counts();
        let beats = |row: &mut Row| {
            row.beat = row.beat.wrapping_add(1);
            row.retained = retained;
        };
        if self.own.is_some() && !self.write_row(store, beats) {
            self.depose();
        }
        self.look_at_taken_rows(store);
        tick.lost = std::mem::take(&mut self.lost);
        self.take_over(store, &mut tick);
        self.resume_a_suspect(store, &mut tick);
        self.forget_past(store, now);
        tick
    }

    fn offer_room(&mut self, bytes: usize) {
        self.room = bytes;
    }

    fn next_due(&self) -> Millis {
        self.beat_at
    }

    fn leave(&mut self, store: &mut impl SharedData) {
        let retained = self.retained.counts();
        let state = if retained.sagas > 0 { RowState::Left } else { RowState::Free };
        self.write_row(store, |row| row.state = state);
        self.own = None;
        self.retained = Retained::default();
    }
}

/// Takes a saga out of its slot again, where nobody has taken it over: whoever took this VM for dead may have looked at
/// the slot before it was written, and nobody would ever look at it again. False: somebody has.
fn empty(store: &mut impl SharedData, place: Place, slot: &Slot) -> bool {
    let (key, value) = (slot_key(place.row, place.slot), slot.encode());
    (0..MAX_TRIES).any(|_| {
        let read = store.shared(&key).filter(|(bytes, _)| *bytes == value);
        read.is_some_and(|(_, version)| store.set_shared(&key, &[], Some(version)).is_ok())
    })
}
