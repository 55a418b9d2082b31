//! What an attempt came to.
//!
//! | what came back | transaction | compensation |
//! | --- | --- | --- |
//! | `success` holds | succeeded | done |
//! | `rejected` holds | rejected | refused |
//! | unknown cluster | rejected | not done now |
//! | dispatch refused otherwise | not done now, not counted | the same |
//! | 429, or 503 with `retry-after` | not done now | not done now |
//! | anything else: timeout, reset, truncated, 5xx, ... | unknown | unknown |

use std::time::Duration;

use super::retry::retry_after;
use super::{AttemptResult, DispatchRefusal, Millis};
use crate::definition::Call;
use crate::facts::{self, ParticipantResponse};
use crate::planted::{Planted, planted};
use crate::template::{Expression, Facts};
use serde_json::Value as Json;

/// What an attempt came to, before it is known what that means for its step.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was done. The response as expressions read it.
    Done(Json),
    /// It certainly was not done and never will be.
    Refused(String),
    /// It was not done, and may be tried again.
    NotDone {
        /// Why, for people.
        reason: String,
        /// What the participant asked for by `retry-after`.
        retry_after: Option<Duration>,
        /// How sure it is that no attempt was made.
        sent: Sent,
    },
    /// It may have been done.
    Unknown(String),
}

/// Whether an attempt that was not done left the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The participant saw it: it counts as an attempt.
    Yes,
    /// Envoy refused it (no endpoint, circuit breaker): it does not count.
    No,
    /// No such cluster: trying again is of no use until the configuration changes.
    NoCluster,
}

/// Takes the call's definition and the result of an attempt. `success_anyway` names status codes that are a success
/// besides those of the definition's rule, where it has none of its own.
pub fn classify(call: &Call, result: &AttemptResult, success_anyway: &[u16], now: Millis) -> Outcome {
    match result {
        AttemptResult::NoAnswer if planted(Planted::CutShortTakenForRefusal) => {
            Outcome::Refused("cut short".to_owned())
        }
        AttemptResult::NoAnswer => Outcome::Unknown("no answer, or one that was cut short".to_owned()),
        AttemptResult::NotSent(DispatchRefusal::UnknownCluster) => {
            not_sent(format!("cluster `{}` is unknown to the proxy", call.cluster), Sent::NoCluster)
        }
        AttemptResult::NotSent(DispatchRefusal::Unavailable) => {
            not_sent(format!("cluster `{}` has no endpoint to take it", call.cluster), Sent::No)
        }
        AttemptResult::Answered(response) => classify_answer(call, response, success_anyway, now),
    }
}

fn not_sent(reason: String, sent: Sent) -> Outcome {
    Outcome::NotDone { reason, retry_after: None, sent }
}

fn classify_answer(call: &Call, response: &ParticipantResponse, success_anyway: &[u16], now: Millis) -> Outcome {
    let code = response.code;
    let facts = facts::response(response);
    // A predicate that cannot be evaluated is false.
    let holds = |expression: &Expression| {
        let facts = Facts { response: Some(&facts), ..Facts::default() };
        expression.evaluate_bool(&facts).unwrap_or(false)
    };
    let succeeded = match &call.success {
        Some(success) => holds(success),
        None => (200..300).contains(&code) || success_anyway.contains(&code),
    };
    if succeeded {
        return Outcome::Done(facts);
    }
    let refused = match &call.rejected {
        Some(rejected) => holds(rejected),
        None => (400..500).contains(&code) && ![408, 425, 429].contains(&code),
    };
    if refused || (planted(Planted::TimeoutTakenForRefusal) && code == 504) {
        return Outcome::Refused(format!("answered {code}"));
    }
    let asked = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    let asked = asked.and_then(|(_, value)| retry_after(&String::from_utf8_lossy(value), now));
    // A proxy on the way answers 503 as well; only one that says when to come back is taken for a participant that did
    // nothing. A `retry-after` that is neither seconds nor a date says nothing.
    if code == 429 || (code == 503 && (asked.is_some() || planted(Planted::Plain503TakenForNotDone))) {
        return Outcome::NotDone { reason: format!("answered {code}"), retry_after: asked, sent: Sent::Yes };
    }
    Outcome::Unknown(format!("answered {code}"))
}
