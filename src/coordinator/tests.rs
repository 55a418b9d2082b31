//! The coordinator with a proxy made of vectors.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::json;

use super::*;
use crate::config;
use crate::facts::ParticipantResponse;
use crate::journal::{Conflict, SharedJournal, Version};

mod elsewhere;
mod keys;
mod room;

type Values = Rc<RefCell<BTreeMap<String, (Vec<u8>, Version)>>>;

#[derive(Default)]
struct Proxy {
    now: Millis,
    /// What it shares with the other VMs of its process.
    values: Values,
    dispatched: Vec<(Token, OutgoingCall)>,
    refuses: Option<DispatchRefusal>,
    unknown_cluster: Option<String>,
    replies: Vec<(Client, Reply)>,
    counted: Vec<Counter>,
    drawn: u8,
    /// What its VM holds.
    allocated: usize,
    /// What that grows by with every write to what is shared.
    grows_by: usize,
}

impl SharedData for Proxy {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        self.values.borrow().get(key).cloned()
    }
    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        let version = self.shared(key).map(|(_, version)| version);
        if version != read {
            return Err(Conflict);
        }
        self.values.borrow_mut().insert(key.to_owned(), (value.to_vec(), version.unwrap_or(0) + 1));
        self.allocated += self.grows_by;
        Ok(())
    }
}

