//! The rules one by one.

use serde_json::json;

use super::super::*;
use super::definitions::{by_id, by_key, forward_only, load, trip};
use super::world::{Behaviour, World, begin, end, header, until_sent};
use crate::facts::ParticipantResponse;

fn one(step: Json) -> Arc<Definition> {
    load(json!({"steps": [step]}))
}

fn body(world: &World) -> Json {
    let reply = world.reply.as_ref().expect("answered");
    serde_json::from_str(reply.body.as_deref().expect("with a body")).expect("that is JSON")
}

#[test]
fn nothing_is_sent_before_the_begin_is_durable() {
    let mut world = World::begin(&trip(), &json!({"guest": "ann"})).expect("begins");
    assert!(world.sent.is_empty());
    world.acknowledge();
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t"]);
}

#[test]
fn a_trip_that_goes_well_is_completed_with_two_writes() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    assert!(world.outstanding.is_none(), "a result alone is not worth a write");
    end(&mut world, "flight", Behaviour::Do);
    assert_eq!(world.outstanding.as_ref().map(|record| record.sequence), Some(2));
    assert!(world.reply.is_none(), "not told before it is durable");
    world.acknowledge();
    world.check_end();
    let reply = world.reply.clone().expect("answered");
    assert_eq!((reply.status, world.ended), (201, Some(SagaState::Completed)));
    assert_eq!(header(&reply.headers, "location"), format!("/trips/{}", world.saga.id()));
    assert_eq!(body(&world), json!({"hotel": "b/1"}));
}

#[test]
fn a_step_waits_for_those_before_it_and_for_the_record_of_their_results() {
    let mut world = World::begin(&trip(), &json!({"guest": "ann", "car": "mini"})).expect("begins");
    world.acknowledge();
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Do);
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t"]);
    world.acknowledge();
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t", "car.t"]);
    assert_eq!(header(&world.sent[2].headers, "x-hotel"), "b/1");
}

#[test]
fn a_refused_step_is_not_compensated_and_the_others_are() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t", "hotel.c"]);
    let problem = body(&world);
    assert_eq!((&problem["failed_step"], &problem["saga_status"]), (&json!("flight"), &json!("compensated")));
    assert_eq!(problem["reason"], "step `flight` was rejected: answered 422");
    assert_eq!(header(&world.reply.as_ref().expect("answered").headers, "content-type"), "application/problem+json");
}

#[test]
fn a_step_whose_outcome_is_unknown_is_compensated_without_its_answer_where_that_is_possible() {
    let mut world = begin(&one(by_key("flight", &[])));
    for _ in 0..3 {
        end(&mut world, "flight", Behaviour::DoSilently);
        world.wait_until_due();
    }
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["flight.t", "flight.t", "flight.t", "flight.c"]);
}

#[test]
fn a_step_whose_outcome_is_unknown_is_resolved_where_its_compensation_needs_the_answer() {
    let mut world = begin(&one(by_id("hotel", &[])));
    for _ in 0..2 {
        end(&mut world, "hotel", Behaviour::DoSilently);
        until_sent(&mut world);
    }
    end(&mut world, "hotel", Behaviour::DoSilently);
    world.acknowledge();
    assert_eq!(world.sent.len(), 3, "resolving keeps the intervals");
    until_sent(&mut world);
    let attempts: Vec<u32> = world.sent.iter().map(|call| call.id.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4], "max_attempts does not bound resolving");
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    world.check_end();
    assert_eq!(header(&world.sent[4].headers, ":path"), "/bookings/b%2F1");
}

#[test]
fn a_refusal_while_resolving_says_that_nothing_was_done() {
    let mut world = begin(&one(by_id("hotel", &[])));
    for _ in 0..3 {
        end(&mut world, "hotel", Behaviour::Lose);
        world.wait_until_due();
    }
    world.acknowledge();
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::Conflict);
    assert!(world.ended.is_none() && world.outstanding.is_none(), "409 is still unknown");
    world.wait_until_due();
    end(&mut world, "hotel", Behaviour::Refuse);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t"; 5]);
}

