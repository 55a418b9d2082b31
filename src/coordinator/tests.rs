//! The coordinator with a proxy made of vectors.

use serde_json::json;

use super::*;
use crate::config;
use crate::facts::ParticipantResponse;
use crate::journal::VolatileJournal;

#[derive(Default)]
struct Proxy {
    now: Millis,
    dispatched: Vec<(Token, OutgoingCall)>,
    refuses: Option<DispatchRefusal>,
    unknown_cluster: Option<String>,
    replies: Vec<(Client, Reply)>,
    counted: Vec<Counter>,
}

impl Host for Proxy {
    fn now(&self) -> Millis {
        self.now
    }
    fn random(&mut self) -> [u8; 10] {
        [7; 10]
    }
    fn dispatch(&mut self, call: &OutgoingCall) -> Result<Token, DispatchRefusal> {
        if self.unknown_cluster.as_ref() == Some(&call.cluster) {
            return Err(DispatchRefusal::UnknownCluster);
        }
        if let Some(refusal) = self.refuses {
            return Err(refusal);
        }
        let token = u32::try_from(self.dispatched.len()).expect("few") + 100;
        self.dispatched.push((token, call.clone()));
        Ok(token)
    }
    fn reply(&mut self, client: Client, reply: &Reply) {
        self.replies.push((client, reply.clone()));
    }
    fn count(&mut self, counter: Counter) {
        self.counted.push(counter);
    }
}

fn setting() -> (Proxy, Coordinator<VolatileJournal>, Arc<Definition>) {
    let step = |name: &str| {
        json!({"name": name, "transaction": {"cluster": name, "method": "POST", "path": "/${request.body.guest}"},
               "compensation": {"method": "DELETE", "path": "/"}})
    };
    let configuration = config::from_json(&json!({
        "version": 1,
        "sagas": [{"name": "trip", "match": {"path": "/trips"}, "steps": [step("hotel"), step("flight")]}],
        "limits": {"max_sagas": 2, "max_bytes": 4000, "max_body": 1500},
    }));
    let configuration = configuration.unwrap_or_else(|errors| panic!("{errors}"));
    let coordinator = Coordinator::new(VolatileJournal, configuration.limits, configuration.forward_headers);
    let proxy = Proxy { now: 1_700_000_000_000, ..Proxy::default() };
    (proxy, coordinator, Arc::clone(&configuration.definitions[0]))
}

fn request(client: Client, definition: &Arc<Definition>, body: &str) -> MatchedRequest {
    let request = ClientRequest {
        method: "POST".to_owned(),
        path: "/trips".to_owned(),
        host: "travel".to_owned(),
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
    };
    MatchedRequest { client, definition: Arc::clone(definition), params: Vec::new(), request }
}

fn answered(code: u16) -> AttemptResult {
    AttemptResult::Answered(ParticipantResponse { code, headers: Vec::new(), body: None })
}

const ANN: &str = r#"{"guest": "ann"}"#;

#[test]
fn a_saga_that_goes_well_answers_its_client_and_leaves_nothing() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    assert_eq!(proxy.dispatched.len(), 2, "both at once");
    assert!(coordinator.held_bytes() > 0);
    coordinator.ended(&mut proxy, 100, answered(200));
    assert!(proxy.replies.is_empty());
    coordinator.ended(&mut proxy, 101, answered(200));
    let statuses: Vec<_> = proxy.replies.iter().map(|(client, reply)| (*client, reply.status)).collect();
    assert_eq!(statuses, [(1, 200)]);
    assert_eq!((coordinator.open(), coordinator.held_bytes(), coordinator.next_due()), (0, 0, None));
}

#[test]
fn ids_are_uuids_of_version_7_with_the_time_of_the_begin() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    let headers = &proxy.dispatched[0].1.headers;
    let id = headers.iter().find(|(name, _)| name == "saga-id").map(|(_, id)| id.clone()).expect("there");
    let id = uuid::Uuid::parse_str(&id).expect("a UUID");
    let millis = id.as_u128() >> 80;
    assert_eq!((millis, id.get_version_num()), (u128::from(proxy.now), 7));
}

