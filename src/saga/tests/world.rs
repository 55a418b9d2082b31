//! A world of one saga: a journal, participants that keep their word, a client and a clock, and a checker that
//! looks at what is written, sent and told, and at nothing inside the saga.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::super::record::{Progress, Record};
use super::super::*;
pub use super::participants::Behaviour;
use super::participants::{Held, answer, compensation, transaction};

/// See the module's text.
pub struct World {
    pub saga: Saga,
    pub now: Millis,
    pub in_flight: Vec<OutgoingCall>,
    pub outstanding: Option<Record>,
    pub sent: Vec<OutgoingCall>,
    pub reply: Option<Reply>,
    pub reports: Vec<Report>,
    pub ended: Option<SagaState>,
    records: Vec<Record>,
    durable: Progress,
    epoch: u32,
    bounds: Bounds,
    /// The journal takes no record that is longer.
    pub takes_bytes: usize,
    /// Steps that an owner who has gone may have sent, for all the journal says.
    may_have_been_sent: BTreeSet<StepIndex>,
    held: BTreeMap<StepIndex, Held>,
}

impl World {
    /// Begins a saga at the time 1,000,000.
    pub fn begin(definition: &Arc<Definition>, body: &Json) -> Result<World, BeginRefused> {
        World::begin_within(Bounds::NONE, definition, body)
    }

    /// The same, with a journal that takes so much.
    pub fn begin_within(bounds: Bounds, definition: &Arc<Definition>, body: &Json) -> Result<World, BeginRefused> {
        let now = 1_000_000;
        let begin = Begin {
            definition: Arc::clone(definition),
            id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            epoch: 1,
            request: json!({"method": "POST", "path": "/trips", "headers": {}, "body": body}),
            forwarded: vec![("traceparent".to_owned(), "00-1-2-01".to_owned())],
            depth: 1,
            who: "ann".to_owned(),
            bounds,
        };
        let (saga, actions) = Saga::begin(begin, now)?;
        let names = definition.steps.iter().map(|step| step.name.as_str());
        let durable = Progress::new(names);
        let mut world = World {
            saga,
            now,
            in_flight: Vec::new(),
            outstanding: None,
            sent: Vec::new(),
            reply: None,
            reports: Vec::new(),
            ended: None,
            records: Vec::new(),
            durable,
            epoch: 1,
            bounds,
            takes_bytes: usize::MAX,
            may_have_been_sent: BTreeSet::new(),
            held: BTreeMap::new(),
        };
        world.take(actions);
        Ok(world)
    }

    /// Feeds an event that fits.
    pub fn feed(&mut self, event: Event) {
        let actions = self.saga.handle(event.clone(), self.now);
        let actions = actions.unwrap_or_else(|illegal| panic!("{event:?} was refused: {illegal}"));
        self.take(actions);
    }

    /// Feeds an event that must be refused and change nothing.
    pub fn feed_illegal(&mut self, event: Event) {
        let before = (self.saga.progress().clone(), self.saga.next_due());
        let refused = self.saga.handle(event.clone(), self.now);
        assert!(refused.is_err(), "{event:?} was taken");
        assert_eq!(before, (self.saga.progress().clone(), self.saga.next_due()), "{event:?} changed something");
    }

    /// The journal acknowledges.
    pub fn acknowledge(&mut self) {
        let bytes =
            self.outstanding.as_ref().and_then(|record| serde_json::to_vec(record).ok()).map_or(0, |it| it.len());
        if bytes > self.takes_bytes {
            return self.refuse_as_too_large();
        }
        let Some(record) = self.outstanding.take() else { return };
        for change in &record.changes {
            self.durable.apply(change).expect("a record holds legal changes");
        }
        let sequence = record.sequence;
        self.records.push(record);
        self.feed(Event::Written { sequence });
    }

    /// The journal takes no record as large as the outstanding one.
    pub fn refuse_as_too_large(&mut self) {
        let record = self.outstanding.take().expect("a record is outstanding");
        self.feed(Event::TooLarge { sequence: record.sequence });
    }