#[test]
fn an_unknown_cluster_while_resolving_says_nothing_of_what_was_done() {
    let mut world = begin(&one(by_id("hotel", &[])));
    for _ in 0..3 {
        end(&mut world, "hotel", Behaviour::DoSilently);
        world.wait_until_due();
    }
    world.acknowledge();
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::NoCluster);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names().last().map(String::as_str), Some("hotel.c"));
}

#[test]
fn the_participants_own_word_after_an_unknown_attempt_says_that_nothing_was_done() {
    let mut world = begin(&one(by_key("flight", &[])));
    end(&mut world, "flight", Behaviour::Lose);
    until_sent(&mut world);
    end(&mut world, "flight", Behaviour::Refuse);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["flight.t", "flight.t"]);
    assert_eq!(body(&world)["steps"]["flight"], "rejected");
}

#[test]
fn what_cannot_be_undone_was_not_a_success() {
    let mut world = begin(&one(by_id("hotel", &[])));
    end(&mut world, "hotel", Behaviour::DoWithoutId);
    assert!(world.ended.is_none());
    world.wait_until_due();
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.t"]);
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Completed));
}

#[test]
fn a_cluster_without_endpoints_is_tried_until_the_deadline_and_counts_no_attempt() {
    let mut world = begin(&one(by_id("hotel", &[])));
    let deadline = world.now + 10_000;
    let mut tries = 0;
    while world.now < deadline && !world.in_flight.is_empty() {
        assert_eq!(world.in_flight[0].id.attempt, 1);
        end(&mut world, "hotel", Behaviour::NoEndpoint);
        world.wait_until_due();
        tries += 1;
    }
    assert!(tries > 3, "{tries}");
    world.heal();
    world.check_end();
    let problem = body(&world);
    assert_eq!((&problem["failed_step"], &problem["steps"]["hotel"]), (&json!(""), &json!("rejected")));
    assert_eq!(problem["reason"], "the deadline of 10s passed");
}

#[test]
fn a_cluster_that_has_an_endpoint_again_is_used() {
    let mut world = begin(&one(by_id("hotel", &[])));
    for _ in 0..4 {
        end(&mut world, "hotel", Behaviour::NoEndpoint);
        world.wait_until_due();
    }
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Completed));
}

#[test]
fn an_unknown_cluster_rejects_a_step_at_once() {
    let mut world = begin(&trip());
    end(&mut world, "flight", Behaviour::NoCluster);
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t", "hotel.c"]);
    assert_eq!(body(&world)["failed_step"], "flight");
}

#[test]
fn too_many_requests_is_another_attempt_after_the_time_asked_for() {
    let mut world = begin(&one(by_id("hotel", &[])));
    let before = world.now;
    end(&mut world, "hotel", Behaviour::Unavailable);
    until_sent(&mut world);
    assert!((2_000..=5_000).contains(&(world.now - before)), "{} ms", world.now - before);
    end(&mut world, "hotel", Behaviour::TooMany);
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::TooMany);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t"; 3], "they count, and a step never done needs no compensation");
}

#[test]
fn resolving_waits_as_long_as_the_participant_asked() {
    let mut world = begin(&load(json!({"steps": [by_id("hotel", &[]), by_key("flight", &[])]})));
    end(&mut world, "hotel", Behaviour::DoSilently);
    until_sent(&mut world);
    while !world.in_flight.iter().any(|call| call.id.step == 0) {
        assert!(world.wait_until_due());
    }
    end(&mut world, "hotel", Behaviour::Unavailable);
    let asked = world.now + 2_000;
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    until_sent(&mut world);
    assert_eq!(world.in_flight[0].id, CallId { step: 0, kind: CallKind::Transaction, attempt: 3 });
    assert!(world.now >= asked, "{} ms early", asked - world.now);
    world.heal();
    world.check_end();
}

