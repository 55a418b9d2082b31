//! Requests and their bodies.

use std::convert::Infallible;

use anyhow::Context;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRAILER};
use hyper::{Method, Request};

/// The body of a request.
pub type OutgoingBody = UnsyncBoxBody<Bytes, Infallible>;

/// Makes bodies of requests.
#[derive(Debug)]
pub enum Outgoing {}

impl Outgoing {
    /// A body that is there as a whole; sent with `content-length`.
    pub fn whole(bytes: impl Into<Bytes>) -> OutgoingBody {
        Full::new(bytes.into()).boxed_unsync()
    }

    /// A body of unknown length, sent piece by piece as `pieces` yields them, and `trailers` after it. HTTP/1.1
    /// sends it chunked, and sends only trailers that the header `trailer` names: see [`announce`].
    pub fn stream(pieces: impl Stream<Item = Bytes> + Send + 'static, trailers: HeaderMap) -> OutgoingBody {
        let trailers = (!trailers.is_empty()).then_some(trailers);
        let frames = pieces.map(Frame::data).chain(futures::stream::iter(trailers.map(Frame::trailers)));
        StreamBody::new(frames.map(Ok)).boxed_unsync()
    }
}

/// Names `trailers` in the header `trailer` of a request, as HTTP/1.1 needs it.
pub fn announce(headers: &mut HeaderMap, trailers: &HeaderMap) {
    for name in trailers.keys() {
        headers.append(TRAILER, HeaderValue::from_name(name.clone()));
    }
}

/// A request with `headers` and a `body` made by [`Outgoing`].
///
/// # Errors
///
/// The URL, or a header's name or value, is none.
pub fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: OutgoingBody,
) -> anyhow::Result<Request<OutgoingBody>> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    for (name, value) in headers {
        request.headers_mut().append(HeaderName::try_from(*name)?, HeaderValue::try_from(*value)?);
    }
    Ok(request)
}

/// A `POST` of `json` with further `headers`.
///
/// # Errors
///
/// As [`request`].
pub fn json_request(
    url: &str,
    json: &serde_json::Value,
    headers: &[(&str, &str)],
) -> anyhow::Result<Request<OutgoingBody>> {
    let mut request = request(Method::POST, url, headers, Outgoing::whole(json.to_string()))?;
    request.headers_mut().entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    Ok(request)
}
