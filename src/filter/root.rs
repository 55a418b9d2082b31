//! The root context: one for each configuration and worker. It owns the sagas.

use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{BufferType, ContextType, MapType};

use super::gate::Gate;
use super::host::EnvoyHost;
use super::inbox::{Inbox, Message};
use super::memory::{self, OfConfiguration};
use super::stream::{Begins, Intake, Stream};
use crate::config::{self, Configuration, Role};
use crate::coordinator::{Coordinator, Counter, Host};
use crate::facts::ParticipantResponse;
use crate::hold::NotHeld;
use crate::journal::AnyJournal;
use crate::matcher::MatcherTable;
use crate::planted::{Planted, planted};
use crate::saga::{AttemptResult, Millis};

pub(super) struct Root {
    id: u32,
    serving: Option<Serving>,
    /// Goes with what it counts.
    of_configuration: OfConfiguration,
    /// Envoy wants this root to end; it does when its last saga has.
    ending: bool,
}

enum Serving {
    Gate,
    Coordinator(Box<Worker>),
}

struct Worker {
    intake: Rc<Intake>,
    inbox: Rc<Inbox>,
    host: EnvoyHost,
    coordinator: Coordinator<AnyJournal>,
    max_body: usize,
    /// When the next tick comes; none: none was ever set.
    tick_at: Option<Millis>,
}

/// After a tick Envoy goes on with the period that was set: a tick will come, but at no time that anything needs.
const TICKS_ANYHOW: Millis = Millis::MAX;

/// Where nothing is due: else Envoy would go on with the last period, however short that was.
const LONGEST_PERIOD_MS: Millis = 60_000;

impl Root {
    pub(super) fn new(id: u32) -> Root {
        Root { id, serving: None, of_configuration: OfConfiguration::default(), ending: false }
    }

    fn with_worker(&mut self, act: impl FnOnce(&mut Worker)) {
        let Some(Serving::Coordinator(worker)) = &mut self.serving else { return };
        worker.take_messages();
        worker.refuse_unread();
        worker.refuse_late();
        act(worker);
        worker.coordinator.settle(&mut worker.host);
        worker.set_tick();
        if self.ending && worker.coordinator.open() == 0 {
            self.ending = false;
            worker.coordinator.leave(&mut worker.host);
            if let Err(status) = hostcalls::done() {
                log::warn!("the old configuration was not let go: {status:?}");
            }
        }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, num_headers: usize, body_size: usize, _num_trailers: usize) {
        self.with_worker(|worker| {
            let limit = if worker.coordinator.is_of_journal(token) { usize::MAX } else { worker.max_body };
            let result = callout_result(num_headers, body_size, limit);
            worker.coordinator.ended(&mut worker.host, token, result);
        });
    }

    /// The listener of this configuration has drained. Answering false keeps this root, its timers and its callouts
    /// until it says that it is done.
    fn on_done(&mut self) -> bool {
        let Some(Serving::Coordinator(worker)) = &mut self.serving else { return true };
        worker.take_messages();
        worker.coordinator.settle(&mut worker.host);
        worker.set_tick();
        self.ending = worker.coordinator.open() > 0 && !planted(Planted::OldConfigurationLetGo);
        if !self.ending {
            worker.coordinator.leave(&mut worker.host);
        }
        !self.ending
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = match hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(status) => {
                log::error!("the configuration cannot be read: {status:?}");
                return false;
            }
        };
        let id = self.id;
        let serve = || config::load(&bytes).map(|configuration| Serving::new(id, configuration));
        match OfConfiguration::measure(serve) {
            (Ok(serving), of_configuration) => {
                (self.serving, self.of_configuration) = (Some(serving), of_configuration);
                true
            }
            (Err(errors), _) => {
                for error in &errors.0 {
                    log::error!("configuration: {error}");
                }
                false
            }
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        // Envoy calls once for each item. What is in it does not matter, and an empty one cannot be told from none.
        if let Err(status) = hostcalls::dequeue_shared_queue(queue) {
            log::debug!("an item of queue {queue} was not taken: {status:?}");
        }
        self.with_worker(|_| {});
    }

