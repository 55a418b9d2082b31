//! Sequences that ended wrong: each was found by a reader, and mended.

use serde_json::json;

use super::super::*;
use super::definitions::{by_id, by_key, load};
use super::world::{Behaviour, World, answered, begin, end, end_as, until_sent, until_sent_and_written};
use crate::facts::ParticipantResponse;

fn booked(bytes: usize) -> AttemptResult {
    let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
    let body = json!({"id": "b1", "terms": "x".repeat(bytes)}).to_string();
    AttemptResult::Answered(ParticipantResponse { code: 201, headers, body: Some(body.into_bytes()) })
}

/// Two takeovers within one attempt's timeout.
#[test]
fn a_second_takeover_awaits_what_the_first_owner_had_under_way() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["per_try_timeout"] = json!("30s");
    hotel["transaction"]["retry"] = json!({"max_attempts": 1});
    let mut world = begin(&load(json!({"steps": [hotel]})));
    let sent_at = world.now;
    world.wait(1_000);
    world.crash(Behaviour::DoSilently, true); // epoch 2 gives up: settled unknown, compensating
    world.acknowledge();
    assert_eq!(world.sent_names(), ["hotel.t"], "epoch 2 waits");
    world.wait(1_000);
    world.crash(Behaviour::Lose, true);
    until_sent_and_written(&mut world);
    assert!(world.now >= sent_at + 30_000, "compensated after {} ms", world.now - sent_at);
}

/// The same where it was sent again and came to unknown at once.
#[test]
fn a_second_takeover_awaits_it_too_where_it_was_sent_again() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["per_try_timeout"] = json!("30s");
    hotel["transaction"]["retry"] = json!({"max_attempts": 2});
    let mut world = begin(&load(json!({"steps": [hotel]})));
    let sent_at = world.now;
    world.crash(Behaviour::DoSilently, true);
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::Lose);
    world.acknowledge();
    assert_eq!(world.saga.state(), SagaState::Compensating);
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.t"], "epoch 2 waits");
    world.crash(Behaviour::Lose, true);
    until_sent_and_written(&mut world);
    assert!(world.now >= sent_at + 30_000, "compensated after {} ms", world.now - sent_at);
}

/// A 404 that was certainly the path's was counted as the first of two.
#[test]
fn a_404_that_was_a_refusal_does_not_count_later() {
    let mut hotel = by_id("hotel", &[]);
    hotel["compensation"]["retry"] = json!({"max_interval": "30s"});
    let mut world = begin(&load(json!({"steps": [hotel, by_id("flight", &[])]})));
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    assert_eq!(world.sent_names().last().unwrap(), "hotel.c");
    answered(&mut world, "hotel", 404); // no route; the hotel is certainly booked
    until_sent_and_written(&mut world);
    end_as(&mut world, "hotel", AttemptResult::NoAnswer); // reset
    world.acknowledge();
    until_sent_and_written(&mut world);
    let mut after = 0;
    while world.saga.progress().steps[0].state == StepState::Compensating && after < 5 {
        until_sent_and_written(&mut world);
        answered(&mut world, "hotel", 404);
        after += 1;
        world.acknowledge();
    }
    assert!(after > 1, "one 404 after the only attempt that may have been applied");
}

/// The deadline passes while a record that is too large is outstanding.
#[test]
fn a_step_that_was_about_to_start_when_the_deadline_passed_is_made_small() {
    let mut car = by_id("car", &["hotel"]);
    car["transaction"]["body"] = json!({"terms": "${steps.hotel.response.body.terms}"});
    let definition = load(json!({"steps": [by_id("hotel", &[]), car], "deadline": "10s"}));
    let bounds = Bounds { record_bytes: 100_000, saga_bytes: 300_000 };
    let mut world = World::begin_within(bounds, &definition, &json!({"guest": "ann"})).expect("begins");
    world.acknowledge();
    world.takes_bytes = 5_000; // etcd is set to take less
    end_as(&mut world, "hotel", booked(9_000));
    world.wait(10_000); // etcd says nothing until the deadline
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Compensated), "stuck: {:?}", world.saga.stuck());
}

