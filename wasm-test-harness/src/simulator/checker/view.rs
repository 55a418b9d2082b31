//! What the checker knows of a run at some time of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::journal::Awaited;
use super::step::{Came, Half, StepView};
use super::{Rule, Violation};
use crate::simulator::history::{CallId, CallRecord, Deed, Ended, History, StreamId, Told, VmId};
use crate::simulator::host::Nanos;
use crate::simulator::journal_view::Durable;
use crate::simulator::model::{Configuration, SagaModel, StepModel};
use crate::simulator::plan::{ClientPlan, MS, Plan, SECOND, Trouble};

/// One saga, from its first call on.
#[derive(Debug, Clone)]
pub(super) struct SagaView<'a> {
    pub(super) model: &'a SagaModel,
    pub(super) body: Json,
    /// Who owns it.
    pub(super) vm: VmId,
    /// Raised with every owner.
    pub(super) epoch: u32,
    /// When the first call of that owner was sent; of the first owner, 0.
    pub(super) took_over_at: Nanos,
    pub(super) client: usize,
    /// When its first call was sent.
    pub(super) began_at: Nanos,
    /// From when its deadline may count: a journal that is elsewhere takes its time before the first call.
    pub(super) asked_at: Nanos,
    pub(super) steps: BTreeMap<&'a str, StepView>,
    /// It had failed, or may have, to the knowledge of an owner, which may have recorded that.
    pub(super) failed_before: bool,
    /// The end that a client was told.
    pub(super) told: Option<&'static str>,
    /// What was in that answer: who asks again is told the same.
    pub(super) reply: Option<Vec<u8>>,
    /// Its journal may not answer for a while.
    pub(super) may_miss_etcd: bool,
    /// For how long participants keep its keys.
    pub(super) key_lifetime: Option<Nanos>,
    /// Some client was told that it is being undone.
    pub(super) told_compensating: bool,
    /// What is in its journal, and since when.
    pub(super) durable: BTreeMap<Durable, Nanos>,
    /// What is to be there soon.
    pub(super) awaited: Vec<Awaited>,
    pub(super) has_awaited_failure: bool,
}

