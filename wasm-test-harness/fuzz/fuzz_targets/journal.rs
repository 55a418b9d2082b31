//! What a VM finds in shared data of one that has gone: any row, any saga, any start key.
//!
//! Whatever is in them, a saga beside them is taken over, and whoever takes over stays alive.

#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use sagabox::definition::Retained;
use sagabox::journal::{Conflict, Journal, SharedData, SharedJournal, StartKey, Version};
use sagabox::saga::{Bounds, Event, Saga};
use sagabox_fuzz::{Forms, mutate, remember};
use serde_json::{Value, json};

/// A map that counts versions.
#[derive(Default)]
struct Shared(RefCell<BTreeMap<String, (Vec<u8>, Version)>>);

impl SharedData for Shared {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        self.0.borrow().get(key).cloned()
    }

    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        let version = self.shared(key).map(|(_, version)| version);
        if version != read {
            return Err(Conflict);
        }
        self.0.borrow_mut().insert(key.to_owned(), (value.to_vec(), version.unwrap_or(0).wrapping_add(1)));
        Ok(())
    }
}

/// The sagas of the VM that has gone began with this.
const CONFIGURATION: &str = r#"{"version": 1, "sagas": [{"name": "trip", "match": {"path": "/trips"}, "steps": [
    {"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"},
     "compensation": {"method": "DELETE", "path": "/${transaction.response.body.id}"}},
    {"name": "flight", "after": ["hotel"], "transaction": {"cluster": "flight", "method": "POST", "path": "/"}}]}]}"#;

/// A saga that is as it should be.
const GOOD: &str = concat!(
    r#"{"version":1,"saga":"good","owner":"gone","epoch":1,"sequence":1,"state":"running"}"#,
    "\n",
    r#"{"version":1,"sequence":1,"changes":[{"begun":{"id":"good","definition":"trip","request":{},"forwarded":[],"#,
    r#""begun_at":1,"deadline":10001}},{"in_flight":{"step":0,"request":{"cluster":"hotel","authority":"hotel","#,
    r#""method":"POST","path":"/","headers":[],"body":null,"timeout_ms":5000}}}]}"#,
    "\n",
);

/// More ticks than a VM may miss before it is dead.
const TICKS: u32 = 12;

fuzz_target!(|data: &[u8]| {
    remember(data);
    let Ok(input) = serde_json::from_slice::<Value>(data) else { return };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let records: Vec<String> = input["records"].as_array().into_iter().flatten().map(text).collect();
    let saga = format!("{}\n{}\n", text(&input["head"]), records.join("\n"));
    let mut shared = Shared::default();
    let gone = json!({"version": 1, "vm": "gone", "state": "serving", "beat": 7,
                      "retained": {"sagas": 0, "bytes": 0}});
    let start = StartKey { key: "0".repeat(64), request: "r".to_owned() };
    for (key, value) in [
        ("sagabox/vm/0", text(&input["row"])),
        ("sagabox/vm/1", gone.to_string()),
        ("sagabox/vm/1/configuration", CONFIGURATION.to_owned()),
        ("sagabox/vm/1/saga/0", saga),
        ("sagabox/vm/1/saga/1", GOOD.to_owned()),
        ("sagabox/key/0", text(&input["line"])),
    ] {
        shared.0.borrow_mut().insert(key.to_owned(), (value.into_bytes(), 1));
    }
    let mut heir = SharedJournal::new("heir".to_owned(), CONFIGURATION.into(), Retained::default());
    let _ = heir.find(&shared, &start);
    let mut taken_over = Vec::new();
    for _ in 0..TICKS {
        let now = heir.next_due();
        for orphan in heir.tick(&mut shared, now).orphans {
            taken_over.extend(orphan.progress.begun.as_ref().map(|begun| begun.id.clone()));
            if let Ok((mut saga, _)) = Saga::resume(orphan.resume(Bounds::NONE), now) {
                // Whatever it is, it goes on, and is due at some time or over.
                let _ = saga.handle(Event::Due, now.saturating_add(60_000));
            }
        }
    }
    assert!(taken_over.iter().any(|saga| saga == "good"), "a saga was not taken over for what is beside it");
    let _ = heir.find(&shared, &start);
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed, Forms::Json)
});
