//! Sagas whose owner has gone.

use super::*;

#[test]
fn takeovers_go_in_small_numbers_and_in_smaller_ones_where_their_answer_does_not_come() {
    let mut vm = heir(20, 100);
    let calls = vm.asks();
    assert_eq!(sizes(&calls), [8, 8]);
    for call in &calls {
        vm.hears_nothing(call);
    }
    vm.now += 1_000;
    let calls = vm.asks();
    assert_eq!(sizes(&calls), [4, 4]);
}

#[test]
fn no_more_sagas_are_taken_over_than_a_vm_may_have() {
    let mut vm = heir(20, 3);
    let calls = vm.asks();
    assert_eq!(sizes(&calls), [3]);
}

#[test]
fn no_more_sagas_are_taken_over_at_a_time_than_there_is_memory_for_but_one_in_any_case() {
    for (bytes, taken) in [(0, 1), (1 << 20, 2), (3 << 19, 3), (1 << 30, 5)] {
        let mut vm = heir_within(bytes, 5, 100, |_, head| head);
        assert_eq!(sizes(&vm.asks()), [taken], "{bytes}");
    }
    let mut vm = heir_within(0, 2, 100, |_, head| head);
    let take = vm.asks_one(TXN);
    let first = taken(&mut vm, &take);
    assert_eq!(first.orphans.len(), 1);
    // The other one is looked for again, and waits until there is room.
    let again = vm.asks_one(TXN);
    let heads = [("sagabox/saga/001".to_owned(), encode(&head(&vm.journal)))];
    let page = json!({"succeeded": true, "responses": [found(&[]), found(&heads), found(&[])]});
    vm.hears(&again, 200, &page);
    assert!(vm.asks().is_empty());
    assert!(!vm.journal.has_room_beside(0), "and the next scan is another VM's");
    vm.journal.offer_room(1 << 20);
    assert!(vm.journal.has_room_beside(0) && !vm.journal.has_room_beside(2));
}

#[test]
fn a_saga_whose_definitions_cannot_be_read_is_left_to_others() {
    let mut vm = Vm::new(|settings| settings.takes_over = true, 10);
    vm.journal.tick(&mut Shared, vm.now);
    let scan = vm.asks_one(TXN);
    let hash = "f".repeat(64);
    let newer = Head { definitions: hash.clone(), ..head(&vm.journal) };
    let heads = [("sagabox/saga/newer".to_owned(), encode(&newer))];
    vm.hears(&scan, 200, &json!({"succeeded": true, "responses": [found(&[]), found(&heads), found(&[])]}));
    vm.registers();
    let definitions = vm.asks_one(TXN);
    let text = br#"{"version": 1, "of_the_future": true}"#.to_vec();
    let news = vm.hears(&definitions, 200, &nested(&[found(&[(format!("sagabox/definitions/{hash}"), text)])]));
    assert!(news.orphans.is_empty() && news.quarantined.is_empty());
    // It is told as soon as it is known, which may be with the next call.
    let asked = vm.asks();
    let told = vm.journal.tick(&mut Shared, vm.now).left_alone;
    assert_eq!((told.len(), told[0].0.as_str(), asked.len()), (1, "newer", 0));
    assert!(vm.asks().is_empty());
    assert!(vm.journal.takeovers.next_due() == Millis::MAX && vm.journal.sagas.is_empty());
}

/// Its answer to a takeover of one saga, with one record.
fn taken(vm: &mut Vm, call: &JournalCall) -> News {
    let begun = encode(&Record::new(1, vec![begun("000", vm.now)]));
    let records = found(&[("sagabox/record/000/0000000001".to_owned(), begun)]);
    vm.hears(call, 200, &nested(&[json!({"response_put": {}}), records]))
}

#[test]
fn a_saga_whose_definitions_are_gone_is_set_aside() {
    let hash = "f".repeat(64);
    for text in [None, Some(&b"no configuration"[..])] {
        let mut vm = heir_of(1, 10, |_, head| Head { definitions: hash.clone(), ..head });
        let definitions = vm.asks_one(TXN);
        let kept = text.map(|text| (format!("sagabox/definitions/{hash}"), text.to_vec()));
        vm.hears(&definitions, 200, &nested(&[found(kept.as_slice())]));
        let take = vm.asks_one(TXN);
        let news = taken(&mut vm, &take);
        assert_eq!((news.orphans.len(), news.quarantined.len()), (0, 1), "{text:?}: {news:?}");
        let marks = vm.asks_one(TXN);
        assert_eq!(sizes(std::slice::from_ref(&marks)), [1]);
    }
}

#[test]
fn a_saga_of_which_three_owners_in_a_row_have_died_is_set_aside_and_the_others_are_taken_over() {
    let poison = |number, head| match number {
        1 => Head { on_probation: true, suspicion: 2, ..head },
        _ => head,
    };
    let mut vm = heir_of(3, 10, poison);
    let takes = vm.asks_one(TXN);
    assert_eq!(sizes(std::slice::from_ref(&takes)), [3]);
    let body: Json = serde_json::from_str(&takes.body).unwrap();
    let written = |index: usize| {
        let value = body["success"][index]["request_txn"]["success"][0]["request_put"]["value"].as_str().unwrap();
        serde_json::from_slice::<Json>(&STANDARD.decode(value).unwrap()).unwrap()
    };
    let is_set_aside: Vec<bool> = (0..3).map(|index| !written(index)["quarantined"].is_null()).collect();
    assert_eq!(is_set_aside, [false, true, false]);
    assert_eq!((written(1)["owner"].as_str(), written(0)["owner"].as_str()), (Some("gone.0"), Some("vm.0")));
}

