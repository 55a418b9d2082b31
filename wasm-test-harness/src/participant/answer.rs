//! Answers, whole and broken.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;

use super::ledger::Outcome;

/// How long a body that is cut short waits before it breaks off, so that what came before is on its way.
const BEFORE_THE_CUT: Duration = Duration::from_millis(20);
/// How much more a body that is cut short announces than it sends, in bytes.
const CUT_OFF: usize = 1000;
/// The size of the pieces of a big answer, in bytes: a power of two below 1 MiB.
const PIECE: usize = 64 * 1024;
const MIB: u64 = 1024 * 1024;

/// The name of the trailer that [`trailers`] sends.
const TRAILER: &str = "x-booking-checksum";

/// What the outcome is without a fault.
pub(super) fn plain(outcome: &Outcome) -> Response {
    match &outcome.body {
        Some(body) => (outcome.status, axum::Json(body)).into_response(),
        None => outcome.status.into_response(),
    }
}

/// A refusal for now.
pub(super) fn later(status: StatusCode, retry_after_s: u32) -> Response {
    let mut response = plain(&Outcome::error(status, "not now"));
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
    response
}

/// The body of an outcome as text, and the status that it goes with: a 204 cannot have a body.
fn with_body(outcome: &Outcome) -> (StatusCode, String) {
    match &outcome.body {
        Some(body) => (outcome.status, body.to_string()),
        None => (StatusCode::OK, json!({"state": "cancelled"}).to_string()),
    }
}

/// Announces [`CUT_OFF`] bytes more than are sent; then the connection closes (with HTTP/2, the stream is reset).
pub(super) fn truncated(outcome: &Outcome) -> Response {
    let (status, body) = with_body(outcome);
    let length = body.len() + CUT_OFF;
    let pieces = stream::once(async { Ok(Bytes::from(body)) }).chain(stream::once(async {
        tokio::time::sleep(BEFORE_THE_CUT).await;
        Err(io::Error::from(io::ErrorKind::UnexpectedEof))
    }));
    (
        status,
        [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, length.to_string())],
        Body::from_stream(pieces),
    )
        .into_response()
}

/// JSON of a little more than `size_mib`, without a `content-length`: the usual body with a member `filler`.
pub(super) fn big(outcome: &Outcome, size_mib: u64) -> Response {
    let (status, body) = with_body(outcome);
    let head = r#"{"filler":""#;
    let tail = format!("\",{}", body.trim_start_matches('{'));
    let filler = Bytes::from(vec![b'x'; PIECE]);
    let pieces = usize::try_from(size_mib * MIB).unwrap_or(usize::MAX) / PIECE;
    let pieces = stream::once(async move { Bytes::from_static(head.as_bytes()) })
        .chain(stream::repeat(filler).take(pieces))
        .chain(stream::once(async { Bytes::from(tail) }))
        .map(Ok::<_, io::Error>);
    (status, [(CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response()
}

/// The usual answer, with headers that are lawful and seldom seen.
pub(super) fn strange(outcome: &Outcome) -> Response {
    let mut response = plain(outcome);
    let headers = response.headers_mut();
    let latin1 = HeaderValue::from_bytes(b"caf\xe9 \xff\xfe").expect("obs-text is lawful");
    headers.append("x-not-utf-8", latin1);
    for value in ["one", "two", "three"] {
        headers.append("x-repeated", HeaderValue::from_static(value));
    }
    headers.append("x-empty", HeaderValue::from_static(""));
    response
}

/// Text where JSON is expected.
pub(super) fn not_json(outcome: &Outcome) -> Response {
    let status = with_body(outcome).0;
    (status, [(CONTENT_TYPE, "text/plain")], "booked {not: json").into_response()
}

/// The usual body with trailers after it, for HTTP/2.
pub(super) fn trailers(outcome: &Outcome) -> Response {
    let (status, body) = with_body(outcome);
    let trailers = HeaderMap::from_iter([(HeaderName::from_static(TRAILER), HeaderValue::from(body.len()))]);
    let frames = stream::iter([Ok::<_, io::Error>(Frame::data(Bytes::from(body))), Ok(Frame::trailers(trailers))]);
    (status, [(CONTENT_TYPE, "application/json")], Body::new(StreamBody::new(frames))).into_response()
}

/// The same as the bytes of an HTTP/1.1 answer: the HTTP library sends no trailers to a client that did not say
/// `te: trailers`, which a proxy does not.
pub(super) fn raw_trailers(outcome: &Outcome) -> (StatusCode, Vec<u8>) {
    let (status, body) = with_body(outcome);
    let reason = status.canonical_reason().unwrap_or_default();
    let length = body.len();
    let bytes = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\
         trailer: {TRAILER}\r\nconnection: close\r\n\r\n{length:x}\r\n{body}\r\n0\r\n{TRAILER}: {length}\r\n\r\n",
        status.as_u16(),
    );
    (status, bytes.into_bytes())
}
