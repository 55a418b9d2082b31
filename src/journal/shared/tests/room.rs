//! Sagas of a VM that is dead, and a VM that has no memory for all of them.

use super::*;

#[test]
fn sagas_for_which_there_is_no_room_wait_and_are_taken_over_once_there_is() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    let all: Vec<String> = (0..5).map(|number| format!("s{number}")).collect();
    all.iter().for_each(|saga| begin(&mut a, &mut shared, saga));
    b.offer_room(0);
    let first = live(&mut [&mut b], &mut shared, 10);
    assert_eq!(names(&first), ["s0"], "it has none, and nobody else can");
    let mut taken = vec!["s0".to_owned()];
    while taken.len() < 5 {
        assert_eq!(names(&live(&mut [&mut b], &mut shared, 10)), [""; 0]);
        // One ends: then there is room for the next.
        let ends = taken.last().expect("one").clone();
        assert_eq!(write(&mut b, &mut shared, &ends, 2, &ended(2)), Acknowledgement::Written);
        let next = live(&mut [&mut b], &mut shared, 1);
        taken.extend(names(&next).into_iter().map(str::to_owned));
        assert_eq!(taken.len(), all.iter().position(|saga| taken.last() == Some(saga)).expect("known") + 1);
    }
    assert_eq!(taken, all);
    assert_eq!(write(&mut b, &mut shared, "s4", 2, &ended(2)), Acknowledgement::Written);
    live(&mut [&mut b], &mut shared, 1);
    let row: Json = serde_json::from_str(&shared.text("sagabox/vm/0")).unwrap();
    assert_eq!((row["state"].as_str(), shared.sagas().len()), (Some("free"), 0));
}

#[test]
fn as_many_are_taken_over_at_once_as_there_is_room_for() {
    let (mut shared, mut a, mut b) = (Shared::default(), vm("a"), vm("b"));
    for number in 0..50 {
        begin(&mut a, &mut shared, &format!("s{number}"));
    }
    b.offer_room(100_000);
    let first = live(&mut [&mut b], &mut shared, 7).orphans.len();
    assert!((5..45).contains(&first), "{first}");
    b.offer_room(usize::MAX);
    assert_eq!(live(&mut [&mut b], &mut shared, 1).orphans.len(), 50 - first);
}

#[test]
fn what_waits_for_room_goes_to_the_next_heir_if_the_first_one_dies() {
    let (mut shared, mut a, mut b, mut c) = (Shared::default(), vm("a"), vm("b"), vm("c"));
    ["s0", "s1", "s2"].iter().for_each(|saga| begin(&mut a, &mut shared, saga));
    b.offer_room(0);
    assert_eq!(names(&live(&mut [&mut b], &mut shared, 10)), ["s0"]);
    let mut orphans = live(&mut [&mut c], &mut shared, 20);
    orphans.orphans.sort_by_key(|orphan| orphan.progress.begun.as_ref().unwrap().id.clone());
    assert_eq!(names(&orphans), ["s0", "s1", "s2"]);
    let epochs: Vec<u32> = orphans.orphans.iter().map(|orphan| orphan.epoch).collect();
    assert_eq!(epochs, [3, 2, 2]);
}
