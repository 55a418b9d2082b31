//! A saga whose owner has gone, rule by rule.

use serde_json::json;

use super::super::*;
use super::definitions::{by_id, by_key, load, trip};
use super::world::{Behaviour, World, begin, end, header, until_sent, until_sent_and_written};
use crate::facts::ParticipantResponse;

#[test]
fn what_was_in_flight_is_sent_again_under_its_key_in_another_epoch() {
    let mut world = begin(&trip());
    let keys = |calls: &[OutgoingCall]| -> Vec<String> {
        calls.iter().map(|call| header(&call.headers, "idempotency-key").to_owned()).collect()
    };
    let before = keys(&world.in_flight);
    end(&mut world, "hotel", Behaviour::Do);
    world.crash(Behaviour::DoSilently, true);
    until_sent(&mut world);
    assert_eq!(keys(&world.in_flight), before, "of what was answered nothing had been recorded");
    assert!(world.in_flight.iter().all(|call| header(&call.headers, "saga-epoch") == "2"));
    world.heal();
    world.check_end();
    assert_eq!(world.ended, Some(SagaState::Completed));
}

#[test]
fn past_the_deadline_what_was_in_flight_is_undone_where_that_is_possible_without_its_answer() {
    let mut world = begin(&load(json!({"steps": [by_key("a", &[])]})));
    world.now += 60_000;
    world.crash(Behaviour::Do, true);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["a.t", "a.c"]);
}

#[test]
fn past_the_deadline_what_was_in_flight_is_resolved_where_its_answer_is_needed() {
    let mut world = begin(&load(json!({"steps": [by_id("a", &[])]})));
    world.now += 60_000;
    world.crash(Behaviour::Do, true);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["a.t", "a.t", "a.c"]);
}

#[test]
fn what_a_saga_was_told_to_do_before_it_was_recorded_is_decided_anew() {
    let mut world = begin(&trip());
    end(&mut world, "hotel", Behaviour::Do);
    end(&mut world, "flight", Behaviour::Do);
    // The end was decided, but the journal never had it.
    world.crash(Behaviour::Lose, false);
    assert_eq!(world.saga.state(), SagaState::Running);
    world.heal();
    world.check_end();
}

/// The journal may take what failed, and not yet what follows from it, where both are too large for one record.
#[test]
fn what_failed_first_is_what_the_records_say() {
    let world = begin(&trip());
    let mut progress = world.saga.progress().clone();
    let used_up = Change::Attempted { step: 0, sent: 3, unknown: true };
    let settlement = record::Settlement::Rejected { reason: "no seat".to_owned() };
    for change in [used_up, Change::Settled { step: 1, settlement }] {
        progress.apply(&change).unwrap();
    }
    let definition = Arc::clone(world.saga.definition());
    let resume = Resume { definition, progress, sequence: 2, epoch: 2, bounds: Bounds::NONE };
    let (saga, _) = Saga::resume(resume, world.now).unwrap();
    assert!(saga.progress().steps[0].settled_unknown, "it is given up as well");
    assert_eq!(saga.progress().cause.as_ref().unwrap().failed_step, Some(1));
}

#[test]
fn records_of_another_definition_are_refused() {
    let world = begin(&trip());
    let resume = |definition: Arc<Definition>, progress: Progress| {
        Saga::resume(Resume { definition, progress, sequence: 1, epoch: 2, bounds: Bounds::NONE }, world.now)
            .map(|_| ())
            .unwrap_err()
    };
    let other = load(json!({"steps": [by_id("a", &[])]}));
    let why = resume(other, world.saga.progress().clone()).to_string();
    assert!(why.contains("hotel, flight"), "{why}");
    let names = ["hotel", "flight"];
    let definition = Arc::clone(world.saga.definition());
    let names: Vec<&str> = definition.steps.iter().map(|step| step.name.as_str()).chain(names).collect();
    let never = Progress::new(names.into_iter().take(definition.steps.len()));
    assert_eq!(resume(definition, never), NotResumable::NeverBegun);
}

