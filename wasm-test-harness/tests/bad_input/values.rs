//! Values of requests that would be something else where they are put.

use std::time::Duration;

use harness::application::Application;
use harness::loopback::{self, Client};
use harness::participant::AttemptFilter;
use harness::trip::{BodyMode, Trip, TripRequest};
use serde_json::{Value, json};

use super::{assert_alive, one_step};
use crate::trap;

/// What could leave its place, with the form in which it may enter a path.
const STRANGE: [(&str, &str); 12] = [
    ("a/b", "a%2Fb"),
    ("../../control/faults", "..%2F..%2Fcontrol%2Ffaults"),
    ("%2f%2e%2e", "%252f%252e%252e"),
    ("a?b=c&d#e", "a%3Fb%3Dc%26d%23e"),
    ("a b+c", "a%20b%2Bc"),
    ("\"}, {\"x\": \"", "%22%7D%2C%20%7B%22x%22%3A%20%22"),
    ("${saga.id}", "%24%7Bsaga.id%7D"),
    ("caf\u{e9} \u{2028}", "caf%C3%A9%20%E2%80%A8"),
    ("a\\b;c,d=e", "a%5Cb%3Bc%2Cd%3De"),
    ("line\r\nx-smuggled: 1", "line%0D%0Ax-smuggled%3A%201"),
    ("nul\0nul", "nul%00nul"),
    ("'; DROP TABLE bookings; --", "%27%3B%20DROP%20TABLE%20bookings%3B%20--"),
];

#[tokio::test]
async fn any_guest_books_and_is_who_he_is_at_the_participants() {
    let trip = Trip::start().await.unwrap();
    let long = "x".repeat(65_536);
    let mut guests: Vec<_> = STRANGE.iter().map(|(guest, _)| *guest).collect();
    guests.extend(["..", ".", " ", "", &long]);
    for (number, guest) in guests.into_iter().enumerate() {
        let mode = BodyMode::ALL[number % 2];
        let request = TripRequest::of(guest).with_car();
        let answer = Client::http1().post_json(&trip.url(mode), &request.body(), &[]).await.unwrap();
        assert_eq!(answer.status, 201, "{guest:.40}: {}", answer.text());
        assert_eq!(trip.held(guest).unwrap().len(), 3, "{guest:.40}");
    }
    assert_alive(&trip).await;
}

#[tokio::test]
async fn no_value_leaves_its_segment_of_a_path() {
    let matched = json!({"method": "POST", "path": "/trips"});
    let path = "/bookings/by-key/${request.body.value}?value=${request.body.value}";
    let call = json!({"cluster": "hotel", "method": "DELETE", "path": path});
    let trip = one_step(matched, call, json!({})).await;
    for (number, (value, encoded)) in STRANGE.into_iter().enumerate() {
        let mode = BodyMode::ALL[number % 2];
        let answer = post(&trip, mode, value).await;
        assert_eq!(answer.status, 200, "{value}: {}", answer.text());
        let attempts = trip.hotel.attempts(&AttemptFilter::default()).unwrap();
        let expected = format!("/bookings/by-key/{encoded}?value={encoded}");
        assert_eq!((attempts.len(), &attempts[number].path), (number + 1, &expected), "{value}");
    }
    for (number, value) in ["..", ".", ""].into_iter().enumerate() {
        let answer = post(&trip, BodyMode::ALL[number % 2], value).await;
        assert_eq!(answer.status, 400, "{value:?}: {}", answer.text());
        assert!(answer.text().contains("request.body.value"), "{}", answer.text());
    }
    for value in [json!({"a": 1}), json!([1]), Value::Null] {
        let body = json!({"value": value});
        let answer = Client::http1().post_json(&trip.url(BodyMode::Option), &body, &[]).await.unwrap();
        assert_eq!(answer.status, 400, "{value}: {}", answer.text());
    }
    assert_eq!(trip.hotel.attempts(&AttemptFilter::default()).unwrap().len(), STRANGE.len());
    trap::assert_none(&trip.envoy);
}

#[tokio::test]
async fn no_value_leaves_its_header() {
    let matched = json!({"method": "POST", "path": "/trips"});
    let headers = json!({"x-value": "<${request.body.value}>"});
    let body = json!({"guest": "${request.body.value}"});
    let call = json!({"cluster": "hotel", "method": "POST", "path": "/bookings", "headers": headers, "body": body});
    let reply = json!({"completed": {"headers": {"x-back": "<${request.body.value}>"}, "body": {"value": "${request.body.value}"}}});
    let trip = one_step(matched, call, reply).await;
    for (number, (value, _)) in STRANGE.into_iter().enumerate() {
        let answer = post(&trip, BodyMode::ALL[number % 2], value).await;
        let attempts = trip.hotel.attempts(&AttemptFilter::guest(value)).unwrap();
        if value.chars().any(char::is_control) {
            assert_eq!((answer.status.as_u16(), attempts.len()), (400, 0), "{value:?}");
            assert!(answer.text().contains("request.body.value"), "{}", answer.text());
        } else {
            assert_eq!(answer.status, 200, "{value}: {}", answer.text());
            assert_eq!(attempts[0].header("x-value"), Some(format!("<{value}>").as_str()));
            assert_eq!(answer.headers["x-back"].as_bytes(), format!("<{value}>").as_bytes());
            assert_eq!(answer.json().unwrap(), json!({"value": value}));
        }
    }
    trap::assert_none(&trip.envoy);
}

