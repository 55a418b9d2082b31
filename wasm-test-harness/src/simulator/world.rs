//! One run: clients, proxies with their VMs, a network and participants, in one thread and in virtual time.
//!
//! ```text
//!            +------------------------------ agenda: what is due, by time ------------------------------+
//!            v                                                                                          |
//!   streams: client --> filter chain --\                                     /--> effects --> timers ---+
//!   vms:     ticks, queues, troubles ----> callback of a VM (the filter) ---+                           |
//!   network: answers, timeouts --------/                                     \--> calls --> participants
//! ```
//!
//! Everything random comes from the seed, everything has an order, and nothing looks at a real clock: the same seed and
//! the same filter give the same run.

mod durable;
mod end;
mod journal;
mod network;
mod path;
mod streams;
mod versions;
mod vms;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use self::durable::Seen;
pub use self::end::Outcome;
use self::end::Quiet;
pub use self::journal::ETCD;
use self::journal::{AskId, EtcdJournal};
use self::streams::Stream;
pub use self::vms::MAIN_VMS;
use self::vms::Slot;
use super::faults::stream_of;
use super::filter::Filter;
use super::history::{CallId, Ended, Happening, History, StreamId, VmId, vm_name};
use super::host::{CalloutAnswer, Clock, Nanos};
use super::participants::Participant;
use super::plan::{FrontAttempt, MS, Plan, SECOND, Trouble};
use super::process::{ContextId, Process};
use super::versions::Age;

/// After healing everything must have come to an end within this time.
const CONVERGES_WITHIN: Nanos = 120 * SECOND;
/// A run with more events than this does not end by itself.
const MAX_EVENTS: u64 = 400_000;
/// When an event is due, and, of those due at one time, which comes first.
type Due = (Nanos, u64);

/// What is on the agenda.
#[derive(Debug)]
enum Event {
    ClientAsks { client: usize, repeat: u32, front: Option<FrontAttempt> },
    Piece { stream: StreamId, index: usize },
    Trailers(StreamId),
    Leaves(StreamId),
    CloseStream(StreamId),
    ApplicationAnswers(StreamId),
    Tick { vm: VmId, root: ContextId, generation: u64 },
    QueueReady { vm: VmId, root: ContextId, queue: u32 },
    Arrives { call: CallId, copy: bool },
    Finishes { call: CallId, copy: bool },
    FinishesOrdered { call: CallId, applied: bool },
    AnswerArrives { call: CallId, answer: CalloutAnswer, ended: Ended },
    TimesOut(CallId),
    PathRecovers { participant: usize, status: Option<u16> },
    Trouble(usize),
    ParticipantUp(usize),
    EndpointBack(usize),
    Starts(usize),
    Thaws(usize),
    Wakes(VmId),
    Drained { vm: VmId, root: ContextId },
    EtcdAsked(AskId),
    EtcdAnswers(AskId, CalloutAnswer),
    EtcdTimesOut(AskId),
    EtcdIsBack,
    ReachesEtcd(usize),
    EtcdHasRoom,
    Heals,
}

impl Event {
    /// It comes again and again, also when nothing is left to do.
    fn is_of_background(&self) -> bool {
        matches!(self, Event::Tick { .. } | Event::EtcdAsked(_) | Event::EtcdAnswers(..) | Event::EtcdTimesOut(_))
    }
}

/// One Envoy.
struct Proxy {
    process: Rc<RefCell<Process>>,
    wall_offset: Rc<Cell<i64>>,
    /// Every VM that it has had; an index is never used again.
    slots: Vec<Slot>,
    /// The VM of each thread: two of the main thread, then the workers'.
    threads: Vec<usize>,
    version: usize,
    /// The version of the module that its new VMs get.
    age: Age,
    up: bool,
    frozen_until: Nanos,
    /// What it has missed while it was frozen, in the order in which it was due.
    missed: VecDeque<Event>,
}

