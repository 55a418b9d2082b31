//! Two versions of the module in one run: which one runs where, and that the older one leaves alone what is not for it.

use std::collections::BTreeSet;

use rand::Rng;

use super::World;
use super::vms::Slot;
use crate::simulator::history::{Happening, VmId, vm_name};
use crate::simulator::host::Nanos;
use crate::simulator::journal_view;
use crate::simulator::plan::{MS, SECOND, Succession};
use crate::simulator::versions::{Age, Difference};

/// What a module counts of what it leaves alone.
const LEFT_ALONE: &str = "sagabox_sagas_left_alone";

impl World<'_> {
    fn difference(&self) -> Option<&Difference> {
        self.plan.versions.as_ref().map(|versions| &versions.difference)
    }

    /// What a proxy begins with.
    pub(super) fn first_age(&self, proxy: usize) -> Age {
        let begins = self.plan.versions.as_ref().and_then(|versions| versions.begins.get(proxy));
        begins.copied().unwrap_or(Age::Older)
    }

    /// What comes where a module of this age was: perhaps the other version, and once everything has healed the last.
    pub(super) fn age_after(&mut self, age: Age) -> Age {
        let Some(versions) = &self.plan.versions else { return age };
        if self.healed {
            return versions.ends_on;
        }
        if versions.one_way && age == versions.ends_on {
            return age;
        }
        if self.strikes_alone("other_version", self.plan.faults.other_version) { age.other() } else { age }
    }

    /// Which of the plan's configurations a module of this age gets in the place of one.
    pub(super) fn configuration_for(&self, age: Age, configuration: usize) -> usize {
        self.plan.versions.as_ref().map_or(configuration, |versions| versions.configuration_for(age, configuration))
    }

    pub(super) fn tell_age(&mut self, vm: VmId, age: Age) {
        if self.plan.versions.is_some() {
            self.tell_of(vm_name(vm), format!("runs the {age:?} version").to_lowercase());
        }
        if age == Age::Newer {
            self.history.newer.insert(vm);
        }
    }

    /// A proxy gets the other version, with the configuration that it has.
    pub(super) fn gets_other_version(&mut self, proxy: usize, how: Succession, drain_ns: Nanos) {
        let age = self.proxies[proxy].age;
        let stays = self.plan.versions.as_ref().is_none_or(|versions| versions.one_way && age == versions.ends_on);
        if !stays {
            self.gets_version(proxy, age.other(), how, drain_ns);
        }
    }

    fn gets_version(&mut self, proxy: usize, age: Age, how: Succession, drain_ns: Nanos) {
        if self.proxies[proxy].up {
            self.proxies[proxy].age = age;
            self.replace_vms(proxy, self.proxies[proxy].version, how, drain_ns);
        }
    }

    /// In the end every proxy has the same version.
    pub(super) fn end_on_one_version(&mut self) {
        let Some(ends_on) = self.plan.versions.as_ref().map(|versions| versions.ends_on) else { return };
        for proxy in 0..self.proxies.len() {
            let thrown_away = self.stream("other_version").random_bool(0.5);
            let how = if thrown_away { Succession::OldVmThrownAway } else { Succession::NewVm };
            let drain_ns = [0, 500 * MS, 5 * SECOND][self.stream("other_version").random_range(0..3)];
            let threads = self.proxies[proxy].threads.clone();
            let slots = &self.proxies[proxy].slots;
            let is_other = |thread: &usize| slots.get(*thread).is_some_and(|slot| slot.age != ends_on);
            if threads.iter().any(is_other) {
                self.gets_version(proxy, ends_on, how, drain_ns);
            }
            self.proxies[proxy].age = ends_on;
        }
    }

    /// Sagas in etcd that an older module must not touch; none where there is no such module, or none is meant.
    pub(super) fn only_for_newer_in_etcd(&self, by: VmId) -> BTreeSet<String> {
        match self.difference() {
            Some(difference) if !self.history.newer.contains(&by) => {
                journal_view::for_newer_in_etcd(&self.journal.etcd, difference)
            }
            _ => BTreeSet::new(),
        }
    }

    /// A VM has written into a slot of shared data what was so before.
    pub(super) fn check_leaves_slot_alone(&mut self, by: VmId, slot: &[u8], before: &[u8]) {
        let Some(difference) = self.difference().filter(|_| !self.history.newer.contains(&by)) else { return };
        let process = self.proxies[by.0].process.borrow();
        let saga = process.slot_for_newer(slot, before, difference);
        drop(process);
        let for_newer: BTreeSet<String> = saga.into_iter().collect();
        self.check_leaves_alone(by, for_newer.iter(), &for_newer);
    }

    /// A VM has changed sagas.
    pub(super) fn check_leaves_alone<'a>(
        &mut self,
        by: VmId,
        changed: impl Iterator<Item = &'a String>,
        for_newer: &BTreeSet<String>,
    ) {
        for saga in changed.filter(|saga| for_newer.contains(*saga)) {
            let what = format!("saga {saga} needs more than the older version knows, and was changed by its VM");
            self.tell(Happening::NotLeftAlone(format!("{what} {}", vm_name(by))));
        }
    }

    /// Sagas that have not ended and that nobody can go on with, as every proxy has the older version in the end.
    pub(super) fn left_to_newer(&self) -> BTreeSet<String> {
        let Some(versions) = self.plan.versions.as_ref().filter(|versions| versions.ends_on == Age::Older) else {
            return BTreeSet::new();
        };
        let mut left = journal_view::for_newer_in_etcd(&self.journal.etcd, &versions.difference);
        // A newer one that is to end goes on with its own first.
        for (saga, in_etcd) in journal_view::in_etcd(&self.journal.etcd) {
            if in_etcd.owner_lives {
                left.remove(&saga);
            }
        }
        for proxy in 0..self.proxies.len() {
            let goes_on = self.has_newer_vm(proxy) && self.plan.key_lifetime().is_none();
            if !goes_on {
                left.extend(self.proxies[proxy].process.borrow().for_newer(&versions.difference));
            }
        }
        left
    }

    /// Whether a VM of the newer version still lives there: it goes on with what it has before it ends.
    fn has_newer_vm(&self, proxy: usize) -> bool {
        self.proxies[proxy].slots.iter().any(|slot| slot.is_alive() && slot.age == Age::Newer)
    }

    /// What is wrong with how many sagas proxies say they leave alone.
    pub(super) fn not_counted(&self, left: &BTreeSet<String>) -> Vec<String> {
        let Some(difference) = self.difference().filter(|_| !left.is_empty()) else { return Vec::new() };
        let mut wrong = Vec::new();
        for (index, proxy) in self.proxies.iter().enumerate() {
            let process = proxy.process.borrow();
            let here = if self.plan.in_etcd() { left.clone() } else { process.for_newer(difference) };
            let counted = process.metric(LEFT_ALONE);
            let is_older = proxy.slots.iter().any(Slot::is_alive) && !self.has_newer_vm(index);
            if is_older && usize::try_from(counted).is_ok_and(|counted| counted < here.len()) {
                wrong.push(format!("proxy{index} leaves {} sagas alone, and has counted {counted}", here.len()));
            }
        }
        wrong
    }
}
