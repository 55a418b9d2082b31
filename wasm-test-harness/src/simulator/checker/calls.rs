//! Rules for what leaves a proxy.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::refusals::is_fate_unknown;
use super::step::{Attempt, Came, Half, StepView};
use super::view::{SLACK, SagaView, View};
use super::{Check, Rule, of_saga};
use crate::simulator::history::{CallId, CallRecord, Told};
use crate::simulator::host::{Nanos, Status};
use crate::simulator::model::StepModel;
use crate::simulator::plan::{ClientPlan, MS};

impl<'a> View<'a> {
    pub(super) fn called(&mut self, call: CallId) {
        let record = &self.history.calls[call];
        if let Err((rule, what)) = self.check_call(call, record) {
            let name = self.history.name(call);
            self.wrong(rule, format!("{name}: {what}"));
        }
        let now = self.now;
        if let Some(saga) = self.sagas.get_mut(record.header("saga-id")) {
            saga.failed_before |= saga.may_have_failed(now);
        }
        let number = record.header("saga-attempt").parse().unwrap_or(0);
        let until = now + Nanos::from(record.callout.timeout_ms) * MS;
        if let Some(half) = self.half(record) {
            half.first_tried_at.get_or_insert(now);
            half.attempts.push(Attempt { call, came: Came::NotYet, number, sent_at: now, until });
        }
    }

    /// A call that its proxy has refused was tried, and is no attempt.
    pub(super) fn call_refused(&mut self, call: CallId, status: Status) {
        let record = &self.history.calls[call];
        if let Err((rule, what)) = self.know(record) {
            self.wrong(rule, what);
        }
        let now = self.now;
        if let Some(half) = self.half(record) {
            half.first_tried_at.get_or_insert(now);
            half.last_ended_at = now;
            half.put_off = 0;
            half.refused |= status == Status::BadArgument;
        }
        self.check_awaited(record.header("saga-id"));
    }

    fn check_call(&mut self, call: CallId, record: &'a CallRecord) -> Check {
        self.know(record)?;
        self.check_owner(record)?;
        let saga = self.sagas.get(record.header("saga-id")).ok_or((Rule::Envelope, "of no saga".to_owned()))?;
        let step =
            saga.model.step(record.header("saga-step")).ok_or((Rule::Envelope, "of no step of its saga".to_owned()))?;
        check_headers(saga, step, record)?;
        self.check_depth_and_deadline(saga, step, record)?;
        let view = saga.step(&step.name);
        let half = if record.is_compensation() { &view.compensation } else { &view.transaction };
        self.check_attempt(step, half, record)?;
        if record.is_compensation() {
            check_compensation(saga, step, &view, self.now)?;
            check_cause(saga, self.now, self.clock_may_be_off(saga))
        } else {
            self.check_transaction(saga, step, &view, call)
        }
    }

