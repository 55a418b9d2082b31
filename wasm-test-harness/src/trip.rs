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

mod history;
mod participants;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};
use serde_json::{Value as Json, json};
use serde_yaml_ng::Value as Yaml;

use crate::envoy::{Envoy, RunningEnvoy};
use crate::loopback::{self, Answer, Client, InFlight, Outgoing, OutgoingBody};

pub use history::{History, Seen};
pub use participants::Participants;

/// The shipped configuration.
pub const CONFIGURATION: &str = "envoy/trip/envoy.yaml";

/// The steps of the trip, which are also the participants' roles and the names of their clusters.
pub const STEPS: [&str; 3] = ["hotel", "flight", "car"];

/// How long a client waits: longer than Envoy lets it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// `per_try_timeout` of a step.
pub fn per_try_timeout(step: &str) -> Duration {
    Duration::from_secs(if step == "hotel" { 2 } else { 5 })
}

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

/// How a client comes to Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downstream {
    /// Which listener.
    pub mode: BodyMode,
    /// HTTP/2 by prior knowledge instead of HTTP/1.1.
    pub http2: bool,
    /// The body comes in pieces, without a length, and trailers after it.
    pub trailers: bool,
}

impl Downstream {
    /// As most clients do: HTTP/1.1, a body of known length, the listener with one instance.
    pub const PLAIN: Downstream = Downstream { mode: BodyMode::Option, http2: false, trailers: false };

    /// Every combination.
    pub fn all() -> Vec<Downstream> {
        let with = |mode| move |http2| [false, true].map(|trailers| Downstream { mode, http2, trailers });
        BodyMode::ALL.into_iter().flat_map(|mode| [false, true].into_iter().flat_map(with(mode))).collect()
    }
}

/// The filter's configuration on the listener of [`CONFIGURATION`] that has it as YAML, the one with one instance.
///
/// # Panics
/// The configuration has another form.
pub fn plugin_configuration(configuration: &mut Yaml) -> &mut Yaml {
    let manager = &mut configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    let filter = &mut manager["typed_config"]["http_filters"][0]["typed_config"]["config"];
    &mut filter["configuration"]["value"]
}

/// The definition of the saga in [`plugin_configuration`], to be changed before Envoy gets it.
///
/// # Panics
/// The configuration has another form.
pub fn saga_definition(configuration: &mut Yaml) -> &mut Yaml {
    &mut plugin_configuration(configuration)["sagas"][0]
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
    /// To which the trip derefs: `trip.hotel` is one of them.
    pub participants: Participants,
    client: Client,
}

impl std::ops::Deref for Trip {
    type Target = Participants;

    fn deref(&self) -> &Participants {
        &self.participants
    }
}

impl std::ops::DerefMut for Trip {
    fn deref_mut(&mut self) -> &mut Participants {
        &mut self.participants
    }
}

impl Trip {
    /// Starts everything, with the configuration as it is shipped and one worker.
    pub async fn start() -> anyhow::Result<Trip> {
        Trip::start_with(|envoy| envoy.workers(1)).await
    }

    /// Starts everything; `customise` changes what Envoy gets.
    pub async fn start_with(customise: impl FnOnce(Envoy) -> Envoy) -> anyhow::Result<Trip> {
        let participants = Participants::start().await?;
        let mut envoy = Envoy::from_file(CONFIGURATION);
        for role in STEPS {
            envoy = envoy.upstream(role, participants.participant(role).address());
        }
        let envoy = customise(envoy).start().await?;
        let client = Client::http1().timeout(ANSWER_TIMEOUT);
        Ok(Trip { envoy, participants, client })
    }

    /// Where trips are booked.
    pub fn url(&self, mode: BodyMode) -> String {
        format!("http://{}/trips", self.address(mode))
    }

    /// Address of a listener.
    pub fn address(&self, mode: BodyMode) -> SocketAddr {
        self.envoy.listener(mode.listener())
    }

    /// Books a trip as a plain client does, over HTTP/1.1 and the listener with one instance.
    pub async fn book(&self, request: &TripRequest) -> anyhow::Result<Answer> {
        self.client.post_json(&self.url(BodyMode::Option), &request.body(), &[]).await
    }

    /// Begins to book a trip, over a connection of its own.
    ///
    /// # Errors
    /// The request cannot be made.
    pub fn begin(&self, request: &TripRequest, downstream: Downstream) -> anyhow::Result<InFlight> {
        let client = if downstream.http2 { Client::http2() } else { Client::http1() };
        Ok(client.timeout(ANSWER_TIMEOUT).begin(self.http_request(request, downstream)?))
    }

    fn http_request(&self, request: &TripRequest, downstream: Downstream) -> anyhow::Result<Request<OutgoingBody>> {
        let (url, body) = (self.url(downstream.mode), request.body());
        if !downstream.trailers {
            return loopback::json_request(&url, &body, &[]);
        }
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("x-checksum"), HeaderValue::from_static("42"))]);
        let mut text = Bytes::from(body.to_string());
        let rest = text.split_off(text.len() / 2);
        let body = Outgoing::stream(futures::stream::iter([text, rest]), trailers.clone());
        let mut request = loopback::request(Method::POST, &url, &[("content-type", "application/json")], body)?;
        loopback::announce(request.headers_mut(), &trailers);
        Ok(request)
    }

    /// The filter has met nothing that must never be: no event that did not fit, and no end of a virtual machine.
    ///
    /// # Errors
    /// It has, or Envoy does not answer.
    pub async fn check_filter_is_well(&self) -> anyhow::Result<()> {
        // Envoy makes a new virtual machine only when the next request comes.
        for mode in BodyMode::ALL {
            self.client.get(&format!("http://{}/no-saga", self.address(mode))).await?;
        }
        let reloads = self.envoy.stats(r"^wasm\..*\.vm_reload").await?;
        ensure!(!reloads.is_empty() && reloads.values().all(|count| *count == 0), "a VM was lost: {reloads:?}");
        let illegal = self.counter("illegal_events").await?;
        ensure!(illegal == 0, "{illegal} events did not fit:\n{}", self.envoy.log());
        Ok(())
    }

    /// One of the filter's counters, such as `sagas_stuck`.
    ///
    /// # Errors
    /// There is none of that name, or Envoy's administration does not answer.
    pub async fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let stats = self.envoy.stats(&format!("^wasmcustom\\.sagabox_{name}$")).await?;
        stats.into_values().next().with_context(|| format!("no counter sagabox_{name}"))
    }
}
