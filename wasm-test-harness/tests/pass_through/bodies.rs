//! Bodies stream in both directions: nothing is kept back, however large they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use harness::application::{End, pattern, pattern_checksum};
use harness::loopback::{self, Client, Outgoing};
use harness::trip::BodyMode;
use hyper::Method;
use hyper::header::HeaderMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Front, SOON, next_piece};
use crate::memory::resident_bytes;

const MIB: u64 = 1024 * 1024;
/// What Envoy may grow by while a body passes: some buffers on the way, not the body.
const MEMORY: u64 = 48 * MIB;

#[tokio::test]
async fn each_piece_comes_back_before_the_next_one_is_sent() {
    let front = Front::start().await;
    for (way, client, mode) in front.ways() {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let pieces = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        let body = Outgoing::stream(pieces, HeaderMap::new());
        let request = loopback::request(Method::PUT, &front.url(mode, "/echo"), &[], body).unwrap();
        let in_flight = tokio::spawn(async move { client.open(request).await.unwrap() });
        sender.send("first".into()).await.unwrap();
        let answer = timeout(SOON, in_flight).await.expect("an answer to a request that has not ended").unwrap();
        let mut answer = answer.into_body();
        assert_eq!(next_piece(&mut answer).await.unwrap(), "first", "{way}");
        for piece in ["second", "third"] {
            sender.send(piece.into()).await.unwrap();
            assert_eq!(next_piece(&mut answer).await.unwrap(), piece, "{way}");
        }
        drop(sender);
        assert_eq!(next_piece(&mut answer).await, None, "{way}");
    }
}

#[tokio::test]
async fn a_gibibyte_streams_both_ways_past_one_filter_over_http_1() {
    both_ways(&Front::start().await, Client::http1(), BodyMode::Option, 1024 * MIB).await;
}

#[tokio::test]
async fn a_gibibyte_streams_both_ways_past_the_gate_pair_over_http_2() {
    both_ways(&Front::start().await, Client::http2(), BodyMode::GatePair, 1024 * MIB).await;
}

#[tokio::test]
async fn the_other_modes_and_protocols_stream_as_well() {
    let front = Front::start().await;
    both_ways(&front, Client::http2(), BodyMode::Option, 64 * MIB).await;
    both_ways(&front, Client::http1(), BodyMode::GatePair, 64 * MIB).await;
}

/// Sends `length` bytes to the echo and reads them back, while Envoy's memory is watched. All but the first piece is
/// sent after that one has come back.
async fn both_ways(front: &Front, client: Client, mode: BodyMode, length: u64) {
    let memory = Watch::start(front.envoy.pid());
    let (first_is_back, wait) = oneshot::channel::<()>();
    let mut pieces = pattern(length);
    let first = stream::iter(pieces.next());
    let pause = stream::once(async {
        let _ = wait.await;
        Bytes::new()
    });
    let sent_all = Arc::new(AtomicBool::new(false));
    let at_the_end = Arc::clone(&sent_all);
    let rest = stream::iter(pieces.chain(std::iter::from_fn(move || {
        at_the_end.store(true, Ordering::SeqCst);
        None
    })));
    let body = Outgoing::stream(first.chain(pause).chain(rest), HeaderMap::new());
    let request = loopback::request(Method::POST, &front.url(mode, "/echo"), &[], body).unwrap();

    let mut answer = client.open(request).await.unwrap().into_body();
    let mut checksum = crc32fast::Hasher::new();
    let mut back = 0;
    let mut first_is_back = Some(first_is_back);
    while let Some(data) = next_piece(&mut answer).await {
        checksum.update(&data);
        back += data.len() as u64;
        if let Some(first_is_back) = first_is_back.take() {
            assert!(!sent_all.load(Ordering::SeqCst));
            first_is_back.send(()).unwrap();
        }
    }
    let grown = memory.grown();
    assert_eq!((back, checksum.finalize()), (length, pattern_checksum(length)), "{mode:?}");
    let received = front.application.ended("/echo", SOON).await.unwrap();
    assert_eq!((received.body_bytes, received.checksum), (length, pattern_checksum(length)), "{mode:?}");
    assert_eq!(received.end, Some(End::Whole));
    assert!(grown < MEMORY, "{mode:?}: Envoy grew by {} MiB", grown / MIB);
}

#[tokio::test]
async fn a_download_that_nobody_reads_waits_at_the_application() {
    let front = Front::start().await;
    for mode in BodyMode::ALL {
        let memory = Watch::start(front.envoy.pid());
        let url = front.url(mode, &format!("/download/{}", 512 * MIB));
        let request = loopback::request(Method::GET, &url, &[], Outgoing::whole("")).unwrap();
        let answer = Client::http1().open(request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        let grown = memory.grown();
        assert!(grown < MEMORY, "{mode:?}: Envoy grew by {} MiB", grown / MIB);
        drop(answer);
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_its_upload_breaks_it_off_at_the_application() {
    let front = Front::start().await;
    for (way, client, mode) in front.ways() {
        let pieces = stream::iter([Bytes::from_static(b"begun")]).chain(stream::pending());
        let path = format!("/broken/{way}");
        let body = Outgoing::stream(pieces, HeaderMap::new());
        let in_flight = client.begin(loopback::request(Method::POST, &front.url(mode, &path), &[], body).unwrap());
        let started = tokio::time::Instant::now();
        while front.application.requests_to(&path).first().is_none_or(|one| one.body_bytes < 5) {
            assert!(started.elapsed() < SOON, "{way}: the beginning does not arrive");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        in_flight.abandon();
        assert_eq!(front.application.ended(&path, SOON).await.unwrap().end, Some(End::BrokenOff), "{way}");
    }
}

/// The largest memory of a process while this lives.
struct Watch {
    before: u64,
    most: Arc<AtomicU64>,
    watching: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn start(pid: u32) -> Watch {
        let before = resident_bytes(pid);
        let most = Arc::new(AtomicU64::new(before));
        let seen = Arc::clone(&most);
        let watching = tokio::spawn(async move {
            loop {
                seen.fetch_max(resident_bytes(pid), Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        Watch { before, most, watching }
    }

    fn grown(self) -> u64 {
        self.watching.abort();
        self.most.load(Ordering::SeqCst) - self.before
    }
}
