//! What comes of a call to etcd, by its gateway's answer or Envoy's own.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::facts::ParticipantResponse;
use crate::saga::AttemptResult;

/// What came of a call to etcd.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer<T> {
    /// It has answered.
    Done(T),
    /// Nothing was done, and the same call would be refused again.
    Refused(Refusal),
    /// The database is as large as its quota. etcd looks before it proposes something, and once more after it has done it:
    /// it may have been done, but will not be done any more.
    NoSpace,
    /// Nothing was done: the token is not, or no longer, one.
    Unauthenticated,
    /// The request was larger than etcd takes, and nothing was done; or the answer was larger than its gateway takes, and
    /// all is done.
    TooLarge(Refusal),
    /// Nothing was done: it was not sent, or etcd was too busy to look at it.
    NotNow(&'static str),
    /// It may have been done.
    Unknown(String),
}

/// Why etcd did not do something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// Of gRPC.
    code: u32,
    message: String,
}

impl Refusal {
    /// A lease that the call names is gone.
    pub(super) fn is_of_lease(&self) -> bool {
        self.code == NOT_FOUND && self.message.contains("lease not found")
    }

    /// What it is asked to write is too large.
    pub(super) fn is_of_size(&self) -> bool {
        let texts = ["request is too large", "trying to send message larger", RECEIVED];
        texts.iter().any(|text| self.message.contains(text))
    }

    fn is_of_quota(&self) -> bool {
        self.code == RESOURCE_EXHAUSTED && self.message.contains("space exceeded")
    }

    /// etcd has more before it than it takes: it has not looked at this.
    fn is_of_load(&self) -> bool {
        self.code == RESOURCE_EXHAUSTED && self.message.contains("too many requests")
    }

    fn is_definite(&self) -> bool {
        match self.code {
            RESOURCE_EXHAUSTED => self.message.contains("trying to send message larger"),
            code => DEFINITE.contains(&code),
        }
    }

    /// One of several writes may be the cause; else it is the same for all.
    pub(super) fn may_be_for_one(&self) -> bool {
        self.is_of_size() || [INVALID, NOT_FOUND].contains(&self.code)
    }

    fn is_of_token(&self) -> bool {
        let texts = ["invalid auth token", "user name is empty", "auth store is old"];
        self.code == UNAUTHENTICATED || texts.iter().any(|text| self.message.contains(text))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (gRPC status {})", self.message, self.code)
    }
}

const INVALID: u32 = 3;
const NOT_FOUND: u32 = 5;
const RESOURCE_EXHAUSTED: u32 = 8;
/// etcd says so of a request, its gateway of an answer.
const RECEIVED: &str = "received message larger";
const UNAUTHENTICATED: u32 = 16;
/// gRPC: invalid argument, not found, already exists, permission denied, failed precondition, out of range, unimplemented,
/// unauthenticated. With any other something may have been done: a leader that steps down tells neither.
const DEFINITE: &[u32] = &[INVALID, NOT_FOUND, 6, 7, 9, 11, 12, UNAUTHENTICATED];

const UNREACHABLE: &str = "it cannot be reached";

/// How Envoy's own answer begins where it has no connection to send anything on, and why.
const NO_CONNECTION: &[&str] = &[
    "no healthy upstream",
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
    "upstream connect error or disconnect/reset before headers. reset reason: local connection failure",
    "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
    "upstream connect error or disconnect/reset before headers. reset reason: overflow",
];

/// Reads what came of a call.
pub(super) fn read<T: DeserializeOwned>(result: &AttemptResult) -> Answer<T> {
    let answer = match result {
        AttemptResult::NotSent(_) => return Answer::NotNow(UNREACHABLE),
        AttemptResult::NoAnswer => return Answer::Unknown("no answer, or one that was cut short".to_owned()),
        AttemptResult::LocalReply(answer) => return read_local_reply(answer),
        AttemptResult::Answered(answer) => answer,
    };
    let body = answer.body.as_deref().unwrap_or_default();
    if answer.code == 200 {
        // A stream's answer ends with a line break.
        return match serde_json::from_slice(body) {
            Ok(answer) => Answer::Done(answer),
            Err(error) => Answer::Unknown(format!("an answer that cannot be read: {error}")),
        };
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) if refusal.is_of_token() => Answer::Unauthenticated,
        Ok(refusal) if refusal.is_of_quota() => Answer::NoSpace,
        Ok(refusal) if refusal.is_of_load() => Answer::NotNow("it has too many requests before it"),
        Ok(refusal) if refusal.code == RESOURCE_EXHAUSTED && refusal.message.contains(RECEIVED) => {
            Answer::TooLarge(refusal)
        }
        Ok(refusal) if refusal.is_definite() => Answer::Refused(refusal),
        Ok(refusal) => Answer::Unknown(refusal.to_string()),
        Err(_) => Answer::Unknown(format!("an answer of {}", answer.code)),
    }
}

