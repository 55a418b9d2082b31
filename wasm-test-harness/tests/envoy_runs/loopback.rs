//! The client that reaches loopback only, and the application that it is tried on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use harness::loopback::{self, Client, NotLoopback, Outgoing};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;

/// An application that echoes bodies and trailers, and tells when a request went away before it was answered.
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    /// Gets one for each request that went away.
    pub abandoned: mpsc::UnboundedReceiver<()>,
}

/// Tells that it was dropped.
struct Tell(Option<mpsc::UnboundedSender<()>>);

impl Drop for Tell {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            let _ = sender.send(());
        }
    }
}

/// Starts one on a free port.
pub async fn application() -> Application {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (sender, abandoned) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request| answer(request, sender.clone()));
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Application { address, abandoned }
}

type Echo = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(request: Request<Incoming>, sender: mpsc::UnboundedSender<()>) -> Result<Response<Echo>, hyper::Error> {
    let mut tell = Tell(Some(sender));
    if request.uri().path() == "/never" {
        std::future::pending::<()>().await;
    }
    let body = request.into_body().collect().await?;
    tell.0 = None;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let mut response = Response::new(());
    loopback::announce(response.headers_mut(), &trailers);
    let frames = vec![Ok(Frame::data(body.to_bytes())), Ok(Frame::trailers(trailers))];
    Ok(response.map(|()| StreamBody::new(futures::stream::iter(frames))))
}

#[tokio::test]
async fn a_request_can_be_abandoned_while_it_is_in_flight() {
    let mut application = application().await;
    for client in [Client::http1(), Client::http2()] {
        let url = format!("http://{}/never", application.address);
        let request = loopback::request(Method::GET, &url, &[], Outgoing::whole("")).unwrap();
        let in_flight = client.begin(request);
        let early = tokio::time::timeout(Duration::from_millis(200), application.abandoned.recv()).await;
        assert!(early.is_err() && !in_flight.is_done());
        in_flight.abandon();
        tokio::time::timeout(Duration::from_secs(5), application.abandoned.recv()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn bytes_can_be_sent_as_they_are() {
    let application = application().await;
    let odd = b"GET /odd HTTP/1.1\r\nhost: a\r\nx: \xff\xfe\r\nconnection: close\r\n\r\n";
    let received = loopback::exchange(application.address, odd, Duration::from_secs(5)).await.unwrap();
    assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&received));
}

#[tokio::test]
async fn a_target_that_is_not_on_loopback_is_refused() {
    for url in [
        "http://192.0.2.1/",
        "http://example.com/",
        "http://localhost.example.com/",
        "http://[2001:db8::1]/",
        "http://0.0.0.0/",
    ] {
        for client in [Client::http1(), Client::http2()] {
            let error = client.get(url).await.unwrap_err();
            assert!(error.downcast_ref::<NotLoopback>().is_some(), "{url}: {error:#}");
            assert!(error.to_string().contains("not on loopback"), "{url}: {error:#}");
        }
    }
    let elsewhere = "192.0.2.1:80".parse().unwrap();
    assert!(loopback::connect(elsewhere).await.unwrap_err().downcast_ref::<NotLoopback>().is_some());
}

#[tokio::test]
async fn localhost_and_both_loopback_addresses_are_reached() {
    let application = application().await;
    let port = application.address.port();
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let answer = Client::http1().get(&format!("http://{host}:{port}/")).await.unwrap();
        assert_eq!(answer.status, 200, "{host}");
    }
}
