//! Bodies of requests that would begin a saga.

use std::time::Duration;

use bytes::Bytes;
use harness::loopback::{self, Answer, Client, Outgoing};
use harness::trip::{BodyMode, Trip, TripRequest};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{SOON, assert_alive, assert_nothing_sent, one_step};
use crate::trap;

/// Posts a body with its length known, or else in pieces.
async fn post(client: &Client, url: &str, body: &[u8], whole: bool) -> Answer {
    let body = if whole {
        Outgoing::whole(body.to_vec())
    } else {
        let pieces: Vec<_> = body.chunks(1000).map(Bytes::copy_from_slice).collect();
        Outgoing::stream(futures::stream::iter(pieces), HeaderMap::new())
    };
    client.send(loopback::request(Method::POST, url, &[], body).unwrap()).await.unwrap()
}

fn assert_problem(answer: &Answer, status: u16, kind: &str, detail: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!((answer.header("saga-id"), answer.header("saga-status")), (None, None));
    let problem = answer.json().unwrap();
    assert_eq!(problem["type"], format!("urn:sagabox:problem:{kind}"));
    assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
}

#[tokio::test]
async fn a_body_that_does_not_give_what_is_read_is_answered_400_naming_the_expression() {
    let trip = Trip::start().await.unwrap();
    let deep = "[".repeat(100_000);
    let bodies: [&[u8]; 10] = [
        b"",
        b"{",
        b"plain text",
        b"[]",
        b"null",
        b"\"guest\"",
        b"{\"nights\": 3, \"seat\": \"1A\"}",
        b"\xff\xfe\x00{\"guest\": \"ann\"}",
        b"{\"guest\": 1e, \"nights\": 3}",
        deep.as_bytes(),
    ];
    for mode in BodyMode::ALL {
        for client in [Client::http1(), Client::http2()] {
            for body in bodies {
                let answer = post(&client, &trip.url(mode), body, true).await;
                assert_problem(&answer, 400, "request-not-usable", "request.body.guest");
            }
        }
    }
    assert_nothing_sent(&trip);
    assert_alive(&trip).await;
}

#[tokio::test]
async fn a_body_of_max_body_is_taken_and_one_byte_more_is_answered_413() {
    let call =
        json!({"cluster": "hotel", "method": "POST", "path": "/bookings", "body": {"guest": "${request.body.guest}"}});
    let saga = json!({"name": "one", "match": {"method": "POST", "path": "/trips"}, "steps": [{"name": "hotel", "transaction": call}]});
    let limits = json!({"max_body": 10_000});
    let trip = super::with_configuration(json!({"version": 1, "sagas": [saga], "limits": limits})).await;
    let of_length = |length: usize| {
        let begin = r#"{"guest": "ann", "filler": ""#;
        format!("{begin}{}\"}}", "x".repeat(length - begin.len() - 2)).into_bytes()
    };
    for mode in BodyMode::ALL {
        for client in [Client::http1(), Client::http2()] {
            for whole in [true, false] {
                let answer = post(&client, &trip.url(mode), &of_length(10_000), whole).await;
                assert_eq!(answer.status, 200, "{mode:?} {whole}: {}", answer.text());
                let before = trip.hotel.attempts(&Default::default()).unwrap().len();
                let answer = post(&client, &trip.url(mode), &of_length(10_001), whole).await;
                assert_problem(&answer, 413, "body-too-large", "10000 bytes");
                assert_eq!(trip.hotel.attempts(&Default::default()).unwrap().len(), before);
            }
        }
    }
    trap::assert_none(&trip.envoy);
}

#[tokio::test]
async fn a_client_that_expects_100_continue_is_told_to_go_on() {
    let trip = Trip::start().await.unwrap();
    for mode in BodyMode::ALL {
        let body = TripRequest::of(format!("{mode:?}")).body().to_string();
        let length = body.len();
        let head = format!(
            "POST /trips HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        let mut stream = loopback::connect(trip.address(mode)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut told = vec![0; 25];
        tokio::time::timeout(SOON, stream.read_exact(&mut told)).await.unwrap().unwrap();
        assert_eq!(told, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
}

#[tokio::test]
async fn bodies_in_pieces_and_with_trailers_begin_sagas() {
    let trip = Trip::start().await.unwrap();
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))]);
    for mode in BodyMode::ALL {
        for (protocol, client) in [("h1", Client::http1()), ("h2", Client::http2())] {
            for trailers in [HeaderMap::new(), trailers.clone()] {
                let request = TripRequest::of(format!("{mode:?}-{protocol}-{}", trailers.len()));
                let bytes = request.body().to_string().into_bytes();
                let pieces: Vec<_> = bytes.chunks(7).map(Bytes::copy_from_slice).collect();
                let body = Outgoing::stream(futures::stream::iter(pieces), trailers.clone());
                let mut sent = loopback::request(Method::POST, &trip.url(mode), &[], body).unwrap();
                loopback::announce(sent.headers_mut(), &trailers);
                let answer = client.send(sent).await.unwrap();
                assert_eq!(answer.status, 201, "{}: {}", request.guest, answer.text());
                assert_eq!(trip.held(&request.guest).unwrap().len(), 2, "{}", request.guest);
            }
        }
    }
    trap::assert_none(&trip.envoy);
}

#[tokio::test]
async fn a_body_that_never_ends_begins_nothing() {
    let trip = Trip::start().await.unwrap();
    for mode in BodyMode::ALL {
        let head = "POST /trips HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"guest\": \"ann\"";
        let bytes = loopback::exchange(trip.address(mode), head.as_bytes(), Duration::from_millis(400)).await.unwrap();
        assert!(bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes));
    }
    assert_nothing_sent(&trip);
    assert_alive(&trip).await;
}

#[tokio::test]
async fn a_request_without_a_body_begins_a_saga_that_reads_none() {
    let matched = json!({"method": "GET", "path_template": "/trips/{id}"});
    let body =
        json!({"guest": "${request.params.id}", "page": "${request.query_params.page}", "body": "${request.body}"});
    let call = json!({"cluster": "hotel", "method": "POST", "path": "/bookings", "body": body});
    let trip = one_step(matched, call, json!({"completed": {"body": "${request.params.id}"}})).await;
    for mode in BodyMode::ALL {
        for client in [Client::http1(), Client::http2()] {
            let url = format!("http://{}/trips/ann%20lee?page=2", trip.address(mode));
            let answer = client.get(&url).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "ann lee"), "{mode:?}");
        }
    }
    let attempts = trip.hotel.attempts(&harness::participant::AttemptFilter::guest("ann lee")).unwrap();
    assert_eq!(attempts.len(), 4);
    let sent: serde_json::Value = serde_json::from_str(&attempts[0].body).unwrap();
    assert_eq!(sent, json!({"guest": "ann lee", "page": "2", "body": ""}));
}
