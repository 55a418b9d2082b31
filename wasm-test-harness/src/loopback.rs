//! The one HTTP client of the tests, the demo and the tools.
//!
//! It reaches this machine only: a target that is not on loopback is refused before anything is sent, so no
//! mistake in a test or in a configuration can put load on a machine of somebody else. Names are not looked up;
//! `localhost` is 127.0.0.1. Every request ends, at the latest by its timeout.
//!
//! | to | use |
//! | --- | --- |
//! | ask and get the whole answer | [`Client::get`], [`Client::post_json`], [`Client::send`] |
//! | send a body piece by piece, with trailers | [`Outgoing::stream`] |
//! | read an answer piece by piece | [`Client::open`] |
//! | go away in the middle | [`Client::begin`] and [`InFlight::abandon`] |
//! | send bytes that no client would | [`exchange`], [`connect`] |

mod raw;
mod request;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::http::uri::Scheme;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::JoinHandle;

pub use raw::{connect, exchange};
pub use request::{Outgoing, OutgoingBody, announce, json_request, request};

/// How long a request may take, its answer's body included, unless [`Client::timeout`] says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest answer that is read whole.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A target that is not on loopback. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotLoopback {
    /// The host that was asked for.
    pub target: String,
}

impl std::fmt::Display for NotLoopback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: refused, because it is not on loopback; this client only reaches 127.0.0.0/8, ::1 and localhost",
            self.target
        )
    }
}

impl std::error::Error for NotLoopback {}

/// Checks that an address is on loopback.
///
/// # Errors
///
/// [`NotLoopback`] where it is not.
pub fn require_loopback(address: SocketAddr) -> Result<SocketAddr, NotLoopback> {
    if address.ip().to_canonical().is_loopback() {
        Ok(address)
    } else {
        Err(NotLoopback { target: address.to_string() })
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers; empty where there were none.
    pub trailers: HeaderMap,
}

impl Answer {
    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// The body is not JSON; the error shows it.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The first value of a header, where there is one and it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A client of HTTP/1.1 or of HTTP/2 by prior knowledge. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: legacy::Client<HttpConnector, OutgoingBody>,
    timeout: Duration,
}

impl Client {
    /// A client that speaks HTTP/1.1.
    pub fn http1() -> Self {
        Self::new(false)
    }

    /// A client that speaks HTTP/2 by prior knowledge (h2c).
    pub fn http2() -> Self {
        Self::new(true)
    }

    fn new(http2_only: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(5)));
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .http2_only(http2_only)
            .build(connector);
        Self { inner, timeout: DEFAULT_TIMEOUT }
    }

    /// The same client with another timeout: of a request and its whole answer; of [`Client::open`] until the headers.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks for `url`.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub async fn get(&self, url: &str) -> anyhow::Result<Answer> {
        self.send(request(Method::GET, url, &[], Outgoing::whole(""))?).await
    }

    /// Posts `json` to `url`, as `application/json`, with further `headers`.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub async fn post_json(
        &self,
        url: &str,
        json: &serde_json::Value,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<Answer> {
        self.send(json_request(url, json, headers)?).await
    }

    /// Sends `request` and reads the whole answer.
    ///
    /// # Errors
    ///
    /// [`NotLoopback`]; no connection; the connection broke; the timeout passed; more than 64 MiB came back.
    pub async fn send(&self, request: Request<OutgoingBody>) -> anyhow::Result<Answer> {
        let what = format!("{} {}", request.method(), request.uri());
        let whole = async {
            let (head, body) = self.open(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| anyhow::anyhow!(error))?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
        };
        match tokio::time::timeout(self.timeout, whole).await {
            Ok(answer) => answer,
            Err(_) => bail!("{what}: no whole answer within {:?}", self.timeout),
        }
    }

    /// Sends `request` and returns when the answer's headers are there; its body is read from what is returned.
    ///
    /// # Errors
    ///
    /// As [`Client::send`]. The timeout ends with the headers: bound the reading of the body yourself.
    pub async fn open(&self, request: Request<OutgoingBody>) -> anyhow::Result<Response<Incoming>> {
        let uri = on_loopback(request.uri())?;
        let what = format!("{} {uri}", request.method());
        let (mut head, body) = request.into_parts();
        head.uri = uri;
        match tokio::time::timeout(self.timeout, self.inner.request(Request::from_parts(head, body))).await {
            Ok(response) => response.with_context(|| what),
            Err(_) => bail!("{what}: no answer within {:?}", self.timeout),
        }
    }

    /// Sends `request` in a task of its own, so that it can be abandoned while it is in flight.
    pub fn begin(&self, request: Request<OutgoingBody>) -> InFlight {
        let client = self.clone();
        InFlight { task: tokio::spawn(async move { client.send(request).await }) }
    }
}

/// A request that was sent and not yet answered. Dropping it abandons it.
#[derive(Debug)]
pub struct InFlight {
    task: JoinHandle<anyhow::Result<Answer>>,
}

impl InFlight {
    /// Waits for the answer.
    ///
    /// # Errors
    ///
    /// As [`Client::send`].
    pub async fn answer(mut self) -> anyhow::Result<Answer> {
        (&mut self.task).await?
    }

    /// Goes away: closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
    pub fn abandon(self) {}

    /// Has the answer come, or the request failed?
    pub fn is_done(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The URI to use for `uri`: with an address instead of `localhost`, so that no name is ever looked up.
fn on_loopback(uri: &Uri) -> anyhow::Result<Uri> {
    let refused = || NotLoopback { target: uri.to_string() };
    let host = uri.host().ok_or_else(refused)?;
    if uri.scheme() != Some(&Scheme::HTTP) {
        bail!("{uri}: only http:// is spoken here");
    }
    let localhost = host.eq_ignore_ascii_case("localhost");
    let address = if localhost {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        host.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| refused())?
    };
    let port = uri.port_u16().unwrap_or(80);
    require_loopback(SocketAddr::new(address, port)).map_err(|_| refused())?;
    if !localhost {
        return Ok(uri.clone());
    }
    let mut parts = uri.clone().into_parts();
    parts.authority = Some(SocketAddr::new(address, port).to_string().parse()?);
    Ok(Uri::from_parts(parts)?)
}
