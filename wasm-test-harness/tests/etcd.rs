//! The runner of etcds, what it tells of them, and the script that finds one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use harness::etcd::{Entry, Etcd, RunningEtcd};
use harness::loopback::{self, Client};
use serde_json::{Value, json};

#[path = "etcd/find_etcd.rs"]
mod find_etcd;
#[path = "support/stand_ins.rs"]
mod stand_ins;

/// A lease of so many seconds, and a key that ends with it.
async fn key_with_lease(etcd: &RunningEtcd, seconds: u32) -> i64 {
    let granted = etcd.ask("/v3/lease/grant", &json!({"TTL": seconds})).await.unwrap();
    // "leased" and "value".
    let put = json!({"key": "bGVhc2Vk", "value": "dmFsdWU=", "lease": granted["ID"]});
    etcd.ask("/v3/kv/put", &put).await.unwrap();
    granted["ID"].as_str().unwrap().parse().unwrap()
}

async fn keys(etcd: &RunningEtcd, prefix: &str) -> Vec<String> {
    etcd.entries(prefix).await.unwrap().into_iter().map(|entry| entry.key).collect()
}

/// Asks as anybody can, without a password.
async fn count_without_login(etcd: &RunningEtcd, timeout: Duration) -> anyhow::Result<loopback::Answer> {
    let url = format!("http://{}/v3/kv/range", etcd.address());
    Client::http1().timeout(timeout).post_json(&url, &json!({"key": "YQ=="}), &[]).await
}

#[tokio::test]
async fn two_etcds_run_side_by_side_and_know_nothing_of_each_other() {
    let (one, other) = tokio::join!(Etcd::new().start(), Etcd::new().start());
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_ne!(one.address(), other.address());
    assert_ne!(one.pid(), other.pid());
    one.put("a", "1").await.unwrap();
    assert_eq!(keys(&one, "").await, ["a"]);
    assert!(keys(&other, "").await.is_empty());
    assert!(one.log().contains(&one.address().to_string()), "{}", one.log());
}

#[tokio::test]
async fn what_was_put_comes_back_with_its_revisions() {
    let etcd = Etcd::new().start().await.unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    etcd.put("sagas/ä", "old").await.unwrap();
    etcd.put("sagas/ä", &bytes).await.unwrap();
    etcd.put("sagas/b", "").await.unwrap();
    // Neighbours of the prefix, on either side.
    etcd.put("sagas.", "no").await.unwrap();
    etcd.put("sagas0", "no").await.unwrap();
    let entry = |key: &str, value: &[u8], create_revision, mod_revision, version| Entry {
        key: key.to_owned(),
        value: value.to_vec(),
        create_revision,
        mod_revision,
        version,
        lease: 0,
    };
    let expected = [entry("sagas/b", b"", 4, 4, 1), entry("sagas/ä", &bytes, 2, 3, 2)];
    assert_eq!(etcd.entries("sagas/").await.unwrap(), expected);
    assert_eq!(etcd.delete("sagas/").await.unwrap(), 2);
    assert_eq!(keys(&etcd, "").await, ["sagas.", "sagas0"]);
    assert_eq!(etcd.delete("").await.unwrap(), 2);
    assert_eq!(etcd.delete("").await.unwrap(), 0);
}