    /// Enters the saga of a call on its first.
    fn know(&mut self, record: &'a CallRecord) -> Check {
        let id = record.header("saga-id");
        if self.sagas.contains_key(id) {
            return Ok(());
        }
        let request_id = record.header("x-request-id");
        let stream = self
            .history
            .stream_of_request(record)
            .ok_or((Rule::Envelope, "the request id is of no request".to_owned()))?;
        let model = self.model_of(stream).ok_or((Rule::Envelope, "its request begins no saga".to_owned()))?;
        let before = self.saga_of.insert(record.header("x-request-id"), id.to_owned());
        let is_forgotten = |other: &String| self.is_forgotten(other, record);
        if let Some(other) = before.filter(|other| !is_forgotten(other)) {
            return Err((Rule::StartKey, format!("its request has already begun the saga {other}")));
        }
        if depth_of(&self.plan.clients[self.history.streams[stream].client]) >= DEEPEST {
            return Err((Rule::Depth, "its request comes from a call that is as deep as may be".to_owned()));
        }
        let client = &self.plan.clients[self.history.streams[stream].client];
        // In etcd the begin takes its time; and what came before the first call of a later owner nobody has seen.
        let seen_late = self.in_etcd || record.header("saga-epoch") != "1";
        let asked_at = self.history.streams[stream].whole_at.filter(|_| seen_late).unwrap_or(record.at);
        let saga = SagaView {
            model,
            body: serde_json::from_slice(&client.body).unwrap_or(Json::Null),
            vm: record.vm,
            epoch: record.header("saga-epoch").parse().unwrap_or(0),
            took_over_at: 0,
            client: self.history.streams[stream].client,
            began_at: record.at,
            asked_at,
            steps: model.steps.iter().map(|step| (step.name.as_str(), StepView::default())).collect(),
            // What came before its first call nobody has seen.
            failed_before: record.header("saga-epoch") != "1",
            told: None,
            reply: None,
            told_compensating: false,
            may_miss_etcd: self.may_miss_etcd,
            key_lifetime: self.plan.key_lifetime(),
            durable: BTreeMap::new(),
            awaited: Vec::new(),
            has_awaited_failure: false,
        };
        self.sagas.insert(id.to_owned(), saga);
        self.check_told_before(request_id)?;
        // In etcd they outlive the process, and count for all.
        let of = if self.in_etcd { (0, 0) } else { (record.vm.0, self.kills_of(record.vm.0)) };
        let is_forgotten = !self.in_etcd && self.plan.max_retained().is_some();
        if let Some(key) = client.start_key().filter(|_| !is_forgotten)
            && let Some(other) = self.keys.insert((of.0, of.1, &client.path, key), id.to_owned())
        {
            return Err((Rule::StartKey, format!("under its start key the saga {other} has begun before")));
        }
        Ok(())
    }

    /// Where nobody can know any more that a request has begun a saga before.
    fn is_forgotten(&self, saga: &str, record: &CallRecord) -> bool {
        let began = self.sagas.get(saga).map(|saga| (saga.vm.0, saga.began_at));
        let lost = |(proxy, at): (usize, Nanos)| proxy != record.vm.0 || self.was_killed_since(proxy, at);
        !self.in_etcd && (self.plan.max_retained().is_some() || began.is_none_or(lost))
    }

    /// Whose client was told that nothing was sent, or an end, before anything was. A proxy in front may have sent the
    /// request several times.
    fn check_told_before(&self, request_id: &str) -> Check {
        let requested = self.requested_at.keys().filter(|id| self.history.streams[**id].request_id == request_id);
        let mut told = Vec::new();
        for stream in requested {
            match self.told.get(stream) {
                Some((_, one @ Told::Answer { .. })) if !leaves_open(one) => told.push(one.summary()),
                _ => return Ok(()),
            }
        }
        match told.first() {
            Some(told) => Err((Rule::Told, format!("its client was told {told} before"))),
            None => Ok(()),
        }
    }

    /// A call of a higher epoch takes its saga over, from an owner that is dead or seemed so.
    fn check_owner(&mut self, record: &'a CallRecord) -> Check {
        let wrong = |what: &str| Err((Rule::Owner, what.to_owned()));
        let Ok(epoch) = record.header("saga-epoch").parse::<u32>() else { return wrong("saga-epoch is no number") };
        let (gone, slow, lost_a_root) = (&self.gone, &self.slow, &self.lost_a_root);
        let (gone_at, now) = (&self.gone_at, self.now);
        let Some(saga) = self.sagas.get_mut(record.header("saga-id")) else { return wrong("of no saga") };
        if epoch < saga.epoch {
            return Err((Rule::Owner, format!("its saga is in epoch {}", saga.epoch)));
        }
        if epoch == saga.epoch {
            return if record.vm == saga.vm { Ok(()) } else { wrong("sent by a VM that does not own the saga") };
        }
        let owner = saga.vm;
        saga.taken_over(record.vm, epoch, gone_at.get(&owner).copied(), now);
        // Whether the owner had lost it is seen in etcd.
        if self.in_etcd {
            return Ok(());
        }
        if owner.0 != record.vm.0 {
            return wrong("sent by another process than its saga's");
        }
        // Between two epochs there may have been an owner that sent nothing.
        if owner != record.vm && !gone.contains_key(&owner) && !slow.contains(&owner) && !lost_a_root.contains(&owner) {
            return wrong("taken over from a VM that lives");
        }
        Ok(())
    }

