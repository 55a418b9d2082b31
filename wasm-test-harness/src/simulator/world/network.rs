//! Calls on their way to participants and back, and what goes wrong there.

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::json;

use super::{Event, Known, World};
use crate::participant::{Fault, FaultKind};
use crate::simulator::history::{CallId, CallRecord, Deed, Ended, Happening};
use crate::simulator::host::{CalloutAnswer, Headers, Nanos};
use crate::simulator::participants::{Answer, Participant, step};
use crate::simulator::plan::{MS, SECOND};

/// How long a call or a copy of it may be on its way at most.
const LATEST: Nanos = 60 * SECOND;
/// Answers of this size and more are more than Envoy keeps.
const TOO_BIG_MIB: u64 = 40;
/// For how long a participant works on a call at most.
const LONGEST_WORK: Nanos = 15 * SECOND;
/// Envoy adds it to what has come from an upstream, and to nothing that it says itself.
pub(super) const UPSTREAM_TIME: &str = "x-envoy-upstream-service-time";

impl World<'_> {
    /// A call leaves its proxy.
    pub(super) fn send(&mut self, call: CallId) {
        let callout = &self.history.calls[call].callout;
        let timeout = Nanos::from(callout.timeout_ms) * MS;
        let Some(index) = self.participant_of(call) else { return };
        if timeout > 0 {
            self.schedule(timeout, Event::TimesOut(call));
        }
        let record = &self.history.calls[call];
        if record.header("saga-attempt") == "1" {
            for ((saga, _), known) in &mut self.known_done {
                known.recorded |= saga == record.header("saga-id") && known.by == record.vm;
            }
        }
        let faults = self.plan.faults.clone();
        let latency = self.latency();
        if self.participants[index].down > 0 {
            return self.schedule(latency, reset(call));
        }
        if self.strikes(faults.request_lost) {
            if self.random.random_bool(0.5) {
                self.schedule(latency, reset(call));
            }
            return;
        }
        if self.strikes(faults.request_late) {
            let late = self.between(0, LATEST);
            return self.schedule(timeout + late, Event::Arrives { call, copy: false });
        }
        self.schedule(latency, Event::Arrives { call, copy: false });
        if self.strikes(faults.duplicate_delivery) {
            let later = self.between(0, LATEST);
            self.schedule(latency + later, Event::Arrives { call, copy: true });
        }
    }

    fn latency(&mut self) -> Nanos {
        self.between(MS / 5, self.plan.latency)
    }

    fn participant_of(&self, call: CallId) -> Option<usize> {
        let cluster = &self.history.calls[call].callout.cluster;
        self.plan.participants.iter().position(|name| name == cluster)
    }

    /// A call, or a copy of it, has reached its participant.
    pub(super) fn arrives(&mut self, call: CallId, copy: bool) {
        let Some(index) = self.participant_of(call) else { return };
        if self.participants[index].down > 0 {
            return;
        }
        if self.path_answers_to(call, index, copy) {
            return;
        }
        let record = self.history.calls[call].clone();
        let now = self.now();
        self.participants[index].sees(&record, now);
        if !copy && let Some(fault) = self.participants[index].take_fault(&record) {
            return self.ordered(call, index, &fault);
        }
        let key = record.header("idempotency-key").to_owned();
        if self.participants[index].busy.contains(&key) {
            return self.deal(call, copy, Answer::error(409, "it is being worked on"), Deed::Nothing);
        }
        if record.is_compensation() && self.participants[index].hides(&record, now) {
            return self.deal(call, copy, Answer::error(404, "no such booking"), Deed::Nothing);
        }
        // Who had the saga before may have sent a compensation, or written that it would, and be gone before it did.
        let others = record.header("saga-epoch") != "1";
        let known = self.known_done.get(&step(&record));
        if known.is_some_and(|known| known.recorded || known.by == record.vm)
            && record.is_compensation()
            && !others
            && self.strikes(self.plan.faults.route_missing)
        {
            return self.deal(call, copy, Answer::error(404, "no route"), Deed::Nothing);
        }
        if self.refuses(call, index) {
            return self.deal(call, copy, Answer::error(422, "refused"), Deed::Nothing);
        }
        let faults = self.plan.faults.clone();
        if self.participants[index].put_off.contains(&call) || self.strikes(faults.not_now) {
            self.participants[index].put_off.insert(call);
            let status = if self.random.random_bool(0.5) { 429 } else { 503 };
            return self.deal(call, copy, Answer::error(status, "not now"), Deed::Nothing);
        }
        if self.strikes(faults.server_error) {
            let deed = match self.random.random_bool(0.5) {
                true => self.participants[index].apply(&record, now).1,
                false => Deed::Nothing,
            };
            let status = [500, 502, 504].choose(&mut self.random).copied().unwrap_or(500);
            return self.deal(call, copy, Answer::error(status, "failed"), deed);
        }
        if self.strikes(faults.slow_participant) {
            self.participants[index].busy.insert(key);
            let takes = self.between(MS, 3 * Nanos::from(record.callout.timeout_ms) * MS);
            return self.schedule(takes, Event::Finishes { call, copy });
        }
        if let Some(takes) = self.works_long(&record) {
            if !record.is_compensation() {
                let until = record.at + Nanos::from(record.callout.timeout_ms) * MS;
                self.participants[index].hidden.insert(key.clone(), until);
            }
            self.participants[index].busy.insert(key);
            return self.schedule(takes, Event::Finishes { call, copy });
        }
        let (answer, deed) = self.does(index, &record);
        self.deal(call, copy, answer, deed);
    }

    /// For how long the participant works on a call, if that is long.
    fn works_long(&mut self, record: &CallRecord) -> Option<Nanos> {
        let faults = &self.plan.faults;
        let (long, busy) = (faults.works_long, faults.compensation_busy);
        let timeout = Nanos::from(record.callout.timeout_ms) * MS;
        if self.strikes_alone("works_long", long) {
            return Some(self.stream("works_long").random_range(10 * MS..LONGEST_WORK));
        }
        if record.is_compensation() && self.strikes_alone("compensation_busy", busy) {
            return Some(timeout + self.stream("compensation_busy").random_range(0..5 * SECOND));
        }
        None
    }

    /// The participant does what a call asks for, and answers a compensation perhaps as if there were nothing left of it.
    fn does(&mut self, index: usize, record: &CallRecord) -> (Answer, Deed) {
        let now = self.now();
        let (answer, deed) = self.participants[index].apply(record, now);
        let undone = matches!(deed, Deed::Compensated | Deed::CompensatedBefore);
        if undone && self.strikes_alone("compensation_gone", self.plan.faults.compensation_gone) {
            return (Answer::error(410, "it was cancelled by hand"), deed);
        }
        (answer, deed)
    }

    /// A participant that refuses a step does so for good, and only one that it has not done.
    fn refuses(&mut self, call: CallId, index: usize) -> bool {
        let rate = self.plan.faults.definite_refusal;
        let record = self.history.calls[call].clone();
        if record.is_compensation() {
            return self.strikes(rate);
        }
        let step = step(&record);
        if let Some(refuses) = self.participants[index].refuses.get(&step) {
            return *refuses;
        }
        let refuses = self.strikes(rate);
        self.participants[index].refuses.insert(step, refuses);
        refuses
    }

    /// A slow participant has come to it.
    pub(super) fn finishes(&mut self, call: CallId, copy: bool) {
        let Some(index) = self.participant_of(call) else { return };
        let record = self.history.calls[call].clone();
        self.participants[index].busy.remove(record.header("idempotency-key"));
        self.participants[index].hidden.remove(record.header("idempotency-key"));
        let (answer, deed) = self.does(index, &record);
        self.deal(call, copy, answer, deed);
    }

    /// The participant has dealt with a call: its answer goes back. That to a copy, nobody waits for.
    fn deal(&mut self, call: CallId, copy: bool, answer: Answer, deed: Deed) {
        self.tell(Happening::Dealt { call, deed, answers: answer.status });
        let now = self.now();
        if answer.status == 404 {
            self.not_found.entry(step(&self.history.calls[call])).or_insert(now);
        }
        if copy {
            return;
        }
        let faults = self.plan.faults.clone();
        let latency = self.latency();
        if self.strikes(faults.answer_lost) {
            if self.random.random_bool(0.5) {
                self.schedule(latency, reset(call));
            }
            return;
        }
        if self.strikes(faults.answer_late) {
            return;
        }
        if self.strikes(faults.answer_truncated) {
            return self.schedule(latency, broken(call));
        }
        let succeeded = (200..300).contains(&answer.status) && answer.body.is_some();
        let body = answer.body.as_ref().map_or(Vec::new(), |body| body.to_string().into_bytes());
        if succeeded && self.strikes(faults.answer_unreadable) {
            let wrong: &[u8] = if self.random.random_bool(0.5) { b"booked {not: json" } else { b"{}" };
            return self
                .schedule(latency, unreadable(call, answer.status, answer_headers(answer.status), wrong.to_vec()));
        }
        if matches!(answer.status, 429 | 503) {
            let after_s = self.random.random_range(0..=3);
            return self.schedule(latency, put_off(call, answer.status, after_s));
        }
        self.schedule(latency, whole(call, answer.status, answer_headers(answer.status), body));
    }

    /// Does, or does not do, what was asked, and answers as a fault says: as the real participant does.
    fn ordered(&mut self, call: CallId, index: usize, fault: &Fault) {
        let (record, now) = (self.history.calls[call].clone(), self.now());
        let done = fault.does_it().then(|| self.participants[index].apply(&record, now));
        let deed = done.as_ref().map_or(Deed::Nothing, |(_, deed)| *deed);
        if let Some((refused, deed)) = done.clone()
            && refused.status >= 300
            && !fault.fault.shows_on_a_refusal()
        {
            return self.deal(call, false, refused, deed);
        }
        let shown = done.map_or_else(|| Participant::pretended(&record), |(answer, _)| answer);
        let latency = MS;
        let dealt = |answers| Happening::Dealt { call, deed, answers };
        let with_body = |answer: &Answer| match &answer.body {
            Some(body) => (answer.status, body.to_string()),
            None => (200, json!({"state": "cancelled"}).to_string()),
        };
        match fault.fault {
            FaultKind::Refuse => self.deal(call, false, Answer::error(422, "refused, as was ordered"), deed),
            FaultKind::NoRoute => self.deal(call, false, Answer::error(404, "no route, as was ordered"), deed),
            FaultKind::Error500 => self.deal(call, false, Answer::error(500, "failed, as was ordered"), deed),
            FaultKind::Trailers => self.deal(call, false, shown, deed),
            FaultKind::Delay => {
                if fault.does_it() {
                    self.tell(dealt(shown.status));
                }
                let applied = fault.does_it();
                self.schedule(fault.delay_ms * MS, Event::FinishesOrdered { call, applied });
            }
            FaultKind::Hang | FaultKind::ApplyNoAnswer => self.tell(dealt(0)),
            FaultKind::Reset => {
                self.tell(dealt(0));
                self.schedule(latency, reset(call));
            }
            FaultKind::Truncate => {
                self.tell(dealt(shown.status));
                self.schedule(latency, broken(call));
            }
            FaultKind::Unavailable503 | FaultKind::TooMany429 => {
                let status = if fault.fault == FaultKind::TooMany429 { 429 } else { 503 };
                self.tell(dealt(status));
                self.schedule(latency, put_off(call, status, fault.retry_after_s));
            }
            FaultKind::BigAnswer if fault.size_mib >= TOO_BIG_MIB => {
                self.tell(dealt(shown.status));
                self.schedule(latency, broken(call));
            }
            FaultKind::BigAnswer => {
                self.tell(dealt(shown.status));
                let (status, body) = with_body(&shown);
                let filler = "x".repeat(usize::try_from(fault.size_mib << 20).unwrap_or(usize::MAX));
                let body = format!("{{\"filler\":\"{filler}\",{}", body.trim_start_matches('{'));
                self.schedule(latency, unreadable(call, status, answer_headers(status), body.into_bytes()));
            }
            FaultKind::StrangeHeaders => {
                self.tell(dealt(shown.status));
                let mut headers = answer_headers(shown.status);
                headers.push(("x-not-utf-8".to_owned(), b"caf\xe9 \xff\xfe".to_vec()));
                headers
                    .extend(["one", "two", "three"].map(|value| ("x-repeated".to_owned(), value.as_bytes().to_vec())));
                headers.push(("x-empty".to_owned(), Vec::new()));
                let body = shown.body.as_ref().map_or(Vec::new(), |body| body.to_string().into_bytes());
                self.schedule(latency, whole(call, shown.status, headers, body));
            }
            FaultKind::NotJson => {
                self.tell(dealt(shown.status));
                let status = with_body(&shown).0;
                let mut headers = answer_headers(status);
                headers[1].1 = b"text/plain".to_vec();
                self.schedule(latency, unreadable(call, status, headers, b"booked {not: json".to_vec()));
            }
        }
    }

    /// What was ordered to be slow is done now, unless it was before.
    pub(super) fn finishes_ordered(&mut self, call: CallId, applied: bool) {
        let now = self.now();
        let Some(index) = self.participant_of(call) else { return };
        let record = self.history.calls[call].clone();
        let (answer, deed) = self.participants[index].apply(&record, now);
        self.deal(call, false, answer, if applied { Deed::Nothing } else { deed });
    }

    pub(super) fn times_out(&mut self, call: CallId) {
        let body = b"upstream request timeout".to_vec();
        let headers = local_headers(504);
        let answer = CalloutAnswer::Whole { headers, body };
        self.call_ended(call, answer, Ended::Proxy(504));
    }

    /// The first end of a call is told to the VM that made it, if that is still there.
    pub(super) fn call_ended(&mut self, call: CallId, answer: CalloutAnswer, ended: Ended) {
        if !self.open_calls.remove(&call) {
            return;
        }
        let (vm, context) = (self.history.calls[call].vm, self.history.calls[call].callout.context);
        let token = self.history.calls[call].callout.token;
        // A root that has ended took its calls with it.
        if !self.has_root(vm, context) {
            return self.tell(Happening::Ended(call, Ended::Forgotten));
        }
        self.know(call, &ended);
        self.tell(Happening::Ended(call, ended));
        self.callback(vm, |vm| vm.callout_ended(context, token, answer));
    }

    /// Remembers what a VM knows to have been done, until it sees a compensation of it come to unknown.
    fn know(&mut self, call: CallId, ended: &Ended) {
        let record = &self.history.calls[call];
        let step = step(record);
        match (record.is_compensation(), ended) {
            (false, Ended::Answered(200..=299) | Ended::Unreadable(_)) => {
                self.known_done.insert(step, Known { by: record.vm, recorded: false });
            }
            (true, Ended::Answered(200..=499) | Ended::Unreadable(_) | Ended::PutOff(..)) | (false, _) => {}
            (true, _) => {
                self.known_done.remove(&step);
            }
        }
    }
}

