//! Rules for when something of a saga becomes durable.

use super::Rule;
use super::step::Came;
use super::view::{SagaView, View};
use crate::simulator::history::CallRecord;
use crate::simulator::host::Nanos;
use crate::simulator::journal_view::Durable;
use crate::simulator::plan::{MS, SECOND};

/// A decision to compensate is written at once. A write may be under way, and another VM may have been quicker.
const AT_ONCE: Nanos = SECOND;
/// What an attempt came to is written a second later at the latest.
const IN_TIME: Nanos = SECOND + 500 * MS;

/// What is to be in the journal of a saga by some time.
#[derive(Debug, Clone)]
pub(super) struct Awaited {
    what: Durable,
    since: Nanos,
    by: Nanos,
}

impl<'a> View<'a> {
    /// From now on that is in the journal of a saga.
    pub(super) fn durable(&mut self, id: &str, what: Durable) {
        self.check_awaited(id);
        let now = self.now;
        let Some(saga) = self.sagas.get_mut(id) else { return };
        match what {
            Durable::Ended => saga.awaited.clear(),
            _ => saga.awaited.retain(|awaited| awaited.what != what),
        }
        saga.durable.entry(what).or_insert(now);
        let saga = saga.clone();
        if what == Durable::Stuck && !self.may_be_stuck(&saga) {
            self.wrong(Rule::Stuck, format!("saga {id} is marked as stuck, and nothing was refused"));
        }
    }

    /// An attempt has ended: what follows from it is to be durable soon.
    pub(super) fn await_what_follows(&mut self, record: &CallRecord) {
        let (now, id) = (self.now, record.header("saga-id"));
        let Some(saga) = self.sagas.get_mut(id) else { return };
        if !saga.has_awaited_failure && saga.failed_step().is_some() {
            saga.has_awaited_failure = true;
            saga.await_durable(Durable::Compensating, now, AT_ONCE);
        }
        let step = saga.model.steps.iter().position(|step| step.name == record.header("saga-step"));
        let came = saga.step(record.header("saga-step")).transaction.last();
        if let (Some(step), Some(Came::Success), false) = (step, came, record.is_compensation()) {
            saga.await_durable(Durable::Settled(step), now, IN_TIME);
        }
    }

    /// Says what should have become durable before now.
    pub(super) fn check_awaited(&mut self, id: &str) {
        let now = self.now;
        let Some(saga) = self.sagas.get_mut(id) else { return };
        let (due, awaited) = std::mem::take(&mut saga.awaited).into_iter().partition(|one: &Awaited| one.by < now);
        saga.awaited = awaited;
        let (vm, began_in) = (saga.vm, saga.epoch);
        let hindered = self.slow.contains(&vm) || self.may_miss_etcd || self.frozen(vm.0) > 0 || began_in > 1;
        for Awaited { what, since, by } in due {
            let gone = self.gone_at.get(&vm).is_some_and(|at| *at <= by) || self.lost_a_root.contains(&vm);
            if !hindered && !gone {
                let waited = (now - since) / MS;
                self.wrong(Rule::Journaled, format!("saga {id}: {what:?} is not durable after {waited} ms"));
            }
        }
    }

    pub(super) fn check_all_awaited(&mut self) {
        let ids: Vec<String> = self.sagas.keys().cloned().collect();
        for id in ids {
            self.check_awaited(&id);
        }
    }

    /// A compensation was refused, or a transaction is or will be too old to be sent again, or a record is too large.
    /// Wall clocks say how long something has lasted to another owner.
    fn may_be_stuck(&self, saga: &SagaView<'_>) -> bool {
        let refused = saga.steps.values().any(|step| step.compensation.came(Came::Refusal));
        let found_nothing = saga.epoch > 1 && saga.steps.values().any(|step| step.compensation.was_not_found());
        let faults = &self.plan.faults;
        let too_large = faults.large_answers > 0.0;
        refused || found_nothing || self.plan.key_lifetime().is_some() || too_large || self.clock_may_be_off(saga)
    }
}

impl SagaView<'_> {
    fn await_durable(&mut self, what: Durable, since: Nanos, within: Nanos) {
        if !self.durable.contains_key(&what) && !self.durable.contains_key(&Durable::Ended) {
            self.awaited.push(Awaited { what, since, by: since + within });
        }
    }
}