    /// An attempt under way ends. Participants keep their word: one key is done once, a refusal is for good.
    pub fn end_attempt(&mut self, index: usize, behaviour: Behaviour) {
        if self.in_flight.is_empty() {
            return;
        }
        let call = self.in_flight.remove(index % self.in_flight.len());
        let held = self.held.entry(call.id.step).or_default();
        let result = match call.id.kind {
            CallKind::Transaction => transaction(held, behaviour),
            CallKind::Compensation => compensation(held, behaviour),
        };
        self.feed(Event::AttemptEnded { id: call.id, result });
    }

    /// The owner goes, and another takes the saga up from what the journal holds. What was under way still comes to
    /// what `behaviour` says, but nobody hears of it; the outstanding record is in the journal or, unless it is the
    /// first, not. The client has gone with its proxy: whoever asks again is told anew.
    pub fn crash(&mut self, behaviour: Behaviour, record_is_kept: bool) {
        for call in std::mem::take(&mut self.in_flight) {
            let held = self.held.entry(call.id.step).or_default();
            match call.id.kind {
                CallKind::Transaction => transaction(held, behaviour),
                CallKind::Compensation => compensation(held, behaviour),
            };
        }
        if let Some(record) = self.outstanding.take().filter(|_| record_is_kept || self.records.is_empty()) {
            for change in &record.changes {
                self.durable.apply(change).expect("a record holds legal changes");
            }
            self.records.push(record);
        }
        let in_flight = |index: &StepIndex| self.durable.steps[*index].state == StepState::InFlight;
        self.may_have_been_sent.extend((0..self.durable.steps.len()).filter(in_flight));
        self.epoch += 1;
        self.reply = None;
        let resume = Resume {
            definition: Arc::clone(self.saga.definition()),
            progress: self.durable.clone(),
            sequence: self.records.len() as u64,
            epoch: self.epoch,
            bounds: self.bounds,
        };
        let (saga, actions) = Saga::resume(resume, self.now).expect("the records are of this saga");
        self.saga = saga;
        self.take(actions);
    }

    /// Lets time pass.
    pub fn wait(&mut self, ms: u64) {
        self.now += ms;
        self.feed(Event::Due);
    }

    /// Lets time pass until something is due; false where nothing is.
    pub fn wait_until_due(&mut self) -> bool {
        let Some(due) = self.saga.next_due() else { return false };
        self.now = self.now.max(due);
        self.feed(Event::Due);
        true
    }

    /// No more faults: everything is acknowledged and answered, until nothing is left. Bounded.
    pub fn heal(&mut self) {
        for _ in 0..2_000 {
            if self.ended.is_some() {
                return;
            }
            if self.outstanding.is_some() {
                self.acknowledge();
            } else if !self.in_flight.is_empty() {
                self.end_attempt(0, Behaviour::Do);
            } else {
                assert!(self.wait_until_due(), "nothing is under way and nothing is due: {:#?}", self.saga);
            }
        }
        panic!("no end in sight: {:#?}", self.saga);
    }

    /// Checks what must hold of a saga that has ended.
    pub fn check_end(&self) {
        let ended = self.ended.expect("the saga has ended");
        assert_eq!(self.saga.next_due(), None, "a timer is left");
        assert!(self.in_flight.is_empty() && self.outstanding.is_none(), "something is left under way");
        for (index, step) in self.saga.definition().steps.iter().enumerate() {
            let held = self.held.get(&index).copied().unwrap_or_default();
            let state = self.durable.steps[index].state;
            match ended {
                SagaState::Completed => {
                    assert!(!held.compensated, "{} was compensated in a completed saga", step.name);
                    assert_eq!(held.applied, state == StepState::Succeeded, "{} is {state:?}", step.name);
                }
                SagaState::Compensated => {
                    let balanced = !held.applied || held.compensated || step.compensation.is_none();
                    assert!(balanced, "{} was not undone, it is {state:?}", step.name);
                }
                state => panic!("{state:?} is no end"),
            }
        }
        let reply = self.reply.as_ref().expect("the client was answered");
        if is_of_unknown_fate(reply) {
            return;
        }
        if reply.status == 503 {
            assert!(ended == SagaState::Compensated && self.sent.is_empty(), "told that nothing was sent");
            return;
        }
        let told = header(&reply.headers, "saga-status");
        let still_working = reply.status == 504 && ["running", "compensating"].contains(&told);
        assert!(still_working || told == ended.name(), "told {told}, ended {ended:?}");
    }

