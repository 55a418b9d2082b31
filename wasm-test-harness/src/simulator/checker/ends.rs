//! Rules for what clients are told, and for how sagas end.

use serde_json::Value as Json;

use super::calls::first_steps_are_tried_together;
use super::view::{Came, SLACK, SagaView, View};
use super::{Tally, of_saga};
use crate::simulator::history::{StreamId, Told};
use crate::simulator::host::{Nanos, text};
use crate::simulator::journal_view::Kept;
use crate::simulator::model::SagaModel;
use crate::simulator::plan::{ClientPlan, MS};
use crate::simulator::world::Outcome;

/// How much longer than its deadline a saga keeps its client.
const GRACE_MS: u64 = 5_000;
/// How long a request takes to arrive.
const ASKING: Nanos = 100 * MS;
/// With no more latency than this, no saga comes near its deadline unless something goes wrong.
const SWIFT: Nanos = 10 * MS;
/// So many VMs have to end before a saga may be suspected of being the cause.
const ENDS_OF_A_SUSPECT: usize = 3;

impl<'a> View<'a> {
    pub(super) fn told(&mut self, stream: StreamId, told: &'a Told) {
        if self.told.insert(stream, (self.now, told)).is_some() {
            self.wrong(format!("client {} was told twice", self.history.streams[stream].client));
        }
        if let Err(what) = self.check_told(stream, told) {
            let client = self.history.streams[stream].client;
            self.wrong(format!("client {client} was told {}, but {what}", told.summary()));
        }
    }

    fn check_told(&mut self, stream: StreamId, told: &'a Told) -> Result<(), String> {
        let begins = self.model_of(stream).is_some();
        match told {
            Told::Cut(_) => return Ok(()),
            Told::Application if begins => return Err("its request begins a saga".to_owned()),
            Told::Application => return Ok(()),
            Told::Answer { .. } if !begins => return Err("its request begins no saga".to_owned()),
            Told::Answer { .. } => {}
        }
        let request_id = self.history.streams[stream].request_id.as_str();
        let saga = self.saga_of.get(request_id).cloned();
        if let (None, Told::Answer { headers, .. }) = (&saga, told)
            && let Some(other) = text(headers, "saga-id").filter(|id| self.sagas.contains_key(*id))
        {
            return self.check_repeated(stream, other, told);
        }
        let Some((status, id)) = of_saga(told) else {
            return if saga.is_some() {
                Err("its saga has begun".to_owned())
            } else {
                self.check_refusal(stream, told)
            };
        };
        // A saga that skips every step sends nothing, and nobody knows it.
        let Some(known) = saga else { return self.check_empty(stream, status) };
        if known != id {
            return Err(format!("its saga is {known}"));
        }
        let now = self.now;
        let vm = self.history.streams[stream].vm.unwrap_or_default();
        let (frozen, slow) = (self.frozen(vm.0), self.slow.contains(&vm));
        let Some(saga) = self.sagas.get_mut(id) else { return Ok(()) };
        let may_wait = (saga.model.deadline_ms() + GRACE_MS) * MS;
        let waited = now - saga.began_at;
        if waited > may_wait + SLACK + frozen && !slow {
            return Err(format!("waited {} ms", waited / MS));
        }
        match status {
            "completed" => {
                saga.told = Some("completed");
                saga.reply = body_of(told);
                is_completed(saga)?;
                check_reply(saga, id, told)
            }
            "compensated" => {
                saga.told = Some("compensated");
                saga.reply = body_of(told);
                is_compensated(saga)
            }
            "running" | "compensating" if waited + MS < may_wait && !slow => {
                Err(format!("waited only {} ms", waited / MS))
            }
            "running" | "compensating" => Ok(()),
            other => Err(format!("{other:?} is no state of a saga")),
        }
    }

