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
    assert!(vm.asks().is_empty());
    assert!(vm.journal.takeovers.next_due() == Millis::MAX && vm.journal.sagas.is_empty());
}

/// Its answer to a takeover of one saga, with one record.
fn taken(vm: &mut Vm, call: &JournalCall) -> News {
    let begun = encode(&Record { version: RECORD_VERSION, sequence: 1, changes: vec![begun("000", vm.now)] });
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
fn of_several_suspects_one_is_taken_over_at_a_time() {
    let mut vm = heir_of(3, 10, |_, head| Head { on_probation: true, ..head });
    let take = vm.asks_one(TXN);
    assert_eq!(sizes(std::slice::from_ref(&take)), [1]);
    let news = taken(&mut vm, &take);
    assert_eq!((news.orphans.len(), news.orphans[0].epoch), (1, 2));
    assert!(vm.asks().is_empty(), "as long as it may die of the first");
}
