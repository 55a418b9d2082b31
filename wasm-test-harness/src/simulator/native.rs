//! A VM that runs the crate itself, without the ABI and without a Wasm engine.
//!
//! It does what `src/filter` does, over [`Host`] instead of `proxy_wasm`, so that a run can be measured line by line;
//! and as both must come to the same run, it checks that the compiled core does what the native one does.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use sagabox::config::{self, Configuration, Role};
use sagabox::coordinator::{Client, Coordinator, Counter, HeadersRead, Host as _, MatchedRequest, too_large};
use sagabox::definition::Definition;
use sagabox::facts::{ClientRequest, ParticipantResponse};
use sagabox::hold::{
    CREDENTIALS, HELD_PATH, HeldByVm, HeldRequests, HoldState, Incoming, NotHeld, ORIGINAL_PATH, UnreadBodies,
};
use sagabox::journal::{AnyJournal, IdempotencyKey};
use sagabox::matcher::{MatcherTable, RequestHead, Resemblance};
use sagabox::saga::{AttemptResult, Millis, Reply};

use super::host::{CalloutAnswer, Effect, Host, StreamData, text, value};
use super::process::ContextId;
use super::vm::{Action, Trapped, Vm};

mod port;
mod stream;

use port::{Port, send};
use stream::{Collecting, Phase, Stream, counted_bytes, hold_state, set_hold_state};

/// See the module's text.
pub struct NativeVm {
    host: Host,
    held: Rc<HeldByVm>,
    roots: BTreeMap<ContextId, Root>,
    streams: BTreeMap<ContextId, Stream>,
}

enum Root {
    Gate,
    Coordinator(Box<Worker>),
}

struct Worker {
    id: ContextId,
    table: MatcherTable,
    definitions: Vec<(Arc<Definition>, HeadersRead)>,
    gate: bool,
    max_body: usize,
    coordinator: Coordinator<AnyJournal>,
    started_ms: Millis,
    started_ns: u64,
    queue: u32,
    begun: Vec<MatchedRequest>,
    gone: Vec<Client>,
    /// Requests that were refused for want of a gate, and are not counted yet.
    not_held: u32,
    unread: UnreadBodies,
    held: HeldRequests,
    tick_at: Option<Millis>,
    ending: bool,
}

impl NativeVm {
    /// A VM without contexts.
    pub fn new(host: Host) -> NativeVm {
        NativeVm { host, held: Rc::default(), roots: BTreeMap::new(), streams: BTreeMap::new() }
    }

    /// As the filter's root does around everything: takes what streams have left, acts, and sets its tick.
    fn with_worker(&mut self, root: ContextId, act: impl FnOnce(&mut Worker, &mut Port<'_>)) {
        self.host.effective = root;
        let Some(Root::Coordinator(worker)) = self.roots.get_mut(&root) else { return };
        let now = worker.now(&self.host);
        let mut port = Port { host: &mut self.host, root, now };
        worker.take_messages(&mut port);
        worker.refuse_unread(&mut port);
        worker.refuse_late(&mut port);
        act(worker, &mut port);
        worker.coordinator.settle(&mut port);
        worker.set_tick(&mut port);
        if worker.ending && worker.coordinator.open() == 0 {
            worker.ending = false;
            worker.coordinator.leave(&mut port);
            self.host.effects.push(Effect::Done(root));
        }
    }

    fn configure(&mut self, id: ContextId, configuration: Configuration) -> Root {
        let Role::Coordinator { gate } = configuration.role else { return Root::Gate };
        let mut random = [0; 10];
        self.host.random(&mut random);
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = format!("{random}.{id}");
        let queue = self.host.register_queue(&format!("sagabox.wake.{name}"));
        let journal = AnyJournal::new(name, &configuration);
        let max_body = configuration.limits.max_body;
        let forwarded = &configuration.forward_headers;
        let of_one = |definition: &Arc<Definition>| (Arc::clone(definition), HeadersRead::of(definition, forwarded));
        let definitions = configuration.definitions.iter().map(of_one).collect();
        Root::Coordinator(Box::new(Worker {
            id,
            table: MatcherTable::new(&configuration.definitions),
            definitions,
            gate,
            max_body,
            held: HeldRequests::new(Rc::clone(&self.held), &configuration.limits),
            coordinator: Coordinator::new(journal, configuration.limits, configuration.forward_headers),
            started_ms: self.host.wall_ns() / 1_000_000,
            started_ns: self.host.monotonic_ns(),
            queue,
            begun: Vec::new(),
            gone: Vec::new(),
            not_held: 0,
            unread: UnreadBodies::default(),
            tick_at: None,
            ending: false,
        }))
    }

    fn worker_of(&mut self, stream: ContextId) -> Option<(&mut Host, &mut Worker, &mut Stream)> {
        self.host.effective = stream;
        let stream = self.streams.get_mut(&stream)?;
        match self.roots.get_mut(&stream.root)? {
            Root::Coordinator(worker) => Some((&mut self.host, worker, stream)),
            Root::Gate => None,
        }
    }

    fn hold_state(&self, stream: ContextId) -> Option<HoldState> {
        self.host.streams.get(&stream).and_then(|data| hold_state(&data.borrow()))
    }
}

impl Worker {
    fn now(&self, host: &Host) -> Millis {
        self.started_ms + (host.monotonic_ns() - self.started_ns) / 1_000_000
    }

