//! What a VM works on, for others to tell if it dies of it: a VM that traps, as for want of memory, says nothing itself.
//!
//! ```text
//!   sagabox/crumb/0   what a VM works on in the callback that it is in now
//!   sagabox/crumb/1   (nobody is in a callback)
//! ```
//!
//! A VM leaves a breadcrumb before it works on a saga, and takes it away before its callback ends. So what is found
//! unchanged for long is that of a VM that never came to the end of its callback, and no other saga is ever blamed. A slot
//! belongs to nobody else: whoever needs one takes an empty one by compare-and-swap, so there are never more of them than
//! VMs that worked at one time, and that died since anybody looked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::journal::{SharedData, Version};
use crate::saga::Millis;

/// More than VMs of a process that work at one time. Past them no breadcrumb is left.
const MAX_SLOTS: u32 = 256;
/// Nobody else writes what a VM has left, unless that is taken for dead: more tries than it ever needs.
const MAX_TRIES: u32 = 64;
/// Time between two looks.
const LOOK_MS: Millis = 1_000;
/// A breadcrumb that was seen unchanged in so many looks in a row is a dead VM's. Looks are counted, not time: whoever
/// looks may have been stopped together with the VM.
const LOOKS_UNTIL_DEAD: u32 = 4;

/// What a VM works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crumb {
    /// Id of the saga; empty before it has one.
    pub(super) saga: String,
    /// Name of its definition.
    pub(super) name: String,
    /// Name of the step; empty if it is none in particular.
    pub(super) step: String,
    /// In words.
    pub(super) callback: String,
}

impl std::fmt::Display for Crumb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of saga {} ({})", self.callback, if self.saga.is_empty() { "?" } else { &self.saga }, self.name)?;
        if self.step.is_empty() { Ok(()) } else { write!(f, ", step {}", self.step) }
    }
}

/// The breadcrumb of this VM, and those of others as it saw them last.
#[derive(Debug, Default)]
pub(super) struct Breadcrumb {
    /// The slot that was used last, which is probably empty.
    slot: u32,
    /// What this VM has left in it; empty: nothing.
    left: Vec<u8>,
    /// By slot: the state in which it was seen, and in how many looks.
    seen: BTreeMap<u32, (Version, u32)>,
    look_at: Millis,
}

fn key(slot: u32) -> String {
    format!("sagabox/crumb/{slot}")
}

impl Breadcrumb {
    /// Leaves a breadcrumb, in place of the last one of the same callback.
    pub(super) fn leave(&mut self, store: &mut impl SharedData, crumb: &Crumb) {
        // Nothing in a breadcrumb can fail to become JSON.
        let value = serde_json::to_vec(crumb).unwrap_or_default();
        if !self.left.is_empty() && self.replace(store, &value) {
            self.left = value;
            return;
        }
        self.left.clear();
        for slot in std::iter::once(self.slot).chain(0..MAX_SLOTS) {
            let read = store.shared(&key(slot));
            let is_free = read.as_ref().is_none_or(|(found, _)| found.is_empty());
            if is_free && store.set_shared(&key(slot), &value, read.map(|(_, version)| version)).is_ok() {
                (self.slot, self.left) = (slot, value);
                return;
            }
        }
        log::debug!("no slot for a breadcrumb: {crumb}");
    }

    /// Takes the breadcrumb away, if there is one: the callback ends well.
    pub(super) fn take_away(&mut self, store: &mut impl SharedData) {
        if !self.left.is_empty() && !self.replace(store, &[]) {
            log::debug!("{} was not taken away: somebody else has", key(self.slot));
        }
        self.left.clear();
    }

    /// Writes another value in place of what this VM has left. False: that is not there any more, as this VM was taken for
    /// dead.
    fn replace(&self, store: &mut impl SharedData, value: &[u8]) -> bool {
        let key = key(self.slot);
        (0..MAX_TRIES).any(|_| {
            let read = store.shared(&key).filter(|(found, _)| *found == self.left);
            read.is_some_and(|(_, version)| store.set_shared(&key, value, Some(version)).is_ok())
        })
    }

