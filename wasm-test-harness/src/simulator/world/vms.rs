//! The VMs of the proxies: their callbacks and what comes of them, their starts and ends, and new configurations.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use serde_json::{Value as Json, json};

use super::{Due, ETCD, Event, World};
use crate::simulator::history::{CallRecord, Happening, Told, VmId};
use crate::simulator::host::{Effect, Host, Nanos};
use crate::simulator::plan::{MS, SECOND, Succession};
use crate::simulator::process::{ClusterState, ContextId, Process};
use crate::simulator::versions::Age;
use crate::simulator::vm::{Trapped, Vm};

/// The main thread has two VMs: Envoy checks a configuration in one, and serves what is not of a worker from another.
pub const MAIN_VMS: usize = 2;
/// Envoy makes no new VM sooner than this after a trap.
const RELOAD_BACK_OFF: Nanos = SECOND;

/// One VM of a proxy, or the place of one that has gone.
pub(super) struct Slot {
    vm: Option<Box<dyn Vm>>,
    /// The configuration that new streams get.
    pub(super) version: usize,
    pub(super) age: Age,
    roots: Vec<Root>,
    /// The roots that new streams get, in the order of the filter chain.
    pub(super) chain: Vec<ContextId>,
    next_context: ContextId,
    /// When it trapped.
    trapped_at: Option<Nanos>,
    /// It ends with its last root: another has taken its place.
    replaced: bool,
    thrown_away: bool,
    /// Its thread is busy until then.
    pub(super) stalled_until: Nanos,
    /// What it has missed meanwhile, in the order in which it was due.
    pub(super) missed: VecDeque<Event>,
}

struct Root {
    id: ContextId,
    tick_generation: u64,
    /// Its next tick on the agenda.
    next_tick: Option<Due>,
    period_ms: u32,
    /// It was asked to end.
    ending: bool,
}

impl Slot {
    pub(super) fn new_context(&mut self) -> ContextId {
        self.next_context += 1;
        self.next_context
    }

    pub(super) fn is_alive(&self) -> bool {
        self.vm.is_some()
    }

    /// Also while it catches up.
    pub(super) fn is_stalled(&self, now: Nanos) -> bool {
        self.stalled_until > now || !self.missed.is_empty()
    }
}

