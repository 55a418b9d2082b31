//! Timeouts while a request is held, and ticks.

use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::loopback::{self, Client, Outgoing};
use harness::participant::{Action, AttemptFilter, Fault, FaultKind};
use harness::trip::{BodyMode, Trip, TripRequest};
use hyper::Method;
use hyper::header::HeaderMap;
use serde_yaml_ng::Value;

use super::probe::Probed;
use crate::trap;

/// A trip whose manager or routes are changed, and whose hotel takes 1.2 s for `ann`.
async fn slow_trip(change: impl Fn(&mut Value) + Send + 'static) -> Trip {
    let trip = Trip::start_with(|envoy| {
        envoy.workers(1).edit(move |yaml| {
            let manager = &mut yaml["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            change(&mut manager["typed_config"]);
        })
    });
    let trip = trip.await.unwrap();
    let delay = Fault::new("ann", Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1200));
    trip.hotel.set_fault(delay).unwrap();
    trip
}

#[tokio::test]
async fn the_timeout_of_the_route_does_not_run_while_a_request_is_held() {
    let trip = slow_trip(|manager| {
        for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_sequence_mut().unwrap() {
            route["route"]["timeout"] = "0.3s".into();
        }
    });
    let answer = trip.await.book(&TripRequest::of("ann")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")));
}

#[tokio::test]
async fn the_timeout_of_requests_ends_with_their_last_byte_though_it_is_held() {
    let trip = slow_trip(|manager| manager["request_timeout"] = "0.3s".into()).await;
    let answer = trip.book(&TripRequest::of("ann")).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")));

    // A body that does not come to an end is what it is for.
    let never = futures::stream::iter([bytes::Bytes::from("{")]).chain(futures::stream::pending());
    let body = Outgoing::stream(never, HeaderMap::new());
    let request = loopback::request(Method::POST, &trip.url(BodyMode::Option), &[], body).unwrap();
    let answer = Client::http2().timeout(Duration::from_secs(5)).send(request).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("saga-id")), (408, None));
    trap::assert_none(&trip.envoy);
}

#[tokio::test]
async fn the_idle_timeout_and_the_longest_duration_of_streams_run_and_the_saga_goes_on() {
    let idle: fn(&mut Value) = |manager| {
        for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_sequence_mut().unwrap() {
            route["route"]["idle_timeout"] = "0.3s".into();
        }
    };
    let longest: fn(&mut Value) = |manager| {
        manager["common_http_protocol_options"] = serde_yaml_ng::from_str("{max_stream_duration: 0.3s}").unwrap();
    };
    for change in [idle, longest] {
        let trip = slow_trip(change).await;
        let answer = trip.book(&TripRequest::of("ann")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-id")), (504, None), "{}", answer.text());
        assert!(trip.held("ann").unwrap().len() < 2, "the client was told before the saga ended");
        trip.wait_until_held("ann", &["hotel", "flight"], Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn a_tick_that_is_set_again_and_again_never_comes() {
    let probed = Probed::start(&["rearm"]).await;
    let began = Instant::now();
    let (mut sent, mut late) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_millis(1500) {
        let before = std::mem::replace(&mut sent, Instant::now());
        assert_eq!(probed.ask("rearm", &[]).await, "armed");
        // Where this machine is too slow to ask in time, a tick is due.
        late += u64::from(before.elapsed() >= Duration::from_millis(200));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ticks = probed.count("ticks").await;
    assert!(ticks <= late && late < 4, "{ticks} ticks of 200 ms in 1.5 s, {late} requests came late");
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(probed.count("ticks").await >= 3);
}

#[tokio::test]
async fn sagas_begun_every_60_ms_do_not_starve_the_back_off_of_another() {
    let trip = Trip::start().await.unwrap();
    let fails = Fault::new("ann", Action::Transaction, FaultKind::Error500).attempts(2);
    trip.hotel.set_fault(fails).unwrap();
    let ann = TripRequest::of("ann");
    let others = async {
        for number in 0..40 {
            let other = TripRequest::of(format!("other-{number}"));
            // Each of them has a back-off to come as well.
            let fails = Fault::new(&other.guest, Action::Transaction, FaultKind::Error500);
            trip.flight.set_fault(fails).unwrap();
            let (answer, ()) = tokio::join!(trip.book(&other), tokio::time::sleep(Duration::from_millis(60)));
            assert_eq!(answer.unwrap().status, 201);
        }
    };
    let (answer, ()) = tokio::join!(trip.book(&ann), others);
    assert_eq!(answer.unwrap().status, 201);
    let attempts = trip.hotel.attempts(&AttemptFilter::guest("ann")).unwrap();
    assert_eq!(attempts.len(), 3);
    // Drawn from 100 ms and 200 ms at most.
    let waited = Duration::from_micros((attempts[2].received_at_us - attempts[0].received_at_us).unsigned_abs());
    assert!(waited < Duration::from_millis(900), "{waited:?}");
}
