//! Several VMs over one map.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Value as Json, json};

use super::*;
use crate::journal::{Conflict, Version};
use crate::saga::record::{Begun, Change, Record};
use crate::saga::{Reply, SagaState, StepState};

mod interrupted;
mod keys;
mod room;
mod stopped;

type Values = BTreeMap<String, (Vec<u8>, Version)>;

/// What the VMs share, as Envoy keeps it.
#[derive(Clone, Default)]
struct Shared {
    values: Rc<RefCell<Values>>,
    next_version: Rc<Cell<Version>>,
    /// So many writes from now on meet a conflict.
    conflicts: Rc<Cell<u32>>,
}

impl SharedData for Shared {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        self.values.borrow().get(key).cloned()
    }

    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        let version = self.values.borrow().get(key).map(|(_, version)| *version);
        if version != read || self.conflicts.get() > 0 {
            self.conflicts.set(self.conflicts.get().saturating_sub(1));
            return Err(Conflict);
        }
        self.next_version.set(self.next_version.get() + 1);
        self.values.borrow_mut().insert(key.to_owned(), (value.to_vec(), self.next_version.get()));
        Ok(())
    }
}

impl Shared {
    fn text(&self, key: &str) -> String {
        String::from_utf8(self.shared(key).expect(key).0).unwrap()
    }

    fn put(&mut self, key: &str, value: &str) {
        let read = self.shared(key).map(|(_, version)| version);
        self.set_shared(key, value.as_bytes(), read).unwrap();
    }

    /// Slots that are in use.
    fn sagas(&self) -> Vec<String> {
        let values = self.values.borrow();
        let used = values.iter().filter(|(key, (value, _))| key.contains("/saga/") && !value.is_empty());
        used.map(|(key, _)| key.clone()).collect()
    }
}

fn configuration() -> Vec<u8> {
    let trip = json!({"name": "trip", "match": {"path": "/trips"}, "steps": [
        {"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"},
         "compensation": {"method": "DELETE", "path": "/"}},
    ]});
    json!({"version": 1, "sagas": [trip]}).to_string().into_bytes()
}

fn vm(name: &str) -> SharedJournal {
    SharedJournal::new(name.to_owned(), configuration(), definition::Retained::default())
}

fn begun(saga: &str, definition: &str) -> Record {
    let begun = Begun {
        id: saga.to_owned(),
        definition: definition.to_owned(),
        request: Json::Null,
        forwarded: Vec::new(),
        begun_at: 1,
        deadline: 10_001,
        depth: 1,
        who: None,
    };
    let in_flight = Change::InFlight { step: 0, request: None, compensation: None, at: None };
    Record::new(1, vec![Change::Begun(begun), in_flight])
}

fn later(sequence: u64, change: Change) -> Record {
    Record::new(sequence, vec![change])
}

fn compensating(sequence: u64) -> Record {
    let cause = crate::saga::record::Cause { failed_step: None, reason: "late".to_owned(), at: None };
    later(sequence, Change::Compensating(cause))
}

fn ended(sequence: u64) -> Record {
    let reply = Reply { status: 200, headers: Vec::new(), body: None };
    later(sequence, Change::Ended { state: SagaState::Completed, reply, nothing_sent: false })
}

fn write(journal: &mut SharedJournal, shared: &mut Shared, saga: &str, epoch: u32, record: &Record) -> Acknowledgement {
    journal.write(shared, Entry { saga, epoch, record, start: None, now: 1 })
}

fn begin(journal: &mut SharedJournal, shared: &mut Shared, saga: &str) {
    assert_eq!(write(journal, shared, saga, 1, &begun(saga, "trip")), Acknowledgement::Written);
}

/// Lets these VMs live for so many beats; gives what came of it.
fn live(journals: &mut [&mut SharedJournal], shared: &mut Shared, beats: u32) -> News {
    let mut all = News::default();
    for _ in 0..beats {
        for journal in journals.iter_mut() {
            let due = journal.next_due();
            let tick = journal.tick(shared, due);
            all.lost.extend(tick.lost);
            all.orphans.extend(tick.orphans);
            all.quarantined.extend(tick.quarantined);
            all.left_alone.extend(tick.left_alone);
        }
    }
    all
}

fn names(tick: &News) -> Vec<&str> {
    tick.orphans.iter().map(|orphan| orphan.progress.begun.as_ref().unwrap().id.as_str()).collect()
}

