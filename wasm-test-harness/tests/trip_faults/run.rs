//! Runs many cells at the same time through one Envoy, and compares each with what it must come to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use harness::loopback::Answer;
use harness::participant::Action;
use harness::trip::{Downstream, History, STEPS, Trip, TripRequest, per_try_timeout};

use super::cell::Cell;
use super::model::{Expected, ExpectedStep, expected};

/// Before this a client would be told that its saga is not over.
const CLIENT_GIVES_UP: u64 = 15_000;

/// How a cell came out.
pub struct Outcome {
    pub guest: String,
    pub expected: Expected,
    /// Empty where it is as it must be.
    pub wrong: Vec<String>,
    /// What the participants saw and the client was told.
    shown: String,
}

/// Runs all cells at once, each over its own connection. Compares, but does not judge: see [`check`].
pub async fn run(trip: &Trip, cells: Vec<(Cell, Downstream)>) -> Vec<Outcome> {
    let began = Instant::now();
    let booking = cells.into_iter().map(|(cell, downstream)| async move {
        let expected = expected(&cell);
        for Expected { takes, .. } in &expected {
            assert!(takes + 1_000 < CLIENT_GIVES_UP, "{} takes {takes} ms", cell.guest);
        }
        cell.order(trip).unwrap();
        let request = TripRequest::of(&cell.guest).with_car();
        let answer = trip.begin(&request, downstream).unwrap().answer().await;
        (cell, downstream, expected, answer)
    });
    let answered = join_all(booking).await;
    trip.wait_until_quiet(Duration::from_millis(700), Duration::from_secs(20)).await.unwrap();
    let mut histories = trip.histories().unwrap();
    let mut outcomes = Vec::new();
    for (cell, downstream, expected, answer) in answered {
        let history = histories.remove(&cell.guest);
        let wrong_of = |expected: Expected| {
            let wrong = match (&answer, &history) {
                (Err(error), _) => vec![format!("no answer: {error:#}")],
                (Ok(_), None) => vec!["no participant was asked for anything".to_owned()],
                (Ok(answer), Some(history)) => wrong(&expected, answer, history),
            };
            (expected, wrong)
        };
        let [usual, at_the_edge] = expected.map(wrong_of);
        let (expected, wrong) = if at_the_edge.1.is_empty() && !usual.1.is_empty() { at_the_edge } else { usual };
        let answer = answer.as_ref().map_or_else(|_| "none".to_owned(), show);
        let table = history.map_or(format!("{}\n", cell.guest), |history| history.table());
        let shown = format!("{table}  over {downstream:?}\n  answer: {answer}\n");
        outcomes.push(Outcome { guest: cell.guest, expected, wrong, shown });
    }
    println!("{} sagas in {:.1} s", outcomes.len(), began.elapsed().as_secs_f64());
    outcomes
}

/// Every cell came to what it must, and the filter counted what it should have.
///
/// # Panics
/// Not so: with every cell that did not, and what its participants saw.
pub async fn check(trip: &Trip, outcomes: &[Outcome]) {
    let mut report = String::new();
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).collect();
    for outcome in &failed {
        report += &format!("\n{}", outcome.shown);
        report += &outcome.wrong.iter().map(|wrong| format!("  WRONG: {wrong}\n")).collect::<String>();
    }
    assert!(failed.is_empty(), "{} of {} sagas did not come to what they must\n{report}", failed.len(), outcomes.len());
    let count = |holds: fn(&Expected) -> bool| outcomes.iter().filter(|one| holds(&one.expected)).count() as u64;
    let counters = [
        ("sagas_stuck", count(|expected| expected.stuck)),
        ("replies_not_rendered", count(|expected| !expected.reply_renders)),
    ];
    for (name, expected) in counters {
        assert_eq!(trip.counter(name).await.unwrap(), expected, "{name}");
    }
    trip.check_filter_is_well().await.unwrap();
    trip.check_nothing_applied_twice().unwrap();
}