/// An owner that takes an unknown step over counts no attempt.
#[test]
fn an_unknown_step_whose_attempts_were_not_recorded_is_not_sent_past_its_keys_lifetime() {
    let mut hotel = by_id("hotel", &[]);
    hotel["transaction"]["key_lifetime"] = json!("1h");
    hotel["transaction"]["retry"] = json!({"max_attempts": 1});
    let definition = load(json!({"steps": [hotel, by_key("flight", &[])],
        "reply": {"completed": {"status": 201, "body": "${steps.flight.response.body.terms}"}}}));
    for record_bytes in (4_000..9_000).step_by(100) {
        let bounds = Bounds { record_bytes, saga_bytes: 300_000 };
        let mut world = World::begin_within(bounds, &definition, &json!({"guest": "ann"})).expect("begins");
        world.acknowledge();
        let first = world.now;
        end_as(&mut world, "flight", booked(record_bytes - 2_000));
        end(&mut world, "hotel", Behaviour::DoSilently);
        world.acknowledge();
        if world.saga.progress().steps[0].state != StepState::InFlight
            && world.saga.progress().steps[0].state != StepState::Unknown
        {
            continue;
        }
        world.crash(Behaviour::Lose, false);
        for _ in 0..100_000 {
            if world.now > first + 2 * 3_600_000 || world.saga.stuck().is_some_and(|s| s.contains("too long ago")) {
                break;
            }
            if world.outstanding.is_some() {
                world.acknowledge();
            } else if !world.in_flight.is_empty() {
                let index = world.in_flight.iter().position(|call| call.id.step == 0);
                match index {
                    Some(index) => world.end_attempt(index, Behaviour::NoEndpoint),
                    None => world.end_attempt(0, Behaviour::Do),
                }
            } else if !world.wait_until_due() {
                break;
            }
        }
    }
}

/// Requests were not counted against what a takeover can read.
#[test]
fn what_steps_send_is_bounded_for_the_saga_too() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let steps: Vec<_> = names
        .iter()
        .map(|name| {
            let mut step = by_key(name, &[]);
            step["compensation"]["method"] = json!("POST");
            step["compensation"]["body"] = json!({"guest": "${request.body.guest}"});
            step
        })
        .collect();
    let definition = load(json!({"steps": steps}));
    let bounds = Bounds { record_bytes: 10_000, saga_bytes: 30_000 };
    let refused = World::begin_within(bounds, &definition, &json!({"guest": "x".repeat(3_000)}));
    assert!(refused.err().is_some_and(|refused| refused.is_too_large));
    assert!(World::begin_within(bounds, &definition, &json!({"guest": "x".repeat(1_000)})).is_ok());
}

/// Attempts past the eighth were counted anew.
#[test]
fn max_attempts_hold_over_takeovers() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["retry"] = json!({"max_attempts": 15, "base_interval": "1s", "max_interval": "1s"});
    let mut world = begin(&load(json!({"steps": [hotel], "deadline": "1h"})));
    let mut sent = 0;
    for _ in 0..4 {
        for _ in 0..7 {
            while world.in_flight.is_empty() && world.saga.state() == SagaState::Running {
                if world.outstanding.is_some() {
                    world.acknowledge()
                } else {
                    world.wait_until_due();
                }
            }
            if world.saga.state() != SagaState::Running {
                break;
            }
            end(&mut world, "hotel", Behaviour::Lose);
            sent += 1;
            world.wait(1_500);
            world.acknowledge();
            world.acknowledge();
        }
        world.crash(Behaviour::Lose, true);
    }
    assert!(sent <= 15 + 4, "{sent} attempts with 4 takeovers, none within 1.5 s of an attempt's end");
}

/// The journal takes the end only later, and the mark `stuck` was made after it.
#[test]
fn nothing_is_written_after_the_end() {
    let definition = load(json!({"steps": [by_key("hotel", &[])]}));
    let mut cut = Vec::new();
    for record_bytes in (1_000..4_000).step_by(20) {
        let bounds = Bounds { record_bytes, saga_bytes: 40_000 };
        let Ok(mut world) = World::begin_within(bounds, &definition, &json!({"guest": "ann"})) else { continue };
        while world.in_flight.is_empty() {
            world.acknowledge();
        }
        end(&mut world, "hotel", Behaviour::Do);
        while world.outstanding.as_ref().is_some_and(|record| !record.ends()) {
            world.acknowledge();
        }
        for _ in 0..3 {
            if world.outstanding.is_none() {
                world.wait(5_000);
            }
            if world.outstanding.is_some() {
                world.refuse_as_too_large();
            }
        }
        world.wait(5_000);
        let ends = world.outstanding.as_ref().is_some_and(|record| record.ends());
        if ends && !world.saga.wal.unwritten().is_empty() {
            cut.push((record_bytes, world.saga.wal.unwritten().to_vec()));
        }
    }
    assert!(cut.is_empty(), "{} of them, as {:?}", cut.len(), cut[0]);
}