    /// What the journal holds.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What was sent, in order, as `step.t` and `step.c`.
    pub fn sent_names(&self) -> Vec<String> {
        let name = |call: &OutgoingCall| {
            let suffix = if call.id.kind == CallKind::Transaction { "t" } else { "c" };
            format!("{}.{suffix}", self.saga.definition().steps[call.id.step].name)
        };
        self.sent.iter().map(name).collect()
    }

    fn take(&mut self, actions: Vec<Action>) {
        assert!(self.ended.is_none() || actions.is_empty(), "{actions:?} after the end");
        for action in actions {
            match action {
                Action::Write(record) => self.take_record(Arc::unwrap_or_clone(record)),
                Action::Call(call) => self.take_call(call),
                Action::Reply(reply) => {
                    assert!(self.reply.is_none(), "the client was told twice");
                    if self.durable.state.has_ended() {
                        assert_eq!(self.durable.reply.as_ref(), Some(&reply), "told what the journal does not hold");
                    } else {
                        self.check_told_before_the_end(&reply);
                    }
                    self.reply = Some(reply);
                }
                Action::Report(report) => self.reports.push(report),
                Action::End(state) => {
                    assert_eq!(self.durable.state, state, "ended before that was durable");
                    self.ended = Some(state);
                }
            }
        }
    }

    /// What goes on is told as the journal has it; or that it is not known whether there is a saga at all.
    fn check_told_before_the_end(&self, reply: &Reply) {
        if reply.status == 503 {
            assert!(is_of_unknown_fate(reply), "told an end that is not durable");
            return;
        }
        assert_eq!(reply.status, 504, "told an end that is not durable");
        assert_eq!(header(&reply.headers, "saga-status"), self.durable.state.name(), "told what is not durable");
    }

    fn take_record(&mut self, record: Record) {
        assert!(!self.durable.state.has_ended(), "a record after the end: {record:?}");
        assert!(self.outstanding.is_none(), "two writes at a time");
        assert_eq!(record.sequence, self.records.len() as u64 + 1, "a gap in the records");
        assert!(!record.changes.is_empty(), "a record without changes");
        let text = serde_json::to_string(&record).expect("a record is JSON");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("and can be read"), record);
        let names = self.saga.definition().steps.iter().map(|step| step.name.as_str());
        let mut replayed = Progress::new(names);
        for change in self.records.iter().chain([&record]).flat_map(|record| &record.changes) {
            replayed.apply(change).expect("a replay takes what the live run did");
        }
        // Where not all changes fit into one record, a replay is behind the live saga until the last of them.
        if self.saga.wal.unwritten().is_empty() {
            assert_eq!(&replayed, self.saga.progress(), "a replay gives another state than the one that wrote it");
        }
        self.outstanding = Some(record);
    }

    fn take_call(&mut self, call: OutgoingCall) {
        let index = call.id.step;
        let definition = Arc::clone(self.saga.definition());
        let step = &definition.steps[index];
        let recorded = &self.durable.steps[index];
        let request = match call.id.kind {
            CallKind::Transaction => {
                self.check_transaction(&call, step);
                recorded.request.as_ref()
            }
            CallKind::Compensation => {
                self.check_compensation(&call, step);
                recorded.compensation.as_ref()
            }
        };
        let request = request.expect("what is sent is in the journal");
        assert_eq!(header(&call.headers, ":path"), request.path);
        assert_eq!(call.body, request.body);
        let key = format!(
            "{}.{}.{}",
            self.saga.id(),
            step.name,
            if call.id.kind == CallKind::Transaction { "t" } else { "c" }
        );
        assert_eq!(header(&call.headers, "idempotency-key"), key);
        assert_eq!(header(&call.headers, "saga-attempt"), call.id.attempt.to_string());
        assert_eq!(header(&call.headers, "saga-epoch"), self.epoch.to_string());
        assert_eq!(header(&call.headers, "traceparent"), "00-1-2-01");
        let same = |other: &&OutgoingCall| other.id.step == index;
        assert_eq!(self.in_flight.iter().filter(same).count(), 0, "two attempts of one step at a time");
        self.in_flight.push(call.clone());
        self.sent.push(call);
    }

    fn check_transaction(&self, call: &OutgoingCall, step: &Step) {
        let index = call.id.step;
        assert_eq!(self.durable.steps[index].state, StepState::InFlight, "sent before the intent was durable");
        for before in &step.after {
            let state = self.durable.steps[*before].state;
            let resolving = self.durable.state == SagaState::Compensating;
            assert!(
                resolving || state.lets_successors_start(),
                "{} was sent after a step that is {state:?}",
                step.name
            );
        }
        let compensated = self.sent.iter().any(|sent| sent.id.step == index && sent.id.kind == CallKind::Compensation);
        assert!(!compensated, "{}: a transaction after its compensation", step.name);
        let begun = self.durable.begun.as_ref().expect("begun before anything is sent");
        if self.now >= begun.deadline || self.durable.state == SagaState::Compensating {
            let may_be_done =
                self.may_have_been_sent.contains(&index) || self.sent.iter().any(|sent| sent.id.step == index);
            assert!(may_be_done, "{}: a first attempt past the deadline or while compensating", step.name);
            assert_eq!(self.durable.state, SagaState::Compensating, "past the deadline only to resolve");
        }
    }

    fn check_compensation(&self, call: &OutgoingCall, step: &Step) {
        assert_eq!(self.durable.state, SagaState::Compensating, "undone before the decision was durable");
        let first =
            !self.sent.iter().any(|sent| sent.id.step == call.id.step && sent.id.kind == CallKind::Compensation);
        for after in step.successors.iter().filter(|_| first) {
            let held = self.held.get(after).copied().unwrap_or_default();
            let nothing_to_undo = self.saga.definition().steps[*after].compensation.is_none();
            let undone = !held.applied || held.compensated || nothing_to_undo;
            assert!(undone, "{} was undone before step {after}, which came after it", step.name);
            let under_way = self.in_flight.iter().any(|sent| sent.id.step == *after);
            assert!(!under_way, "{} was undone while step {after} was under way", step.name);
        }
    }
}