impl SagaView<'_> {
    pub(super) fn skips(&self, step: &StepModel) -> bool {
        step.is_skipped(&self.body)
    }

    pub(super) fn step(&self, name: &str) -> StepView {
        self.steps.get(name).cloned().unwrap_or_default()
    }

    /// Another VM has it from now on. Whose it was, was dead since then, if it was.
    pub(super) fn taken_over(&mut self, vm: VmId, epoch: u32, dead_since: Option<Nanos>, now: Nanos) {
        self.failed_before |= self.has_failed();
        (self.vm, self.epoch, self.took_over_at) = (vm, epoch, now);
        for step in self.steps.values_mut() {
            step.was_unreadable |= std::mem::take(&mut step.unreadable);
            step.transaction.taken_over(dead_since);
            step.compensation.taken_over(dead_since);
        }
    }

    pub(super) fn any_compensation(&self) -> bool {
        self.steps.values().any(|step| !step.compensation.attempts.is_empty())
    }

    /// Some step can never succeed any more: the saga is to be compensated, and no new transaction may be sent.
    pub(super) fn has_failed(&self) -> bool {
        self.any_compensation() || self.failed_step().is_some()
    }

    pub(super) fn failed_step(&self) -> Option<&str> {
        let failed = |step: &&StepModel| !self.skips(step) && self.step_has_failed(step);
        self.model.steps.iter().find(failed).map(|step| step.name.as_str())
    }

    /// A transaction that was refused, whose attempts are used up, or that cannot be sent.
    fn step_has_failed(&self, step: &StepModel) -> bool {
        let half = self.step(&step.name).transaction;
        // What comes after the last attempt that is allowed is only sent to learn what became of it.
        let allowed = half.of_owner().get(..step.max_attempts() as usize).unwrap_or_default();
        let used_up = !allowed.is_empty() && allowed.iter().all(|attempt| attempt.came.is_vain());
        half.refused || used_up || (half.attempts.is_empty() && self.cannot_be_sent(step))
    }

    /// Some step may have failed to the knowledge of its owner, which is not all that owners before it knew.
    pub(super) fn may_have_failed(&self, now: Nanos) -> bool {
        let used_up = |step: &&StepModel| {
            let half = self.step(&step.name).transaction;
            // Of an attempt that owners before have made the present one knows only that it was about to be made.
            let made = half.attempts.len() + self.epoch as usize - 1;
            let used_up = made >= step.max_attempts() as usize && !half.owner_saw(Came::Success);
            let too_old = self.key_is_forgotten(&half, now) && half.last() != Some(Came::Success);
            half.came(Came::Doubtful) || (self.epoch > 1 && used_up) || too_old
        };
        let unreadable = || self.steps.values().any(|step| step.was_unreadable);
        self.failed_before || self.has_failed() || self.model.steps.iter().any(|step| used_up(&step)) || unreadable()
    }

    /// The participant may have forgotten the key of a transaction, or will soon. The filter counts from when it first tried to
    /// send it.
    fn key_is_forgotten(&self, transaction: &Half, now: Nanos) -> bool {
        // An owner before may have written that it would, and be gone before it did; or the write took long.
        let written = (self.epoch > 1 || self.may_miss_etcd).then_some(self.asked_at);
        let first = if self.may_miss_etcd { written } else { transaction.first_tried_at.or(written) };
        self.key_lifetime.zip(first).is_some_and(|(lifetime, first)| first + lifetime < now + SECOND)
    }

    /// Whether a step may have been done to the knowledge of its owner, and it is too late to ask: nobody but an operator can
    /// end the saga. What became of it is known only if the journal had that in time.
    pub(super) fn is_too_old(&self, model: &StepModel, now: Nanos) -> bool {
        let index = self.model.steps.iter().position(|step| step.name == model.name);
        let half = self.step(&model.name).transaction;
        let durable = index.and_then(|index| self.durable.get(&Durable::Settled(index)));
        let in_time = durable.is_some_and(|at| !self.key_is_forgotten(&half, *at));
        let settled = in_time && matches!(half.last(), Some(Came::Success | Came::Refusal));
        model.needs_answer() && !settled && self.key_is_forgotten(&half, now)
    }

    /// Its turn has come, and it, or its compensation, reads what the request or an answer does not have.
    fn cannot_be_sent(&self, step: &StepModel) -> bool {
        let lacks = step.reads_of_request().iter().any(|name| self.body.get(name).is_none());
        let unread = || step.after.iter().any(|name| self.step(name).unreadable && step.reads_answer_of(name));
        self.turn_has_come(step) && (lacks || unread())
    }

    /// Every step before it has succeeded or was skipped.
    fn turn_has_come(&self, step: &StepModel) -> bool {
        step.after.iter().filter_map(|name| self.model.step(name)).all(|before| self.lets_pass(before))
    }

    /// The steps after it need not wait for it any more. One whose condition is false is skipped when its turn comes.
    pub(super) fn lets_pass(&self, step: &StepModel) -> bool {
        let succeeded = self.step(&step.name).transaction.last() == Some(Came::Success);
        succeeded || (self.skips(step) && self.turn_has_come(step))
    }

    /// The deadline has passed, or may have for the filter, which counts whole milliseconds.
    pub(super) fn is_overdue(&self, now: Nanos) -> bool {
        // So does the one that has taken it over, from another moment on.
        let inexact = if self.epoch > 1 { 2 * MS } else { MS };
        now + inexact >= self.asked_at + self.model.deadline_ms() * MS
    }
}