    /// A client that asks again under its key gets the saga of the request before.
    fn check_repeated(&mut self, stream: StreamId, id: &str, told: &'a Told) -> Result<(), String> {
        let Told::Answer { headers, body, .. } = told else { return Ok(()) };
        let record = &self.history.streams[stream];
        let vm = record.vm.unwrap_or_default();
        let (asked, slow) = (self.requested_at.get(&stream).copied().unwrap_or(0), self.slow.contains(&vm));
        let lenient = slow || self.frozen(vm.0) > 0;
        let (plan, now) = (self.plan, self.now);
        // By the definition that is served now.
        let deadline_ms = self.model_of(stream).map_or(0, SagaModel::deadline_ms);
        let may_wait = (deadline_ms + GRACE_MS) * MS;
        let Some(saga) = self.sagas.get_mut(id) else { return Ok(()) };
        let (this, first) = (&plan.clients[record.client], &plan.clients[saga.client]);
        if this.start_key().is_none() || this.start_key() != first.start_key() || this.body != first.body {
            return Err("that is the saga of another request".to_owned());
        }
        let waited = now - asked;
        match text(headers, "saga-status").unwrap_or_default() {
            end @ ("completed" | "compensated") => {
                if text(headers, "idempotency-replayed") != Some("true") {
                    return Err("it does not say that it is told again".to_owned());
                }
                let end = if end == "completed" { "completed" } else { "compensated" };
                if saga.told.is_some_and(|told| told != end) {
                    return Err(format!("before it was told {:?}", saga.told));
                }
                saga.told = Some(end);
                let same = saga.reply.get_or_insert_with(|| body.clone());
                if same != body {
                    return Err("before it was told something else".to_owned());
                }
                if end == "completed" { is_completed(saga) } else { is_compensated(saga) }
            }
            _ if waited + MS < may_wait && !lenient => Err(format!("waited only {} ms", waited / MS)),
            _ if waited > may_wait + SLACK + ASKING && !lenient => Err(format!("waited {} ms", waited / MS)),
            _ => Ok(()),
        }
    }

    /// Refused before it began: only where there is a reason.
    fn check_refusal(&self, stream: StreamId, told: &Told) -> Result<(), String> {
        let Told::Answer { status, headers, .. } = told else { return Ok(()) };
        let client = &self.plan.clients[self.history.streams[stream].client];
        let lacks = !String::from_utf8_lossy(&client.body).contains("\"guest\"");
        let version = self.history.streams[stream].version;
        let limits = &self.plan.configurations[version]["limits"];
        let too_large = limits["max_body"].as_u64().is_some_and(|max| client.body.len() as u64 > max);
        let scarce = limits["max_sagas"].as_u64().is_some_and(|max| max < self.plan.clients.len() as u64);
        let retry_after = headers.iter().any(|(name, _)| name == "retry-after");
        match status {
            400 if lacks => Ok(()),
            413 if too_large => Ok(()),
            503 if scarce && retry_after => Ok(()),
            422 if self.shares_key(client) => Ok(()),
            _ => Err("there is no reason to refuse its request".to_owned()),
        }
    }

    /// Another client asks for something else under the same key.
    fn shares_key(&self, client: &ClientPlan) -> bool {
        let others = self.plan.clients.iter().filter(|other| other.start_key() == client.start_key());
        client.start_key().is_some() && others.filter(|other| other.body != client.body).count() > 0
    }

    /// A saga that sends nothing: because it skips every step, or all before one that cannot be sent.
    fn check_empty(&self, stream: StreamId, status: &str) -> Result<(), String> {
        let client = &self.plan.clients[self.history.streams[stream].client];
        let body: Json = serde_json::from_slice(&client.body).unwrap_or_default();
        let Some(saga) = self.model_of(stream) else { return Ok(()) };
        let skips_all = saga.steps.iter().all(|step| step.is_skipped(&body));
        let skips_first = saga.steps.iter().all(|step| !step.after.is_empty() || step.is_skipped(&body));
        match status {
            "completed" if skips_all => Ok(()),
            "compensated" if skips_first && body.get("guest").is_none() => Ok(()),
            _ => Err("nothing was sent for its saga".to_owned()),
        }
    }

    pub(super) fn end(&mut self, outcome: &Outcome) -> Tally {
        if !outcome.converged {
            self.wrong("the run does not come to an end".to_owned());
        }
        for (vm, root) in &outcome.open_roots {
            self.wrong(format!("root {root} of {vm:?} has a saga in the end"));
        }
        if outcome.illegal_events > 0 {
            self.wrong(format!("{} events did not fit their sagas", outcome.illegal_events));
        }
        for (proxy, kept) in outcome.kept.iter().enumerate() {
            if let Some(what) = self.check_kept(proxy, kept) {
                self.wrong(format!("proxy{proxy}: {what}"));
            }
        }
        for (vm, root) in &outcome.restless {
            self.wrong(format!("root {root} of {vm:?} has timers in the end"));
        }
        self.check_streams();
        let mut tally = Tally::default();
        let ids: Vec<String> = self.sagas.keys().cloned().collect();
        for id in ids {
            let Some(saga) = self.sagas.get(&id).cloned() else { continue };
            if let Err(what) = self.check_saga(&saga, &id, outcome, &mut tally) {
                self.wrong(format!("saga {id}: {what}"));
            }
        }
        tally
    }

