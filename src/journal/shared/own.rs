//! The row of this VM, and the slots in it.

use std::collections::BTreeSet;

use super::retained::Retained;
use super::row::{Row, RowState, configuration_key, row_key, slot_key};
use super::{MAX_ROWS, MAX_TRIES, Place, SharedJournal};
use crate::journal::replay::Reader;
use crate::journal::{SharedData, Version};

#[derive(Debug)]
pub(super) struct OwnRow {
    pub(super) number: u32,
    pub(super) row: Row,
    /// The row, as it is in shared data if it is still our own.
    written: Vec<u8>,
    /// Of the slots that were used at any time, those that are not in use. A slot is used for the first time only when
    /// all before it are in use: whoever looks for sagas stops at the first that does not exist.
    pub(super) free: BTreeSet<u32>,
    /// How many slots were used at any time.
    pub(super) slots: u32,
}

impl SharedJournal {
    /// Takes a row if this VM has none: one that is free, else a new one.
    pub(super) fn own_row(&mut self, store: &mut impl SharedData) -> Option<&mut OwnRow> {
        if self.own.is_none() {
            let row = Row::new(self.name());
            let number = (0..MAX_ROWS).find(|number| claim(store, *number, &row, self.reader))?;
            // What this says holds only for sagas of this row, and none is in it yet.
            overwrite(store, &configuration_key(number), &self.definitions);
            let written = row.encode();
            self.own = Some(OwnRow { number, row, written, free: BTreeSet::new(), slots: 0 });
        }
        self.own.as_mut()
    }

    /// Writes the row anew where it is still our own. False: it is not.
    pub(super) fn write_row(&mut self, store: &mut impl SharedData, change: impl FnOnce(&mut Row)) -> bool {
        let Some(own) = &mut self.own else { return false };
        let key = row_key(own.number);
        change(&mut own.row);
        let value = own.row.encode();
        for _ in 0..MAX_TRIES {
            let Some((_, version)) = store.shared(&key).filter(|(bytes, _)| *bytes == own.written) else {
                return false;
            };
            if store.set_shared(&key, &value, Some(version)).is_ok() {
                own.written = value;
                return true;
            }
        }
        false
    }

    /// A slot that nobody uses.
    pub(super) fn free_place(&mut self, store: &mut impl SharedData) -> Option<(Place, Option<Version>)> {
        self.own_row(store)?;
        loop {
            let own = self.own.as_mut()?;
            let slot = match own.free.pop_first() {
                Some(slot) => slot,
                None => {
                    let slot = own.slots;
                    own.slots = slot.checked_add(1)?;
                    slot
                }
            };
            let place = Place { row: own.number, slot };
            match store.shared(&slot_key(place.row, place.slot)) {
                None => return Some((place, None)),
                Some((bytes, version)) if bytes.is_empty() => return Some((place, Some(version))),
                Some(_) => log::error!("{}: in use, though nobody has it", slot_key(place.row, place.slot)),
            }
        }
    }

    /// Whether nobody has taken this VM for dead. Whoever does so writes that into its row first of all.
    pub(super) fn confirm_own_row(&mut self, store: &impl SharedData) -> bool {
        let Some(own) = &self.own else { return true };
        let lives = store.shared(&row_key(own.number)).is_some_and(|(bytes, _)| bytes == own.written);
        if !lives {
            self.depose();
        }
        lives
    }

    /// Others have taken this VM for dead: nothing of what it did is its own any more. It goes on under another name.
    pub(super) fn depose(&mut self) {
        self.deposed = self.deposed.saturating_add(1);
        self.own = None;
        self.lost.extend(self.places.drain().map(|(saga, _)| saga));
        self.retained = Retained::default();
        self.taken.clear();
        self.suspects.clear();
        self.on_probation = None;
    }
}

/// Takes a row that is free or does not exist. A row is passed over only where another VM has it: who looks at all rows
/// stops at the first that does not exist.
fn claim(store: &mut impl SharedData, number: u32, row: &Row, reader: Reader) -> bool {
    for _ in 0..MAX_TRIES {
        let read = match store.shared(&row_key(number)) {
            None => None,
            Some((bytes, version)) => match Row::parse(&bytes, reader) {
                Ok(Row { state: RowState::Free, .. }) => Some(version),
                _ => return false,
            },
        };
        if store.set_shared(&row_key(number), &row.encode(), read).is_ok() {
            return true;
        }
    }
    false
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