#[test]
fn the_state_of_a_saga_can_be_read_at_any_time() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    begin(&mut a, &mut shared, "s1");
    assert_eq!(write(&mut a, &mut shared, "s1", 1, &compensating(2)), Acknowledgement::Written);
    let text = shared.text("sagabox/vm/0/saga/0");
    let lines: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        json!({"version": 2, "saga": "s1", "owner": "a", "epoch": 1, "sequence": 2, "state": "compensating", "steps": "f"})
    );
    assert_eq!(lines[2]["changes"][0]["compensating"]["reason"], "late");
    assert_eq!(write(&mut a, &mut shared, "s1", 1, &ended(3)), Acknowledgement::Written);
    assert_eq!(shared.sagas(), [""; 0]);
}

#[test]
fn a_saga_that_ends_as_it_begins_is_never_kept() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    let mut record = begun("s1", "trip");
    record.changes.extend(ended(1).changes);
    assert_eq!(write(&mut a, &mut shared, "s1", 1, &record), Acknowledgement::Written);
    assert!(shared.values.borrow().is_empty());
}

#[test]
fn slots_are_used_again() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    for round in 0..1_000 {
        for saga in 0..3 {
            begin(&mut a, &mut shared, &format!("s{round}-{saga}"));
        }
        for saga in 0..3 {
            let ends = write(&mut a, &mut shared, &format!("s{round}-{saga}"), 1, &ended(2));
            assert_eq!(ends, Acknowledgement::Written);
        }
    }
    assert_eq!(shared.values.borrow().len(), 2 + 3, "a row, its configuration and three slots");
}

#[test]
fn however_many_there_are_all_are_taken_over() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    for saga in 0..200 {
        begin(&mut a, &mut shared, &format!("s{saga}"));
    }
    for saga in (0..200).step_by(3) {
        write(&mut a, &mut shared, &format!("s{saga}"), 1, &ended(2));
    }
    let orphans = live(&mut [&mut vm("b")], &mut shared, 8);
    assert_eq!((shared.sagas().len(), orphans.orphans.len()), (133, 133));
}

#[test]
fn rows_of_vms_that_have_gone_are_used_again() {
    let mut shared = Shared::default();
    for round in 0..20 {
        let mut short_lived = vm(&format!("a{round}"));
        begin(&mut short_lived, &mut shared, "s");
        write(&mut short_lived, &mut shared, "s", 1, &ended(2));
        if round % 2 == 0 {
            short_lived.leave(&mut shared);
        } else {
            live(&mut [&mut vm(&format!("watch{round}"))], &mut shared, 8);
        }
    }
    let rows = shared.values.borrow().keys().filter(|key| key.matches('/').count() == 2).count();
    assert!(rows <= 3, "{rows} rows, and never more than the last VM, its heir and the one before it lived at a time");
}

#[test]
fn a_vm_that_beats_keeps_its_sagas() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    begin(&mut a, &mut shared, "s1");
    begin(&mut b, &mut shared, "s2");
    let tick = live(&mut [&mut a, &mut b], &mut shared, 50);
    assert!(tick.orphans.is_empty() && tick.lost.is_empty());
    assert_eq!(write(&mut a, &mut shared, "s1", 1, &compensating(2)), Acknowledgement::Written);
}

#[test]
fn the_sagas_of_a_dead_vm_are_taken_over_by_one_other() {
    let (mut shared, mut a, mut b, mut c) = (Shared::default(), vm("a"), vm("b"), vm("c"));
    begin(&mut a, &mut shared, "s1");
    begin(&mut a, &mut shared, "s2");
    write(&mut a, &mut shared, "s2", 1, &compensating(2));
    let early = live(&mut [&mut b, &mut c], &mut shared, 6);
    assert!(early.orphans.is_empty(), "too early");
    let tick = live(&mut [&mut b, &mut c], &mut shared, 20);
    assert_eq!(names(&tick), ["s1", "s2"]);
    let (first, second) = (&tick.orphans[0], &tick.orphans[1]);
    assert_eq!((first.epoch, first.sequence, first.definition.name.as_str()), (2, 1, "trip"));
    assert_eq!(first.progress.steps[0].state, StepState::InFlight);
    assert_eq!((second.epoch, second.sequence, second.progress.state), (2, 2, SagaState::Compensating));
    assert_eq!(write(&mut b, &mut shared, "s1", 2, &ended(2)), Acknowledgement::Written);
    assert_eq!(write(&mut b, &mut shared, "s2", 2, &ended(3)), Acknowledgement::Written);
    assert_eq!(shared.sagas(), [""; 0]);
    assert_eq!(shared.text("sagabox/vm/0").matches("free").count(), 1, "the row can be used again");
}