/// Only what this Envoy says of itself tells that nothing was sent: a proxy on the way to etcd may say the same of a
/// connection of its own.
fn read_local_reply<T>(answer: &ParticipantResponse) -> Answer<T> {
    let body = answer.body.as_deref().unwrap_or_default();
    if answer.code == 503 && NO_CONNECTION.iter().any(|text| body.starts_with(text.as_bytes())) {
        return Answer::NotNow(UNREACHABLE);
    }
    Answer::Unknown(format!("the proxy's own answer of {}", answer.code))
}

#[cfg(test)]
mod tests {
    use super::super::api::TxnAnswer;
    use super::*;
    use crate::saga::DispatchRefusal;
    use serde_json::json;

    fn answered(code: u16, body: &str) -> AttemptResult {
        let body = Some(body.as_bytes().to_vec());
        AttemptResult::Answered(ParticipantResponse { code, headers: Vec::new(), body })
    }

    fn local(code: u16, body: &str) -> AttemptResult {
        let body = Some(body.as_bytes().to_vec());
        AttemptResult::LocalReply(ParticipantResponse { code, headers: Vec::new(), body })
    }

    fn came_to(result: &AttemptResult) -> &'static str {
        match read::<TxnAnswer>(result) {
            Answer::Done(_) => "done",
            Answer::Refused(_) => "refused",
            Answer::Unauthenticated => "unauthenticated",
            Answer::NoSpace => "no space",
            Answer::TooLarge(_) => "too large",
            Answer::NotNow(_) => "not now",
            Answer::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn only_what_certainly_was_not_done_is_told_from_what_may_have_been() {
        let error = |code: u32, message: &str| json!({"error": message, "message": message, "code": code}).to_string();
        let connect = "upstream connect error or disconnect/reset before headers. reset reason: ";
        let cases = [
            (answered(200, r#"{"succeeded": true}"#), "done"),
            (answered(200, r#"{"succeeded": tr"#), "unknown"),
            (answered(400, &error(3, "etcdserver: duplicate key given in txn request")), "refused"),
            (answered(400, &error(3, "etcdserver: request is too large")), "refused"),
            (answered(429, &error(8, "etcdserver: mvcc: database space exceeded")), "no space"),
            (answered(429, &error(8, "etcdserver: too many requests")), "not now"),
            (answered(429, &error(8, "grpc: trying to send message larger than max (5 vs. 4)")), "refused"),
            (answered(429, &error(8, "grpc: received message larger than max (5 vs. 4)")), "too large"),
            (answered(404, &error(5, "etcdserver: requested lease not found")), "refused"),
            (answered(403, &error(7, "etcdserver: permission denied")), "refused"),
            (answered(401, &error(16, "etcdserver: invalid auth token")), "unauthenticated"),
            (answered(400, &error(3, "etcdserver: user name is empty")), "unauthenticated"),
            (answered(503, &error(14, "etcdserver: request timed out")), "unknown"),
            (answered(503, &error(14, "etcdserver: leader changed")), "unknown"),
            (answered(500, &error(13, "internal")), "unknown"),
            (local(503, &format!("{connect}remote connection failure, transport failure reason: x")), "not now"),
            (local(503, "no healthy upstream"), "not now"),
            (local(503, &format!("{connect}connection termination")), "unknown"),
            (local(504, "upstream request timeout"), "unknown"),
            // A proxy on the way to etcd can say it, too.
            (answered(503, "no healthy upstream"), "unknown"),
            (answered(503, &format!("{connect}remote connection failure, transport failure reason: x")), "unknown"),
            (AttemptResult::NoAnswer, "unknown"),
            (AttemptResult::NotSent(DispatchRefusal::Unavailable), "not now"),
        ];
        for (result, expected) in cases {
            assert_eq!(came_to(&result), expected, "{result:?}");
        }
    }
}