    fn take_messages(&mut self, port: &mut Port<'_>) {
        for matched in std::mem::take(&mut self.begun) {
            self.held.take(matched.client);
            self.coordinator.begin(port, matched);
        }
        for client in std::mem::take(&mut self.gone) {
            self.coordinator.client_gone(client);
        }
        for _ in 0..std::mem::take(&mut self.not_held) {
            port.count(Counter::RequestNotHeld);
        }
    }

    fn refuse_unread(&mut self, port: &mut Port<'_>) {
        let streams = &port.host.streams;
        let kept_back = self.unread.look(port.now, |client| counted_bytes(&streams.get(&client)?.borrow()));
        for client in kept_back {
            port.count(Counter::RequestNotHeld);
            self.held.gone(client);
            port.reply(client, &NotHeld::OptionMissing.reply());
        }
    }

    fn refuse_late(&mut self, port: &mut Port<'_>) {
        for (client, reply) in self.held.look(port.now) {
            port.reply(client, &reply);
        }
    }

    fn set_tick(&mut self, port: &mut Port<'_>) {
        let looks = [self.unread.next_look(), self.held.next_look()].into_iter().flatten();
        let due = looks.fold(self.coordinator.next_due(), Millis::min);
        if self.tick_at.is_none_or(|tick_at| due < tick_at) {
            let wait = due.saturating_sub(port.now).max(1);
            self.tick_at = Some(port.now.saturating_add(wait));
            port.host.set_tick_period(u32::try_from(wait).unwrap_or(u32::MAX));
        }
    }

    fn matched(&self, data: &StreamData) -> Option<Result<Collecting, Resemblance>> {
        let headers = &data.headers;
        let path = String::from_utf8_lossy(value(headers, ":path")?).into_owned();
        if !self.table.could_match(&path) {
            return None;
        }
        let method = text(headers, ":method")?.to_owned();
        let host = text(headers, ":authority").unwrap_or_default().to_owned();
        let header = |name: &str| {
            let lines = headers.iter().filter(|(other, _)| other == name);
            let lines: Vec<_> = lines.map(|(_, value)| String::from_utf8_lossy(value)).collect();
            (!lines.is_empty()).then(|| lines.join(","))
        };
        let head = RequestHead { method: &method, path: &path, host: &host, header: &header };
        let Some((definition, params)) = self.table.find(&head) else {
            return self.table.resemblance(&head).map(Err);
        };
        if hold_state(data).is_some() {
            return None;
        }
        Some(Ok(Collecting { definition, params, request: None }))
    }

    fn admit(&mut self, client: Client, index: usize, lines: usize, data: &StreamData) -> Result<(), Reply> {
        let Some((definition, _)) = self.definitions.get(index) else { return Ok(()) };
        let incoming = Incoming {
            client,
            header_bytes: counted_bytes(data).unwrap_or_default(),
            header_lines: lines,
            deadline_ms: u64::try_from(definition.deadline.as_millis()).unwrap_or(u64::MAX),
            may_be_repeated: IdempotencyKey::may_be_of(definition, |name| value(&data.headers, name).is_some()),
        };
        self.held.admit(incoming).map_err(|limit| limit.reply(incoming.may_be_repeated))
    }

    fn request(&self, index: usize, data: &StreamData) -> Result<ClientRequest, Reply> {
        // The index is that of a definition.
        let read = self.definitions.get(index).map(|(_, read)| read.clone()).unwrap_or_default();
        read.request(data.headers.clone())
    }

    fn note_body(&mut self, id: ContextId, stream: &mut Stream) {
        if !matches!(stream.phase, Phase::Collecting(_)) {
            return;
        }
        if !self.held.is_collecting(id) {
            stream.phase = Phase::Refused;
        } else if !self.gate {
            self.unread.read();
        }
    }

    fn hand_over_body(&mut self, host: &mut Host, stream: &mut Stream, state: Option<HoldState>) -> Action {
        if self.gate && state != Some(HoldState::Held) {
            return self.refuse_not_held(host, stream);
        }
        let body = body(host);
        self.hand_over(host, stream, body)
    }

    fn refuse_not_held(&mut self, host: &mut Host, stream: &mut Stream) -> Action {
        self.not_held += 1;
        let _ = host.enqueue(self.queue, &[]);
        self.refuse(host, stream, &NotHeld::GateMissing.reply())
    }