fn show(answer: &Answer) -> String {
    format!("{} {:?} {}", answer.status, answer.headers, answer.text())
}

fn wrong(expected: &Expected, answer: &Answer, history: &History) -> Vec<String> {
    let mut wrong = history.broken_rules(answer.header("saga-id"), per_try_timeout);
    let mut equal = |what: &str, found: String, expected: String| {
        if found != expected {
            wrong.push(format!("{what}: {found}, expected {expected}"));
        }
    };
    equal("held", format!("{:?}", history.held()), format!("{:?}", expected.held()));
    for (step, expected) in STEPS.into_iter().zip(&expected.steps) {
        let count = |action| history.calls(step, action).len();
        equal(
            &format!("attempts of {step}, and of its compensation"),
            format!("{} and {}", count(Action::Transaction), count(Action::Compensation)),
            format!("{} and {}", expected.transactions, expected.compensations),
        );
        for action in [Action::Transaction, Action::Compensation] {
            let numbers = history.calls(step, action);
            let numbers: Vec<u32> = numbers.iter().filter_map(|attempt| attempt.attempt).collect();
            let gapless: Vec<u32> = (1..).take(numbers.len()).collect();
            equal("saga-attempt", format!("{numbers:?}"), format!("{gapless:?}"));
        }
    }
    let status = if expected.completed { ("201", "completed") } else { ("409", "compensated") };
    let found = (answer.status.as_str(), answer.header("saga-status").unwrap_or("none"));
    equal("answer", format!("{found:?}"), format!("{status:?}"));
    for (what, found, expected) in body(expected, answer, history) {
        equal(what, found, expected);
    }
    wrong
}

/// What the body must say: each with a name, as it is and as it must be.
fn body(expected: &Expected, answer: &Answer, history: &History) -> Vec<(&'static str, String, String)> {
    let Ok(body) = answer.json() else { return vec![("body", answer.text(), "JSON".to_owned())] };
    let saga_id = answer.header("saga-id").unwrap_or_default();
    if expected.completed && expected.reply_renders {
        let booked = |role| history.bookings(role).first().map_or("none", |booking| booking.id.as_str());
        let reply = serde_json::json!({"trip": saga_id, "hotel": booked("hotel"), "flight": booked("flight")});
        let location = answer.header("location").unwrap_or_default().to_owned();
        return vec![
            ("body", body.to_string(), reply.to_string()),
            ("location", location, format!("/trips/{saga_id}")),
        ];
    }
    let text = |name: &str| body[name].as_str().unwrap_or("none").to_owned();
    let states: BTreeMap<_, _> =
        STEPS.into_iter().zip(&expected.steps).map(|(step, expected)| (step, expected.state)).collect();
    let mut says = vec![
        ("saga_id", text("saga_id"), saga_id.to_owned()),
        ("steps", body["steps"].to_string(), serde_json::json!(states).to_string()),
    ];
    if !expected.completed {
        let content_type = answer.header("content-type").unwrap_or_default().to_owned();
        says.push(("content-type", content_type, "application/problem+json".to_owned()));
        says.push(("failed_step", text("failed_step"), expected.failed_step.to_owned()));
        says.push(("saga_status", text("saga_status"), "compensated".to_owned()));
    }
    says
}

/// The states of the three steps, each by a letter: `S`ucceeded, `C`ompensated, `R`ejected, `-` not started; and `!`
/// where it is not as it must be.
pub fn letters(outcome: &Outcome) -> String {
    let letter = |step: &ExpectedStep| match step.state {
        "succeeded" => 'S',
        "compensated" => 'C',
        "rejected" => 'R',
        _ => '-',
    };
    let mark = if outcome.wrong.is_empty() { "" } else { "!" };
    outcome.expected.steps.iter().map(letter).collect::<String>() + mark
}
