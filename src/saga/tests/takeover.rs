//! A saga whose owner has gone, rule by rule.

use serde_json::json;

use super::super::*;
use super::definitions::{by_id, by_key, load, trip};
use super::world::{Behaviour, World, begin, end, header, until_sent};
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
