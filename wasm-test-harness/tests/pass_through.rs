//! Requests that begin no saga pass as if there were no filter, in both body modes and both protocols.

use std::time::Duration;

use bytes::Bytes;
use harness::application::{Application, End};
use harness::envoy::{Envoy, RunningEnvoy};
use harness::loopback::{self, Client, Outgoing};
use harness::trip::{BodyMode, CONFIGURATION};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::time::timeout;

#[path = "pass_through/bodies.rs"]
mod bodies;
#[path = "support/memory.rs"]
mod memory;
#[path = "pass_through/spelling.rs"]
mod spelling;
#[path = "pass_through/upgrades.rs"]
mod upgrades;

const SOON: Duration = Duration::from_secs(10);

/// An application with Envoy in front of it.
struct Front {
    application: Application,
    envoy: RunningEnvoy,
}

impl Front {
    async fn start() -> Front {
        Front::start_with(|envoy| envoy).await
    }

    /// With other sagas than the shipped ones, on both listeners.
    async fn with_sagas(sagas: &Value) -> Front {
        let plain = json!({"version": 1, "sagas": sagas}).to_string();
        let gated = json!({"version": 1, "sagas": sagas, "gate": true}).to_string();
        Front::start_with(|envoy| {
            let envoy = envoy.plugin_configuration("trip", "sagabox", &plain);
            envoy.plugin_configuration("trip_gate", "sagabox_gate_first", &gated)
        })
        .await
    }

    async fn start_with(customise: impl FnOnce(Envoy) -> Envoy) -> Front {
        let application = Application::start().await.unwrap();
        let envoy = Envoy::from_file(CONFIGURATION).workers(1).upstream("application", application.address());
        Front { application, envoy: customise(envoy).start().await.unwrap() }
    }

    fn url(&self, mode: BodyMode, path: &str) -> String {
        format!("http://{}{path}", self.envoy.listener(mode.listener()))
    }

    /// Every way in: a name that paths can end with, a client and the mode.
    fn ways(&self) -> Vec<(String, Client, BodyMode)> {
        let clients = [("h1", Client::http1()), ("h2", Client::http2())];
        let modes = clients.into_iter().flat_map(|client| BodyMode::ALL.map(|mode| (client.clone(), mode)));
        modes.map(|((name, client), mode)| (format!("{name}-{mode:?}"), client, mode)).collect()
    }
}

/// The next bytes of a body. HTTP/2 may say the end with a frame that holds none.
async fn next_piece(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let frame = timeout(SOON, body.frame()).await.expect("a piece in time")?;
        let data = frame.expect("an unbroken body").into_data().expect("no trailers");
        if !data.is_empty() {
            return Some(data);
        }
    }
}

#[tokio::test]
async fn any_method_and_path_passes_with_its_headers_and_query() {
    let front = Front::start().await;
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"];
    for (way, client, mode) in front.ways() {
        for method in methods {
            let path = format!("/{way}/{method}/a%2Fb/%c3%a9?x=%20&y=/trips");
            let sent = [("x-one", "1"), ("x-repeated", "a"), ("x-repeated", "b"), ("expect-nothing", "")];
            let method: Method = method.parse().unwrap();
            let request = loopback::request(method.clone(), &front.url(mode, &path), &sent, Outgoing::whole("body"));
            let answer = client.send(request.unwrap()).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.header("x-application")), (200, Some("here")), "{way} {method}");
            assert_eq!(answer.header("saga-id"), None);

            let received = front.application.requests().pop().unwrap();
            assert_eq!((&received.method, &received.path, received.body_bytes), (&method, &path, 4), "{way}");
            let repeated: Vec<_> = received.headers.get_all("x-repeated").iter().collect();
            assert_eq!(repeated, ["a", "b"], "{way} {method}");
            assert_eq!(
                (&received.headers["x-one"], &received.headers["expect-nothing"]),
                (&HeaderValue::from_static("1"), &HeaderValue::from_static(""))
            );
            assert!(!received.headers.contains_key("x-envoy-original-path"), "{way} {method}");
        }
    }
}

