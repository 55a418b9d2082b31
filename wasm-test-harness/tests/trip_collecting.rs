//! Requests that match and do not end: they are bounded, and nobody else notices them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::StreamExt;
use harness::envoy::project_root;
use harness::loopback::{self, Answer, Client, Outgoing};
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{BodyMode, Downstream, Trip, TripRequest};
use hyper::Method;
use hyper::header::HeaderMap;
use sagabox::planted::Planted;
use serde_json::{Value as Json, json};
use serde_yaml_ng::Value as Yaml;

#[path = "trip_collecting/frames.rs"]
mod frames;
#[path = "support/memory.rs"]
mod memory;

use frames::{Endless, Filler};
use memory::resident_bytes;

const MIB: u64 = 1 << 20;
const CONNECTIONS: u32 = 3;
/// Of one connection: fewer than Envoy takes of one (1,024).
const REQUESTS: u32 = 900;
/// 49 KB of headers a request, for 14 bytes on the wire.
const LARGE: Filler = Filler { bytes: 3_500, lines: 14 };
const SMALL: Filler = Filler { bytes: 10, lines: 1 };

/// Gives every coordinator of the configuration these limits, and every VM this variable.
fn bound(yaml: &mut Yaml, limits: &Json, variable: Option<&str>) {
    for listener in yaml["static_resources"]["listeners"].as_sequence_mut().unwrap() {
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        for filter in manager["http_filters"].as_sequence_mut().unwrap() {
            let Some(config) = filter["typed_config"].get_mut("config") else { continue };
            if let Some(fault) = variable {
                let variables = json!({"key_values": {"SAGABOX_PLANTED_FAULT": fault}});
                config["vm_config"]["environment_variables"] = serde_yaml_ng::to_value(variables).unwrap();
            }
            let value = &mut config["configuration"]["value"];
            if let Some(text) = value.as_str() {
                let mut json: Json = serde_json::from_str(text).unwrap();
                json["limits"] = limits.clone();
                *value = json.to_string().into();
            } else if value.get("role").is_none() {
                // JSON is YAML, too. (Numbers of the one library are none to the other.)
                value["limits"] = serde_yaml_ng::from_str(&limits.to_string()).unwrap();
            }
        }
    }
}

async fn start(limits: Json, fault: Option<Planted>) -> Trip {
    let module = |name: &str| project_root().join("target/wasm32-wasip1").join(name).join("sagabox.wasm");
    let module: PathBuf = module(if fault.is_some() { "planted" } else { "release" });
    let edit = move |yaml: &mut Yaml| bound(yaml, &limits, fault.map(Planted::name));
    Trip::start_with(|envoy| envoy.workers(1).wasm(module).edit(edit)).await.unwrap()
}

/// A request that never ends, though a byte of it comes every few seconds.
async fn endless(trip: &Trip, mode: BodyMode, headers: &[(&str, &str)], timeout: Duration) -> anyhow::Result<Answer> {
    endless_from("{".to_owned(), trip, mode, headers, timeout).await
}

/// The same, with so much of a body at once.
async fn endless_from(
    first: String,
    trip: &Trip,
    mode: BodyMode,
    headers: &[(&str, &str)],
    timeout: Duration,
) -> anyhow::Result<Answer> {
    let rest = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Some((Bytes::from(" "), ()))
    });
    let body = Outgoing::stream(futures::stream::iter([Bytes::from(first)]).chain(rest), HeaderMap::new());
    let request = loopback::request(Method::POST, &trip.url(mode), headers, body)?;
    Client::http2().timeout(timeout).send(request).await
}

fn check_refused(answer: &Answer, kind: &str, detail: &str) -> anyhow::Result<()> {
    let text = answer.text();
    ensure!((answer.status.as_u16(), answer.header("retry-after")) == (503, Some("1")), "{answer:?}: {text}");
    ensure!(answer.header("saga-id").is_none());
    let problem = answer.json()?;
    ensure!(problem["type"] == format!("urn:sagabox:problem:{kind}"), "{problem}");
    ensure!(problem["detail"].as_str().is_some_and(|told| told.contains(detail)), "{problem}");
    Ok(())
}

