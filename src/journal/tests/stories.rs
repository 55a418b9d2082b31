//! Sagas in every state, driven natively, and what both journals keep of them.
//!
//! `SAGABOX_WRITE_STORED=src/journal/tests/vN cargo test -p sagabox --lib sagas_in_every_state` writes it down. What a
//! version has written is never written anew: it is what its modules have left in journals.

use serde_json::{Value as Json, json};

use super::etcd::Etcd;
use super::vm::{Common, Vm};
use crate::saga::AttemptResult;

/// When the stories begin.
pub(super) const NOW: u64 = 1_700_000_000_000;

/// Which journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Shared,
    Etcd,
}

impl Kind {
    pub(super) const BOTH: [Kind; 2] = [Kind::Shared, Kind::Etcd];

    pub(super) fn file(self) -> &'static str {
        match self {
            Kind::Shared => "shared.json",
            Kind::Etcd => "etcd.json",
        }
    }
}

/// The configuration of every VM here.
pub(super) fn configuration(kind: Kind) -> Json {
    let by_id = |name: &str, after: &[&str]| {
        json!({
            "name": name,
            "after": after,
            "transaction": {"cluster": name, "method": "POST", "path": "/bookings", "retry": {"max_attempts": 1},
                            "body": {"guest": "${request.body.guest}"}},
            "compensation": {"method": "DELETE", "path": "/bookings/${transaction.response.body.id}"},
        })
    };
    let mut flight = by_id("flight", &[]);
    flight["compensation"]["path"] = json!("/bookings/by-key/${transaction.idempotency_key}");
    let mut car = by_id("car", &["hotel", "flight"]);
    car["when"] = json!("has(request.body.car)");
    let trip = json!({
        "name": "trip", "match": {"path": "/trips"}, "deadline": "1h",
        "steps": [by_id("hotel", &[]), flight, car, by_id("seat", &["car"])],
        "reply": {"completed": {"status": 201, "body": {"hotel": "${steps.hotel.response.body.id}"}}},
    });
    let mut configuration = json!({"version": 1, "sagas": [trip]});
    if kind == Kind::Etcd {
        configuration["journal"] = json!({"etcd": {"cluster": "etcd"}});
    }
    configuration
}

/// The names of the stories, which are the guests, too.
pub(super) const OPEN: [&str; 10] = [
    "begun",
    "begun-keyed",
    "hotel-booked",
    "car-in-flight",
    "car-skipped",
    "compensating",
    "compensating-keyed",
    "compensated-in-part",
    "resolving",
    "taken-over",
];

/// Those that have ended, with their keys: what the guest asked, and the status that its client got.
pub(super) const ENDED: [(&str, u16); 2] = [("completed", 201), ("compensated", 409)];

pub(super) fn body(guest: &str) -> Json {
    match guest {
        "car-in-flight" | "compensating" | "compensating-keyed" | "compensated-in-part" | "compensated" => {
            json!({"guest": guest, "car": true})
        }
        _ => json!({"guest": guest}),
    }
}

pub(super) fn key(guest: &str) -> Option<&str> {
    let keyed = ["begun-keyed", "car-in-flight", "compensating-keyed", "completed", "compensated"];
    keyed.contains(&guest).then_some(guest)
}

/// Begins the saga of a guest; gives its id.
fn begins(vm: &mut Vm, guest: &str) -> String {
    let before = vm.calls().len();
    vm.requests(key(guest), &body(guest));
    vm.calls()[before].0.clone()
}

fn books(vm: &mut Vm, saga: &str, steps: &[&str]) {
    for step in steps {
        vm.answers(saga, step, 201, &json!({"id": format!("{step}-1")}));
    }
}