impl World<'_> {
    pub(super) fn slot(&mut self, vm: VmId) -> &mut Slot {
        &mut self.proxies[vm.0].slots[vm.1]
    }

    pub(super) fn has_root(&mut self, vm: VmId, root: ContextId) -> bool {
        self.slot(vm).roots.iter().any(|one| one.id == root)
    }

    /// Calls back a VM, and then does what it wants done. None: it is not there any more.
    pub(super) fn callback<R>(&mut self, vm: VmId, act: impl FnOnce(&mut dyn Vm) -> Result<R, Trapped>) -> Option<R> {
        let mut taken = self.slot(vm).vm.take()?;
        let result = act(taken.as_mut());
        let effects = std::mem::take(&mut taken.host().effects);
        self.slot(vm).vm = Some(taken);
        let trapped = result.is_err();
        if !self.plan.in_etcd() {
            self.look_at_shared_data(vm);
        }
        for effect in effects {
            // What waits for the end of the callback does not happen if that is a trap.
            if !trapped || matches!(effect, Effect::Call(_) | Effect::CallRefused(..) | Effect::Log(..)) {
                self.perform(vm, effect);
            }
        }
        match result {
            Ok(value) => Some(value),
            Err(why) => {
                self.trapped(vm, why);
                None
            }
        }
    }

    fn perform(&mut self, vm: VmId, effect: Effect) {
        let at = self.now();
        match effect {
            Effect::Call(callout) if callout.cluster == ETCD => self.ask_etcd(vm, callout),
            Effect::CallRefused(callout, _) if callout.cluster == ETCD => {}
            Effect::Call(callout) => {
                let call = self.history.calls.len();
                self.history.calls.push(CallRecord { at, vm, callout });
                self.open_calls.insert(call);
                self.tell(Happening::Called(call));
                self.check_journaled(call);
                self.send(call);
            }
            Effect::CallRefused(callout, status) => {
                let call = self.history.calls.len();
                self.history.calls.push(CallRecord { at, vm, callout });
                self.tell(Happening::CallRefused(call, status));
            }
            Effect::Reply(reply) => {
                if let Some(stream) = self.stream_of.get(&(vm, reply.stream)).copied() {
                    let told = Told::Answer { status: reply.status, headers: reply.headers, body: reply.body };
                    self.answer_stream(stream, told);
                }
            }
            Effect::TickPeriod(root, period_ms) => {
                let Some(slot) = self.slot(vm).roots.iter_mut().find(|one| one.id == root) else { return };
                slot.tick_generation += 1;
                slot.period_ms = period_ms;
                let (generation, replaced) = (slot.tick_generation, slot.next_tick.take());
                if let Some(replaced) = replaced {
                    self.agenda.remove(&replaced);
                }
                if period_ms > 0 {
                    self.schedule_tick(vm, root, generation, period_ms);
                }
            }
            Effect::QueueReady(owner, root, queue) => {
                self.schedule(0, Event::QueueReady { vm: (vm.0, owner), root, queue });
            }
            Effect::Done(root) => self.end_root(vm, root),
            Effect::Log(level, text) => self.tell(Happening::Logged(vm, level, text)),
        }
    }

    pub(super) fn tick(&mut self, vm: VmId, root: ContextId, generation: u64) {
        let current = |world: &mut Self| {
            let root = world.slot(vm).roots.iter().find(|one| one.id == root);
            root.filter(|root| root.tick_generation == generation).map(|root| root.period_ms)
        };
        if current(self).is_none() {
            return;
        }
        self.callback(vm, |vm| vm.tick(root));
        // The timer starts again after the callback, unless that has set it anew.
        if let Some(period_ms) = current(self) {
            self.schedule_tick(vm, root, generation, period_ms);
        }
    }

    fn stop_ticks(&mut self, mut root: Root) {
        if let Some(tick) = root.next_tick.take() {
            self.agenda.remove(&tick);
        }
    }

    fn schedule_tick(&mut self, vm: VmId, root: ContextId, generation: u64, period_ms: u32) {
        let due = self.schedule_at(self.now() + Nanos::from(period_ms) * MS, Event::Tick { vm, root, generation });
        if let Some(root) = self.slot(vm).roots.iter_mut().find(|one| one.id == root) {
            root.next_tick = Some(due);
        }
    }

    fn trapped(&mut self, vm: VmId, why: Trapped) {
        self.tell(Happening::Trapped(vm, why.0));
        // One that was ordered may come at the very end.
        self.quiet = None;
        let now = self.now();
        self.slot(vm).trapped_at = Some(now);
        self.remove_vm(vm, "trapped");
    }

    /// Takes a VM away, with all that is in it. Its streams are answered no more.
    fn remove_vm(&mut self, vm: VmId, why: &'static str) {
        if self.slot(vm).vm.take().is_some() {
            for root in std::mem::take(&mut self.slot(vm).roots) {
                self.stop_ticks(root);
            }
            self.proxies[vm.0].process.borrow_mut().remove_vm(vm.1);
            self.tell(Happening::VmGone(vm, why));
        }
        // What it has missed finds nobody.
        self.slot(vm).stalled_until = 0;
        while let Some(event) = self.slot(vm).missed.pop_front() {
            self.act(event);
        }
    }

    pub(super) fn stall(&mut self, proxy: usize, thread: usize, for_ns: Nanos) {
        let Some(index) = self.proxies[proxy].threads.get(thread).copied() else { return };
        let vm = (proxy, index);
        if !self.proxies[proxy].up || !self.slot(vm).is_alive() {
            return;
        }
        let until = self.now() + for_ns;
        self.slot(vm).stalled_until = until.max(self.slot(vm).stalled_until);
        self.tell(Happening::Stalled(vm, until));
        self.schedule(for_ns, Event::Wakes(vm));
    }

    pub(super) fn order_trap(&mut self, proxy: usize, thread: usize, host_calls: u64) {
        let Some(vm) = self.proxies[proxy].threads.get(thread).copied() else { return };
        if let Some(vm) = &mut self.slot((proxy, vm)).vm {
            vm.trap_after(host_calls);
        }
    }

    /// The VM that serves new streams of a worker. One that has trapped is made anew once its back-off is over.
    pub(super) fn serving_vm(&mut self, proxy: usize, worker: usize) -> Option<VmId> {
        let thread = MAIN_VMS + worker;
        let index = *self.proxies[proxy].threads.get(thread)?;
        let slot = &self.proxies[proxy].slots[index];
        if slot.is_alive() {
            return Some((proxy, index));
        }
        if slot.trapped_at.is_some_and(|at| self.now() < at + RELOAD_BACK_OFF) {
            return None;
        }
        let age = self.age_after(self.proxies[proxy].age);
        Some(self.start_vm(proxy, thread, age))
    }

    pub(super) fn start_proxy(&mut self, proxy: usize) {
        let etcd = self.plan.in_etcd().then_some(ETCD);
        let clusters = self.plan.participants.iter().map(String::as_str).chain(etcd);
        self.proxies[proxy].process = Rc::new(RefCell::new(Process::new(clusters)));
        let rate = if self.healed { 0.0 } else { self.plan.faults.cas_conflict };
        let conflicts = self.seed ^ (proxy as u64) << 8 ^ self.now();
        self.proxies[proxy].process.borrow_mut().set_conflicts(rate, conflicts);
        self.proxies[proxy].up = true;
        self.proxies[proxy].threads = vec![0; MAIN_VMS + self.plan.proxies[proxy].workers];
        self.tell_of(format!("proxy{proxy}"), "starts");
        for thread in 0..self.proxies[proxy].threads.len() {
            self.start_vm(proxy, thread, self.proxies[proxy].age);
        }
    }

    fn start_vm(&mut self, proxy: usize, thread: usize, age: Age) -> VmId {
        let vm = (proxy, self.proxies[proxy].slots.len());
        let version = self.proxies[proxy].version;
        let at = &self.proxies[proxy];
        let (process, offset) = (Rc::clone(&at.process), Rc::clone(&at.wall_offset));
        process.borrow_mut().add_vm(vm.1);
        let seed = self.seed ^ ((proxy as u64 + 1) << 40) ^ ((vm.1 as u64 + 1) << 20);
        let host = Host::new(vm.1, process, Rc::clone(&self.clock), offset, seed);
        let started = self.filter.start(host, age);
        let (started, trap) = match started {
            Ok(started) => (Some(started), None),
            Err(trap) => (None, Some(trap)),
        };
        self.proxies[proxy].slots.push(Slot {
            vm: started,
            version,
            age,
            roots: Vec::new(),
            chain: Vec::new(),
            next_context: 0,
            trapped_at: None,
            replaced: false,
            thrown_away: false,
            stalled_until: 0,
            missed: VecDeque::new(),
        });
        self.proxies[proxy].threads[thread] = vm.1;
        self.tell_age(vm, age);
        if let Some(trap) = trap {
            self.trapped(vm, trap);
        }
        self.configure(vm, version);
        vm
    }

    /// Makes the roots of a configuration, which new streams get from now on.
    fn configure(&mut self, vm: VmId, version: usize) {
        let age = self.slot(vm).age;
        let version = self.configuration_for(age, version);
        let configuration = &self.plan.configurations[version];
        let chain: Vec<Vec<u8>> = if self.plan.proxies[vm.0].gate_pair {
            let mut first = configuration.clone();
            first["gate"] = Json::Bool(true);
            let gate = json!({"version": 1, "role": "gate"});
            let gate = (!self.plan.proxies[vm.0].holder_missing).then_some(gate);
            [first].into_iter().chain(gate).map(|configuration| configuration.to_string().into_bytes()).collect()
        } else {
            vec![configuration.to_string().into_bytes()]
        };
        let mut ids = Vec::new();
        let mut taken = true;
        for configuration in chain {
            let id = self.slot(vm).new_context();
            self.slot(vm).roots.push(Root { id, tick_generation: 0, next_tick: None, period_ms: 0, ending: false });
            // A trap on the way is no refusal.
            taken &= self.callback(vm, |vm| vm.create_root(id, &configuration)) != Some(false);
            ids.push(id);
        }
        self.slot(vm).chain = ids;
        self.slot(vm).version = version;
        self.tell(Happening::VmStarted(vm, version, taken));
    }

    pub(super) fn kill_proxy(&mut self, proxy: usize, for_ns: Nanos) {
        if !self.proxies[proxy].up {
            return;
        }
        self.tell_of(format!("proxy{proxy}"), "is killed");
        if !self.plan.in_etcd() {
            self.history.lost.extend(self.proxies[proxy].process.borrow().kept().open);
        }
        self.proxies[proxy].up = false;
        self.proxies[proxy].frozen_until = 0;
        self.count_illegal_events(proxy);
        for vm in 0..self.proxies[proxy].slots.len() {
            self.remove_vm((proxy, vm), "killed with its process");
        }
        self.cut_streams(|vm, _| vm.0 == proxy, "the proxy was killed");
        // What it has missed finds nobody: clients are refused, answers are for VMs that have gone.
        self.catch_up(proxy);
        self.schedule(for_ns, Event::Starts(proxy));
    }

    /// Remembers what a process that is about to end has counted.
    pub(super) fn count_illegal_events(&mut self, proxy: usize) {
        self.illegal_events += self.proxies[proxy].process.borrow().metric("sagabox_illegal_events");
    }

    pub(super) fn reconfigure(&mut self, proxy: usize, version: usize, how: Succession, drain_ns: Nanos) {
        if !self.proxies[proxy].up {
            return;
        }
        self.proxies[proxy].version = version;
        if how != Succession::SameVm {
            self.proxies[proxy].age = self.age_after(self.proxies[proxy].age);
        }
        self.replace_vms(proxy, version, how, drain_ns);
    }

    /// The VMs of a proxy get a configuration, or give way to others that have it.
    pub(super) fn replace_vms(&mut self, proxy: usize, version: usize, how: Succession, drain_ns: Nanos) {
        self.tell_of(format!("proxy{proxy}"), format!("gets configuration {version}: {how:?}"));
        for thread in 0..self.proxies[proxy].threads.len() {
            let vm = (proxy, self.proxies[proxy].threads[thread]);
            if !self.slot(vm).is_alive() {
                continue;
            }
            let old = self.slot(vm).chain.clone();
            if how == Succession::SameVm {
                self.configure(vm, version);
            } else {
                self.slot(vm).replaced = true;
                self.slot(vm).thrown_away = how == Succession::OldVmThrownAway;
                self.start_vm(proxy, thread, self.proxies[proxy].age);
            }
            for root in old {
                self.schedule(drain_ns, Event::Drained { vm, root });
            }
        }
    }

    /// The listener of a root has drained: its connections are cut, and it is asked to end.
    pub(super) fn drained(&mut self, vm: VmId, root: ContextId) {
        self.cut_streams(|of, chain| of == vm && chain.contains(&root), "the old listener has drained");
        if !self.has_root(vm, root) {
            return;
        }
        if let Some(root) = self.slot(vm).roots.iter_mut().find(|one| one.id == root) {
            root.ending = true;
        }
        let done = self.callback(vm, |vm| vm.done(root));
        if done == Some(true) || (done.is_some() && self.slot(vm).thrown_away) {
            self.end_root(vm, root);
        }
    }

    fn end_root(&mut self, vm: VmId, root: ContextId) {
        if !self.slot(vm).roots.iter().any(|one| one.id == root && one.ending) {
            return;
        }
        if let Some(index) = self.slot(vm).roots.iter().position(|one| one.id == root) {
            let ended = self.slot(vm).roots.remove(index);
            self.stop_ticks(ended);
        }
        self.tell(Happening::RootEnded(vm, root));
        self.callback(vm, |vm| vm.delete(root));
        if let Some(vm) = &mut self.slot(vm).vm {
            vm.host().roots.remove(&root);
        }
        let slot = self.slot(vm);
        if slot.replaced && slot.roots.is_empty() {
            let why = if slot.thrown_away { "thrown away" } else { "replaced, and done" };
            self.remove_vm(vm, why);
        }
    }

    pub(super) fn set_endpoint(&mut self, participant: usize, there: bool) {
        let name = self.plan.participants[participant].clone();
        let state = if there { ClusterState::HasEndpoint } else { ClusterState::NoEndpoint };
        for proxy in &self.proxies {
            proxy.process.borrow_mut().set_cluster(&name, state);
        }
        self.tell_of(name, if there { "has an endpoint again" } else { "has no endpoint" });
    }

    /// Asks every root to end. One that has no saga does at once.
    pub(super) fn roots_that_do_not_end(&mut self) -> Vec<(VmId, ContextId)> {
        let mut open = Vec::new();
        for proxy in 0..self.proxies.len() {
            for index in 0..self.proxies[proxy].slots.len() {
                let vm = (proxy, index);
                let roots: Vec<ContextId> = self.slot(vm).roots.iter().map(|root| root.id).collect();
                for root in roots {
                    if self.callback(vm, |vm| vm.done(root)) == Some(false) {
                        open.push((vm, root));
                    }
                }
            }
        }
        open
    }
}
