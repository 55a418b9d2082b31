//! A proxy on the path answers in the participant's place.

use serde_json::json;

use super::super::*;
use super::definitions::{by_id, by_key, load, trip};
use super::world::{Behaviour, World, answered, begin, end, end_as, until_sent};
use crate::facts::ParticipantResponse;

/// Client errors that proxies answer by themselves.
const OF_THE_PATH: [u16; 10] = [400, 401, 403, 404, 405, 407, 413, 414, 421, 431];

/// A saga of one step, whose first attempt was done and not answered.
fn hotel_booked_and_not_answered(compensation: &str, attempts: u32) -> World {
    let mut hotel = if compensation == "by id" { by_id("hotel", &[]) } else { by_key("hotel", &[]) };
    hotel["transaction"]["retry"] = json!({"max_attempts": attempts});
    let mut world = begin(&load(json!({"steps": [hotel]})));
    end(&mut world, "hotel", Behaviour::DoSilently);
    world.acknowledge();
    until_sent(&mut world);
    world
}

/// The booking stands. While it is asked what became of it, a route is missing: that says nothing of the booking.
#[test]
fn a_path_that_answers_while_a_step_is_resolved_does_not_say_that_nothing_was_done() {
    for code in OF_THE_PATH {
        let mut world = hotel_booked_and_not_answered("by id", 1);
        for _ in 0..5 {
            answered(&mut world, "hotel", code);
            assert_eq!(world.saga.progress().steps[0].state, StepState::InFlight, "{code}: it is asked for again");
            until_sent(&mut world);
        }
        end(&mut world, "hotel", Behaviour::Do);
        world.heal();
        world.check_end();
        assert_eq!(world.sent_names().last().map(String::as_str), Some("hotel.c"), "{code}");
    }
}

#[test]
fn a_path_that_answers_after_an_unknown_attempt_is_one_more_unknown_attempt() {
    for code in OF_THE_PATH {
        let mut world = hotel_booked_and_not_answered("by key", 3);
        answered(&mut world, "hotel", code);
        until_sent(&mut world);
        assert_eq!(world.in_flight[0].id.attempt, 3, "{code}: an attempt was left");
        answered(&mut world, "hotel", code);
        world.heal();
        world.check_end();
        assert_eq!(world.sent_names(), ["hotel.t", "hotel.t", "hotel.t", "hotel.c"], "{code}");
    }
}

#[test]
fn the_first_refusal_rejects_a_step_whose_attempts_were_all_known_whoever_said_it() {
    for code in OF_THE_PATH.into_iter().chain([409, 422]) {
        let mut world = begin(&load(json!({"steps": [by_id("hotel", &[])]})));
        end(&mut world, "hotel", Behaviour::TooMany);
        until_sent(&mut world);
        answered(&mut world, "hotel", code);
        world.heal();
        world.check_end();
        assert_eq!(world.sent_names(), ["hotel.t", "hotel.t"], "{code}: nothing was done");
    }
}

/// The participant is working on the key: seen to be given up 39 ms after its first attempt began.
#[test]
fn a_conflict_after_a_timed_out_attempt_is_tried_again() {
    let mut world = hotel_booked_and_not_answered("by id", 3);
    answered(&mut world, "hotel", 409);
    assert_eq!(world.saga.state(), SagaState::Running);
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Completed));
}

#[test]
fn a_conflict_after_an_unknown_attempt_is_unknown_whatever_the_definition_calls_rejected() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["rejected"] = json!("response.code >= 400");
    let mut world = begin(&load(json!({"steps": [hotel]})));
    end(&mut world, "hotel", Behaviour::DoSilently);
    until_sent(&mut world);
    answered(&mut world, "hotel", 409);
    assert_eq!(world.saga.progress().steps[0].state, StepState::InFlight);
    until_sent(&mut world);
    answered(&mut world, "hotel", 404);
    assert_eq!(world.saga.progress().steps[0].state, StepState::Rejected, "an explicit word counts");
}

/// `rejected: "response.code >= 400"` made Envoy's own 504 of a timeout "certainly not done".
#[test]
fn what_envoy_says_after_a_timeout_is_unknown_whatever_the_definition_calls_rejected() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["rejected"] = json!("response.code >= 400");
    hotel["transaction"]["retry"] = json!({"max_attempts": 1});
    let mut world = begin(&load(json!({"steps": [hotel]})));
    end(&mut world, "hotel", Behaviour::DoButTimeOut);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.c"]);
}

