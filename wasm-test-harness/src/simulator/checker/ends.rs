//! Rules for what clients are told, and for how sagas end.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::calls::{check_cause, first_steps_are_tried_together};
use super::refusals::is_fate_unknown;
use super::step::{Came, Half};
use super::view::{SLACK, SagaView, View};
use super::{Check, Rule, Tally, of_saga};
use crate::simulator::history::{StreamId, Told, VmId};
use crate::simulator::host::{Nanos, text};
use crate::simulator::journal_view::Kept;
use crate::simulator::model::SagaModel;
use crate::simulator::plan::MS;
use crate::simulator::world::Outcome;

/// How much longer than its deadline a saga keeps its client.
const GRACE_MS: u64 = 5_000;
/// How long a request takes to arrive.
const ASKING: Nanos = 100 * MS;
/// With no more latency than this, no saga comes near its deadline unless something goes wrong.
const SWIFT: Nanos = 10 * MS;
/// So many VMs have to end before a saga may be suspected of being the cause.
const ENDS_OF_A_SUSPECT: usize = 3;
/// What a client is told whose saga goes on without it.
const STILL_WORKING: u64 = 504;

impl<'a> View<'a> {
    pub(super) fn told(&mut self, stream: StreamId, told: &'a Told) {
        if self.told.insert(stream, (self.now, told)).is_some() {
            self.wrong(Rule::ToldTwice, format!("client {} was told twice", self.history.streams[stream].client));
        }
        if let Err((rule, what)) = self.check_told(stream, told) {
            let client = self.history.streams[stream].client;
            self.wrong(rule, format!("client {client} was told {}, but {what}", told.summary()));
        }
    }

    fn check_told(&mut self, stream: StreamId, told: &'a Told) -> Check {
        let begins = self.model_of(stream).is_some();
        match told {
            Told::Cut(_) => return Ok(()),
            // It got the headers, and the VM that was to answer in its place has gone.
            Told::Application if begins && self.is_held_by_nobody(stream) && self.has_gone(stream) => return Ok(()),
            Told::Application if begins => return Err((Rule::Told, "its request begins a saga".to_owned())),
            Told::Application => return Ok(()),
            Told::Answer { .. } if !begins => return Err((Rule::Told, "its request begins no saga".to_owned())),
            Told::Answer { .. } if self.is_held_by_nobody(stream) && of_saga(told).is_some() => {
                return Err((Rule::Told, "nobody holds its request".to_owned()));
            }
            Told::Answer { .. } => {}
        }
        let request_id = self.history.streams[stream].request_id.as_str();
        let saga = self.saga_of.get(request_id).cloned();
        if let (Some(known), Some((_, id))) = (&saga, of_saga(told))
            && known == id
            && self.is_sent_again(stream)
        {
            return self.check_repeated(stream, id, told);
        }
        if let (None, Told::Answer { headers, .. }) = (&saga, told)
            && let Some(other) = text(headers, "saga-id").filter(|id| self.sagas.contains_key(*id))
        {
            return self.check_repeated(stream, other, told);
        }
        let Some((status, id)) = of_saga(told) else {
            return if saga.is_some() && !self.is_held_by_nobody(stream) && !is_fate_unknown(told) {
                Err((Rule::Told, "its saga has begun".to_owned()))
            } else {
                self.check_refusal(stream, told)
            };
        };
        // A saga that skips every step sends nothing, and nobody knows it.
        let Some(known) = saga else { return self.check_empty(stream, status) };
        if known != id {
            return Err((Rule::Told, format!("its saga is {known}")));
        }
        let now = self.now;
        let vm = self.history.streams[stream].vm.unwrap_or_default();
        let (frozen, slow) = (self.frozen(vm.0), self.slow.contains(&vm));
        let clock_off = self.sagas.get(id).is_some_and(|saga| self.clock_may_be_off(saga));
        let Some(saga) = self.sagas.get_mut(id) else { return Ok(()) };
        let may_wait = (saga.model.deadline_ms() + GRACE_MS) * MS;
        let waited = now - saga.asked_at;
        let asking = if self.in_etcd { ASKING } else { 0 };
        if waited > may_wait + SLACK + asking + frozen && !slow {
            return Err((Rule::Waits, format!("waited {} ms", waited / MS)));
        }
        saga.tells(status)?;
        match status {
            "completed" => {
                saga.told = Some("completed");
                saga.reply = body_of(told);
                is_completed(saga)?;
                check_status(told, saga.model.status_when_completed())?;
                check_reply(saga, id, told)
            }
            "compensated" => {
                saga.told = Some("compensated");
                saga.reply = body_of(told);
                is_compensated(saga, now)?;
                check_cause(saga, now, clock_off)?;
                check_status(told, saga.model.status_when_compensated())?;
                check_summary(saga.model.has_body_when_compensated(), id, status, told)
            }
            // Who has lost its lease tells its clients so at once.
            "running" | "compensating" if waited + MS < may_wait && !slow && !self.may_miss_etcd => {
                Err((Rule::Waits, format!("waited only {} ms", waited / MS)))
            }
            "running" | "compensating" => {
                check_status(told, STILL_WORKING)?;
                check_summary(false, id, status, told)
            }
            other => Err((Rule::Told, format!("{other:?} is no state of a saga"))),
        }
    }

