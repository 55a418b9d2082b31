//! As much of etcd as the journal uses, in a few lines: what it keeps can be written down and put back.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

/// A value, and when it was written.
#[derive(Clone, Debug, Default)]
struct Entry {
    value: Vec<u8>,
    created: i64,
    modified: i64,
    lease: i64,
}

/// See the module's text.
#[derive(Clone, Debug, Default)]
pub(super) struct Etcd {
    revision: i64,
    leases: i64,
    entries: BTreeMap<Vec<u8>, Entry>,
}

impl Etcd {
    /// Puts back what [`Etcd::written_down`] gave.
    pub(super) fn of(entries: &Json) -> Etcd {
        let mut etcd = Etcd { revision: 100, leases: 1_000, ..Etcd::default() };
        for (key, entry) in entries.as_object().expect("an object") {
            etcd.put(key, entry["value"].as_str().expect("text"), entry["lease"].as_i64().expect("a number"));
        }
        etcd
    }

    /// All that it keeps.
    pub(super) fn written_down(&self) -> Json {
        let entry =
            |(key, entry): (&Vec<u8>, &Entry)| (text(key), json!({"value": text(&entry.value), "lease": entry.lease}));
        self.entries.iter().map(entry).collect()
    }

    pub(super) fn put(&mut self, key: &str, value: &str, lease: i64) {
        self.revision += 1;
        self.write(key.as_bytes().to_vec(), value.as_bytes().to_vec(), lease);
    }

    /// What somebody has done whose lease is gone.
    pub(super) fn delete(&mut self, key: &str) {
        self.entries.remove(key.as_bytes());
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.entries.keys().map(|key| text(key)).collect()
    }

    pub(super) fn value(&self, key: &str) -> Option<String> {
        self.entries.get(key.as_bytes()).map(|entry| text(&entry.value))
    }

    /// Answers a call of the gateway.
    pub(super) fn answer(&mut self, path: &str, body: &str) -> Json {
        let body: Json = serde_json::from_str(body).expect("what is asked is JSON");
        match path {
            "/v3/lease/grant" => {
                self.leases += 1;
                json!({"ID": self.leases.to_string(), "TTL": body["TTL"]})
            }
            "/v3/lease/keepalive" => json!({"result": {"ID": body["ID"], "TTL": "10"}}),
            "/v3/kv/txn" => {
                self.revision += 1;
                let mut answer = self.transaction(&body);
                answer["header"] = json!({"revision": self.revision.to_string()});
                answer
            }
            other => panic!("{other}"),
        }
    }

    fn transaction(&mut self, txn: &Json) -> Json {
        let holds = list(&txn["compare"]).all(|compare| {
            let entry = self.entries.get(&bytes(&compare["key"]));
            match compare["target"].as_str() {
                Some("CREATE") => entry.map_or(0, |entry| entry.created) == number(&compare["create_revision"]),
                Some("MOD") => entry.map_or(0, |entry| entry.modified) == number(&compare["mod_revision"]),
                other => panic!("{other:?}"),
            }
        });
        let requests: Vec<&Json> = list(if holds { &txn["success"] } else { &txn["failure"] }).collect();
        let responses: Vec<Json> = requests.into_iter().map(|request| self.request(request)).collect();
        json!({"succeeded": holds, "responses": responses})
    }

    fn request(&mut self, request: &Json) -> Json {
        let (kind, what) = request.as_object().and_then(|one| one.iter().next()).expect("one request");
        match kind.as_str() {
            "request_txn" => json!({"response_txn": self.transaction(what)}),
            "request_put" => {
                self.write(bytes(&what["key"]), bytes(&what["value"]), number(&what["lease"]));
                json!({"response_put": {}})
            }
            "request_delete_range" => {
                for key in self.range(what) {
                    self.entries.remove(&key);
                }
                json!({"response_delete_range": {}})
            }
            "request_range" => {
                let limit = usize::try_from(number(&what["limit"])).expect("no negative number");
                let found = self.range(what).into_iter().take(if limit == 0 { usize::MAX } else { limit });
                let found: Vec<Json> = found.map(|key| self.found(&key, what["keys_only"] == true)).collect();
                json!({"response_range": {"kvs": found}})
            }
            other => panic!("{other}"),
        }
    }

    fn found(&self, key: &[u8], keys_only: bool) -> Json {
        let entry = &self.entries[key];
        let value = if keys_only { String::new() } else { STANDARD.encode(&entry.value) };
        json!({"key": STANDARD.encode(key), "value": value, "lease": entry.lease.to_string(),
               "create_revision": entry.created.to_string(), "mod_revision": entry.modified.to_string()})
    }

    fn range(&self, range: &Json) -> Vec<Vec<u8>> {
        let (from, to) = (bytes(&range["key"]), bytes(&range["range_end"]));
        let is_in = |key: &Vec<u8>| if to.is_empty() { *key == from } else { *key >= from && *key < to };
        self.entries.keys().filter(|key| is_in(key)).cloned().collect()
    }

    fn write(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64) {
        let created = self.entries.get(&key).map_or(self.revision, |entry| entry.created);
        self.entries.insert(key, Entry { value, created, modified: self.revision, lease });
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("everything here is text")
}

fn list(json: &Json) -> impl Iterator<Item = &Json> {
    json.as_array().into_iter().flatten()
}

fn bytes(json: &Json) -> Vec<u8> {
    STANDARD.decode(json.as_str().unwrap_or_default()).expect("base64")
}

fn number(json: &Json) -> i64 {
    json.as_str().map_or(0, |text| text.parse().expect("a number"))
}
