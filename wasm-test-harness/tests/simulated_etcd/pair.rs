//! The real one and the simulated one, asked the same.

use std::collections::BTreeMap;

use harness::simulator::etcd::Etcd;
use harness::simulator::host::Nanos;
use serde_json::{Value, json};

use crate::real::RealEtcd;
use crate::requests::{Request, resolved};

/// Virtual time from one request to the next, so that a lease that was just granted has less than its whole time left.
const STEP: Nanos = 1_000_000;
/// Real time passes as it likes.
const TOLERANCE_S: i64 = 30;

/// Both, at the same revision.
pub struct Pair<'a> {
    real: &'a mut RealEtcd,
    simulated: Etcd,
    now: Nanos,
    begin: i64,
    real_leases: Granted,
    simulated_leases: Granted,
}

/// The ids of leases, which differ, in the order in which they were granted, and those that a sequence refers to.
#[derive(Default)]
struct Granted {
    order: Vec<String>,
    by_number: BTreeMap<usize, String>,
}

impl Granted {
    fn note(&mut self, answer: &Value) {
        if let Some(id) = answer["ID"].as_str().filter(|id| !self.order.iter().any(|known| known == id)) {
            self.by_number.insert(self.order.len() % 3, id.to_owned());
            self.order.push(id.to_owned());
        }
    }

    fn id(&self, number: usize) -> String {
        self.by_number.get(&number).cloned().unwrap_or_else(|| (number + 4711).to_string())
    }
}

impl<'a> Pair<'a> {
    /// An empty pair, with the revision that the real one has reached.
    pub fn new(real: &'a mut RealEtcd, full: bool) -> Pair<'a> {
        let mut ask = |path: &str, body: Value| {
            let (_, answer) = real.answer(path, body.to_string().as_bytes());
            serde_json::from_slice::<Value>(&answer).expect("etcd answers in JSON")
        };
        let leases = ask("/v3/lease/leases", json!({}));
        for lease in leases["leases"].as_array().into_iter().flatten() {
            ask("/v3/lease/revoke", lease.clone());
        }
        // Its revision is then one that nothing was compacted to. A put is nested, for which etcd always has space.
        let put = json!({"request_put": {"key": "YQ=="}});
        ask("/v3/kv/txn", json!({"success": [{"request_txn": {"success": [put]}}]}));
        let last = ask("/v3/kv/deleterange", json!({"key": "AA==", "range_end": "AA=="}));
        let begin = last["header"]["revision"].as_str().and_then(|text| text.parse().ok()).expect("it has a revision");
        let mut simulated = Etcd::at_revision(begin);
        simulated.set_full(full);
        Pair { real, simulated, now: 0, begin, real_leases: Granted::default(), simulated_leases: Granted::default() }
    }

    /// Asks both, and says how they differ.
    pub fn ask(&mut self, request: &Request) -> Result<(), String> {
        let body_for = |leases: &Granted| {
            let refer = |name: &str| match name.split_at_checked(3)? {
                ("rev", number) => Some((self.begin + number.parse::<i64>().ok()?).to_string()),
                _ => Some(leases.id(name.strip_prefix("lease")?.parse().ok()?)),
            };
            resolved(&request.body, &refer).to_string().into_bytes()
        };
        let (for_real, for_simulated) = (body_for(&self.real_leases), body_for(&self.simulated_leases));
        let (real_status, real_body) = self.real.answer(request.path, &for_real);
        let (simulated_status, simulated_body) = self.ask_simulated(request.path, &for_simulated);
        let (real_answer, simulated_answer) = (read(&real_body), read(&simulated_body));
        if request.path.ends_with("/grant") {
            self.real_leases.note(&real_answer);
            self.simulated_leases.note(&simulated_answer);
        }
        let real = (real_status, comparable(real_answer, &self.real_leases));
        let simulated = (simulated_status, comparable(simulated_answer, &self.simulated_leases));
        assert_eq!(real_body.last(), simulated_body.last(), "they end with a line or without one: {}", request.path);
        same(&real, &simulated, || format!("{} {}", request.path, String::from_utf8_lossy(&for_real)))
    }

    /// Asks both the same bytes, and says how they differ.
    pub fn ask_bytes(&mut self, path: &str, body: &[u8]) -> Result<(), String> {
        let (real_status, real_body) = self.real.answer(path, body);
        let (simulated_status, simulated_body) = self.ask_simulated(path, body);
        let real = (real_status, comparable(read(&real_body), &self.real_leases));
        let simulated = (simulated_status, comparable(read(&simulated_body), &self.simulated_leases));
        let shown = String::from_utf8_lossy(body).chars().take(200).collect::<String>();
        same(&real, &simulated, || format!("{path} {shown}"))
    }

    /// The status with which each of both answers: the real one first.
    pub fn statuses(&mut self, path: &str, body: &[u8]) -> (u16, u16) {
        (self.real.answer(path, body).0, self.ask_simulated(path, body).0)
    }

    /// What the real one answers to a request that changes nothing.
    pub fn ask_real(&mut self, path: &str, body: &[u8]) -> Value {
        read(&self.real.answer(path, body).1)
    }

    /// Lets virtual time pass.
    pub fn pass(&mut self, time: Nanos) {
        self.now += time;
    }

    fn ask_simulated(&mut self, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        self.now += STEP;
        self.simulated.answer(path, body, self.now)
    }
}

fn same(real: &(u16, Value), simulated: &(u16, Value), request: impl Fn() -> String) -> Result<(), String> {
    if real == simulated {
        return Ok(());
    }
    let text = |(status, body): &(u16, Value)| format!("{status} {body}");
    Err(format!("{}\n  real      {}\n  simulated {}", request(), text(real), text(simulated)))
}

/// JSON; or a text, if it is none or too deep to be read, from the end of its first header on.
fn read(body: &[u8]) -> Value {
    let text = String::from_utf8_lossy(body);
    serde_json::from_slice(body)
        .unwrap_or_else(|_| json!({"text": text.split_once('}').map_or(&*text, |(_, rest)| rest)}))
}

/// An answer without what differs between any two of etcd.
fn comparable(answer: Value, leases: &Granted) -> Value {
    let named = |id: Value| match leases.order.iter().position(|known| id == json!(known)) {
        Some(at) => json!(format!("lease {at}")),
        None => id,
    };
    match answer {
        Value::Array(list) => list.into_iter().map(|one| comparable(one, leases)).collect(),
        Value::Object(fields) => {
            let granted = fields.get("grantedTTL").and_then(number);
            let fields = fields.into_iter().filter_map(|(name, value)| {
                let value = match name.as_str() {
                    "cluster_id" | "member_id" | "raft_term" => return None,
                    "ID" | "lease" => named(value),
                    "TTL" if granted.zip(number(&value)).is_some_and(|(all, left)| nearly(all, left)) => json!("most"),
                    "leases" | "keys" => sorted(comparable(value, leases)),
                    _ => comparable(value, leases),
                };
                Some((name, value))
            });
            Value::Object(fields.collect())
        }
        other => other,
    }
}

fn number(text: &Value) -> Option<i64> {
    text.as_str()?.parse().ok()
}

fn nearly(granted_s: i64, left_s: i64) -> bool {
    left_s < granted_s && granted_s - left_s < TOLERANCE_S
}

/// Leases that were granted in the same second, and keys of a lease, have no order.
fn sorted(list: Value) -> Value {
    match list {
        Value::Array(mut list) => {
            list.sort_by_key(Value::to_string);
            Value::Array(list)
        }
        other => other,
    }
}