    fn has_gone(&self, stream: StreamId) -> bool {
        self.history.streams[stream].vm.is_some_and(|vm| self.gone.contains_key(&vm))
    }

    /// Whether the request of a stream has been sent several times, by a proxy in front.
    fn is_sent_again(&self, stream: StreamId) -> bool {
        let request_id = &self.history.streams[stream].request_id;
        self.requested_at.keys().filter(|other| self.history.streams[**other].request_id == *request_id).count() > 1
    }

    /// A client that asks again under its key gets the saga of the request before.
    fn check_repeated(&mut self, stream: StreamId, id: &str, told: &'a Told) -> Check {
        let wrong = |what: &str| Err((Rule::StartKey, what.to_owned()));
        let Told::Answer { headers, body, .. } = told else { return Ok(()) };
        let record = &self.history.streams[stream];
        let vm = record.vm.unwrap_or_default();
        let (asked, slow) = (self.requested_at.get(&stream).copied().unwrap_or(0), self.slow.contains(&vm));
        let lenient = slow || self.may_miss_etcd || self.frozen(vm.0) > 0;
        let (plan, now) = (self.plan, self.now);
        // It was told of before the saga began, which says so.
        let same_request = self.saga_of.get(record.request_id.as_str()).is_some_and(|known| known == id);
        // By the definition that is served now.
        let deadline_ms = self.model_of(stream).map_or(0, SagaModel::deadline_ms);
        let may_wait = (deadline_ms + GRACE_MS) * MS;
        let Some(saga) = self.sagas.get_mut(id) else { return Ok(()) };
        let (this, first) = (&plan.clients[record.client], &plan.clients[saga.client]);
        let same_key = this.start_key().is_some() && this.start_key() == first.start_key() && this.body == first.body;
        if !same_key && !same_request {
            return wrong("that is the saga of another request");
        }
        let waited = now - asked;
        saga.tells(text(headers, "saga-status").unwrap_or_default())?;
        match text(headers, "saga-status").unwrap_or_default() {
            end @ ("completed" | "compensated") => {
                if text(headers, "idempotency-replayed") != Some("true") && !same_request {
                    return wrong("it does not say that it is told again");
                }
                let end = if end == "completed" { "completed" } else { "compensated" };
                if saga.told.is_some_and(|told| told != end) {
                    return wrong("before another end was told");
                }
                saga.told = Some(end);
                let same = saga.reply.get_or_insert_with(|| body.clone());
                if same != body {
                    return wrong("before something else was told");
                }
                if end == "completed" { is_completed(saga) } else { is_compensated(saga, now) }
            }
            _ if waited + MS < may_wait && !lenient => Err((Rule::Waits, format!("waited only {} ms", waited / MS))),
            _ if waited > may_wait + SLACK + ASKING && !lenient => {
                Err((Rule::Waits, format!("waited {} ms", waited / MS)))
            }
            _ => Ok(()),
        }
    }