/// Envoy answers gRPC requests with 200 when it has no answer.
#[test]
fn a_success_that_envoy_says_itself_is_none() {
    let mut world = begin(&load(json!({"steps": [by_key("hotel", &[])]})));
    let headers = vec![("grpc-status".to_owned(), b"14".to_vec())];
    let local = AttemptResult::LocalReply(ParticipantResponse { code: 200, headers, body: None });
    end_as(&mut world, "hotel", local);
    assert_eq!(world.saga.state(), SagaState::Running);
    world.heal();
    world.check_end();
}

/// A trip whose hotel is to be undone, its outcome unknown; the time of the last attempt's end.
fn hotel_to_be_undone() -> World {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["retry"] = json!({"max_attempts": 1});
    hotel["transaction"]["per_try_timeout"] = json!("2s");
    hotel["compensation"]["retry"] = json!({"base_interval": "100ms", "max_interval": "100ms"});
    let mut world = begin(&load(json!({"steps": [hotel]})));
    end(&mut world, "hotel", Behaviour::Lose);
    world.acknowledge();
    until_sent(&mut world);
    assert_eq!(world.in_flight[0].id.kind, CallKind::Compensation);
    world
}

#[test]
fn nothing_to_undo_is_believed_once_it_was_said_twice_and_for_as_long_as_an_attempt_may_take() {
    let mut world = hotel_to_be_undone();
    let sent_at = 1_000_000;
    let mut said = 0;
    while world.saga.progress().steps[0].state == StepState::Compensating {
        until_sent(&mut world);
        answered(&mut world, "hotel", 404);
        said += 1;
    }
    // The attempt may be worked on for 2 s, and for 2 s after that 404 may mean that it has not come to it yet.
    assert!((sent_at + 4_000..sent_at + 4_300).contains(&world.now), "after {} ms", world.now - sent_at);
    assert!(said >= 2);
    assert!(
        matches!(&world.reports[..], [Report::NothingToUndo { step }] if step == "hotel"),
        "counted, and not stuck"
    );
    world.heal();
    world.check_end();
}

#[test]
fn one_404_is_not_believed_however_late_it_comes() {
    let mut world = hotel_to_be_undone();
    world.wait(60_000);
    answered(&mut world, "hotel", 404);
    assert_eq!(world.saga.progress().steps[0].state, StepState::Compensating);
    until_sent(&mut world);
    answered(&mut world, "hotel", 404);
    assert_eq!(world.saga.progress().steps[0].state, StepState::Compensating, "said twice within a moment");
    world.wait(2_000);
    until_sent(&mut world);
    answered(&mut world, "hotel", 404);
    assert_eq!(world.saga.progress().steps[0].state, StepState::Compensated);
}

/// Somebody has undone it by hand. It was stuck for ever.
#[test]
fn what_is_gone_is_undone_also_where_it_is_known_to_have_been_there() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    answered(&mut world, "hotel", 410);
    assert_eq!(world.saga.progress().steps[0].state, StepState::Compensated);
    assert!(world.reports.is_empty());
}

/// It marked a healthy saga stuck.
#[test]
fn a_conflict_while_a_compensation_is_worked_on_is_unknown() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    end(&mut world, "hotel", Behaviour::DoSilently);
    until_sent(&mut world);
    answered(&mut world, "hotel", 409);
    assert!(world.reports.is_empty(), "{:?}", world.reports);
    world.heal();
    world.check_end();
}

#[test]
fn a_first_conflict_on_a_compensation_is_a_refusal() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    answered(&mut world, "hotel", 409);
    assert!(matches!(&world.reports[..], [Report::Stuck { .. }]));
}

#[test]
fn clients_are_told_of_participants_and_not_of_the_proxys_clusters() {
    let mut hotel = by_id("hotel", &[]);
    hotel["transaction"]["cluster"] = json!("outbound|8080||internal.example");
    hotel["transaction"]["authority"] = json!("hotel.example");
    let mut world = begin(&load(json!({"steps": [hotel]})));
    end(&mut world, "hotel", Behaviour::NoCluster);
    world.heal();
    let told = world.reply.as_ref().and_then(|reply| reply.body.clone()).expect("told");
    assert!(told.contains("step `hotel` was rejected") && !told.contains("internal"), "{told}");
}
