//! Random runs. 100,000 cases in all, of at most 64 events each.

use proptest::prelude::*;
use serde_json::json;

use super::super::*;
use super::definitions;
use super::world::{Behaviour, World};

#[derive(Clone, Debug)]
enum Op {
    Acknowledge,
    EndAttempt(usize, Behaviour),
    Wait(u64),
    WaitUntilDue,
    /// The owner goes, with its outstanding record written or not, and another resumes the saga.
    Crash(Behaviour, bool),
    /// An acknowledgement that nobody waits for.
    StrayAcknowledgement(u64),
    /// The end of an attempt that is not under way.
    StrayAnswer(usize, u32),
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    use Behaviour::*;
    let all = [
        Do,
        DoWithoutId,
        DoSilently,
        Lose,
        Fail,
        DoButTimeOut,
        Refuse,
        Conflict,
        TooMany,
        Unavailable,
        NoEndpoint,
        NoCluster,
        NoRoute,
        Forbidden,
    ];
    prop_oneof![3 => Just(Do), 4 => proptest::sample::select(all.to_vec())]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Acknowledge),
        8 => (0..8_usize, behaviour()).prop_map(|(index, behaviour)| Op::EndAttempt(index, behaviour)),
        2 => (0..3_000_u64).prop_map(Op::Wait),
        3 => Just(Op::WaitUntilDue),
        1 => (behaviour(), any::<bool>()).prop_map(|(behaviour, kept)| Op::Crash(behaviour, kept)),
        1 => (0..10_u64).prop_map(Op::StrayAcknowledgement),
        1 => (0..7_usize, 0..5_u32).prop_map(|(step, attempt)| Op::StrayAnswer(step, attempt)),
    ]
}

fn run(definition: &Arc<Definition>, flag: bool, ops: &[Op]) {
    let body = if flag { json!({"guest": "ann", "flag": 1, "car": "mini"}) } else { json!({"guest": "ann"}) };
    let mut world = World::begin(definition, &body).expect("the request has what is read");
    for op in ops {
        if world.ended.is_some() {
            break;
        }
        match op {
            Op::Acknowledge => world.acknowledge(),
            Op::EndAttempt(index, behaviour) => world.end_attempt(*index, *behaviour),
            Op::Wait(ms) => world.wait(*ms),
            Op::WaitUntilDue => {
                world.wait_until_due();
            }
            Op::Crash(behaviour, record_is_kept) => world.crash(*behaviour, *record_is_kept),
            Op::StrayAcknowledgement(sequence) => stray_acknowledgement(&mut world, *sequence),
            Op::StrayAnswer(step, attempt) => stray_answer(&mut world, *step, *attempt),
        }
    }
    world.heal();
    world.check_end();
}

fn stray_acknowledgement(world: &mut World, sequence: u64) {
    if world.outstanding.as_ref().is_none_or(|record| record.sequence != sequence) {
        world.feed_illegal(Event::Written { sequence });
    }
}

fn stray_answer(world: &mut World, step: usize, attempt: u32) {
    for kind in [CallKind::Transaction, CallKind::Compensation] {
        let id = CallId { step, kind, attempt };
        if !world.in_flight.iter().any(|call| call.id == id) {
            world.feed_illegal(Event::AttemptEnded { id, result: AttemptResult::NoAnswer });
        }
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Runs cases of random graphs: `family` and the number of graphs tell which.
fn random_graphs(family: u64, count: u32) {
    const GRAPHS: u64 = 32;
    let graphs: Vec<_> = (0..GRAPHS).map(|seed| definitions::random(family * GRAPHS + seed)).collect();
    let strategy = (0..GRAPHS as usize, any::<bool>(), proptest::collection::vec(op(), 0..=64));
    let mut runner = proptest::test_runner::TestRunner::new(cases(count));
    let outcome = runner.run(&strategy, |(graph, flag, ops)| {
        run(&graphs[graph], flag, &ops);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn every_trip_ends_completed_or_compensated_once_faults_stop() {
    let trip = definitions::trip();
    let strategy = (any::<bool>(), proptest::collection::vec(op(), 0..=64));
    let mut runner = proptest::test_runner::TestRunner::new(cases(40_000));
    let outcome = runner.run(&strategy, |(flag, ops)| {
        run(&trip, flag, &ops);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn every_random_graph_ends_completed_or_compensated_once_faults_stop_1() {
    random_graphs(1, 30_000);
}

#[test]
fn every_random_graph_ends_completed_or_compensated_once_faults_stop_2() {
    random_graphs(2, 30_000);
}
