//! Trips whose sagas are kept in a real etcd.

use std::time::{Duration, Instant};

use harness::etcd::Etcd;
use harness::fleet::{Fleet, PREFIX};
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{STEPS, TripRequest};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_trip_is_booked_another_undone_and_etcd_is_left_with_their_answers_only() {
    let fleet = Fleet::start(1).await.unwrap();
    fleet.participants.flight.set_fault(Fault::new("bob", Action::Transaction, FaultKind::Refuse)).unwrap();

    let answer = fleet.ask(0, &TripRequest::of("ann").with_car(), "key-of-ann").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")), "{}", answer.text());
    let answer = fleet.ask(0, &TripRequest::of("bob"), "key-of-bob").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (409, Some("compensated")), "{}", answer.text());

    assert_eq!(fleet.participants.held("ann").unwrap().len(), 3);
    assert!(fleet.participants.held("bob").unwrap().is_empty());
    fleet.wait_until_no_saga_is_open(SOON).await.unwrap();
    let kinds: Vec<String> = fleet.etcd.entries(PREFIX).await.unwrap().into_iter().map(|entry| entry.key).collect();
    let of = |kind: &str| kinds.iter().filter(|key| key.starts_with(&format!("{PREFIX}{kind}/"))).count();
    assert_eq!((of("start"), of("definitions"), of("vm"), of("saga"), of("record")), (2, 1, 1, 0, 0), "{kinds:?}");
}

#[tokio::test]
async fn without_etcd_nothing_begins_and_the_client_is_told_at_once() {
    let fleet = Fleet::start(1).await.unwrap();
    fleet.etcd.kill9();
    for key in ["first", "second"] {
        let started = Instant::now();
        let answer = fleet.ask(0, &TripRequest::of("ann"), key).await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.header("retry-after").is_some() && answer.header("saga-id").is_none(), "{answer:?}");
        // Nobody can say whether another proxy has begun a saga under this key.
        assert_eq!(answer.json().unwrap()["type"], "urn:sagabox:problem:fate-unknown");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
    assert!(nothing_was_sent(&fleet, "ann"));
    fleet.etcd.restart().await.unwrap();
    let answer = fleet.ask_until_told(0, &TripRequest::of("ann"), "third", SOON).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
}

#[tokio::test]
async fn a_full_etcd_refuses_new_sagas_and_lets_those_under_way_end() {
    let fleet = Fleet::start(1).await.unwrap();
    let (ann, cid) = (TripRequest::of("ann").with_car(), TripRequest::of("cid"));
    for guest in ["ann", "cid"] {
        let slow = Fault::new(guest, Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_500));
        fleet.participants.hotel.set_fault(slow).unwrap();
    }
    fleet.participants.flight.set_fault(Fault::new("cid", Action::Transaction, FaultKind::Refuse)).unwrap();
    let booked = fleet.begin(0, &ann, "key-of-ann").unwrap();
    let undone = fleet.begin(0, &cid, "key-of-cid").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    alarm(&fleet, "ACTIVATE").await;
    // Hotels answer meanwhile, and what has to be written then comes upon an etcd that is full.
    let full = Instant::now();
    while full.elapsed() < Duration::from_secs(3) {
        let answer = fleet.ask(0, &TripRequest::of("bob"), "key-of-bob").await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-id")), (503, None), "{}", answer.text());
        // A full etcd can still be read.
        assert_eq!(answer.json().unwrap()["type"], "urn:sagabox:problem:overload");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(nothing_was_sent(&fleet, "bob"));
    for (client, end) in [(booked, "completed"), (undone, "compensated")] {
        let answer = tokio::time::timeout(Duration::from_secs(5), client.answer()).await.expect("no end").unwrap();
        assert_eq!(answer.header("saga-status"), Some(end), "{}", answer.text());
    }
    fleet.wait_until_no_saga_is_open(SOON).await.unwrap();
    assert_eq!(fleet.participants.held("ann").unwrap().len(), 3);
    assert!(fleet.participants.held("cid").unwrap().is_empty());

    alarm(&fleet, "DEACTIVATE").await;
    let answer = fleet.ask_until_told(0, &TripRequest::of("bob"), "key-of-bob", SOON).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    fleet.participants.check_one_saga_for_each_guest().unwrap();
}

/// With this alarm etcd refuses whatever takes room, as it does when its database is as large as its quota.
async fn alarm(fleet: &Fleet, action: &str) {
    let status = fleet.etcd.ask("/v3/maintenance/status", &json!({})).await.unwrap();
    let alarm = json!({"action": action, "memberID": status["header"]["member_id"], "alarm": "NOSPACE"});
    fleet.etcd.ask("/v3/maintenance/alarm", &alarm).await.unwrap();
}

fn nothing_was_sent(fleet: &Fleet, guest: &str) -> bool {
    let history = fleet.participants.history(guest).unwrap();
    STEPS.iter().all(|role| history.calls(role, Action::Transaction).is_empty())
}