/// A parallel step fails while a record that is too large is on its way.
#[test]
fn a_step_that_was_about_to_start_when_another_failed_is_made_small() {
    let mut car = by_id("car", &["hotel"]);
    car["transaction"]["body"] = json!({"terms": "${steps.hotel.response.body.terms}"});
    let definition = load(json!({"steps": [by_id("hotel", &[]), by_id("flight", &[]), car]}));
    let bounds = Bounds { record_bytes: 100_000, saga_bytes: 300_000 };
    let mut world = World::begin_within(bounds, &definition, &json!({"guest": "ann"})).expect("begins");
    world.acknowledge();
    world.takes_bytes = 5_000; // etcd is set to take less
    end_as(&mut world, "hotel", booked(9_000));
    end(&mut world, "flight", Behaviour::Refuse);
    world.heal();
    assert_eq!(world.ended, Some(SagaState::Compensated), "stuck: {:?}", world.saga.stuck());
}

/// etcd takes less than the bounds say: each of two results fits, both together do not.
#[test]
fn a_record_refused_as_too_large_is_cut_where_that_helps() {
    let steps = ["hotel", "flight"].map(|name| {
        let mut step = by_id(name, &[]);
        step["compensation"]["method"] = json!("POST");
        step["compensation"]["body"] = json!({"pad": "y".repeat(3_000)});
        step
    });
    let mut car = by_id("car", &["hotel", "flight"]);
    car["when"] = json!("has(request.body.car)");
    let definition = load(json!({"steps": [steps[0], steps[1], car]}));
    let bounds = Bounds { record_bytes: 100_000, saga_bytes: 300_000 };
    let mut world = World::begin_within(bounds, &definition, &json!({"guest": "ann", "car": 1})).expect("begins");
    world.acknowledge();
    world.takes_bytes = 5_000;
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Do);
    let until = world.now + 3_600_000;
    while world.ended.is_none() && world.now < until {
        world.acknowledge();
        if world.in_flight.is_empty() {
            world.wait_until_due();
        } else {
            world.end_attempt(0, Behaviour::Do);
        }
    }
    assert!(world.ended.is_some(), "within an hour; stuck: {:?}", world.saga.stuck());
}

/// As the first two, where the attempt that was sent again was answered.
#[test]
fn a_second_takeover_awaits_it_where_the_second_attempt_succeeded() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["per_try_timeout"] = json!("30s");
    let mut world = begin(&load(json!({"steps": [hotel, by_key("flight", &[])]})));
    let sent_at = world.now;
    world.crash(Behaviour::Lose, true);
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    assert_eq!(world.sent.len(), 4, "epoch 2 waits");
    world.crash(Behaviour::Lose, true);
    until_sent_and_written(&mut world);
    assert!(world.now >= sent_at + 30_000, "compensated after {} ms", world.now - sent_at);
}

/// It was told nobody: only while it compensates was a saga looked at for being stuck.
#[test]
fn an_end_that_the_journal_does_not_take_is_told_to_the_operator() {
    let mut world = begin(&load(json!({"steps": [by_key("hotel", &[])]})));
    end(&mut world, "hotel", Behaviour::Do);
    assert_eq!((world.saga.state(), world.ended), (SagaState::Completed, None));
    let decided_at = world.now;
    while world.reports.is_empty() && world.wait_until_due() {}
    assert!(matches!(world.reports.as_slice(), [Report::Stuck { .. }]), "{:?}", world.reports);
    assert_eq!((world.now - decided_at, world.saga.next_due()), (STUCK_AFTER_MS, None));
    world.acknowledge();
    assert_eq!(world.ended, Some(SagaState::Completed));
}
