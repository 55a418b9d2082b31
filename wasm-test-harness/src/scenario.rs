//! Scenarios as data: what a filter is configured with, how participants behave, what clients ask, and the end.
//!
//! ```text
//!                  /--> simulated --> the compiled filter in a simulated Envoy, virtual time --\
//!   scenarios/*.yaml                                                                       Observed, Observed
//!                  \--> on_envoy  --> the compiled filter in a real Envoy, real participants --/    |
//!                                                                                    differences, check against `expect`
//! ```
//!
//! Each of the two executors gives an [`Observed`] for each case. What is compared, all of it for equality:
//!
//! - the answer to the client: its status, its body (as JSON where it is some), and every header but those that HTTP or
//!   Envoy adds. Of an answer of the application, only that it is one;
//! - each request that a participant received: method, path, host (`:authority`), body, and every header but those that
//!   HTTP or Envoy adds; so all that the filter sends but `x-request-id`, which every proxy draws for itself;
//! - the order of these requests at each participant, as far as there is one: see [`observed::SagaOrder`];
//! - what has become of each booking: it stands, or was cancelled.
//!
//! Ids of sagas and of bookings are replaced by what they stand for, since two runs number them differently. Times are
//! not compared. In a file with an outage the number of attempts follows from back-offs that are drawn from the saga's
//! id: there repeated attempts of a call count as one, and `saga-attempt` is left out.
//!
//! # The files
//!
//! | field | default | meaning |
//! | --- | --- | --- |
//! | `about` | required | what the file shows |
//! | `configuration` | required | the filter's: a mapping, or the path of an Envoy configuration as it is shipped. Without fractions: Envoy reads them from YAML as text |
//! | `outage` | none | `{participant, for_ms}`: it refuses connections for so long, counted from the requests |
//! | `no_endpoint` | none | participants whose clusters have no endpoint |
//! | `cases` | required | [`Case`]: each is for a guest of its own, which is its name; all run at once, by turns with one instance of the filter and with a gate pair |
//!
//! Faults are ordered by guest and by half of a step (see [`Fault`]). Where a saga has several steps at one participant,
//! a fault hits whichever comes first: there a case must be one in which that is sure. Nor may a case hang on which of
//! two answers comes first: the tests run the simulator with several seeds to find such ones.

pub mod difference;
mod expectation;
pub mod observed;
pub mod on_envoy;
pub mod simulated;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

pub use self::observed::Observed;
use crate::envoy::project_root;
use crate::participant::{Action, Fault, FaultKind, Faults};
use crate::trip;

/// Where the files are, from the root of the project.
pub const FOLDER: &str = "wasm-test-harness/scenarios";

/// What every client names as the host that it wants, whatever the address of the proxy.
pub const HOST: &str = "travel.example";

/// One file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    /// What it shows.
    pub about: String,
    /// What the filter is configured with.
    pub configuration: Configuration,
    /// A participant that refuses connections for a while.
    #[serde(default)]
    pub outage: Option<Outage>,
    /// Participants whose clusters have no endpoint.
    #[serde(default)]
    pub no_endpoint: BTreeSet<Role>,
    /// All are run at once.
    pub cases: Vec<Case>,
}

/// What the filter is configured with.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Configuration {
    /// What a shipped configuration of Envoy has, a path from the root of the project.
    Shipped(PathBuf),
    /// This.
    Inline(Json),
}

/// A participant, which is also the name of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Books rooms.
    Hotel,
    /// Books seats.
    Flight,
    /// Books cars.
    Car,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 3] = [Role::Hotel, Role::Flight, Role::Car];

    /// As clusters are named.
    pub fn name(self) -> &'static str {
        match self {
            Role::Hotel => "hotel",
            Role::Flight => "flight",
            Role::Car => "car",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A participant that is not there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// Which.
    pub participant: Role,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

/// One request, what goes wrong with its saga, and what must come of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Unique in its file. It is also the guest.
    pub name: String,
    /// What the client sends.
    pub request: RequestOfCase,
    /// What goes wrong. Several of one participant and action act one after another.
    #[serde(default)]
    pub faults: Vec<Order>,
    /// What must come of it.
    pub expect: Expectation,
}

/// What a client sends.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestOfCase {
    /// Such as `POST`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// Besides `content-type: application/json`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A mapping is sent as JSON, with the case's name as `guest`; text is sent as it is.
    #[serde(default)]
    pub body: Json,
    /// A mapping is sent without `guest`.
    #[serde(default)]
    pub without_guest: bool,
}

/// A [`Fault`] of the case's guest at a participant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// At which participant.
    pub at: Role,
    /// With which half of a step.
    pub action: Action,
    /// What goes wrong.
    pub fault: FaultKind,
    /// With how many requests; 1 unless told.
    pub attempts: Option<u32>,
    /// See [`Fault::applies`].
    pub applies: Option<bool>,
    /// See [`Fault::delay_ms`].
    pub delay_ms: Option<u64>,
    /// See [`Fault::retry_after_s`].
    pub retry_after_s: Option<u32>,
    /// See [`Fault::size_mib`].
    pub size_mib: Option<u64>,
}

