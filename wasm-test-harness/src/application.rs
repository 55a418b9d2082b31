//! The application behind Envoy: it gets whatever begins no saga, and writes down what it gets.
//!
//! | route (any method) | what it does |
//! | --- | --- |
//! | `/echo` | sends the body back while it arrives, then its trailers |
//! | `/websocket` | sends every message of a WebSocket back |
//! | `/download/{bytes}` | answers that many bytes of [`pattern`] |
//! | `/trickle/{pieces}/{interval_ms}` | answers that many pieces of one byte, an interval before each |
//! | `/late/{ms}` | reads the body and answers 204 after that time |
//! | `/status/{code}` | reads the body and answers with that status and no body |
//! | anything else | reads the body and answers 200, with `x-application: here` and the path as text |

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::bail;
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::header::{HeaderMap, TRAILER};
use hyper::{Method, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const PIECE_BYTES: usize = 64 * 1024;

/// A request, as far as it has arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its method.
    pub method: Method,
    /// Its path, with the query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its trailers; empty where there were none.
    pub trailers: HeaderMap,
    /// Bytes of its body so far.
    pub body_bytes: u64,
    /// CRC-32 of these bytes.
    pub checksum: u32,
    /// How its body ended; none while it goes on.
    pub end: Option<End>,
}

/// How the body of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It arrived whole.
    Whole,
    /// The connection or the stream broke off before.
    BrokenOff,
}

/// An application that serves in the current runtime, until it is dropped.
#[derive(Debug)]
pub struct Application {
    address: SocketAddr,
    book: Book,
    accepting: JoinHandle<()>,
}

