//! Sagas that have ended and are remembered for their start keys, within bounds for the whole process.
//!
//! Each VM keeps those that it has ended, oldest first, and tells with its beat how many they are. From what the others
//! tell it works out how many it may keep itself: what they leave, or at least its fair share; who has more than its share
//! makes room with its next beat.

use std::collections::BTreeMap;

use super::row::{Counts, slot_key};
use super::{Place, SharedJournal, index};
use crate::definition::Retained as Bounds;
use crate::journal::{SharedData, StartKey};
use crate::saga::Millis;

/// The sagas that one VM retains.
#[derive(Debug, Default)]
pub(super) struct Retained {
    /// By the time at which they ended, then by their ids.
    sagas: BTreeMap<(Millis, String), RetainedSaga>,
    bytes: usize,
    /// What all the others retain, and how many of them there are.
    others: Counts,
    other_vms: usize,
}

#[derive(Debug)]
struct RetainedSaga {
    start: StartKey,
    place: Place,
    bytes: usize,
}

impl Retained {
    pub(super) fn counts(&self) -> Counts {
        Counts { sagas: self.sagas.len(), bytes: self.bytes }
    }

    pub(super) fn others_are(&mut self, others: Counts, vms: usize) {
        self.others = others;
        self.other_vms = vms;
    }

    pub(super) fn add(&mut self, ended_at: Millis, saga: String, start: StartKey, place: Place, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.sagas.insert((ended_at, saga), RetainedSaga { start, place, bytes });
    }

    /// The oldest, where it is one too many or too old.
    fn pop_past(&mut self, bounds: &Bounds, now: Millis) -> Option<(String, RetainedSaga)> {
        let share = |bound: usize, others: usize| {
            let fair = bound.checked_div(self.other_vms.saturating_add(1)).unwrap_or(bound);
            bound.saturating_sub(others).max(fair)
        };
        let too_many = self.sagas.len() > share(bounds.sagas, self.others.sagas)
            || self.bytes > share(bounds.bytes, self.others.bytes);
        let first = self.sagas.first_entry()?;
        let kept_ms = u64::try_from(bounds.time.as_millis()).unwrap_or(u64::MAX);
        let too_old = first.key().0.saturating_add(kept_ms) <= now;
        if !too_many && !too_old {
            return None;
        }
        let ((_, saga), retained) = first.remove_entry();
        self.bytes = self.bytes.saturating_sub(retained.bytes);
        Some((saga, retained))
    }
}

impl SharedJournal {
    /// Forgets what is retained past the bounds.
    pub(super) fn forget_past(&mut self, store: &mut impl SharedData, now: Millis) {
        while let Some((saga, retained)) = self.retained.pop_past(&self.bounds, now) {
            // In this order: a key that names a slot without its saga counts as none.
            index::remove(store, &retained.start, &saga, self.reader);
            let emptied = self.update(store, retained.place, |_| Some(Vec::new()));
            if emptied.is_some() {
                self.release(store, retained.place);
            } else {
                log::debug!("{} is not ours any more", slot_key(retained.place.row, retained.place.slot));
            }
        }
    }
}
