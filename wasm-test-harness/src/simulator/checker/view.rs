//! What the checker knows of a run at some time of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::{Rule, Violation};
use crate::simulator::history::{CallId, CallRecord, Deed, Ended, History, StreamId, Told, VmId};
use crate::simulator::host::Nanos;
use crate::simulator::model::{Configuration, SagaModel, StepModel};
use crate::simulator::plan::{ClientPlan, MS, Plan, SECOND, Trouble};

/// What an attempt came to, as far as its sender could know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// It is under way.
    NotYet,
    /// A success.
    Success,
    /// A definite refusal.
    Refusal,
    /// Not now: it was not done.
    NotNow,
    /// Nobody knows.
    Unknown,
}

/// The attempts of one half of a step.
#[derive(Debug, Clone, Default)]
pub(super) struct Half {
    pub(super) attempts: Vec<(CallId, Came)>,
    pub(super) first_tried_at: Option<Nanos>,
    pub(super) last_ended_at: Nanos,
    /// For how long the participant has asked to be left alone after the last attempt.
    pub(super) put_off: Nanos,
    /// So many of the attempts are of owners before this one, who have told nobody what they came to.
    pub(super) before: usize,
    /// The last attempt was sent only to learn whether an earlier one was done.
    pub(super) resolving: bool,
    /// It was refused for good, by its participant or for want of a cluster; whatever came of earlier attempts.
    pub(super) refused: bool,
}

impl Half {
    /// The attempts of the present owner.
    pub(super) fn of_owner(&self) -> &[(CallId, Came)] {
        self.attempts.get(self.before..).unwrap_or_default()
    }

    /// To the knowledge of the present owner.
    pub(super) fn owner_saw(&self, came: Came) -> bool {
        self.of_owner().iter().any(|(_, other)| *other == came)
    }

    /// Another owner: what was under way is unknown to it, and it counts anew.
    fn taken_over(&mut self) {
        for (_, came) in &mut self.attempts {
            if *came == Came::NotYet {
                *came = Came::Unknown;
            }
        }
        *self = Half {
            before: self.attempts.len(),
            attempts: std::mem::take(&mut self.attempts),
            first_tried_at: self.first_tried_at,
            ..Half::default()
        };
    }

    pub(super) fn came(&self, came: Came) -> bool {
        self.attempts.iter().any(|(_, other)| *other == came)
    }

    pub(super) fn last(&self) -> Option<Came> {
        self.attempts.last().map(|(_, came)| *came)
    }
}

/// One step of a saga.
#[derive(Debug, Clone, Default)]
pub(super) struct StepView {
    pub(super) transaction: Half,
    pub(super) compensation: Half,
    pub(super) applied: u32,
    /// What it answered, those after it cannot read.
    pub(super) unreadable: bool,
    /// Nor could they when an owner had it who has gone, and may have written that down.
    pub(super) was_unreadable: bool,
}

impl StepView {
    /// Whether there is, or may be, something to undo.
    pub(super) fn may_be_done(&self, model: &StepModel) -> bool {
        let transaction = &self.transaction;
        let resolved = model.needs_answer() && transaction.last() == Some(Came::Refusal);
        (transaction.came(Came::Success) || transaction.came(Came::Unknown)) && !resolved
    }

    pub(super) fn is_undone(&self) -> bool {
        self.compensation.last() == Some(Came::Success)
    }
}

/// One saga, from its first call on.
#[derive(Debug, Clone)]
pub(super) struct SagaView<'a> {
    pub(super) model: &'a SagaModel,
    pub(super) body: Json,
    /// Who owns it.
    pub(super) vm: VmId,
    /// Raised with every owner.
    pub(super) epoch: u32,
    pub(super) client: usize,
    /// When its first call was sent.
    pub(super) began_at: Nanos,
    /// From when its deadline may count: a journal that is elsewhere takes its time before the first call.
    pub(super) asked_at: Nanos,
    pub(super) steps: BTreeMap<&'a str, StepView>,
    /// It had failed to the knowledge of an owner before this one, which may have recorded that.
    pub(super) failed_before: bool,
    /// The end that a client was told.
    pub(super) told: Option<&'static str>,
    /// What was in that answer: who asks again is told the same.
    pub(super) reply: Option<Vec<u8>>,
}