#[tokio::test]
async fn what_only_resembles_a_request_that_begins_a_saga_passes() {
    let front = Front::start().await;
    for (way, client, mode) in front.ways() {
        for (method, path) in [
            (Method::GET, "/trips"),
            (Method::PUT, "/trips"),
            (Method::GET, "/trips/"),
            (Method::POST, "/tripsy"),
            (Method::POST, "/trips/1"),
            (Method::POST, "/Trips"),
            (Method::POST, "/?/trips"),
        ] {
            let before = front.application.requests().len();
            let request = loopback::request(method.clone(), &front.url(mode, path), &[], Outgoing::whole("{}"));
            let answer = client.send(request.unwrap()).await.unwrap();
            assert_eq!(answer.header("x-application"), Some("here"), "{way}: {method} {path}: {answer:?}");
            let requests = front.application.requests();
            assert_eq!((requests.len(), requests[before].path.as_str()), (before + 1, path), "{way}");
        }
    }
}

#[tokio::test]
async fn a_client_cannot_mark_its_request_for_the_gate() {
    let front = Front::start().await;
    for (way, client, mode) in front.ways() {
        let headers = [("x-sagabox-held", "1"), ("x-sagabox-held", "2"), ("sagabox_hold", "asked")];
        let request = loopback::request(Method::POST, &front.url(mode, "/marked"), &headers, Outgoing::whole("x"));
        let answer = client.send(request.unwrap()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "/marked"), "{way}");
        let received = front.application.requests().pop().unwrap();
        assert_eq!(received.headers.get_all("x-sagabox-held").iter().count(), 2, "{way}: a header like any other");
    }
}

#[tokio::test]
async fn headers_that_are_not_utf_8_pass() {
    let front = Front::start().await;
    for (way, client, mode) in front.ways() {
        let mut request =
            loopback::request(Method::POST, &front.url(mode, "/strange"), &[], Outgoing::whole("x")).unwrap();
        let value = HeaderValue::from_bytes(b"caf\xe9 \xff").unwrap();
        request.headers_mut().insert("x-strange", value.clone());
        assert_eq!(client.send(request).await.unwrap().status, 200, "{way}");
        assert_eq!(front.application.requests().pop().unwrap().headers["x-strange"], value, "{way}");
    }
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let front = Front::start().await;
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("42"))]);
    for (way, client, mode) in front.ways() {
        let pieces = futures::stream::iter(["a", "b", "c"].map(Into::into));
        let body = Outgoing::stream(pieces, trailers.clone());
        let url = front.url(mode, &format!("/echo?{way}"));
        let mut request = loopback::request(Method::POST, &url, &[("te", "trailers")], body).unwrap();
        loopback::announce(request.headers_mut(), &trailers);
        let answer = client.send(request).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "abc"), "{way}");
        assert_eq!(answer.trailers.get("x-sum").unwrap(), "42", "{way}");
        let received = front.application.ended("/echo", SOON).await.unwrap();
        assert_eq!((received.trailers.get("x-sum").unwrap().as_bytes(), received.end), (&b"42"[..], Some(End::Whole)));
    }
}

#[tokio::test]
async fn a_slow_answer_arrives_piece_by_piece() {
    let front = Front::start().await;
    for (way, client, mode) in front.ways() {
        let url = front.url(mode, "/trickle/4/100");
        let request = loopback::request(Method::GET, &url, &[], Outgoing::whole("")).unwrap();
        let mut body = client.open(request).await.unwrap().into_body();
        let mut pieces = 0;
        while let Some(piece) = next_piece(&mut body).await {
            assert_eq!(piece, ".", "{way}: pieces that had waited for each other would come together");
            pieces += 1;
        }
        assert_eq!(pieces, 4, "{way}");
    }
}