fn is_of_unknown_fate(reply: &Reply) -> bool {
    reply.body.as_deref().is_some_and(|body| body.contains("urn:sagabox:problem:fate-unknown"))
}

/// The value of a header, which is there once.
pub fn header<'a>(headers: &'a [(String, String)], name: &str) -> &'a str {
    let values: Vec<&str> =
        headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect();
    assert_eq!(values.len(), 1, "{name} in {headers:?}");
    values[0]
}

/// The attempt of that step is answered so, whatever its participant has done.
pub fn answered(world: &mut World, step: &str, code: u16) {
    end_as(world, step, answer(code, ""));
}

/// The attempt of that step comes to this, and nothing of it reaches the participant.
pub fn end_as(world: &mut World, step: &str, result: AttemptResult) {
    let index = world.in_flight.iter().position(|call| header(&call.headers, "saga-step") == step);
    let call = world.in_flight.remove(index.unwrap_or_else(|| panic!("{step} is not under way")));
    world.feed(Event::AttemptEnded { id: call.id, result });
}

/// Begins a saga whose begin is durable.
pub fn begin(definition: &Arc<Definition>) -> World {
    let mut world = World::begin(definition, &json!({"guest": "ann"})).expect("begins");
    world.acknowledge();
    world
}

/// Lets time pass until a call is under way.
pub fn until_sent(world: &mut World) {
    while world.in_flight.is_empty() {
        assert!(world.wait_until_due(), "nothing is due");
    }
}

/// The same, with a journal that acknowledges whatever is written meanwhile.
pub fn until_sent_and_written(world: &mut World) {
    while world.in_flight.is_empty() {
        match world.outstanding {
            Some(_) => world.acknowledge(),
            None => assert!(world.wait_until_due(), "nothing is due"),
        }
    }
}

/// Ends the attempt of that step.
pub fn end(world: &mut World, step: &str, behaviour: Behaviour) {
    let index = world.in_flight.iter().position(|call| header(&call.headers, "saga-step") == step);
    world.end_attempt(index.unwrap_or_else(|| panic!("{step} is not under way")), behaviour);
}
