//! Participants forget idempotency keys: what is sent after that is done a second time.

use serde_json::json;

use super::super::*;
use super::definitions::{by_id, by_key, load};
use super::world::{Behaviour, World, answered, begin, end, until_sent};

fn hotel(lifetime: &str, deadline: &str) -> World {
    let mut hotel = by_id("hotel", &[]);
    hotel["transaction"]["key_lifetime"] = json!(lifetime);
    hotel["transaction"]["retry"] = json!({"max_attempts": 1_000_000});
    begin(&load(json!({"steps": [hotel], "deadline": deadline})))
}

/// Lets time pass; everything that is sent is answered by the path. Gives when the last transaction was sent.
fn away_for(world: &mut World, ms: u64) -> Millis {
    let until = world.now + ms;
    let mut last = 0;
    while world.now < until {
        world.acknowledge();
        if world.in_flight.is_empty() {
            if world.saga.next_due().is_none_or(|due| due > until) {
                break;
            }
            world.wait_until_due();
        } else {
            last = world.now;
            answered(world, "hotel", 503);
        }
    }
    world.now = until;
    world.feed(Event::Due);
    last
}

/// The hotel booked, its answer was lost, it was away for 25 h: the same key would book a second time.
#[test]
fn a_step_is_not_asked_for_again_once_its_participant_may_have_forgotten_the_key() {
    let mut world = hotel("24h", "10s");
    let began = world.now;
    end(&mut world, "hotel", Behaviour::DoSilently);
    let last = away_for(&mut world, 25 * 60 * 60 * 1_000);
    assert!(last < began + 24 * 60 * 60 * 1_000 && last > began + 23 * 60 * 60 * 1_000, "{last}");
    assert!(world.in_flight.is_empty() && world.ended.is_none());
    assert!(world.saga.stuck().is_some());
    assert_eq!(world.saga.progress().steps[0].state, StepState::Unknown);
    world.acknowledge();
    assert_eq!(world.saga.next_due(), None, "it waits for an operator");
}

#[test]
fn an_owner_that_takes_over_does_not_ask_for_it_either() {
    let mut world = hotel("1h", "10s");
    end(&mut world, "hotel", Behaviour::DoSilently);
    away_for(&mut world, 60_000);
    world.now += 60 * 60 * 1_000;
    let before = world.sent.len();
    world.crash(Behaviour::Lose, true);
    for _ in 0..10 {
        world.acknowledge();
        if !world.wait_until_due() {
            break;
        }
    }
    assert_eq!(world.sent.len(), before, "{:?}", world.sent.last());
    assert!(
        world.saga.stuck().is_some_and(|why| why.contains("`hotel` may have been done")),
        "{:?}",
        world.saga.stuck()
    );
}

#[test]
fn while_a_saga_runs_a_key_that_may_be_forgotten_is_not_sent_either() {
    let mut world = hotel("2s", "60s");
    let began = world.now;
    end(&mut world, "hotel", Behaviour::Lose);
    let last = away_for(&mut world, 30_000);
    assert!(last < began + 2_000, "{} ms", last - began);
    assert!(world.saga.stuck().is_some());
}

#[test]
fn a_step_that_needs_no_answer_is_undone_by_its_key_however_old_it_is() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["key_lifetime"] = json!("1s");
    let mut world = begin(&load(json!({"steps": [hotel]})));
    end(&mut world, "hotel", Behaviour::DoSilently);
    world.wait(5_000);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.c"]);
}

/// A key that was never sent cannot be forgotten.
#[test]
fn a_step_that_was_never_sent_is_sent_however_long_its_cluster_was_away() {
    let mut world = hotel("1s", "60s");
    let until = world.now + 5_000;
    while world.now < until {
        end(&mut world, "hotel", Behaviour::NoEndpoint);
        until_sent(&mut world);
    }
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Completed));
}
