//! Requests that come again: by their client, or by a proxy in front of this one.

use super::*;

#[test]
fn a_retry_of_a_proxy_in_front_gets_the_saga_of_the_first_attempt() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, attempt(1, &trip, ANN, 1));
    coordinator.begin(&mut proxy, attempt(2, &trip, ANN, 2));
    assert_eq!((proxy.dispatched.len(), coordinator.open()), (2, 1), "one saga");
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 101, answered(200));
    coordinator.begin(&mut proxy, attempt(3, &trip, ANN, 3));
    for _ in 0..3 {
        proxy.now += 60;
        coordinator.due(&mut proxy);
    }
    let told: Vec<_> = proxy.replies.iter().map(|(client, reply)| (*client, reply.status)).collect();
    assert_eq!(told, [(1, 200), (2, 200), (3, 200)]);
    assert_eq!(header_of(&proxy.replies[2].1, "idempotency-replayed"), Some("true".to_owned()));
    assert_eq!(proxy.dispatched.len(), 2);
}

#[test]
fn a_retry_whose_first_attempt_never_came_begins_and_others_get_its_saga() {
    let (mut proxy, mut coordinator, trip) = setting();
    for (client, count) in [(1, 2), (2, 3), (3, 1)] {
        coordinator.begin(&mut proxy, attempt(client, &trip, ANN, count));
    }
    assert_eq!((proxy.dispatched.len(), coordinator.open()), (2, 1), "one saga");
}

#[test]
fn equal_requests_with_one_request_id_are_two_sagas_and_unequal_ones_are_not_refused() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, attempt(1, &trip, ANN, 1));
    coordinator.begin(&mut proxy, attempt(2, &trip, ANN, 1));
    assert_eq!((proxy.dispatched.len(), coordinator.open()), (4, 2));
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, attempt(1, &trip, ANN, 1));
    coordinator.begin(&mut proxy, attempt(2, &trip, r#"{"guest": "bob"}"#, 2));
    assert_eq!((proxy.dispatched.len(), coordinator.open(), proxy.replies.len()), (4, 2, 0));
}

#[test]
fn a_full_proxy_tells_what_has_begun_before_and_lets_as_many_wait_as_sagas() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    coordinator.begin(&mut proxy, with_key(2, &trip, ANN, "other"));
    for client in 3..=5 {
        coordinator.begin(&mut proxy, with_key(client, &trip, ANN, "k"));
    }
    coordinator.begin(&mut proxy, with_key(6, &trip, r#"{"guest": "bob"}"#, "k"));
    coordinator.begin(&mut proxy, with_key(7, &trip, ANN, "new"));
    let told: Vec<_> = proxy.replies.iter().map(|(client, reply)| (*client, reply.status, kind_of(reply))).collect();
    let expected = [(5, 503, "fate-unknown"), (6, 422, "idempotency-key-reused"), (7, 503, "overload")];
    assert_eq!(told, expected.map(|(client, status, kind)| (client, status, kind.to_owned())));
    for token in 100..=101 {
        coordinator.ended(&mut proxy, token, answered(200));
    }
    proxy.now += 60;
    coordinator.due(&mut proxy);
    let told: Vec<_> = proxy.replies.iter().skip(3).map(|(client, reply)| (*client, reply.status)).collect();
    assert_eq!(told, [(1, 200), (3, 200), (4, 200)]);
    coordinator.begin(&mut proxy, with_key(8, &trip, ANN, "third"));
    coordinator.begin(&mut proxy, with_key(9, &trip, ANN, "k"));
    assert_eq!(proxy.replies.last().map(|(client, reply)| (*client, reply.status)), Some((9, 200)), "it is full again");
}

#[test]
fn what_a_vm_died_of_is_in_shared_data_until_its_callback_ends() {
    let (mut proxy, mut coordinator, trip) = setting();
    let crumbs = |proxy: &Proxy| -> Vec<String> {
        let values = proxy.values.borrow();
        let crumbs = values.iter().filter(|(key, (value, _))| key.starts_with("sagabox/crumb/") && !value.is_empty());
        crumbs.map(|(_, (value, _))| String::from_utf8_lossy(value).into_owned()).collect()
    };
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    let begin = crumbs(&proxy);
    assert!(begin.len() == 1 && begin[0].contains("the begin"), "{begin:?}");
    coordinator.settle(&mut proxy);
    assert!(crumbs(&proxy).is_empty());
    coordinator.ended(&mut proxy, 101, answered(200));
    let answer = crumbs(&proxy);
    let id = header_of_call(&proxy, "saga-id");
    assert!(answer.len() == 1 && answer[0].contains("flight") && answer[0].contains(&id), "{answer:?}");
    // Another VM finds it, and it is gone.
    let (mut other, mut watcher, _) = setting_named("b");
    other.values = Rc::clone(&proxy.values);
    for _ in 0..4 {
        other.now += 1_000;
        let now = other.now;
        watcher.breadcrumb.look(&mut other, now);
    }
    assert!(crumbs(&proxy).is_empty());
}

fn header_of_call(proxy: &Proxy, name: &str) -> String {
    let headers = &proxy.dispatched[0].1.headers;
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone()).expect("there")
}