    fn hand_over(&mut self, host: &mut Host, stream: &mut Stream, body: Vec<u8>) -> Action {
        let Phase::Collecting(collecting) = std::mem::replace(&mut stream.phase, Phase::Handed) else {
            return Action::Pause;
        };
        let Ok(data) = host.stream() else { return Action::Pause };
        let request = match collecting.request {
            Some(request) => Ok(*request),
            None => self.request(collecting.definition, &data.borrow()),
        };
        let request = match request {
            Ok(request) => ClientRequest { body, ..request },
            Err(reply) => return self.refuse(host, stream, &reply),
        };
        let Some((definition, _)) = self.definitions.get(collecting.definition) else { return Action::Pause };
        let (client, definition, params) = (stream.id, Arc::clone(definition), collecting.params);
        self.begun.push(MatchedRequest { client, definition, params, request });
        // The queue was registered by this root.
        let _ = host.enqueue(self.queue, &[]);
        self.held.hand_over(client);
        Action::Pause
    }

    fn refuse(&mut self, host: &mut Host, stream: &mut Stream, reply: &Reply) -> Action {
        stream.phase = Phase::Refused;
        self.held.gone(stream.id);
        send(host, reply);
        Action::Pause
    }

    fn receive(
        &mut self,
        host: &mut Host,
        stream: &mut Stream,
        bytes: usize,
        end: Option<Option<HoldState>>,
    ) -> Action {
        if bytes > self.max_body {
            return self.refuse(host, stream, &too_large(self.max_body));
        }
        match (self.held.receive(stream.id, bytes), end) {
            (Err(reply), _) => self.refuse(host, stream, &reply),
            (Ok(()), Some(state)) => self.hand_over_body(host, stream, state),
            (Ok(()), None) => Action::Pause,
        }
    }
}

fn gate_action(state: Option<HoldState>) -> Action {
    if state.is_some() { Action::Pause } else { Action::Continue }
}

fn body(host: &Host) -> Vec<u8> {
    host.stream().map(|data| data.borrow().body.clone()).unwrap_or_default()
}

impl Vm for NativeVm {
    fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// There are no host calls here.
    fn trap_after(&mut self, _host_calls: u64) {}

    fn create_root(&mut self, root: ContextId, configuration: &[u8]) -> Result<bool, Trapped> {
        self.host.effective = root;
        self.host.roots.insert(root, configuration.to_vec());
        let Ok(loaded) = config::load(configuration) else { return Ok(false) };
        let configured = self.configure(root, loaded);
        self.roots.insert(root, configured);
        if let Some(Root::Coordinator(worker)) = self.roots.get_mut(&root) {
            let now = worker.now(&self.host);
            worker.set_tick(&mut Port { host: &mut self.host, root, now });
        }
        Ok(true)
    }

    fn create_stream(&mut self, stream: ContextId, root: ContextId) -> Result<(), Trapped> {
        self.streams.insert(stream, Stream { id: stream, root, phase: Phase::Passing });
        Ok(())
    }

    fn request_headers(&mut self, id: ContextId, count: usize, end: bool) -> Result<Action, Trapped> {
        let state = self.hold_state(id);
        let Some((host, worker, stream)) = self.worker_of(id) else {
            let (Some(_), Some(data)) = (state, self.host.streams.get(&id)) else { return Ok(Action::Continue) };
            set_hold_state(&mut data.borrow_mut(), HoldState::Held);
            return Ok(Action::Pause);
        };
        let Ok(data) = host.stream() else { return Ok(Action::Continue) };
        let matched = worker.matched(&data.borrow());
        let mut collecting = match matched {
            None => return Ok(Action::Continue),
            Some(Err(resemblance)) => return Ok(worker.refuse(host, stream, &resemblance.reply())),
            Some(Ok(collecting)) => collecting,
        };
        if let Err(reply) = worker.admit(id, collecting.definition, count, &data.borrow()) {
            return Ok(worker.refuse(host, stream, &reply));
        }
        if worker.gate && !end {
            match worker.request(collecting.definition, &data.borrow()) {
                Ok(request) => collecting.request = Some(Box::new(request)),
                Err(reply) => return Ok(worker.refuse(host, stream, &reply)),
            }
        }
        stream.phase = Phase::Collecting(collecting);
        if end {
            return Ok(worker.hand_over(host, stream, Vec::new()));
        }
        let length = text(&data.borrow().headers, "content-length").and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > worker.max_body as u64) {
            return Ok(worker.refuse(host, stream, &too_large(worker.max_body)));
        }
        let data = &mut *data.borrow_mut();
        let path = value(&data.headers, ":path").unwrap_or_default().to_vec();
        data.headers.retain(|(name, _)| name != ORIGINAL_PATH);
        if !worker.gate {
            if !worker.unread.is_option_seen() {
                worker.unread.add(id, length, counted_bytes(data).unwrap_or_default());
                // The queue was registered by this root.
                let _ = host.enqueue(worker.queue, &[]);
            }
            return Ok(Action::Pause);
        }
        data.headers.retain(|(name, _)| name != ":path" && !CREDENTIALS.contains(&name.as_str()));
        data.headers.push((ORIGINAL_PATH.to_owned(), path));
        data.headers.push((":path".to_owned(), HELD_PATH.as_bytes().to_vec()));
        set_hold_state(data, HoldState::Asked);
        Ok(Action::Continue)
    }