    /// A saga that sends nothing: because it skips every step, or all before one that cannot be sent.
    fn check_empty(&self, stream: StreamId, status: &str) -> Check {
        let client = &self.plan.clients[self.history.streams[stream].client];
        let body: Json = serde_json::from_slice(&client.body).unwrap_or_default();
        let Some(saga) = self.model_of(stream) else { return Ok(()) };
        // Who asks again is told of a saga that may have begun under another definition.
        let all = |saga: &SagaModel| saga.steps.iter().all(|step| step.is_skipped(&body));
        let asks_again = client.start_key().is_some() || client.front.is_some();
        let began_before = asks_again && self.definitions_for(client).any(all);
        let skips_all = all(saga) || began_before;
        // Its VM may have gone after the begin was recorded and before anything was sent: nobody can know that.
        let vm = self.history.streams[stream].vm.unwrap_or_default();
        let may_be_of = |gone: &VmId| self.in_etcd || gone.0 == vm.0;
        let taken_over = asks_again && self.gone.keys().any(may_be_of);
        let waited = self.now - self.requested_at.get(&stream).copied().unwrap_or(self.now);
        let skips_first = saga.steps.iter().all(|step| !step.after.is_empty() || step.is_skipped(&body));
        match status {
            "completed" if skips_all => Ok(()),
            "compensated" if taken_over => Ok(()),
            // In etcd it waits until it is taken over.
            "running" | "compensating" if taken_over && self.in_etcd => Ok(()),
            // The journal still takes longer than the deadline.
            "running" | "compensating" if self.may_miss_etcd => Ok(()),
            // Until the deadline its VM was not certain that it still had it, or it lost it to another.
            "compensated" if self.may_miss_etcd && waited + MS >= saga.deadline_ms() * MS => Ok(()),
            "compensated" if self.may_miss_etcd && asks_again => Ok(()),
            "compensated" if skips_first && body.get("guest").is_none() => Ok(()),
            _ => Err((Rule::Told, "nothing was sent for its saga".to_owned())),
        }
    }

    pub(super) fn end(&mut self, outcome: &Outcome) -> Tally {
        if !outcome.converged {
            self.wrong(Rule::NotConverged, "the run does not come to an end".to_owned());
        }
        let mut stuck = self.stuck_for_age();
        stuck.extend(outcome.left_to_newer.iter().cloned());
        for what in &outcome.not_counted {
            self.wrong(Rule::LeftAlone, what.clone());
        }
        let may_stay_open = self.plan.key_lifetime().is_some();
        for (vm, root) in outcome.open_roots.iter().filter(|_| !may_stay_open) {
            self.wrong(Rule::Left, format!("root {root} of {vm:?} has a saga in the end"));
        }
        if outcome.illegal_events > 0 {
            self.wrong(Rule::IllegalEvent, format!("{} events did not fit their sagas", outcome.illegal_events));
        }
        for (proxy, kept) in outcome.kept.iter().enumerate() {
            if let Some(what) = self.check_kept(proxy, kept, &stuck) {
                self.wrong(Rule::Left, format!("proxy{proxy}: {what}"));
            }
        }
        // So may be one that was begun and of which nothing was sent.
        let is_seen = |what: &String| self.sagas.keys().any(|saga| what.contains(saga.as_str()));
        let is_stuck =
            |what: &&String| stuck.iter().any(|saga| what.contains(saga.as_str())) || (may_stay_open && !is_seen(what));
        // What cannot be read may refer to any.
        let may_be_used = |what: &&String| !outcome.left_to_newer.is_empty() && what.starts_with("definitions");
        let left = outcome.left_in_etcd.iter().filter(|what| !is_stuck(what) && !may_be_used(what));
        let left: Vec<&String> = left.collect();
        for what in left {
            self.wrong(Rule::Left, format!("etcd: {what}"));
        }
        let ended = self.gone.len();
        if let Some(saga) = outcome.set_aside_in_etcd.first().filter(|_| ended < ENDS_OF_A_SUSPECT) {
            self.wrong(Rule::Left, format!("saga {saga} was set aside, though only {ended} VMs have ended"));
        }
        for (vm, root) in &outcome.restless {
            self.wrong(Rule::Left, format!("root {root} of {vm:?} has timers in the end"));
        }
        self.check_all_awaited();
        self.check_streams();
        let mut tally = Tally::default();
        let ids: Vec<String> = self.sagas.keys().cloned().collect();
        for id in ids {
            let Some(saga) = self.sagas.get(&id).cloned() else { continue };
            if let Err((rule, what)) = self.check_saga(&saga, &id, outcome, &mut tally) {
                self.wrong(rule, format!("saga {id}: {what}"));
            }
        }
        tally
    }

