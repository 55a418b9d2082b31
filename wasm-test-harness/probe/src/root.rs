//! The root context: what a behaviour does outside of streams.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

use crate::stream::{Callout, Stream};
use crate::{Behaviour, answer, count};

/// What streams and their root share.
pub struct Shared {
    pub behaviour: Behaviour,
    pub messages: RefCell<Vec<Message>>,
    pub queue: Cell<Option<u32>>,
    /// Tells this root from those of all other VMs.
    pub nonce: u64,
}

/// What a stream leaves for its root.
pub enum Message {
    Callout(Callout),
    Answer { stream: u32, delay_ms: u64 },
}

pub struct Root {
    id: u32,
    shared: Option<Rc<Shared>>,
    waiting: Vec<u32>,
}

impl Root {
    pub fn new(id: u32) -> Root {
        Root { id, shared: None, waiting: Vec::new() }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Callout(callout) => {
                let _ = callout.dispatch();
            }
            Message::Answer { stream, delay_ms } => {
                self.waiting.push(stream);
                let _ = hostcalls::set_tick_period(Duration::from_millis(delay_ms.max(1)));
            }
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, _token: u32, num_headers: usize, _body_size: usize, _num_trailers: usize) {
        count(if num_headers == 0 { "root_got_nothing" } else { "root_got_an_answer" });
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let name = self.get_plugin_configuration().unwrap_or_default();
        let Some(behaviour) = std::str::from_utf8(&name).ok().and_then(Behaviour::named) else {
            log::error!("no such behaviour: {}", String::from_utf8_lossy(&name));
            return false;
        };
        count("configured");
        let nonce = RandomState::new().build_hasher().finish();
        let queue = match behaviour {
            Behaviour::SharedQueue => "probe.shared".to_owned(),
            _ => format!("probe.{}.{nonce}", self.id),
        };
        let queue = hostcalls::register_shared_queue(&queue).ok();
        let shared = Shared { behaviour, messages: RefCell::default(), queue: Cell::new(queue), nonce };
        self.shared = Some(Rc::new(shared));
        true
    }

    fn on_queue_ready(&mut self, queue: u32) {
        let Some(shared) = self.shared.clone() else { return };
        while let Ok(Some(item)) = hostcalls::dequeue_shared_queue(queue) {
            let own = item == shared.nonce.to_string().into_bytes();
            count(if own { "woken_by_a_stream_of_this_root" } else { "woken_by_another_root" });
        }
        for message in shared.messages.take() {
            self.take(message);
        }
    }

    fn on_tick(&mut self) {
        count("ticks");
        let Some(shared) = self.shared.clone() else { return };
        for stream in self.waiting.drain(..) {
            if shared.behaviour == Behaviour::AnswerNobody {
                // It would say so by a panic if Envoy did not answer Ok.
                answer(200, "nobody gets this");
                count("answered_with_the_root_effective");
            } else if hostcalls::set_effective_context(stream).is_ok() {
                answer(200, "from the root");
                let _ = hostcalls::set_effective_context(self.id);
                count("answered");
            } else {
                count("gone");
            }
        }
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let shared = self.shared.clone()?;
        Some(Box::new(Stream::new(id, shared)))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}
