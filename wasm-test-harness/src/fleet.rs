//! Several Envoys with one journal: the trip of `envoy/trip-etcd/envoy.yaml`, with a real etcd.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use harness::fleet::Fleet;
//! use harness::trip::TripRequest;
//!
//! let fleet = Fleet::start(2).await?;
//! let first = fleet.begin(0, &TripRequest::of("ann"), "key-of-ann")?;
//! fleet.envoys[0].kill9();
//! let answer = fleet.ask(1, &TripRequest::of("ann"), "key-of-ann").await?;
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value as Json;
use serde_yaml_ng::Value as Yaml;

use crate::envoy::{Envoy, RunningEnvoy};
use crate::etcd::{Etcd, RunningEtcd};
use crate::loopback::{self, Answer, Client, InFlight};
use crate::trip::{Participants, STEPS, TripRequest};

/// The shipped configuration.
pub const CONFIGURATION: &str = "envoy/trip-etcd/envoy.yaml";
/// What every key in etcd begins with.
pub const PREFIX: &str = "sagabox/trips/";
/// By which clients know every Envoy: a key counts within its host.
const HOST: &str = "travel.example";
/// How long a client waits: longer than Envoy lets it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

type Change = Box<dyn Fn(&mut Yaml) + Send + Sync>;

/// See the module's text. Everything ends with it.
pub struct Fleet {
    /// Some may have been killed.
    pub envoys: Vec<RunningEnvoy>,
    /// The journal; of three members one, which is asked what they hold.
    pub etcd: RunningEtcd,
    /// The other members.
    pub other_members: Vec<RunningEtcd>,
    /// hotel, flight and car.
    pub participants: Participants,
    workers: u32,
    change: Change,
    wasm: Option<std::path::PathBuf>,
}

/// A fleet to be.
pub struct FleetPlan {
    etcd: Etcd,
    three_members: bool,
    lease: Duration,
    workers: u32,
    change: Change,
    wasm: Option<std::path::PathBuf>,
}

impl FleetPlan {
    /// With an etcd that has settings of its own.
    pub fn etcd(mut self, etcd: Etcd) -> FleetPlan {
        self.etcd = etcd;
        self
    }

    /// With an etcd of three members, all with settings of etcd's own.
    pub fn three_members(mut self) -> FleetPlan {
        self.three_members = true;
        self
    }

    /// How long after the end of an Envoy its sagas are taken over; 2 s unless told.
    pub fn lease(mut self, lease: Duration) -> FleetPlan {
        self.lease = lease;
        self
    }

    /// The worker threads of each Envoy, each with a VM of its own; 1 unless told.
    pub fn workers(mut self, workers: u32) -> FleetPlan {
        self.workers = workers;
        self
    }

    /// The module to run; the one that ships unless told.
    pub fn wasm(mut self, path: std::path::PathBuf) -> FleetPlan {
        self.wasm = Some(path);
        self
    }

    /// Changes the filter's configuration.
    pub fn change(mut self, change: impl Fn(&mut Yaml) + Send + Sync + 'static) -> FleetPlan {
        self.change = Box::new(change);
        self
    }

    /// Starts everything, with so many Envoys.
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(self, envoys: usize) -> anyhow::Result<Fleet> {
        let FleetPlan { etcd, three_members, lease, workers, change, wasm } = self;
        let members = async {
            if !three_members {
                return anyhow::Ok((etcd.start().await?, Vec::new()));
            }
            let [etcd, one, other] = Etcd::start_three().await?;
            Ok((etcd, vec![one, other]))
        };
        let ((etcd, other_members), participants) = tokio::try_join!(members, Participants::start())?;
        let change: Change = Box::new(move |yaml| {
            yaml["journal"]["etcd"]["lease"] = format!("{}ms", lease.as_millis()).into();
            change(yaml);
        });
        let mut fleet = Fleet { envoys: Vec::new(), etcd, other_members, participants, workers, change, wasm };
        for _ in 0..envoys {
            let envoy = fleet.another().await?;
            fleet.envoys.push(envoy);
        }
        Ok(fleet)
    }
}

impl Fleet {
    /// A fleet of Envoys with one worker each, whose leases are of 2 s.
    pub fn plan() -> FleetPlan {
        FleetPlan {
            etcd: Etcd::new(),
            three_members: false,
            lease: Duration::from_secs(2),
            workers: 1,
            change: Box::new(|_| {}),
            wasm: None,
        }
    }

    /// Starts [`Fleet::plan`].
    ///
    /// # Errors
    /// Something does not start.
    pub async fn start(envoys: usize) -> anyhow::Result<Fleet> {
        Fleet::plan().start(envoys).await
    }

    /// Starts one more Envoy like the others, and gives it.
    ///
    /// # Errors
    /// It does not start.
    pub async fn another(&self) -> anyhow::Result<RunningEnvoy> {
        self.another_with(|_| {}).await
    }

