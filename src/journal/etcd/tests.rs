//! A VM and what etcd says to it, answer by answer. How several VMs get on with an etcd, the simulator shows.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::api::Bytes;
use super::kept::{Head, StartRow, encode};
use super::*;
use crate::definition::Credentials;
use crate::facts::ParticipantResponse;
use crate::journal::{Conflict, OpenSaga, Version};
use crate::saga::SagaState;
use crate::saga::record::{Begun, Change, RECORD_VERSION, Record};

mod group;
mod takeover;

const DEFINITIONS: &str = r#"{"version": 1, "sagas": [{"name": "trip", "match": {"path": "/trips"}, "steps": [
    {"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"}}]}]}"#;

/// What is written there is the lookout's, of which there is one.
struct Shared;

impl SharedData for Shared {
    fn shared(&self, _key: &str) -> Option<(Vec<u8>, Version)> {
        None
    }

    fn set_shared(&mut self, _key: &str, _value: &[u8], _read: Option<Version>) -> Result<(), Conflict> {
        Ok(())
    }
}

struct Vm {
    journal: EtcdJournal,
    now: Millis,
}

impl Vm {
    fn new(change: impl FnOnce(&mut EtcdSettings), max_sagas: usize) -> Vm {
        let mut settings = EtcdSettings {
            cluster: "etcd".to_owned(),
            prefix: "sagabox".to_owned(),
            lease: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            takes_over: false,
            credentials: None,
        };
        change(&mut settings);
        let retention = Duration::from_secs(3_600);
        let journal = EtcdJournal::new("vm".to_owned(), DEFINITIONS.into(), settings, retention, max_sagas);
        Vm { journal, now: 1_000 }
    }

    /// What it asks at this moment.
    fn asks(&mut self) -> Vec<JournalCall> {
        let now = self.now;
        std::iter::from_fn(|| self.journal.next_call(now)).take(10).collect()
    }

    /// The transactions among that.
    fn asks_for_sagas(&mut self) -> Vec<JournalCall> {
        let mut asked = self.asks();
        asked.retain(|call| sizes(std::slice::from_ref(call)) != [0]);
        asked
    }

    fn asks_one(&mut self, path: &str) -> JournalCall {
        let mut asked = self.asks();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let call = asked.remove(0);
        assert!(call.headers.contains(&(":path".to_owned(), path.to_owned())), "{call:?}");
        call
    }

    fn hears(&mut self, call: &JournalCall, code: u16, body: &Json) -> News {
        let body = Some(body.to_string().into_bytes());
        let answer = ParticipantResponse { code, headers: Vec::new(), body };
        self.journal.call_ended(call.number, &AttemptResult::Answered(answer), self.now)
    }

    fn hears_nothing(&mut self, call: &JournalCall) -> News {
        self.journal.call_ended(call.number, &AttemptResult::NoAnswer, self.now)
    }