impl Proxy {
    fn has_no_open_saga_but(&self, left: &BTreeSet<String>) -> bool {
        self.process.borrow().kept().open.iter().all(|saga| left.contains(saga))
    }
}

/// How often a client's request was sent before, by the client or by the proxy that it is behind.
fn hops(repeat: u32, front: Option<&FrontAttempt>) -> u32 {
    repeat + front.map_or(0, |front| front.number.saturating_sub(1))
}

fn participant(name: &str, plan: &Plan, seed: u64) -> Participant {
    let large_answers = (plan.faults.large_answers > 0.0).then(|| stream_of(seed, &format!("the notes of {name}")));
    let mut participant = Participant::new(name);
    (participant.key_lifetime, participant.large_answers) = (plan.key_lifetime(), large_answers);
    participant
}

/// Who knows that a step was done.
struct Known {
    /// The VM that was told.
    by: VmId,
    /// It has written that down since: before it sends a call for the first time, it does so with all it knows.
    recorded: bool,
}

/// See the module's text.
pub struct World<'a> {
    plan: &'a Plan,
    filter: &'a Filter,
    seed: u64,
    clock: Rc<Clock>,
    random: Pcg64Mcg,
    /// Streams of numbers of single faults, by their names.
    alone: BTreeMap<&'static str, Pcg64Mcg>,
    agenda: BTreeMap<Due, Event>,
    scheduled: u64,
    /// Events on the agenda that are no ticks.
    busy: u64,
    quiet: Option<Quiet>,
    history: History,
    proxies: Vec<Proxy>,
    participants: Vec<Participant>,
    /// Participants in whose place the path answers, and with what.
    path: Vec<(usize, Option<u16>)>,
    answered_by_path: BTreeSet<CallId>,
    /// When the compensation of a step of a saga was answered 404 first.
    not_found: BTreeMap<(String, String), Nanos>,
    /// Calls that have not ended for their VM.
    open_calls: BTreeSet<CallId>,
    streams: Vec<Stream>,
    stream_of: BTreeMap<(VmId, ContextId), StreamId>,
    /// Steps of sagas whose VM was told of their success.
    known_done: BTreeMap<(String, String), Known>,
    journal: EtcdJournal,
    seen: Seen,
    healed: bool,
    faults: u64,
    illegal_events: i64,
}

impl<'a> World<'a> {
    /// Runs a plan to its end.
    pub fn run(plan: &'a Plan, filter: &'a Filter, seed: u64) -> Outcome {
        let mut world = World::new(plan, filter, seed);
        world.prepare();
        let mut events = 0;
        let mut converged = true;
        while let Some(((at, _), event)) = world.agenda.pop_first() {
            events += 1;
            let ends_at = plan.heal_at + CONVERGES_WITHIN;
            if events > MAX_EVENTS || at > ends_at {
                converged = false;
                break;
            }
            world.clock.advance_to(at);
            world.busy -= u64::from(!event.is_of_background());
            if let (Some(quiet), Event::Tick { vm, root, .. }) = (&mut world.quiet, &event) {
                quiet.count_tick(*vm, *root);
            }
            world.take(event);
            if world.is_over() {
                break;
            }
        }
        world.outcome(converged)
    }