#[test]
fn a_vm_that_was_only_slow_does_nothing_for_what_is_not_its_own_any_more() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    begin(&mut a, &mut shared, "s1");
    assert!(a.owns(&mut shared, "s1", 0) == Ownership::Ours);
    let tick = live(&mut [&mut b], &mut shared, 10);
    assert_eq!(names(&tick), ["s1"]);
    assert_eq!(write(&mut a, &mut shared, "s1", 1, &compensating(2)), Acknowledgement::Lost);
    assert!(a.owns(&mut shared, "s1", 0) == Ownership::Lost);
    assert_eq!(write(&mut b, &mut shared, "s1", 2, &compensating(2)), Acknowledgement::Written);
    // It goes on as another.
    begin(&mut a, &mut shared, "s2");
    assert!(a.owns(&mut shared, "s2", 0) == Ownership::Ours && a.owns(&mut shared, "s1", 0) == Ownership::Lost);
    assert_eq!(live(&mut [&mut a], &mut shared, 1).lost, ["s1"], "and not what it has begun since");
    let tick = live(&mut [&mut a, &mut b], &mut shared, 20);
    assert!(tick.lost.is_empty() && tick.orphans.is_empty());
}

#[test]
fn a_slow_vm_learns_from_its_beat_that_it_was_taken_for_dead() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    begin(&mut a, &mut shared, "s1");
    live(&mut [&mut b], &mut shared, 10);
    assert_eq!(live(&mut [&mut a], &mut shared, 1).lost, ["s1"]);
}

#[test]
fn what_a_dead_heir_had_taken_is_taken_over_again() {
    let (mut shared, mut a, mut b, mut c) = (Shared::default(), vm("a"), vm("b"), vm("c"));
    begin(&mut a, &mut shared, "s1");
    live(&mut [&mut b], &mut shared, 10);
    begin(&mut b, &mut shared, "s2");
    let mut tick = live(&mut [&mut c], &mut shared, 20);
    // The suspect comes with the tick after.
    tick.orphans.sort_by_key(|orphan| orphan.epoch);
    assert_eq!(names(&tick), ["s2", "s1"]);
    assert_eq!(tick.orphans[1].epoch, 3);
}

#[test]
fn a_conflict_is_no_loss_where_nobody_else_has_it() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    for (sequence, record) in [begun("s1", "trip"), compensating(2), ended(3)].iter().enumerate() {
        shared.conflicts.set(3);
        assert_eq!(write(&mut a, &mut shared, "s1", 1, record), Acknowledgement::Written, "{sequence}");
    }
    begin(&mut a, &mut shared, "s2");
    assert_eq!(shared.sagas(), ["sagabox/vm/0/saga/0"], "no row was passed over");
    shared.conflicts.set(3);
    assert!(live(&mut [&mut a], &mut shared, 1).lost.is_empty());
}

#[test]
fn what_cannot_be_read_harms_no_other_saga() {
    for (broken, seen) in [
        ("{\"version\":3,\"new\":true}\n{}", false),
        ("a stranger's", false),
        ("\u{0}", false),
        (
            "{\"version\":1,\"saga\":\"s1\",\"owner\":\"a\",\"epoch\":1,\"sequence\":1,\"state\":\"running\"}\n{\"version\":3}\n",
            false,
        ),
        (
            "{\"version\":1,\"saga\":\"s1\",\"owner\":\"a\",\"epoch\":1,\"sequence\":1,\"state\":\"running\"}\nno record\n",
            true,
        ),
        ("{\"version\":1,\"saga\":\"s1\",\"owner\":\"a\",\"epoch\":1,\"sequence\":2,\"state\":\"running\"}\n", true),
    ] {
        let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
        begin(&mut a, &mut shared, "s1");
        begin(&mut a, &mut shared, "s2");
        shared.put("sagabox/vm/0/saga/0", broken);
        let tick = live(&mut [&mut b], &mut shared, 10);
        assert_eq!(names(&tick), ["s2"], "{broken}");
        let is_for_others = broken.contains("\"version\":3");
        assert_eq!(tick.quarantined.len(), usize::from(!is_for_others), "{broken}: {:?}", tick.quarantined);
        assert_eq!(tick.left_alone.len(), usize::from(is_for_others), "{broken}: {:?}", tick.left_alone);
        if !seen {
            assert_eq!(shared.text("sagabox/vm/0/saga/0"), broken, "it was touched");
        }
        write(&mut b, &mut shared, "s2", 2, &ended(2));
        assert_eq!(shared.sagas(), ["sagabox/vm/0/saga/0"], "it was thrown away");
    }
}