/// What is there when the VM `a` dies.
pub(super) fn told(kind: Kind) -> Json {
    let (common, configuration) = (Common::default(), configuration(kind));
    let mut first = Vm::new("first", &common, &configuration, NOW);
    let damaged = begins(&mut first, "quarantined");
    begins(&mut first, "taken-over");
    damage(&common, &damaged);
    dies(&common, "first");
    let mut a = Vm::new("a", &common, &configuration, NOW + 1_000);
    a.lives(6_000);
    for (guest, booked) in [
        ("begun", &[][..]),
        ("begun-keyed", &[]),
        ("hotel-booked", &["hotel"]),
        ("car-in-flight", &["hotel", "flight"]),
        ("car-skipped", &["hotel", "flight"]),
    ] {
        let saga = begins(&mut a, guest);
        books(&mut a, &saga, booked);
    }
    for guest in ["compensating", "compensating-keyed", "compensated"] {
        let saga = begins(&mut a, guest);
        books(&mut a, &saga, &["hotel", "flight"]);
        a.answers(&saga, "car", 422, &json!({}));
        if guest == "compensated" {
            ["hotel", "flight"].iter().for_each(|step| a.answers(&saga, step, 204, &json!({})));
        }
    }
    let in_part = begins(&mut a, "compensated-in-part");
    books(&mut a, &in_part, &["hotel", "flight", "car"]);
    a.answers(&in_part, "seat", 422, &json!({}));
    a.answers(&in_part, "car", 204, &json!({}));
    let resolving = begins(&mut a, "resolving");
    a.call_ends(&resolving, "hotel", AttemptResult::NoAnswer);
    books(&mut a, &resolving, &["flight"]);
    let completed = begins(&mut a, "completed");
    books(&mut a, &completed, &["hotel", "flight", "seat"]);
    a.lives(2_000);
    match kind {
        Kind::Shared => {
            let values = common.values.borrow();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("everything here is text");
            values.iter().map(|(key, (value, _))| (key.clone(), json!(text(value)))).collect()
        }
        Kind::Etcd => common.etcd.borrow().written_down(),
    }
}

/// Puts back what was told; whoever has written it is dead.
pub(super) fn put_back(kind: Kind, told: &Json) -> Common {
    let common = Common::default();
    match kind {
        Kind::Shared => {
            for (key, value) in told.as_object().expect("an object") {
                let value = value.as_str().expect("text").as_bytes().to_vec();
                common.values.borrow_mut().insert(key.clone(), (value, 1));
            }
        }
        Kind::Etcd => {
            *common.etcd.borrow_mut() = Etcd::of(told);
            dies(&common, "a");
        }
    }
    common
}

/// With its lease goes the VM's key.
fn dies(common: &Common, vm: &str) {
    common.etcd.borrow_mut().delete(&format!("sagabox/vm/{vm}.0"));
}

/// A record of the saga becomes what no module writes.
fn damage(common: &Common, saga: &str) {
    let wrong = |text: String| text.replace("\"in_flight\"", "\"in_flicht\"");
    for (key, (value, _)) in common.values.borrow_mut().iter_mut().filter(|(key, _)| key.contains("/saga/")) {
        let text = String::from_utf8(value.clone()).expect("everything here is text");
        if text.contains(saga) {
            *value = wrong(text).into_bytes();
            log::debug!("{key} is damaged");
        }
    }
    let record = format!("sagabox/record/{saga}/0000000001");
    let value = common.etcd.borrow().value(&record);
    if let Some(value) = value {
        common.etcd.borrow_mut().put(&record, &wrong(value), 0);
    }
}

#[test]
fn sagas_in_every_state_are_kept() {
    for kind in Kind::BOTH {
        let told = told(kind);
        if let Ok(directory) = std::env::var("SAGABOX_WRITE_STORED") {
            let text = serde_json::to_string_pretty(&told).expect("it is JSON");
            std::fs::write(std::path::Path::new(&directory).join(kind.file()), text + "\n").expect("it can be written");
        }
        let text = told.to_string();
        for state in ["quarantined", "resolving", "skipped", "step_compensated\\\":", "taken_by"] {
            let is_of_shared = state == "taken_by";
            assert!(text.contains(state) || (is_of_shared && kind == Kind::Etcd), "{kind:?}: {state}");
        }
    }
}
