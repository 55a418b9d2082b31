//! The simulated etcd answers what a real one answers.
//!
//! They need an etcd 3.4, in the path or where `$ETCD` says.

use std::cell::RefCell;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::{Value, json};

#[path = "simulated_etcd/odd.rs"]
mod odd;
#[path = "simulated_etcd/pair.rs"]
mod pair;
#[path = "simulated_etcd/real.rs"]
mod real;
#[path = "simulated_etcd/requests.rs"]
mod requests;

use odd::ODD;
use pair::Pair;
use real::RealEtcd;

const SEQUENCES: u32 = 200;
const SEQUENCES_WITHOUT_SPACE: u32 = 40;
const REQUESTS: std::ops::Range<usize> = 15..35;

/// The requests of a sequence one after another. The sequences are the same each time, unless `$SEED` asks for others.
fn compare_sequences(real: RealEtcd, sequences: u32, full: bool) {
    let real = RefCell::new(real);
    let seed = std::env::var("SEED").map_or(0, |seed| seed.parse::<u64>().expect("a seed is a number"));
    let seed = seed.to_le_bytes().repeat(4);
    let config = Config { cases: sequences, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let sequence = proptest::collection::vec(requests::request(), REQUESTS);
    let outcome = runner.run(&sequence, |sequence| {
        let mut real = real.borrow_mut();
        let mut pair = Pair::new(&mut real, full);
        sequence.iter().try_for_each(|request| pair.ask(request)).map_err(TestCaseError::fail)
    });
    if let Err(difference) = outcome {
        panic!("{difference}");
    }
}

fn ask(pair: &mut Pair, path: &str, body: &Value) {
    pair.ask_bytes(path, body.to_string().as_bytes()).unwrap_or_else(|difference| panic!("{difference}"));
}

fn put(key: &str, value: &[u8]) -> Value {
    json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)})
}

fn puts(keys: usize) -> Value {
    (0..keys).map(|number| json!({"request_put": put(&number.to_string(), b"")})).collect()
}

#[test]
fn any_sequence_of_requests_is_answered_as_by_the_real_one() {
    compare_sequences(RealEtcd::start(&[]), SEQUENCES, false);
}

#[test]
fn any_sequence_of_requests_is_answered_as_by_the_real_one_without_space() {
    let mut real = RealEtcd::start(&["--quota-backend-bytes", "16777216"]);
    let large = put("large", &vec![0; 1_500_000]);
    let refused = (0..30).any(|_| real.answer("/v3/kv/put", large.to_string().as_bytes()).0 == 429);
    assert!(refused, "the real one has no quota");
    // The quota is not exceeded yet, but for what was refused. Nested puts are taken all the same.
    let nested = json!({"success": [{"request_txn": {"success": [{"request_put": large}]}}]}).to_string();
    for _ in 0..6 {
        assert_eq!(real.answer("/v3/kv/txn", nested.as_bytes()).0, 200);
    }
    compare_sequences(real, SEQUENCES_WITHOUT_SPACE, true);
}

#[test]
fn odd_bodies_are_answered_as_by_the_real_one() {
    let mut real = RealEtcd::start(&[]);
    let mut pair = Pair::new(&mut real, false);
    let differences: Vec<String> =
        ODD.iter().filter_map(|(path, body)| pair.ask_bytes(path, body.as_bytes()).err()).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn as_many_operations_are_taken_as_by_the_real_one() {
    let mut real = RealEtcd::start(&[]);
    let mut pair = Pair::new(&mut real, false);
    let nested = |txn: Value| json!({"success": [{"request_txn": txn}]});
    for operations in [127, 128, 129] {
        ask(&mut pair, "/v3/kv/txn", &json!({"success": puts(operations)}));
        ask(&mut pair, "/v3/kv/txn", &json!({"failure": puts(operations)}));
        ask(&mut pair, "/v3/kv/txn", &nested(json!({"success": puts(operations)})));
        let compare: Value = (0..operations).map(|_| json!({"key": "YQ==", "target": "MOD"})).collect();
        ask(&mut pair, "/v3/kv/txn", &json!({"compare": compare, "success": [{"request_txn": {}}]}));
        ask(&mut pair, "/v3/kv/txn", &json!({"compare": compare, "success": puts(1)}));
        let deep = (1..operations).fold(json!({"success": puts(1)}), |inner, _| nested(inner));
        ask(&mut pair, "/v3/kv/txn", &deep);
    }
}

#[test]
fn requests_may_be_as_large_as_those_of_the_real_one() {
    let mut real = RealEtcd::start(&[]);
    let mut pair = Pair::new(&mut real, false);
    let body = |bytes: usize| put("large", &vec![0; bytes]);
    let taken = |pair: &mut Pair, bytes: usize| pair.statuses("/v3/kv/put", body(bytes).to_string().as_bytes());
    let agreed = 1536 * 1024;
    let largest = (agreed - 64..agreed).rev().find(|bytes| taken(&mut pair, *bytes).1 == 200).expect("one is taken");
    // The size of an id that the real one adds may differ by a byte.
    assert_eq!(taken(&mut pair, largest - 1), (200, 200));
    assert_eq!(taken(&mut pair, largest + 2), (400, 400));
    let mut pair = Pair::new(&mut real, false);
    let message = agreed + 512 * 1024;
    for bytes in [largest + 2, message - 13, message - 12, message - 11, message - 10, message] {
        ask(&mut pair, "/v3/kv/put", &body(bytes));
        ask(&mut pair, "/v3/kv/txn", &json!({"success": [{"request_put": body(bytes - 30)}]}));
        let compare = json!({"key": "YQ==", "target": "VALUE", "value": STANDARD.encode(vec![0; bytes - 13])});
        ask(&mut pair, "/v3/kv/txn", &json!({"compare": [compare]}));
        ask(&mut pair, "/v3/kv/range", &json!({"key": "YQ==", "range_end": STANDARD.encode(vec![1; bytes])}));
    }
}

#[test]
fn a_lease_ends_with_its_keys_as_that_of_the_real_one() {
    let mut real = RealEtcd::start(&[]);
    let mut pair = Pair::new(&mut real, false);
    ask(&mut pair, "/v3/lease/grant", &json!({"TTL": 1, "ID": 7}));
    for key in ["a", "b", "c", "d"] {
        let mut put = put(key, b"");
        put["lease"] = json!(7);
        ask(&mut pair, "/v3/kv/put", &put);
    }
    ask(&mut pair, "/v3/kv/put", &put("b", b""));
    ask(&mut pair, "/v3/kv/deleterange", &json!({"key": STANDARD.encode("c")}));
    let lease = json!({"ID": 7}).to_string();
    while pair.ask_real("/v3/lease/timetolive", lease.as_bytes())["TTL"] != "-1" {
        std::thread::sleep(Duration::from_millis(100));
    }
    pair.pass(2_000_000_000);
    ask(&mut pair, "/v3/kv/range", &json!({"key": "AA==", "range_end": "AA=="}));
    ask(&mut pair, "/v3/lease/keepalive", &json!({"ID": 7}));
    ask(&mut pair, "/v3/lease/leases", &json!({}));
}