/// Found by simulation: seed 494.
#[test]
fn resolving_waits_as_long_as_was_asked_at_the_last_attempt() {
    let mut world = begin(&load(json!({"steps": [by_id("hotel", &[])]})));
    for behaviour in [Behaviour::DoSilently, Behaviour::DoSilently, Behaviour::Unavailable] {
        until_sent(&mut world);
        while world.in_flight.is_empty() {
            assert!(world.wait_until_due());
        }
        end(&mut world, "hotel", behaviour);
    }
    let asked = world.now + 2_000;
    while world.in_flight.is_empty() {
        world.acknowledge();
        assert!(world.wait_until_due());
    }
    assert_eq!(world.in_flight[0].id, CallId { step: 0, kind: CallKind::Transaction, attempt: 4 });
    assert!(world.now >= asked, "{} ms early", asked - world.now);
    world.heal();
    world.check_end();
}

#[test]
fn a_path_that_no_server_takes_begins_nothing() {
    let mut hotel = by_id("hotel", &[]);
    hotel["compensation"]["path"] = json!("/by-guest/${request.body.guest}");
    let definition = one(hotel);
    assert!(World::begin(&definition, &json!({"guest": "a".repeat(8_000)})).is_ok());
    let refused = World::begin(&definition, &json!({"guest": "a".repeat(9_000)})).err().expect("refused");
    assert!(refused.reason.contains("request.body.guest"), "{}", refused.reason);
}

#[test]
fn the_deadline_compensates_and_names_no_step() {
    let mut world = begin(&trip());
    end(&mut world, "flight", Behaviour::Do);
    world.wait(10_000);
    world.acknowledge();
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t", "flight.c"], "settled steps wait for nobody");
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    world.check_end();
    assert_eq!(body(&world)["failed_step"], "");
}

#[test]
fn a_compensation_waits_for_the_attempt_in_flight() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Refuse);
    world.acknowledge();
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t"]);
    end(&mut world, "flight", Behaviour::Do);
    world.acknowledge();
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t", "flight.c"]);
}

#[test]
fn independent_steps_are_undone_at_once_and_dependent_ones_in_reverse() {
    let steps =
        [by_id("a", &[]), by_id("b", &[]), by_id("c", &["a", "b"]), forward_only("d", &["c"]), by_id("e", &["d"])];
    let mut world = begin(&load(json!({"steps": steps})));
    for step in ["a", "b", "c", "d"] {
        end(&mut world, step, Behaviour::Do);
        world.acknowledge();
    }
    end(&mut world, "e", Behaviour::Refuse);
    world.acknowledge();
    assert_eq!(world.sent_names()[5..], ["c.c"]);
    end(&mut world, "c", Behaviour::Do);
    assert_eq!(world.sent_names()[5..], ["c.c"], "that they are sent is recorded first");
    world.acknowledge();
    assert_eq!(world.sent_names()[5..], ["c.c", "a.c", "b.c"]);
    world.heal();
    world.check_end();
}

#[test]
fn a_compensation_is_tried_until_it_succeeds_and_a_refusal_marks_the_saga_stuck() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    for _ in 0..20 {
        end(&mut world, "hotel", Behaviour::Fail);
        until_sent(&mut world);
    }
    assert!(world.reports.is_empty());
    end(&mut world, "hotel", Behaviour::Refuse);
    assert!(matches!(&world.reports[..], [Report::Stuck { reason }] if reason.contains("`hotel` was refused")));
    let before = world.now;
    until_sent(&mut world);
    assert_eq!(world.now - before, 5_000, "at max_interval, without jitter");
    world.heal();
    world.check_end();
}

#[test]
fn a_saga_that_compensates_for_five_minutes_is_stuck_once() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    let began = world.now;
    while world.now < began + STUCK_AFTER_MS + 60_000 {
        end(&mut world, "hotel", Behaviour::Fail);
        until_sent(&mut world);
    }
    assert_eq!(world.reports.len(), 1);
    let reply = world.reply.clone().expect("the client was told at its time");
    assert_eq!((reply.status, header(&reply.headers, "saga-status")), (504, "compensating"));
    world.heal();
    world.check_end();
}