    /// The one transaction for sagas that it asks for; what else it asks is granted.
    fn asks_one_of_group(&mut self) -> JournalCall {
        let mut asked = self.asks();
        let grants: Vec<JournalCall> =
            asked.extract_if(.., |call| call.headers.contains(&(":path".to_owned(), GRANT.to_owned()))).collect();
        for grant in grants {
            self.hears(&grant, 200, &json!({"ID": "7", "TTL": "3660"}));
        }
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    fn begins(&mut self, saga: &str) -> Acknowledgement {
        self.begins_under(saga, None)
    }

    fn begins_under(&mut self, saga: &str, start: Option<&StartKey>) -> Acknowledgement {
        let record = Record::new(1, vec![begun(saga, self.now)]);
        self.journal.write(&mut Shared, Entry { saga, epoch: 1, record: &record, start, now: self.now })
    }

    /// Somebody asks who has begun to ask a while ago.
    fn looks(&mut self, start: &StartKey) -> Found {
        self.looks_since(0, start)
    }

    fn looks_since(&mut self, since: Millis, start: &StartKey) -> Found {
        self.journal.look(&Shared, start, since, self.now)
    }

    /// Gets it its lease.
    fn registers(&mut self) {
        let grant = self.asks_one(GRANT);
        self.hears(&grant, 200, &json!({"ID": "7", "TTL": "10"}));
        let register = self.asks_one(TXN);
        self.hears(&register, 200, &json!({"header": {"revision": "5"}, "succeeded": true}));
    }
}

fn begun(saga: &str, now: Millis) -> Change {
    Change::Begun(Begun {
        id: saga.to_owned(),
        definition: "trip".to_owned(),
        request: json!({}),
        forwarded: Vec::new(),
        begun_at: now,
        deadline: now + 10_000,
        depth: 1,
        who: None,
    })
}

/// A VM that has a lease, and has asked etcd to begin the saga `one`.
fn beginner() -> (Vm, JournalCall) {
    let mut vm = Vm::new(|_| {}, 10);
    vm.begins("one");
    vm.registers();
    let begin = vm.asks_one(TXN);
    (vm, begin)
}

fn acknowledgements(news: &News) -> Vec<Acknowledgement> {
    news.fates.iter().map(|fate| fate.acknowledgement).collect()
}

/// What etcd says, with status 429, where its database is as large as its quota.
fn no_space() -> Json {
    json!({"code": 8, "message": "etcdserver: mvcc: database space exceeded"})
}

fn found(entries: &[(String, Vec<u8>)]) -> Json {
    let entry = |(key, value): &(String, Vec<u8>)| json!({"key": Bytes(key.clone().into_bytes()), "value": Bytes(value.clone()), "mod_revision": "3"});
    json!({"response_range": {"kvs": entries.iter().map(entry).collect::<Vec<_>>()}})
}

fn nested(responses: &[Json]) -> Json {
    let txn = json!({"response_txn": {"succeeded": true, "responses": responses}});
    json!({"header": {"revision": "9"}, "succeeded": true, "responses": [txn]})
}

fn head(journal: &EtcdJournal) -> Head {
    Head {
        version: RECORD_VERSION,
        needs: Vec::new(),
        owner: "gone.0".to_owned(),
        epoch: 1,
        sequence: 1,
        state: SagaState::Running,
        steps: Default::default(),
        definitions: journal.definitions.0.clone(),
        start: None,
        on_probation: false,
        suspicion: 0,
        quarantined: None,
    }
}

#[test]
fn without_a_token_nothing_is_due_before_the_next_attempt_to_get_one() {
    let credentials = Credentials { username: "sagabox".to_owned(), password: "wrong".to_owned() };
    let mut vm = Vm::new(|settings| settings.credentials = Some(credentials), 10);
    assert_eq!(vm.begins("one"), Acknowledgement::Pending);
    let call = vm.asks_one(AUTHENTICATE);
    let refused = vm.hears(&call, 400, &json!({"code": 3, "message": "etcdserver: authentication failed"}));
    assert_eq!(acknowledgements(&refused), [Acknowledgement::Refused]);

    assert_eq!(vm.begins("two"), Acknowledgement::Pending);
    assert!(vm.journal.next_due() > vm.now && vm.asks().is_empty());
    vm.now = vm.journal.next_due();
    vm.asks_one(AUTHENTICATE);
}

#[test]
fn all_who_wait_under_one_key_are_told_in_the_same_moment_and_etcd_is_asked_now_and_then() {
    let mut vm = Vm::new(|_| {}, 10);
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    let row = ("sagabox/start/k".to_owned(), encode(&StartRow::new(&start, "s1", None)));
    let head = ("sagabox/saga/s1".to_owned(), encode(&head(&vm.journal)));
    let look = |vm: &mut Vm| vm.looks(&start);

    assert_eq!(look(&mut vm), Found::Asked);
    let whose = vm.asks_one(TXN);
    vm.hears(&whose, 200, &nested(&[found(std::slice::from_ref(&row))]));
    assert_eq!(look(&mut vm), Found::Asked);
    let where_it_is = vm.asks_one(TXN);
    vm.hears(&where_it_is, 200, &nested(&[found(std::slice::from_ref(&row)), found(std::slice::from_ref(&head))]));

    let open = OpenSaga { saga: "s1".to_owned(), state: SagaState::Running, is_set_aside: false };
    let under_way = Found::UnderWay(open);
    assert_eq!([look(&mut vm), look(&mut vm)], [under_way.clone(), under_way.clone()]);
    vm.now += 50;
    assert_eq!((look(&mut vm), vm.asks().len()), (under_way, 0));
    vm.now += 100;
    assert_eq!([look(&mut vm), look(&mut vm)], [Found::Asked, Found::Asked]);
    // It is still known which saga it is: one question is enough.
    let where_it_is = vm.asks_one(TXN);
    let reply = crate::saga::Reply { status: 201, headers: Vec::new(), body: None };
    let ended = ("sagabox/start/k".to_owned(), encode(&StartRow::new(&start, "s1", Some(reply.clone()))));
    vm.hears(&where_it_is, 200, &nested(&[found(&[ended]), found(&[])]));
    assert_eq!([look(&mut vm), look(&mut vm)], [Found::Ended(reply.clone()), Found::Ended(reply)]);
}

/// A VM that has a lease, and has found so many sagas without owner.
fn heir(sagas: usize, max_sagas: usize) -> Vm {
    heir_of(sagas, max_sagas, |_, head| head)
}

/// The same; each saga as it was changed.
fn heir_of(sagas: usize, max_sagas: usize, change: impl Fn(usize, Head) -> Head) -> Vm {
    heir_within(usize::MAX, sagas, max_sagas, change)
}

/// The same, with so much memory for what it takes over.
fn heir_within(bytes: usize, sagas: usize, max_sagas: usize, change: impl Fn(usize, Head) -> Head) -> Vm {
    let mut vm = Vm::new(|settings| settings.takes_over = true, max_sagas);
    vm.journal.offer_room(bytes);
    vm.journal.tick(&mut Shared, vm.now);
    let scan = vm.asks_one(TXN);
    let head = |number| encode(&change(number, head(&vm.journal)));
    let heads: Vec<_> = (0..sagas).map(|number| (format!("sagabox/saga/{number:03}"), head(number))).collect();
    vm.hears(&scan, 200, &json!({"succeeded": true, "responses": [found(&[]), found(&heads), found(&[])]}));
    vm.registers();
    vm
}

/// How many nested transactions each of the calls has.
fn sizes(calls: &[JournalCall]) -> Vec<usize> {
    let nested = |call: &JournalCall| call.body.matches("request_txn").count();
    calls.iter().map(nested).collect()
}

/// The records of a saga after its begin.
fn writes(vm: &mut Vm, saga: &str, start: &StartKey, change: Change) -> Acknowledgement {
    let record = Record::new(2, vec![change]);
    let entry = Entry { saga, epoch: 1, record: &record, start: Some(start), now: vm.now };
    vm.journal.write(&mut Shared, entry)
}

#[test]
fn of_a_record_that_is_larger_than_etcd_takes_its_saga_is_told_and_writes_another_in_its_place() {
    let (mut vm, begin) = beginner();
    vm.hears(&begin, 200, &nested(&[json!({}), json!({})]));
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    let too_large = json!({"code": 3, "message": "etcdserver: request is too large"});
    for _ in 0..3 {
        assert_eq!(writes(&mut vm, "one", &start, Change::Skipped { step: 0 }), Acknowledgement::Pending);
        let write = vm.asks_for_sagas().remove(0);
        assert_eq!(acknowledgements(&vm.hears(&write, 400, &too_large)), [Acknowledgement::TooLarge]);
        assert!(vm.asks_for_sagas().is_empty(), "it is not tried again");
    }
}

#[test]
fn a_record_that_is_too_large_for_one_member_of_etcd_may_have_been_written_by_another() {
    for is_written in [false, true] {
        let (mut vm, begin) = beginner();
        vm.hears(&begin, 200, &nested(&[json!({}), json!({})]));
        let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
        assert_eq!(writes(&mut vm, "one", &start, Change::Skipped { step: 0 }), Acknowledgement::Pending);
        let write = vm.asks_for_sagas().remove(0);
        vm.hears_nothing(&write);
        vm.now += 1_000;
        let too_large = json!({"code": 3, "message": "etcdserver: request is too large"});
        let again = vm.asks_for_sagas().remove(0);
        assert_eq!(acknowledgements(&vm.hears(&again, 400, &too_large)), []);
        vm.now += 1_000;
        let look = vm.asks_for_sagas().remove(0);
        assert!(!look.body.contains("request_put"), "{}", look.body);
        let sequence = if is_written { 2 } else { 1 };
        let head = Head { owner: "vm.0".to_owned(), sequence, ..head(&vm.journal) };
        let found_head = found(&[("sagabox/saga/one".to_owned(), encode(&head))]);
        let found_vm = found(&[("sagabox/vm/vm.0".to_owned(), Vec::new())]);
        let failed = json!({"response_txn": {"succeeded": false, "responses": [found_head, found_vm]}});
        let failed = json!({"header": {"revision": "9"}, "succeeded": true, "responses": [failed]});
        let news = vm.hears(&look, 200, &failed);
        if is_written {
            assert_eq!(acknowledgements(&news), [Acknowledgement::Written]);
            continue;
        }
        assert_eq!(acknowledgements(&news), []);
        vm.now += 1_000;
        let last = vm.asks_for_sagas().remove(0);
        assert_eq!(acknowledgements(&vm.hears(&last, 400, &too_large)), [Acknowledgement::TooLarge]);
    }
}

#[test]
fn a_saga_that_has_sent_nothing_leaves_its_start_key_to_the_next_and_refuses_late_copies_of_its_begin() {
    for is_repeated in [false, true] {
        let (mut vm, other) = beginner();
        vm.hears(&other, 200, &nested(&[json!({}), json!({})]));
        let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
        vm.begins_under("two", Some(&start));
        let mut begin = vm.asks_one_of_group();
        if is_repeated {
            vm.hears_nothing(&begin);
            vm.now += 100;
            begin = vm.asks_one_of_group();
        }
        vm.hears(&begin, 200, &nested(&[json!({}), json!({}), json!({})]));
        let reply = crate::saga::Reply { status: 503, headers: Vec::new(), body: None };
        let end = Change::Ended { state: SagaState::Compensated, reply, nothing_sent: true };
        assert_eq!(writes(&mut vm, "two", &start, end), Acknowledgement::Pending);
        let body: Json = serde_json::from_str(&vm.asks_one_of_group().body).unwrap();
        let done = body["success"][0]["request_txn"]["success"].to_string();
        let deleted =
            |key: &str| done.contains(&format!(r#"{{"request_delete_range":{{"key":"{}"}}}}"#, STANDARD.encode(key)));
        assert!(deleted("sagabox/start/k"), "{done}");
        assert!(deleted("sagabox/saga/two"), "{done}");
        let ended = STANDARD.encode("sagabox/ended/two");
        assert_eq!(done.contains(&format!(r#"{{"request_put":{{"key":"{ended}""#)), is_repeated, "{done}");
        assert_eq!(done.contains(r#""lease":"7""#), is_repeated, "what is left goes with a lease: {done}");
    }
}

#[test]
fn what_cannot_be_read_under_a_start_key_is_not_taken_for_nothing() {
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    for row in [r#"{"version": 3, "of_the_future": 1}"#, "no row"] {
        let mut vm = Vm::new(|_| {}, 10);
        assert_eq!(vm.looks(&start), Found::Asked);
        let look = vm.asks_one(TXN);
        vm.hears(&look, 200, &nested(&[found(&[("sagabox/start/k".to_owned(), row.into())])]));
        assert_eq!(vm.looks(&start), Found::Unreadable, "{row}");
    }
}

#[test]
fn what_nobody_asks_for_any_more_is_not_looked_for() {
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    let mut vm = Vm::new(|_| {}, 10);
    assert_eq!(vm.looks(&start), Found::Asked);
    let look = vm.asks_one(TXN);
    vm.hears_nothing(&look);
    vm.now += 1_000;
    let again = vm.asks_one(TXN);
    vm.hears_nothing(&again);
    vm.now += 10_000;
    assert!(vm.asks().is_empty());
    assert_eq!(vm.journal.next_due(), Millis::MAX);
}

#[test]
fn an_answer_that_nobody_came_for_is_not_told_later() {
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    let mut vm = Vm::new(|_| {}, 10);
    assert_eq!(vm.looks(&start), Found::Asked);
    let look = vm.asks_one(TXN);
    vm.hears(&look, 200, &nested(&[found(&[])]));
    vm.now += 2_000;
    assert_eq!(vm.looks(&start), Found::Asked);
}

#[test]
fn that_nothing_has_begun_is_not_told_to_who_asks_after_it_was_looked_for() {
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    let mut vm = Vm::new(|_| {}, 10);
    assert_eq!(vm.looks_since(vm.now, &start), Found::Asked);
    let look = vm.asks_one(TXN);
    vm.hears(&look, 200, &nested(&[found(&[])]));
    // Its client has gone, and its request has come to another VM, which begins a saga. It comes back.
    vm.now += 500;
    let since = vm.now;
    assert_eq!(vm.looks_since(since, &start), Found::Asked);
    let again = vm.asks_one(TXN);
    vm.now += 10;
    vm.hears(&again, 200, &nested(&[found(&[])]));
    vm.now += 40;
    assert_eq!(vm.looks_since(since, &start), Found::Nothing);
}

#[test]
fn that_nothing_has_begun_is_not_told_while_the_same_vm_may_begin_it() {
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    let (mut vm, begin) = beginner();
    vm.hears(&begin, 200, &nested(&[json!({}), json!({})]));
    vm.begins_under("two", Some(&start));
    let begin = vm.asks_one_of_group();
    vm.hears_nothing(&begin);
    assert_eq!(vm.looks(&start), Found::Asked);
    let look = vm.asks_one(TXN);
    vm.hears(&look, 200, &nested(&[found(&[])]));
    assert_eq!(vm.looks_since(1, &start), Found::Asked, "it will be tried again in a moment");
    let look = vm.asks_one(TXN);
    vm.hears(&look, 200, &nested(&[found(&[])]));
    vm.now += 100;
    let again = vm.asks_one_of_group();
    vm.hears(&again, 200, &nested(&[json!({}), json!({}), json!({})]));
    assert_eq!(vm.looks_since(1, &start), Found::Asked, "now it has begun");
}

#[test]
fn after_a_machine_was_suspended_nothing_is_sent_before_a_keepalive_that_was_sent_since_is_answered() {
    let (mut vm, begin) = beginner();
    vm.hears(&begin, 200, &nested(&[json!({}), json!({})]));
    let owns = |vm: &mut Vm| vm.journal.owns(&mut Shared, "one", vm.now);
    let alive = json!({"result": {"ID": "7", "TTL": "10"}});
    vm.now += 4_000;
    let before = vm.asks_one(KEEPALIVE);
    assert_eq!(owns(&mut vm), Ownership::Ours);
    vm.now += 1;
    vm.journal.doubt_ownership(vm.now);
    assert_eq!(owns(&mut vm), Ownership::Unsure);
    vm.now += 1;
    vm.hears(&before, 200, &alive);
    assert_eq!(owns(&mut vm), Ownership::Unsure, "it was sent before");
    let since = vm.asks_one(KEEPALIVE);
    vm.now += 1;
    vm.hears(&since, 200, &alive);
    assert_eq!(owns(&mut vm), Ownership::Ours);
    assert!(vm.asks().is_empty());
}

#[test]
fn nothing_that_is_looked_for_piles_up_without_a_token() {
    let credentials = Credentials { username: "sagabox".to_owned(), password: "wrong".to_owned() };
    let mut vm = Vm::new(|settings| settings.credentials = Some(credentials), 10);
    for key in ["a", "b", "c"] {
        let start = StartKey { key: key.to_owned(), request: "r".to_owned() };
        assert_eq!(vm.looks(&start), Found::Asked);
    }
    let authenticate = vm.asks_one(AUTHENTICATE);
    vm.hears(&authenticate, 200, &json!({"token": "t"}));
    assert!(vm.asks().is_empty(), "nobody waits for them any more");
    let start = StartKey { key: "a".to_owned(), request: "r".to_owned() };
    assert_eq!(vm.looks(&start), Found::Asked);
    assert_eq!(sizes(&vm.asks()), [1]);
}

#[test]
fn what_was_set_aside_by_hand_is_not_overwritten_by_its_owner() {
    let (mut vm, begin) = beginner();
    vm.hears(&begin, 200, &nested(&[json!({}), json!({})]));
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    assert_eq!(writes(&mut vm, "one", &start, Change::Skipped { step: 0 }), Acknowledgement::Pending);
    let write = vm.asks_for_sagas().remove(0);
    let by_hand = Head { owner: "vm.0".to_owned(), quarantined: Some("why".to_owned()), ..head(&vm.journal) };
    let found_head = found(&[("sagabox/saga/one".to_owned(), encode(&by_hand))]);
    let found_vm = found(&[("sagabox/vm/vm.0".to_owned(), Vec::new())]);
    let failed = json!({"response_txn": {"succeeded": false, "responses": [found_head, found_vm]}});
    let news = vm.hears(&write, 200, &json!({"header": {"revision": "9"}, "succeeded": true, "responses": [failed]}));
    assert_eq!(acknowledgements(&news), [Acknowledgement::Lost]);
    assert!(vm.asks_for_sagas().is_empty());
}