    /// Sagas that stay open: a step may have been done, and is too old to be asked for again.
    fn stuck_for_age(&self) -> BTreeSet<String> {
        let is_too_old = |saga: &SagaView<'_>| saga.model.steps.iter().any(|step| saga.is_too_old(step, self.now));
        self.sagas.iter().filter(|(_, saga)| is_too_old(saga)).map(|(id, _)| id.clone()).collect()
    }

    /// Whether a step stands for ever: it is too old to be asked for again, or comes before one that is.
    fn stands_for_age(&self, saga: &SagaView<'_>, name: &str) -> bool {
        let of = |name: &str| saga.model.step(name).map(|step| saga.is_too_old(step, self.now));
        of(name) == Some(true) || saga.model.successors(name).into_iter().any(|after| of(after) == Some(true))
    }

    fn check_kept(&self, proxy: usize, kept: &Kept, stuck: &BTreeSet<String>) -> Option<String> {
        let is_seen = |saga: &String| self.sagas.contains_key(saga);
        let may_stay_open =
            |saga: &String| stuck.contains(saga) || (self.plan.key_lifetime().is_some() && !is_seen(saga));
        if let Some(saga) = kept.open.iter().find(|saga| !may_stay_open(saga)) {
            return Some(format!("saga {saga} is left open"));
        }
        if let Some(key) = kept.unreadable.first() {
            return Some(format!("{key} cannot be read"));
        }
        if let Some(most) = self.plan.max_retained().filter(|most| kept.retained as u64 > *most) {
            return Some(format!("{} sagas are retained, and {most} may be", kept.retained));
        }
        let ended = self.gone.keys().filter(|vm| vm.0 == proxy).count();
        let saga = kept.set_aside.first().filter(|_| ended < ENDS_OF_A_SUSPECT);
        saga.map(|saga| format!("saga {saga} was set aside, though only {ended} VMs have ended"))
    }

    /// Everybody who stayed was told something, unless the VM of the stream has gone.
    fn check_streams(&mut self) {
        for (stream, record) in self.history.streams.iter().enumerate() {
            let lost = record.vm.is_none_or(|vm| self.gone.contains_key(&vm));
            if !self.told.contains_key(&stream) && !self.left.contains(&stream) && !lost {
                self.wrong(Rule::Waits, format!("client {} waits for ever", record.client));
            }
        }
    }

    fn check_saga(&self, saga: &SagaView<'_>, id: &str, outcome: &Outcome, tally: &mut Tally) -> Check {
        let mut held = 0;
        let mut to_undo = Vec::new();
        for step in &saga.model.steps {
            let participant = step.transaction.cluster.as_ref().and_then(|name| outcome.participants.get(name));
            let (stand, cancelled) = participant.map_or((0, 0), |participant| participant.bookings(id, &step.name));
            if stand + cancelled > 1 || saga.step(&step.name).applied > 1 {
                return Err((Rule::Outcome, format!("{} was applied {} times", step.name, stand + cancelled)));
            }
            held += stand;
            if stand == 1 && step.compensation.is_some() {
                to_undo.push(step.name.as_str());
            }
        }
        let set_aside = outcome.kept.iter().any(|kept| kept.set_aside.iter().any(|other| other == id));
        let set_aside = set_aside || outcome.set_aside_in_etcd.iter().any(|other| other == id);
        let lost = self.history.lost.contains(id) || set_aside;
        // After a jump of the wall clock its owner makes sure of its lease before it sends anything.
        let may_doubt_lease = self.plan.faults.clock_jump > 0.0;
        let is_of_first_owner = !self.gone.contains_key(&saga.vm) && saga.epoch == 1;
        if !lost && is_of_first_owner && !self.may_miss_etcd && !may_doubt_lease {
            first_steps_are_tried_together(saga)?;
        }
        let asked = saga.model.steps.iter().filter(|step| !saga.skips(step)).count();
        let completed = held == asked && !saga.any_compensation() && saga.told != Some("compensated");
        let compensated = to_undo.is_empty() && saga.told != Some("completed");
        if lost && saga.told.is_none() {
            let count = if set_aside { &mut tally.set_aside } else { &mut tally.lost };
            *count += 1;
            return Ok(());
        }
        if outcome.left_to_newer.contains(id) && saga.told.is_none() {
            tally.left_alone += 1;
        } else if completed {
            tally.completed += 1;
        } else if compensated {
            tally.compensated += 1;
            let swift = self.plan.latency <= SWIFT && self.plan.orders.is_empty();
            if outcome.faults == 0 && swift {
                return Err((Rule::Cause, "nothing went wrong, and it did not complete".to_owned()));
            }
        } else if saga.told.is_none() && to_undo.iter().all(|step| self.stands_for_age(saga, step)) {
            tally.stuck += 1;
        } else {
            return Err((
                Rule::Outcome,
                format!("{held} of {asked} steps hold, and {to_undo:?} are not undone (told {:?})", saga.told),
            ));
        }
        Ok(())
    }
}