    fn new(plan: &'a Plan, filter: &'a Filter, seed: u64) -> World<'a> {
        World {
            plan,
            filter,
            seed,
            clock: Rc::default(),
            random: Pcg64Mcg::seed_from_u64(seed),
            alone: BTreeMap::new(),
            agenda: BTreeMap::new(),
            scheduled: 0,
            busy: 0,
            quiet: None,
            history: History::default(),
            proxies: Vec::new(),
            participants: plan.participants.iter().map(|name| participant(name, plan, seed)).collect(),
            path: Vec::new(),
            answered_by_path: BTreeSet::new(),
            not_found: BTreeMap::new(),
            open_calls: BTreeSet::new(),
            streams: Vec::new(),
            stream_of: BTreeMap::new(),
            known_done: BTreeMap::new(),
            journal: EtcdJournal::new(plan, seed),
            seen: Seen::default(),
            healed: false,
            faults: 0,
            illegal_events: 0,
        }
    }

    fn prepare(&mut self) {
        for (participant, fault) in &self.plan.orders {
            let index = self.plan.participants.iter().position(|name| name == participant);
            let participant = index.map(|index| &self.participants[index]);
            let ordered = participant.map(|participant| participant.faults.add(fault.clone()));
            assert!(matches!(ordered, Some(Ok(()))), "{fault:?} cannot be ordered");
        }
        for proxy in 0..self.plan.proxies.len() {
            self.proxies.push(Proxy {
                age: self.first_age(proxy),
                process: Rc::default(),
                wall_offset: Rc::default(),
                slots: Vec::new(),
                threads: Vec::new(),
                version: 0,
                up: false,
                frozen_until: 0,
                missed: VecDeque::new(),
            });
        }
        for proxy in 0..self.plan.proxies.len() {
            self.start_proxy(proxy);
        }
        for (client, plan) in self.plan.clients.iter().enumerate() {
            self.schedule_at(plan.at, Event::ClientAsks { client, repeat: 0, front: None });
        }
        for (index, (at, _)) in self.plan.troubles.iter().enumerate() {
            self.schedule_at(*at, Event::Trouble(index));
        }
        self.schedule_at(self.plan.heal_at, Event::Heals);
    }

    fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn schedule(&mut self, after: Nanos, event: Event) {
        self.schedule_at(self.now().saturating_add(after), event);
    }

    fn schedule_at(&mut self, at: Nanos, event: Event) -> Due {
        self.scheduled += 1;
        self.busy += u64::from(!event.is_of_background());
        let due = (at, self.scheduled);
        self.agenda.insert(due, event);
        due
    }

    fn tell(&mut self, happening: Happening) {
        let now = self.now();
        self.history.add(now, happening);
    }

    fn tell_of(&mut self, place: impl Into<String>, what: impl Into<String>) {
        self.tell(Happening::Happened(place.into(), what.into()));
    }

    /// Whether a fault of that rate strikes. None does once everything has healed.
    fn strikes(&mut self, rate: f64) -> bool {
        let strikes = rate > 0.0 && !self.healed && self.random.random_bool(rate);
        self.faults += u64::from(strikes);
        strikes
    }

    /// Whether one of the faults strikes that draw from a stream of their own.
    fn strikes_alone(&mut self, fault: &'static str, rate: f64) -> bool {
        let strikes = rate > 0.0 && !self.healed && self.stream(fault).random_bool(rate);
        self.faults += u64::from(strikes);
        strikes
    }

    /// The numbers that a fault draws in this run.
    fn stream(&mut self, fault: &'static str) -> &mut Pcg64Mcg {
        let seed = self.seed;
        self.alone.entry(fault).or_insert_with(|| stream_of(seed, &format!("the run's {fault}")))
    }

    /// A time between the two, in nanoseconds.
    fn between(&mut self, least: Nanos, most: Nanos) -> Nanos {
        self.random.random_range(least..=most.max(least))
    }

    fn take(&mut self, event: Event) {
        let now = self.now();
        if let Some(proxy) = self.proxy_of(&event).map(|proxy| &mut self.proxies[proxy])
            && (proxy.frozen_until > now || !proxy.missed.is_empty())
        {
            return proxy.missed.push_back(event);
        }
        self.take_in_vm(event);
    }

    /// A VM that is stalled does later what it has missed, in the order in which it was due.
    fn take_in_vm(&mut self, event: Event) {
        let now = self.now();
        if let Some(vm) = self.vm_of(&event)
            && self.slot(vm).is_stalled(now)
        {
            return self.slot(vm).missed.push_back(event);
        }
        self.act(event);
    }

    fn wakes(&mut self, vm: VmId) {
        let now = self.now();
        if self.slot(vm).stalled_until > now {
            return;
        }
        self.tell_of(vm_name(vm), "goes on");
        while let Some(event) = self.slot(vm).missed.pop_front() {
            self.act(event);
        }
    }

    fn vm_of(&self, event: &Event) -> Option<VmId> {
        match event {
            Event::ClientAsks { client, repeat, front } => {
                let (plan, hops) = (&self.plan.clients[*client], hops(*repeat, front.as_ref()));
                let index = plan.proxy_of(hops, self.proxies.len());
                let proxy = &self.proxies[index];
                let worker = plan.worker_of(hops, self.plan.proxies[index].workers);
                proxy.threads.get(MAIN_VMS + worker).map(|vm| (index, *vm)).filter(|_| proxy.up)
            }
            Event::Piece { stream, .. }
            | Event::Trailers(stream)
            | Event::Leaves(stream)
            | Event::CloseStream(stream)
            | Event::ApplicationAnswers(stream) => self.history.streams[*stream].vm,
            Event::Tick { vm, .. } | Event::QueueReady { vm, .. } | Event::Drained { vm, .. } => Some(*vm),
            Event::EtcdAnswers(ask, _) | Event::EtcdTimesOut(ask) => Some(self.journal.vm_of(*ask)),
            Event::AnswerArrives { call, .. } | Event::TimesOut(call) => Some(self.history.calls[*call].vm),
            _ => None,
        }
    }

    /// A frozen proxy does what it has missed once it wakes, in the order in which it was due, and then goes on.
    fn thaws(&mut self, proxy: usize) {
        if self.proxies[proxy].frozen_until <= self.now() {
            self.tell_of(format!("proxy{proxy}"), "wakes up");
            self.catch_up(proxy);
        }
    }

    fn catch_up(&mut self, proxy: usize) {
        while let Some(event) = self.proxies[proxy].missed.pop_front() {
            self.take_in_vm(event);
        }
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::ClientAsks { client, repeat, front } => self.client_asks(client, repeat, front),
            Event::Piece { stream, index } => self.piece(stream, index),
            Event::Trailers(stream) => self.trailers(stream),
            Event::Leaves(stream) => self.client_leaves(stream),
            Event::CloseStream(stream) => self.close_stream(stream),
            Event::ApplicationAnswers(stream) => self.application_answers(stream),
            Event::Tick { vm, root, generation } => self.tick(vm, root, generation),
            // Envoy looks for the root first: it may have ended since.
            Event::QueueReady { vm, root, queue } if self.has_root(vm, root) => {
                self.callback(vm, |vm| vm.queue_ready(root, queue));
            }
            Event::QueueReady { .. } => {}
            Event::Arrives { call, copy } => self.arrives(call, copy),
            Event::Finishes { call, copy } => self.finishes(call, copy),
            Event::FinishesOrdered { call, applied } => self.finishes_ordered(call, applied),
            Event::AnswerArrives { call, answer, ended } => self.call_ended(call, answer, ended),
            Event::TimesOut(call) => self.times_out(call),
            Event::PathRecovers { participant, status } => self.path_recovers(participant, status),
            Event::Trouble(index) => self.trouble(index),
            Event::ParticipantUp(index) => {
                self.participants[index].down -= 1;
                self.tell_of(self.plan.participants[index].clone(), "is up");
            }
            Event::EndpointBack(index) => self.set_endpoint(index, true),
            Event::Starts(proxy) => {
                self.proxies[proxy].age = self.age_after(self.proxies[proxy].age);
                self.start_proxy(proxy);
            }
            Event::Thaws(proxy) => self.thaws(proxy),
            Event::Wakes(vm) => self.wakes(vm),
            Event::Drained { vm, root } => self.drained(vm, root),
            Event::EtcdAsked(ask) => self.etcd_asked(ask),
            Event::EtcdAnswers(ask, answer) => self.etcd_answers(ask, answer),
            Event::EtcdTimesOut(ask) => self.etcd_times_out(ask),
            Event::EtcdIsBack => self.etcd_is_back(),
            Event::ReachesEtcd(proxy) => self.reaches_etcd(proxy),
            Event::EtcdHasRoom => self.etcd_has_room(),
            Event::Heals => {
                self.healed = true;
                for proxy in &self.proxies {
                    self.faults += proxy.process.borrow_mut().end_conflicts();
                }
                self.tell_of("all", "HEALS: from now on nothing goes wrong");
                self.end_on_one_version();
            }
        }
    }

    fn proxy_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::ClientAsks { client, repeat, front } => {
                Some(self.plan.clients[*client].proxy_of(hops(*repeat, front.as_ref()), self.proxies.len()))
            }
            Event::Piece { stream, .. }
            | Event::Trailers(stream)
            | Event::Leaves(stream)
            | Event::CloseStream(stream)
            | Event::ApplicationAnswers(stream) => self.history.streams[*stream].vm.map(|vm| vm.0),
            Event::Tick { vm, .. } | Event::QueueReady { vm, .. } | Event::Drained { vm, .. } | Event::Wakes(vm) => {
                Some(vm.0)
            }
            Event::EtcdAnswers(ask, _) | Event::EtcdTimesOut(ask) => Some(self.journal.vm_of(*ask).0),
            Event::AnswerArrives { call, .. } | Event::TimesOut(call) => Some(self.history.calls[*call].vm.0),
            _ => None,
        }
    }

    fn trouble(&mut self, index: usize) {
        let trouble = self.plan.troubles[index].1.clone();
        self.faults += 1;
        match trouble {
            Trouble::ParticipantDown { participant, for_ns } => {
                self.participants[participant].down += 1;
                self.tell_of(self.plan.participants[participant].clone(), format!("is down for {} ms", for_ns / MS));
                self.schedule(for_ns, Event::ParticipantUp(participant));
            }
            Trouble::NoEndpoint { participant, for_ns } => {
                self.set_endpoint(participant, false);
                self.schedule(for_ns, Event::EndpointBack(participant));
            }
            Trouble::Trap { proxy, worker, host_calls } => {
                self.order_trap(proxy, MAIN_VMS + worker, host_calls);
            }
            Trouble::TrapOfMain { proxy, host_calls } => self.order_trap(proxy, 0, host_calls),
            Trouble::Kill { proxy, for_ns } => self.kill_proxy(proxy, for_ns),
            Trouble::Freeze { proxy, for_ns } => {
                let until = self.now() + for_ns;
                self.proxies[proxy].frozen_until = self.proxies[proxy].frozen_until.max(until);
                self.tell_of(format!("proxy{proxy}"), format!("is frozen for {} ms", for_ns / MS));
                self.schedule(for_ns, Event::Thaws(proxy));
            }
            Trouble::Stall { proxy, thread, for_ns } => self.stall(proxy, thread, for_ns),
            Trouble::Reconfigure { proxy, version, how, drain_ns } => self.reconfigure(proxy, version, how, drain_ns),
            Trouble::OtherVersion { proxy, how, drain_ns } => self.gets_other_version(proxy, how, drain_ns),
            Trouble::PathAnswers { participant, for_ns, status } => {
                self.path_begins_to_answer(participant, for_ns, status);
            }
            Trouble::EtcdAway { for_ns } => self.etcd_goes_away(for_ns),
            Trouble::CutOffFromEtcd { proxy, for_ns, without_endpoint } => {
                self.cut_off_from_etcd(proxy, for_ns, without_endpoint);
            }
            Trouble::EtcdFull { for_ns } => self.etcd_is_full(for_ns),
            Trouble::ClockJump { proxy, by_ns } => {
                self.proxies[proxy].wall_offset.set(by_ns);
                self.tell_of(format!("proxy{proxy}"), format!("its wall clock is {} ms off", by_ns / 1_000_000));
            }
        }
    }
}
