//! A record always fits, whatever clients send and participants answer.

use serde_json::json;

use super::super::*;
use super::definitions::{by_id, by_key, load};
use super::world::{World, end_as, until_sent};
use crate::facts::ParticipantResponse;

const BOUNDS: Bounds = Bounds { record_bytes: 10_000, saga_bytes: 30_000 };

/// An answer that books, with so many bytes that the reply of the saga reads.
fn booked(bytes: usize) -> AttemptResult {
    let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
    let body = json!({"id": "b1", "terms": "x".repeat(bytes)}).to_string();
    AttemptResult::Answered(ParticipantResponse { code: 201, headers, body: Some(body.into_bytes()) })
}

/// Steps whose answers the reply returns.
fn begin_steps(steps: &[Json]) -> World {
    let names = steps.iter().filter_map(|step| step["name"].as_str());
    let terms: serde_json::Map<String, Json> =
        names.map(|name| (name.to_owned(), json!(format!("${{steps.{name}.response.body.terms}}")))).collect();
    let definition = load(json!({"steps": steps, "reply": {"completed": {"status": 201, "body": terms}}}));
    let mut world = World::begin_within(BOUNDS, &definition, &json!({"guest": "ann"})).expect("begins");
    world.acknowledge();
    world
}

/// They fit one by one; their common record was refused for ever, and nothing told the saga.
#[test]
fn answers_that_fit_only_one_by_one_go_into_records_of_their_own() {
    let mut world = begin_steps(&[by_id("hotel", &[]), by_id("flight", &[]), by_id("car", &["hotel", "flight"])]);
    end_as(&mut world, "hotel", booked(6_000));
    end_as(&mut world, "flight", booked(6_000));
    let mut sizes = Vec::new();
    while let Some(record) = &world.outstanding {
        sizes.push(serde_json::to_vec(record).map_or(0, |bytes| bytes.len()));
        assert!(world.in_flight.is_empty(), "the car is sent once the record of its intent is there, and those before");
        world.acknowledge();
    }
    assert!(sizes.len() > 1 && sizes.iter().all(|size| *size < BOUNDS.record_bytes + 200), "{sizes:?}");
    assert_eq!(world.in_flight.len(), 1);
    end_as(&mut world, "car", booked(10));
    while world.outstanding.is_some() {
        world.acknowledge();
    }
    assert_eq!(world.ended, Some(SagaState::Completed));
    let reply = world.reply.clone().expect("told");
    assert_eq!(reply.status, 201);
    let named = reply.body.as_deref().is_some_and(|body| body.contains("saga_id"));
    assert!(named, "a reply too large becomes the default one: {reply:?}");
    assert!(world.reports.iter().any(|report| matches!(report, Report::ReplyNotRendered { .. })), "and is counted");
}

#[test]
fn an_answer_larger_than_the_journal_keeps_is_unknown_and_undone_by_key() {
    let mut world = begin_steps(&[by_key("hotel", &[])]);
    for _ in 0..3 {
        until_sent(&mut world);
        end_as(&mut world, "hotel", booked(12_000));
    }
    assert!(world.outstanding.is_some(), "it compensates");
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Compensated));
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.t", "hotel.t", "hotel.c"]);
    let told = world.reply.and_then(|reply| reply.body).expect("told");
    assert!(told.contains("larger than the journal keeps"), "{told}");
}

/// While it is resolved nothing but the compensation is read of the answer.
#[test]
fn an_answer_larger_than_the_journal_keeps_still_tells_how_to_undo_it() {
    let mut world = begin_steps(&[by_id("hotel", &[])]);
    for _ in 0..4 {
        while world.in_flight.is_empty() {
            world.acknowledge();
            assert!(world.wait_until_due());
        }
        end_as(&mut world, "hotel", booked(12_000));
    }
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Compensated));
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.t", "hotel.t", "hotel.t", "hotel.c"]);
}

#[test]
fn answers_that_together_are_more_than_a_takeover_can_read_are_not_kept() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut world = begin_steps(&names.map(|name| by_key(name, &[])));
    for name in names {
        end_as(&mut world, name, booked(8_000));
        world.wait(1_000);
        world.acknowledge();
    }
    assert_eq!(world.saga.progress().steps.iter().filter(|step| step.state == StepState::Succeeded).count(), 3);
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Completed), "smaller answers fit");
}

#[test]
fn a_request_whose_calls_are_larger_than_the_journal_takes_begins_nothing() {
    let definition = load(json!({"steps": [by_key("hotel", &[])]}));
    let large = json!({"guest": "x".repeat(20_000)});
    let refused = World::begin_within(BOUNDS, &definition, &large).err().expect("refused");
    assert!(refused.is_too_large, "{refused}");
    assert!(World::begin(&definition, &large).is_ok(), "another journal takes it");
}

/// etcd may be set to take less than it does by default.
#[test]
fn a_record_that_the_journal_takes_in_no_case_makes_the_saga_compensate_with_a_small_one() {
    let mut world = begin_steps(&[by_id("hotel", &[]), by_id("car", &["hotel"])]);
    end_as(&mut world, "hotel", booked(9_000));
    world.refuse_as_too_large();
    let record = world.outstanding.as_ref().expect("a small one");
    assert!(serde_json::to_vec(record).is_ok_and(|bytes| bytes.len() < 1_000), "{record:?}");
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Compensated));
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.c"], "the car was about to be sent, and is not");
    let told = world.reply.and_then(|reply| reply.body).expect("told");
    assert!(told.contains("takes no record as large"), "{told}");
}

#[test]
fn an_end_that_the_journal_takes_in_no_case_is_told_with_the_default_reply() {
    let mut world = begin_steps(&[by_id("hotel", &[])]);
    end_as(&mut world, "hotel", booked(9_000));
    world.refuse_as_too_large();
    assert!(world.outstanding.as_ref().is_some_and(Record::ends), "without what was answered, the end fits as well");
    world.refuse_as_too_large();
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Completed));
    let reply = world.reply.expect("told");
    assert_eq!(reply.status, 201);
    assert!(reply.body.is_some_and(|body| body.contains("saga_status")));
}

#[test]
fn a_saga_of_which_the_journal_takes_not_even_a_small_record_is_stuck_and_tries_again() {
    let mut world = begin_steps(&[by_id("hotel", &[]), by_id("car", &["hotel"])]);
    end_as(&mut world, "hotel", booked(9_000));
    let mut refused = 0;
    while world.outstanding.is_some() && refused < 20 {
        world.refuse_as_too_large();
        refused += 1;
    }
    assert!(refused > 2 && world.outstanding.is_none(), "it was cut, made small, and refused all the same");
    assert!(matches!(&world.reports[..], [Report::Stuck { .. }]), "{:?}", world.reports);
    world.wait(4_999);
    assert_eq!(world.outstanding, None);
    world.wait(1);
    assert!(world.outstanding.is_some(), "it is tried again");
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Compensated));
}