    fn on_tick(&mut self) {
        self.with_worker(|worker| {
            worker.tick_at = Some(TICKS_ANYHOW);
            worker.coordinator.due(&mut worker.host);
        });
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        match &self.serving {
            Some(Serving::Coordinator(worker)) => {
                Some(Box::new(Stream::new(id, Rc::clone(&worker.intake), Rc::clone(&worker.inbox))))
            }
            // Without a configuration Envoy does not serve at all.
            Some(Serving::Gate) | None => Some(Box::<Gate>::default()),
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Serving {
    fn new(root: u32, configuration: Configuration) -> Serving {
        for warning in &configuration.warnings {
            log::warn!("configuration: {warning}");
        }
        let Role::Coordinator { gate } = configuration.role else { return Serving::Gate };
        let max_body = configuration.limits.max_body;
        let mut host = EnvoyHost::new(root);
        let name = unique_name(root, host.random());
        let journal = AnyJournal::new(name.clone(), &configuration);
        let intake = Intake {
            table: MatcherTable::new(&configuration.definitions),
            definitions: Begins::of_all(configuration.definitions, &configuration.forward_headers),
            gate,
            max_body,
        };
        let inbox = Rc::new(Inbox::new(&configuration.limits));
        match hostcalls::register_shared_queue(&queue_name(&name)) {
            Ok(queue) => inbox.wake_by(queue),
            Err(status) => log::error!("no queue to wake the root by: {status:?}"),
        }
        let (limits, headers) = (configuration.limits, configuration.forward_headers);
        let coordinator = Coordinator::sharing(memory::reserved(), journal, limits, headers);
        let intake = Rc::new(intake);
        let mut worker = Worker { intake, inbox, host, coordinator, max_body, tick_at: None };
        // Also a VM that never gets a request looks whether others have gone.
        worker.set_tick();
        Serving::Coordinator(Box::new(worker))
    }
}

/// A name that no other root of any VM has.
fn unique_name(root: u32, random: [u8; 10]) -> String {
    let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{random}.{root}")
}

/// A queue belongs to the VM that registered its name last, so each root of each VM has a queue of its own.
fn queue_name(name: &str) -> String {
    if planted(Planted::OneQueueName) {
        return "sagabox.wake".to_owned();
    }
    format!("sagabox.wake.{name}")
}

impl Worker {
    fn take_messages(&mut self) {
        for message in self.inbox.take() {
            match message {
                Message::Begin(matched) => {
                    self.inbox.held().take(matched.client);
                    self.coordinator.begin(&mut self.host, matched);
                }
                Message::Gone(client) => self.coordinator.client_gone(client),
                Message::NotHeld => self.host.count(Counter::RequestNotHeld),
            }
        }
    }

    /// Refuses the requests that are paused and that Envoy will never hand over.
    fn refuse_unread(&mut self) {
        let now = self.host.now();
        let kept_back = self.inbox.unread().look(now, |client| self.host.counted_bytes(client));
        for client in kept_back {
            log::warn!("a request was refused: {}", NotHeld::OptionMissing.detail());
            self.host.count(Counter::RequestNotHeld);
            self.inbox.held().gone(client);
            self.host.reply(client, &NotHeld::OptionMissing.reply());
        }
    }

    /// Refuses the requests that do not come to their end.
    fn refuse_late(&mut self) {
        let late = self.inbox.held().look(self.host.now());
        for (client, reply) in late {
            self.host.reply(client, &reply);
        }
    }

    /// Setting the tick starts its countdown anew, so it is set only where the next due time has become earlier.
    fn set_tick(&mut self) {
        let now = self.host.now();
        let looks = [self.inbox.unread().next_look(), self.inbox.held().next_look()];
        let look = looks.into_iter().flatten().min().unwrap_or(Millis::MAX);
        let due = self.coordinator.next_due().min(look).min(now.saturating_add(LONGEST_PERIOD_MS));
        let always = planted(Planted::TickAlwaysSet);
        if always || self.tick_at.is_none_or(|tick_at| due < tick_at) {
            let wait = if always { 1_000 } else { due.saturating_sub(now).max(1) };
            self.tick_at = Some(now.saturating_add(wait));
            set_tick_period(Duration::from_millis(wait));
        }
    }
}

/// The answer that Envoy holds for the callout that has just ended. A body of more than `max_body` bytes is not kept.
fn callout_result(num_headers: usize, body_size: usize, max_body: usize) -> AttemptResult {
    // A response that was cut short, timed out after its head, or is larger than Envoy keeps, has no headers. Asking
    // for a single one then makes the SDK panic.
    if planted(Planted::NoHeadersAskedFor) {
        let _ = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status");
    }
    if num_headers == 0 {
        return AttemptResult::NoAnswer;
    }
    let Ok(mut headers) = hostcalls::get_map_bytes(MapType::HttpCallResponseHeaders) else {
        return AttemptResult::NoAnswer;
    };
    let code = headers.iter().find(|(name, _)| name == ":status");
    let code = code.and_then(|(_, value)| std::str::from_utf8(value).ok()).and_then(|code| code.parse().ok());
    let Some(code) = code else { return AttemptResult::NoAnswer };
    headers.retain(|(name, _)| !name.starts_with(':'));
    let body = if body_size > max_body {
        None
    } else if body_size == 0 {
        Some(Vec::new())
    } else {
        hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).ok().flatten()
    };
    AttemptResult::of(ParticipantResponse { code, headers, body })
}

fn set_tick_period(period: Duration) {
    if let Err(status) = hostcalls::set_tick_period(period) {
        log::error!("the tick was not set: {status:?}");
    }
}
