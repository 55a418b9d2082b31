//! Participants of tests: they keep their word. One key is done once, a refusal is for good, a compensation is final.

use super::super::*;
use crate::facts::ParticipantResponse;

/// What a participant does with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Does it and answers.
    Do,
    /// Does it, and answers with a success that lacks what the compensation reads.
    DoWithoutId,
    /// Does it; no answer arrives.
    DoSilently,
    /// Does nothing; no answer arrives.
    Lose,
    /// Does nothing and answers 500.
    Fail,
    /// Does it and answers 504, as the proxy does in its place after a timeout.
    DoButTimeOut,
    /// Refuses, unless it has done it before under that key.
    Refuse,
    /// Answers 409, unless it has done it before under that key.
    Conflict,
    /// Answers 429.
    TooMany,
    /// Answers 503 with `retry-after`.
    Unavailable,
    /// The proxy has no endpoint for it.
    NoEndpoint,
    /// The proxy does not know the cluster.
    NoCluster,
    /// A proxy on the path answers 404: it has no route.
    NoRoute,
    /// A proxy on the path answers 403.
    Forbidden,
}

/// What a participant holds of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub applied: bool,
    pub compensated: bool,
}

pub fn answer(code: u16, body: &str) -> AttemptResult {
    let headers = vec![("content-type".to_owned(), b"application/json".to_vec())];
    AttemptResult::Answered(ParticipantResponse { code, headers, body: Some(body.as_bytes().to_vec()) })
}

/// What Envoy answers itself, after the attempt's time.
fn timed_out() -> AttemptResult {
    let body = Some(b"upstream request timeout".to_vec());
    AttemptResult::LocalReply(ParticipantResponse { code: 504, headers: Vec::new(), body })
}

pub fn transaction(held: &mut Held, behaviour: Behaviour) -> AttemptResult {
    assert!(!held.compensated, "a transaction reached a participant that had compensated it");
    if let Some(result) = without_participant(behaviour) {
        return result;
    }
    let done_before = held.applied;
    let applies = [Behaviour::Do, Behaviour::DoWithoutId, Behaviour::DoSilently, Behaviour::DoButTimeOut];
    held.applied |= applies.contains(&behaviour);
    match behaviour {
        Behaviour::DoWithoutId => answer(201, "{}"),
        Behaviour::DoSilently => AttemptResult::NoAnswer,
        Behaviour::DoButTimeOut => timed_out(),
        Behaviour::Refuse if !done_before => answer(422, "{}"),
        Behaviour::Conflict if !done_before => answer(409, "{}"),
        _ => answer(201, r#"{"id": "b/1"}"#),
    }
}

pub fn compensation(held: &mut Held, behaviour: Behaviour) -> AttemptResult {
    if behaviour == Behaviour::NoRoute && held.applied && !held.compensated {
        // A path that answers 404 for ever cannot be told from a participant that has nothing to undo.
        return answer(500, "no route for a while");
    }
    if let Some(result) = without_participant(behaviour) {
        return result;
    }
    let nothing_there = !held.applied || held.compensated;
    match behaviour {
        // A participant that has nothing to undo may say so.
        Behaviour::DoWithoutId if nothing_there => return answer(404, "{}"),
        Behaviour::Refuse => return answer(422, "{}"),
        Behaviour::Conflict => return answer(409, "{}"),
        _ => held.compensated = true,
    }
    match behaviour {
        Behaviour::DoSilently => AttemptResult::NoAnswer,
        Behaviour::DoButTimeOut => timed_out(),
        _ => answer(204, ""),
    }
}

fn without_participant(behaviour: Behaviour) -> Option<AttemptResult> {
    Some(match behaviour {
        Behaviour::Lose => AttemptResult::NoAnswer,
        Behaviour::Fail => answer(500, "oops"),
        Behaviour::TooMany => answer(429, ""),
        Behaviour::Unavailable => {
            let headers = vec![("retry-after".to_owned(), b"2".to_vec())];
            AttemptResult::Answered(ParticipantResponse { code: 503, headers, body: None })
        }
        Behaviour::NoEndpoint => AttemptResult::NotSent(DispatchRefusal::Unavailable),
        Behaviour::NoRoute => answer(404, "no route"),
        Behaviour::Forbidden => answer(403, "RBAC: access denied"),
        Behaviour::NoCluster => AttemptResult::NotSent(DispatchRefusal::UnknownCluster),
        _ => return None,
    })
}
