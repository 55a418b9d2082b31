use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Etcd, Nanos};

const SECOND: Nanos = 1_000_000_000;

fn ask_at(etcd: &mut Etcd, path: &str, body: Value, now: Nanos) -> (u16, Value) {
    let (status, answer) = etcd.answer(path, body.to_string().as_bytes(), now);
    (status, serde_json::from_slice(&answer).unwrap())
}

fn ask(etcd: &mut Etcd, path: &str, body: Value) -> Value {
    let (status, answer) = ask_at(etcd, path, body, 0);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn key(text: &str) -> String {
    STANDARD.encode(text)
}

fn put(text: &str, lease: i64) -> Value {
    json!({"key": key(text), "value": key(text), "lease": lease.to_string()})
}

fn keys(etcd: &Etcd) -> Vec<&[u8]> {
    etcd.entries().map(|(key, _)| key).collect()
}

#[test]
fn a_lease_ends_on_time_and_takes_its_keys_at_one_revision() {
    let mut etcd = Etcd::new();
    ask(&mut etcd, "/v3/lease/grant", json!({"TTL": 5, "ID": 7}));
    for name in ["a", "b", "c"] {
        ask(&mut etcd, "/v3/kv/put", put(name, 7));
    }
    ask(&mut etcd, "/v3/kv/put", put("c", 0));
    assert_eq!(etcd.next_expiry(), Some(5 * SECOND));
    etcd.expire(5 * SECOND - 1);
    assert_eq!((keys(&etcd).len(), etcd.revision()), (3, 5));
    etcd.expire(5 * SECOND);
    assert_eq!((keys(&etcd), etcd.revision()), (vec![b"c".as_slice()], 6));
    assert_eq!((etcd.next_expiry(), etcd.leases().count()), (None, 0));
}

#[test]
fn what_was_proposed_before_the_database_was_full_is_done_and_refused() {
    let mut etcd = Etcd::new();
    etcd.fill_up(1);
    let wrong = json!({"key": "", "value": ""});
    assert_eq!(ask_at(&mut etcd, "/v3/kv/put", wrong, 0).0, 400);
    for name in ["a", "b"] {
        let (status, answer) = ask_at(&mut etcd, "/v3/kv/put", put(name, 0), 0);
        assert_eq!((status, &answer["code"]), (429, &json!(8)));
    }
    assert_eq!(keys(&etcd), vec![b"a".as_slice()]);
    etcd.set_full(false);
    ask(&mut etcd, "/v3/kv/put", put("b", 0));
    assert_eq!(keys(&etcd).len(), 2);
}

#[test]
fn two_leases_end_at_two_revisions() {
    let mut etcd = Etcd::new();
    for (lease, name) in [(7, "a"), (8, "b")] {
        ask(&mut etcd, "/v3/lease/grant", json!({"TTL": 5, "ID": lease}));
        ask(&mut etcd, "/v3/kv/put", put(name, lease));
    }
    etcd.expire(9 * SECOND);
    assert_eq!((keys(&etcd).len(), etcd.revision()), (0, 5));
}

#[test]
fn a_request_sees_that_a_lease_has_ended() {
    let mut etcd = Etcd::new();
    ask(&mut etcd, "/v3/lease/grant", json!({"TTL": 5, "ID": 7}));
    ask(&mut etcd, "/v3/kv/put", put("a", 7));
    let (_, answer) = ask_at(&mut etcd, "/v3/kv/range", json!({"key": key("a")}), 5 * SECOND);
    assert_eq!((&answer["kvs"], &answer["header"]["revision"]), (&Value::Null, &json!("3")));
    let (_, answer) = ask_at(&mut etcd, "/v3/lease/keepalive", json!({"ID": "7"}), 5 * SECOND);
    assert_eq!(answer["result"].get("TTL"), None);
}

#[test]
fn a_lease_that_is_kept_alive_has_its_whole_time_again() {
    let mut etcd = Etcd::new();
    ask(&mut etcd, "/v3/lease/grant", json!({"TTL": 5, "ID": 7}));
    let (_, answer) = ask_at(&mut etcd, "/v3/lease/keepalive", json!({"ID": "7"}), 4 * SECOND);
    assert_eq!(answer["result"]["TTL"], "5");
    assert_eq!(etcd.next_expiry(), Some(9 * SECOND));
}

#[test]
fn all_leases_have_their_whole_time_and_a_second_after_a_restart() {
    let mut etcd = Etcd::new();
    ask(&mut etcd, "/v3/lease/grant", json!({"TTL": 5, "ID": 7}));
    ask(&mut etcd, "/v3/lease/grant", json!({"TTL": 9, "ID": 8}));
    etcd.restart(20 * SECOND);
    etcd.expire(26 * SECOND - 1);
    assert_eq!(etcd.leases().map(|(id, lease)| (id, lease.granted_ttl_s)).collect::<Vec<_>>(), [(7, 5), (8, 9)]);
    etcd.expire(26 * SECOND);
    assert_eq!((etcd.leases().count(), etcd.next_expiry()), (1, Some(30 * SECOND)));
}

#[test]
fn ids_of_leases_are_positive_and_the_same_each_time() {
    let draw = || {
        let mut etcd = Etcd::new();
        let mut grant = |_| ask(&mut etcd, "/v3/lease/grant", json!({"TTL": 5}))["ID"].as_str().unwrap().to_owned();
        (0..100).map(&mut grant).map(|id| id.parse().unwrap()).collect::<Vec<i64>>()
    };
    let ids = draw();
    assert!(ids.iter().all(|id| *id > 0));
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 100);
    assert_eq!(ids, draw());
}