/// What must come of a case, whoever runs it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Of the answer; 200 where it is the application's.
    pub status: u16,
    /// The header `saga-status`; none: there is no saga.
    pub saga_status: Option<String>,
    /// The participants that hold a booking in the end.
    #[serde(default)]
    pub held: BTreeSet<Role>,
    /// What each participant received, in order, transactions and compensations; who is not named received nothing.
    #[serde(default)]
    pub received: BTreeMap<Role, Vec<Action>>,
}

impl Scenarios {
    /// Every file of [`FOLDER`], by its name.
    ///
    /// # Errors
    /// One cannot be read, or contradicts itself.
    pub fn all() -> anyhow::Result<BTreeMap<String, Scenarios>> {
        let folder = project_root().join(FOLDER);
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            files.insert(name, Scenarios::read(&path)?);
        }
        Ok(files)
    }

    /// Reads one file.
    ///
    /// # Errors
    /// As [`Scenarios::all`].
    pub fn read(path: &Path) -> anyhow::Result<Scenarios> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Scenarios::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// It is not of the form that the module's text describes, or contradicts itself.
    pub fn parse(text: &str) -> anyhow::Result<Scenarios> {
        let scenarios: Scenarios = serde_yaml_ng::from_str(text)?;
        ensure!(!scenarios.cases.is_empty(), "there is no case");
        let mut names = BTreeSet::new();
        for case in &scenarios.cases {
            ensure!(names.insert(&case.name), "two cases are named {:?}", case.name);
            let faults = Faults::default();
            for (role, fault) in case.orders() {
                faults.add(fault).with_context(|| format!("{:?}", case.name))?;
                // Faults are in a participant's memory, which an outage ends.
                let down = scenarios.outage.as_ref().is_some_and(|outage| outage.participant == role);
                ensure!(!down, "{:?} orders a fault of {role}, which has an outage", case.name);
            }
        }
        Ok(scenarios)
    }

    /// What the filter is configured with.
    ///
    /// # Errors
    /// The shipped configuration cannot be read.
    pub fn plugin_configuration(&self) -> anyhow::Result<Json> {
        match &self.configuration {
            Configuration::Inline(configuration) => Ok(configuration.clone()),
            Configuration::Shipped(path) => {
                let path = project_root().join(path);
                let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let mut envoy = serde_yaml_ng::from_str(&text).with_context(|| path.display().to_string())?;
                Ok(serde_json::to_value(trip::plugin_configuration(&mut envoy))?)
            }
        }
    }

    /// Whether the number of attempts depends on back-offs.
    pub fn attempts_vary(&self) -> bool {
        self.outage.is_some()
    }
}

impl Case {
    /// The body of its request.
    pub fn body(&self) -> Vec<u8> {
        let mut body = self.request.body.clone();
        match &mut body {
            Json::Null => return Vec::new(),
            Json::String(text) => return text.clone().into_bytes(),
            Json::Object(members) if !self.request.without_guest => {
                members.entry("guest").or_insert_with(|| self.name.clone().into());
            }
            _ => {}
        }
        body.to_string().into_bytes()
    }

    /// Its faults, as participants take them.
    pub fn orders(&self) -> impl Iterator<Item = (Role, Fault)> {
        self.faults.iter().map(|order| (order.at, order.fault(&self.name)))
    }
}

impl Order {
    fn fault(&self, guest: &str) -> Fault {
        let plain = Fault::new(guest, self.action, self.fault);
        Fault {
            attempts: self.attempts.unwrap_or(plain.attempts),
            applies: self.applies,
            delay_ms: self.delay_ms.unwrap_or(plain.delay_ms),
            retry_after_s: self.retry_after_s.unwrap_or(plain.retry_after_s),
            size_mib: self.size_mib.unwrap_or(plain.size_mib),
            ..plain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
about: a test
configuration: {version: 1, sagas: []}
outage: {participant: flight, for_ms: 10}
cases:
- name: ann
  request: {method: POST, path: /trips, body: {nights: 3}}
  faults: [{at: hotel, action: transaction, fault: delay, delay_ms: 5}]
  expect: {status: 409, saga_status: compensated, received: {hotel: [transaction]}}
";

    #[test]
    fn a_case_is_for_a_guest_of_its_name() {
        let scenarios = Scenarios::parse(FILE).unwrap();
        let case = &scenarios.cases[0];
        assert_eq!(case.body(), br#"{"guest":"ann","nights":3}"#);
        let (role, fault) = case.orders().next().unwrap();
        assert_eq!((role, fault.guest.as_str(), fault.delay_ms, fault.attempts), (Role::Hotel, "ann", 5, 1));
    }

    #[test]
    fn what_a_file_must_not_say_is_refused() {
        for (from, to, expected) in [
            ("for_ms: 10", "for_ms: 10, at: 2", "unknown field `at`"),
            ("fault: delay, delay_ms: 5", "fault: refuse, applies: true", "is always false"),
            ("at: hotel", "at: flight", "which has an outage"),
            ("at: hotel", "at: train", "unknown variant `train`"),
            (
                "cases:\n",
                "cases:\n- {name: ann, request: {method: GET, path: /}, expect: {status: 200}}\n",
                "two cases",
            ),
        ] {
            let error = format!("{:#}", Scenarios::parse(&FILE.replace(from, to)).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
