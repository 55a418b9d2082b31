//! What an attempt came to: first who said what, then what that means for its step.
//!
//! Who said it comes first. What Envoy itself answered in the participant's place never meets a predicate.
//!
//! | what came back | transaction | compensation |
//! | --- | --- | --- |
//! | nothing, a part of an answer, or an answer of Envoy itself (timeout, reset) | unknown | unknown |
//! | `success` holds | done | done |
//! | `rejected` holds, or a code that no proxy answers by itself | refused by the participant | the same |
//! | 409 | refused, unless its key is being worked on | the same |
//! | another 4xx except 408, 425, 429 | refused by the path, perhaps | the same |
//! | 404 | as any other 4xx | not found |
//! | unknown cluster, no endpoint | not sent | not sent |
//! | 429, or 503 with `retry-after` | not done now | not done now |
//! | anything else: 5xx, 3xx, ... | unknown | unknown |
//!
//! What that means depends on what else is known, in one table for each of the two calls: [`transaction`] and
//! [`compensation`].

use std::time::Duration;

use serde_json::Value as Json;

use super::retry::retry_after;
use super::{AttemptResult, CallKind, DispatchRefusal, Millis};
use crate::definition::Call;
use crate::facts::{self, ParticipantResponse};
use crate::planted::{Planted, planted};
use crate::template::{Expression, Facts};

/// What came back from an attempt, and whose word it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// The participant did it. The response as expressions read it.
    Done(Json),
    /// Somebody refused it.
    Refused(Refuser, String),
    /// 404 to a compensation: there may be nothing to undo, or no route.
    NotFound,
    /// It was not done, and may be tried again.
    NotNow {
        /// Why, for people.
        reason: String,
        /// What the participant asked for by `retry-after`.
        retry_after: Option<Duration>,
    },
    /// It was not sent.
    NotSent(DispatchRefusal),
    /// It may have been done.
    Unknown(String),
}

/// Whose word a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuser {
    /// The participant's own: the definition's `rejected` says so, or no proxy answers this code by itself.
    Participant,
    /// A code that proxies on the path answer, too: without a route, without a token, of a request that is too large.
    Path,
    /// 409: while the participant works on a key, it answers so to the same key.
    Conflict,
}

/// Client errors that no proxy answers by itself: payment, preconditions, content, state.
const PARTICIPANTS_OWN: &[u16] = &[402, 406, 410, 412, 415, 416, 418, 422, 423, 424, 428, 451];

/// Client errors that say "not now" or nothing.
const NO_REFUSAL: &[u16] = &[408, 425, 429];

/// Takes the call's definition, which of a step's two it is, and the result of an attempt.
pub fn hear(call: &Call, kind: CallKind, result: &AttemptResult, now: Millis) -> Heard {
    match result {
        AttemptResult::NoAnswer if planted(Planted::CutShortTakenForRefusal) => {
            Heard::Refused(Refuser::Participant, "cut short".to_owned())
        }
        AttemptResult::NoAnswer => Heard::Unknown("no answer, or one that was cut short".to_owned()),
        AttemptResult::NotSent(refusal) => Heard::NotSent(*refusal),
        AttemptResult::LocalReply(response) => hear_the_proxy(call, kind, response, now),
        AttemptResult::Answered(response) => hear_answer(call, kind, response, now),
    }
}

/// Envoy's own answer says only that none came: 504 after a timeout, 503 after a reset.
fn hear_the_proxy(call: &Call, kind: CallKind, response: &ParticipantResponse, now: Millis) -> Heard {
    if planted(Planted::ProxyAnswerMeetsPredicates) {
        return hear_answer(call, kind, response, now);
    }
    let reason = match response.code {
        504 if planted(Planted::TimeoutTakenForRefusal) => {
            return Heard::Refused(Refuser::Participant, "timed out".to_owned());
        }
        503 if planted(Planted::Plain503TakenForNotDone) => {
            return Heard::NotNow { reason: "reset".to_owned(), retry_after: None };
        }
        504 => "no answer in time".to_owned(),
        503 => "no answer: the connection was refused, reset or overloaded".to_owned(),
        code => format!("no answer: the proxy said {code} in the participant's place"),
    };
    Heard::Unknown(reason)
}