    fn check_attempt(&self, step: &StepModel, half: &Half, record: &CallRecord) -> Check {
        let epoch = record.header("saga-epoch").parse().unwrap_or(1);
        let number: usize = record.header("saga-attempt").parse().unwrap_or(0);
        // An owner goes on from what it finds in the journal, which need not be all, and each before it may have been about
        // to send one more.
        let (least, most) = match half.of_owner().last() {
            Some(last) => (last.number + 1, last.number + 1),
            None => (1, half.before + epoch),
        };
        if !(least..=most).contains(&number) {
            return Err((Rule::Attempts, format!("is attempt {most}")));
        }
        if half.came(Came::NotYet) {
            return Err((Rule::UnderWay, "another attempt is under way".to_owned()));
        }
        let call = if record.is_compensation() { step.compensation.as_ref() } else { Some(&step.transaction) };
        let longest = call.map_or(0, |call| call.max_interval_ms()) * MS;
        let put_off = half.put_off.min(longest);
        // The filter counts whole milliseconds.
        if self.now + MS < half.last_ended_at + put_off {
            return Err((Rule::Pace, format!("comes sooner than {} ms after it was put off", put_off / MS)));
        }
        let slow = self.slow.contains(&record.vm);
        // What an owner before may have had in flight is awaited before the step is asked again what became of it.
        let waits_from = half.last_ended_at.max(half.inherited_until);
        let late = waits_from + longest + SLACK + self.frozen(record.vm.0);
        // It waits as long as the VM does not know that the saga is still its own.
        if half.last_ended_at > 0 && self.now > late && !half.of_owner().is_empty() && !slow && !self.may_miss_etcd {
            return Err((
                Rule::Pace,
                format!("comes {} ms after the attempt before", (self.now - half.last_ended_at) / MS),
            ));
        }
        Ok(())
    }

    fn check_transaction(&self, saga: &SagaView<'_>, step: &StepModel, view: &StepView, call: CallId) -> Check {
        let half = &view.transaction;
        if !view.compensation.attempts.is_empty() {
            return Err((Rule::Final, "its compensation has been sent before".to_owned()));
        }
        if saga.skips(step) {
            return Err((Rule::Forward, "its condition is false".to_owned()));
        }
        for before in step.after.iter().filter_map(|name| saga.model.step(name)) {
            if !saga.lets_pass(before) {
                return Err((Rule::Forward, format!("{} has not succeeded", before.name)));
            }
        }
        if half.owner_saw(Came::Success) {
            return Err((Rule::Final, "it has succeeded before".to_owned()));
        }
        if half.owner_saw(Came::Refusal) {
            return Err((Rule::Final, "it was refused before".to_owned()));
        }
        if let (Some(lifetime), Some(first)) = (self.plan.key_lifetime(), half.first_sent_at())
            && self.now > first + lifetime + MS
            && !self.clock_may_be_off(saga)
        {
            return Err((Rule::KeyLifetime, format!("its first attempt was {} ms ago", (self.now - first) / MS)));
        }
        let over = saga.may_have_failed(self.now) || saga.is_overdue(self.now);
        // An owner before this one may have sent what nobody saw.
        let may_be_done = half.came(Came::Unknown) || saga.epoch > 1;
        if step.needs_answer() && may_be_done && over {
            return Ok(());
        }
        if saga.has_failed() {
            let failed = saga.failed_step().unwrap_or("no step");
            return Err((Rule::Final, format!("the saga is being compensated: {failed} has failed")));
        }
        let known_before = if self.may_miss_etcd { 0 } else { half.before.saturating_sub(half.forgotten) };
        if known_before + half.of_owner().len() >= step.max_attempts() as usize {
            return Err((Rule::Attempts, format!("{} attempts are allowed", step.max_attempts())));
        }
        let deadline = saga.began_at + saga.model.deadline_ms() * MS;
        // The filter counts whole milliseconds. The deadline is by wall clock, and another VM's may have jumped.
        if self.history.calls[call].at > deadline + MS && !self.clock_may_be_off(saga) {
            return Err((Rule::Deadline, "the deadline has passed".to_owned()));
        }
        Ok(())
    }
}

