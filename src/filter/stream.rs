//! The stream context: finds out whether a request begins a saga, holds it, reads its body, and leaves it to the root.

use std::rc::Rc;
use std::sync::Arc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};

use super::gate::{hold_state, set_hold_state};
use super::host::{counted_bytes, send};
use super::inbox::{Inbox, Message};
use crate::coordinator::{HeadersRead, MatchedRequest, not_handed_over, too_large};
use crate::definition::Definition;
use crate::facts::ClientRequest;
use crate::hold::{CREDENTIALS, HELD_PATH, HoldState, Incoming, NotHeld, ORIGINAL_PATH};
use crate::journal::IdempotencyKey;
use crate::matcher::{MatcherTable, RequestHead, Resemblance};
use crate::planted::{Planted, TRAP_HEADER, TRAP_IN_BEGIN, planted, trap_where};
use crate::saga::{Problem, Reply};

/// What every stream needs of the configuration.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) table: MatcherTable,
    pub(super) definitions: Vec<Begins>,
    /// A gate stands behind this instance.
    pub(super) gate: bool,
    pub(super) max_body: usize,
}

/// What a request that matches begins.
#[derive(Debug)]
pub(super) struct Begins {
    definition: Arc<Definition>,
    read: HeadersRead,
    deadline_ms: u64,
}

impl Begins {
    pub(super) fn of_all(definitions: Vec<Arc<Definition>>, forward_headers: &[String]) -> Vec<Begins> {
        let begins = definitions.into_iter().map(|definition| Begins {
            read: HeadersRead::of(&definition, forward_headers),
            deadline_ms: u64::try_from(definition.deadline.as_millis()).unwrap_or(u64::MAX),
            definition,
        });
        begins.collect()
    }
}

pub(super) struct Stream {
    id: u32,
    intake: Rc<Intake>,
    inbox: Rc<Inbox>,
    phase: Phase,
}

enum Phase {
    /// The request is none of ours.
    Passing,
    /// It begins a saga once its body is here.
    Collecting(Collecting),
    /// The root has it.
    Handed,
    /// It was refused here; the root never knew of it.
    Refused,
}

/// A request that is not whole yet. The rest of it lies with Envoy until then.
struct Collecting {
    /// Index in [`Intake::definitions`].
    definition: usize,
    params: Vec<(String, String)>,
    /// Of a request that is let through to a gate: Envoy shows its headers to this instance only once.
    request: Option<Box<ClientRequest>>,
}

impl Stream {
    pub(super) fn new(id: u32, intake: Rc<Intake>, inbox: Rc<Inbox>) -> Stream {
        Stream { id, intake, inbox, phase: Phase::Passing }
    }

    /// The request, if it begins a saga. What only resembles one that does is an error: the application might take it for
    /// that. None: it is none of ours.
    fn matched(&self) -> Option<Result<Collecting, Resemblance>> {
        // A query that is not UTF-8 must not carry a request past its saga.
        let path = String::from_utf8_lossy(&bytes(":path")?).into_owned();
        if !self.intake.table.could_match(&path) {
            return None;
        }
        let method = text(":method")?;
        let host = text(":authority").unwrap_or_default();
        let head = RequestHead { method: &method, path: &path, host: &host, header: &header };
        let Some((definition, params)) = self.intake.table.find(&head) else {
            return self.intake.table.resemblance(&head).map(Err);
        };
        // A pair in front of this instance has it, and no request begins two sagas.
        if hold_state() != Ok(None) {
            return None;
        }
        Some(Ok(Collecting { definition, params, request: None }))
    }

    /// Whether there is room for the request: the answer if there is none.
    fn admit(&self, begins: &Begins, header_lines: usize) -> Result<(), Reply> {
        let incoming = Incoming {
            client: self.id,
            header_bytes: counted_bytes().unwrap_or_default(),
            header_lines,
            deadline_ms: begins.deadline_ms,
            may_be_repeated: IdempotencyKey::may_be_of(&begins.definition, |name| bytes(name).is_some()),
        };
        self.inbox.held().admit(incoming).map_err(|limit| limit.reply(incoming.may_be_repeated))
    }

