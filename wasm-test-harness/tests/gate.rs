//! Who holds a request while its saga runs: pairs of instances in every order, and what becomes of a request that nobody
//! would hold.

use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::application::Application;
use harness::envoy::{Envoy, RunningEnvoy};
use harness::loopback::{self, Answer, Client, Outgoing, OutgoingBody};
use hyper::header::HeaderMap;
use hyper::{Method, Request};
use serde_json::json;

#[path = "support/trap.rs"]
mod trap;

/// One filter of a chain.
#[derive(Clone, Copy)]
enum Instance {
    /// Begins sagas of requests to this path, and counts on a gate.
    Gated(&'static str),
    /// Begins sagas of requests to this path, with or without `allow_on_headers_stop_iteration`.
    Alone { path: &'static str, option: bool },
    /// Holds what is asked for.
    Gate,
}

use Instance::{Alone, Gate, Gated};

/// An Envoy with a chain of filters, between an application and a participant that does all that it is asked.
struct Chain {
    envoy: RunningEnvoy,
    application: Application,
    hotel: Application,
    directory: tempfile::TempDir,
}

impl Chain {
    async fn start(instances: &[Instance]) -> Chain {
        let (application, hotel) = (Application::start().await.unwrap(), Application::start().await.unwrap());
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("access.log");
        let envoy = Envoy::from_yaml(configuration(instances, log.to_str().unwrap())).workers(1);
        let envoy = envoy.upstream("application", application.address()).upstream("hotel", hotel.address());
        Chain { envoy: envoy.start().await.unwrap(), application, hotel, directory }
    }

    fn request(&self, path: &str, headers: &[(&str, &str)], body: OutgoingBody) -> Request<OutgoingBody> {
        let url = format!("http://{}{path}", self.envoy.listener("chain"));
        loopback::request(Method::POST, &url, headers, body).unwrap()
    }

    async fn post(&self, path: &str) -> Answer {
        let request = self.request(path, &[], Outgoing::whole("{}"));
        Client::http1().timeout(Duration::from_secs(5)).send(request).await.unwrap()
    }

    /// A request for a saga was answered by it; the application knows of nothing, and the participant did it once.
    async fn begins_one_saga(&self, path: &str) {
        let (seen, done) = (self.application.requests().len(), self.hotel.requests().len());
        let answer = self.post(path).await;
        assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (200, Some("completed")), "{path}");
        assert_eq!(self.application.requests().len(), seen, "{path}: {:?}", self.application.requests());
        assert_eq!(self.hotel.requests().len(), done + 1, "{path}");
    }

    async fn passes(&self, path: &str) {
        let answer = self.post(path).await;
        assert_eq!((answer.header("x-application"), answer.text().as_str()), (Some("here"), path));
    }

    /// A request was refused for want of a holder, and nobody has heard of it.
    async fn is_refused(&self, request: Request<OutgoingBody>, client: Client, missing: &str) -> Duration {
        let counted = self.not_held().await;
        let began = Instant::now();
        let answer = client.timeout(Duration::from_secs(20)).send(request).await.unwrap();
        let took = began.elapsed();
        assert_eq!((answer.status.as_u16(), answer.header("saga-id")), (500, None), "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        let problem = answer.json().unwrap();
        assert_eq!(problem["type"], "urn:sagabox:problem:not-held");
        assert!(problem["detail"].as_str().unwrap().contains(missing), "{problem}");
        // What would come later must not come either.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(self.application.requests().is_empty(), "{:?}", self.application.requests());
        assert!(self.hotel.requests().is_empty(), "{:?}", self.hotel.requests());
        assert_eq!(self.not_held().await, counted + 1);
        assert!(self.envoy.log().contains(missing), "{}", self.envoy.log());
        trap::assert_none(&self.envoy);
        took
    }

    async fn not_held(&self) -> u64 {
        let stats = self.envoy.stats(r"^wasmcustom\.sagabox_requests_not_held$").await.unwrap();
        stats.into_values().sum()
    }
}

const NO_GATE: &str = "no gate behind this instance: add an instance with role: gate right behind it, or set \
                       allow_on_headers_stop_iteration and leave gate: false";
const NEITHER: &str = "neither allow_on_headers_stop_iteration nor a gate: set allow_on_headers_stop_iteration for this \
                       instance, or set gate: true and add an instance with role: gate right behind it";

fn configuration(instances: &[Instance], log: &str) -> String {
    let filters: String = instances.iter().enumerate().map(|(index, instance)| filter(index, *instance)).collect();
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}
static_resources:
  listeners:
  - name: chain
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: chain
          http_protocol_options: {{enable_trailers: true}}
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
          route_config:
            virtual_hosts:
            - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: application}}}}]}}
          http_filters:
{filters}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - {{name: application, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: application}}}}
  - {{name: hotel, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: hotel}}}}
