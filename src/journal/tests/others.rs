//! What only another module can read: it is left alone wherever it stands, told once, and harms no other saga.

use serde_json::Value as Json;

use super::before::{heir, kept, left_by_v1};
use super::stories::{Kind, NOW, OPEN, configuration, put_back};
use super::vm::Vm;
use crate::coordinator::Counter;

/// How a value is changed so that only another module can read it.
#[derive(Clone, Copy, Debug)]
enum Change {
    NewerVersion,
    Needs,
}

impl Change {
    const ALL: [Change; 2] = [Change::NewerVersion, Change::Needs];

    /// Of a line of JSON.
    fn of(self, line: &str) -> String {
        let mut value: Json = serde_json::from_str(line).expect("JSON");
        match self {
            Change::NewerVersion => value["version"] = 3.into(),
            Change::Needs => (value["version"], value["needs"]) = (2.into(), Json::from(["pivot"].as_slice())),
        }
        value.to_string()
    }
}

/// The saga `begun` of the stories.
const BEGUN: &str = "018bcfe5-8358-7262-a262-626262626262";
/// The saga `begun-keyed`.
const BEGUN_KEYED: &str = "018bcfe5-8358-7363-a363-636363636363";

/// Changes one line of one value of what is left.
fn changed(kind: Kind, key: &str, line: usize, change: Change) -> Json {
    let mut left = left_by_v1(kind);
    let value = match kind {
        Kind::Shared => &mut left[key],
        Kind::Etcd => &mut left[key]["value"],
    };
    let lines: Vec<String> = value.as_str().unwrap_or_else(|| panic!("{key}")).lines().map(str::to_owned).collect();
    let lines =
        lines.iter().enumerate().map(|(index, text)| if index == line { change.of(text) } else { text.clone() });
    *value = Json::from(lines.collect::<Vec<_>>().join("\n") + if kind == Kind::Shared { "\n" } else { "" });
    left
}

#[test]
fn a_saga_that_needs_more_is_left_alone_and_the_others_go_on() {
    let (slot, head) = ("sagabox/vm/1/saga/0".to_owned(), format!("sagabox/saga/{BEGUN}"));
    let record = format!("sagabox/record/{BEGUN}/0000000001");
    for (kind, key, line, stays) in [
        (Kind::Shared, &slot, 0, &slot),
        (Kind::Shared, &slot, 1, &slot),
        (Kind::Etcd, &head, 0, &head),
        (Kind::Etcd, &record, 0, &record),
    ] {
        for change in Change::ALL {
            let left = changed(kind, key, line, change);
            let common = put_back(kind, &left);
            let before = kept(kind, &common);
            let mut heir = heir(kind, &common);
            heir.lives(10_000);
            heir.finishes();
            let after = kept(kind, &common);
            let value = |values: &[(String, String)]| values.iter().find(|(other, _)| other == stays).cloned();
            assert_eq!(value(&after), value(&before), "{kind:?} {key} {change:?}: it was touched");
            assert_eq!(heir.count(Counter::Quarantined), 0, "{kind:?} {key} {change:?}");
            let others = OPEN.len() - 1;
            assert_eq!(heir.count(Counter::TakenOver), others, "{kind:?} {key} {change:?}: another was harmed");
        }
    }
}