impl Host for Proxy {
    fn now(&self) -> Millis {
        self.now
    }
    fn random(&mut self) -> [u8; 10] {
        self.drawn += 1;
        [self.drawn; 10]
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
    fn ask(&mut self, _call: &JournalCall) -> Result<Token, DispatchRefusal> {
        Err(DispatchRefusal::Unavailable)
    }
    fn reply(&mut self, client: Client, reply: &Reply) {
        self.replies.push((client, reply.clone()));
    }
    fn count(&mut self, counter: Counter) {
        self.counted.push(counter);
    }
    fn allocated_bytes(&self) -> usize {
        self.allocated
    }
}

const MAX_BYTES: usize = 200_000;

fn setting() -> (Proxy, Coordinator<SharedJournal>, Arc<Definition>) {
    setting_named("a")
}

fn setting_named(vm: &str) -> (Proxy, Coordinator<SharedJournal>, Arc<Definition>) {
    let step = |name: &str| {
        json!({"name": name, "transaction": {"cluster": name, "method": "POST", "path": "/${request.body.guest}"},
               "compensation": {"method": "DELETE", "path": "/"}})
    };
    let text = json!({
        "version": 1,
        "sagas": [{"name": "trip", "match": {"path": "/trips"}, "steps": [step("hotel"), step("flight")]}],
        "limits": {"max_sagas": 2, "max_bytes": MAX_BYTES, "max_body": 1500},
    });
    let configuration = config::from_json(&text);
    let configuration = configuration.unwrap_or_else(|errors| panic!("{errors}"));
    let journal =
        SharedJournal::new(vm.to_owned(), text.to_string().into_bytes(), configuration.limits.retained.clone());
    let coordinator = Coordinator::new(journal, configuration.limits, configuration.forward_headers);
    let proxy = Proxy { now: 1_700_000_000_000, ..Proxy::default() };
    (proxy, coordinator, Arc::clone(&configuration.definitions[0]))
}

fn with_key(client: Client, definition: &Arc<Definition>, body: &str, key: &str) -> MatchedRequest {
    let mut matched = request(client, definition, body);
    matched.request.headers.push(("idempotency-key".to_owned(), key.as_bytes().to_vec()));
    matched
}

/// As a proxy in front sends it that may send it again.
fn attempt(client: Client, definition: &Arc<Definition>, body: &str, count: u32) -> MatchedRequest {
    let mut matched = request(client, definition, body);
    let headers = [("x-request-id", "r1".to_owned()), ("x-envoy-attempt-count", count.to_string())];
    matched.request.headers.extend(headers.map(|(name, value)| (name.to_owned(), value.into_bytes())));
    matched
}

/// Last part of the type of a problem; empty: it is none.
fn kind_of(reply: &Reply) -> String {
    let body: serde_json::Value = serde_json::from_str(reply.body.as_deref().unwrap_or_default()).unwrap_or_default();
    body["type"].as_str().unwrap_or_default().rsplit(':').next().unwrap_or_default().to_owned()
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
    coordinator.ended(&mut proxy, 100, answered(200));
    assert!(proxy.replies.is_empty());
    coordinator.ended(&mut proxy, 101, answered(200));
    let statuses: Vec<_> = proxy.replies.iter().map(|(client, reply)| (*client, reply.status)).collect();
    assert_eq!(statuses, [(1, 200)]);
    assert_eq!(coordinator.open(), 0);
    assert!(!proxy.values.borrow().iter().any(|(key, (value, _))| key.contains("/saga/") && !value.is_empty()));
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
    coordinator.due(&mut proxy);
    let due = coordinator.next_due();
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

/// Lets a VM look at the others for a while.
fn look_for_a_while(proxy: &mut Proxy, coordinator: &mut Coordinator<SharedJournal>) {
    for _ in 0..10 {
        proxy.now = proxy.now.max(coordinator.next_due());
        coordinator.due(proxy);
    }
}

#[test]
fn a_saga_goes_on_in_another_vm_when_its_own_has_died() {
    let (mut proxy, mut dead, trip) = setting();
    dead.begin(&mut proxy, request(1, &trip, ANN));
    dead.ended(&mut proxy, 100, answered(200));
    let (mut other, mut heir, _) = setting_named("b");
    other.values = Rc::clone(&proxy.values);
    look_for_a_while(&mut other, &mut heir);
    assert_eq!((heir.open(), other.counted.as_slice()), (1, [Counter::TakenOver].as_slice()));
    // Nothing of what was answered is in the journal yet: both are asked again, under their keys, in another epoch.
    let header = |call: &OutgoingCall, name: &str| {
        call.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()).expect("there")
    };
    let again: Vec<_> = other.dispatched.iter().map(|(_, call)| header(call, "idempotency-key")).collect();
    let before: Vec<_> = proxy.dispatched.iter().map(|(_, call)| header(call, "idempotency-key")).collect();
    assert_eq!(again, before);
    assert!(other.dispatched.iter().all(|(_, call)| header(call, "saga-epoch") == "2"));
    heir.ended(&mut other, 100, answered(200));
    heir.ended(&mut other, 101, answered(200));
    assert_eq!(heir.open(), 0);
    assert!(other.replies.is_empty(), "its client has gone with its VM");
}

#[test]
fn a_vm_that_was_taken_for_dead_sends_nothing_more_and_tells_its_clients() {
    let (mut proxy, mut slow, trip) = setting();
    slow.begin(&mut proxy, request(1, &trip, ANN));
    slow.begin(&mut proxy, request(2, &trip, ANN));
    let (mut other, mut heir, _) = setting_named("b");
    other.values = Rc::clone(&proxy.values);
    look_for_a_while(&mut other, &mut heir);
    assert_eq!(heir.open(), 2);
    // It learns of it as it wants to send, of all its sagas at once.
    let sent = proxy.dispatched.len();
    slow.ended(&mut proxy, 100, answered(500));
    proxy.now += 60;
    slow.due(&mut proxy);
    assert_eq!((proxy.dispatched.len(), slow.open()), (sent, 0));
    let told: Vec<_> = proxy.replies.iter().map(|(client, reply)| (*client, reply.status)).collect();
    assert_eq!(told, [(1, 504), (2, 504)]);
    assert!(proxy.replies.iter().all(|(_, reply)| reply.headers.iter().any(|(name, _)| name == "saga-id")));
    slow.ended(&mut proxy, 101, answered(200));
    assert_eq!(proxy.counted, [Counter::GoneElsewhere; 2]);
}

fn header_of(reply: &Reply, name: &str) -> Option<String> {
    reply.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
}

#[test]
fn a_request_that_is_repeated_under_its_key_gets_the_same_answer() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    coordinator.begin(&mut proxy, with_key(2, &trip, ANN, "k"));
    assert_eq!((proxy.dispatched.len(), coordinator.open()), (2, 1), "one saga");
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 101, answered(200));
    proxy.now += 60;
    coordinator.due(&mut proxy);
    coordinator.begin(&mut proxy, with_key(3, &trip, ANN, "k"));
    let clients: Vec<_> = proxy.replies.iter().map(|(client, reply)| (*client, reply.status)).collect();
    assert_eq!(clients, [(1, 200), (2, 200), (3, 200)]);
    let replayed = |index: usize| header_of(&proxy.replies[index].1, "idempotency-replayed");
    assert_eq!((replayed(0), replayed(1), replayed(2)), (None, Some("true".to_owned()), Some("true".to_owned())));
    assert_eq!(proxy.replies[0].1.body, proxy.replies[2].1.body);
    assert_eq!((proxy.dispatched.len(), coordinator.waiting.count()), (2, 0));
}

