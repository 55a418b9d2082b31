//! What is known of a trip that was booked: what the client saw, what each participant received, and what its database
//! held before and after.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::participant::{Attempt, Booking, BookingState};
use crate::trip::STEPS;

/// The rows of the databases, by role.
pub type Databases = BTreeMap<&'static str, Vec<Booking>>;

/// How a saga can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Every step was done.
    Completed,
    /// None was, or every one that was is undone.
    Compensated,
}

impl End {
    /// As the header `saga-status` has it.
    pub fn status(self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::Compensated => "compensated",
        }
    }
}

/// A trip, as it went. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub struct Recording {
    /// What happens, in a few words.
    pub title: String,
    /// What to look at.
    pub story: String,
    /// Who travels.
    pub guest: String,
    /// The steps that the client asked for.
    pub wanted: Vec<&'static str>,
    /// How it was to end.
    pub expected: End,
    /// What the client saw.
    pub client: ClientView,
    /// What each participant received of this guest, in order of arrival, by role.
    pub attempts: BTreeMap<&'static str, Vec<Attempt>>,
    /// The databases before the client asked.
    pub before: Databases,
    /// The databases once nothing was under way any more.
    pub after: Databases,
    /// Set where it did not come to rest in time: what was missing.
    pub restless: Option<String>,
}

/// What the client saw.
#[derive(Debug, Clone)]
pub struct ClientView {
    /// When it asked.
    pub asked_at_us: i64,
    /// When it had its answer, or left.
    pub until_us: i64,
    /// What it got.
    pub outcome: ClientOutcome,
}

/// What the client got.
#[derive(Debug, Clone)]
pub enum ClientOutcome {
    /// An answer.
    Answered {
        /// Its status.
        status: u16,
        /// The header `saga-id`.
        saga_id: Option<String>,
        /// The header `saga-status`.
        saga_status: Option<String>,
        /// The body; null where it is not JSON.
        body: Json,
    },
    /// It left before there was an answer.
    Left,
    /// No answer, though it waited: why.
    Failed(String),
}

impl Recording {
    /// The rows of this guest in the database of `role`, as they are now.
    pub fn rows(&self, role: &str) -> Vec<&Booking> {
        self.after.get(role).into_iter().flatten().filter(|row| row.guest == self.guest).collect()
    }

    /// The roles at which this guest has a booking that stands.
    pub fn standing(&self) -> Vec<&'static str> {
        let stands = |role: &&str| self.rows(role).iter().any(|row| row.state == BookingState::Booked);
        STEPS.into_iter().filter(stands).collect()
    }

    /// The attempts that `role` received, each with the time at which it was over.
    ///
    /// An attempt without an answer was over, for Envoy, when its timeout had passed, which Envoy tells the participant
    /// in a header; or before the next one came.
    pub fn spans(&self, role: &str) -> Vec<(&Attempt, i64)> {
        let attempts = self.attempts.get(role).map_or(&[][..], Vec::as_slice);
        let nexts = attempts.iter().skip(1).map(|next| Some(next.received_at_us)).chain([None]);
        let end = |attempt: &Attempt, next: Option<i64>| {
            attempt.answered_at_us.unwrap_or_else(|| {
                let timeout_ms = attempt.header("x-envoy-expected-rq-timeout-ms").and_then(|text| text.parse().ok());
                let timeout = attempt.received_at_us + timeout_ms.unwrap_or(0) * 1_000;
                next.map_or(timeout, |next| timeout.min(next))
            })
        };
        attempts.iter().zip(nexts).map(|(attempt, next)| (attempt, end(attempt, next))).collect()
    }

    /// When the last attempt was over, or the client had its answer or left, whichever was later.
    pub fn over_at_us(&self) -> i64 {
        let ends = STEPS.into_iter().flat_map(|role| self.spans(role)).map(|(_, end)| end);
        ends.chain([self.client.until_us]).max().unwrap_or_default()
    }
}

impl ClientView {
    /// How long the client waited, in milliseconds.
    pub fn waited_ms(&self) -> i64 {
        (self.until_us - self.asked_at_us) / 1_000
    }
}
