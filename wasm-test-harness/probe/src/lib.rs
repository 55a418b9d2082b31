//! A module of small behaviours, by which tests show what Envoy does with a Wasm filter. The plugin's configuration, as
//! text, is the name of the `Behaviour`; what it is to do with a request is in the request's headers `x-probe-*`.

#![cfg(target_arch = "wasm32")]
#![allow(clippy::disallowed_methods, reason = "what they do is one of the things to be shown")]

mod root;
mod stream;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::RootContext;
use proxy_wasm::types::{LogLevel, MapType, MetricType};

/// What a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// Lets everything pass, and counts every callback.
    Count,
    /// Holds the request and makes a callout, from the stream, as `x-probe-*` say; answers what came of it.
    Callout,
    /// The same, but the callout is made from the root.
    RootCallout,
    /// Makes a callout and reads the headers of its answer, all and one, also where there are none.
    Unwary,
    /// Wakes roots by a queue that has the same name in every VM.
    SharedQueue,
    /// Wakes its root by a queue with a name of its own.
    OwnQueue,
    /// Answers from the root after `x-probe-delay-ms`, with the stream effective.
    AnswerStream,
    /// Answers from the root with the root effective.
    AnswerNobody,
    /// Pauses at the headers; answers when the body has ended, saying how it learned that.
    Hold,
    /// Reads `x-probe-text` as a `String`.
    Text,
    /// Reads `x-probe-text` singly and from the map, as bytes.
    Bytes,
    /// Answers with `x-probe-status`, `x-probe-header` (`|` stands for CR LF) and `x-probe-body`.
    Answer,
    /// Sets a tick of 200 ms anew with every request.
    Rearm,
    /// Answers how many keys of Sagabox there are in shared data, and how many bytes under them.
    SharedData,
    /// Takes 64 MiB, lets them go, and answers how much memory the VM has.
    Allocate,
}

impl Behaviour {
    fn named(name: &str) -> Option<Behaviour> {
        Some(match name {
            "count" => Behaviour::Count,
            "callout" => Behaviour::Callout,
            "root-callout" => Behaviour::RootCallout,
            "unwary" => Behaviour::Unwary,
            "shared-queue" => Behaviour::SharedQueue,
            "own-queue" => Behaviour::OwnQueue,
            "answer-stream" => Behaviour::AnswerStream,
            "answer-nobody" => Behaviour::AnswerNobody,
            "hold" => Behaviour::Hold,
            "text" => Behaviour::Text,
            "bytes" => Behaviour::Bytes,
            "answer" => Behaviour::Answer,
            "rearm" => Behaviour::Rearm,
            "shared-data" => Behaviour::SharedData,
            "allocate" => Behaviour::Allocate,
            _ => return None,
        })
    }
}

/// Raises the counter `probe.<name>`.
fn count(name: &str) {
    let metric = hostcalls::define_metric(MetricType::Counter, &format!("probe.{name}"));
    if let Ok(metric) = metric {
        let _ = hostcalls::increment_metric(metric, 1);
    }
}

/// The values of a request's header.
fn values(name: &str) -> Vec<Vec<u8>> {
    let headers = hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default();
    headers.into_iter().filter(|(found, _)| found == name).map(|(_, value)| value).collect()
}

/// The first value of a request's header as text.
fn value(name: &str) -> Option<String> {
    values(name).first().map(|value| String::from_utf8_lossy(value).into_owned())
}

fn number(name: &str) -> Option<u64> {
    value(name)?.parse().ok()
}

/// Answers the stream that is effective.
fn answer(status: u32, body: &str) {
    let _ = hostcalls::send_http_response(status, vec![("content-type", "text/plain")], Some(body.as_bytes()));
}

#[allow(unsafe_code, missing_docs)]
mod entry {
    use super::*;

    proxy_wasm::main! {{
        proxy_wasm::set_log_level(LogLevel::Info);
        proxy_wasm::set_root_context(|id| -> Box<dyn RootContext> { Box::new(root::Root::new(id)) });
    }}
}
