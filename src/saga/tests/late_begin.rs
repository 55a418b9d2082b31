//! The journal takes longer than the saga may.

use serde_json::json;

use super::super::record::Change;
use super::super::*;
use super::definitions::trip;
use super::world::{World, header};

#[test]
fn a_saga_whose_begin_takes_longer_than_its_deadline_sends_nothing_and_says_so() {
    let mut world = World::begin(&trip(), &json!({"guest": "ann"})).expect("begins");
    world.wait(10_000);
    world.acknowledge();
    world.acknowledge();
    assert_eq!(world.ended, Some(SagaState::Compensated));
    world.check_end();
    let reply = world.reply.expect("answered");
    assert_eq!((reply.status, header(&reply.headers, "retry-after")), (503, "1"));
    assert!(reply.headers.iter().all(|(name, _)| !name.starts_with("saga-")), "{reply:?}");
}

#[test]
fn a_saga_that_waits_for_its_begin_for_long_has_nothing_due() {
    let mut world = World::begin(&trip(), &json!({"guest": "ann"})).expect("begins");
    for wait_ms in [10_000, CLIENT_GRACE_MS, STUCK_AFTER_MS] {
        world.wait(wait_ms);
        assert!(world.saga.next_due().is_none_or(|due| due > world.now), "after {wait_ms} ms more");
    }
}

#[test]
fn a_begin_that_is_known_shortly_before_its_client_gives_up_is_compensated() {
    let mut world = World::begin(&trip(), &json!({"guest": "ann"})).expect("begins");
    world.wait(10_000);
    world.wait(CLIENT_GRACE_MS - 100);
    world.acknowledge();
    world.acknowledge();
    world.check_end();
    assert_eq!(world.reply.map(|reply| reply.status), Some(409));
}

#[test]
fn who_was_told_that_a_saga_goes_on_which_was_about_to_begin_finds_it_compensated() {
    let mut world = World::begin(&trip(), &json!({"guest": "ann"})).expect("begins");
    world.wait(10_000);
    world.wait(5_000);
    assert_eq!(world.reply.as_ref().map(|reply| reply.status), Some(504));
    world.acknowledge();
    let Some(Change::Ended { reply, nothing_sent, .. }) = world.outstanding.as_ref().unwrap().changes.last() else {
        panic!("it ends: {:?}", world.outstanding);
    };
    assert_eq!((reply.status, *nothing_sent), (409, false));
    world.acknowledge();
    world.check_end();
}
