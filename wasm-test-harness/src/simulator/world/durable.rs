//! What the journal must have of a saga before that is done which follows from it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::World;
use crate::simulator::checker::of_saga;
use crate::simulator::history::{CallId, CallRecord, Happening, StreamId, Told, VmId};
use crate::simulator::host::Nanos;
use crate::simulator::journal_view::{self, Durable, Stand};
use crate::simulator::process::Written;

/// What was seen in the journal before.
#[derive(Default)]
pub(super) struct Seen {
    /// By saga, with when it was seen first.
    durable: BTreeMap<String, BTreeMap<Durable, Nanos>>,
    /// The saga in each slot of shared data, by proxy and key.
    slots: BTreeMap<(usize, Vec<u8>), String>,
}

impl World<'_> {
    /// A VM may have written in shared data.
    pub(super) fn look_at_shared_data(&mut self, vm: VmId) {
        let proxy = vm.0;
        let written = self.proxies[proxy].process.borrow_mut().take_written();
        for Written { key, before, value } in written {
            self.check_leaves_slot_alone(vm, &key, &before);
            let found = journal_view::in_slot(&value);
            let slot = (proxy, key);
            if let Some(before) = self.seen.slots.remove(&slot)
                && found.as_ref().is_none_or(|(saga, _)| *saga != before)
            {
                self.is_durable(&before, [Durable::Ended].into());
            }
            if let Some((saga, records)) = found {
                self.seen.slots.insert(slot, saga.clone());
                self.is_durable(&saga, journal_view::durable(&records));
            }
        }
    }

    /// Something of a saga was written in etcd.
    pub(super) fn look_at_etcd(&mut self, saga: &str) {
        let is_open = journal_view::in_etcd(&self.journal.etcd).contains_key(saga);
        let records = journal_view::records_in_etcd(&self.journal.etcd, saga).filter(|_| is_open);
        let durable = records.map_or([Durable::Ended].into(), |(_, _, records)| journal_view::durable(&records));
        self.is_durable(saga, durable);
    }

    fn is_durable(&mut self, saga: &str, durable: BTreeSet<Durable>) {
        let now = self.clock.now();
        let seen = self.seen.durable.entry(saga.to_owned()).or_default();
        let new: Vec<Durable> = durable.into_iter().filter(|one| !seen.contains_key(one)).collect();
        seen.extend(new.iter().map(|one| (*one, now)));
        for one in new {
            self.tell(Happening::Durable(saga.to_owned(), one));
        }
    }

    /// Nothing is sent before the records are durable that say so and why, nor by who does not own the saga.
    pub(super) fn check_journaled(&mut self, call: CallId) {
        if !self.plan.checks_journal {
            return;
        }
        let record = &self.history.calls[call];
        let saga = record.header("saga-id");
        let kept = if self.plan.in_etcd() {
            self.journal.etcd.expire(self.clock.now());
            journal_view::records_in_etcd(&self.journal.etcd, saga)
        } else {
            record.callout.journaled.clone()
        };
        let epoch = record.header("saga-epoch");
        let sender = (record.vm, record.callout.context);
        let what = match kept {
            None => Some("the journal has no such saga".to_owned()),
            Some((owner, ..)) if self.plan.in_etcd() && self.journal.root_named(&owner) != Some(sender) => {
                Some(format!("the journal has it as {owner}'s"))
            }
            Some((_, found, _)) if found.to_string() != epoch => Some(format!("the journal has it in epoch {found}")),
            Some((_, _, records)) => self.what_is_missing(record, &records),
        };
        if let Some(what) = what {
            self.tell(Happening::NotJournaled(call, what));
        }
    }

    /// Of a call: that it is about to be sent. Of a transaction also that those before it have succeeded; of a
    /// compensation also that the saga compensates, and what came of its transaction.
    fn what_is_missing(&self, record: &CallRecord, records: &[Json]) -> Option<String> {
        let says = |change: &str, step: &str| journal_view::says(records, change, self.plan.step_index(record, step));
        let succeeded = |step: &str| journal_view::says_success(records, self.plan.step_index(record, step));
        let step = record.header("saga-step");
        let lacks = |what: String| Some(format!("its records do not say that {what}"));
        if !record.is_compensation() {
            let before = self.steps_before(record);
            let unsettled = before.iter().find(|before| !succeeded(before) && !says("skipped", before));
            return match unsettled {
                _ if !says("in_flight", step) => lacks(format!("{step} is in_flight")),
                Some(before) => lacks(format!("{before}, which comes before it, has succeeded")),
                None => None,
            };
        }
        if !says("step_compensating", step) {
            return lacks(format!("{step} is step_compensating"));
        }
        if !journal_view::says_compensating(records) {
            return lacks("the saga compensates".to_owned());
        }
        match says("settled", step) {
            false => lacks(format!("{step} has settled")),
            // It may have settled as unknown before.
            true if self.reads_its_answer(record) && !succeeded(step) => lacks(format!("{step} has succeeded")),
            true => None,
        }
    }

    /// Whether the compensation of the step of a call cannot be rendered without what the participant has answered.
    fn reads_its_answer(&self, record: &CallRecord) -> bool {
        self.step_of(record)["compensation"].to_string().contains("transaction.response")
    }

    /// The steps that the step of a call names in `after`.
    fn steps_before(&self, record: &CallRecord) -> Vec<String> {
        let step = self.step_of(record);
        let after = step["after"].as_array().into_iter().flatten();
        after.filter_map(Json::as_str).map(str::to_owned).collect()
    }

    /// The step of a call, in the configuration under which its saga began.
    fn step_of(&self, record: &CallRecord) -> Json {
        let first = self.history.calls.iter().find(|call| call.header("saga-id") == record.header("saga-id"));
        let begun = self.history.stream_of_request(first.unwrap_or(record));
        let Some(stream) = begun.map(|stream| &self.history.streams[stream]) else { return Json::Null };
        let named = |list: &Json, name: &str| {
            let found = list.as_array().and_then(|list| list.iter().find(|one| one["name"] == name));
            found.cloned().unwrap_or_default()
        };
        let saga = named(&self.plan.configurations[stream.version]["sagas"], record.header("saga-name"));
        named(&saga["steps"], record.header("saga-step"))
    }

    /// What is told of a saga that has not ended is what its last acknowledged record says.
    fn check_told_of_open(&mut self, stream: StreamId, saga: &str, status: &str) {
        let record = &self.history.streams[stream];
        let (Some(vm), true) = (record.vm, self.plan.checks_journal) else { return };
        let records = if self.plan.in_etcd() {
            journal_view::records_in_etcd(&self.journal.etcd, saga)
        } else {
            self.proxies[vm.0].process.borrow().records(saga)
        };
        let stand = if self.plan.in_etcd() {
            journal_view::stand_in_etcd(&self.journal.etcd, saga)
        } else {
            self.proxies[vm.0].process.borrow().stand(saga)
        };
        let (Some((_, epoch, records)), Stand::Open) = (records, stand) else { return };
        let compensates = journal_view::says_compensating(&records);
        // Only its first owner, whose journal answers at once, knows all that is in it.
        let begun_here = self.history.calls.iter().any(|call| call.header("saga-id") == saga && call.vm == vm);
        let since = self.seen.durable.get(saga).and_then(|durable| durable.get(&Durable::Compensating));
        let now = self.clock.now();
        let knows_all = !self.plan.in_etcd() && epoch == 1 && begun_here && since.is_some_and(|since| *since < now);
        let what = match status {
            "compensating" if !compensates => "that it is being undone, of which the journal says nothing",
            "running" if compensates && knows_all => "that it is running, but the journal says that it is being undone",
            _ => return,
        };
        self.tell(Happening::EndNotJournaled(stream, what.to_owned()));
    }

    /// Nobody is told of a saga that etcd was never asked to begin, nor that it goes on elsewhere where it does not.
    fn check_goes_on(&mut self, stream: StreamId, saga: &str, told: &Told) {
        let (Some(vm), true) = (self.history.streams[stream].vm, self.plan.in_etcd()) else { return };
        if !self.journal.was_asked_for(saga) {
            let what = format!("that the saga {saga} goes on, but etcd was never asked for it");
            return self.tell(Happening::EndNotJournaled(stream, what));
        }
        let Told::Answer { body, .. } = told else { return };
        let owner = journal_view::records_in_etcd(&self.journal.etcd, saga).map(|(owner, ..)| owner);
        let lives = owner.filter(|owner| journal_view::living_in_etcd(&self.journal.etcd).contains(owner));
        let is_its = lives.and_then(|owner| self.journal.root_named(&owner)).is_some_and(|(owner, _)| owner == vm);
        if is_its && String::from_utf8_lossy(body).contains("goes-on-elsewhere") {
            let what = format!("that the saga {saga} goes on elsewhere, but its VM still has it");
            self.tell(Happening::EndNotJournaled(stream, what));
        }
    }

    /// No client is told an end before it is durable: under the start key with the answer, or else by the saga's absence.
    pub(super) fn check_end_journaled(&mut self, stream: StreamId, told: &Told) {
        let (Some((end, saga)), Told::Answer { status, .. }) = (of_saga(told), told) else { return };
        if !["completed", "compensated"].contains(&end) {
            let (end, saga) = (end.to_owned(), saga.to_owned());
            self.check_told_of_open(stream, &saga, &end);
            return self.check_goes_on(stream, &saga, told);
        }
        let record = &self.history.streams[stream];
        let (Some(vm), true) = (record.vm, self.plan.checks_journal) else { return };
        let has_key = self.plan.clients[record.client].start_key().is_some();
        let stand = if self.plan.in_etcd() {
            self.journal.etcd.expire(self.clock.now());
            journal_view::stand_in_etcd(&self.journal.etcd, saga)
        } else {
            self.proxies[vm.0].process.borrow().stand(saga)
        };
        let what = match stand {
            Stand::Open => format!("{end}, but the journal does not say that its saga has ended"),
            // With few to be retained a VM may have no room for one.
            Stand::Gone if has_key && self.plan.max_retained().is_none() => {
                format!("{end}, but the journal does not have the answer for those who ask again")
            }
            Stand::Ended(kept) if kept != u64::from(*status) => {
                format!("{end} with {status}, but the journal has an answer with {kept}")
            }
            Stand::Gone | Stand::Ended(_) => return,
        };
        self.tell(Happening::EndNotJournaled(stream, what));
    }
}
