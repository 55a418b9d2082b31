//! The journal in the shared data of the proxy process: sagas outlive their VM and its configuration, not the process.
//!
//! ```text
//!   sagabox/vm/0                  who the VM is, its beat, how many slots it uses
//!   sagabox/vm/0/configuration    with which its sagas began
//!   sagabox/vm/0/saga/0           a saga: owner, epoch, sequence; then its records, a line each
//!   sagabox/vm/0/saga/1           (free)
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

use super::{Acknowledgement, Entry, Journal, Orphan, SharedData, Tick, Version};
use crate::saga::Millis;

mod row;
mod slot;
mod takeover;
#[cfg(test)]
mod tests;

use row::{Row, RowState, configuration_key, row_key, slot_key};
use slot::Slot;
use takeover::{TakenRow, Watched};

/// How often a VM raises its beat and looks at those of others.
const BEAT_MS: Millis = 500;
/// Slots are announced so many at a time, before any of them is used.
const SLOTS_AT_A_TIME: u32 = 64;
/// More VMs than any process has had sagas in at one time.
const MAX_ROWS: u32 = 4_096;
/// A value that only one VM writes changes under its hands only once, when it is taken over; then another owner is in it.
const MAX_TRIES: u32 = 64;

/// See the module's text.
#[derive(Debug)]
pub struct SharedJournal {
    base_name: String,
    /// How often this VM has been taken for dead: it goes on under another name.
    deposed: u32,
    configuration: Vec<u8>,
    own: Option<OwnRow>,
    places: HashMap<String, Place>,
    watched: BTreeMap<u32, Watched>,
    taken: BTreeMap<u32, TakenRow>,
    /// Sagas that may be what kills VMs: they are resumed one at a time.
    suspects: VecDeque<Orphan>,
    /// The suspect that was resumed last, and the beat at which it has lived long enough.
    on_probation: Option<(String, u64)>,
    beat_at: Millis,
}

#[derive(Debug)]
struct OwnRow {
    number: u32,
    row: Row,
    /// The row, as it is in shared data if it is still our own.
    written: Vec<u8>,
    /// Below `row.slots`, and not in use.
    free: BTreeSet<u32>,
}

/// Where a saga is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    row: u32,
    slot: u32,
}

impl SharedJournal {
    /// Takes the VM's name, which no other VM has or has had, and the text of its configuration.
    pub fn new(name: String, configuration: Vec<u8>) -> SharedJournal {
        SharedJournal {
            base_name: name,
            deposed: 0,
            configuration,
            own: None,
            places: HashMap::new(),
            watched: BTreeMap::new(),
            taken: BTreeMap::new(),
            suspects: VecDeque::new(),
            on_probation: None,
            beat_at: 0,
        }
    }

    fn name(&self) -> String {
        if self.deposed == 0 { self.base_name.clone() } else { format!("{}.{}", self.base_name, self.deposed) }
    }

    /// Takes a row if this VM has none: one that is free, else a new one.
    fn own_row(&mut self, store: &mut impl SharedData) -> Option<&mut OwnRow> {
        if self.own.is_none() {
            let row = Row::new(self.name());
            let number = (0..MAX_ROWS).find(|number| claim(store, *number, &row))?;
            // What this says holds only for sagas of this row, and none is in it yet.
            overwrite(store, &configuration_key(number), &self.configuration);
            let written = row.encode();
            self.own = Some(OwnRow { number, row, written, free: BTreeSet::new() });
        }
        self.own.as_mut()
    }

    /// Writes the row anew where it is still our own. False: it is not.
    fn write_row(&mut self, store: &mut impl SharedData, change: impl FnOnce(&mut Row)) -> bool {
        let Some(own) = &mut self.own else { return false };
        let key = row_key(own.number);
        change(&mut own.row);
        let value = own.row.encode();
        for _ in 0..MAX_TRIES {
            let Some((_, version)) = store.shared(&key).filter(|(bytes, _)| *bytes == own.written) else { return false };
            if store.set_shared(&key, &value, Some(version)).is_ok() {
                own.written = value;
                return true;
            }
        }
        false
    }

    /// A slot that nobody uses.
    fn free_place(&mut self, store: &mut impl SharedData) -> Option<(Place, Option<Version>)> {
        self.own_row(store)?;
        loop {
            let own = self.own.as_mut()?;
            let Some(slot) = own.free.pop_first() else {
                let first = own.row.slots;
                let last = first.checked_add(SLOTS_AT_A_TIME)?;
                // Whoever takes this VM over looks at the slots that its row tells of, and at no other.
                if !self.write_row(store, |row| row.slots = last) {
                    return None;
                }
                self.own.as_mut()?.free.extend(first..last);
                continue;
            };
            let place = Place { row: own.number, slot };
            match store.shared(&slot_key(place.row, place.slot)) {
                None => return Some((place, None)),
                Some((bytes, version)) if bytes.is_empty() => return Some((place, Some(version))),
                Some(_) => log::error!("{}: in use, though nobody has it", slot_key(place.row, place.slot)),
            }
        }
    }