impl Application {
    /// Starts on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// No port is to be had.
    pub async fn start() -> anyhow::Result<Application> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let book = Book::default();
        let routes = Router::new()
            .route("/echo", any(echo))
            .route("/websocket", any(websocket))
            .route("/download/{bytes}", any(download))
            .route("/trickle/{pieces}/{interval_ms}", any(trickle))
            .route("/late/{ms}", any(late))
            .route("/status/{code}", any(status))
            .fallback(plain)
            .with_state(book.clone());
        let accepting = tokio::spawn(async move {
            // It never returns: errors of accept are retried.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Application { address, book, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<Received> {
        self.book.lock().clone()
    }

    /// The requests so far whose path, without the query, is `path`.
    pub fn requests_to(&self, path: &str) -> Vec<Received> {
        let to = |one: &Received| one.path.split('?').next() == Some(path);
        self.requests().into_iter().filter(to).collect()
    }

    /// Waits until the last request to `path` has ended, and gives it.
    ///
    /// # Errors
    ///
    /// There is none, or it goes on, after `timeout`.
    pub async fn ended(&self, path: &str, timeout: Duration) -> anyhow::Result<Received> {
        let started = Instant::now();
        loop {
            match self.requests_to(path).pop() {
                Some(request) if request.end.is_some() => return Ok(request),
                found if started.elapsed() > timeout => bail!("{path} after {timeout:?}: {found:?}"),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// `length` bytes, in pieces, whose value depends on their place: what is lost, doubled or out of order changes the checksum.
pub fn pattern(length: u64) -> impl Iterator<Item = Bytes> + Send {
    // A prime number of different bytes: pieces of a power of two never look alike one after another.
    let period: Vec<u8> = (0..=250).collect();
    let source = Bytes::from(period.repeat(PIECE_BYTES / period.len() + 2));
    let mut sent = 0;
    std::iter::from_fn(move || {
        let piece = usize::try_from(length - sent).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let start = usize::try_from(sent % 251).ok()?;
        sent += piece as u64;
        (piece > 0).then(|| source.slice(start..start + piece))
    })
}

/// CRC-32 of `length` bytes of [`pattern`].
pub fn pattern_checksum(length: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    pattern(length).for_each(|piece| hasher.update(&piece));
    hasher.finalize()
}

/// The requests so far.
#[derive(Debug, Clone, Default)]
struct Book(Arc<Mutex<Vec<Received>>>);

impl Book {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Received>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a request down; its body, as it is read from what this gives.
    fn enter(&self, request: Request) -> WrittenDown {
        let (head, body) = request.into_parts();
        let mut requests = self.lock();
        let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        requests.push(Received {
            method: head.method,
            path,
            headers: head.headers,
            trailers: HeaderMap::new(),
            body_bytes: 0,
            checksum: 0,
            end: None,
        });
        let index = requests.len() - 1;
        drop(requests);
        WrittenDown { body, book: self.clone(), index, hasher: crc32fast::Hasher::new() }
    }
}

/// The body of a request, which is written down while it is read.
struct WrittenDown {
    body: Body,
    book: Book,
    index: usize,
    hasher: crc32fast::Hasher,
}

impl WrittenDown {
    fn note(&mut self, frame: Option<&Result<Frame<Bytes>, axum::Error>>) {
        let mut requests = self.book.lock();
        let request = &mut requests[self.index];
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.hasher.update(data);
                    request.body_bytes += data.len() as u64;
                    request.checksum = self.hasher.clone().finalize();
                } else if let Some(trailers) = frame.trailers_ref() {
                    request.trailers = trailers.clone();
                    request.end = Some(End::Whole);
                }
            }
            Some(Err(_)) => request.end = Some(End::BrokenOff),
            None => request.end = Some(End::Whole),
        }
    }
}

impl HttpBody for WrittenDown {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.note(frame.as_ref());
        Poll::Ready(frame)
    }

    /// Never known: else a server would not read to the end, and the end would not be written down.
    fn is_end_stream(&self) -> bool {
        false
    }
}

impl Drop for WrittenDown {
    /// A server that finds the connection broken drops what it was reading; so it does with an empty body that nobody read.
    fn drop(&mut self) {
        let end = if self.body.is_end_stream() { End::Whole } else { End::BrokenOff };
        self.book.lock()[self.index].end.get_or_insert(end);
    }
}

async fn echo(State(book): State<Book>, request: Request) -> Response {
    let mut response = Response::new(());
    // HTTP/1.1 sends only trailers that were announced.
    for name in request.headers().get_all(TRAILER) {
        response.headers_mut().append(TRAILER, name.clone());
    }
    let body = book.enter(request);
    response.map(|()| Body::new(body))
}

async fn websocket(State(book): State<Book>, upgrade: WebSocketUpgrade, request: Request) -> Response {
    book.enter(request);
    upgrade.on_upgrade(echo_messages)
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if socket.send(message).await.is_err() {
            break;
        }
    }
}

async fn download(State(book): State<Book>, Path(length): Path<u64>, request: Request) -> Response {
    finish(book.enter(request)).await;
    Body::from_stream(stream::iter(pattern(length).map(Ok::<_, Infallible>))).into_response()
}

async fn trickle(State(book): State<Book>, Path((pieces, ms)): Path<(usize, u64)>, request: Request) -> Response {
    finish(book.enter(request)).await;
    let pieces = stream::repeat(Bytes::from_static(b".")).take(pieces).then(move |piece| async move {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        Ok::<_, Infallible>(piece)
    });
    Body::from_stream(pieces).into_response()
}

async fn late(State(book): State<Book>, Path(ms): Path<u64>, request: Request) -> StatusCode {
    finish(book.enter(request)).await;
    tokio::time::sleep(Duration::from_millis(ms)).await;
    StatusCode::NO_CONTENT
}

async fn status(State(book): State<Book>, Path(code): Path<u16>, request: Request) -> StatusCode {
    finish(book.enter(request)).await;
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn plain(State(book): State<Book>, request: Request) -> ([(&'static str, &'static str); 1], String) {
    let path = request.uri().path().to_owned();
    finish(book.enter(request)).await;
    ([("x-application", "here")], path)
}

/// Reads a body to its end.
async fn finish(mut body: WrittenDown) {
    while let Some(Ok(_)) = body.frame().await {}
}
