//! What the coordinator needs of Envoy.

use std::collections::HashMap;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{MetricType, Status};

use super::clock::{self, Clock};
use super::memory;
use crate::coordinator::{Client, Counter, Host, Token};
use crate::journal::{Conflict, JournalCall, SharedData, Version};
use crate::planted::{Planted, planted};
use crate::saga::{DispatchRefusal, Millis, OutgoingCall, Reply};

#[derive(Debug)]
pub(super) struct EnvoyHost {
    root: u32,
    clock: Clock,
    metrics: HashMap<Counter, u32>,
}

impl EnvoyHost {
    /// Takes the id of the root context that makes the callouts.
    pub(super) fn new(root: u32) -> EnvoyHost {
        let define = |counter: Counter| {
            hostcalls::define_metric(MetricType::Counter, counter.name()).ok().map(|id| (counter, id))
        };
        EnvoyHost { root, clock: Clock::start(), metrics: Counter::ALL.into_iter().filter_map(define).collect() }
    }
}

impl EnvoyHost {
    /// What Envoy has received of a client's request, in bytes. None: its stream has gone.
    pub(super) fn counted_bytes(&self, client: Client) -> Option<u64> {
        hostcalls::set_effective_context(client).ok()?;
        let counted = counted_bytes();
        if hostcalls::set_effective_context(self.root).is_err() {
            log::error!("the root context {} has gone", self.root);
        }
        counted
    }
}

impl SharedData for EnvoyHost {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        match hostcalls::get_shared_data(key) {
            // The SDK gives an empty value as none, with its version.
            Ok((value, Some(version))) => Some((value.unwrap_or_default(), version)),
            _ => None,
        }
    }

    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        // Envoy inserts a key that is not there whatever the version, and no value ever has this one.
        let read = read.unwrap_or(Version::MAX);
        hostcalls::set_shared_data(key, Some(value), Some(read)).map_err(|_| Conflict)
    }
}

impl Host for EnvoyHost {
    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn wall_time(&self) -> Millis {
        clock::wall()
    }

    fn random(&mut self) -> [u8; 10] {
        let mut bytes = [0; 10];
        if let Err(error) = getrandom::fill(&mut bytes) {
            // WASI's `random_get` is Envoy's own and does not fail. Were it to, ids would repeat within a millisecond.
            log::error!("no random numbers from the host: {error}");
        }
        bytes
    }

    fn dispatch(&mut self, call: &OutgoingCall) -> Result<Token, DispatchRefusal> {
        let timeout_ms = if planted(Planted::AttemptWithoutTimeout) { 0 } else { call.timeout_ms };
        dispatch(&call.cluster, &call.headers, call.body.as_deref(), timeout_ms)
    }

    fn ask(&mut self, call: &JournalCall) -> Result<Token, DispatchRefusal> {
        dispatch(&call.cluster, &call.headers, Some(&call.body), call.timeout_ms)
    }

    fn reply(&mut self, client: Client, reply: &Reply) {
        // With the root effective Envoy would say Ok and answer nobody. The error says that the stream has gone.
        if hostcalls::set_effective_context(client).is_ok() {
            send(reply);
            if hostcalls::set_effective_context(self.root).is_err() {
                log::error!("the root context {} has gone", self.root);
            }
        }
    }

    fn count(&mut self, counter: Counter) {
        if let Some(metric) = self.metrics.get(&counter)
            && let Err(status) = hostcalls::increment_metric(*metric, 1)
        {
            log::warn!("{} was not counted: {status:?}", counter.name());
        }
    }

    fn allocated_bytes(&self) -> usize {
        memory::allocated_bytes()
    }
}

/// Sends a request from the context that is effective: the root's.
fn dispatch(
    cluster: &str,
    headers: &[(String, String)],
    body: Option<&str>,
    timeout_ms: u32,
) -> Result<Token, DispatchRefusal> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let timeout = Duration::from_millis(u64::from(timeout_ms));
    let body = body.map(str::as_bytes);
    hostcalls::dispatch_http_call(cluster, headers, body, Vec::new(), timeout).map_err(|status| match status {
        // Envoy says so of a cluster that it does not know; one without endpoints is an internal failure to it.
        Status::BadArgument => DispatchRefusal::UnknownCluster,
        _ => DispatchRefusal::Unavailable,
    })
}

/// Answers the stream that is effective.
pub(super) fn send(reply: &Reply) {
    let headers = reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = reply.body.as_ref().map(String::as_bytes);
    if let Err(status) = hostcalls::send_http_response(u32::from(reply.status), headers, body) {
        log::warn!("an answer of {} was not sent: {status:?}", reply.status);
    }
}

/// What Envoy has received of the request of the stream that is effective, in bytes: its headers, and its body so far.
pub(super) fn counted_bytes() -> Option<u64> {
    let bytes = hostcalls::get_property(vec!["request", "total_size"]).ok().flatten()?;
    u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok()
}