    /// The headers must stop here or, with a gate, right behind.
    fn hold(&mut self, announced: Option<u64>) -> Action {
        if self.intake.gate {
            return self.ask_gate();
        }
        // Else a client could choose what the access log says of its request.
        set_header(ORIGINAL_PATH, None);
        if !self.inbox.unread().is_option_seen() && !planted(Planted::UnreadForgotten) {
            self.inbox.unread().add(self.id, announced, counted_bytes().unwrap_or_default());
            self.inbox.wake();
        }
        Action::Pause
    }

    fn ask_gate(&mut self) -> Action {
        if let Phase::Collecting(collecting) = &mut self.phase
            && let Some(begins) = self.intake.definitions.get(collecting.definition)
        {
            match request(begins) {
                Ok(request) => collecting.request = Some(Box::new(request)),
                Err(reply) => return self.refuse(&reply),
            }
        }
        let path = bytes(":path").unwrap_or_default();
        let kept = hostcalls::set_map_value_bytes(MapType::HttpRequestHeaders, ORIGINAL_PATH, Some(&path)).is_ok();
        if !(kept && set_header(":path", Some(HELD_PATH)) && set_hold_state(HoldState::Asked)) {
            return self.refuse_not_held();
        }
        for name in CREDENTIALS {
            set_header(name, None);
        }
        // The route was chosen for the path that the request had.
        if let Err(status) = hostcalls::call_foreign_function("clear_route_cache", None) {
            log::warn!("the route of a held request was kept: {status:?}");
        }
        Action::Continue
    }

    /// Envoy hands over what follows the headers. Where they were paused for it, the option is set; what its root has
    /// refused meanwhile stays refused.
    fn note_body(&mut self) {
        if !matches!(self.phase, Phase::Collecting(_)) {
            return;
        }
        if !self.inbox.held().is_collecting(self.id) {
            self.phase = Phase::Refused;
        } else if !self.intake.gate && !self.inbox.unread().is_option_seen() {
            self.inbox.unread().read();
        }
    }

    /// The whole request is here, its body after its headers.
    fn hand_over_body(&mut self) -> Action {
        if self.intake.gate && !is_held() && !planted(Planted::GateNotAsked) {
            return self.refuse_not_held();
        }
        self.hand_over(buffered_body())
    }

    fn refuse_not_held(&mut self) -> Action {
        if let Phase::Collecting(collecting) = &self.phase
            && let Some(begins) = self.intake.definitions.get(collecting.definition)
        {
            log::warn!("a request for {} was refused: {}", begins.definition.name, NotHeld::GateMissing.detail());
        }
        if self.inbox.leave_and_wake(Message::NotHeld).is_err() {
            log::warn!("a request that nobody holds was not counted");
        }
        self.refuse(&NotHeld::GateMissing.reply())
    }

    fn hand_over(&mut self, body: Vec<u8>) -> Action {
        let Phase::Collecting(collecting) = std::mem::replace(&mut self.phase, Phase::Handed) else {
            return Action::Pause;
        };
        let Some(begins) = self.intake.definitions.get(collecting.definition) else { return Action::Pause };
        let request = match collecting.request.map_or_else(|| request(begins), |request| Ok(*request)) {
            Ok(request) => ClientRequest { body, ..request },
            Err(reply) => return self.refuse(&reply),
        };
        let (definition, params) = (Arc::clone(&begins.definition), collecting.params);
        let matched = MatchedRequest { client: self.id, definition, params, request };
        match self.inbox.leave_and_wake(Message::Begin(matched)) {
            Err(Message::Begin(matched)) => return self.refuse(&not_handed_over(&matched)),
            Ok(()) | Err(_) => self.inbox.held().hand_over(self.id),
        }
        Action::Pause
    }

    fn refuse(&mut self, reply: &Reply) -> Action {
        self.phase = Phase::Refused;
        self.inbox.held().gone(self.id);
        send(reply);
        Action::Pause
    }