/// Is this in any key or value?
async fn etcd_holds(fleet: &Fleet, text: &str) -> bool {
    let entries = fleet.etcd.entries("").await.unwrap();
    let is_in = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    entries.iter().any(|entry| is_in(entry.key.as_bytes()) || is_in(&entry.value))
}

#[tokio::test]
async fn a_journal_behind_a_password_is_used_with_it_and_refuses_without() {
    let etcd = || Etcd::new().auth("sagabox", "open-sesame");
    let fleet = Fleet::plan().etcd(etcd()).change(|yaml| {
        yaml["journal"]["etcd"]["username"] = "sagabox".into();
        yaml["journal"]["etcd"]["password"] = "open-sesame".into();
    });
    let fleet = fleet.start(1).await.unwrap();
    let slow = Fault::new("ann", Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_500));
    fleet.participants.hotel.set_fault(slow).unwrap();
    let under_way = fleet.begin(0, &TripRequest::of("ann"), "key").unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(etcd_holds(&fleet, "ann").await, "the saga was to be under way");
    assert!(!etcd_holds(&fleet, "open-sesame").await, "the password is kept");
    let answer = under_way.answer().await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(!etcd_holds(&fleet, "open-sesame").await, "the password is kept");

    let stranger = Fleet::plan().etcd(etcd()).start(1).await.unwrap();
    let answer = stranger.ask(0, &TripRequest::of("ann"), "key").await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(nothing_was_sent(&stranger, "ann"));
    assert!(stranger.envoys[0].log().contains("user name"), "{}", stranger.envoys[0].log());
}

#[tokio::test]
async fn a_repeated_request_gets_the_saga_of_the_first_at_every_replica() {
    let fleet = Fleet::start(2).await.unwrap();
    let slow = Fault::new("ann", Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_500));
    fleet.participants.hotel.set_fault(slow).unwrap();
    let first = fleet.begin(0, &TripRequest::of("ann"), "key").unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    let second = fleet.begin(1, &TripRequest::of("ann"), "key").unwrap();
    let third = fleet.begin(0, &TripRequest::of("ann"), "key").unwrap();
    let other = fleet.ask(1, &TripRequest::of("ann").with_car(), "key").await.unwrap();
    assert_eq!((other.status.as_u16(), other.header("saga-id")), (422, None), "{}", other.text());
    let first = first.answer().await.unwrap();
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (201, None));
    for again in [second.answer().await.unwrap(), third.answer().await.unwrap()] {
        assert_eq!((again.status, again.text()), (first.status, first.text()));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.header("saga-id"), first.header("saga-id"));
    }
    fleet.participants.check_nothing_applied_twice().unwrap();
}

#[tokio::test]
async fn a_repeated_request_gets_the_saga_of_the_first_at_every_worker() {
    const CLIENTS: usize = 16;
    let fleet = Fleet::plan().workers(2).start(1).await.unwrap();
    let slow = Fault::new("ann", Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_800));
    fleet.participants.hotel.set_fault(slow).unwrap();
    let (request, other) = (TripRequest::of("ann"), TripRequest::of("ann").with_car());
    let first = fleet.begin(0, &request, "key").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Each over a connection of its own, which the kernel gives to one worker or the other.
    let again: Vec<_> = (0..CLIENTS).map(|_| fleet.begin(0, &request, "key").unwrap()).collect();
    let others: Vec<_> = (0..CLIENTS).map(|_| fleet.begin(0, &other, "key").unwrap()).collect();
    for other in others {
        let other = other.answer().await.unwrap();
        assert_eq!((other.status.as_u16(), other.header("saga-id")), (422, None), "{}", other.text());
    }
    assert!(again.iter().all(|client| !client.is_done()), "the first was to run still");
    let connections = fleet.envoys[0].stats(r"^listener\.127.*\.worker_[01]\.downstream_cx_total$").await.unwrap();
    assert!(connections.len() == 2 && connections.values().all(|count| *count > 3), "{connections:?}");
    let first = first.answer().await.unwrap();
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (201, None));
    for again in again {
        let again = again.answer().await.unwrap();
        assert_eq!((again.status, again.text()), (first.status, first.text()));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.header("saga-id"), first.header("saga-id"));
    }
    fleet.participants.check_nothing_applied_twice().unwrap();
    fleet.participants.check_one_saga_for_each_guest().unwrap();
}

