//! What came of an attempt, and who said it.

use crate::facts::ParticipantResponse;

/// Envoy adds it to every answer that came from an upstream host, and to no answer of its own (measured on 1.40).
const FROM_UPSTREAM: &str = "x-envoy-upstream-service-time";

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptResult {
    /// A whole answer from the participant's side: of the participant, or of a proxy on the path.
    Answered(ParticipantResponse),
    /// An answer of this proxy in the participant's place: timeouts are 504, resets 503, and 200 to a gRPC request.
    LocalReply(ParticipantResponse),
    /// None, or one that was cut short or too large.
    NoAnswer,
    /// The proxy refused to send it.
    NotSent(DispatchRefusal),
}

impl AttemptResult {
    /// Takes an answer as Envoy hands it over, and tells whose it is.
    pub fn of(response: ParticipantResponse) -> AttemptResult {
        if response.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(FROM_UPSTREAM)) {
            AttemptResult::Answered(response)
        } else {
            AttemptResult::LocalReply(response)
        }
    }
}

/// Why a call was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DispatchRefusal {
    /// The proxy has no cluster of that name.
    UnknownCluster,
    /// No endpoint, or too many requests under way.
    Unavailable,
    /// Whether this proxy still owns the saga is not certain: its lease may be over.
    OwnershipUncertain,
    /// The saga had begun to compensate before it was sent.
    Obsolete,
    /// There is no room for what its answer may add to what is held.
    NoRoom,
}

impl std::fmt::Display for DispatchRefusal {
    /// For people, clients included: without the name of the cluster, which is the proxy's own.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DispatchRefusal::UnknownCluster => "not sent: the proxy does not know the participant's cluster",
            DispatchRefusal::Unavailable => "not sent: the participant's cluster has no endpoint to take it",
            DispatchRefusal::OwnershipUncertain => "not sent: the proxy cannot reach the journal to renew its lease",
            DispatchRefusal::Obsolete => "not sent: the saga was to be compensated",
            DispatchRefusal::NoRoom => "not sent: the proxy has no memory left for the participant's answer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_from_upstream_is_the_participants_answer() {
        let answer = |name: &str| {
            let headers = vec![(name.to_owned(), b"3".to_vec())];
            AttemptResult::of(ParticipantResponse { code: 504, headers, body: None })
        };
        assert!(matches!(answer("x-envoy-upstream-service-time"), AttemptResult::Answered(_)));
        assert!(matches!(answer("x-envoy-overloaded"), AttemptResult::LocalReply(_)));
    }
}