"#
    )
}

fn filter(index: usize, instance: Instance) -> String {
    let (path, gate, option) = match instance {
        Gated(path) => (path, true, false),
        Alone { path, option } => (path, false, option),
        Gate => ("", false, false),
    };
    let configuration = match instance {
        Gate => json!({"version": 1, "role": "gate"}),
        Gated(_) | Alone { .. } => json!({"version": 1, "gate": gate, "sagas": [{
            // Each pair has a saga of its own.
            "name": format!("saga-{index}"),
            "match": if path == "/" { json!({"path_prefix": "/"}) } else { json!({"method": "POST", "path": path}) },
            "steps": [{"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/bookings"}}],
        }]}),
    };
    format!(
        r#"
          - name: sagabox_{index}
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: sagabox_{index}
                allow_on_headers_stop_iteration: {option}
                failure_policy: FAIL_RELOAD
                vm_config:
                  vm_id: sagabox
                  runtime: envoy.wasm.runtime.v8
                  code: {{local: {{filename: sagabox.wasm}}}}
                configuration: {{"@type": type.googleapis.com/google.protobuf.StringValue, value: '{configuration}'}}
"#
    )
}

#[tokio::test]
async fn pairs_in_any_order_hold_each_request_once() {
    let chains: [&[Instance]; 6] = [
        &[Gated("/a"), Gate],
        &[Gated("/a"), Gate, Gated("/b"), Gate],
        &[Gated("/a"), Gated("/b"), Gate, Gate],
        // As many gates as pairs are not needed: a request has one holder.
        &[Gated("/a"), Gated("/b"), Gate],
        &[Gated("/a"), Gated("/b"), Gated("/c"), Gate, Gate, Gate],
        &[Gated("/a"), Gate, Gated("/b"), Gated("/c"), Gate, Gate],
    ];
    for (index, instances) in chains.into_iter().enumerate() {
        let chain = Chain::start(instances).await;
        for instance in instances {
            if let Gated(path) = instance {
                println!("chain {index}: {path}");
                chain.begins_one_saga(path).await;
            }
        }
        chain.passes("/other").await;
        assert_eq!(chain.not_held().await, 0);
        trap::assert_none(&chain.envoy);
    }
}

#[tokio::test]
async fn a_request_that_a_pair_holds_begins_no_second_saga_behind_it() {
    // Both would take it, the second whatever its path.
    for instances in [
        [Gated("/a"), Gated("/a"), Gate, Gate],
        [Gated("/a"), Gated("/"), Gate, Gate],
        [Gated("/a"), Alone { path: "/", option: true }, Gate, Gate],
    ] {
        let chain = Chain::start(&instances).await;
        chain.begins_one_saga("/a").await;
    }
}

#[tokio::test]
async fn one_instance_with_the_option_stands_beside_a_pair() {
    let chain = Chain::start(&[Alone { path: "/a", option: true }, Gated("/b"), Gate]).await;
    chain.begins_one_saga("/a").await;
    chain.begins_one_saga("/b").await;
    let chain = Chain::start(&[Gated("/b"), Gate, Alone { path: "/a", option: true }]).await;
    chain.begins_one_saga("/a").await;
    chain.begins_one_saga("/b").await;
}

#[tokio::test]
async fn a_gate_that_stands_alone_holds_nothing_whatever_the_client_sends() {
    let chain = Chain::start(&[Gate]).await;
    let marks = [("x-sagabox-held", "1"), ("sagabox_hold", "asked"), ("wasm.sagabox_hold", "asked")];
    let request = chain.request("/a", &marks, Outgoing::whole("{}"));
    let answer = Client::http1().timeout(Duration::from_secs(5)).send(request).await.unwrap();
    assert_eq!((answer.header("x-application"), answer.text().as_str()), (Some("here"), "/a"));
    assert_eq!(chain.application.requests().pop().unwrap().headers["x-sagabox-held"], "1");
}