    /// Starts one more Envoy, whose filter is configured like that of the others but for a change, and gives it.
    ///
    /// # Errors
    /// It does not start.
    pub async fn another_with(&self, change: impl FnOnce(&mut Yaml)) -> anyhow::Result<RunningEnvoy> {
        let mut configuration = shipped_configuration()?;
        (self.change)(&mut configuration);
        change(&mut configuration);
        let text = serde_yaml_ng::to_string(&configuration)?;
        let mut envoy = Envoy::from_file(CONFIGURATION)
            .workers(self.workers)
            .upstreams("etcd", self.other_members.iter().chain([&self.etcd]).map(RunningEtcd::address).collect())
            .plugin_configuration("trip", "sagabox", &text);
        for role in STEPS {
            envoy = envoy.upstream(role, self.participants.participant(role).address());
        }
        if let Some(wasm) = &self.wasm {
            envoy = envoy.wasm(wasm);
        }
        Ok(envoy.start().await?)
    }

    /// Begins to book a trip at an Envoy under a key.
    ///
    /// # Errors
    /// The request cannot be made.
    pub fn begin(&self, envoy: usize, request: &TripRequest, key: &str) -> anyhow::Result<InFlight> {
        let url = format!("http://{}/trips", self.envoys[envoy].listener("trip"));
        let request = loopback::json_request(&url, &request.body(), &[("host", HOST), ("idempotency-key", key)])?;
        Ok(Client::http1().timeout(ANSWER_TIMEOUT).begin(request))
    }

    /// Books a trip at an Envoy under a key.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask(&self, envoy: usize, request: &TripRequest, key: &str) -> anyhow::Result<Answer> {
        self.begin(envoy, request, key)?.answer().await
    }

    /// Asks until the answer is an end: as a client does that repeats its request under its key.
    ///
    /// # Errors
    /// There is none within `timeout`.
    pub async fn ask_until_told(
        &self,
        envoy: usize,
        request: &TripRequest,
        key: &str,
        timeout: Duration,
    ) -> anyhow::Result<Answer> {
        let started = Instant::now();
        loop {
            let answer = self.ask(envoy, request, key).await;
            let end = |answer: &Answer| matches!(answer.header("saga-status"), Some("completed" | "compensated"));
            match answer {
                Ok(answer) if end(&answer) => return Ok(answer),
                other => {
                    let late = started.elapsed() > timeout;
                    ensure!(!late, "no end of {key} within {timeout:?}: {:?}", other.map(|answer| answer.text()));
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// A counter of one of the Envoys, such as `sagas_taken_over`.
    ///
    /// # Errors
    /// There is none, or the Envoy does not answer.
    pub async fn counter(&self, envoy: usize, name: &str) -> anyhow::Result<u64> {
        let stats = self.envoys[envoy].stats(&format!("^wasmcustom\\.sagabox_{name}$")).await?;
        stats.into_values().next().with_context(|| format!("no counter sagabox_{name}"))
    }

    /// The sagas in etcd that have not ended, or of which records are left: what there is of each.
    ///
    /// # Errors
    /// etcd does not answer.
    pub async fn open_sagas(&self) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let mut open: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in self.etcd.entries(PREFIX).await? {
            let parts: Vec<&str> = entry.key.strip_prefix(PREFIX).unwrap_or_default().split('/').collect();
            let id = match parts.as_slice() {
                ["saga", id] => serde_json::from_slice::<Json>(&entry.value)
                    .is_ok_and(|head| !matches!(head["state"].as_str(), Some("completed" | "compensated")))
                    .then_some(*id),
                ["record", id, ..] => Some(*id),
                _ => None,
            };
            if let Some(id) = id {
                let kept = format!("{}: {}", entry.key, String::from_utf8_lossy(&entry.value));
                open.entry(id.to_owned()).or_default().push(kept);
            }
        }
        Ok(open)
    }

    /// Waits until nothing is left in etcd but what belongs to VMs, definitions, and what is retained.
    ///
    /// # Errors
    /// There is after `timeout`.
    pub async fn wait_until_no_saga_is_open(&self, timeout: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let open = self.open_sagas().await?;
            if open.is_empty() {
                return Ok(());
            }
            let left = || open.values().flatten().map(String::as_str).collect::<Vec<_>>().join("\n");
            ensure!(started.elapsed() < timeout, "open after {timeout:?}:\n{}", left());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The filter's configuration as it is shipped.
///
/// # Errors
/// The file is not there, or has another form.
pub fn shipped_configuration() -> anyhow::Result<Yaml> {
    let path = crate::envoy::project_root().join(CONFIGURATION);
    let mut yaml: Yaml = serde_yaml_ng::from_str(&std::fs::read_to_string(&path)?)?;
    Ok(crate::trip::plugin_configuration(&mut yaml).clone())
}