#[test]
fn a_nested_comparison_does_not_see_what_its_transaction_writes() {
    let mut etcd = Etcd::new();
    let absent = json!([{"key": key("a"), "target": "CREATE", "create_revision": "0"}]);
    let nested = json!({"request_txn": {"compare": absent, "success": [{"request_range": {"key": key("a")}}]}});
    let answer = ask(&mut etcd, "/v3/kv/txn", json!({"success": [{"request_put": put("a", 0)}, nested]}));
    let inner = &answer["responses"][1]["response_txn"];
    assert_eq!((&inner["succeeded"], &inner["responses"][0]["response_range"]["count"]), (&json!(true), &json!("1")));
}

#[test]
fn a_refused_transaction_changes_nothing() {
    let mut etcd = Etcd::new();
    let body = json!({"success": [{"request_put": put("a", 0)}, {"request_put": put("b", 7)}]});
    assert_eq!(ask_at(&mut etcd, "/v3/kv/txn", body, 0).0, 404);
    assert_eq!((keys(&etcd).len(), etcd.revision()), (0, 1));
}

#[test]
fn what_was_can_be_read_until_it_is_compacted() {
    let mut etcd = Etcd::new();
    ask(&mut etcd, "/v3/kv/put", put("a", 0));
    ask(&mut etcd, "/v3/kv/deleterange", json!({"key": key("a")}));
    let then = json!({"key": key("a"), "revision": "2"});
    assert_eq!(ask(&mut etcd, "/v3/kv/range", then.clone())["kvs"][0]["version"], "1");
    etcd.compact(3).unwrap();
    assert_eq!(ask_at(&mut etcd, "/v3/kv/range", then, 0).1["code"], 11);
}

#[test]
fn without_space_nothing_is_put_or_granted_but_all_else_is_done() {
    let mut etcd = Etcd::new();
    ask(&mut etcd, "/v3/kv/put", put("a", 0));
    etcd.set_full(true);
    for (path, body) in [("/v3/kv/put", put("a", 0)), ("/v3/lease/grant", json!({"TTL": 5}))] {
        assert_eq!(ask_at(&mut etcd, path, body, 0).0, 429, "{path}");
    }
    assert_eq!(ask_at(&mut etcd, "/v3/kv/txn", json!({"failure": [{"request_put": put("a", 0)}]}), 0).0, 429);
    let delete = json!({"request_delete_range": {"key": key("a")}});
    ask(&mut etcd, "/v3/kv/txn", json!({"success": [delete]}));
    assert!(keys(&etcd).is_empty());
    etcd.set_full(false);
    ask(&mut etcd, "/v3/kv/put", put("a", 0));
}

#[test]
fn revisions_may_be_greater_than_a_double_can_say() {
    let mut etcd = Etcd::at_revision(1 << 60);
    let answer = ask(&mut etcd, "/v3/kv/put", put("a", 0));
    assert_eq!(answer["header"]["revision"], "1152921504606846977");
}

#[test]
fn what_is_not_simulated_is_refused() {
    let mut etcd = Etcd::new();
    for (path, body) in [
        ("/v3/kv/put", json!({"key": "YQ==", "prev_kv": true})),
        ("/v3/kv/range", json!({"key": "YQ==", "sort_order": "DESCEND"})),
        ("/v3/kv/txn", json!({"compare": [{"key": "YQ==", "range_end": "AA=="}]})),
    ] {
        assert_eq!(ask_at(&mut etcd, path, body, 0).0, 501, "{path}");
    }
}
