//! The stream context: finds out whether a request begins a saga, holds it, reads its body, and leaves it to the root.

use std::rc::Rc;
use std::sync::Arc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, BufferType, MapType};

use super::gate::{HELD_PATH, MARK};
use super::host::send;
use super::inbox::{Inbox, Message};
use crate::coordinator::{MatchedRequest, not_handed_over, too_large};
use crate::definition::Definition;
use crate::facts::ClientRequest;
use crate::matcher::{MatcherTable, RequestHead};
use crate::planted::{TRAP_HEADER, TRAP_IN_BEGIN, trap_where};

/// What every stream needs of the configuration.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) table: MatcherTable,
    pub(super) definitions: Vec<Arc<Definition>>,
    /// A gate stands behind this instance.
    pub(super) gate: bool,
    pub(super) max_body: usize,
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
    Collecting(Box<MatchedRequest>),
    /// The root has it.
    Handed,
    /// It was refused here; the root never knew of it.
    Refused,
}

impl Stream {
    pub(super) fn new(id: u32, intake: Rc<Intake>, inbox: Rc<Inbox>) -> Stream {
        Stream { id, intake, inbox, phase: Phase::Passing }
    }

    fn matched(&self) -> Option<MatchedRequest> {
        // A query that is not UTF-8 must not carry a request past its saga.
        let path = String::from_utf8_lossy(&bytes(":path")?).into_owned();
        if !self.intake.table.could_match(&path) {
            return None;
        }
        let method = text(":method")?;
        let host = text(":authority").unwrap_or_default();
        let head = RequestHead { method: &method, path: &path, host: &host, header: &header };
        let (index, params) = self.intake.table.find(&head)?;
        let definition = Arc::clone(self.intake.definitions.get(index)?);
        let mut headers = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).ok()?;
        headers.retain(|(name, _)| !name.starts_with(':'));
        let request = ClientRequest { method, path, host, headers, body: Vec::new() };
        Some(MatchedRequest { client: self.id, definition, params, request })
    }

    /// The headers must stop here or, with a gate, right behind.
    fn hold(&self) -> Action {
        if !self.intake.gate {
            return Action::Pause;
        }
        let marked = set_header(MARK, Some("1")) && set_header(":path", Some(HELD_PATH));
        if !marked {
            log::error!("a request could not be marked for the gate");
            return Action::Pause;
        }
        // The route was chosen for the path that the request had.
        if let Err(status) = hostcalls::call_foreign_function("clear_route_cache", None) {
            log::warn!("the route of a held request was kept: {status:?}");
        }
        Action::Continue
    }

    fn hand_over(&mut self, body: Vec<u8>) -> Action {
        if let Phase::Collecting(mut matched) = std::mem::replace(&mut self.phase, Phase::Handed) {
            matched.request.body = body;
            if let Err(Message::Begin(matched)) = self.inbox.leave_and_wake(Message::Begin(*matched)) {
                self.phase = Phase::Refused;
                send(&not_handed_over(&matched));
            }
        }
        Action::Pause
    }

    fn refuse_body(&mut self) -> Action {
        self.phase = Phase::Refused;
        send(&too_large(self.intake.max_body));
        Action::Pause
    }

    fn announced_too_large(&self) -> bool {
        let announced = text("content-length").and_then(|length| length.parse::<u64>().ok());
        announced.is_some_and(|length| length > self.intake.max_body as u64)
    }
}

impl Context for Stream {
    fn on_done(&mut self) -> bool {
        if matches!(self.phase, Phase::Handed) {
            self.inbox.leave(Message::Gone(self.id));
        }
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        if self.intake.gate {
            set_header(MARK, None);
        }
        let Some(matched) = self.matched() else { return Action::Continue };
        trap_where(|| bytes(TRAP_HEADER).is_some_and(|value| value != TRAP_IN_BEGIN.as_bytes()));
        self.phase = Phase::Collecting(Box::new(matched));
        if end_of_stream {
            return self.hand_over(Vec::new());
        }
        if self.announced_too_large() {
            return self.refuse_body();
        }
        self.hold()
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        match self.phase {
            Phase::Passing => Action::Continue,
            Phase::Handed | Phase::Refused => Action::Pause,
            Phase::Collecting(_) if body_size > self.intake.max_body => self.refuse_body(),
            Phase::Collecting(_) if end_of_stream => self.hand_over(buffered_body()),
            Phase::Collecting(_) => Action::Pause,
        }
    }

    /// With trailers no call says that the body has ended.
    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        match self.phase {
            Phase::Passing => Action::Continue,
            Phase::Handed | Phase::Refused => Action::Pause,
            Phase::Collecting(_) => self.hand_over(buffered_body()),
        }
    }
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
