//! Memory, buffers, and what a request costs that is none of the filter's.

use std::time::Duration;

use harness::application::Application;
use harness::envoy::{Envoy, RunningEnvoy};
use harness::loopback::{self, Client, Outgoing};
use harness::participant::{Action, AttemptFilter, Fault, FaultKind};
use harness::trip::{BodyMode, CONFIGURATION, Trip, TripRequest};
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::json;

use super::probe::Probed;
use crate::memory::resident_bytes;
use crate::trap;

const MIB: u64 = 1024 * 1024;

#[tokio::test]
async fn memory_that_a_module_lets_go_is_used_again_and_not_given_back() {
    let probed = Probed::start(&["allocate"]).await;
    let mut pages = Vec::new();
    for _ in 0..5 {
        pages.push(probed.ask("allocate", &[]).await.parse::<u64>().unwrap());
    }
    // A page has 64 KiB.
    assert!(pages[0] >= 64 * 16, "{pages:?}");
    assert!(pages.iter().all(|later| *later == pages[0]), "{pages:?}");
}

#[tokio::test]
async fn rounds_of_sagas_take_no_more_memory_than_the_first_ones() {
    let trip = Trip::start().await.unwrap();
    let round = async |round: usize| {
        for batch in 0..5 {
            let requests: Vec<_> = (0..20).map(|number| format!("{round}-{batch}-{number}")).collect();
            let book = async |guest: String| {
                let mut body = TripRequest::of(guest).body();
                body["seat"] = json!("x".repeat(100_000));
                Client::http1().post_json(&trip.url(BodyMode::Option), &body, &[]).await
            };
            for answer in futures::future::join_all(requests.into_iter().map(book)).await {
                assert_eq!(answer.unwrap().status, 201);
            }
        }
        resident_bytes(trip.envoy.pid())
    };
    let mut memory = Vec::new();
    for number in 0..6 {
        memory.push(round(number).await / MIB);
    }
    println!("MiB after each round: {memory:?}");
    assert!(memory[5] <= memory[1] + 12, "MiB after each round: {memory:?}");
}

#[tokio::test]
async fn bodies_over_the_listeners_buffer_are_answered_413_by_envoy() {
    let trip = Trip::start_with(|envoy| {
        envoy.workers(1).edit(|yaml| {
            for listener in yaml["static_resources"]["listeners"].as_sequence_mut().unwrap() {
                listener["per_connection_buffer_limit_bytes"] = 65536.into();
            }
        })
    });
    let trip = trip.await.unwrap();
    let send = async |client: Client, mode: BodyMode, guest: &str| {
        let mut body = TripRequest::of(guest).body();
        body["filler"] = json!("x".repeat(300_000));
        let pieces: Vec<_> = body.to_string().into_bytes().chunks(16_384).map(bytes::Bytes::copy_from_slice).collect();
        let body = Outgoing::stream(futures::stream::iter(pieces), HeaderMap::new());
        client.send(loopback::request(Method::POST, &trip.url(mode), &[], body).unwrap()).await.unwrap()
    };
    for mode in BodyMode::ALL {
        let answer = send(Client::http1(), mode, "ann").await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (413, "Payload Too Large"), "{mode:?}");
        assert_eq!(answer.header("saga-id"), None);
    }
    assert!(trip.hotel.attempts(&AttemptFilter::default()).unwrap().is_empty());
    // Of HTTP/2 it is the window of the stream that counts, which is larger.
    for mode in BodyMode::ALL {
        let answer = send(Client::http2(), mode, &format!("{mode:?}")).await;
        assert_eq!(answer.status, 201, "{mode:?}: {}", answer.text());
    }
    trap::assert_none(&trip.envoy);
}

#[tokio::test]
async fn every_callback_is_called_for_every_request() {
    let probed = Probed::start(&["count"]).await;
    let answer = probed.post("count", &[], "body").await.unwrap();
    assert_eq!(answer.header("x-application"), Some("here"));
    for callback in ["request_headers", "request_body", "response_headers", "response_body", "done", "log"] {
        for _ in 0..100 {
            if probed.count(callback).await > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(probed.count(callback).await > 0, "{callback}");
    }
}

#[tokio::test]
async fn a_request_that_begins_no_saga_costs_little_more_than_without_the_filter() {
    let application = Application::start().await.unwrap();
    let start = async |filter: bool| {
        let envoy = Envoy::from_file(CONFIGURATION).workers(1).upstream("application", application.address());
        let envoy = envoy.edit(move |yaml| {
            let manager = &mut yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            if !filter {
                manager["typed_config"]["http_filters"].as_sequence_mut().unwrap().remove(0);
            }
        });
        envoy.start().await.unwrap()
    };
    let (with, without) = (start(true).await, start(false).await);
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let with = cost(&with, 1500).await;
        let without = cost(&without, 1500).await;
        println!("of 1,500 requests: {with:?} with, {without:?} without");
        ratios.push(with.as_secs_f64() / without.as_secs_f64());
    }
    let best = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    // Measured: 1.4 to 1.6. A filter that looked at bodies or ran expressions would be far above.
    assert!(best < 3.0, "{ratios:?}");
}

/// What `requests` requests that begin no saga cost an Envoy.
async fn cost(envoy: &RunningEnvoy, requests: u32) -> Duration {
    let client = Client::http1();
    let url = format!("http://{}/other", envoy.listener("trip"));
    client.get(&url).await.unwrap();
    let before = cpu_time(envoy.pid());
    for _ in 0..requests {
        assert_eq!(client.get(&url).await.unwrap().status, 200);
    }
    cpu_time(envoy.pid()) - before
}

/// The time that the threads of a process have been on a processor.
fn cpu_time(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|first| first.parse::<u64>().ok()).unwrap_or(0)
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Envoy keeps 32 MiB of every answer to a callout unless `http.async_response_buffer_limit` says otherwise.
#[tokio::test]
async fn large_answers_take_no_more_memory_than_the_runtime_layer_allows() {
    const SAGAS: u64 = 12;
    let trip = Trip::start_with(|envoy| envoy.workers(1)).await.unwrap();
    let before = resident_bytes(trip.envoy.pid()) / MIB;
    let book = async |guest: String| {
        let large = Fault::new(&guest, Action::Transaction, FaultKind::BigAnswer).size_mib(28);
        trip.hotel.set_fault(large).unwrap();
        trip.book(&TripRequest::of(guest)).await
    };
    for answer in futures::future::join_all((0..SAGAS).map(|number| book(format!("guest-{number}")))).await {
        // Its outcome is unknown, and the second attempt, under the same key, tells what was done.
        assert_eq!(answer.unwrap().status, 201);
    }
    let after = resident_bytes(trip.envoy.pid()) / MIB;
    println!("{before} MiB, and {after} MiB after {SAGAS} answers of 28 MiB at a time");
    assert!(after < before + SAGAS * 10 + 64, "{before} MiB, then {after} MiB");
}
