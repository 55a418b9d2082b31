//! What a VM hears from etcd: any status with any body, to any of its calls, in any order.
//!
//! Whatever it hears, it stays alive, asks only so much at a time, and what it takes over can go on.

#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use sagabox::definition::EtcdSettings;
use sagabox::facts::ParticipantResponse;
use sagabox::journal::{Conflict, Entry, EtcdJournal, Journal, News, SharedData, StartKey, Version};
use sagabox::saga::record::{Begun, Change, Record};
use sagabox::saga::{AttemptResult, Bounds, Event, Saga};
use sagabox_fuzz::{Forms, mutate, remember};
use serde_json::{Value, json};

#[derive(Default)]
struct Shared(BTreeMap<String, (Vec<u8>, Version)>);

impl SharedData for Shared {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        self.0.get(key).cloned()
    }

    fn set_shared(&mut self, key: &str, value: &[u8], _read: Option<Version>) -> Result<(), Conflict> {
        self.0.insert(key.to_owned(), (value.to_vec(), 1));
        Ok(())
    }
}

const DEFINITIONS: &str = r#"{"version": 1, "sagas": [{"name": "trip", "match": {"path": "/trips"}, "steps": [
    {"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"},
     "compensation": {"method": "DELETE", "path": "/${transaction.response.body.id}"}}]}]}"#;

/// Calls that a VM may make before it waits for an answer.
const MAX_CALLS: usize = 20;
/// Rounds of ticks and answers.
const ROUNDS: usize = 40;

/// A body: as it stands where it is text; else JSON, in which what stands under `key` and `value` is encoded.
fn body(value: &Value) -> Vec<u8> {
    fn encoded(value: &Value, bytes: bool) -> Value {
        match value {
            Value::Object(members) if bytes => STANDARD.encode(json!(members).to_string()).into(),
            Value::String(text) if bytes => STANDARD.encode(text).into(),
            Value::Object(members) => {
                members.iter().map(|(name, value)| (name.clone(), encoded(value, is_bytes(name)))).collect()
            }
            Value::Array(items) => items.iter().map(|item| encoded(item, false)).collect(),
            other => other.clone(),
        }
    }
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => encoded(other, false).to_string().into_bytes(),
    }
}

fn is_bytes(name: &str) -> bool {
    ["key", "value"].contains(&name)
}

fn record() -> Record {
    let begun = Begun {
        id: "ours".to_owned(),
        definition: "trip".to_owned(),
        request: json!({}),
        forwarded: Vec::new(),
        begun_at: 1,
        deadline: 10_001,
        depth: 1,
        who: None,
    };
    Record::new(1, vec![Change::Begun(begun)])
}

fn resume(news: News, now: u64) {
    for orphan in news.orphans {
        if let Ok((mut saga, _)) = Saga::resume(orphan.resume(Bounds::NONE), now) {
            // Whatever it is, it goes on, and is due at some time or over.
            let _ = saga.handle(Event::Due, now.saturating_add(60_000));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    remember(data);
    let Ok(input) = serde_json::from_slice::<Value>(data) else { return };
    let settings = EtcdSettings {
        cluster: "etcd".to_owned(),
        prefix: "sagabox".to_owned(),
        lease: Duration::from_secs(3),
        timeout: Duration::from_secs(1),
        takes_over: true,
        credentials: None,
    };
    let (mut shared, mut now) = (Shared::default(), 1_000);
    let mut journal = EtcdJournal::new("vm".to_owned(), DEFINITIONS.into(), settings, Duration::from_secs(60), 1_000);
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    let record = record();
    let entry = Entry { saga: "ours", epoch: 1, record: &record, start: Some(&start), now };
    let _ = journal.write(&mut shared, entry);
    let mut answers = input["answers"].as_array().cloned().unwrap_or_default().into_iter();
    for _ in 0..ROUNDS {
        resume(journal.tick(&mut shared, now), now);
        let _ = journal.look(&shared, &start, now, now);
        let mut calls = Vec::new();
        while let Some(call) = journal.next_call(now) {
            calls.push(call.number);
            assert!(calls.len() <= MAX_CALLS, "it asks without waiting for an answer");
        }
        for number in calls {
            let result = match answers.next() {
                None | Some(Value::Null) => AttemptResult::NoAnswer,
                Some(answer) => {
                    let code = answer["status"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(200);
                    let body = Some(body(&answer["body"]));
                    AttemptResult::Answered(ParticipantResponse { code, headers: Vec::new(), body })
                }
            };
            resume(journal.call_ended(number, &result, now), now);
        }
        let _ = journal.owns(&mut shared, "ours", now);
        now = now.saturating_add(1).max(journal.next_due().min(now.saturating_add(5_000)));
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate(data, size, max_size, seed, Forms::Json)
});