#[test]
fn a_module_that_knows_the_feature_takes_the_saga_over() {
    for (kind, key) in [(Kind::Shared, "sagabox/vm/1/saga/0".to_owned()), (Kind::Etcd, format!("sagabox/saga/{BEGUN}"))]
    {
        let common = put_back(kind, &changed(kind, &key, 0, Change::Needs));
        let mut heir = Vm::that_knows(&["pivot"], "heir", &common, &configuration(kind), NOW + 60_000);
        heir.lives(20_000);
        assert_eq!(heir.count(Counter::TakenOver), OPEN.len(), "{kind:?}");
        let (_, head) = kept(kind, &common).into_iter().find(|(other, _)| *other == key).expect("it is there");
        assert!(head.contains(r#""needs":["pivot"]"#), "what its records need its head goes on saying: {head}");
        heir.finishes();
    }
}

#[test]
fn what_is_gone_on_with_is_written_in_the_form_of_this_version() {
    for kind in Kind::BOTH {
        let common = put_back(kind, &left_by_v1(kind));
        let _heir = heir(kind, &common);
        for (key, value) in kept(kind, &common) {
            let is_head = key.contains("/saga/") && !value.is_empty();
            let is_ours = is_head && value.contains(r#""owner":"heir"#);
            let head: Json = value.lines().next().map(|line| serde_json::from_str(line).unwrap()).unwrap_or_default();
            assert!(!is_ours || head["version"] == 2, "{kind:?}: {key}: {head}");
            let has_ended = !head["ended"].is_null();
            assert!(!is_ours || has_ended || head["steps"].is_string(), "{kind:?}: {key}: {head}");
        }
    }
}

#[test]
fn the_sagas_of_a_row_that_needs_more_wait_for_who_can_read_it() {
    for change in Change::ALL {
        let left = changed(Kind::Shared, "sagabox/vm/1", 0, change);
        let common = put_back(Kind::Shared, &left);
        let before = kept(Kind::Shared, &common);
        let mut heir = heir(Kind::Shared, &common);
        // That of the row that it can read. It was what the VM `a` had taken over, which is not known to live.
        heir.finishes();
        let of_row = |values: &[(String, String)]| -> Vec<(String, String)> {
            values.iter().filter(|(key, _)| key.starts_with("sagabox/vm/1")).cloned().collect()
        };
        assert_eq!(of_row(&kept(Kind::Shared, &common)), of_row(&before), "{change:?}");
        assert_eq!(heir.count(Counter::Quarantined), 0);
    }
}

#[test]
fn a_key_that_only_another_module_can_read_is_not_given_to_a_second_saga() {
    for change in Change::ALL {
        for kind in Kind::BOTH {
            let left = left_by_v1(kind);
            let key = left.as_object().unwrap().iter().find(|(key, value)| {
                let is_of_keys = key.contains("/key/") || key.contains("/start/");
                is_of_keys && value.to_string().contains(BEGUN_KEYED)
            });
            let key = key.expect("the saga `begun-keyed` has a key").0.clone();
            let common = put_back(kind, &changed(kind, &key, 0, change));
            let mut heir = heir(kind, &common);
            let calls = heir.calls().len();
            let client = heir.requests(Some("begun-keyed"), &super::stories::body("begun-keyed"));
            heir.lives(1_000);
            let told = heir.told(client).map(|told| told.status);
            assert!(told.is_some_and(|status| status >= 500), "{kind:?} {change:?}: {told:?}");
            assert_eq!(heir.calls().len(), calls, "{kind:?} {change:?}: a second one began");
        }
    }
}

#[test]
fn a_vm_whose_row_needs_more_lives_all_the_same() {
    for change in Change::ALL {
        let left = changed(Kind::Etcd, "sagabox/vm/a.0", 0, change);
        let common = put_back(Kind::Etcd, &left);
        let row = left["sagabox/vm/a.0"]["value"].as_str().expect("text").to_owned();
        common.etcd.borrow_mut().put("sagabox/vm/a.0", &row, 2);
        let heir = heir(Kind::Etcd, &common);
        assert_eq!(heir.count(Counter::TakenOver), 0);
        let has_definitions = kept(Kind::Etcd, &common).iter().any(|(key, _)| key.contains("/definitions/0ba180a3"));
        assert!(has_definitions, "what it may refer to is kept");
    }
}

#[test]
fn who_asks_again_for_a_saga_that_needs_more_does_not_make_it_one_without_owner() {
    let head = format!("sagabox/saga/{BEGUN_KEYED}");
    for change in Change::ALL {
        let left = changed(Kind::Etcd, &head, 0, change);
        let common = put_back(Kind::Etcd, &left);
        let row = left["sagabox/vm/a.0"]["value"].as_str().expect("text").to_owned();
        common.etcd.borrow_mut().put("sagabox/vm/a.0", &row, 2);
        let mut other = heir(Kind::Etcd, &common);
        let client = other.requests(Some("begun-keyed"), &super::stories::body("begun-keyed"));
        other.lives(1_000);
        assert_eq!(other.told(client).map(|told| told.status), Some(503), "{change:?}");
        assert_eq!(other.count(Counter::LeftAlone), 0, "{change:?}: its owner lives");
    }
}

#[test]
fn a_newer_module_takes_over_what_an_older_one_that_lives_on_has_left_alone() {
    for (kind, key) in [(Kind::Shared, "sagabox/vm/1/saga/0".to_owned()), (Kind::Etcd, format!("sagabox/saga/{BEGUN}"))]
    {
        let common = put_back(kind, &changed(kind, &key, 0, Change::Needs));
        let mut older = heir(kind, &common);
        let mut newer = Vm::that_knows(&["pivot"], "newer", &common, &configuration(kind), NOW + 80_000);
        for _ in 0..20 {
            older.lives(500);
            newer.lives(500);
        }
        let taken = [older.count(Counter::TakenOver), newer.count(Counter::TakenOver)];
        assert_eq!(taken, [OPEN.len() - 1, 1], "{kind:?}");
        assert!(newer.calls().iter().all(|(saga, ..)| saga == BEGUN), "{kind:?}: {:?}", newer.calls());
    }
}

#[test]
fn a_newer_vm_that_was_only_slow_sends_nothing_for_what_an_older_one_has_taken_over() {
    let common = put_back(Kind::Shared, &left_by_v1(Kind::Shared));
    let mut slow = Vm::that_knows(&["pivot"], "slow", &common, &configuration(Kind::Shared), NOW + 60_000);
    slow.lives(20_000);
    let row = kept(Kind::Shared, &common).into_iter().find(|(_, value)| value.contains(r#""vm":"slow"#));
    let row = row.expect("it has a row").0;
    slow.requests(None, &super::stories::body("first"));
    let second = slow.requests(None, &super::stories::body("second"));
    // One of the two needs more than the older one knows.
    let slot = format!("{row}/saga/0");
    let (text, version) = common.values.borrow().get(&slot).cloned().expect("it is in the row");
    let text = String::from_utf8(text).expect("text").replacen(r#""version":2"#, r#""version":2,"needs":["pivot"]"#, 1);
    common.values.borrow_mut().insert(slot.clone(), (text.clone().into_bytes(), version));
    let mut older = Vm::new("older", &common, &configuration(Kind::Shared), NOW + 80_000);
    older.requests(None, &super::stories::body("third"));
    older.lives(10_000);
    assert!(older.count(Counter::TakenOver) > 0, "the second goes on");
    let of_first = String::from_utf8(common.values.borrow()[&slot].0.clone()).expect("text");
    assert_eq!(of_first, text, "the first stays as it is");
    slow.lives(1_000);
    assert_eq!(slow.told(second).map(|told| told.status), Some(504), "it has lost all of its row, and says so");
}