/// Of what comes from a participant, or from the path to it: Envoy says how long that took.
pub(super) fn answer_headers(status: u16) -> Headers {
    let mut headers = local_headers(status);
    headers.push((UPSTREAM_TIME.to_owned(), b"3".to_vec()));
    headers
}

/// Of what Envoy answers itself.
fn local_headers(status: u16) -> Headers {
    vec![
        (":status".to_owned(), status.to_string().into_bytes()),
        ("content-type".to_owned(), b"application/json".to_vec()),
    ]
}

pub(super) fn whole(call: CallId, status: u16, headers: Headers, body: Vec<u8>) -> Event {
    Event::AnswerArrives { call, answer: CalloutAnswer::Whole { headers, body }, ended: Ended::Answered(status) }
}

/// A success of which nothing can be read: it is no JSON, lacks what is read, or is too large to be kept.
fn unreadable(call: CallId, status: u16, headers: Headers, body: Vec<u8>) -> Event {
    Event::AnswerArrives { call, answer: CalloutAnswer::Whole { headers, body }, ended: Ended::Unreadable(status) }
}

/// Not now: come again after so many seconds.
fn put_off(call: CallId, status: u16, after_s: u32) -> Event {
    let mut headers = answer_headers(status);
    headers.push(("retry-after".to_owned(), after_s.to_string().into_bytes()));
    let answer = CalloutAnswer::Whole { headers, body: b"{\"error\":\"not now\"}".to_vec() };
    Event::AnswerArrives { call, answer, ended: Ended::PutOff(status, after_s) }
}

/// The connection was refused or reset: Envoy answers in the participant's place.
fn reset(call: CallId) -> Event {
    let body = b"upstream connect error or disconnect/reset before headers".to_vec();
    let answer = CalloutAnswer::Whole { headers: local_headers(503), body };
    Event::AnswerArrives { call, answer, ended: Ended::Proxy(503) }
}

fn broken(call: CallId) -> Event {
    Event::AnswerArrives { call, answer: CalloutAnswer::Broken, ended: Ended::Broken }
}
