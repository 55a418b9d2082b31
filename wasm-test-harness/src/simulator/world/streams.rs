//! Clients, and their requests on the way through the filters of a proxy.

use std::cell::RefCell;
use std::rc::Rc;

use rand::{Rng, RngCore};

use sagabox::hold::HELD_PATH;

use super::{Event, World, hops};
use crate::simulator::history::{Happening, StreamId, StreamRecord, Told, VmId};
use crate::simulator::host::{Headers, Nanos, StreamData, text};
use crate::simulator::plan::{ClientPlan, FrontAttempt, MS, SECOND};
use crate::simulator::process::ContextId;
use crate::simulator::vm::Action;

/// A little more than the longest deadline of a generated saga and the time that its client is kept after that.
const LONGEST_ANSWER: Nanos = 30 * SECOND;

/// A request of a client that a proxy serves.
pub(super) struct Stream {
    client: usize,
    repeat: u32,
    /// Where its client is behind a proxy.
    front: Option<FrontAttempt>,
    vm: Option<VmId>,
    /// The roots of its filters, and its own contexts, in the order of the chain.
    roots: Vec<ContextId>,
    contexts: Vec<ContextId>,
    data: Rc<RefCell<StreamData>>,
    /// The filter that holds the headers.
    held_by: Option<usize>,
    answered: bool,
    /// Its connection was cut: there is no answer on its way out.
    cut: bool,
    closed: bool,
    /// The filters have seen the headers of its answer.
    answer_seen: bool,
}