async fn post(trip: &Trip, mode: BodyMode, value: &str) -> loopback::Answer {
    Client::http1().post_json(&trip.url(mode), &json!({"value": value}), &[]).await.unwrap()
}

#[tokio::test]
async fn headers_that_are_not_utf_8_trap_nothing_and_are_not_passed_on() {
    let trip = Trip::start().await.unwrap();
    for mode in BodyMode::ALL {
        let guest = format!("raw-{mode:?}");
        let body = TripRequest::of(&guest).body().to_string();
        let mut bytes =
            b"POST /trips HTTP/1.1\r\nhost: a\r\nx-any: \xff\xfe\r\nbaggage: \x80\r\ntracestate: a=1\r\n".to_vec();
        bytes.extend(format!("connection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes());
        let answer = loopback::exchange(trip.address(mode), &bytes, Duration::from_secs(5)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 201 "), "{mode:?}: {}", String::from_utf8_lossy(&answer));
        let attempts = trip.hotel.attempts(&AttemptFilter::guest(&guest)).unwrap();
        assert_eq!((attempts[0].header("baggage"), attempts[0].header("tracestate")), (None, Some("a=1")));
    }
    assert_alive(&trip).await;
}

#[tokio::test]
async fn expressions_and_matches_over_headers_that_are_not_utf_8_trap_nothing() {
    let matched = json!({"path_prefix": "/trips", "headers": [{"name": "x-match", "prefix": "a"}]});
    let body = json!({"guest": "ann", "header": "${request.headers['x-match']}", "host": "${request.host}"});
    let call = json!({"cluster": "hotel", "method": "POST", "path": "/bookings", "body": body});
    let trip = one_step(matched, call, json!({})).await;
    for mode in BodyMode::ALL {
        let raw = async |lines: &[u8]| {
            let bytes =
                [&b"POST /trips/a HTTP/1.1\r\nconnection: close\r\ncontent-length: 0\r\n"[..], lines, b"\r\n"].concat();
            let answer = loopback::exchange(trip.address(mode), &bytes, Duration::from_secs(5)).await.unwrap();
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = raw(b"host: a\r\nx-match: a\xff\r\nx-match: b\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{mode:?}: {answer}");
        // Neither the match nor the host may trap; what Envoy says to them itself is its affair.
        for lines in
            [&b"host: a\r\nx-match: \xff\r\n"[..], b"host: \xff\xfe\r\nx-match: a\r\n", b"host: a\r\nx-\xff: 1\r\n"]
        {
            let answer = raw(lines).await;
            assert!(answer.starts_with("HTTP/1.1 "), "{mode:?}: {answer}");
        }
    }
    let attempts = trip.hotel.attempts(&AttemptFilter::guest("ann")).unwrap();
    let sent: Value = serde_json::from_str(&attempts[0].body).unwrap();
    assert_eq!(sent["header"], "a\u{fffd},b");
    trap::assert_none(&trip.envoy);
}

/// One frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field as a literal without indexing (RFC 7541, 6.2.2): any bytes can be its value.
fn field(name: &str, value: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).ok().filter(|length| *length < 127).unwrap();
    [&[0, length(name.as_bytes())], name.as_bytes(), &[length(value)], value].concat()
}

/// HTTP/1.1 refuses such a path, HTTP/2 in Envoy 1.40 does not.
#[tokio::test]
async fn a_query_that_is_not_utf_8_carries_no_request_past_its_saga() {
    let application = Application::start().await.unwrap();
    let upstream = application.address();
    let trip = Trip::start_with(|envoy| envoy.workers(1).upstream("application", upstream)).await.unwrap();
    for mode in BodyMode::ALL {
        let guest = format!("query-{mode:?}");
        let head = [
            field(":method", b"POST"),
            field(":scheme", b"http"),
            field(":path", b"/trips?x=\xff"),
            field(":authority", b"a"),
        ];
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frame(1, 4, 1, &head.concat()));
        bytes.extend(frame(0, 1, 1, TripRequest::of(&guest).body().to_string().as_bytes()));
        loopback::exchange(trip.address(mode), &bytes, Duration::from_secs(2)).await.unwrap();
        assert_eq!(trip.held(&guest).unwrap().len(), 2, "{mode:?}: no saga");
    }
    assert!(application.requests().is_empty(), "{:?}", application.requests());
    assert_alive(&trip).await;
}