    fn check_kept(&self, proxy: usize, kept: &Kept) -> Option<String> {
        if let Some(saga) = kept.open.first() {
            return Some(format!("saga {saga} is left open"));
        }
        if let Some(key) = kept.unreadable.first() {
            return Some(format!("{key} cannot be read"));
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
                self.wrong(format!("client {} waits for ever", record.client));
            }
        }
    }

    fn check_saga(&self, saga: &SagaView<'_>, id: &str, outcome: &Outcome, tally: &mut Tally) -> Result<(), String> {
        let mut held = 0;
        let mut to_undo = Vec::new();
        for step in &saga.model.steps {
            let participant = step.transaction.cluster.as_ref().and_then(|name| outcome.participants.get(name));
            let (stand, cancelled) = participant.map_or((0, 0), |participant| participant.bookings(id, &step.name));
            if stand + cancelled > 1 || saga.step(&step.name).applied > 1 {
                return Err(format!("{} was applied {} times", step.name, stand + cancelled));
            }
            held += stand;
            if stand == 1 && step.compensation.is_some() {
                to_undo.push(step.name.as_str());
            }
        }
        let set_aside = outcome.kept.iter().any(|kept| kept.set_aside.iter().any(|other| other == id));
        let lost = self.is_lost(saga) || set_aside;
        if !lost && saga.epoch == 1 {
            first_steps_are_tried_together(saga)?;
        }
        let asked = saga.model.steps.iter().filter(|step| !saga.skips(step)).count();
        let completed = held == asked && !saga.any_compensation() && saga.told != Some("compensated");
        let compensated = to_undo.is_empty() && saga.told != Some("completed");
        if lost && saga.told.is_none() {
            tally.lost += 1;
            return Ok(());
        }
        if completed {
            tally.completed += 1;
        } else if compensated {
            tally.compensated += 1;
            let swift = self.plan.latency <= SWIFT && self.plan.orders.is_empty();
            if outcome.faults == 0 && swift {
                return Err("nothing went wrong, and it did not complete".to_owned());
            }
        } else {
            return Err(format!("{held} of {asked} steps hold, and {to_undo:?} are not undone (told {:?})", saga.told));
        }
        Ok(())
    }
}

fn body_of(told: &Told) -> Option<Vec<u8>> {
    if let Told::Answer { body, .. } = told { Some(body.clone()) } else { None }
}

fn is_completed(saga: &SagaView<'_>) -> Result<(), String> {
    for step in saga.model.steps.iter().filter(|step| !saga.skips(step)) {
        let view = saga.step(&step.name);
        if view.transaction.last() != Some(Came::Success) {
            return Err(format!("{} has not succeeded", step.name));
        }
        if !view.compensation.attempts.is_empty() {
            return Err(format!("{} was to be compensated", step.name));
        }
    }
    Ok(())
}

fn is_compensated(saga: &SagaView<'_>) -> Result<(), String> {
    for step in &saga.model.steps {
        let view = saga.step(&step.name);
        if view.transaction.came(Came::NotYet) || view.compensation.came(Came::NotYet) {
            return Err(format!("{} is under way", step.name));
        }
        if step.compensation.is_some() && view.may_be_done(step) && !view.is_undone() {
            return Err(format!("{} is not undone", step.name));
        }
    }
    Ok(())
}

/// A reply of a generated saga names the saga and its guest.
fn check_reply(saga: &SagaView<'_>, id: &str, told: &Told) -> Result<(), String> {
    let Told::Answer { body, .. } = told else { return Ok(()) };
    let Ok(body) = serde_json::from_slice::<Json>(body) else {
        return Err("that is no JSON".to_owned());
    };
    let named = body["trip"].as_str().or(body["saga_id"].as_str());
    let guest = body.get("guest").is_none_or(|guest| *guest == saga.body["guest"]);
    if named == Some(id) && guest { Ok(()) } else { Err("that names another saga or guest".to_owned()) }
}