impl World<'_> {
    pub(super) fn client_asks(&mut self, client: usize, repeat: u32, front: Option<FrontAttempt>) {
        let plan = self.plan.clients[client].clone();
        let hops = hops(repeat, front.as_ref());
        let proxy = plan.proxy_of(hops, self.proxies.len());
        let up = self.proxies[proxy].up;
        let worker = plan.worker_of(hops, self.plan.proxies[proxy].workers);
        let vm = if up { self.serving_vm(proxy, worker) } else { None };
        let stream = self.open_stream(client, repeat, front, vm, &plan);
        let Some(vm) = vm else {
            let why = if up { "its worker has no VM" } else { "the proxy is down" };
            return self.answer_stream(stream, Told::Cut(why));
        };
        let roots = self.slot(vm).chain.clone();
        for root in roots {
            let context = self.slot(vm).new_context();
            let data = Rc::clone(&self.streams[stream].data);
            self.stream_of.insert((vm, context), stream);
            self.streams[stream].roots.push(root);
            self.history.streams[stream].roots.push(root);
            self.streams[stream].contexts.push(context);
            self.callback(vm, |vm| {
                vm.host().streams.insert(context, data);
                vm.create_stream(context, root)
            });
        }
        // Who has a key asks again some time after it should have been answered: its VM may have gone.
        let patience = plan.start_key().map(|_| LONGEST_ANSWER);
        let patience = plan.front.map(|front| front.timeout).or(plan.leaves_after).or(patience);
        if let Some(after) = patience {
            self.schedule(after, Event::Leaves(stream));
        }
        let ends = plan.body.is_empty() && !plan.trailers;
        self.headers(stream, vm, ends);
        let mut wait = 0;
        for index in 0..plan.pieces {
            wait += self.between(0, 20 * MS);
            self.schedule(wait, Event::Piece { stream, index });
        }
        if plan.trailers {
            self.schedule(wait + MS, Event::Trailers(stream));
        }
    }

    fn open_stream(
        &mut self,
        client: usize,
        repeat: u32,
        front: Option<FrontAttempt>,
        vm: Option<VmId>,
        plan: &ClientPlan,
    ) -> StreamId {
        let again = front.as_ref().map(|front| front.request_id.clone());
        let request_id = again.unwrap_or_else(|| format!("{:016x}", self.random.next_u64()));
        let first = || FrontAttempt { request_id: request_id.clone(), number: 1 };
        let front = front.or_else(|| plan.front.map(|_| first()));
        let mut headers = request_headers(plan, &request_id);
        if let Some(front) = &front {
            headers.push(("x-envoy-attempt-count".to_owned(), front.number.to_string().into_bytes()));
        }
        let version = vm.map_or(0, |vm| self.slot(vm).version);
        let stream = self.streams.len();
        self.streams.push(Stream {
            client,
            repeat,
            front,
            vm,
            roots: Vec::new(),
            contexts: Vec::new(),
            data: Rc::new(RefCell::new(StreamData { headers, ..StreamData::default() })),
            held_by: None,
            answered: false,
            cut: false,
            closed: false,
            answer_seen: false,
        });
        self.history.streams.push(StreamRecord { client, vm, version, roots: Vec::new(), request_id, whole_at: None });
        self.tell(Happening::Requested(stream));
        stream
    }

    fn is_live(&self, stream: StreamId) -> Option<VmId> {
        let stream = &self.streams[stream];
        let vm = stream.vm.filter(|vm| self.proxies[vm.0].slots[vm.1].is_alive())?;
        (!stream.answered && !stream.closed).then_some(vm)
    }

    fn headers(&mut self, stream: StreamId, vm: VmId, ends: bool) {
        self.comes(stream, ends);
        for (index, context) in self.streams[stream].contexts.clone().into_iter().enumerate() {
            let count = self.streams[stream].data.borrow().headers.len();
            match self.callback(vm, |vm| vm.request_headers(context, count, ends)) {
                None => return,
                Some(Action::Pause) => {
                    self.streams[stream].held_by = Some(index);
                    return;
                }
                Some(Action::Continue) => {}
            }
        }
        if ends {
            self.schedule(MS, Event::ApplicationAnswers(stream));
        } else if text(&self.streams[stream].data.borrow().headers, ":path") == Some(HELD_PATH) {
            // Nobody holds it. Whoever gets such a path does not wait for a body.
            let wait = self.between(MS, 20 * MS);
            self.schedule(wait, Event::ApplicationAnswers(stream));
        }
    }

    /// A part of a request comes to its VM, perhaps the last.
    fn comes(&mut self, stream: StreamId, ends: bool) {
        if ends {
            self.history.streams[stream].whole_at = Some(self.now());
        }
    }

    /// The contexts that see the body: those before the one that holds the headers, and, where Envoy is told to, that.
    fn readers(&self, stream: StreamId, vm: VmId) -> Vec<ContextId> {
        let contexts = &self.streams[stream].contexts;
        let plan = &self.plan.proxies[vm.0];
        let without_holder = plan.gate_pair || plan.holder_missing;
        let end = match self.streams[stream].held_by {
            None => contexts.len(),
            Some(holder) if without_holder => holder,
            Some(holder) => holder + 1,
        };
        contexts.iter().take(end).copied().collect()
    }

    pub(super) fn piece(&mut self, stream: StreamId, index: usize) {
        let Some(vm) = self.is_live(stream) else { return };
        let plan = &self.plan.clients[self.streams[stream].client];
        let (from, to) = (plan.body.len() * index / plan.pieces, plan.body.len() * (index + 1) / plan.pieces);
        let ends = index + 1 == plan.pieces && !plan.trailers;
        let data = Rc::clone(&self.streams[stream].data);
        data.borrow_mut().body.extend(&plan.body[from..to]);
        data.borrow_mut().received += to - from;
        self.comes(stream, ends);
        for context in self.readers(stream, vm) {
            let held = self.streams[stream].data.borrow().body.len();
            if self.callback(vm, |vm| vm.request_body(context, held, ends)) != Some(Action::Continue) {
                return;
            }
        }
        self.pass(stream, ends);
    }

    pub(super) fn trailers(&mut self, stream: StreamId) {
        let Some(vm) = self.is_live(stream) else { return };
        self.comes(stream, true);
        for context in self.readers(stream, vm) {
            if self.callback(vm, |vm| vm.request_trailers(context, 1)) != Some(Action::Continue) {
                return;
            }
        }
        self.pass(stream, true);
    }

    /// Every filter has let a piece pass.
    fn pass(&mut self, stream: StreamId, ends: bool) {
        self.streams[stream].data.borrow_mut().body.clear();
        if ends && self.streams[stream].held_by.is_none() {
            self.schedule(MS, Event::ApplicationAnswers(stream));
        }
    }

    pub(super) fn application_answers(&mut self, stream: StreamId) {
        let Some(vm) = self.is_live(stream) else { return };
        if std::mem::replace(&mut self.streams[stream].answer_seen, true) {
            return;
        }
        for context in self.streams[stream].contexts.clone().into_iter().rev() {
            if self.callback(vm, |vm| vm.response_headers(context, 1, false)) == Some(Action::Pause) {
                // It answers itself.
                return;
            }
        }
        self.answer_stream(stream, Told::Application);
    }

    /// Tells a client something. What comes after its first answer Envoy ignores; the checker does not.
    pub(super) fn answer_stream(&mut self, stream: StreamId, told: Told) {
        self.tell(Happening::Told(stream, told.clone()));
        self.check_end_journaled(stream, &told);
        let first = !std::mem::replace(&mut self.streams[stream].answered, true);
        if !first {
            return;
        }
        if matches!(told, Told::Cut(_)) {
            // Envoy destroys the stream with its connection: nobody can answer it from here on.
            self.streams[stream].cut = true;
            self.close_stream(stream);
        } else {
            self.schedule(0, Event::CloseStream(stream));
        }
        let ended = match &told {
            Told::Answer { status, headers, .. } => *status != 504 || text(headers, "saga-status").is_none(),
            Told::Application => true,
            Told::Cut(_) => false,
        };
        if !self.front_tries_again(stream, &told) && !ended {
            self.repeat(stream);
        }
    }

    /// The proxy in front has got an answer, or none, with which it sends the request again.
    fn front_tries_again(&mut self, stream: StreamId, told: &Told) -> bool {
        let fails = match told {
            Told::Answer { status, .. } => [502, 503, 504].contains(status),
            Told::Application => false,
            Told::Cut(_) => true,
        };
        fails && self.front_asks_again(stream)
    }

    fn front_asks_again(&mut self, stream: StreamId) -> bool {
        let Stream { client, repeat, front, .. } = &self.streams[stream];
        let (client, repeat) = (*client, *repeat);
        let (Some(plan), Some(front)) = (self.plan.clients[client].front, front.clone()) else { return false };
        if front.number >= plan.attempts {
            return false;
        }
        let front = Some(FrontAttempt { number: front.number + 1, ..front });
        let wait = self.stream("front_retries").random_range(MS..100 * MS);
        self.schedule(wait, Event::ClientAsks { client, repeat, front });
        true
    }

    pub(super) fn client_leaves(&mut self, stream: StreamId) {
        if self.streams[stream].answered || self.streams[stream].closed {
            return;
        }
        self.tell(Happening::Left(stream));
        self.close_stream(stream);
        if !self.front_asks_again(stream) {
            self.repeat(stream);
        }
    }

    fn repeat(&mut self, stream: StreamId) {
        let (client, repeat) = (self.streams[stream].client, self.streams[stream].repeat);
        if repeat < self.plan.clients[client].repeats {
            let wait = self.between(100 * MS, 5 * SECOND);
            self.schedule(wait, Event::ClientAsks { client, repeat: repeat + 1, front: None });
        }
    }

    /// The stream has ended, answered or not: its contexts are told, and go.
    pub(super) fn close_stream(&mut self, stream: StreamId) {
        if std::mem::replace(&mut self.streams[stream].closed, true) {
            return;
        }
        let Some(vm) = self.streams[stream].vm else { return };
        if self.streams[stream].answered && !self.streams[stream].cut && !self.streams[stream].answer_seen {
            for context in self.streams[stream].contexts.clone().into_iter().rev() {
                self.callback(vm, |vm| vm.response_headers(context, 1, true));
            }
        }
        for context in self.streams[stream].contexts.clone() {
            self.callback(vm, |vm| vm.done(context));
            self.callback(vm, |vm| vm.log(context));
            self.callback(vm, |vm| {
                let deleted = vm.delete(context);
                vm.host().streams.remove(&context);
                deleted
            });
            self.stream_of.remove(&(vm, context));
        }
    }

    /// Cuts the connections of streams by their VM and the roots of their filters.
    pub(super) fn cut_streams(&mut self, cut: impl Fn(VmId, &[ContextId]) -> bool, why: &'static str) {
        for stream in 0..self.streams.len() {
            let open = !self.streams[stream].answered && !self.streams[stream].closed;
            if open && self.streams[stream].vm.is_some_and(|vm| cut(vm, &self.streams[stream].roots)) {
                self.answer_stream(stream, Told::Cut(why));
            }
        }
    }
}

fn request_headers(plan: &ClientPlan, request_id: &str) -> Headers {
    let line = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let mut headers = vec![
        line(":method", &plan.method),
        line(":path", &plan.path),
        line(":authority", "travel.example"),
        line(":scheme", "http"),
    ];
    headers.extend(plan.headers.clone());
    headers.push(line("x-request-id", request_id));
    if plan.pieces == 1 && !plan.trailers {
        headers.push(line("content-length", &plan.body.len().to_string()));
    }
    headers
}
