//! The four trips, and how one is booked and recorded.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value as Json;

use super::recording::{ClientOutcome, ClientView, Databases, End, Recording};
use crate::loopback::{Client, json_request};
use crate::participant::{Action, AttemptFilter, Fault, FaultKind};
use crate::trip::{BodyMode, STEPS, Trip, TripRequest};

/// How long it may take until nothing is under way any more, past the answer.
const REST: Duration = Duration::from_secs(15);

/// A trip to be booked.
#[derive(Debug, Clone)]
pub struct Scenario {
    title: &'static str,
    story: &'static str,
    request: TripRequest,
    faults: Vec<(&'static str, Fault)>,
    leaves_after: Option<Duration>,
    expected: End,
}

impl Scenario {
    /// The four trips of the demo, a guest each. Participants take a while, as real ones do: it can be seen then what
    /// goes on at the same time.
    pub fn all() -> Vec<Scenario> {
        vec![all_well(), flight_refused(), hotel_silent(), client_leaves()]
    }

    /// What happens, in a few words.
    pub fn title(&self) -> &'static str {
        self.title
    }

    /// Books the trip, and records what came of it.
    ///
    /// # Errors
    ///
    /// A database cannot be read. That the client gets no answer, or participants do not come to rest, is recorded.
    pub async fn book(&self, trip: &Trip) -> anyhow::Result<Recording> {
        for (role, fault) in &self.faults {
            trip.participant(role).set_fault(fault.clone())?;
        }
        let before = databases(trip)?;
        let client = self.ask(trip).await?;
        let wanted = self.request.steps();
        let held = if self.expected == End::Completed { wanted } else { &[] };
        let guest = &self.request.guest;
        let restless = trip.wait_until_held(guest, held, REST).await.err();
        let mut attempts = std::collections::BTreeMap::new();
        for role in STEPS {
            attempts.insert(role, trip.participant(role).attempts(&AttemptFilter::guest(guest))?);
        }
        Ok(Recording {
            title: self.title.to_owned(),
            story: self.story.to_owned(),
            guest: guest.clone(),
            wanted: wanted.to_vec(),
            expected: self.expected,
            client,
            attempts,
            before,
            after: databases(trip)?,
            restless: restless.map(|error| error.to_string()),
        })
    }

    async fn ask(&self, trip: &Trip) -> anyhow::Result<ClientView> {
        let request = json_request(&trip.url(BodyMode::Option), &self.request.body(), &[])?;
        let client = Client::http1().timeout(Duration::from_secs(30));
        let asked_at_us = now_us();
        let in_flight = client.begin(request);
        let outcome = if let Some(patience) = self.leaves_after {
            tokio::time::sleep(patience).await;
            in_flight.abandon();
            ClientOutcome::Left
        } else {
            match in_flight.answer().await {
                Ok(answer) => ClientOutcome::Answered {
                    status: answer.status.as_u16(),
                    saga_id: answer.header("saga-id").map(str::to_owned),
                    saga_status: answer.header("saga-status").map(str::to_owned),
                    body: answer.json().unwrap_or(Json::Null),
                },
                Err(error) => ClientOutcome::Failed(format!("{error:#}")),
            }
        };
        Ok(ClientView { asked_at_us, until_us: now_us(), outcome })
    }
}

fn all_well() -> Scenario {
    let guest = "ann";
    Scenario {
        title: "all goes well",
        story: "Hotel and flight are booked at the same time. The car needs both: it comes after.",
        request: TripRequest::of(guest).with_car(),
        faults: vec![
            ("hotel", slow(guest, Action::Transaction, 240)),
            ("flight", slow(guest, Action::Transaction, 160)),
            ("car", slow(guest, Action::Transaction, 120)),
        ],
        leaves_after: None,
        expected: End::Completed,
    }
}

fn flight_refused() -> Scenario {
    let guest = "bob";
    Scenario {
        title: "the flight is refused",
        story: "The hotel is still at it when the flight refuses. What is under way is waited\n\
                for, then undone. The flight has certainly booked nothing: there is nothing to\n\
                undo. The car is never asked.",
        request: TripRequest::of(guest).with_car(),
        faults: vec![
            ("hotel", slow(guest, Action::Transaction, 240)),
            ("hotel", slow(guest, Action::Compensation, 120)),
            ("flight", Fault::new(guest, Action::Transaction, FaultKind::Refuse)),
        ],
        leaves_after: None,
        expected: End::Compensated,
    }
}

fn hotel_silent() -> Scenario {
    let guest = "cleo";
    Scenario {
        title: "the hotel books, but does not answer its first three attempts",
        story: "Three attempts of 2 s under one key: booked once, but Envoy cannot know. So the\n\
                trip is undone. To cancel, the id of the booking is needed: attempt 4, under the\n\
                same key, is made to learn it.",
        request: TripRequest::of(guest),
        faults: vec![
            ("hotel", Fault::new(guest, Action::Transaction, FaultKind::ApplyNoAnswer).attempts(3)),
            ("hotel", slow(guest, Action::Transaction, 300)),
            ("hotel", slow(guest, Action::Compensation, 400)),
            ("flight", slow(guest, Action::Transaction, 200)),
            ("flight", slow(guest, Action::Compensation, 400)),
        ],
        leaves_after: None,
        expected: End::Compensated,
    }
}

fn client_leaves() -> Scenario {
    let guest = "dan";
    Scenario {
        title: "the client leaves while the hotel is under way",
        story: "Nobody waits for the answer any more. The saga goes on and ends as it would have.",
        request: TripRequest::of(guest).with_car(),
        faults: vec![
            ("hotel", slow(guest, Action::Transaction, 1_000)),
            ("flight", slow(guest, Action::Transaction, 200)),
            ("car", slow(guest, Action::Transaction, 200)),
        ],
        leaves_after: Some(Duration::from_millis(400)),
        expected: End::Completed,
    }
}

fn slow(guest: &str, action: Action, delay_ms: u64) -> Fault {
    Fault::new(guest, action, FaultKind::Delay).delay(Duration::from_millis(delay_ms))
}

fn databases(trip: &Trip) -> anyhow::Result<Databases> {
    STEPS.into_iter().map(|role| Ok((role, trip.participant(role).bookings()?))).collect()
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(i64::MAX)
}
