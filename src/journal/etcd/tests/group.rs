//! What goes out together, and what becomes of it.

use super::*;

#[test]
fn a_begin_that_had_no_room_is_looked_for_before_its_client_is_told() {
    let (mut vm, begin) = beginner();
    assert!(vm.hears(&begin, 429, &no_space()).fates.is_empty());

    let looks = vm.asks_one(TXN);
    let alive = found(&[("sagabox/vm/vm.0".to_owned(), Vec::new())]);
    let absent = json!({"response_txn": {"succeeded": false, "responses": [found(&[]), alive]}});
    let news = vm.hears(&looks, 200, &json!({"succeeded": true, "responses": [absent]}));
    assert_eq!(acknowledgements(&news), [Acknowledgement::Refused]);
}

#[test]
fn what_is_under_way_does_not_wait_for_room_with_those_that_begin() {
    let mut vm = heir(1, 10);
    vm.begins("one");
    let both = vm.asks_one(TXN);
    assert_eq!(sizes(std::slice::from_ref(&both)), [2]);
    vm.hears(&both, 429, &no_space());
    vm.begins("two");
    vm.now += 100;
    let room = STANDARD.encode("sagabox/room");
    let calls = vm.asks();
    assert_eq!(calls.iter().map(|call| call.body.contains(&room)).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn what_was_to_begin_when_the_lease_ended_begins_under_the_next_name() {
    let (mut vm, begin) = beginner();
    vm.begins("two");
    vm.begins("three");
    let begins = vm.asks_one(TXN);
    // Where the VM's key was there is nothing.
    let gone = json!({"response_txn": {"succeeded": false, "responses": [found(&[]), found(&[])]}});
    let news = vm.hears(&begins, 200, &json!({"succeeded": true, "responses": [gone, gone]}));
    // Of the one whose answer has not come it is not known whether it has begun.
    assert_eq!((news.lost, news.fates), (vec!["one".to_owned()], vec![]));
    vm.hears_nothing(&begin);
    vm.registers();
    let begins = vm.asks_one(TXN);
    assert_eq!(sizes(std::slice::from_ref(&begins)), [2]);
    assert!(begins.body.contains(&STANDARD.encode("sagabox/vm/vm.1")), "{}", begins.body);
}

#[test]
fn a_begin_that_is_larger_than_etcd_takes_is_told_to_be() {
    for message in ["etcdserver: request is too large", "grpc: received message larger than max (2200000 vs. 2097152)"]
    {
        let (mut vm, begin) = beginner();
        let code = if message.starts_with("grpc") { 8 } else { 3 };
        let news = vm.hears(&begin, 400, &json!({"code": code, "message": message}));
        assert_eq!(acknowledgements(&news), [Acknowledgement::TooLarge], "{message}");
    }
}

#[test]
fn no_more_go_together_than_etcd_takes() {
    let mut vm = Vm::new(|_| {}, 1_000);
    for saga in 0..200 {
        vm.begins(&format!("s{saga}"));
    }
    vm.registers();
    assert_eq!(sizes(&vm.asks()), [120, 80]);
}

#[test]
fn an_answer_that_is_too_large_for_several_is_no_sign_that_nothing_was_done() {
    let (mut vm, begin) = beginner();
    vm.begins("two");
    let second = vm.asks_one(TXN);
    vm.hears(&begin, 200, &nested(&[json!({}), json!({})]));
    vm.hears(&second, 200, &nested(&[json!({}), json!({})]));
    let reply = crate::saga::Reply { status: 201, headers: Vec::new(), body: None };
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    for saga in ["one", "two"] {
        let end = Change::Ended { state: SagaState::Completed, reply: reply.clone(), nothing_sent: false };
        assert_eq!(writes(&mut vm, saga, &start, end), Acknowledgement::Pending);
    }
    let both = vm.asks_one(TXN);
    assert_eq!(sizes(std::slice::from_ref(&both)), [2]);
    let too_large = json!({"code": 8, "message": "grpc: received message larger than max (5000000 vs. 4194304)"});
    assert!(vm.hears(&both, 429, &too_large).fates.is_empty());

    vm.now += 1_000;
    let again = vm.asks();
    assert_eq!(sizes(&again), [1, 1]);
    // It was done the first time, and a saga that has ended leaves nothing.
    let alive = found(&[("sagabox/vm/vm.0".to_owned(), Vec::new())]);
    let gone = json!({"response_txn": {"succeeded": false, "responses": [found(&[]), alive]}});
    for call in &again {
        let news = vm.hears(call, 200, &json!({"succeeded": true, "responses": [gone]}));
        assert_eq!(acknowledgements(&news), [Acknowledgement::Written]);
    }
}

#[test]
fn an_etcd_that_is_too_busy_is_asked_for_the_same_a_few_times_and_not_in_parts() {
    let mut vm = Vm::new(|_| {}, 100);
    for saga in 0..20 {
        vm.begins(&format!("s{saga}"));
    }
    vm.registers();
    let busy = json!({"code": 8, "message": "etcdserver: too many requests"});
    for attempt in 0..=NOT_NOW_BEFORE_REFUSED {
        vm.now += 1_000;
        let calls = vm.asks_for_sagas();
        assert_eq!(sizes(&calls), [20], "attempt {attempt}");
        let news = vm.hears(&calls[0], 429, &busy);
        let expected = if attempt == NOT_NOW_BEFORE_REFUSED { 20 } else { 0 };
        assert_eq!(acknowledgements(&news), vec![Acknowledgement::Refused; expected]);
    }
}

#[test]
fn of_many_begins_under_one_key_one_goes_at_a_time() {
    let (mut vm, other) = beginner();
    vm.hears(&other, 200, &nested(&[json!({}), json!({})]));
    let start = StartKey { key: "k".to_owned(), request: "r".to_owned() };
    for saga in ["two", "three", "four"] {
        vm.begins_under(saga, Some(&start));
    }
    let calls = vm.asks_for_sagas();
    assert_eq!(sizes(&calls), [1, 1], "two transactions may be under way");
}