    fn request_body(&mut self, id: ContextId, bytes: usize, end: bool) -> Result<Action, Trapped> {
        let state = self.hold_state(id);
        let Some((host, worker, stream)) = self.worker_of(id) else { return Ok(gate_action(state)) };
        worker.note_body(id, stream);
        Ok(match stream.phase {
            Phase::Passing => Action::Continue,
            Phase::Handed | Phase::Refused => Action::Pause,
            Phase::Collecting(_) => worker.receive(host, stream, bytes, end.then_some(state)),
        })
    }

    fn request_trailers(&mut self, id: ContextId, _count: usize) -> Result<Action, Trapped> {
        let state = self.hold_state(id);
        let Some((host, worker, stream)) = self.worker_of(id) else { return Ok(gate_action(state)) };
        worker.note_body(id, stream);
        Ok(match stream.phase {
            Phase::Passing => Action::Continue,
            Phase::Handed | Phase::Refused => Action::Pause,
            Phase::Collecting(_) => worker.hand_over_body(host, stream, state),
        })
    }

    fn response_headers(&mut self, id: ContextId, _count: usize, _end: bool) -> Result<Action, Trapped> {
        let state = self.hold_state(id);
        let Some((host, worker, stream)) = self.worker_of(id) else { return Ok(Action::Continue) };
        let is_waiting = worker.gate && matches!(stream.phase, Phase::Collecting(_));
        if is_waiting && state != Some(HoldState::Held) {
            return Ok(worker.refuse_not_held(host, stream));
        }
        Ok(Action::Continue)
    }

    fn callout_ended(&mut self, root: ContextId, token: u32, answer: CalloutAnswer) -> Result<(), Trapped> {
        self.with_worker(root, |worker, port| {
            let result = match answer {
                CalloutAnswer::Broken => AttemptResult::NoAnswer,
                CalloutAnswer::Whole { mut headers, body } => {
                    let code = text(&headers, ":status").and_then(|code| code.parse().ok());
                    headers.retain(|(name, _)| !name.starts_with(':'));
                    let kept = body.len() <= worker.max_body || worker.coordinator.is_of_journal(token);
                    let body = kept.then_some(body);
                    code.map_or(AttemptResult::NoAnswer, |code| {
                        AttemptResult::of(ParticipantResponse { code, headers, body })
                    })
                }
            };
            worker.coordinator.ended(port, token, result);
        });
        Ok(())
    }

    fn tick(&mut self, root: ContextId) -> Result<(), Trapped> {
        self.with_worker(root, |worker, port| {
            worker.tick_at = Some(Millis::MAX);
            worker.coordinator.due(port);
        });
        Ok(())
    }

    fn queue_ready(&mut self, root: ContextId, queue: u32) -> Result<(), Trapped> {
        // Envoy calls once for each item; what is in it does not matter.
        let _ = self.host.process.borrow_mut().dequeue(queue);
        self.with_worker(root, |_, _| {});
        Ok(())
    }

    fn done(&mut self, context: ContextId) -> Result<bool, Trapped> {
        if let Some((_, worker, stream)) = self.worker_of(context) {
            worker.unread.gone(context);
            worker.held.gone(context);
            if matches!(stream.phase, Phase::Handed) {
                worker.gone.push(context);
            }
            return Ok(true);
        }
        self.host.effective = context;
        let Some(Root::Coordinator(worker)) = self.roots.get_mut(&context) else { return Ok(true) };
        let now = worker.now(&self.host);
        let mut port = Port { host: &mut self.host, root: worker.id, now };
        worker.take_messages(&mut port);
        worker.coordinator.settle(&mut port);
        worker.set_tick(&mut port);
        worker.ending = worker.coordinator.open() > 0;
        if !worker.ending {
            worker.coordinator.leave(&mut port);
        }
        Ok(!worker.ending)
    }

    fn log(&mut self, _context: ContextId) -> Result<(), Trapped> {
        Ok(())
    }

    fn delete(&mut self, context: ContextId) -> Result<(), Trapped> {
        self.streams.remove(&context);
        self.roots.remove(&context);
        Ok(())
    }
}
