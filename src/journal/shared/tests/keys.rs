//! Start keys, and what is retained for them.

use std::time::Duration;

use super::*;
use crate::journal::{Found, OpenSaga, StartKey};

fn key(name: &str) -> StartKey {
    StartKey { key: format!("{name:0>64}"), request: "r".to_owned() }
}

fn write_keyed(
    vm: &mut SharedJournal,
    shared: &mut Shared,
    saga: &str,
    record: &Record,
    now: Millis,
) -> Acknowledgement {
    let start = key(saga);
    vm.write(shared, Entry { saga, epoch: 1, record, start: Some(&start), now })
}

/// Begins and ends a saga under a key of its own name.
fn finish(vm: &mut SharedJournal, shared: &mut Shared, saga: &str, now: Millis) {
    assert_eq!(write_keyed(vm, shared, saga, &begun(saga, "trip"), now), Acknowledgement::Written);
    assert_eq!(write_keyed(vm, shared, saga, &ended(2), now), Acknowledgement::Written);
}

fn with_bounds(name: &str, sagas: usize, bytes: usize, seconds: u64) -> SharedJournal {
    SharedJournal::new(
        name.to_owned(),
        configuration(),
        definition::Retained { sagas, bytes, time: Duration::from_secs(seconds) },
    )
}

fn is_ended(vm: &SharedJournal, shared: &Shared, saga: &str) -> bool {
    matches!(vm.find(shared, &key(saga)), Found::Ended(_))
}

#[test]
fn a_saga_is_found_by_its_key_from_its_begin_until_after_its_end() {
    let (mut shared, mut a, b) = (Shared::default(), vm("a"), vm("b"));
    assert_eq!(b.find(&shared, &key("s1")), Found::Nothing);
    write_keyed(&mut a, &mut shared, "s1", &begun("s1", "trip"), 1);
    let under_way = |state| Found::UnderWay(OpenSaga { saga: "s1".to_owned(), state, is_set_aside: false });
    assert_eq!(b.find(&shared, &key("s1")), under_way(SagaState::Running));
    write_keyed(&mut a, &mut shared, "s1", &compensating(2), 1);
    assert_eq!(b.find(&shared, &key("s1")), under_way(SagaState::Compensating));
    let other = StartKey { request: "other".to_owned(), ..key("s1") };
    assert_eq!(b.find(&shared, &other), Found::OtherRequest);
    write_keyed(&mut a, &mut shared, "s1", &ended(3), 1);
    assert!(is_ended(&b, &shared, "s1"));
    assert_eq!(b.find(&shared, &other), Found::OtherRequest);
    assert_eq!(shared.text("sagabox/vm/0/saga/0").lines().count(), 1, "its records are gone");
}

#[test]
fn of_two_that_begin_under_one_key_in_the_same_moment_one_does() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    let start = key("k");
    let begins = |vm: &mut SharedJournal, shared: &mut Shared, saga: &str| {
        vm.write(shared, Entry { saga, epoch: 1, record: &begun(saga, "trip"), start: Some(&start), now: 1 })
    };
    assert_eq!(begins(&mut a, &mut shared, "s1"), Acknowledgement::Written);
    assert_eq!(begins(&mut b, &mut shared, "s2"), Acknowledgement::KeyTaken);
    assert_eq!(shared.sagas(), ["sagabox/vm/0/saga/0"]);
    assert_eq!(write(&mut b, &mut shared, "s2", 1, &compensating(2)), Acknowledgement::Lost);
}

#[test]
fn a_saga_that_no_key_names_never_began() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    write_keyed(&mut a, &mut shared, "s1", &begun("s1", "trip"), 1);
    write_keyed(&mut a, &mut shared, "s2", &begun("s2", "trip"), 1);
    // As if the VM had died before it wrote the key.
    index::remove(&mut shared, &key("s1"), "s1", Reader::default());
    let tick = live(&mut [&mut b], &mut shared, 10);
    assert_eq!(names(&tick), ["s2"]);
    assert_eq!(shared.sagas(), ["sagabox/vm/0/saga/1"]);
}

#[test]
fn a_key_that_names_a_slot_of_another_saga_can_be_used_again() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    write_keyed(&mut a, &mut shared, "s1", &begun("s1", "trip"), 1);
    shared.put("sagabox/vm/0/saga/0", "");
    assert_eq!(a.find(&shared, &key("s1")), Found::Nothing);
    let mut b = vm("b");
    assert_eq!(write_keyed(&mut b, &mut shared, "s1", &begun("s1", "trip"), 1), Acknowledgement::Written);
}