/// A route that is missing in the mesh answers 404, too: only what may have been sent before may be gone.
#[test]
fn an_owner_that_takes_over_knows_which_compensations_were_not_sent() {
    let steps = [by_id("a", &[]), by_id("b", &["a"]), by_id("c", &["b"])];
    let mut world = begin(&load(json!({"steps": steps})));
    for step in ["a", "b"] {
        end(&mut world, step, Behaviour::Do);
        world.acknowledge();
    }
    end(&mut world, "c", Behaviour::Refuse);
    world.acknowledge();
    assert_eq!(world.sent_names()[3..], ["b.c"]);
    world.crash(Behaviour::Do, true);
    let not_found = |world: &mut World, step: &str| {
        until_sent(world);
        assert_eq!(header(&world.in_flight[0].headers, "saga-step"), step);
        let id = world.in_flight.remove(0).id;
        let response = ParticipantResponse { code: 404, headers: Vec::new(), body: None };
        world.feed(Event::AttemptEnded { id, result: AttemptResult::Answered(response) });
        world.acknowledge();
    };
    while world.saga.progress().steps[1].state == StepState::Compensating {
        not_found(&mut world, "b");
    }
    assert_eq!(world.saga.progress().steps[1].state, StepState::Compensated);
    assert!(matches!(world.reports.as_slice(), [Report::NothingToUndo { .. }]), "{:?}", world.reports);
    not_found(&mut world, "a");
    assert_eq!(world.saga.progress().steps[0].state, StepState::Compensating);
    assert!(matches!(world.reports.last(), Some(Report::Stuck { .. })), "{:?}", world.reports);
    world.heal();
    world.check_end();
}

/// Seen: takeover and compensation in the same millisecond, while the participant works on the dead owner's attempt.
#[test]
fn a_dead_owners_attempt_is_under_way_until_its_timeout_after_the_takeover() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["per_try_timeout"] = json!("3s");
    let mut world = begin(&load(json!({"steps": [hotel, by_key("flight", &[])]})));
    end(&mut world, "flight", Behaviour::Refuse);
    world.acknowledge();
    world.crash(Behaviour::DoSilently, true);
    let taken_over = world.now;
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t"], "it is neither undone nor sent again");
    until_sent_and_written(&mut world);
    assert_eq!(world.sent_names(), ["hotel.t", "flight.t", "hotel.c"]);
    assert_eq!(world.now, taken_over + 3_000);
    world.heal();
    world.check_end();
}

#[test]
fn what_comes_before_a_dead_owners_attempt_is_undone_after_it() {
    let steps = [by_key("a", &[]), super::definitions::forward_only("b", &["a"]), by_key("c", &[])];
    let mut world = begin(&load(json!({"steps": steps})));
    end(&mut world, "a", Behaviour::Do);
    world.acknowledge();
    end(&mut world, "c", Behaviour::Refuse);
    world.acknowledge();
    assert_eq!(world.sent_names(), ["a.t", "c.t", "b.t"]);
    world.crash(Behaviour::Do, true);
    let taken_over = world.now;
    until_sent_and_written(&mut world);
    assert_eq!(world.sent_names().last().map(String::as_str), Some("a.c"));
    assert_eq!(world.now, taken_over + 5_000, "b may be worked on until then");
}

#[test]
fn max_attempts_are_those_of_the_saga_not_of_its_owner() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["retry"] = json!({"max_attempts": 4, "max_interval": "100ms"});
    let mut world = begin(&load(json!({"steps": [hotel]})));
    for _ in 0..2 {
        until_sent(&mut world);
        end(&mut world, "hotel", Behaviour::Lose);
    }
    // Two attempts are written down within a second, though nothing awaits that.
    world.now += 1_000;
    world.feed(Event::Due);
    world.acknowledge();
    until_sent(&mut world);
    world.crash(Behaviour::Lose, true);
    until_sent(&mut world);
    assert_eq!(world.in_flight[0].id.attempt, 3, "{:?}", world.in_flight);
    end(&mut world, "hotel", Behaviour::Lose);
    until_sent(&mut world);
    end(&mut world, "hotel", Behaviour::Lose);
    world.acknowledge();
    assert_eq!(world.saga.state(), SagaState::Compensating);
    world.heal();
    world.check_end();
}

#[test]
fn an_owner_that_takes_over_a_last_attempt_makes_no_other() {
    let mut hotel = by_key("hotel", &[]);
    hotel["transaction"]["retry"] = json!({"max_attempts": 1});
    let mut world = begin(&load(json!({"steps": [hotel]})));
    world.crash(Behaviour::Do, true);
    world.heal();
    world.check_end();
    assert_eq!(world.sent_names(), ["hotel.t", "hotel.c"]);
    let sent_at = world.now;
    assert!(sent_at >= 1_005_000, "and undoes it only once that may be over: {sent_at}");
}

/// A compensation that was rendered before its transaction went out is in the record of that step.
#[test]
fn a_compensation_is_recorded_before_its_transaction_is_sent_and_never_rendered_again() {
    let world = begin(&load(json!({"steps": [by_key("hotel", &[]), by_id("flight", &[])]})));
    let recorded = |index: usize| world.saga.progress().steps[index].compensation.as_ref();
    assert!(recorded(0).is_some_and(|request| request.path.contains("by-key")));
    assert!(recorded(1).is_none(), "it needs the answer");
    let Some(record) = world.records().first() else { panic!("begun") };
    assert!(serde_json::to_string(record).expect("JSON").contains("by-key"));
}
