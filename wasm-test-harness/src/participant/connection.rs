//! Accepts connections, and lets a request reach the connection that it came in on.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::Socket;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

/// How long to wait after a connection could not be accepted, which is most often a lack of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);

/// What a request may do to the connection that it came in on. Every request carries one as an extension.
#[derive(Debug, Clone)]
pub(super) struct Line {
    ends: mpsc::Sender<End>,
}

/// How a connection ends before its time.
#[derive(Debug)]
enum End {
    /// With an RST.
    Reset,
    /// With these bytes, written past the HTTP library, and a FIN.
    Raw(Vec<u8>),
}

impl Line {
    /// Resets the connection. Never returns: the request ends with its connection.
    pub(super) async fn reset(&self) -> Infallible {
        self.end(End::Reset).await
    }

    /// Writes `bytes` as they are and closes the connection. Never returns, as [`Line::reset`].
    pub(super) async fn write_and_close(&self, bytes: Vec<u8>) -> Infallible {
        self.end(End::Raw(bytes)).await
    }

    async fn end(&self, end: End) -> Infallible {
        // Full or closed: the connection is already ending.
        let _ = self.ends.try_send(end);
        std::future::pending().await
    }
}

/// Serves every connection of `listener` until `stopped` says so or its sender is gone; then closes all.
pub(super) async fn accept(listener: TcpListener, router: Router, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = until_stopped(&mut stopped) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, router.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN).await,
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Returns when the participant is stopped or dropped.
pub(super) async fn until_stopped(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn serve(stream: TcpStream, router: Router) -> io::Result<()> {
    use std::os::fd::AsFd;

    stream.set_nodelay(true)?;
    // The library owns the stream; a second descriptor of the same socket outlives it here.
    let socket = Socket::from(stream.as_fd().try_clone_to_owned()?);
    let (ends, mut ended) = mpsc::channel(1);
    let line = Line { ends };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(line.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let end = {
        let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = connection => None,
            end = ended.recv() => end,
        }
    };
    match end {
        None => Ok(()),
        // Closing a socket that lingers for no time sends an RST instead of a FIN.
        Some(End::Reset) => socket.set_linger(Some(Duration::ZERO)),
        Some(End::Raw(bytes)) => {
            let mut stream = TcpStream::from_std(socket.into())?;
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
    }
}