/// A crowd of requests that do not end: some of them are taken, as the limit `detail` allows, the others are refused at once.
/// Gives how many were taken.
async fn crowd(trip: &Trip, mode: BodyMode, filler: Filler, detail: &str) -> anyhow::Result<usize> {
    // Until the crowd is there.
    let slow = Fault::new("ann", Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_800));
    trip.hotel.set_fault(slow.attempts(2))?;
    let ann = trip.begin(&TripRequest::of("ann"), Downstream { mode, ..Downstream::PLAIN })?;
    let ann_asked = Instant::now();
    let ann = tokio::spawn(async move { (ann.answer().await, ann_asked.elapsed()) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let began = Instant::now();

    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS {
        crowd.push(Endless::begin(trip.address(mode), REQUESTS, filler).await?);
    }
    let sent: usize = crowd.iter().map(|one| one.sent_bytes).sum();
    ensure!(sent < 200_000, "{sent} bytes are more than such a crowd costs");
    let answered = || crowd.iter().map(Endless::answered).sum::<usize>();
    // Until no more of them are answered.
    let mut before = usize::MAX;
    while !crowd.iter().all(Endless::is_sent) || answered() != before {
        ensure!(began.elapsed() < Duration::from_secs(15), "{before} were answered, and more are");
        before = answered();
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let taken = (CONNECTIONS * REQUESTS) as usize - answered();

    // Whoever comes now is told so, and told nothing that may be false.
    let soon = Duration::from_secs(5);
    let value = "x".repeat(filler.bytes);
    let mut headers = vec![("x-filler", value.as_str()); filler.lines];
    check_refused(&endless(trip, mode, &headers, soon).await?, "overload", detail)?;
    headers.push(("idempotency-key", "k"));
    check_refused(&endless(trip, mode, &headers, soon).await?, "fate-unknown", detail)?;
    // A client whose saga is under way is answered as it would have been.
    let (answer, took) = ann.await?;
    let answer = answer?;
    ensure!(took < Duration::from_secs(6), "{took:?}");
    ensure!((answer.status.as_u16(), answer.header("saga-status")) == (201, Some("completed")), "{answer:?}");
    drop(crowd);
    let began = Instant::now();
    loop {
        let request = TripRequest::of(format!("bob {:?}", began.elapsed()));
        let answer = trip.begin(&request, Downstream { mode, ..Downstream::PLAIN })?.answer().await?;
        if answer.status == 201 {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(3), "nothing is taken after they have gone: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    trip.check_filter_is_well().await?;
    Ok(taken)
}

/// [`crowd`], by a limit in bytes.
async fn a_crowd_with_large_headers(fault: Option<Planted>, mode: BodyMode) -> anyhow::Result<()> {
    let trip = start(json!({"max_bytes": "16MiB"}), fault).await;
    let before = resident_bytes(trip.envoy.pid()) / MIB;
    for round in 0..2 {
        let taken = crowd(&trip, mode, LARGE, "limits.max_bytes").await.with_context(|| format!("round {round}"))?;
        let after = resident_bytes(trip.envoy.pid()) / MIB;
        println!("{mode:?}: {before} MiB, then {after} MiB with {taken} of {} taken", CONNECTIONS * REQUESTS);
        let most = 16 * MIB as usize / LARGE.total_bytes();
        ensure!((most / 2..=most).contains(&taken), "{taken} were taken");
        ensure!(after < before + 2 * 16 + 32, "{before} MiB, then {after} MiB");
    }
    Ok(())
}

/// [`crowd`], by a limit in number.
async fn a_crowd_with_small_headers(fault: Option<Planted>, mode: BodyMode) -> anyhow::Result<()> {
    let trip = start(json!({"max_sagas": 100}), fault).await;
    for round in 0..2 {
        let taken = crowd(&trip, mode, SMALL, "limits.max_sagas").await.with_context(|| format!("round {round}"))?;
        ensure!(taken == 100, "{taken} were taken");
    }
    Ok(())
}

/// A request that does not end is told so in time, whatever comes of it.
async fn one_that_does_not_end(fault: Option<Planted>, mode: BodyMode) -> anyhow::Result<()> {
    let trip = start(json!({}), fault).await;
    let began = Instant::now();
    let answer = endless(&trip, mode, &[], Duration::from_secs(36)).await?;
    check_refused(&answer, "overload", "not come to its end in time")?;
    let took = began.elapsed();
    ensure!(took > Duration::from_secs(30) && took < Duration::from_secs(33), "{took:?}");
    trip.check_filter_is_well().await
}

#[tokio::test]
async fn a_crowd_of_requests_with_large_headers_that_never_end_fills_no_memory() {
    for mode in BodyMode::ALL {
        a_crowd_with_large_headers(None, mode).await.unwrap();
    }
}

#[tokio::test]
async fn a_crowd_of_requests_that_never_end_takes_no_more_places_than_there_are() {
    for mode in BodyMode::ALL {
        a_crowd_with_small_headers(None, mode).await.unwrap();
    }
}

#[tokio::test]
async fn bodies_that_never_end_count_as_they_come() {
    let trip = start(json!({"max_bytes": "4MiB"}), None).await;
    for mode in BodyMode::ALL {
        let soon = Duration::from_secs(4);
        let clients = (0..7).map(|_| endless_from("x".repeat(900_000), &trip, mode, &[], soon));
        let (refused, waiting): (Vec<_>, Vec<_>) =
            futures::future::join_all(clients).await.into_iter().partition(Result::is_ok);
        assert_eq!((refused.len(), waiting.len()), (3, 4), "{mode:?}");
        for answer in refused {
            check_refused(&answer.unwrap(), "overload", "limits.max_bytes").unwrap();
        }
    }
    // They have gone.
    assert_eq!(trip.book(&TripRequest::of("ann")).await.unwrap().status, 201);
    trip.check_filter_is_well().await.unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_is_refused_after_half_a_minute() {
    let [option, pair] = BodyMode::ALL.map(|mode| one_that_does_not_end(None, mode));
    let (option, pair) = tokio::join!(option, pair);
    option.unwrap();
    pair.unwrap();
}

/// Two listeners with one `vm_id` share the memory of their VM, and so the limit.
#[tokio::test]
async fn two_listeners_of_one_vm_share_the_places() {
    let trip = start(json!({"max_sagas": 100}), None).await;
    let one = Endless::begin(trip.address(BodyMode::Option), 200, SMALL).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(one.answered(), 100);
    let other = Endless::begin(trip.address(BodyMode::GatePair), 200, SMALL).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(other.answered(), 200);
    trip.check_filter_is_well().await.unwrap();
}

/// None of them shows to the simulator: they take a crowd, or a client with more patience than those have.
#[tokio::test]
async fn planted_faults_of_what_is_collected_are_found() {
    let mode = BodyMode::Option;
    let found = a_crowd_with_small_headers(Some(Planted::CollectedWithoutLimit), mode).await.unwrap_err();
    println!("{found:#}");
    let found = a_crowd_with_small_headers(Some(Planted::PlaceNotGivenBack), mode).await.unwrap_err();
    assert!(format!("{found:#}").contains("nothing is taken after they have gone"), "{found:#}");
    let found = one_that_does_not_end(Some(Planted::CollectedForEver), mode).await.unwrap_err();
    assert!(format!("{found:#}").contains("no answer within"), "{found:#}");
}
