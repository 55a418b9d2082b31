//! The trip of `envoy/trip/envoy.yaml`, up and running: Envoy with the filter, and hotel, flight and car.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use harness::participant::{Action, Fault, FaultKind};
//! use harness::trip::{Trip, TripRequest};
//!
//! let trip = Trip::start().await?;
//! trip.flight.set_fault(Fault::new("ann", Action::Transaction, FaultKind::Refuse))?;
//! let answer = trip.book(&TripRequest::of("ann")).await?;
//! assert_eq!(answer.header("saga-status"), Some("compensated"));
//! assert!(trip.held("ann")?.is_empty());
//! # Ok(()) }
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::envoy::{Envoy, RunningEnvoy};
use crate::loopback::{Answer, Client};
use crate::participant::{AttemptFilter, BookingState, Participant};

/// The shipped configuration.
pub const CONFIGURATION: &str = "envoy/trip/envoy.yaml";

/// The steps of the trip, which are also the participants' roles and the names of their clusters.
pub const STEPS: [&str; 3] = ["hotel", "flight", "car"];

/// Which of the two listeners: how the filter comes to the body of a request that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyMode {
    /// One instance, with `allow_on_headers_stop_iteration`.
    Option,
    /// Two instances, the second of them a gate.
    GatePair,
}

impl BodyMode {
    /// Both modes.
    pub const ALL: [BodyMode; 2] = [BodyMode::Option, BodyMode::GatePair];

    /// Name of the listener.
    pub fn listener(self) -> &'static str {
        match self {
            BodyMode::Option => "trip",
            BodyMode::GatePair => "trip_gate",
        }
    }
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct TripRequest {
    /// Who travels. Faults are set by guest, so concurrent tests use guests of their own.
    pub guest: String,
    /// Whether a car is wanted, too.
    pub car: bool,
}

impl TripRequest {
    /// A hotel and a flight.
    pub fn of(guest: impl Into<String>) -> TripRequest {
        TripRequest { guest: guest.into(), car: false }
    }

    /// The same, with a car.
    pub fn with_car(mut self) -> TripRequest {
        self.car = true;
        self
    }

    /// The body of the request.
    pub fn body(&self) -> Json {
        let mut body = json!({"guest": self.guest, "nights": 3, "seat": "12A"});
        if self.car {
            body["car"] = json!("compact");
        }
        body
    }

    /// The steps that a completed trip of this sort holds.
    pub fn steps(&self) -> &'static [&'static str] {
        if self.car { &STEPS } else { &["hotel", "flight"] }
    }
}

/// Envoy and the participants. Everything ends with it.
#[derive(Debug)]
pub struct Trip {
    /// Envoy, with the filter.
    pub envoy: RunningEnvoy,
    /// A participant.
    pub hotel: Participant,
    /// A participant.
    pub flight: Participant,
    /// A participant.
    pub car: Participant,
    client: Client,
    _databases: TempDir,
}

impl Trip {
    /// Starts everything, with the configuration as it is shipped and one worker.
    pub async fn start() -> anyhow::Result<Trip> {
        Trip::start_with(|envoy| envoy.workers(1)).await
    }

    /// Starts everything; `customise` changes what Envoy gets.
    pub async fn start_with(customise: impl FnOnce(Envoy) -> Envoy) -> anyhow::Result<Trip> {
        let databases = tempfile::tempdir().context("a directory for the databases")?;
        let start = |role: &'static str| {
            let database = databases.path().join(format!("{role}.sqlite"));
            async move { Participant::start(role, &database).await }
        };
        let (hotel, flight, car) = tokio::try_join!(start("hotel"), start("flight"), start("car"))?;
        let envoy = Envoy::from_file(CONFIGURATION)
            .upstream("hotel", hotel.address())
            .upstream("flight", flight.address())
            .upstream("car", car.address());
        let envoy = customise(envoy).start().await?;
        let client = Client::http1().timeout(Duration::from_secs(40));
        Ok(Trip { envoy, hotel, flight, car, client, _databases: databases })
    }

    /// A participant by its role.
    ///
    /// # Panics
    /// There is none of that role.
    pub fn participant(&self, role: &str) -> &Participant {
        match role {
            "hotel" => &self.hotel,
            "flight" => &self.flight,
            "car" => &self.car,
            _ => panic!("no participant `{role}`"),
        }
    }

    /// Where trips are booked.
    pub fn url(&self, mode: BodyMode) -> String {
        format!("http://{}/trips", self.address(mode))
    }

    /// Address of a listener.
    pub fn address(&self, mode: BodyMode) -> SocketAddr {
        self.envoy.listener(mode.listener())
    }

    /// Where the database of a participant is.
    pub fn database(&self, role: &str) -> std::path::PathBuf {
        let directory: &Path = self._databases.path();
        directory.join(format!("{role}.sqlite"))
    }

    /// Books a trip as a plain client does, over HTTP/1.1 and the listener with one instance.
    pub async fn book(&self, request: &TripRequest) -> anyhow::Result<Answer> {
        self.client.post_json(&self.url(BodyMode::Option), &request.body(), &[]).await
    }

    /// What the participants hold of a guest: the roles with a booking that is not cancelled.
    pub fn held(&self, guest: &str) -> anyhow::Result<BTreeSet<&'static str>> {
        let mut held = BTreeSet::new();
        for role in STEPS {
            let bookings = self.participant(role).bookings()?;
            if bookings.iter().any(|one| one.guest == guest && one.state == BookingState::Booked) {
                held.insert(role);
            }
        }
        Ok(held)
    }

    /// Waits until the participants hold exactly `steps` of a guest and nothing has been under way for half a second.
    ///
    /// # Errors
    /// It does not come to that within `timeout`; the error says what they hold.
    pub async fn wait_until_held(&self, guest: &str, steps: &[&str], timeout: Duration) -> anyhow::Result<()> {
        let wanted: BTreeSet<&str> = steps.iter().copied().collect();
        let started = Instant::now();
        let mut quiet_since = Instant::now();
        let mut seen = 0;
        loop {
            let attempts = self.attempts(guest)?;
            if attempts != seen {
                seen = attempts;
                quiet_since = Instant::now();
            }
            let held = self.held(guest)?;
            if held == wanted && quiet_since.elapsed() > Duration::from_millis(500) {
                return Ok(());
            }
            ensure!(started.elapsed() < timeout, "{guest} holds {held:?} after {timeout:?}, not {wanted:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// No participant did one step twice.
    pub fn check_nothing_applied_twice(&self) -> anyhow::Result<()> {
        for role in STEPS {
            let balance = self.participant(role).balance()?;
            ensure!(balance.applied_twice == 0, "{role} did {} steps twice", balance.applied_twice);
        }
        Ok(())
    }

    fn attempts(&self, guest: &str) -> anyhow::Result<usize> {
        let mut attempts = 0;
        for role in STEPS {
            attempts += self.participant(role).attempts(&AttemptFilter::guest(guest))?.len();
        }
        Ok(attempts)
    }
}
