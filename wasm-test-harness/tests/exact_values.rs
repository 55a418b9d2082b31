//! What a value is when it arrives: one value, whatever is in it. A real Envoy, and a participant that writes down every
//! byte.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::IntoResponse;
use harness::envoy::{Envoy, RunningEnvoy};
use harness::loopback::{self, Answer, Client, Outgoing};
use hyper::{Method, StatusCode};
use serde_json::{Value as Json, json};

/// A request as it arrived.
#[derive(Clone, Debug)]
struct Arrived {
    method: String,
    path: String,
    content_type: String,
    body: Bytes,
}

/// A participant that answers 201 with a link, refuses what it is asked at `/refuses`, and writes down what it gets.
#[derive(Clone, Default)]
struct Participant(Arc<Mutex<Vec<Arrived>>>);

impl Participant {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        address
    }

    /// What came to paths that begin with this.
    fn arrived(&self, path: &str) -> Vec<Arrived> {
        self.0.lock().unwrap().iter().filter(|one| one.path.starts_with(path)).cloned().collect()
    }
}

async fn answer(State(participant): State<Participant>, request: Request) -> impl IntoResponse {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get("content-type").map_or("", |value| value.to_str().unwrap());
    let arrived = Arrived {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        content_type: content_type.to_owned(),
        body: to_bytes(body, 1 << 20).await.unwrap(),
    };
    participant.0.lock().unwrap().push(arrived);
    let status = if head.uri.path() == "/refuses" { StatusCode::CONFLICT } else { StatusCode::CREATED };
    (
        status,
        [("location", "https://hotel.example/links/h%201?version=2")],
        axum::Json(json!({"id": "h1", "rooms": [1, 2]})),
    )
}

struct Proxy {
    envoy: RunningEnvoy,
    participant: Participant,
}

impl Proxy {
    /// Each saga has one step, or a second that is refused; its request goes to `/NAME`.
    async fn start(sagas: Json) -> Proxy {
        let participant = Participant::default();
        let address = participant.start().await;
        let envoy = Envoy::from_yaml(configuration(&json!({"version": 1, "sagas": sagas}))).workers(1);
        Proxy { envoy: envoy.upstream("hotel", address).start().await.unwrap(), participant }
    }

    async fn post(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
        let url = format!("http://{}{path}", self.envoy.listener("front"));
        let request = loopback::request(Method::POST, &url, &[("content-type", content_type)], Outgoing::whole(body));
        Client::http1().timeout(Duration::from_secs(10)).send(request.unwrap()).await.unwrap()
    }
}

fn saga(name: &str, transaction: Json) -> Json {
    let mut step =
        json!({"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": format!("/{name}")}});
    for (field, value) in transaction.as_object().unwrap() {
        step["transaction"][field] = value.clone();
    }
    json!({"name": name, "match": {"method": "POST", "path": format!("/{name}")}, "steps": [step]})
}