#[tokio::test]
async fn a_saga_is_finished_by_a_replica_that_has_another_definition_under_the_one_it_began_with() {
    let mut fleet = Fleet::start(1).await.unwrap();
    let slow = Fault::new("ann", Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_500));
    fleet.participants.hotel.set_fault(slow).unwrap();
    let heir = fleet.another_with(|yaml| {
        yaml["sagas"][0]["name"] = "book-journey".into();
        yaml["sagas"][0]["steps"].as_sequence_mut().unwrap().remove(2);
    });
    fleet.envoys.push(heir.await.unwrap());
    let under_way = fleet.begin(0, &TripRequest::of("ann").with_car(), "key").unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    fleet.envoys[0].kill9();
    under_way.abandon();
    fleet.participants.wait_until_held("ann", &STEPS, SOON).await.unwrap();
    fleet.wait_until_no_saga_is_open(SOON).await.unwrap();
    assert_eq!(fleet.counter(1, "sagas_taken_over").await.unwrap(), 1);
    // Those of the first are kept for as long as a saga or a VM refers to them.
    let started = Instant::now();
    while fleet.etcd.entries(&format!("{PREFIX}definitions/")).await.unwrap().len() > 1 {
        assert!(started.elapsed() < SOON, "nobody has removed them");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn with_recovery_on_hold_nothing_is_taken_over() {
    let mut fleet = Fleet::start(1).await.unwrap();
    let hangs = Fault::new("ann", Action::Transaction, FaultKind::Hang);
    fleet.participants.hotel.set_fault(hangs).unwrap();
    let held = fleet.another_with(|yaml| yaml["journal"]["etcd"]["recovery"] = "hold".into());
    fleet.envoys.push(held.await.unwrap());
    let under_way = fleet.begin(0, &TripRequest::of("ann"), "key").unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    fleet.envoys[0].kill9();
    under_way.abandon();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(fleet.counter(1, "sagas_taken_over").await.unwrap(), 0);
    let answer = fleet.ask(1, &TripRequest::of("bob"), "key-of-bob").await.unwrap();
    assert_eq!(answer.status, 201, "new sagas begin: {}", answer.text());
    fleet.envoys.push(fleet.another().await.unwrap());
    fleet.wait_until_no_saga_is_open(SOON).await.unwrap();
}

#[tokio::test]
async fn what_strangers_leave_under_the_prefix_is_told_and_left_alone() {
    let fleet = Fleet::start(1).await.unwrap();
    let left = [("saga/not-json", "hello"), ("saga/other", "{\"version\":7}"), ("vm/x", "?"), ("what/is/this", "1")];
    for (key, value) in left {
        fleet.etcd.put(&format!("{PREFIX}{key}"), value).await.unwrap();
    }
    let answer = fleet.ask(0, &TripRequest::of("ann"), "key").await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (key, value) in left {
        let entries = fleet.etcd.entries(&format!("{PREFIX}{key}")).await.unwrap();
        assert_eq!(entries[0].value, value.as_bytes(), "{key}");
    }
    assert_eq!(fleet.counter(0, "sagas_quarantined").await.unwrap(), 1);
    let log = fleet.envoys[0].log();
    assert_eq!(log.matches("saga/not-json").count(), 1, "{log}");
    assert!(log.contains("saga/other: it is of version 7, not 1 to 2"), "{log}");
}

#[tokio::test]
async fn of_the_sagas_that_a_dead_replica_has_left_one_that_is_damaged_is_set_aside_alone() {
    const GUESTS: [&str; 4] = ["ann", "bob", "cid", "dan"];
    let mut fleet = Fleet::start(1).await.unwrap();
    for guest in GUESTS {
        let hangs = Fault::new(guest, Action::Transaction, FaultKind::Hang);
        fleet.participants.hotel.set_fault(hangs).unwrap();
    }
    let begin = |guest: &&str| fleet.begin(0, &TripRequest::of(*guest), guest).unwrap();
    let under_way: Vec<_> = GUESTS.iter().map(begin).collect();
    tokio::time::sleep(Duration::from_millis(700)).await;
    fleet.envoys[0].kill9();
    drop(under_way);
    // None looks at it before it is damaged.
    let history = fleet.participants.history("bob").unwrap();
    let damaged = *history.sagas().first().unwrap();
    let records = fleet.etcd.entries(&format!("{PREFIX}record/{damaged}/")).await.unwrap();
    let half = &records[0].value[..records[0].value.len() / 2];
    fleet.etcd.put(&records[0].key, half).await.unwrap();

    fleet.envoys.push(fleet.another().await.unwrap());
    for guest in ["ann", "cid", "dan"] {
        fleet.participants.wait_until_held(guest, &["hotel", "flight"], SOON).await.unwrap();
        let answer = fleet.ask(1, &TripRequest::of(guest), guest).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("idempotency-replayed")), (201, Some("true")));
    }
    let calls = fleet.participants.history("bob").unwrap().table();
    assert_eq!(calls, history.table(), "something was sent for it");
    assert_eq!(fleet.counter(1, "sagas_quarantined").await.unwrap(), 1);
    let open = fleet.open_sagas().await.unwrap();
    assert_eq!(open.keys().collect::<Vec<_>>(), [damaged], "{open:?}");
    let head = fleet.etcd.entries(&format!("{PREFIX}saga/{damaged}")).await.unwrap().remove(0);
    let head: serde_json::Value = serde_json::from_slice(&head.value).unwrap();
    assert!(head["quarantined"].is_string(), "{head}");
    assert_eq!(fleet.etcd.entries(&records[0].key).await.unwrap()[0].value, half);
}