    fn begin(&mut self, store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement {
        if entry.record.ends() {
            // It has sent nothing, and never will: there is nothing to take over.
            return Acknowledgement::Written;
        }
        let mut slot = Slot::new(entry.saga, &self.name(), entry.epoch);
        slot.append(entry.record);
        for _ in 0..MAX_TRIES {
            let Some((place, read)) = self.free_place(store) else { break };
            if store.set_shared(&slot_key(place.row, place.slot), &slot.encode(), read).is_ok() {
                self.places.insert(entry.saga.to_owned(), place);
                return Acknowledgement::Written;
            }
            self.release(store, place);
        }
        Acknowledgement::Refused
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
            let mut slot = Slot::parse(&bytes).ok().filter(|slot| slot.head.owner == owner)?;
            let value = change(&mut slot)?;
            if store.set_shared(&key, &value, Some(version)).is_ok() {
                return Some(());
            }
        }
        None
    }

    fn append(&mut self, store: &mut impl SharedData, place: Place, entry: Entry<'_>) -> Acknowledgement {
        let written = self.update(store, place, |slot| {
            let follows = slot.head.epoch == entry.epoch && slot.head.sequence.checked_add(1) == Some(entry.record.sequence);
            if !follows {
                return None;
            }
            if entry.record.ends() {
                return Some(Vec::new());
            }
            slot.append(entry.record);
            Some(slot.encode())
        });
        match written {
            None => Acknowledgement::Lost,
            Some(()) => {
                if entry.record.ends() {
                    self.places.remove(entry.saga);
                    self.release(store, place);
                }
                Acknowledgement::Written
            }
        }
    }

    /// A slot is empty again.
    fn release(&mut self, store: &mut impl SharedData, place: Place) {
        if let Some(own) = self.own.as_mut().filter(|own| own.number == place.row) {
            own.free.insert(place.slot);
        } else {
            self.release_taken(store, place);
        }
    }

    /// Others have taken this VM for dead: nothing of what it did is its own any more.
    fn depose(&mut self) {
        self.deposed = self.deposed.saturating_add(1);
        self.own = None;
        self.places.clear();
        self.taken.clear();
        self.suspects.clear();
        self.on_probation = None;
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

    fn owns(&mut self, store: &mut impl SharedData) -> bool {
        // Without a row there is no saga but those that ended as they began.
        let Some(own) = &self.own else { return true };
        let owns = store.shared(&row_key(own.number)).is_some_and(|(bytes, _)| bytes == own.written);
        if !owns {
            self.depose();
        }
        owns
    }

    fn quarantine(&mut self, store: &mut impl SharedData, saga: &str, why: &str) {
        let Some(place) = self.places.remove(saga) else { return };
        let marked = self.update(store, place, |slot| {
            slot.head.quarantined = Some(why.to_owned());
            Some(slot.encode())
        });
        if marked.is_none() {
            log::error!("saga {saga} was not set aside: it is not ours any more");
        }
    }

    fn tick(&mut self, store: &mut impl SharedData, now: Millis) -> Tick {
        let mut tick = Tick::default();
        if now < self.beat_at {
            return tick;
        }
        self.beat_at = now.saturating_add(BEAT_MS);
        if self.own.is_some() && !self.write_row(store, |row| row.beat = row.beat.wrapping_add(1)) {
            self.depose();
            tick.deposed = true;
        }
        self.take_over(store, &mut tick);
        self.resume_a_suspect(store, &mut tick);
        tick
    }

    fn next_due(&self) -> Millis {
        self.beat_at
    }

    fn leave(&mut self, store: &mut impl SharedData) {
        self.write_row(store, |row| row.state = RowState::Free);
        self.own = None;
    }
}

/// Takes a row that is free or does not exist.
fn claim(store: &mut impl SharedData, number: u32, row: &Row) -> bool {
    let read = match store.shared(&row_key(number)) {
        None => None,
        Some((bytes, version)) => match Row::parse(&bytes) {
            Some(Row { state: RowState::Free, .. }) => Some(version),
            _ => return false,
        },
    };
    store.set_shared(&row_key(number), &row.encode(), read).is_ok()
}

/// Writes a value whatever it was.
fn overwrite(store: &mut impl SharedData, key: &str, value: &[u8]) {
    let written = (0..MAX_TRIES).any(|_| {
        let read = store.shared(key).map(|(_, version)| version);
        store.set_shared(key, value, read).is_ok()
    });
    if !written {
        log::error!("{key} was not written");
    }
}
