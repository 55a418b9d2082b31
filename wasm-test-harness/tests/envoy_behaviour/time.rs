//! Timeouts while a request is held, and ticks.

use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::loopback::{self, Client, Outgoing};
use harness::participant::{Action, AttemptFilter, Fault, FaultKind};
use harness::trip::{BodyMode, Downstream, Trip, TripRequest};
use hyper::Method;
use hyper::header::HeaderMap;
use serde_yaml_ng::Value;

use super::probe::Probed;
use crate::trap;

/// A trip whose manager or routes are changed, and whose hotel takes 1.2 s for `ann`.
async fn slow_trip(change: impl Fn(&mut Value) + Send + 'static) -> Trip {
    slow_trip_at(0, change).await
}

/// The same for the listener of this number.
async fn slow_trip_at(listener: usize, change: impl Fn(&mut Value) + Send + 'static) -> Trip {
    let trip = Trip::start_with(|envoy| {
        envoy.workers(1).edit(move |yaml| {
            let manager = &mut yaml["static_resources"]["listeners"][listener]["filter_chains"][0]["filters"][0];
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

fn routes(manager: &mut Value) -> impl Iterator<Item = &mut Value> {
    let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_sequence_mut().unwrap();
    routes.iter_mut().map(|route| &mut route["route"])
}

fn yaml(text: &str) -> Value {
    serde_yaml_ng::from_str(text).unwrap()
}

/// `check` refuses configurations for it.
#[tokio::test]
async fn the_idle_timeout_and_the_longest_duration_of_streams_run_and_the_saga_goes_on() {
    let of_the_route: fn(&mut Value) =
        |manager| routes(manager).for_each(|route| route["idle_timeout"] = "0.3s".into());
    let of_the_manager: fn(&mut Value) = |manager| {
        manager["stream_idle_timeout"] = "0.3s".into();
        routes(manager).for_each(|route| {
            route.as_mapping_mut().unwrap().remove("idle_timeout");
        });
    };
    let longest: fn(&mut Value) =
        |manager| manager["common_http_protocol_options"] = yaml("{max_stream_duration: 0.3s}");
    let longest_of_the_route: fn(&mut Value) = |manager| {
        routes(manager).for_each(|route| route["max_stream_duration"] = yaml("{max_stream_duration: 0.3s}"));
    };
    for change in [of_the_route, of_the_manager, longest, longest_of_the_route] {
        let trip = slow_trip(change).await;
        let answer = trip.book(&TripRequest::of("ann")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-id")), (504, None), "{}", answer.text());
        assert!(trip.held("ann").unwrap().len() < 2, "the client was told before the saga ended");
        trip.wait_until_held("ann", &["hotel", "flight"], Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn a_timeout_of_the_route_takes_the_place_of_the_managers_and_that_of_connections_ends_no_stream() {
    let outranked: fn(&mut Value) = |manager| manager["stream_idle_timeout"] = "0.3s".into();
    let switched_off: fn(&mut Value) = |manager| {
        manager["stream_idle_timeout"] = "0.3s".into();
        manager["common_http_protocol_options"] = yaml("{max_stream_duration: 0.3s}");
        routes(manager).for_each(|route| {
            route["idle_timeout"] = "0s".into();
            route["max_stream_duration"] = yaml("{max_stream_duration: 0s}");
        });
    };
    let of_connections: fn(&mut Value) =
        |manager| manager["common_http_protocol_options"] = yaml("{idle_timeout: 0.3s}");
    for change in [outranked, switched_off, of_connections] {
        let answer = slow_trip(change).await.book(&TripRequest::of("ann")).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.header("saga-status")),
            (201, Some("completed")),
            "{}",
            answer.text()
        );
    }
}

/// The route of what a gate holds is looked for again by whoever asks for it, and behind a gate nobody does.
#[tokio::test]
async fn of_a_request_that_a_gate_holds_the_timeouts_of_the_route_count_that_it_had_before() {
    let of_its_own: fn(&mut Value) = |manager| routes(manager).next().unwrap()["idle_timeout"] = "0.3s".into();
    let of_the_held: fn(&mut Value) = |manager| routes(manager).nth(1).unwrap()["idle_timeout"] = "0.3s".into();
    for (change, status) in [(of_its_own, 504), (of_the_held, 201)] {
        let trip = slow_trip_at(1, change).await;
        let answer = trip.begin(&TripRequest::of("ann"), Downstream { mode: BodyMode::GatePair, ..Downstream::PLAIN });
        let answer = answer.unwrap().answer().await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
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