    /// So many bytes of the body are here.
    fn receive(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if body_size > self.intake.max_body {
            return self.refuse(&too_large(self.intake.max_body));
        }
        let received = self.inbox.held().receive(self.id, body_size);
        match received {
            Err(reply) => self.refuse(&reply),
            Ok(()) if end_of_stream => self.hand_over_body(),
            Ok(()) => Action::Pause,
        }
    }
}

impl Context for Stream {
    fn on_done(&mut self) -> bool {
        self.inbox.unread().gone(self.id);
        self.inbox.held().gone(self.id);
        if matches!(self.phase, Phase::Handed) {
            self.inbox.leave(Message::Gone(self.id));
        }
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, num_headers: usize, end_of_stream: bool) -> Action {
        let collecting = match self.matched() {
            None => return Action::Continue,
            Some(Err(resemblance)) => return self.refuse(&resemblance.reply()),
            Some(Ok(collecting)) => collecting,
        };
        trap_where(|| bytes(TRAP_HEADER).is_some_and(|value| value != TRAP_IN_BEGIN.as_bytes()));
        let Some(begins) = self.intake.definitions.get(collecting.definition) else { return Action::Continue };
        if let Err(reply) = self.admit(begins, num_headers) {
            return self.refuse(&reply);
        }
        self.phase = Phase::Collecting(collecting);
        if end_of_stream {
            return self.hand_over(Vec::new());
        }
        let announced = text("content-length").and_then(|length| length.parse::<u64>().ok());
        if announced.is_some_and(|length| length > self.intake.max_body as u64) {
            return self.refuse(&too_large(self.intake.max_body));
        }
        self.hold(announced)
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        self.note_body();
        match self.phase {
            Phase::Passing => Action::Continue,
            Phase::Handed | Phase::Refused => Action::Pause,
            Phase::Collecting(_) => self.receive(body_size, end_of_stream),
        }
    }

    /// With trailers no call says that the body has ended.
    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        self.note_body();
        match self.phase {
            Phase::Passing => Action::Continue,
            Phase::Handed | Phase::Refused => Action::Pause,
            Phase::Collecting(_) => self.hand_over_body(),
        }
    }

    /// An answer before the saga has begun is Envoy's own (a timeout), or of whoever got what no gate has held.
    fn on_http_response_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        let is_waiting = self.intake.gate && matches!(self.phase, Phase::Collecting(_));
        if is_waiting && !is_held() && !planted(Planted::GateNotAsked) {
            return self.refuse_not_held();
        }
        Action::Continue
    }
}

/// What is read of the request of the stream that is effective, but its body. An error is the answer.
fn request(begins: &Begins) -> Result<ClientRequest, Reply> {
    match hostcalls::get_map_bytes(MapType::HttpRequestHeaders) {
        Ok(lines) => begins.read.request(lines),
        Err(status) => {
            log::error!("the headers of a request cannot be read: {status:?}");
            Err(Problem::fate_unknown("the proxy could not read the headers of the request"))
        }
    }
}

/// Whether a gate holds the stream that is effective.
fn is_held() -> bool {
    hold_state() == Ok(Some(HoldState::Held))
}

/// Everything of the body so far: while the callback pauses, Envoy keeps it.
fn buffered_body() -> Vec<u8> {
    hostcalls::get_buffer(BufferType::HttpRequestBody, 0, usize::MAX).ok().flatten().unwrap_or_default()
}

/// The first line of a header.
fn bytes(name: &str) -> Option<Vec<u8>> {
    hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, name).ok().flatten()
}

/// None also where the value is not UTF-8.
fn text(name: &str) -> Option<String> {
    String::from_utf8(bytes(name)?).ok()
}

/// All lines of a header, joined.
fn header(name: &str) -> Option<String> {
    // Reading one line is cheap, and most headers that are asked for are not there.
    bytes(name)?;
    let all = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).ok()?;
    let lines = all.iter().filter(|(other, _)| other == name);
    let lines: Vec<_> = lines.map(|(_, value)| String::from_utf8_lossy(value)).collect();
    (!lines.is_empty()).then(|| lines.join(","))
}

fn set_header(name: &str, value: Option<&str>) -> bool {
    hostcalls::set_map_value(MapType::HttpRequestHeaders, name, value).is_ok()
}
