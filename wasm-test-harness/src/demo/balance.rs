//! Whether the databases are in balance: a trip is booked as a whole or not at all, nothing twice, and the client was
//! told so.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::recording::{ClientOutcome, End, Recording};
use crate::trip::STEPS;

/// What is wrong with a trip, a sentence each; empty where nothing is.
///
/// Looks at rows, not at what the proxy says that it did: what it says is only compared with them.
pub fn check(recording: &Recording) -> Vec<String> {
    let mut wrong = Vec::new();
    wrong.extend(recording.restless.iter().map(|what| format!("it did not come to rest: {what}")));
    nothing_is_there_twice(recording, &mut wrong);
    only_one_saga_wrote(recording, &mut wrong);
    others_are_as_they_were(recording, &mut wrong);
    match held(recording) {
        Ok(end) => {
            if end != recording.expected {
                let (was, due) = (end.status(), recording.expected.status());
                wrong.push(format!("the databases say that it was {was}, but it was to be {due}"));
            }
            the_client_knows(recording, end, &mut wrong);
        }
        Err(half) => wrong.push(half),
    }
    wrong
}

/// How it ended, going by what stands; an error where that is neither all nor nothing.
fn held(recording: &Recording) -> Result<End, String> {
    let standing = recording.standing();
    if standing.is_empty() {
        return Ok(End::Compensated);
    }
    let wanted: BTreeSet<_> = recording.wanted.iter().copied().collect();
    if standing.iter().copied().collect::<BTreeSet<_>>() == wanted {
        return Ok(End::Completed);
    }
    let (standing, wanted) = (standing.join(", "), recording.wanted.join(", "));
    Err(format!("half a trip: {standing} booked, of {wanted}"))
}

fn nothing_is_there_twice(recording: &Recording, wrong: &mut Vec<String>) {
    for role in STEPS {
        let rows = recording.rows(role).len();
        if rows > 1 {
            wrong.push(format!("{role} booked {rows} times"));
        }
    }
}

fn only_one_saga_wrote(recording: &Recording, wrong: &mut Vec<String>) {
    let rows = STEPS.into_iter().flat_map(|role| recording.rows(role));
    let mut sagas: BTreeSet<Option<&str>> = rows.map(|row| row.saga_id.as_deref()).collect();
    if let ClientOutcome::Answered { saga_id, .. } = &recording.client.outcome {
        sagas.insert(saga_id.as_deref());
    }
    if sagas.len() > 1 || sagas.contains(&None) {
        let named: Vec<_> = sagas.into_iter().map(|id| id.unwrap_or("none")).collect();
        wrong.push(format!("rows and answer are not of one saga, but of {}", named.join(", ")));
    }
}

fn others_are_as_they_were(recording: &Recording, wrong: &mut Vec<String>) {
    for role in STEPS {
        let of_others = |databases: &super::recording::Databases| -> Vec<_> {
            let rows = databases.get(role).into_iter().flatten();
            rows.filter(|row| row.guest != recording.guest).cloned().collect()
        };
        if of_others(&recording.before) != of_others(&recording.after) {
            wrong.push(format!("{role} has changed the rows of other guests"));
        }
    }
}

fn the_client_knows(recording: &Recording, end: End, wrong: &mut Vec<String>) {
    match &recording.client.outcome {
        ClientOutcome::Failed(why) => wrong.push(format!("the client got no answer: {why}")),
        ClientOutcome::Left => {
            let left = recording.client.until_us;
            let mut spans = STEPS.into_iter().flat_map(|role| recording.spans(role));
            if !spans.any(|(attempt, over)| attempt.received_at_us < left && left < over) {
                wrong.push("the client was to leave while a step was under way, and none was".to_owned());
            }
        }
        ClientOutcome::Answered { status, saga_status, body, .. } => {
            let told = saga_status.as_deref().unwrap_or("nothing");
            let is_success = (200..300).contains(status);
            if told != end.status() || is_success != (end == End::Completed) {
                wrong.push(format!("the client was told {status} {told}, but it was {}", end.status()));
            }
            if end == End::Completed {
                the_ids_are_right(recording, body, wrong);
            }
        }
    }
}

/// The answer of a completed trip names the bookings that stand.
fn the_ids_are_right(recording: &Recording, body: &Json, wrong: &mut Vec<String>) {
    for role in ["hotel", "flight"] {
        let told = body.get(role).and_then(Json::as_str).unwrap_or("none");
        if recording.rows(role).iter().all(|row| row.id != told) {
            wrong.push(format!("the client was told {role} {told}, which is not what is booked"));
        }
    }
}