    /// Looks for breadcrumbs of VMs that have died, and takes them away. Gives what they worked on.
    pub(super) fn look(&mut self, store: &mut impl SharedData, now: Millis) -> Vec<Crumb> {
        let mut found = Vec::new();
        if now < self.look_at {
            return found;
        }
        self.look_at = now.saturating_add(LOOK_MS);
        for slot in 0..MAX_SLOTS {
            let Some((value, version)) = store.shared(&key(slot)) else { break };
            if value.is_empty() {
                self.seen.remove(&slot);
                continue;
            }
            let looks = self.seen.get(&slot).filter(|(seen, _)| *seen == version).map_or(1, |(_, looks)| looks + 1);
            self.seen.insert(slot, (version, looks));
            // Whoever takes it away tells of it.
            if looks >= LOOKS_UNTIL_DEAD && store.set_shared(&key(slot), &[], Some(version)).is_ok() {
                self.seen.remove(&slot);
                found.extend(serde_json::from_slice::<Crumb>(&value).ok());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Conflict;

    /// Shared data that counts how often it is written.
    #[derive(Default)]
    struct Store {
        values: BTreeMap<String, (Vec<u8>, Version)>,
        writes: usize,
        /// So many of the next writes fail.
        conflicts: usize,
    }

    impl SharedData for Store {
        fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
            self.values.get(key).cloned()
        }
        fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
            if self.shared(key).map(|(_, version)| version) != read {
                return Err(Conflict);
            }
            if self.conflicts > 0 {
                self.conflicts -= 1;
                return Err(Conflict);
            }
            self.writes += 1;
            self.values.insert(key.to_owned(), (value.to_vec(), read.unwrap_or(0) + 1));
            Ok(())
        }
    }

    fn crumb(saga: &str) -> Crumb {
        let (name, step) = ("trip".to_owned(), "hotel".to_owned());
        Crumb { saga: saga.to_owned(), name, step, callback: "the answer of a transaction".to_owned() }
    }

    /// What is found in so many looks, each as early as it may be.
    fn looks(watcher: &mut Breadcrumb, store: &mut Store, count: u64) -> Vec<Crumb> {
        (0..count).flat_map(|_| watcher.look(store, watcher.look_at)).collect()
    }

    #[test]
    fn what_a_vm_died_of_is_told_once() {
        let (mut store, mut dead) = (Store::default(), Breadcrumb::default());
        let (mut one, mut other) = (Breadcrumb::default(), Breadcrumb::default());
        dead.leave(&mut store, &crumb("s1"));
        dead.leave(&mut store, &crumb("s2"));
        assert_eq!(looks(&mut one, &mut store, 3), []);
        assert_eq!(looks(&mut other, &mut store, 3), []);
        assert_eq!(looks(&mut one, &mut store, 1), [crumb("s2")]);
        assert_eq!(looks(&mut other, &mut store, 5), []);
        assert_eq!(crumb("s2").to_string(), "the answer of a transaction of saga s2 (trip), step hotel");
    }

    #[test]
    fn a_vm_that_ends_its_callbacks_is_never_told_of() {
        let (mut store, mut vm, mut watcher) = (Store::default(), Breadcrumb::default(), Breadcrumb::default());
        for _ in 0..20 {
            // Seen in the middle of the same work again and again.
            vm.leave(&mut store, &crumb("s1"));
            assert_eq!(looks(&mut watcher, &mut store, 1), []);
            vm.take_away(&mut store);
        }
        assert_eq!(looks(&mut watcher, &mut store, 9), []);
        assert_eq!((store.values.len(), store.writes), (1, 40));
        vm.take_away(&mut store);
        assert_eq!(store.writes, 40, "there is nothing to take away");
    }

    #[test]
    fn a_write_that_fails_leaves_no_breadcrumb_behind() {
        let (mut store, mut vm) = (Store::default(), Breadcrumb::default());
        for saga in ["s1", "s2", "s3"] {
            store.conflicts = 2;
            vm.leave(&mut store, &crumb(saga));
        }
        store.conflicts = 3;
        vm.take_away(&mut store);
        assert!(store.values.values().all(|(value, _)| value.is_empty()), "{:?}", store.values);
    }

    #[test]
    fn vms_that_work_at_one_time_have_a_slot_each_and_use_them_again() {
        let mut store = Store::default();
        let mut vms = [Breadcrumb::default(), Breadcrumb::default(), Breadcrumb::default()];
        for _ in 0..5 {
            vms.iter_mut().for_each(|vm| vm.leave(&mut store, &crumb("s1")));
            vms.iter_mut().for_each(|vm| vm.take_away(&mut store));
        }
        assert_eq!(store.values.len(), 3);
        assert!(store.values.values().all(|(value, _)| value.is_empty()));
    }
}
