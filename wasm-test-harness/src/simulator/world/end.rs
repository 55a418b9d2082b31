//! When a run is over, and how it came out.

use std::collections::{BTreeMap, BTreeSet};

use super::World;
use super::journal::LATEST;
use crate::simulator::history::{History, VmId};
use crate::simulator::host::Nanos;
use crate::simulator::journal_view::{self, Kept};
use crate::simulator::participants::Participant;
use crate::simulator::plan::{Plan, SECOND, Trouble};
use crate::simulator::process::ContextId;

/// A saga of which nothing comes for so long will never go on by itself: it is sent for again within a few seconds.
const STUCK_FOR: Nanos = 30 * SECOND;
/// For so long nothing but heartbeats may come in the end.
const QUIET: Nanos = 5 * SECOND;
/// A root's heartbeat comes every 500 ms.
const MOST_TICKS_IN_QUIET: u32 = 11;
/// With a lease of 3 s, a keepalive and a look for sagas without owner every second; each may have to be repeated.
const MOST_TICKS_IN_QUIET_WITH_ETCD: u32 = 20;

/// How a run came out.
pub struct Outcome {
    /// Everything that happened.
    pub history: History,
    /// The participants, by name, as they are in the end.
    pub participants: BTreeMap<String, Participant>,
    /// The run came to its end: nothing was due any more.
    pub converged: bool,
    /// Roots that would not end: they have sagas, after everything is over.
    pub open_roots: Vec<(VmId, ContextId)>,
    /// What is in shared data, by proxy.
    pub kept: Vec<Kept>,
    /// What is left in etcd that should not be.
    pub left_in_etcd: Vec<String>,
    /// Sagas that were set aside in etcd.
    pub set_aside_in_etcd: Vec<String>,
    /// Sagas that are left to a newer version than the run ends on.
    pub left_to_newer: BTreeSet<String>,
    /// Where they are not counted.
    pub not_counted: Vec<String>,
    /// Roots that had more to do in the end than to show that they live.
    pub restless: Vec<(VmId, ContextId)>,
    /// Events that did not fit their saga, as the filter counts them.
    pub illegal_events: i64,
    /// How much virtual time the run took.
    pub took: Nanos,
    /// Faults that were injected.
    pub faults: u64,
}

/// A time in which nothing but ticks has come.
pub(super) struct Quiet {
    since: Nanos,
    /// How many of each root.
    ticks: BTreeMap<(VmId, ContextId), u32>,
    /// Definitions in etcd to which nobody referred when it began.
    unreferenced: BTreeSet<String>,
}

impl Quiet {
    pub(super) fn count_tick(&mut self, vm: VmId, root: ContextId) {
        *self.ticks.entry((vm, root)).or_default() += 1;
    }
}

/// Who looks for what nobody needs any more may have gone: another takes its place after some turns of a third of a lease.
fn quiet_for(plan: &Plan) -> Nanos {
    let is_of_main = |trouble: &Trouble| matches!(trouble, Trouble::TrapOfMain { .. });
    let changes_hands = plan.in_etcd() && plan.troubles.iter().any(|(_, trouble)| is_of_main(trouble));
    let lease = u64::try_from(plan.etcd_lease_s()).unwrap_or(0) * SECOND;
    if changes_hands { QUIET + 2 * lease } else { QUIET }
}

impl World<'_> {
    /// Heartbeats never end: a run is over when nothing else has come for a while and no saga is open.
    pub(super) fn is_over(&mut self) -> bool {
        // One of which a step is too old to be asked for again stays open.
        let may_stay_open = self.plan.key_lifetime().is_some();
        let has_ended = may_stay_open || self.has_no_open_saga_but(&self.left_to_newer());
        if !self.healed || self.busy > 0 || !has_ended {
            self.quiet = None;
            return false;
        }
        let now = self.clock.now();
        let journal = &self.journal;
        let quiet = self.quiet.get_or_insert_with(|| {
            let unreferenced = journal_view::unreferenced_in_etcd(&journal.etcd);
            Quiet { since: now, ticks: BTreeMap::new(), unreferenced }
        });
        let since = quiet.since;
        since + quiet_for(self.plan) <= now && (since + STUCK_FOR <= now || self.has_no_open_saga())
    }

    fn has_no_open_saga(&self) -> bool {
        self.has_no_open_saga_but(&BTreeSet::new())
    }

    fn has_no_open_saga_but(&self, left: &BTreeSet<String>) -> bool {
        self.proxies.iter().all(|proxy| proxy.has_no_open_saga_but(left)) && self.journal.has_no_open_saga_but(left)
    }

    pub(super) fn outcome(mut self, converged: bool) -> Outcome {
        let left_in_etcd = self.left_in_etcd();
        let left_to_newer = self.left_to_newer();
        let not_counted = self.not_counted(&left_to_newer);
        let open_roots = self.roots_that_do_not_end();
        for proxy in 0..self.proxies.len() {
            self.count_illegal_events(proxy);
        }
        let participants = self.plan.participants.iter().cloned().zip(self.participants).collect();
        let kept = self.proxies.iter().map(|proxy| proxy.process.borrow().kept()).collect();
        let most_ticks = if self.plan.in_etcd() { MOST_TICKS_IN_QUIET_WITH_ETCD } else { MOST_TICKS_IN_QUIET };
        let quiet_for = self.quiet.as_ref().map_or(0, |quiet| self.clock.now() - quiet.since);
        let most_ticks = most_ticks * u32::try_from(quiet_for.div_ceil(QUIET)).unwrap_or(u32::MAX);
        let ticks = self.quiet.take().map(|quiet| quiet.ticks).unwrap_or_default();
        let restless = ticks.into_iter().filter(|(_, count)| *count > most_ticks).map(|(root, _)| root);
        Outcome {
            participants,
            converged,
            open_roots,
            kept,
            left_in_etcd,
            set_aside_in_etcd: self.journal.set_aside(),
            restless: restless.collect(),
            left_to_newer,
            not_counted,
            illegal_events: self.illegal_events,
            took: self.clock.now(),
            faults: self.faults,
            history: self.history,
        }
    }

    /// What is left in etcd that should not be: of sagas, of definitions, and of leases.
    fn left_in_etcd(&mut self) -> Vec<String> {
        let mut left = self.journal.left();
        let Some(quiet) = &self.quiet else { return left };
        let unreferenced = journal_view::unreferenced_in_etcd(&self.journal.etcd);
        let forgotten = unreferenced.intersection(&quiet.unreferenced);
        left.extend(forgotten.map(|hash| format!("definitions {hash}, to which nobody refers")));
        // What a new leader gives a lease at most is no sign that somebody wants it, nor is a grant that arrives late.
        let kept_alive = (quiet.since + SECOND).max(self.plan.heal_at + LATEST + SECOND / 10);
        let mut living = BTreeSet::new();
        for (lease, names, idle_since) in self.journal.leases_of_vms() {
            if idle_since <= kept_alive {
                continue;
            }
            let root = match names.as_slice() {
                [name] => self.journal.root_named(name),
                _ => None,
            };
            if root.is_none_or(|(vm, root)| !self.has_root(vm, root) || !living.insert((vm, root))) {
                left.push(format!("lease {lease} of {names:?}, which is kept alive for nobody"));
            }
        }
        left
    }
}