impl SagaView<'_> {
    pub(super) fn skips(&self, step: &StepModel) -> bool {
        step.is_skipped(&self.body)
    }

    pub(super) fn step(&self, name: &str) -> StepView {
        self.steps.get(name).cloned().unwrap_or_default()
    }

    /// Another VM has it from now on.
    pub(super) fn taken_over(&mut self, vm: VmId, epoch: u32) {
        self.failed_before |= self.has_failed();
        (self.vm, self.epoch) = (vm, epoch);
        for step in self.steps.values_mut() {
            step.was_unreadable |= std::mem::take(&mut step.unreadable);
            step.transaction.taken_over();
            step.compensation.taken_over();
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
        let vain = |came: Came| !matches!(came, Came::Success | Came::NotYet);
        let used_up = !allowed.is_empty() && allowed.iter().all(|(_, came)| vain(*came));
        half.refused || used_up || (half.attempts.is_empty() && self.cannot_be_sent(step))
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

    pub(super) fn stream_of_request(&self, request_id: &str) -> Option<StreamId> {
        self.history.streams.iter().position(|stream| stream.request_id == request_id)
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
        let now = self.now;
        let compensation = record.is_compensation();
        let came = match ended {
            // Nothing there to undo is what was wanted, where it need not have been there.
            Ended::Answered(404 | 410) if compensation && self.need_not_exist(record) => Came::Success,
            Ended::Unreadable(_) if !compensation && self.needs_answer(record) => Came::Unknown,
            _ => came_of(ended),
        };
        let needs_answer = !compensation && self.needs_answer(record);
        if !self.half(record).is_some_and(|half| half.of_owner().iter().any(|(other, _)| *other == call)) {
            return;
        }
        if let Some(step) = self.step_of(record) {
            step.unreadable = !compensation && matches!(ended, Ended::Unreadable(_));
        }
        let Some(half) = self.half(record) else { return };
        let mut came = came;
        if came == Came::Refusal && !compensation {
            half.refused = true;
            // After an unknown attempt a refusal may only mean that the key is being worked on. Where the answer is
            // needed it is asked for again, until it is refused while that is all that it is sent for; 409 never tells.
            let conflict = matches!(ended, Ended::Answered(409));
            if needs_answer && half.came(Came::Unknown) && (conflict || !half.resolving) {
                came = Came::Unknown;
            }
        }
        half.last_ended_at = now;
        half.put_off = if let Ended::PutOff(_, after_s) = ended { Nanos::from(*after_s) * SECOND } else { 0 };
        if let Some((_, last)) = half.attempts.iter_mut().find(|(other, _)| *other == call) {
            *last = came;
        }
    }

    /// It is not known that what is compensated was done, or that it is still there.
    fn need_not_exist(&self, record: &CallRecord) -> bool {
        let saga = self.sagas.get(record.header("saga-id"));
        let step = saga.map(|saga| saga.step(record.header("saga-step"))).unwrap_or_default();
        let sent_before = step.compensation.before > 0;
        !step.transaction.came(Came::Success) || step.compensation.came(Came::Unknown) || sent_before
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

    fn needs_answer(&self, record: &CallRecord) -> bool {
        let saga = self.sagas.get(record.header("saga-id"));
        saga.and_then(|saga| saga.model.step(record.header("saga-step"))).is_some_and(StepModel::needs_answer)
    }

    pub(super) fn half(&mut self, record: &CallRecord) -> Option<&mut Half> {
        let step = self.step_of(record)?;
        Some(if record.is_compensation() { &mut step.compensation } else { &mut step.transaction })
    }

    pub(super) fn left(&mut self, stream: StreamId) {
        self.left.insert(stream);
        let record = &self.history.streams[stream];
        let Some(vm) = record.vm else { return };
        let had_patience = self.plan.clients[record.client].leaves_after.is_none();
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

    /// How often the process of a proxy has been killed.
    pub(super) fn kills_of(&self, proxy: usize) -> usize {
        self.kills.range((proxy, 0)..(proxy + 1, 0)).count()
    }
}

/// Why a VM has gone whose process was killed.
const KILLED: &str = "killed with its process";

/// From the documentation's table of outcomes.
fn came_of(ended: &Ended) -> Came {
    match ended {
        Ended::Answered(200..=299) | Ended::Unreadable(_) => Came::Success,
        Ended::PutOff(..) | Ended::Answered(429) => Came::NotNow,
        Ended::Answered(408 | 425) => Came::Unknown,
        Ended::Answered(400..=499) => Came::Refusal,
        Ended::Answered(_) | Ended::Proxy(_) | Ended::Broken | Ended::Forgotten => Came::Unknown,
    }
}

/// Time that a run in which nothing is frozen takes between two things that follow from each other.
pub(super) const SLACK: Nanos = 50 * MS;
