//! What the journal must have of a saga before that is done which follows from it.

use serde_json::Value as Json;

use super::World;
use crate::simulator::checker::of_saga;
use crate::simulator::history::{CallId, CallRecord, Happening, StreamId, Told};
use crate::simulator::journal_view::{self, Stand};

impl World<'_> {
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
        if says("settled", step) { None } else { lacks(format!("{step} has settled")) }
    }

    /// The steps that the step of a call names in `after`, in the configuration under which its saga began.
    fn steps_before(&self, record: &CallRecord) -> Vec<String> {
        let begun_by = |request_id: &str| self.history.streams.iter().find(|stream| stream.request_id == request_id);
        let Some(stream) = begun_by(record.header("x-request-id")) else { return Vec::new() };
        let named = |list: &Json, name: &str| {
            let found = list.as_array().and_then(|list| list.iter().find(|one| one["name"] == name));
            found.cloned().unwrap_or_default()
        };
        let saga = named(&self.plan.configurations[stream.version]["sagas"], record.header("saga-name"));
        let step = named(&saga["steps"], record.header("saga-step"));
        let after = step["after"].as_array().into_iter().flatten();
        after.filter_map(Json::as_str).map(str::to_owned).collect()
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
            return self.check_goes_on(stream, saga, told);
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