#[test]
fn a_first_404_is_a_refusal_where_the_transaction_is_known_to_have_succeeded() {
    let gone = |world: &mut World| {
        let id = world.in_flight.remove(0).id;
        let response = ParticipantResponse { code: 404, headers: Vec::new(), body: None };
        world.feed(Event::AttemptEnded { id, result: AttemptResult::Answered(response) });
    };
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    gone(&mut world);
    assert!(world.saga.stuck().is_some());
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::DoSilently);
    until_sent(&mut world);
    gone(&mut world);
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Compensated), "after an attempt of unknown outcome it is a success");
}

#[test]
fn the_client_is_told_that_the_saga_goes_on_five_seconds_past_the_deadline() {
    let mut world = begin(&trip());
    world.wait(10_000);
    world.acknowledge();
    world.wait(4_999);
    assert!(world.reply.is_none());
    world.wait(1);
    let reply = world.reply.clone().expect("answered");
    assert_eq!((reply.status, header(&reply.headers, "saga-status")), (504, "compensating"));
    world.heal();
    world.check_end();
}

#[test]
fn a_request_without_what_the_first_steps_read_begins_nothing() {
    let refused = World::begin(&trip(), &json!({"name": "ann"})).err().expect("refused");
    assert_eq!(refused.step, "hotel");
    assert!(refused.reason.contains("request.body.guest"), "{}", refused.reason);
    assert!(World::begin(&trip(), &json!("not an object")).is_err());
}

#[test]
fn a_template_that_fails_later_rejects_its_step_and_names_the_expression() {
    let mut car = by_id("car", &["hotel"]);
    car["transaction"]["body"] = json!({"class": "${request.body.car.class}"});
    let mut world = begin(&load(json!({"steps": [by_id("hotel", &[]), car]})));
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.c"]);
    let problem = body(&world);
    assert_eq!(problem["failed_step"], "car");
    assert!(problem["reason"].as_str().expect("text").contains("request.body.car.class"), "{problem}");
}

#[test]
fn a_condition_that_is_false_skips_its_step_and_lets_the_next_go() {
    let mut a = by_id("a", &[]);
    a["when"] = json!("has(request.body.flag)");
    let mut world = begin(&load(json!({"steps": [a, by_id("b", &["a"])]})));
    assert_eq!(world.sent_names(), ["b.t"]);
    end(&mut world, "b", Behaviour::Do);
    world.heal();
    world.check_end();
    assert_eq!(body(&world)["steps"], json!({"a": "skipped", "b": "succeeded"}));
}

#[test]
fn a_reply_that_cannot_be_rendered_becomes_the_default_body_with_the_configured_status() {
    let definition = load(json!({
        "steps": [by_id("hotel", &[])],
        "reply": {"completed": {"status": 202, "body": {"x": "${request.body.missing}"}}},
    }));
    let mut world = begin(&definition);
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    let reply = world.reply.clone().expect("answered");
    assert_eq!((reply.status, &body(&world)["saga_status"]), (202, &json!("completed")));
    assert!(matches!(&world.reports[..], [Report::ReplyNotRendered { .. }]));
}

#[test]
fn an_answer_of_204_has_no_body() {
    let definition = load(json!({"steps": [by_id("hotel", &[])], "reply": {"completed": {"status": 204}}}));
    let mut world = begin(&definition);
    end(&mut world, "hotel", Behaviour::Do);
    world.heal();
    let reply = world.reply.expect("answered");
    assert_eq!((reply.status, reply.body), (204, None));
}

#[test]
fn only_what_templates_read_is_kept() {
    let body = json!({"guest": "ann", "secret": "x".repeat(10_000)});
    let world = World::begin(&trip(), &body).expect("begins");
    let begun = world.saga.progress().begun.as_ref().expect("begun");
    assert!(begun.request.to_string().contains("ann"));
    assert!(!begun.request.to_string().contains("xxx"));
}
