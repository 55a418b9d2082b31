//! What modules before this one have left in journals: it is read, gone on with, and ended.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::stories::{ENDED, Kind, NOW, OPEN, body, configuration, key, put_back};
use super::vm::{Common, Vm};
use crate::coordinator::Counter;

/// What a version has left.
pub(super) fn left_by_v1(kind: Kind) -> Json {
    let text = match kind {
        Kind::Shared => include_str!("v1/shared.json"),
        Kind::Etcd => include_str!("v1/etcd.json"),
    };
    serde_json::from_str(text).expect("it is JSON")
}

/// A VM that has taken over all that it can.
pub(super) fn heir(kind: Kind, common: &Common) -> Vm {
    let mut heir = Vm::new("heir", common, &configuration(kind), NOW + 60_000);
    // Suspects are resumed one after the other.
    heir.lives(20_000);
    heir
}

/// All that is kept, by key.
pub(super) fn kept(kind: Kind, common: &Common) -> Vec<(String, String)> {
    match kind {
        Kind::Shared => {
            let values = common.values.borrow();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("everything here is text");
            values.iter().map(|(key, (value, _))| (key.clone(), text(value))).collect()
        }
        Kind::Etcd => {
            let etcd = common.etcd.borrow();
            etcd.keys().into_iter().map(|key| (key.clone(), etcd.value(&key).unwrap_or_default())).collect()
        }
    }
}

#[test]
fn every_saga_goes_on_where_it_was_and_ends() {
    for kind in Kind::BOTH {
        let common = put_back(kind, &left_by_v1(kind));
        let mut heir = heir(kind, &common);
        assert_eq!(heir.count(Counter::TakenOver), OPEN.len(), "{kind:?}");
        assert_eq!(heir.count(Counter::Quarantined), 0, "{kind:?}: what was set aside is not told again");
        let under_way = heir.calls();
        let of = |method: &str| under_way.iter().filter(|(_, _, other)| other == method).count();
        // One attempt is allowed, and may have been made: only what must be known to undo it is sent again.
        assert_eq!((of("POST"), of("DELETE")), (7, 11), "{kind:?}: {under_way:?}");
        heir.finishes();
        assert_eq!(heir.count(Counter::Stuck), 0, "{kind:?}");
        let sagas = under_way.iter().map(|(saga, _, _)| saga.clone()).collect::<BTreeSet<_>>();
        for (key, value) in kept(kind, &common) {
            let is_of_one = sagas.iter().any(|saga| key.contains(saga.as_str()));
            let has_ended = value.contains("\"ended\"") || value.is_empty();
            assert!(!is_of_one || has_ended, "{kind:?}: {key} is left: {value}");
        }
    }
}

#[test]
fn what_clients_were_told_they_are_told_again_under_their_keys() {
    for kind in Kind::BOTH {
        let common = put_back(kind, &left_by_v1(kind));
        let mut heir = heir(kind, &common);
        for (guest, status) in ENDED {
            let client = heir.requests(key(guest), &body(guest));
            heir.lives(1_000);
            let told = heir.told(client).unwrap_or_else(|| panic!("{kind:?}: nobody tells {guest}"));
            let is_replayed = told.headers.iter().any(|(name, _)| name == "idempotency-replayed");
            assert_eq!((told.status, is_replayed), (status, true), "{kind:?}: {guest}: {told:?}");
        }
        let waits = heir.requests(key("begun-keyed"), &body("begun-keyed"));
        assert_eq!(heir.told(waits), None, "{kind:?}");
        heir.finishes();
        let told = heir.told(waits).map(|told| told.status);
        assert_eq!(told, Some(409), "{kind:?}");
    }
}