#[tokio::test]
async fn without_a_gate_behind_a_request_is_refused_and_nobody_hears_of_it() {
    for instances in [&[Gated("/a")][..], &[Gate, Gated("/a")], &[Gated("/b"), Gate, Gated("/a")]] {
        let chain = Chain::start(instances).await;
        for client in [Client::http1(), Client::http2()] {
            let headers = [("authorization", "Bearer secret"), ("x-sagabox-held", "1")];
            let request = chain.request("/a", &headers, Outgoing::whole("{}"));
            let took = chain.is_refused(request, client.clone(), NO_GATE).await;
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        // Nothing comes after this: it needs no gate.
        chain.begins_one_saga_without_body("/a").await;
    }
}

impl Chain {
    async fn begins_one_saga_without_body(&self, path: &str) {
        let answer = Client::http1().send(self.request(path, &[], Outgoing::whole(""))).await.unwrap();
        assert_eq!(answer.header("saga-status"), Some("completed"), "{}", answer.text());
        assert!(self.application.requests().is_empty());
    }
}

#[tokio::test]
async fn without_gate_and_without_option_a_request_is_refused_within_a_second() {
    let chain = Chain::start(&[Alone { path: "/a", option: false }]).await;
    for client in [Client::http1(), Client::http2()] {
        for round in 0..3 {
            let request = chain.request("/a", &[], Outgoing::whole("{}"));
            let took = chain.is_refused(request, client.clone(), NEITHER).await;
            assert!(took < Duration::from_secs(1), "round {round}: {took:?}");
        }
    }
    // Of a body without a length nobody can say that it is whole.
    let pieces = Outgoing::stream(futures::stream::iter([Bytes::from("{}")]), HeaderMap::new());
    let took = chain.is_refused(chain.request("/a", &[], pieces), Client::http1(), NEITHER).await;
    assert!(took < Duration::from_secs(7), "{took:?}");
    chain.passes("/other").await;
}

#[tokio::test]
async fn with_the_option_a_body_may_come_as_slowly_as_it_likes() {
    let chain = Chain::start(&[Alone { path: "/a", option: true }]).await;
    // The first is the one that counts: nobody knows yet that the option is set.
    for client in [Client::http1(), Client::http2()] {
        let pieces = futures::stream::unfold(0, |index| async move {
            let wait = if index == 0 { 2_500 } else { 1_200 };
            tokio::time::sleep(Duration::from_millis(wait)).await;
            ["{", "\"guest\"", ": 1}"].get(index).map(|piece| (Bytes::from(*piece), index + 1))
        });
        let done = chain.hotel.requests().len();
        let request = chain.request("/a", &[], Outgoing::stream(pieces, HeaderMap::new()));
        let answer = client.timeout(Duration::from_secs(20)).send(request).await.unwrap();
        assert_eq!(answer.header("saga-status"), Some("completed"), "{}", answer.text());
        assert_eq!(chain.hotel.requests().len(), done + 1);
    }
    assert_eq!((chain.not_held().await, chain.application.requests().len()), (0, 0));
}

#[tokio::test]
async fn with_the_option_an_announced_body_that_comes_late_is_waited_for() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let chain = Chain::start(&[Alone { path: "/a", option: true }]).await;
    let mut stream = loopback::connect(chain.envoy.listener("chain")).await.unwrap();
    stream.write_all(b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nconnection: close\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    stream.write_all(b"{}").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("saga-status: completed"), "{answer}");
}

#[tokio::test]
async fn the_access_log_has_the_clients_path() {
    let chain =
        Chain::start(&[Gated("/a"), Gate, Alone { path: "/b", option: true }, Alone { path: "/c", option: false }])
            .await;
    for path in ["/a?x=1", "/b?x=2"] {
        // What a client says that its path was.
        let request = chain.request(path, &[("x-envoy-original-path", "/forged")], Outgoing::whole("{}"));
        let answer = Client::http1().send(request).await.unwrap();
        assert_eq!(answer.header("saga-status"), Some("completed"), "{path}: {}", answer.text());
    }
    chain.envoy.terminate().await.unwrap();
    let log = std::fs::read_to_string(chain.directory.path().join("access.log")).unwrap();
    let paths: Vec<_> = log.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(paths, ["/a?x=1", "/b?x=2"], "{log}");
}
