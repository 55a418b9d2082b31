//! Callouts: whose they are, how they fail, what they send.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::loopback;
use harness::participant::{Action, AttemptFilter, Fault, FaultKind};
use harness::trip::{BodyMode, Trip, TripRequest};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::probe::{Listener, Probed};
use crate::trap;

#[tokio::test]
async fn a_callout_of_a_stream_ends_with_its_client_and_one_of_the_root_does_not() {
    let probed = Probed::start(&["callout", "root-callout"]).await;
    // The application answers after a second; the clients leave after half of it.
    let slow = [("x-probe-path", "/trickle/1/1000")];
    tokio::join!(probed.ask_and_leave("callout", &slow, ""), probed.ask_and_leave("root-callout", &slow, ""));
    probed.counted("root_got_an_answer", 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(probed.application.requests_to("/trickle/1/1000").len(), 2);
    assert_eq!(probed.count("stream_got_an_answer").await, 0);
}

#[tokio::test]
async fn a_saga_goes_on_when_its_client_has_gone() {
    let trip = Trip::start().await.unwrap();
    let delay = Fault::new("ann", Action::Transaction, FaultKind::Delay).delay(Duration::from_secs(1));
    trip.hotel.set_fault(delay).unwrap();
    let request = TripRequest::of("ann").with_car();
    let url = trip.url(BodyMode::Option);
    let json = loopback::json_request(&url, &request.body(), &[]).unwrap();
    let in_flight = loopback::Client::http1().begin(json);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!in_flight.is_done());
    in_flight.abandon();
    trip.wait_until_held("ann", request.steps(), Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn refused_and_late_callouts_come_back_as_answers_of_envoy_itself() {
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let probed = with_elsewhere("callout", refused).await;
    let answered = probed.ask("callout", &[("x-probe-path", "/status/503")]).await;
    assert_eq!(answered, "503, 0 bytes, from upstream: true");
    let answered = probed.ask("callout", &[("x-probe-cluster", "elsewhere")]).await;
    assert!(answered.starts_with("503, ") && answered.ends_with("from upstream: false"), "{answered}");
    let late = [("x-probe-path", "/late/2000"), ("x-probe-timeout-us", "200000")];
    let answered = probed.ask("callout", &late).await;
    assert!(answered.starts_with("504, ") && answered.ends_with("from upstream: false"), "{answered}");
}

#[tokio::test]
async fn a_timeout_of_less_than_a_millisecond_is_none_and_parts_of_one_are_dropped() {
    let probed = Probed::start(&["callout"]).await;
    for us in ["0", "999"] {
        let slow = [("x-probe-path", "/trickle/1/500"), ("x-probe-timeout-us", us)];
        assert_eq!(probed.ask("callout", &slow).await, "200, 1 bytes, from upstream: true");
    }
    let late = [("x-probe-path", "/late/500"), ("x-probe-timeout-us", "1999")];
    assert!(probed.ask("callout", &late).await.starts_with("504, "));
}

#[tokio::test]
async fn answers_that_are_cut_short_or_huge_or_late_with_their_body_come_back_without_headers() {
    let probed = with_elsewhere("callout", cut_short_server().await).await;
    assert_eq!(probed.ask("callout", &[("x-probe-cluster", "elsewhere")]).await, "no headers, 0 bytes");
    assert_eq!(probed.ask("callout", &[("x-probe-path", "/download/41943040")]).await, "no headers, 0 bytes");
    let late = [("x-probe-path", "/trickle/1/2000"), ("x-probe-timeout-us", "200000")];
    assert_eq!(probed.ask("callout", &late).await, "no headers, 0 bytes", "though its headers have come");
}

#[tokio::test]
async fn a_single_header_of_an_answer_without_any_traps_a_module_that_asks_for_it() {
    let probed = with_elsewhere("unwary", cut_short_server().await).await;
    assert_eq!(probed.ask("unwary", &[("x-probe-path", "/status/200")]).await, "200 of all");
    probed.ask_and_leave("unwary", &[("x-probe-cluster", "elsewhere")], "").await;
    let log = probed.envoy.log();
    assert!(log.contains("0 headers in the map") && log.contains("unexpected status"), "{log}");
}

#[tokio::test]
async fn a_huge_or_cut_answer_traps_nothing_in_the_filter() {
    let trip = Trip::start().await.unwrap();
    for (guest, kind) in [("big", FaultKind::BigAnswer), ("cut", FaultKind::Truncate)] {
        trip.hotel.set_fault(Fault::new(guest, Action::Transaction, kind)).unwrap();
        // Its outcome is unknown, so it is tried again under its key, and the second answer says what was done.
        let answer = trip.book(&TripRequest::of(guest)).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")), "{guest}");
        assert_eq!(trip.hotel.attempts(&AttemptFilter::guest(guest)).unwrap().len(), 2);
    }
    trip.check_nothing_applied_twice().unwrap();
    trap::assert_none(&trip.envoy);
}

#[tokio::test]
async fn a_cluster_without_endpoints_is_not_done_now_and_an_unknown_one_rejects() {
    let probed = Probed::start(&["callout"]).await;
    assert_eq!(probed.ask("callout", &[("x-probe-cluster", "elsewhere")]).await, "not sent: InternalFailure");
    assert_eq!(probed.ask("callout", &[("x-probe-cluster", "unheard-of")]).await, "not sent: BadArgument");

    let saga = |name: &str, cluster: &str| {
        let call = json!({"cluster": cluster, "method": "POST", "path": "/bookings", "body": {"guest": name}});
        let steps = json!([{"name": "only", "transaction": call}]);
        json!({"name": name, "match": {"path": format!("/{name}")}, "deadline": "1s", "steps": steps})
    };
    let sagas = [saga("waits", "elsewhere"), saga("rejects", "unheard-of")];
    let configuration = json!({"version": 1, "sagas": sagas}).to_string();
    let trip = Trip::start_with(|envoy| {
        let envoy = envoy.workers(1).plugin_configuration("trip", "sagabox", &configuration);
        envoy.edit(|yaml| {
            let empty = "{name: elsewhere, type: STATIC, load_assignment: {cluster_name: elsewhere}}";
            let clusters = yaml["static_resources"]["clusters"].as_sequence_mut().unwrap();
            clusters.push(serde_yaml_ng::from_str(empty).unwrap());
        })
    });
    let trip = trip.await.unwrap();
    for (path, least, most) in [("waits", 1000, 4000), ("rejects", 0, 900)] {
        let began = Instant::now();
        let url = format!("http://{}/{path}", trip.address(BodyMode::Option));
        let answer = loopback::Client::http1().get(&url).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (409, Some("compensated")), "{path}");
        let took = began.elapsed().as_millis();
        assert!((least..most).contains(&took), "{path}: {took} ms, {}", answer.text());
    }
}

#[tokio::test]
async fn a_callout_sends_what_it_is_given_framing_included() {
    let (address, mut received) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let probed = with_elsewhere("callout", address).await;
    let with =
        [("x-probe-cluster", "elsewhere"), ("x-probe-with", "content-length=7"), ("x-probe-timeout-us", "300000")];
    probed.ask("callout", &with).await;
    let bytes = received.recv().await.unwrap();
    assert!(bytes.contains("content-length: 7\r\n"), "announced for a body that is not there: {bytes}");

    let with =
        [("x-probe-cluster", "elsewhere"), ("x-probe-with", "x-any=thing"), ("x-probe-with", "accept-encoding=br")];
    probed.ask("callout", &with).await;
    let bytes = received.recv().await.unwrap();
    assert!(bytes.contains("x-any: thing\r\n") && bytes.contains("accept-encoding: br\r\n"), "{bytes}");
}

#[tokio::test]
async fn a_callout_with_envoys_own_headers_is_retried_by_envoy() {
    let probed = Probed::start(&["callout"]).await;
    let once = [("x-probe-path", "/status/500")];
    assert_eq!(probed.ask("callout", &once).await, "500, 0 bytes, from upstream: true");
    assert_eq!(probed.application.requests_to("/status/500").len(), 1);
    let retried = [("x-probe-path", "/status/500"), ("x-probe-with", "x-envoy-retry-on=5xx")];
    assert_eq!(probed.ask("callout", &retried).await, "500, 0 bytes, from upstream: true");
    assert_eq!(probed.application.requests_to("/status/500").len(), 3);
}

#[tokio::test]
async fn participants_see_two_headers_of_envoy() {
    let trip = Trip::start().await.unwrap();
    trip.book(&TripRequest::of("ann")).await.unwrap();
    let attempts = trip.hotel.attempts(&AttemptFilter::guest("ann")).unwrap();
    assert_eq!(attempts[0].header("x-envoy-internal"), Some("true"));
    assert_eq!(attempts[0].header("x-envoy-expected-rq-timeout-ms"), Some("2000"), "per_try_timeout of the hotel");
}

#[tokio::test]
async fn a_cluster_name_with_a_bar_is_no_authority() {
    let probed = Probed::start(&["count"]).await;
    let raw = "GET / HTTP/1.1\r\nhost: outbound|80||hotel.travel\r\nconnection: close\r\n\r\n";
    let address = probed.envoy.listener("count");
    let answer = loopback::exchange(address, raw.as_bytes(), Duration::from_secs(2)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(probed.count("request_headers").await, 0);
}

#[tokio::test]
async fn callouts_take_no_route() {
    // Every route answers 418; callouts reach their clusters all the same.
    let trip = Trip::start_with(|envoy| {
        envoy.workers(1).edit(|yaml| {
            for listener in yaml["static_resources"]["listeners"].as_sequence_mut().unwrap() {
                let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
                manager["route_config"]["virtual_hosts"][0]["routes"] =
                    serde_yaml_ng::from_str("[{match: {prefix: /}, direct_response: {status: 418}}]").unwrap();
            }
        })
    });
    let trip = trip.await.unwrap();
    assert_eq!(trip.book(&TripRequest::of("ann")).await.unwrap().status, 201);
    let address = trip.address(BodyMode::Option);
    let other = loopback::Client::http1().get(&format!("http://{address}/bookings")).await.unwrap();
    assert_eq!(other.status, 418);
}

#[tokio::test]
async fn sagas_complete_past_a_circuit_breaker_that_refuses_most_callouts() {
    let trip = Trip::start_with(|envoy| {
        envoy.workers(1).edit(|yaml| {
            for cluster in yaml["static_resources"]["clusters"].as_sequence_mut().unwrap() {
                if cluster["name"] == "hotel" {
                    cluster["circuit_breakers"] =
                        serde_yaml_ng::from_str("{thresholds: [{max_connections: 1, max_pending_requests: 1}]}")
                            .unwrap();
                }
            }
        })
    });
    let trip = trip.await.unwrap();
    let guests: Vec<_> = (0..12).map(|number| format!("guest-{number}")).collect();
    for guest in &guests {
        let delay = Fault::new(guest, Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(60));
        trip.hotel.set_fault(delay).unwrap();
    }
    let requests: Vec<_> = guests.iter().map(TripRequest::of).collect();
    let answers = futures::future::join_all(requests.iter().map(|request| trip.book(request))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")));
    }
    let overflowed = trip.envoy.stats(r"^cluster\.hotel\.upstream_rq_pending_overflow$").await.unwrap();
    assert!(overflowed.into_values().sum::<u64>() > 0, "the breaker was open");
    trip.check_nothing_applied_twice().unwrap();
}

/// The probe with one behaviour, and with a cluster `elsewhere` at `address`.
async fn with_elsewhere(behaviour: &'static str, address: SocketAddr) -> Probed {
    Probed::start_with(&[Listener(behaviour, true)], |envoy| envoy.workers(1).upstream("elsewhere", address)).await
}

/// Answers every request with fewer bytes than it announces, and closes the connection.
async fn cut_short_server() -> SocketAddr {
    server(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\ncut").await.0
}

/// Takes what comes, answers `answer` 50 ms later, and closes; what came is sent to the receiver.
async fn server(answer: &'static [u8]) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = vec![0; 64 * 1024];
            let count = stream.read(&mut bytes).await.unwrap_or(0);
            let _ = sender.send(String::from_utf8_lossy(&bytes[..count]).into_owned());
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _ = stream.write_all(answer).await;
        }
    });
    (address, receiver)
}