fn hear_answer(call: &Call, kind: CallKind, response: &ParticipantResponse, now: Millis) -> Heard {
    let code = response.code;
    let facts = facts::response(response);
    // A predicate that cannot be evaluated is false.
    let holds = |expression: &Expression| {
        let facts = Facts { response: Some(&facts), ..Facts::default() };
        expression.evaluate_bool(&facts).unwrap_or(false)
    };
    let is_compensation = kind == CallKind::Compensation;
    let gone_is_done = is_compensation && !planted(Planted::Gone410NotDone);
    let succeeded = match &call.success {
        Some(success) => holds(success),
        // What is gone for good is undone.
        None => (200..300).contains(&code) || (gone_is_done && code == 410),
    };
    if succeeded {
        return Heard::Done(facts);
    }
    if is_compensation && code == 404 && call.success.is_none() {
        return Heard::NotFound;
    }
    let refuser = match &call.rejected {
        Some(rejected) => holds(rejected).then_some(Refuser::Participant),
        None if NO_REFUSAL.contains(&code) || !(400..500).contains(&code) => None,
        None if PARTICIPANTS_OWN.contains(&code) => Some(Refuser::Participant),
        None => Some(Refuser::Path),
    };
    let refuser = refuser.map(|refuser| if code == 409 { Refuser::Conflict } else { refuser });
    if let Some(refuser) = refuser {
        return Heard::Refused(refuser, format!("answered {code}"));
    }
    let asked = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    let asked = asked.and_then(|(_, value)| retry_after(&String::from_utf8_lossy(value), now));
    // A proxy on the way answers 503 as well; only one that says when to come back is taken for a participant that did
    // nothing. A `retry-after` that is neither seconds nor a date says nothing.
    if code == 429 || (code == 503 && asked.is_some()) {
        return Heard::NotNow { reason: format!("answered {code}"), retry_after: asked };
    }
    Heard::Unknown(format!("answered {code}"))
}

/// Why a transaction was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// To do it. All that is known of earlier attempts, in any epoch, is that they were not done.
    Trying,
    /// To do it, after an attempt that came to unknown.
    TryingAgain,
    /// Only to learn whether it was done: the saga compensates, and the compensation needs the answer.
    Resolving,
}

/// What an attempt of a transaction means for its step.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It was done; the response as expressions read it.
    Succeeded(Json),
    /// It certainly was not done and never will be.
    Rejected(String),
    /// It may have been done: to be sent again, under the same key.
    Unknown(String),
    /// It was not done now: to be sent again.
    NotDone {
        /// Why, for people.
        reason: String,
        /// What the participant asked for by `retry-after`.
        retry_after: Option<Duration>,
        /// The participant saw it: it counts as an attempt.
        counts: bool,
    },
    /// To be sent no more: it settles by what is known of the attempts before.
    GiveUp(String),
}

/// The one table of what is made of an attempt of a transaction.
///
/// | | trying | trying again | resolving |
/// | --- | --- | --- | --- |
/// | done | succeeded | succeeded | succeeded |
/// | refused by the participant | rejected | rejected | rejected |
/// | refused by the path, perhaps; 409 | rejected | unknown | unknown |
/// | unknown cluster | give up | give up | not done now |
/// | no endpoint, 429, 503 with `retry-after` | not done now | not done now | not done now |
/// | unknown | unknown | unknown | unknown |
pub fn transaction(heard: Heard, mode: Mode) -> Verdict {
    match heard {
        Heard::Done(response) => Verdict::Succeeded(response),
        // By the contract on keys, a participant that refuses a key has not done it under that key before.
        Heard::Refused(Refuser::Participant, reason) => Verdict::Rejected(reason),
        Heard::Refused(refuser, reason) if mode == Mode::Trying || is_planted(refuser, mode) => {
            Verdict::Rejected(reason)
        }
        Heard::Refused(Refuser::Conflict, _) => Verdict::Unknown("answered 409: it may be worked on".to_owned()),
        Heard::Refused(Refuser::Path, reason) => Verdict::Unknown(format!("{reason}, as proxies on the way do, too")),
        Heard::NotFound => Verdict::Unknown("answered 404".to_owned()),
        Heard::NotNow { reason, retry_after } => Verdict::NotDone { reason, retry_after, counts: true },
        Heard::NotSent(DispatchRefusal::UnknownCluster) if mode != Mode::Resolving => {
            Verdict::GiveUp(DispatchRefusal::UnknownCluster.to_string())
        }
        Heard::NotSent(refusal) => Verdict::NotDone { reason: refusal.to_string(), retry_after: None, counts: false },
        Heard::Unknown(reason) => Verdict::Unknown(reason),
    }
}