/// See the module's text.
pub(super) struct View<'a> {
    pub(super) plan: &'a Plan,
    pub(super) history: &'a History,
    configurations: &'a [Configuration],
    pub(super) now: Nanos,
    /// Sagas are kept in etcd, and go on in any process.
    pub(super) in_etcd: bool,
    /// They are, and etcd may not be there for a while: what follows from an answer of its may come late.
    pub(super) may_miss_etcd: bool,
    /// By id.
    pub(super) sagas: BTreeMap<String, SagaView<'a>>,
    /// The saga of each request.
    pub(super) saga_of: BTreeMap<&'a str, String>,
    pub(super) told: BTreeMap<StreamId, (Nanos, &'a Told)>,
    pub(super) left: BTreeSet<StreamId>,
    pub(super) gone: BTreeMap<VmId, &'a str>,
    pub(super) gone_at: BTreeMap<VmId, Nanos>,
    /// VMs that did nothing for a while, and may have been taken for dead.
    pub(super) slow: BTreeSet<VmId>,
    /// VMs of which a root has ended: others take its sagas over, though the VM lives.
    pub(super) lost_a_root: BTreeSet<VmId>,
    /// When the processes of proxies were killed.
    kills: BTreeSet<(usize, Nanos)>,
    pub(super) requested_at: BTreeMap<StreamId, Nanos>,
    /// The saga that has begun under a key: by proxy, how often that was killed before, path and key.
    pub(super) keys: BTreeMap<(usize, usize, &'a str, &'a [u8]), String>,
    pub(super) violations: Vec<Violation>,
}

impl<'a> View<'a> {
    /// `configurations` are those of the plan, read.
    pub(super) fn new(plan: &'a Plan, configurations: &'a [Configuration], history: &'a History) -> View<'a> {
        View {
            plan,
            history,
            configurations,
            now: 0,
            in_etcd: plan.in_etcd(),
            may_miss_etcd: plan.in_etcd() && plan.may_miss_etcd(),
            sagas: BTreeMap::new(),
            saga_of: BTreeMap::new(),
            told: BTreeMap::new(),
            left: BTreeSet::new(),
            gone: BTreeMap::new(),
            gone_at: BTreeMap::new(),
            slow: BTreeSet::new(),
            lost_a_root: BTreeSet::new(),
            kills: BTreeSet::new(),
            requested_at: BTreeMap::new(),
            keys: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    pub(super) fn wrong(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { at: self.now, rule, what });
    }

    /// The definition under which the request of a stream is served.
    pub(super) fn model_of(&self, stream: StreamId) -> Option<&'a SagaModel> {
        let record = self.history.streams.get(stream)?;
        let client = self.plan.clients.get(record.client)?;
        self.configurations.get(record.version)?.matching(&client.method, &client.path)
    }

    /// The definitions that the requests of a client match, of all configurations.
    pub(super) fn definitions_for(&self, client: &ClientPlan) -> impl Iterator<Item = &'a SagaModel> {
        let (method, path) = (client.method.clone(), client.path.clone());
        self.configurations.iter().filter_map(move |one| one.matching(&method, &path))
    }

    /// How long a proxy was frozen in all: everything may be so much later.
    pub(super) fn frozen(&self, proxy: usize) -> Nanos {
        let frozen = self.plan.troubles.iter().filter_map(|(_, trouble)| match trouble {
            Trouble::Freeze { proxy: which, for_ns } if *which == proxy => Some(*for_ns),
            _ => None,
        });
        frozen.sum()
    }