impl SagaView<'_> {
    /// What is told of a saga never goes back.
    fn tells(&mut self, status: &str) -> Check {
        if status == "completed" && self.told_compensating {
            return Err((Rule::Told, "before it was told that it is being undone".to_owned()));
        }
        self.told_compensating |= status == "compensating";
        Ok(())
    }
}

fn body_of(told: &Told) -> Option<Vec<u8>> {
    if let Told::Answer { body, .. } = told { Some(body.clone()) } else { None }
}

fn is_completed(saga: &SagaView<'_>) -> Check {
    for step in saga.model.steps.iter().filter(|step| !saga.skips(step)) {
        let view = saga.step(&step.name);
        if view.transaction.last() != Some(Came::Success) {
            return Err((Rule::Told, format!("{} has not succeeded", step.name)));
        }
        if !view.compensation.attempts.is_empty() {
            return Err((Rule::Told, format!("{} was to be compensated", step.name)));
        }
    }
    Ok(())
}

fn is_compensated(saga: &SagaView<'_>, now: Nanos) -> Check {
    for step in &saga.model.steps {
        let view = saga.step(&step.name);
        // Of an owner that has gone, or is about to notice, an attempt is over once it has timed out.
        let under_way = |half: &Half| half.attempts.iter().any(|one| one.came == Came::NotYet && now < one.until);
        if under_way(&view.transaction) || under_way(&view.compensation) {
            return Err((Rule::Told, format!("{} is under way", step.name)));
        }
        if step.compensation.is_some() && view.may_be_done() && !view.is_undone() {
            return Err((Rule::Told, format!("{} is not undone", step.name)));
        }
    }
    Ok(())
}

fn check_status(told: &Told, expected: u64) -> Check {
    match told {
        Told::Answer { status, .. } if u64::from(*status) != expected => {
            Err((Rule::Status, format!("its status should be {expected}")))
        }
        _ => Ok(()),
    }
}

/// A body that was not configured names the saga, and where it is.
fn check_summary(configured: bool, id: &str, state: &str, told: &Told) -> Check {
    let Told::Answer { body, .. } = told else { return Ok(()) };
    let body: Json = serde_json::from_slice(body).unwrap_or_default();
    if configured || (body["saga_id"] == id && body["saga_status"] == state) {
        return Ok(());
    }
    Err((Rule::Reply, "its body does not say so of its saga".to_owned()))
}

/// A reply of a generated saga names the saga and its guest.
fn check_reply(saga: &SagaView<'_>, id: &str, told: &Told) -> Check {
    let Told::Answer { body, .. } = told else { return Ok(()) };
    let Ok(body) = serde_json::from_slice::<Json>(body) else {
        return Err((Rule::Reply, "that is no JSON".to_owned()));
    };
    let named = body["trip"].as_str().or(body["saga_id"].as_str());
    let guest = body.get("guest").is_none_or(|guest| *guest == saga.body["guest"]);
    if named == Some(id) && guest { Ok(()) } else { Err((Rule::Reply, "that names another saga or guest".to_owned())) }
}