fn is_planted(refuser: Refuser, mode: Mode) -> bool {
    match (refuser, mode) {
        (Refuser::Conflict, Mode::Resolving) => planted(Planted::ConflictWhileResolvingTakenForRefusal),
        (Refuser::Path, Mode::Resolving) => planted(Planted::PathRefusalWhileResolvingTaken),
        (_, Mode::TryingAgain) => planted(Planted::RefusalAfterUnknownTakenForRejection),
        _ => false,
    }
}

/// What is known of a step when an attempt of its compensation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undoing {
    /// There need not be anything to undo: the outcome was unknown, or a compensation before may have been applied.
    pub need_not_exist: bool,
    /// An attempt of the compensation before may still be worked on.
    pub may_be_worked_on: bool,
    /// 404 was answered at least once before, and for long enough since an attempt could last be worked on.
    pub not_found_for_long: bool,
}

/// What an attempt of a compensation means for its step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UndoVerdict {
    /// It is undone.
    Done,
    /// 404, for the last time: there was nothing to undo.
    NothingToUndo,
    /// It was refused, and is sent again all the same; the saga is stuck.
    Refused(String),
    /// It may have been applied: to be sent again.
    Unknown(String),
    /// It was not applied now: to be sent again.
    NotDone {
        /// Why, for people.
        reason: String,
        /// What the participant asked for by `retry-after`.
        retry_after: Option<Duration>,
    },
}

/// The one table of what is made of an attempt of a compensation.
///
/// | | there must be something to undo | there need not be |
/// | --- | --- | --- |
/// | done | done | done |
/// | 404 | refused | not done now, until it was answered for long enough; then nothing to undo |
/// | 409 | refused, or unknown where an attempt before may be worked on | the same |
/// | refused otherwise | refused | refused |
/// | not sent, 429, 503 with `retry-after` | not done now | not done now |
/// | unknown | unknown | unknown |
pub fn compensation(heard: Heard, known: Undoing) -> UndoVerdict {
    let not_now = |reason: String| UndoVerdict::NotDone { reason, retry_after: None };
    match heard {
        Heard::Done(_) => UndoVerdict::Done,
        Heard::NotFound if planted(Planted::First404TakenForUndone) => UndoVerdict::Done,
        Heard::NotFound if !known.need_not_exist => UndoVerdict::Refused("answered 404".to_owned()),
        Heard::NotFound if known.not_found_for_long || planted(Planted::First404AfterUnknownTaken) => {
            UndoVerdict::NothingToUndo
        }
        Heard::NotFound => not_now("answered 404: there may be nothing to undo, or no route".to_owned()),
        Heard::Refused(Refuser::Conflict, reason)
            if known.may_be_worked_on && !planted(Planted::ConflictOnCompensationTakenForRefusal) =>
        {
            UndoVerdict::Unknown(reason)
        }
        Heard::Refused(_, reason) => UndoVerdict::Refused(reason),
        Heard::NotNow { reason, retry_after } => UndoVerdict::NotDone { reason, retry_after },
        Heard::NotSent(refusal) => not_now(refusal.to_string()),
        Heard::Unknown(reason) => UndoVerdict::Unknown(reason),
    }
}

#[cfg(test)]
mod tests;
