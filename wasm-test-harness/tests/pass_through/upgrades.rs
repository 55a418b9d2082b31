//! WebSockets pass, also on paths where other requests begin sagas.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use harness::loopback::{self, Client};
use harness::trip::BodyMode;
use http_body_util::Empty;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Front, SOON};

/// How long connections that stay open are listened to.
const PATIENCE: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn a_websocket_passes_over_http_1() {
    let front = Front::start().await;
    for mode in BodyMode::ALL {
        let address = front.envoy.listener(mode.listener());
        let stream = loopback::connect(address).await.unwrap();
        let url = format!("ws://{address}/websocket");
        let (socket, answer) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        converse(socket).await;
        assert_eq!(front.application.requests().pop().unwrap().method, Method::GET);
    }
}

#[tokio::test]
async fn a_websocket_passes_over_http_2() {
    let front = Front::start().await;
    for mode in BodyMode::ALL {
        let socket = extended_connect(front.envoy.listener(mode.listener()), "/websocket").await;
        converse(socket).await;
    }
}

/// Messages come back one by one, long after the handshake, and large ones whole.
async fn converse(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
    let large = "x".repeat(3 * 1024 * 1024);
    for message in ["one", "two", &large] {
        socket.send(Message::text(message)).await.unwrap();
        let back = timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(back, Message::text(message));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    socket.close(None).await.unwrap();
    while timeout(SOON, socket.next()).await.unwrap().is_some_and(|message| message.is_ok()) {}
}

/// RFC 8441: a CONNECT with the pseudo-header `:protocol`.
async fn extended_connect(
    address: SocketAddr,
    path: &str,
) -> WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    let stream = TokioIo::new(loopback::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = |method: Method, path: &str| {
        let url = format!("http://{address}{path}");
        Request::builder().method(method).uri(url).body(Empty::<Bytes>::new()).unwrap()
    };
    // By its answer the settings have come, and with them the permission for what follows.
    assert_eq!(sender.send_request(request(Method::GET, "/settings")).await.unwrap().status(), 200);
    let mut upgrade = request(Method::CONNECT, path);
    upgrade.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let headers = upgrade.headers_mut();
    headers.insert("sec-websocket-version", "13".parse().unwrap());
    // Of no use in HTTP/2, but the application behind Envoy is asked in HTTP/1.1.
    headers.insert("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
    let answer = timeout(SOON, sender.send_request(upgrade)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let upgraded = hyper::upgrade::on(answer).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

#[tokio::test]
async fn a_websocket_passes_where_every_other_request_begins_a_saga() {
    let call = json!({"cluster": "application", "method": "POST", "path": "/booked"});
    let steps = json!([{"name": "only", "transaction": call}]);
    let saga = json!({"name": "all", "match": {"path": "/websocket"}, "steps": steps});
    let front = Front::with_sagas(&json!([saga])).await;
    for mode in BodyMode::ALL {
        let address = front.envoy.listener(mode.listener());
        let stream = loopback::connect(address).await.unwrap();
        let (socket, _) = tokio_tungstenite::client_async(format!("ws://{address}/websocket"), stream).await.unwrap();
        converse(socket).await;
        converse(extended_connect(address, "/websocket").await).await;
        assert!(front.application.requests_to("/booked").is_empty(), "{mode:?}");
    }
    for (way, client, mode) in front.ways() {
        let answer = client.get(&front.url(mode, "/websocket")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (200, Some("completed")), "{way}");
    }
    assert_eq!(front.application.requests_to("/booked").len(), 4);
}

#[tokio::test]
async fn an_upgrade_where_other_requests_begin_a_saga_is_left_to_the_application_if_it_is_a_get() {
    let front = Front::start().await;
    for mode in BodyMode::ALL {
        let address = front.envoy.listener(mode.listener());
        for method in ["POST", "GET"] {
            let before = front.application.requests_to("/trips").len();
            let request = format!(
                "{method} /trips HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            let answer = loopback::exchange(address, request.as_bytes(), PATIENCE).await.unwrap();
            let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            if method == "POST" {
                assert!(answer.starts_with("http/1.1 400") && answer.contains("problem:upgrade"), "{mode:?}: {answer}");
                assert_eq!(front.application.requests_to("/trips").len(), before, "{mode:?}");
                continue;
            }
            assert!(answer.contains("x-application: here"), "{mode:?} {method}: {answer}");
            let requests = front.application.requests_to("/trips");
            assert_eq!(requests.len(), before + 1, "{mode:?} {method}");
            assert_eq!(requests[before].headers["upgrade"], "websocket");
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_envoy_does_not_allow_begins_no_saga() {
    let front = Front::start().await;
    for mode in BodyMode::ALL {
        let address = front.envoy.listener(mode.listener());
        let request = "POST /trips HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
        let answer = loopback::exchange(address, request.as_bytes(), PATIENCE).await.unwrap();
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 ") && !answer.contains("saga-id"), "{mode:?}: {answer}");
        let plain = Client::http1().get(&front.url(mode, "/after")).await.unwrap();
        assert_eq!(plain.header("x-application"), Some("here"));
    }
}