fn configuration(plugin: &Json) -> String {
    let quoted = plugin.to_string().replace('\'', "''");
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 9901}}}}}}
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts: [{{name: none, domains: ["*"], routes: [{{match: {{prefix: /}}, direct_response: {{status: 404}}}}]}}]
          http_filters:
          - name: sagabox
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
              config:
                name: sagabox
                allow_on_headers_stop_iteration: true
                failure_policy: FAIL_RELOAD
                vm_config:
                  vm_id: sagabox
                  runtime: envoy.wasm.runtime.v8
                  code: {{local: {{filename: sagabox.wasm}}}}
                configuration: {{"@type": type.googleapis.com/google.protobuf.StringValue, value: '{quoted}'}}
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - {{name: hotel, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: hotel}}}}
"#
    )
}

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn a_guest_adds_nothing_to_a_body_that_is_text() {
    let typed = |content_type: &str, body: &str| json!({"headers": {"content-type": content_type}, "body": body});
    let proxy = Proxy::start(json!([
        saga("text-form", typed(FORM, "guest=${request.body.guest}&price=100")),
        saga("form", json!({"form": {"guest": "${request.body.guest}", "price": 100}})),
        saga("text-json", typed("application/json", r#"{"guest":"${request.body.guest}"}"#)),
        saga("xml", typed("text/xml", "<trip guest='${request.body.guest}'>${request.body.guest}</trip>")),
        saga("plain", typed("text/plain", "for ${raw(request.body.guest)}")),
    ]))
    .await;
    for (name, guest, content_type, body) in [
        ("text-form", "Ada&price=0", FORM, "guest=Ada%26price%3D0&price=100"),
        ("form", "Ada&price=0", FORM, "guest=Ada%26price%3D0&price=100"),
        ("text-json", r#"Ada","x":""#, "application/json", r#"{"guest":"Ada\",\"x\":\""}"#),
        ("xml", "'/><b a='", "text/xml", "<trip guest='&apos;/&gt;&lt;b a=&apos;'>&apos;/&gt;&lt;b a=&apos;</trip>"),
        ("plain", "a&b", "text/plain", "for a&b"),
    ] {
        let answer = proxy.post(&format!("/{name}"), "application/json", json!({"guest": guest}).to_string()).await;
        assert_eq!(answer.status.as_u16(), 200, "{name}: {}", answer.text());
        let arrived = proxy.participant.arrived(&format!("/{name}"));
        assert_eq!(arrived.len(), 1, "{name}: {arrived:?}");
        assert_eq!((arrived[0].content_type.as_str(), &arrived[0].body[..]), (content_type, body.as_bytes()), "{name}");
    }
}

#[tokio::test]
async fn one_placeholder_that_is_the_whole_body_keeps_its_type() {
    let mut answered = saga("answered", json!({"body": "${ {'guest': request.body.guest} }"}));
    answered["reply"] = json!({"completed": {"body": "${steps.hotel.response.body}"}});
    let proxy = Proxy::start(json!([saga("whole", json!({"body": "${request.body}"})), answered])).await;
    let whole = proxy.post("/whole", "application/json", r#"{"guest":"Ada","nights":[2]}"#).await;
    assert_eq!(whole.status.as_u16(), 200, "{}", whole.text());
    let answer = proxy.post("/answered", "application/json", r#"{"guest":"Ada"}"#).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json().unwrap(), json!({"id": "h1", "rooms": [1, 2]}));
    for (path, body) in [("/whole", r#"{"guest":"Ada","nights":[2]}"#), ("/answered", r#"{"guest":"Ada"}"#)] {
        let arrived = proxy.participant.arrived(path);
        assert_eq!((arrived[0].content_type.as_str(), &arrived[0].body[..]), ("application/json", body.as_bytes()));
    }
}

#[tokio::test]
async fn what_is_undone_is_what_the_participants_link_names() {
    let mut undone = saga("undone", json!({"body": {}}));
    undone["steps"][0]["compensation"] = json!({
        "method": "DELETE", "path": "${path(transaction.response.headers.location)}?${query(transaction.response.headers.location)}",
    });
    let refused = json!({"cluster": "hotel", "method": "POST", "path": "/refuses"});
    undone["steps"].as_array_mut().unwrap().push(json!({"name": "flight", "after": ["hotel"], "transaction": refused}));
    let proxy = Proxy::start(json!([undone])).await;
    let answer = proxy.post("/undone", "application/json", "{}").await;
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (409, Some("compensated")), "{}", answer.text());
    let arrived = proxy.participant.arrived("/links");
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    assert_eq!((arrived[0].method.as_str(), arrived[0].path.as_str()), ("DELETE", "/links/h%201?version=2"));
}

/// A body, what its path and its body say of it, and what is called.
#[tokio::test]
async fn a_number_keeps_its_digits_and_a_text_stays_text() {
    let echo = json!({"path": "/echo/${request.body.id}", "body": {"id": "${request.body.id}", "price": "${request.body.price}"}});
    let text = json!({"path": "/text/${request.body}", "body": {"id": "${request.body}"}});
    let proxy = Proxy::start(json!([saga("numbers", echo), saga("text", text)])).await;
    for (id, price) in [("100000000000000000123", "100.00"), ("18446744073709551615", "12345678901234567.89")] {
        let body = format!(r#"{{"id":{id},"price":{price}}}"#);
        let answer = proxy.post("/numbers", "application/json", body.clone()).await;
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let arrived = proxy.participant.arrived(&format!("/echo/{id}"));
        assert_eq!(arrived.len(), 1, "{id}");
        assert_eq!(String::from_utf8_lossy(&arrived[0].body), body);
    }
    for id in ["5e10", "1.10"] {
        proxy.post("/text", "text/plain", id).await;
        let arrived = proxy.participant.arrived(&format!("/text/{id}"));
        assert_eq!(String::from_utf8_lossy(&arrived[0].body), format!(r#"{{"id":"{id}"}}"#));
    }
}