    pub(super) fn ended(&mut self, call: CallId, ended: &Ended) {
        let record = &self.history.calls[call];
        let (now, compensation) = (self.now, record.is_compensation());
        let Some(saga) = self.sagas.get_mut(record.header("saga-id")) else { return };
        let Some(model) = saga.model.step(record.header("saga-step")) else { return };
        let (epoch, took_over_at) = (saga.epoch, saga.took_over_at);
        let Some(step) = saga.steps.get_mut(model.name.as_str()) else { return };
        let half = if compensation { &step.compensation } else { &step.transaction };
        if !half.of_owner().iter().any(|attempt| attempt.call == call) {
            return;
        }
        let came = if compensation {
            step.compensation_came(model, ended, epoch, took_over_at, now)
        } else {
            step.unreadable = matches!(ended, Ended::Unreadable(_));
            step.transaction_came(model, ended, epoch)
        };
        let half = if compensation { &mut step.compensation } else { &mut step.transaction };
        half.refused |= came == Came::Refusal && !compensation;
        half.last_ended_at = now;
        half.put_off = if let Ended::PutOff(_, after_s) = ended { Nanos::from(*after_s) * SECOND } else { 0 };
        if let Some(attempt) = half.attempts.iter_mut().find(|attempt| attempt.call == call) {
            attempt.came = came;
        }
        self.await_what_follows(record);
    }

    pub(super) fn dealt(&mut self, call: CallId, deed: Deed) {
        let record = &self.history.calls[call];
        if let Some(step) = self.step_of(record) {
            step.applied += u32::from(deed == Deed::Applied);
        }
    }

    fn step_of(&mut self, record: &CallRecord) -> Option<&mut StepView> {
        self.sagas.get_mut(record.header("saga-id"))?.steps.get_mut(record.header("saga-step"))
    }

    pub(super) fn half(&mut self, record: &CallRecord) -> Option<&mut Half> {
        let step = self.step_of(record)?;
        Some(if record.is_compensation() { &mut step.compensation } else { &mut step.transaction })
    }

    pub(super) fn left(&mut self, stream: StreamId) {
        self.left.insert(stream);
        let record = &self.history.streams[stream];
        let Some(vm) = record.vm else { return };
        let client = &self.plan.clients[record.client];
        let had_patience = client.leaves_after.is_none() && client.front.is_none();
        let slow = self.gone.contains_key(&vm) || self.slow.contains(&vm) || self.frozen(vm.0) > 0;
        if had_patience && !slow {
            self.wrong(Rule::Waits, format!("client {} was told nothing as long as it waited", record.client));
        }
    }

    /// Whether a VM of this proxy has gone.
    pub(super) fn has_lost_vm(&self, proxy: usize) -> bool {
        self.gone.keys().any(|vm| vm.0 == proxy)
    }

    pub(super) fn vm_gone(&mut self, vm: VmId, why: &'a str) {
        self.gone.insert(vm, why);
        self.gone_at.insert(vm, self.now);
        if why == KILLED {
            self.kills.insert((vm.0, self.now));
        }
    }

    pub(super) fn stalled(&mut self, vm: VmId) {
        self.slow.insert(vm);
    }

    pub(super) fn root_ended(&mut self, vm: VmId) {
        self.lost_a_root.insert(vm);
    }

    pub(super) fn requested(&mut self, stream: StreamId) {
        self.requested_at.insert(stream, self.now);
    }

    /// The deadline is by the wall clock of whoever has the saga, which may be another than that of its begin.
    pub(super) fn clock_may_be_off(&self, saga: &SagaView<'_>) -> bool {
        saga.epoch > 1 && self.plan.faults.clock_jump > 0.0
    }

    /// Whether the process of a proxy was killed after that time.
    pub(super) fn was_killed_since(&self, proxy: usize, since: Nanos) -> bool {
        self.kills.range((proxy, since)..(proxy + 1, 0)).next().is_some()
    }

    /// How often the process of a proxy has been killed.
    pub(super) fn kills_of(&self, proxy: usize) -> usize {
        self.kills.range((proxy, 0)..(proxy + 1, 0)).count()
    }
}

/// Why a VM has gone whose process was killed.
const KILLED: &str = "killed with its process";

/// Time that a run in which nothing is frozen takes between two things that follow from each other.
pub(super) const SLACK: Nanos = 50 * MS;
