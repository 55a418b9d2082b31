//! A participant on a fresh database, and clients that ask it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::loopback::{Answer, Client, Outgoing, OutgoingBody, request};
use harness::participant::{Action, Attempt, AttemptFilter, Fault, FaultKind, Participant};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const SOON: Duration = Duration::from_secs(5);
/// Long enough to be sure that nothing comes.
pub const SILENCE: Duration = Duration::from_millis(150);

/// A participant `hotel` on a fresh database, and the client that asks it.
pub struct Hotel {
    pub participant: Participant,
    pub client: Client,
    pub folder: TempDir,
}

impl Hotel {
    pub async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let participant = Participant::start("hotel", &database(folder.path())).await.unwrap();
        Self { participant, client: Client::http1(), folder }
    }

    pub fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Call {
        let url = format!("http://{}{path}", self.participant.address());
        let request = request(method, &url, &[], Outgoing::whole(body)).unwrap();
        Call { client: self.client.clone(), request }
    }

    pub fn post(&self, path: &str, json: &Value) -> Call {
        self.ask(Method::POST, path, json.to_string()).header("content-type", "application/json")
    }

    /// The transaction of the step `hotel` of saga `saga`, for `guest`.
    pub fn booking(&self, saga: &str, guest: &str) -> Call {
        self.post("/bookings", &json!({"guest": guest, "nights": 2})).linked(saga, "t")
    }

    /// The compensation of the same step.
    pub fn cancellation(&self, saga: &str, path: &str) -> Call {
        self.ask(Method::DELETE, path, "").linked(saga, "c")
    }

    pub fn order(&self, fault: Fault) {
        self.participant.set_fault(fault).unwrap();
    }

    pub fn attempts(&self, guest: &str) -> Vec<Attempt> {
        self.participant.attempts(&AttemptFilter::guest(guest)).unwrap()
    }

    pub fn booked(&self) -> u64 {
        self.participant.balance().unwrap().booked
    }
}

pub fn database(folder: &Path) -> std::path::PathBuf {
    folder.join("hotel.sqlite")
}

/// A request that has not been sent yet.
pub struct Call {
    client: Client,
    request: Request<OutgoingBody>,
}

impl Call {
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request.headers_mut().append(name, value.parse().unwrap());
        self
    }

    fn linked(self, saga: &str, half: &str) -> Self {
        self.header("saga-id", saga)
            .header("saga-name", "book-trip")
            .header("saga-step", "hotel")
            .header("saga-action", if half == "t" { "transaction" } else { "compensation" })
            .header("saga-attempt", "1")
            .header("saga-epoch", "7")
            .header("idempotency-key", &format!("{saga}.hotel.{half}"))
    }

    /// The whole answer.
    pub async fn send(self) -> anyhow::Result<Answer> {
        self.client.send(self.request).await
    }

    /// The answer, once its headers are there.
    pub async fn open(self) -> anyhow::Result<Response<Incoming>> {
        self.client.open(self.request).await
    }
}

pub fn json_of(answer: Answer) -> Value {
    answer.json().unwrap()
}

pub fn transaction(guest: &str, kind: FaultKind) -> Fault {
    Fault::new(guest, Action::Transaction, kind)
}

/// Sends a booking of `guest` over a plain socket and reads until the other side ends the connection.
pub async fn raw(address: SocketAddr, guest: &str) -> (String, std::io::Result<usize>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = json!({"guest": guest}).to_string();
    let length = body.len();
    let request = format!("POST /bookings HTTP/1.1\r\nhost: hotel\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let end = timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    (String::from_utf8_lossy(&bytes).into_owned(), end)
}

/// The same, but sure that nothing comes back; then goes away.
pub async fn raw_unanswered(address: SocketAddr, guest: &str) {
    assert!(timeout(SILENCE, raw(address, guest)).await.is_err(), "something came back");
}

/// Waits until `holds`; fails after a while.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