/// The depth at which no saga begins any more.
pub(super) const DEEPEST: u32 = 8;

/// How deep the call is in which a client's request was made; 0: it is of no saga.
pub(super) fn depth_of(client: &ClientPlan) -> u32 {
    let line = client.headers.iter().find(|(name, _)| name == "saga-depth");
    line.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// Whether a client that was told this does not know whether there is a saga, or that one goes on.
fn leaves_open(told: &Told) -> bool {
    is_fate_unknown(told) || matches!(of_saga(told), Some(("running" | "compensating", _)))
}

impl View<'_> {
    /// A call says how deep its saga is, and how long its answer is of use: a transaction's until the deadline of its
    /// saga, all others' as long as the attempt may take.
    fn check_depth_and_deadline(&self, saga: &SagaView<'_>, step: &StepModel, record: &CallRecord) -> Check {
        // A release whose records were of another version did not know of these.
        let versions = self.plan.versions.as_ref().filter(|versions| versions.difference.no_way_back);
        if versions.is_some() && !self.history.newer.contains(&record.vm) {
            return Ok(());
        }
        let depth = depth_of(&self.plan.clients[saga.client]) + 1;
        if record.header("saga-depth") != depth.to_string() {
            return Err((Rule::Depth, format!("saga-depth is {:?}, expected {depth}", record.header("saga-depth"))));
        }
        let wrong = |expected: String| {
            let found = record.header("saga-deadline");
            Err((Rule::Envelope, format!("saga-deadline is {found:?}, expected {expected}")))
        };
        let Ok(found) = record.header("saga-deadline").parse::<u64>() else {
            return wrong("whole milliseconds".to_owned());
        };
        let over = saga.may_have_failed(self.now) || saga.is_overdue(self.now);
        let timeout_ms = step.timeout_ms(record.is_compensation());
        if found == timeout_ms && (record.is_compensation() || over) {
            return Ok(());
        }
        let deadline_ms = saga.model.deadline_ms();
        let left = |since: Nanos| (since / MS + deadline_ms).saturating_sub(self.now / MS);
        let (least, most) = (left(saga.asked_at).saturating_sub(2), left(saga.began_at) + 2);
        let fits = (least..=most.min(deadline_ms)).contains(&found) || self.clock_may_be_off(saga);
        if record.is_compensation() || !fits { wrong(format!("{least} to {most}, or {timeout_ms}")) } else { Ok(()) }
    }
}

