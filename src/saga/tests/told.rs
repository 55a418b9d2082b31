//! What is told of a saga that goes on is what its records say.

use serde_json::json;

use super::super::record::Change;
use super::super::*;
use super::definitions::{by_id, by_key, load, trip};
use super::world::{Behaviour, World, begin, end, header, until_sent};

fn told(world: &World) -> (u16, String) {
    let reply = world.reply.as_ref().expect("told");
    (reply.status, header(&reply.headers, "saga-status").to_owned())
}

/// The decision was in memory while another step was in flight; the next owner completed the saga. Its client had been
/// told `compensating`, and booked elsewhere: two bookings.
#[test]
fn that_a_saga_compensates_is_written_at_once_though_no_call_awaits_it() {
    let mut world = begin(&trip());
    end(&mut world, "flight", Behaviour::Refuse);
    assert_eq!(world.in_flight.len(), 1, "the hotel is under way");
    let record = world.outstanding.as_ref().expect("written at once");
    assert!(record.changes.iter().any(|change| matches!(change, Change::Compensating(_))), "{record:?}");
}

#[test]
fn what_the_journal_does_not_have_yet_is_not_told() {
    let mut world = begin(&trip());
    end(&mut world, "flight", Behaviour::Refuse);
    let problem = |world: &World| -> Json {
        let body = world.reply.as_ref().and_then(|reply| reply.body.clone()).expect("told");
        serde_json::from_str(&body).expect("JSON")
    };
    world.wait(15_000);
    assert_eq!(told(&world), (504, "running".to_owned()), "the journal says so");
    assert!(
        problem(&world)["reason"].is_null() && problem(&world)["steps"]["flight"] == "in_flight",
        "{:?}",
        world.reply
    );
    // An owner that takes over may complete it.
    world.crash(Behaviour::Do, false);
    assert_eq!(world.saga.state(), SagaState::Compensating, "but the deadline has passed");
}

#[test]
fn a_saga_of_which_compensating_was_told_is_never_completed_by_another_owner() {
    let mut world = begin(&trip());
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    world.wait(15_000);
    assert_eq!(told(&world), (504, "compensating".to_owned()));
    world.crash(Behaviour::Do, false);
    world.heal();
    world.check_end();
    assert_eq!(world.ended, Some(SagaState::Compensated));
}

#[test]
fn a_result_is_written_within_a_second_though_nothing_awaits_it() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    assert_eq!(world.outstanding, None, "a result alone is not worth a write at once");
    world.wait(999);
    assert_eq!(world.outstanding, None);
    world.wait(1);
    let record = world.outstanding.clone().expect("written");
    assert!(matches!(&record.changes[..], [Change::Settled { step: 0, .. }]), "{record:?}");
    world.acknowledge();
    world.crash(Behaviour::Lose, false);
    assert_eq!(world.saga.progress().steps[0].state, StepState::Succeeded);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names().iter().filter(|name| *name == "hotel.t").count(), 1, "it is not asked for again");
}

/// 504 with a `saga-id` was told, and the key given back all the same.
#[test]
fn while_the_journal_is_told_that_nothing_was_sent_the_client_is_told_that_nobody_knows() {
    let mut world = World::begin(&trip(), &json!({"guest": "ann"})).expect("begins");
    world.wait(10_000);
    world.acknowledge();
    let ends = |change: &Change| matches!(change, Change::Ended { nothing_sent: true, .. });
    assert!(world.outstanding.as_ref().is_some_and(|record| record.changes.iter().any(ends)));
    world.wait(CLIENT_GRACE_MS);
    let reply = world.reply.clone().expect("told");
    assert_eq!(reply.status, 503);
    assert!(reply.headers.iter().all(|(name, _)| !name.starts_with("saga-")), "{reply:?}");
    assert!(reply.body.as_deref().is_some_and(|body| body.contains("fate-unknown")), "{reply:?}");
    world.acknowledge();
    world.check_end();
}

#[test]
fn a_saga_is_stuck_since_when_its_first_owner_saw_it_and_is_counted_once() {
    let mut world = begin(&load(json!({"steps": [by_id("hotel", &[]), by_key("flight", &[])]})));
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    end(&mut world, "hotel", Behaviour::Refuse);
    let since = world.now;
    assert_eq!(world.reports.len(), 1);
    world.wait(1_000);
    world.acknowledge();
    world.crash(Behaviour::Lose, true);
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::Refuse);
    assert_eq!(world.reports.len(), 1, "a takeover counts nobody twice");
    assert_eq!(world.saga.progress().stuck.as_ref().map(|stuck| stuck.since), Some(since));
    world.heal();
    world.check_end();
}

#[test]
fn the_five_minutes_of_a_saga_that_compensates_go_on_with_its_next_owner() {
    let mut world = begin(&load(json!({"steps": [by_id("hotel", &[]), by_key("flight", &[])]})));
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    let began = world.now;
    for owner in 0..4 {
        while world.now < began + 80_000 * (owner + 1) {
            until_sent(&mut world);
            end(&mut world, "hotel", Behaviour::Fail);
            world.acknowledge();
            world.wait_until_due();
        }
        world.crash(Behaviour::Fail, true);
    }
    assert!(world.saga.stuck().is_some(), "{} s", (world.now - began) / 1_000);
    let since = world.saga.progress().stuck.as_ref().map_or(0, |stuck| stuck.since);
    assert!(since >= began + STUCK_AFTER_MS && since < began + STUCK_AFTER_MS + 20_000, "{since}");
}
