//! Streams, their roots and their bodies.

use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::application::Application;
use harness::loopback::{self, Client, Outgoing};
use harness::trip::{BodyMode, Trip, TripRequest};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::probe::{Listener, Probed};
use crate::trap;

#[tokio::test]
async fn a_queue_registered_again_wakes_only_who_registered_it_last() {
    // Two workers and so several VMs. With a name for all, a stream of most of them wakes somebody else.
    let listeners = [Listener("shared-queue", true), Listener("own-queue", true)];
    let probed = Probed::start_with(&listeners, |envoy| envoy.workers(2)).await;
    for _ in 0..30 {
        // Each on a connection of its own: both workers get some.
        assert_eq!(probed.ask("own-queue", &[]).await, "enqueued");
    }
    probed.counted("woken_by_a_stream_of_this_root", 30).await;
    assert_eq!(probed.count("woken_by_another_root").await, 0);
    for _ in 0..30 {
        assert_eq!(probed.ask("shared-queue", &[]).await, "enqueued");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(probed.count("woken_by_another_root").await > 0);
}

#[tokio::test]
async fn even_one_worker_has_three_roots() {
    let probed = Probed::start(&["count"]).await;
    probed.counted("configured", 3).await;
}

#[tokio::test]
async fn a_root_answers_a_stream_that_it_makes_effective_and_learns_when_it_has_gone() {
    let probed = Probed::start(&["answer-stream"]).await;
    assert_eq!(probed.ask("answer-stream", &[]).await, "from the root");
    assert_eq!(probed.count("answered").await, 1);
    probed.ask_and_leave("answer-stream", &[("x-probe-delay-ms", "900")], "").await;
    probed.counted("gone", 1).await;
    assert_eq!(probed.ask("answer-stream", &[]).await, "from the root", "nothing has broken by it");
}

#[tokio::test]
async fn with_the_root_effective_an_answer_is_accepted_and_reaches_nobody() {
    let probed = Probed::start(&["answer-nobody"]).await;
    probed.ask_and_leave("answer-nobody", &[], "").await;
    probed.counted("answered_with_the_root_effective", 1).await;
    trap::assert_none(&probed.envoy);
}

#[tokio::test]
async fn a_request_paused_at_its_headers_has_a_body_only_with_the_option() {
    let with = Probed::start(&["hold"]).await;
    let answer = with.post("hold", &[], "body").await.unwrap();
    assert_eq!(answer.text(), "4 bytes, ended by the body callback");
    assert!(with.application.requests().is_empty());

    let without = Probed::start_with(&[Listener("hold", false)], |envoy| envoy.workers(1)).await;
    without.ask_and_leave("hold", &[], "body").await;
    assert_eq!((without.count("request_headers").await, without.count("request_body").await), (1, 0));
    assert!(without.application.requests().is_empty());
}

#[tokio::test]
async fn nothing_of_a_held_request_reaches_the_application() {
    let application = Application::start().await.unwrap();
    let address = application.address();
    let trip = Trip::start_with(|envoy| envoy.workers(1).upstream("application", address)).await.unwrap();
    for mode in BodyMode::ALL {
        let guest = format!("{mode:?}");
        let body = TripRequest::of(&guest).body();
        let answer = Client::http1().post_json(&trip.url(mode), &body, &[]).await.unwrap();
        assert_eq!(answer.status, 201, "{mode:?}: {}", answer.text());
    }
    assert!(application.requests().is_empty(), "{:?}", application.requests());
}

#[tokio::test]
async fn without_its_gate_nobody_sees_a_request_of_the_shipped_configuration() {
    let application = Application::start().await.unwrap();
    let address = application.address();
    let trip = Trip::start_with(|envoy| {
        envoy.workers(1).upstream("application", address).edit(|yaml| {
            let manager = &mut yaml["static_resources"]["listeners"][1]["filter_chains"][0]["filters"][0];
            let filters = manager["typed_config"]["http_filters"].as_sequence_mut().unwrap();
            assert_eq!(filters.remove(1)["name"], "sagabox_gate");
        })
    });
    let trip = trip.await.unwrap();
    let body = TripRequest::of("ann").body();
    let answer = Client::http1().post_json(&trip.url(BodyMode::GatePair), &body, &[]).await.unwrap();
    assert_eq!(answer.status, 500, "{}", answer.text());
    assert!(application.requests().is_empty(), "{:?}", application.requests());
    assert!(trip.held("ann").unwrap().is_empty());
}

#[tokio::test]
async fn with_trailers_the_body_callback_never_says_that_the_body_has_ended() {
    let probed = Probed::start(&["hold"]).await;
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("4"))]);
    let url = format!("http://{}/", probed.envoy.listener("hold"));
    for client in [Client::http1(), Client::http2()] {
        let body = Outgoing::stream(futures::stream::iter([Bytes::from("body")]), trailers.clone());
        let mut request = loopback::request(Method::POST, &url, &[], body).unwrap();
        loopback::announce(request.headers_mut(), &trailers);
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.text(), "4 bytes, trailers, before them ended by nothing");
    }
}

#[tokio::test]
async fn a_string_getter_traps_on_a_header_that_is_not_utf_8_and_the_next_request_gets_a_new_machine() {
    let probed = Probed::start(&["text"]).await;
    assert_eq!(probed.ask("text", &[("x-probe-text", "plain")]).await, "plain");
    let configured = probed.count("configured").await;
    let raw = b"GET / HTTP/1.1\r\nhost: a\r\nx-probe-text: \xff\xfe\r\nconnection: close\r\n\r\n";
    let address = probed.envoy.listener("text");
    let answer = loopback::exchange(address, raw, Duration::from_secs(2)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert!(probed.envoy.log().contains("Utf8Error"), "{}", probed.envoy.log());
    // Not always at once: reloads back off.
    let began = Instant::now();
    while probed.ask("text", &[("x-probe-text", "after")]).await != "after" {
        assert!(began.elapsed() < Duration::from_secs(10), "{}", probed.envoy.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(probed.count("configured").await > configured, "by a new virtual machine");
}

#[tokio::test]
async fn a_single_read_of_a_repeated_header_gives_its_first_line_and_the_map_all_as_bytes() {
    let probed = Probed::start(&["bytes"]).await;
    let raw = b"GET / HTTP/1.1\r\nhost: a\r\nx-probe-text: \xff\r\nx-probe-text: b\r\nconnection: close\r\n\r\n";
    let address = probed.envoy.listener("bytes");
    let answer = loopback::exchange(address, raw, Duration::from_secs(2)).await.unwrap();
    assert!(answer.ends_with(b"single [255] of 2"), "{}", String::from_utf8_lossy(&answer));
    trap::assert_none(&probed.envoy);
}