#[test]
fn a_saga_goes_on_without_its_client() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    coordinator.client_gone(1);
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 101, answered(422));
    assert_eq!(proxy.dispatched[2].1.headers[0].1, "DELETE");
    coordinator.ended(&mut proxy, 102, answered(204));
    assert!(proxy.replies.is_empty());
    assert_eq!(coordinator.open(), 0);
}

#[test]
fn what_is_due_is_done_at_its_time_and_not_before() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 101, answered(500));
    let due = coordinator.next_due().expect("a back-off");
    assert!(due > proxy.now && due <= proxy.now + 50);
    proxy.now = due - 1;
    coordinator.due(&mut proxy);
    assert_eq!(proxy.dispatched.len(), 2);
    proxy.now = due;
    coordinator.due(&mut proxy);
    assert_eq!(proxy.dispatched.len(), 3);
}

#[test]
fn a_call_that_the_proxy_refuses_is_tried_again_later() {
    let (mut proxy, mut coordinator, trip) = setting();
    proxy.refuses = Some(DispatchRefusal::Unavailable);
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    assert!(proxy.dispatched.is_empty());
    proxy.refuses = None;
    proxy.now += 60;
    coordinator.due(&mut proxy);
    assert_eq!(proxy.dispatched.len(), 2);
}

#[test]
fn no_transaction_is_sent_once_another_has_made_the_saga_compensate() {
    let (mut proxy, mut coordinator, trip) = setting();
    proxy.unknown_cluster = Some("hotel".to_owned());
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    assert!(proxy.dispatched.is_empty(), "{:?}", proxy.dispatched);
    let (_, reply) = &proxy.replies[0];
    assert_eq!((reply.status, coordinator.open()), (409, 0));
}

#[test]
fn past_a_limit_a_request_is_refused_and_nothing_is_sent() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    coordinator.begin(&mut proxy, request(2, &trip, ANN));
    coordinator.begin(&mut proxy, request(3, &trip, ANN));
    let (client, reply) = &proxy.replies[0];
    assert_eq!((*client, reply.status), (3, 503));
    assert!(reply.headers.contains(&("retry-after".to_owned(), "1".to_owned())));
    assert!(!reply.headers.iter().any(|(name, _)| name.starts_with("saga-")), "there is no saga");
    assert_eq!(proxy.dispatched.len(), 4);
}

#[test]
fn bytes_held_are_bounded() {
    let (mut proxy, mut coordinator, trip) = setting();
    let long = format!(r#"{{"guest": "{}"}}"#, "a".repeat(1200));
    coordinator.begin(&mut proxy, request(1, &trip, &long));
    assert_eq!(proxy.dispatched.len(), 2);
    coordinator.begin(&mut proxy, request(2, &trip, &long));
    assert_eq!(proxy.replies[0].1.status, 503);
}

#[test]
fn a_body_past_the_limit_gets_413_and_one_of_its_size_does_not() {
    let (mut proxy, mut coordinator, trip) = setting();
    for (client, length, refused) in [(1, 1500, false), (2, 1501, true)] {
        let body = format!("{}{}", ANN, " ".repeat(length - ANN.len()));
        coordinator.begin(&mut proxy, request(client, &trip, &body));
        assert_eq!(proxy.replies.iter().any(|(_, reply)| reply.status == 413), refused);
    }
}

#[test]
fn a_request_that_does_not_give_what_is_read_gets_400_that_names_the_expression() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, "not JSON"));
    let (_, reply) = &proxy.replies[0];
    assert_eq!(reply.status, 400);
    assert!(reply.body.as_ref().expect("a problem").contains("request.body.guest"));
    assert_eq!((proxy.dispatched.len(), coordinator.open()), (0, 0));
}

#[test]
fn a_stray_answer_is_ignored_and_a_stuck_saga_is_counted() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    coordinator.ended(&mut proxy, 999, answered(200));
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 101, answered(422));
    coordinator.ended(&mut proxy, 102, answered(403));
    assert_eq!(proxy.counted, [Counter::Stuck]);
    assert_eq!(coordinator.open(), 1);
}