fn check_headers(saga: &SagaView<'_>, step: &StepModel, record: &CallRecord) -> Check {
    let (half, call) = match &step.compensation {
        Some(compensation) if record.is_compensation() => ("c", compensation),
        None if record.is_compensation() => return Err((Rule::Undo, "there is nothing to undo it".to_owned())),
        _ => ("t", &step.transaction),
    };
    let cluster = call.cluster.as_ref().or(step.transaction.cluster.as_ref());
    let key = format!("{}.{}.{half}", record.header("saga-id"), step.name);
    let action = if half == "c" { "compensation" } else { "transaction" };
    let expected =
        [("saga-name", saga.model.name.as_str()), ("saga-action", action), ("idempotency-key", key.as_str())];
    for (header, expected) in expected {
        if record.header(header) != expected {
            return Err((Rule::Envelope, format!("{header} is {:?}, expected {expected:?}", record.header(header))));
        }
    }
    let timeout_ms = step.timeout_ms(record.is_compensation());
    if u64::from(record.callout.timeout_ms) != timeout_ms {
        let found = record.callout.timeout_ms;
        return Err((Rule::Timeout, format!("may take {found} ms, expected {timeout_ms} ms")));
    }
    if Some(&record.callout.cluster) != cluster {
        return Err((Rule::Envelope, format!("goes to {:?}, expected {cluster:?}", record.callout.cluster)));
    }
    if half == "t" {
        let body: Json = serde_json::from_slice(&record.callout.body).unwrap_or(Json::Null);
        if body["guest"] != saga.body["guest"] {
            return Err((
                Rule::Envelope,
                format!("is for the guest {}, expected {}", body["guest"], saga.body["guest"]),
            ));
        }
    }
    Ok(())
}

fn check_compensation(saga: &SagaView<'_>, step: &StepModel, view: &StepView, now: Nanos) -> Check {
    // The filter counts whole milliseconds.
    let is_inherited = |half: &Half| now + 2 * MS < half.inherited_until;
    if view.transaction.came(Came::NotYet) {
        return Err((Rule::UnderWay, "an attempt of its transaction is under way".to_owned()));
    }
    if is_inherited(&view.transaction) {
        return Err((Rule::UnderWay, "an attempt of the owner before may be under way".to_owned()));
    }
    if !view.may_be_done() && saga.epoch == 1 {
        return Err((Rule::Undo, "its transaction was certainly not done".to_owned()));
    }
    if step.needs_answer() && !view.transaction.came(Came::Success) {
        return Err((Rule::Undo, "its transaction has not answered what it needs".to_owned()));
    }
    if view.compensation.of_owner().last().is_some_and(|last| last.came == Came::Success) {
        return Err((Rule::Undo, "it has succeeded before".to_owned()));
    }
    if saga.told == Some("completed") {
        return Err((Rule::Told, "its client was told that the saga has completed".to_owned()));
    }
    for name in saga.model.successors(&step.name) {
        let Some(after) = saga.model.step(name) else { continue };
        let view = saga.step(name);
        if view.transaction.came(Came::NotYet) {
            return Err((Rule::UnderWay, format!("{name}, which comes after it, is under way")));
        }
        // Unless this owner has learnt what became of it.
        let settled =
            matches!(view.transaction.of_owner().last().map(|last| last.came), Some(came) if came != Came::Unknown);
        if is_inherited(&view.transaction) && !settled {
            return Err((Rule::UnderWay, format!("{name}, which comes after it, may be under way")));
        }
        if after.compensation.is_some() && view.may_be_done() && !view.is_undone() {
            return Err((Rule::UndoOrder, format!("{name}, which comes after it, is not undone")));
        }
    }
    Ok(())
}

/// A saga compensates because a step failed, or because time is up.
pub(super) fn check_cause(saga: &SagaView<'_>, now: Nanos, clock_off: bool) -> Check {
    if saga.may_have_failed(now) || saga.is_overdue(now) || clock_off {
        return Ok(());
    }
    Err((Rule::Cause, "no step of its saga has failed, and its deadline has not passed".to_owned()))
}

/// The steps that need not wait for any other are tried at once.
pub(super) fn first_steps_are_tried_together(saga: &SagaView<'_>) -> Check {
    let began: Nanos = saga.began_at;
    for step in saga.model.steps.iter().filter(|step| step.after.is_empty() && !saga.skips(step)) {
        if saga.step(&step.name).transaction.first_tried_at != Some(began) {
            return Err((Rule::Together, format!("{} waits for nothing, and was not sent at the begin", step.name)));
        }
    }
    Ok(())
}