#[test]
fn another_request_under_the_same_key_is_refused_and_another_key_is_another_saga() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    coordinator.begin(&mut proxy, with_key(2, &trip, r#"{"guest": "bob"}"#, "k"));
    assert_eq!((proxy.replies[0].0, proxy.replies[0].1.status), (2, 422));
    assert_eq!(header_of(&proxy.replies[0].1, "saga-id"), None);
    coordinator.begin(&mut proxy, with_key(3, &trip, ANN, "other"));
    assert_eq!((proxy.dispatched.len(), coordinator.open()), (4, 2));
}

#[test]
fn a_request_repeated_in_another_vm_waits_for_the_saga_of_the_first() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    let (mut other, mut second, _) = setting_named("b");
    other.values = Rc::clone(&proxy.values);
    second.begin(&mut other, with_key(1, &trip, ANN, "k"));
    second.due(&mut other);
    assert!(other.dispatched.is_empty() && other.replies.is_empty());
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 101, answered(422));
    coordinator.ended(&mut proxy, 102, answered(204));
    other.now += 50;
    second.due(&mut other);
    assert_eq!((other.replies[0].1.status, &other.replies[0].1.body), (409, &proxy.replies[0].1.body));
}

#[test]
fn who_waits_for_a_saga_that_does_not_end_is_told_so_in_time() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    let (mut other, mut second, _) = setting_named("b");
    other.values = Rc::clone(&proxy.values);
    second.begin(&mut other, with_key(1, &trip, ANN, "k"));
    let begun = other.now;
    while other.replies.is_empty() {
        other.now = other.now.max(second.next_due());
        // Its VM lives.
        proxy.now = other.now;
        coordinator.due(&mut proxy);
        second.due(&mut other);
    }
    assert_eq!((other.replies[0].1.status, other.now - begun), (504, 15_000));
    assert_eq!(header_of(&other.replies[0].1, "saga-id"), header_of(&proxy.replies[0].1, "saga-id"));
}

#[test]
fn after_its_vm_has_died_the_saga_still_has_its_key() {
    let (mut proxy, mut dead, trip) = setting();
    dead.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    let (mut other, mut heir, _) = setting_named("b");
    other.values = Rc::clone(&proxy.values);
    heir.begin(&mut other, with_key(7, &trip, ANN, "k"));
    look_for_a_while(&mut other, &mut heir);
    while heir.open() == 0 {
        look_for_a_while(&mut other, &mut heir);
    }
    heir.ended(&mut other, 100, answered(200));
    heir.ended(&mut other, 101, answered(200));
    look_for_a_while(&mut other, &mut heir);
    let (client, reply) = &other.replies[0];
    assert_eq!((*client, reply.status, reply.body.is_some()), (7, 200, true));
    // And once more, when the heir has gone as well.
    let (mut last, mut third, _) = setting_named("c");
    last.values = Rc::clone(&proxy.values);
    look_for_a_while(&mut last, &mut third);
    third.begin(&mut last, with_key(9, &trip, ANN, "k"));
    assert_eq!(last.replies[0].1.body, reply.body);
}

#[test]
fn who_does_not_wait_for_a_repeated_request_any_more_is_forgotten() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    coordinator.begin(&mut proxy, with_key(2, &trip, ANN, "k"));
    coordinator.client_gone(2);
    assert_eq!((coordinator.waiting.count(), coordinator.waiting.next_due()), (0, Millis::MAX));
}