#[test]
fn what_has_ended_is_forgotten_when_its_time_is_over() {
    let (mut shared, mut a) = (Shared::default(), with_bounds("a", 100, 1 << 20, 60));
    finish(&mut a, &mut shared, "s1", 1_000);
    finish(&mut a, &mut shared, "s2", 2_000);
    a.tick(&mut shared, 60_999);
    assert!(is_ended(&a, &shared, "s1"));
    a.tick(&mut shared, 61_500);
    assert!(!is_ended(&a, &shared, "s1") && is_ended(&a, &shared, "s2"));
    a.tick(&mut shared, 70_000);
    assert_eq!(shared.sagas(), [""; 0]);
    let left: usize =
        shared.values.borrow().iter().filter(|(key, _)| key.contains("/key/")).map(|(_, v)| v.0.len()).sum();
    assert_eq!(left, 0, "bytes of keys");
}

#[test]
fn past_the_bounds_the_oldest_is_forgotten() {
    let (mut shared, mut a) = (Shared::default(), with_bounds("a", 3, 1 << 20, 60));
    for saga in 1..=4 {
        finish(&mut a, &mut shared, &format!("s{saga}"), 1_000 + saga);
    }
    let kept: Vec<bool> = (1..=4).map(|saga| is_ended(&a, &shared, &format!("s{saga}"))).collect();
    assert_eq!(kept, [false, true, true, true]);
    let one = shared.shared("sagabox/vm/0/saga/1").unwrap().0.len();
    let (mut shared, mut b) = (Shared::default(), with_bounds("b", 100, 2 * one + one / 2, 60));
    for saga in 1..=4 {
        finish(&mut b, &mut shared, &format!("s{saga}"), 1_000 + saga);
    }
    assert_eq!(shared.sagas().len(), 2);
}

#[test]
fn the_bounds_are_of_the_whole_process_and_each_vm_gets_its_share() {
    let mut shared = Shared::default();
    let (mut a, mut b) = (with_bounds("a", 10, 1 << 20, 60), with_bounds("b", 10, 1 << 20, 60));
    for saga in 0..10 {
        finish(&mut a, &mut shared, &format!("a{saga}"), 1);
    }
    finish(&mut b, &mut shared, "b", 1);
    let mut beats = || {
        a.tick(&mut shared, a.next_due());
        b.tick(&mut shared, b.next_due());
    };
    beats();
    beats();
    beats();
    for saga in 0..10 {
        finish(&mut b, &mut shared, &format!("b{saga}"), 2);
    }
    for _ in 0..3 {
        a.tick(&mut shared, a.next_due());
        b.tick(&mut shared, b.next_due());
    }
    let of = |name: &str, vm: &SharedJournal| (0..10).filter(|n| is_ended(vm, &shared, &format!("{name}{n}"))).count();
    assert_eq!((of("a", &a), of("b", &b)), (5, 5));
}

#[test]
fn what_a_vm_retained_outlives_it_whether_it_leaves_or_dies() {
    for leaves in [true, false] {
        let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), with_bounds("b", 100, 1 << 20, 60));
        finish(&mut a, &mut shared, "s1", 1_000);
        if leaves {
            a.leave(&mut shared);
            live(&mut [&mut b], &mut shared, 1);
        } else {
            live(&mut [&mut b], &mut shared, 10);
        }
        assert!(is_ended(&b, &shared, "s1"), "leaves: {leaves}");
        let tick = b.tick(&mut shared, 100_000);
        assert!(tick.orphans.is_empty());
        assert_eq!(shared.sagas(), [""; 0], "the heir forgets it in its time");
        assert!(shared.text("sagabox/vm/0").contains("\"free\""));
    }
}

#[test]
fn a_saga_that_ends_as_it_begins_is_retained_under_its_key() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    let mut record = begun("s1", "trip");
    record.changes.extend(ended(1).changes);
    assert_eq!(write_keyed(&mut a, &mut shared, "s1", &record, 1), Acknowledgement::Written);
    assert!(is_ended(&a, &shared, "s1"));
}

#[test]
fn what_another_module_has_written_under_a_key_is_not_taken_for_nothing() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    assert_eq!(write_keyed(&mut a, &mut shared, "s1", &begun("s1", "trip"), 1), Acknowledgement::Written);
    shared.put("sagabox/vm/0/saga/0", "{\"version\":3,\"of_the_future\":1}\n");
    assert_eq!(b.find(&shared, &key("s1")), Found::Unreadable);
    let (start, record) = (key("s1"), begun("s2", "trip"));
    let entry = Entry { saga: "s2", epoch: 1, record: &record, start: Some(&start), now: 1 };
    assert_eq!(b.write(&mut shared, entry), Acknowledgement::KeyTaken);
}
