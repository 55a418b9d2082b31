//! Every fault, on every step of the trip, on transactions and on compensations, through a real Envoy.
//!
//! Each saga is for a guest of its own, and all of a test run at the same time. What each must come to is told by a
//! small model of the rules; whether it has is seen in the participants' databases and in what they received.

#[path = "trip_faults/cell.rs"]
mod cell;
#[path = "trip_faults/model.rs"]
mod model;
#[path = "trip_faults/pairwise.rs"]
mod pairwise;
#[path = "trip_faults/run.rs"]
mod run;

use cell::{Cell, Kind, Often};
use harness::participant::Action;
use harness::trip::{BodyMode, Downstream, STEPS, Trip};
use run::{Outcome, check, letters, run};

const ACTIONS: [Action; 2] = [Action::Transaction, Action::Compensation];
const OFTEN: [Often; 2] = [Often::Once, Often::Lastingly];

#[tokio::test]
async fn every_fault_on_every_step_ends_balanced_and_as_the_client_was_told() {
    let trip = Trip::start().await.unwrap();
    let mut cells = Vec::new();
    for kind in Kind::ALL {
        for (step, action, often) in columns() {
            cells.push((Cell::new(kind, step, action, often), Downstream::PLAIN));
        }
    }
    let outcomes = run(&trip, cells).await;
    print_matrix(&outcomes);
    check(&trip, &outcomes).await;
}

/// The columns of the matrix.
fn columns() -> Vec<(&'static str, Action, Often)> {
    let of_step = |step| ACTIONS.into_iter().flat_map(move |action| OFTEN.map(|often| (step, action, often)));
    STEPS.into_iter().flat_map(of_step).collect()
}

fn print_matrix(outcomes: &[Outcome]) {
    println!("S succeeded, C compensated, R rejected, - not started: hotel, flight, car");
    let heads = columns().into_iter().map(|(step, action, often)| {
        let often = if often == Often::Once { "once" } else { "all" };
        format!("{:>9}", format!("{}.{} {often}", &step[..1], if action == Action::Transaction { "t" } else { "c" }))
    });
    println!("{:<16}{}", "", heads.collect::<String>());
    for (kind, row) in Kind::ALL.into_iter().zip(outcomes.chunks(columns().len())) {
        let row: String = row.iter().map(|outcome| format!("{:>9}", letters(outcome))).collect();
        println!("{:<16}{row}", format!("{kind:?}"));
    }
}

#[tokio::test]
async fn after_an_unknown_outcome_only_the_participants_own_word_is_a_rejection() {
    use Kind::{ApplyNoAnswer, Error500After, Error500Before, NoRoute, NotJson, Refuse, TooMany429, Unavailable503};
    let trip = Trip::start().await.unwrap();
    let sequences: [&[Kind]; 13] = [
        &[Error500Before, Refuse],
        &[TooMany429, Error500Before, Refuse],
        &[Error500Before, TooMany429, Unavailable503],
        // Refused when it is asked what has become of it: then there is nothing to undo.
        &[Error500Before, Error500Before, Error500Before, Error500Before, Refuse],
        // The path answers for a while: before anything was sent, once it may have been done, while that is asked.
        &[NoRoute],
        &[TooMany429, NoRoute],
        &[Error500After, NoRoute, NoRoute],
        &[Error500After, Error500Before, Error500Before, NoRoute, NoRoute, NoRoute],
        &[Error500Before, NoRoute, Refuse],
        &[Error500Before, Error500Before, Error500Before, NoRoute, Refuse],
        &[TooMany429, Unavailable503, TooMany429],
        &[Unavailable503, Refuse],
        &[ApplyNoAnswer, NotJson],
    ];
    let cells =
        STEPS.into_iter().flat_map(|step| sequences.map(|kinds| (Cell::sequence(step, kinds), Downstream::PLAIN)));
    let outcomes = run(&trip, cells.collect()).await;
    for outcome in &outcomes {
        println!("{:<80}{}", outcome.guest, letters(outcome));
    }
    check(&trip, &outcomes).await;
}

/// Every pair of fault, step, action, how often, listener, version of HTTP, trailers and number of workers.
#[tokio::test]
async fn faults_come_to_the_same_however_the_client_comes() {
    let few = Trip::start_with(|envoy| envoy.workers(1));
    let many = Trip::start_with(|envoy| envoy.workers(4));
    let trips: [Trip; 2] = tokio::try_join!(few, many).unwrap().into();
    let mut cells = [Vec::new(), Vec::new()];
    for row in pairwise::covering_array(&[Kind::ALL.len(), STEPS.len(), 2, 2, 2, 2, 2, trips.len()]) {
        let cell = Cell::new(Kind::ALL[row[0]], STEPS[row[1]], ACTIONS[row[2]], OFTEN[row[3]]);
        let downstream = Downstream { mode: BodyMode::ALL[row[4]], http2: row[5] == 1, trailers: row[6] == 1 };
        cells[row[7]].push((cell, downstream));
    }
    let [with_few, with_many] = cells;
    let (with_few, with_many) = tokio::join!(run(&trips[0], with_few), run(&trips[1], with_many));
    check(&trips[0], &with_few).await;
    check(&trips[1], &with_many).await;
}