#[test]
fn a_vm_that_has_lost_its_lease_and_lives_has_not_died_of_what_it_had_resumed() {
    let own = |_, head| Head { owner: "vm.7".to_owned(), on_probation: true, suspicion: 2, ..head };
    let mut vm = heir_of(2, 10, own);
    let takes = vm.asks_one(TXN);
    assert_eq!(sizes(std::slice::from_ref(&takes)), [2], "both at once");
    let body: Json = serde_json::from_str(&takes.body).unwrap();
    for take in body["success"].as_array().unwrap() {
        let value = take["request_txn"]["success"][0]["request_put"]["value"].as_str().unwrap();
        let head: Head = serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap();
        assert_eq!((head.owner.as_str(), head.suspicion, head.on_probation, head.quarantined), ("vm.0", 2, true, None));
    }
}

#[test]
fn of_several_suspects_one_is_taken_over_at_a_time() {
    let mut vm = heir_of(3, 10, |_, head| Head { on_probation: true, ..head });
    let take = vm.asks_one(TXN);
    assert_eq!(sizes(std::slice::from_ref(&take)), [1]);
    let news = taken(&mut vm, &take);
    assert_eq!((news.orphans.len(), news.orphans[0].epoch), (1, 2));
    assert!(vm.asks().is_empty(), "as long as it may die of the first");
}

#[test]
fn what_needs_more_is_told_once_and_only_where_it_has_no_owner() {
    for (living, told) in [(true, 0), (false, 1)] {
        let mut vm = Vm::new(|settings| settings.takes_over = true, 10);
        let needs = Head { needs: vec!["pivot".to_owned()], ..head(&vm.journal) };
        let heads = [("sagabox/saga/newer".to_owned(), encode(&needs))];
        let owner = [("sagabox/vm/gone.0".to_owned(), b"{}".to_vec())];
        let vms = if living { found(&owner) } else { found(&[]) };
        let mut left_alone = Vec::new();
        for _ in 0..3 {
            vm.now += 10_000;
            vm.journal.tick(&mut Shared, vm.now);
            let scan = vm.asks_one(TXN);
            let page = json!({"succeeded": true, "responses": [vms, found(&heads), found(&[])]});
            left_alone.extend(vm.hears(&scan, 200, &page).left_alone);
        }
        assert_eq!(left_alone.len(), told, "{left_alone:?}");
        assert!(left_alone.iter().all(|(saga, why)| saga == "newer" && why.contains("pivot")), "{left_alone:?}");
    }
}

/// A head says what its records need. One that does not is no reason to keep the saga from who can read it.
#[test]
fn a_saga_whose_records_need_more_than_its_head_says_gets_its_old_owner_back() {
    let mut vm = heir(1, 10);
    let take = vm.asks_one(TXN);
    let needs = Record { needs: vec!["pivot".to_owned()], ..Record::new(1, vec![begun("000", vm.now)]) };
    let records = found(&[("sagabox/record/000/0000000001".to_owned(), encode(&needs))]);
    let news = vm.hears(&take, 200, &nested(&[json!({"response_put": {}}), records]));
    assert_eq!((news.orphans.len(), news.quarantined.len(), news.left_alone.len()), (0, 0, 1));
    let back = vm.asks_one(TXN);
    let body: Json = serde_json::from_str(&back.body).unwrap();
    let value = body["success"][0]["request_txn"]["success"][0]["request_put"]["value"].as_str().unwrap();
    let head: Head = serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap();
    assert_eq!((head.owner.as_str(), head.epoch, head.quarantined), ("gone.0", 2, None));
    vm.hears(&back, 200, &nested(&[json!({"response_put": {}})]));
    assert!(vm.journal.sagas.is_empty());
}

/// Such a saga is of a module before this one, or of an etcd with another bound. It may have been taken over already when
/// the answer was too large, which the second attempt finds.
#[test]
fn a_saga_whose_records_are_too_large_to_be_read_is_set_aside_and_asked_for_no_more() {
    let too_large = json!({"code": 8, "message": "grpc: received message larger than max (5000000 vs. 4194304)"});
    for was_done in [false, true] {
        let mut vm = heir(1, 10);
        let take = vm.asks_one(TXN);
        let body: Json = serde_json::from_str(&take.body).unwrap();
        let head = body["success"][0]["request_txn"]["success"][0]["request_put"]["value"].as_str().unwrap();
        let head = STANDARD.decode(head).unwrap();
        vm.hears(&take, 429, &too_large);

        vm.now += 1_000;
        let again = vm.asks_one(TXN);
        let records = STANDARD.encode("sagabox/record/000/");
        assert!(take.body.contains(&records) && !again.body.contains(&records), "{}", again.body);
        let news = if was_done {
            let found = found(&[("sagabox/saga/000".to_owned(), head)]);
            let taken = json!({"response_txn": {"succeeded": false, "responses": [found]}});
            vm.hears(&again, 200, &json!({"succeeded": true, "responses": [taken]}))
        } else {
            vm.hears(&again, 200, &nested(&[json!({"response_put": {}})]))
        };
        assert_eq!((news.orphans.len(), news.quarantined.len()), (0, 1), "{was_done}: {news:?}");
        let marks = vm.asks_one(TXN);
        let body: Json = serde_json::from_str(&marks.body).unwrap();
        let value = body["success"][0]["request_txn"]["success"][0]["request_put"]["value"].as_str().unwrap();
        let head: Head = serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap();
        assert!(head.quarantined.is_some_and(|why| why.contains("records")));
        vm.hears(&marks, 200, &nested(&[json!({"response_put": {}})]));
        vm.now += 10_000;
        assert!(vm.asks_for_sagas().is_empty());
    }
}