#[tokio::test]
async fn entries_of_several_pages_come_back_whole_and_in_order() {
    let etcd = Etcd::new().start().await.unwrap();
    // A page has 1000. One transaction may have 128 operations.
    let all: BTreeSet<String> = (0..2001).map(|number| format!("k/{number}")).collect();
    let encoded = |key: &String| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(key)
    };
    for some in all.iter().collect::<Vec<_>>().chunks(128) {
        let puts: Vec<Value> = some.iter().map(|key| json!({"request_put": {"key": encoded(key)}})).collect();
        etcd.ask("/v3/kv/txn", &json!({"success": puts})).await.unwrap();
    }
    assert_eq!(keys(&etcd, "k/").await, all.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn what_was_put_is_kept_over_a_kill_and_a_restart() {
    let etcd = Etcd::new().start().await.unwrap();
    let (address, pid) = (etcd.address(), etcd.pid());
    etcd.put("a", "1").await.unwrap();
    let before = etcd.entries("").await.unwrap();

    etcd.kill9();
    assert!(!etcd.is_running());
    assert!(loopback::connect(address).await.is_err());
    assert!(etcd.put("a", "2").await.is_err());

    etcd.restart().await.unwrap();
    assert_eq!(etcd.address(), address);
    assert_ne!(etcd.pid(), pid);
    assert_eq!(etcd.entries("").await.unwrap(), before);
    etcd.put("a", "3").await.unwrap();

    // While it runs, and while it is frozen.
    etcd.restart().await.unwrap();
    etcd.freeze().unwrap();
    etcd.restart().await.unwrap();
    let entries = etcd.entries("").await.unwrap();
    assert_eq!((entries[0].value.as_slice(), entries[0].version), (b"3".as_slice(), 2));
}

#[tokio::test]
async fn an_etcd_ends_with_its_handle() {
    let etcd = Etcd::new().start().await.unwrap();
    let address = etcd.address();
    drop(etcd);
    assert!(loopback::connect(address).await.is_err());
}

#[tokio::test]
async fn a_lease_goes_on_living_over_a_restart_and_ends_after_it() {
    let etcd = Etcd::new().start().await.unwrap();
    let long = etcd.ask("/v3/lease/grant", &json!({"TTL": 600})).await.unwrap();
    let long: i64 = long["ID"].as_str().unwrap().parse().unwrap();
    // Longer than a start may take on a busy machine would be too long to wait for: only its end is looked at.
    let short = key_with_lease(&etcd, 2).await;
    assert_eq!(etcd.leases().await.unwrap(), BTreeSet::from([long, short]).into_iter().collect::<Vec<_>>());
    assert_eq!(etcd.entries("leased").await.unwrap()[0].lease, short);

    etcd.kill9();
    etcd.restart().await.unwrap();
    let kept = etcd.ask("/v3/lease/keepalive", &json!({"ID": long})).await.unwrap();
    assert_eq!(kept["result"]["TTL"], "600", "{kept}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !etcd.entries("leased").await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the short lease has not ended: {:?}", etcd.leases().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(etcd.leases().await.unwrap(), [long]);
}

#[tokio::test]
async fn a_frozen_etcd_answers_nothing_until_it_is_thawed() {
    let etcd = Etcd::new().start().await.unwrap();
    let patience = Duration::from_millis(300);
    etcd.freeze().unwrap();
    assert!(count_without_login(&etcd, patience).await.is_err());
    assert!(etcd.is_running());
    etcd.thaw();
    assert_eq!(count_without_login(&etcd, Duration::from_secs(10)).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_etcd_with_authentication_refuses_who_has_no_token() {
    let etcd = Etcd::new().auth("sagabox", "secret").start().await.unwrap();
    let refused = |answer: loopback::Answer, reason: &str| {
        assert_ne!(answer.status, 200);
        assert!(answer.text().contains(reason), "{}", answer.text());
    };
    refused(count_without_login(&etcd, Duration::from_secs(10)).await.unwrap(), "user name is empty");
    let authenticate = format!("http://{}/v3/auth/authenticate", etcd.address());
    let wrong = json!({"name": "sagabox", "password": "guess"});
    refused(Client::http1().post_json(&authenticate, &wrong, &[]).await.unwrap(), "invalid user ID or password");

    // With the password all of it works, but for what only root may.
    etcd.put("a", "1").await.unwrap();
    key_with_lease(&etcd, 600).await;
    etcd.restart().await.unwrap();
    assert_eq!(keys(&etcd, "").await, ["a", "leased"]);
    assert_eq!(etcd.leases().await.unwrap().len(), 1);
    assert_eq!(etcd.delete("").await.unwrap(), 2);
    let error = etcd.ask("/v3/auth/user/add", &json!({"name": "b", "password": "b"})).await.unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
    refused(count_without_login(&etcd, Duration::from_secs(10)).await.unwrap(), "user name is empty");

    let root = Etcd::new().auth("root", "secret").start().await.unwrap();
    root.ask("/v3/auth/user/add", &json!({"name": "b", "password": "b"})).await.unwrap();
}

#[tokio::test]
async fn an_etcd_whose_quota_is_exceeded_answers_writes_with_an_error() {
    let etcd = Etcd::new().quota_bytes(256 * 1024).start().await.unwrap();
    let piece = vec![b'x'; 64 * 1024];
    let mut written = 0;
    let error = loop {
        match etcd.put(&format!("k/{written}"), &piece).await {
            Ok(()) => written += 1,
            Err(error) => break error.to_string(),
        }
        assert!(written < 100, "nothing is refused");
    };
    assert!(error.contains("429") && error.contains("database space exceeded"), "{error}");
    assert!(written > 0, "not even the first fits");
    // What is there can be read and deleted; and so it stays, deletions and restarts or not. What was refused may have been
    // done all the same: etcd looks before it proposes a write, and once more after it has done it.
    let there = keys(&etcd, "k/").await.len();
    assert!((written..=written + 1).contains(&there), "{there} of {written}");
    etcd.restart().await.unwrap();
    assert_eq!(usize::try_from(etcd.delete("k/").await.unwrap()).unwrap(), there);
    assert!(etcd.put("k", "small").await.unwrap_err().to_string().contains("database space exceeded"));
}