#[test]
fn a_saga_goes_on_under_the_definition_with_which_it_began_or_not_at_all() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    begin(&mut a, &mut shared, "s1");
    assert_eq!(write(&mut a, &mut shared, "s2", 1, &begun("s2", "renamed")), Acknowledgement::Written);
    let mut other = vm("b");
    other.definitions = br#"{"version": 1, "sagas": []}"#.to_vec();
    let tick = live(&mut [&mut other], &mut shared, 10);
    assert_eq!(names(&tick), ["s1"]);
    assert_eq!(tick.orphans[0].definition.name, "trip");
    let (saga, why) = &tick.quarantined[0];
    assert!(saga == "s2" && why.contains("renamed"), "{why}");
}

#[test]
fn sagas_of_a_configuration_that_only_another_module_can_read_wait_for_it() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    a.definitions = br#"{"version": 1, "of_the_future": true}"#.to_vec();
    begin(&mut a, &mut shared, "s1");
    let before = shared.text("sagabox/vm/0/saga/0");
    let tick = live(&mut [&mut b], &mut shared, 10);
    assert!(tick.orphans.is_empty() && tick.quarantined.is_empty(), "{tick:?}");
    assert_eq!(tick.left_alone.iter().map(|(saga, _)| saga.as_str()).collect::<Vec<_>>(), ["s1"], "told once");
    assert_eq!(shared.text("sagabox/vm/0/saga/0"), before, "it was touched");
}

#[test]
fn a_row_without_open_sagas_is_freed_whatever_its_configuration() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    a.definitions = br#"{"version": 1, "of_the_future": true}"#.to_vec();
    begin(&mut a, &mut shared, "s1");
    write(&mut a, &mut shared, "s1", 1, &ended(2));
    live(&mut [&mut b], &mut shared, 10);
    assert!(shared.text("sagabox/vm/0").contains("free"), "{}", shared.text("sagabox/vm/0"));
}

#[test]
fn a_saga_that_may_be_what_kills_vms_is_resumed_alone_and_then_no_more() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    for saga in ["poison", "good1", "good2"] {
        begin(&mut a, &mut shared, saga);
    }
    // The first heir dies of it at once, and knows only that one of three did it.
    let tick = live(&mut [&mut vm("b")], &mut shared, 10);
    assert_eq!(names(&tick), ["poison", "good1", "good2"]);
    for (heir, expected) in [("c", 1), ("d", 2)] {
        let mut heir = vm(heir);
        let tick = live(&mut [&mut heir], &mut shared, 8);
        assert_eq!(names(&tick), ["poison"], "one at a time, after {expected}");
    }
    let mut last = vm("e");
    let tick = live(&mut [&mut last], &mut shared, 40);
    assert_eq!(tick.quarantined.iter().map(|(saga, _)| saga.as_str()).collect::<Vec<_>>(), ["poison"]);
    assert_eq!(names(&tick), ["good1", "good2"]);
    // Nobody tries again.
    let tick = live(&mut [&mut vm("f")], &mut shared, 40);
    assert!(!names(&tick).contains(&"poison") && tick.quarantined.is_empty());
}

#[test]
fn one_that_has_lived_for_a_while_is_no_suspect_any_more() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    begin(&mut a, &mut shared, "s1");
    for heir in ["b", "c", "d", "e", "f"] {
        let tick = live(&mut [&mut vm(heir)], &mut shared, 7 + 12);
        assert_eq!((names(&tick), tick.quarantined.len()), (vec!["s1"], 0));
    }
}

#[test]
fn a_strangers_row_is_left_alone() {
    let (mut shared, mut a) = (Shared::default(), vm("a"));
    shared.put("sagabox/vm/0", "a stranger's");
    shared.put("sagabox/vm/1", r#"{"version":2,"vm":"new","state":"free"}"#);
    begin(&mut a, &mut shared, "s1");
    assert_eq!(shared.sagas(), ["sagabox/vm/2/saga/0"]);
    assert_eq!(names(&live(&mut [&mut vm("b")], &mut shared, 10)), ["s1"]);
    assert_eq!(shared.text("sagabox/vm/0"), "a stranger's");
}

#[test]
fn a_row_that_only_another_module_can_read_is_told_of_once_its_vm_is_dead() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    begin(&mut a, &mut shared, "s1");
    let row = |beat| format!(r#"{{"version":2,"needs":["pivot"],"vm":"newer","state":"serving","beat":{beat}}}"#);
    for beat in 0..20 {
        shared.put("sagabox/vm/0", &row(beat));
        assert!(live(&mut [&mut b], &mut shared, 1).left_alone.is_empty(), "it lives");
    }
    let told = live(&mut [&mut b], &mut shared, 20).left_alone;
    assert_eq!(told.iter().map(|(row, _)| row.as_str()).collect::<Vec<_>>(), ["sagabox/vm/0"]);
    assert_eq!(shared.text("sagabox/vm/0"), row(19));
}
