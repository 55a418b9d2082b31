//! Warns of predicates that would take what a proxy on the path answers for the participant's word.
//!
//! What this proxy answers itself never meets a predicate. Another one on the path, such as the participant's sidecar, cannot
//! be told from the participant.

use super::located::At;
use crate::facts::{self, ParticipantResponse};
use crate::template::{Expression, Facts};

/// What Envoy answers where it has no answer of an application: its code, its text, and when.
const ANSWERS: &[(u16, &str, &str)] = &[
    (401, "Jwt is missing", "a token is missing or has expired"),
    (403, "RBAC: access denied", "a policy denies access"),
    (404, "", "there is no route"),
    (413, "Payload Too Large", "the body is too large"),
    (429, "local_rate_limited", "a rate limit is reached"),
    (431, "", "the headers are too large"),
    (502, "", "the application's answer is no HTTP"),
    (503, "upstream connect error or disconnect/reset before headers", "the connection is refused or reset"),
    (503, "no healthy upstream", "there is no endpoint"),
    (504, "upstream request timeout", "the application takes too long"),
];

/// Which of the two predicates of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Predicate {
    Success,
    Rejected,
}

/// Looks at a predicate that is configured.
pub(super) fn warn(source: &At<String>, expression: &Expression, predicate: Predicate, warnings: &mut Vec<String>) {
    let mut taken: Vec<String> = Vec::new();
    for (code, text, when) in ANSWERS {
        let line = format!("{code} ({when})");
        if holds(expression, *code, text) {
            taken.push(line);
        }
    }
    if taken.is_empty() {
        return;
    }
    let as_what = match predicate {
        Predicate::Success => "that the participant did it",
        Predicate::Rejected => "that the participant certainly did nothing",
    };
    warnings.push(format!(
        "{}: takes what a proxy on the path answers for a sign {as_what}: {}",
        source.path,
        taken.join(", ")
    ));
}

fn holds(expression: &Expression, code: u16, text: &str) -> bool {
    let headers = [("content-type", "text/plain"), ("server", "envoy")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).to_vec();
    let response = facts::response(&ParticipantResponse { code, headers, body: Some(text.as_bytes().to_vec()) });
    expression.evaluate_bool(&Facts { response: Some(&response), ..Facts::default() }).unwrap_or(false)
}
