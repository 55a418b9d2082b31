//! The stream context: what a behaviour does with a request.

use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType, Status};

use crate::root::{Message, Shared};
use crate::{Behaviour, answer, count, number, value, values};

const MIB: usize = 1024 * 1024;

pub struct Stream {
    id: u32,
    shared: Rc<Shared>,
    body_bytes: usize,
    ended_by: Option<&'static str>,
}

/// A callout as the headers of a request describe it.
pub struct Callout {
    cluster: String,
    headers: Vec<(String, String)>,
    timeout: Duration,
}

impl Callout {
    /// `x-probe-cluster`, `x-probe-authority`, `x-probe-path`, `x-probe-timeout-us` and any number of `x-probe-with: name=value`.
    fn described() -> Callout {
        let with = |name: &str, default: &str| value(name).unwrap_or_else(|| default.to_owned());
        let cluster = with("x-probe-cluster", "application");
        let mut headers = vec![
            (":method".to_owned(), "POST".to_owned()),
            (":path".to_owned(), with("x-probe-path", "/")),
            (":authority".to_owned(), with("x-probe-authority", "probe")),
        ];
        for value in values("x-probe-with") {
            let text = String::from_utf8_lossy(&value).into_owned();
            headers.extend(text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        let timeout = Duration::from_micros(number("x-probe-timeout-us").unwrap_or(5_000_000));
        Callout { cluster, headers, timeout }
    }

    pub fn dispatch(&self) -> Result<u32, Status> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        hostcalls::dispatch_http_call(&self.cluster, headers, None, Vec::new(), self.timeout)
    }
}

impl Stream {
    pub fn new(id: u32, shared: Rc<Shared>) -> Stream {
        Stream { id, shared, body_bytes: 0, ended_by: None }
    }

    fn wake_root(&self, message: Option<Message>) {
        self.shared.messages.borrow_mut().extend(message);
        if let Some(queue) = self.shared.queue.get() {
            let _ = hostcalls::enqueue_shared_queue(queue, Some(self.shared.nonce.to_string().as_bytes()));
        }
    }

    fn is(&self, behaviour: Behaviour) -> bool {
        self.shared.behaviour == behaviour
    }

    fn begin(&self) -> Action {
        match self.shared.behaviour {
            Behaviour::Count => return Action::Continue,
            Behaviour::Callout | Behaviour::Unwary => {
                if let Err(status) = Callout::described().dispatch() {
                    answer(200, &format!("not sent: {status:?}"));
                }
            }
            Behaviour::RootCallout => {
                self.wake_root(Some(Message::Callout(Callout::described())));
            }
            Behaviour::SharedQueue | Behaviour::OwnQueue => {
                self.wake_root(None);
                answer(200, "enqueued");
            }
            Behaviour::AnswerStream | Behaviour::AnswerNobody => {
                let delay_ms = number("x-probe-delay-ms").unwrap_or(1);
                self.wake_root(Some(Message::Answer { stream: self.id, delay_ms }));
            }
            Behaviour::Hold => {}
            Behaviour::Text => {
                let text = self.get_http_request_header("x-probe-text");
                answer(200, &text.unwrap_or_default());
            }
            Behaviour::Bytes => {
                let single = hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, "x-probe-text");
                let single = single.ok().flatten().unwrap_or_default();
                let all = values("x-probe-text");
                answer(200, &format!("single {single:?} of {}", all.len()));
            }
            Behaviour::Answer => answer_as_described(),
            Behaviour::Rearm => {
                let _ = hostcalls::set_tick_period(Duration::from_millis(200));
                answer(200, "armed");
            }
            Behaviour::SharedData => {
                let (keys, bytes) = shared_data();
                answer(200, &format!("{keys} {bytes}"));
            }
            Behaviour::Allocate => {
                let taken = std::hint::black_box(vec![1_u8; 64 * MIB]);
                drop(taken);
                let pages = core::arch::wasm32::memory_size::<0>();
                answer(200, &pages.to_string());
            }
        }
        Action::Pause
    }
}

/// Keys and bytes, found as the documentation of the journal says: rows, configurations and slots are numbered without
/// gaps, and start keys are in 4,096 buckets.
fn shared_data() -> (usize, usize) {
    let size = |key: String| match hostcalls::get_shared_data(&key) {
        Ok((value, Some(_))) => Some(key.len() + value.map_or(0, |value| value.len())),
        _ => None,
    };
    let rows = (0..).map_while(|row| size(format!("sagabox/vm/{row}")).map(|bytes| (row, bytes)));
    let of_rows = rows.flat_map(|(row, bytes)| {
        let slots = (0..).map_while(move |slot| size(format!("sagabox/vm/{row}/saga/{slot}")));
        slots.chain(size(format!("sagabox/vm/{row}/configuration"))).chain([bytes])
    });
    let buckets = (0..4_096).filter_map(|bucket| size(format!("sagabox/key/{bucket}")));
    of_rows.chain(buckets).fold((0, 0), |(keys, sum), bytes| (keys + 1, sum + bytes))
}

fn answer_as_described() {
    let status = number("x-probe-status").and_then(|status| status.try_into().ok()).unwrap_or(200);
    let header = value("x-probe-header").map(|value| value.replace('|', "\r\n"));
    let headers = header.iter().map(|value| ("x-answer", value.as_str())).collect();
    let body = value("x-probe-body").unwrap_or_default();
    let _ = hostcalls::send_http_response(status, headers, Some(body.as_bytes()));
}

impl Context for Stream {
    fn on_http_call_response(&mut self, _token: u32, num_headers: usize, body_size: usize, _num_trailers: usize) {
        count("stream_got_an_answer");
        if self.is(Behaviour::Unwary) {
            let all = self.get_http_call_response_headers_bytes().len();
            log::info!("{all} headers in the map");
            let status = self.get_http_call_response_header(":status");
            return answer(200, &format!("{} of all", status.unwrap_or_default()));
        }
        if num_headers == 0 {
            return answer(200, &format!("no headers, {body_size} bytes"));
        }
        let headers = self.get_http_call_response_headers_bytes();
        let find = |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value);
        let status = find(":status").map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
        let upstream = find("x-envoy-upstream-service-time").is_some();
        answer(200, &format!("{status}, {body_size} bytes, from upstream: {upstream}"));
    }

    fn on_done(&mut self) -> bool {
        count("done");
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        count("request_headers");
        self.begin()
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        count("request_body");
        if !self.is(Behaviour::Hold) {
            return Action::Continue;
        }
        self.body_bytes = body_size;
        if end_of_stream {
            self.ended_by = Some("the body callback");
            answer(200, &format!("{} bytes, ended by the body callback", self.body_bytes));
        }
        Action::Pause
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        count("request_trailers");
        if !self.is(Behaviour::Hold) {
            return Action::Continue;
        }
        let before = self.ended_by.unwrap_or("nothing");
        answer(200, &format!("{} bytes, trailers, before them ended by {before}", self.body_bytes));
        Action::Pause
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        count("response_headers");
        Action::Continue
    }

    fn on_http_response_body(&mut self, _body_size: usize, _end_of_stream: bool) -> Action {
        count("response_body");
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _num_trailers: usize) -> Action {
        count("response_trailers");
        Action::Continue
    }

    fn on_log(&mut self) {
        count("log");
    }
}
