//! What a run is given: configurations, proxies, participants, clients, and what happens to them when.

use serde_json::Value as Json;

use super::faults::Faults;
use super::history::CallRecord;
use super::host::{Headers, Nanos};
use super::versions::Versions;
use crate::participant::Fault;

/// A millisecond of virtual time.
pub const MS: Nanos = 1_000_000;
/// A second of virtual time.
pub const SECOND: Nanos = 1_000 * MS;

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Versions of the filter's configuration. Every proxy begins with the first.
    pub configurations: Vec<Json>,
    /// The Envoys.
    pub proxies: Vec<ProxyPlan>,
    /// Names of participants, which are also the names of their clusters.
    pub participants: Vec<String>,
    /// In no particular order.
    pub clients: Vec<ClientPlan>,
    /// What happens, and when.
    pub troubles: Vec<(Nanos, Trouble)>,
    /// Faults for single guests, as a real participant takes them.
    pub orders: Vec<(String, Fault)>,
    /// What becomes of single calls to etcd.
    pub etcd_orders: Vec<EtcdOrder>,
    /// The longest time that a request or an answer takes on its way.
    pub latency: Nanos,
    /// What else goes wrong, until [`Plan::heal_at`].
    pub faults: Faults,
    /// Whether every call is compared with what the journal has of it.
    pub checks_journal: bool,
    /// Two versions of the module run; none: one does.
    pub versions: Option<Versions>,
    /// From then on nothing goes wrong any more, and everything must come to an end.
    pub heal_at: Nanos,
}

impl Plan {
    /// Whether sagas are kept in etcd.
    pub fn in_etcd(&self) -> bool {
        self.configurations.iter().any(|configuration| !configuration["journal"]["etcd"].is_null())
    }

    /// The longest lease of a VM in etcd, in whole seconds.
    pub fn etcd_lease_s(&self) -> i64 {
        let leases = self.configurations.iter().filter_map(|one| one["journal"]["etcd"]["lease"].as_str());
        leases.filter_map(|lease| lease.strip_suffix('s')?.parse().ok()).max().unwrap_or(0)
    }

    /// Who the proxies say they are to etcd, and their password.
    pub fn etcd_user(&self) -> Option<(&str, &str)> {
        self.configurations.iter().find_map(|one| {
            let etcd = &one["journal"]["etcd"];
            Some((etcd["username"].as_str()?, etcd["password"].as_str()?))
        })
    }

    /// For how long participants keep keys; none: for ever. It is the same for every call.
    pub fn key_lifetime(&self) -> Option<Nanos> {
        let sagas = self.configurations.iter().filter_map(|one| one["sagas"].as_array()).flatten();
        let mut steps = sagas.filter_map(|saga| saga["steps"].as_array()).flatten();
        steps.find_map(|step| {
            let lifetime = step["transaction"]["key_lifetime"].as_str()?;
            lifetime.strip_suffix("ms")?.parse::<Nanos>().ok().map(|lifetime_ms| lifetime_ms * MS)
        })
    }

    /// How many sagas that have ended shared data may retain; none: as many as there are.
    pub fn max_retained(&self) -> Option<u64> {
        self.configurations.iter().filter_map(|one| one["limits"]["max_retained"].as_u64()).max()
    }

    /// Whether etcd, or a proxy's lease there, may be away for a while.
    pub fn may_miss_etcd(&self) -> bool {
        let faults = &self.faults;
        let etcd = [
            faults.etcd_request_lost,
            faults.etcd_answer_lost,
            faults.etcd_slow,
            faults.etcd_unsure,
            faults.etcd_tokens,
        ];
        let troubles = self.troubles.iter().any(|(_, trouble)| {
            matches!(
                trouble,
                Trouble::EtcdAway { .. }
                    | Trouble::EtcdFull { .. }
                    | Trouble::CutOffFromEtcd { .. }
                    | Trouble::Freeze { .. }
            )
        });
        troubles || faults.vm_stalled > 0.0 || etcd.iter().any(|rate| *rate > 0.0)
    }

    /// Which step of its definition a call is of. Definitions of one name differ between configurations, but a step of the
    /// same name is at the same place.
    pub fn step_index(&self, call: &CallRecord, step: &str) -> Option<usize> {
        let name = call.header("saga-name");
        let sagas = self.configurations.iter().filter_map(|configuration| configuration["sagas"].as_array()).flatten();
        let mut steps = sagas.filter(|saga| saga["name"] == name).filter_map(|saga| saga["steps"].as_array());
        steps.find_map(|steps| steps.iter().position(|other| other["name"] == step))
    }
}

/// What becomes of the first call to etcd that writes a key with this in its name.
#[derive(Debug, Clone)]
pub struct EtcdOrder {
    /// Part of the key.
    pub writes: String,
    /// What becomes of it.
    pub fate: EtcdFate,
}

/// What becomes of a call to etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdFate {
    /// It never arrives.
    RequestLost,
    /// It arrives after so many nanoseconds.
    RequestLate(Nanos),
    /// etcd does what it was asked, and the answer does not arrive.
    AnswerLost,
}

/// One Envoy.
#[derive(Debug, Clone)]
pub struct ProxyPlan {
    /// Worker threads, each with a VM of its own.
    pub workers: usize,
    /// Two instances of the filter, the second of them a gate, instead of one with `allow_on_headers_stop_iteration`.
    pub gate_pair: bool,
    /// What is to hold requests is missing: the gate of the pair, or the option.
    pub holder_missing: bool,
}

/// One client.
#[derive(Debug, Clone)]
pub struct ClientPlan {
    /// When it sends its request.
    pub at: Nanos,
    /// To which proxy.
    pub proxy: usize,
    /// Which worker accepts its connection.
    pub worker: usize,
    /// Its request line.
    pub method: String,
    /// Its request line.
    pub path: String,
    /// Without pseudo-headers.
    pub headers: Headers,
    /// What it sends.
    pub body: Vec<u8>,
    /// In how many pieces the body comes; 0: with the headers, where it is empty.
    pub pieces: usize,
    /// Trailers come after the body.
    pub trailers: bool,
    /// When it goes away unless it was answered, counted from its request.
    pub leaves_after: Option<Nanos>,
    /// How often it sends the request again where it was not told an end.
    pub repeats: u32,
    /// It does so over another worker each time.
    pub wanders: bool,
    /// It does so at another proxy each time.
    pub travels: bool,
    /// The proxy that it is behind, which tries its requests again.
    pub front: Option<Front>,
}

/// A proxy in front, which sends a request again, the same in every byte but its count, where it was not answered in time,
/// or with 502, 503 or 504, or where its connection was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Front {
    /// For how long it waits for an answer.
    pub timeout: Nanos,
    /// How often it tries a request at most.
    pub attempts: u32,
}

/// Which of the times that a proxy in front sends a request this is.
#[derive(Debug, Clone)]
pub struct FrontAttempt {
    /// Its name for the request, the same each time.
    pub request_id: String,
    /// From 1 on.
    pub number: u32,
}

impl ClientPlan {
    /// The key under which it asks.
    pub fn start_key(&self) -> Option<&[u8]> {
        let line = self.headers.iter().find(|(name, _)| name == "idempotency-key");
        line.map(|(_, value)| value.as_slice())
    }

    /// Which proxy takes its request the `repeat`th time.
    pub fn proxy_of(&self, repeat: u32, proxies: usize) -> usize {
        let further = if self.travels { repeat as usize } else { 0 };
        (self.proxy + further) % proxies.max(1)
    }

    /// Which worker takes its request the `repeat`th time.
    pub fn worker_of(&self, repeat: u32, workers: usize) -> usize {
        let further = if self.wanders { repeat as usize } else { 0 };
        (self.worker + further) % workers.max(1)
    }
}

/// What happens to a part of the world.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// A participant refuses connections.
    ParticipantDown {
        /// Which.
        participant: usize,
        /// For how long.
        for_ns: Nanos,
    },
    /// A participant's cluster has no endpoint.
    NoEndpoint {
        /// Which.
        participant: usize,
        /// For how long.
        for_ns: Nanos,
    },
    /// A VM traps.
    Trap {
        /// Of which proxy.
        proxy: usize,
        /// Of which worker.
        worker: usize,
        /// After how many more host calls.
        host_calls: u64,
    },
    /// The VM of the main thread traps that looks for what others leave. Envoy makes no new one: nothing asks for it.
    TrapOfMain {
        /// Of which proxy.
        proxy: usize,
        /// After how many more host calls.
        host_calls: u64,
    },
    /// The process of a proxy is killed.
    Kill {
        /// Which.
        proxy: usize,
        /// How long it is away.
        for_ns: Nanos,
    },
    /// A proxy does nothing.
    Freeze {
        /// Which.
        proxy: usize,
        /// For how long.
        for_ns: Nanos,
    },
    /// One VM does nothing, as if its thread were busy.
    Stall {
        /// Of which proxy.
        proxy: usize,
        /// Of which thread: the main thread has the first two VMs.
        thread: usize,
        /// For how long.
        for_ns: Nanos,
    },
    /// A proxy gets a new configuration.
    Reconfigure {
        /// Which.
        proxy: usize,
        /// Index in [`Plan::configurations`].
        version: usize,
        /// How the old one gives way to the new one.
        how: Succession,
        /// How long the connections of the old one may go on.
        drain_ns: Nanos,
    },
    /// A proxy gets the other version of the module, with the configuration that it has.
    OtherVersion {
        /// Which.
        proxy: usize,
        /// How the old one gives way to the new one.
        how: Succession,
        /// How long the connections of the old one may go on.
        drain_ns: Nanos,
    },
    /// Nobody reaches etcd.
    EtcdAway {
        /// For how long.
        for_ns: Nanos,
    },
    /// One proxy does not reach etcd, and goes on with everything else.
    CutOffFromEtcd {
        /// Which.
        proxy: usize,
        /// For how long.
        for_ns: Nanos,
        /// It knows of no endpoint; else what it sends gets lost.
        without_endpoint: bool,
    },
    /// The path answers in a participant's place.
    PathAnswers {
        /// In whose.
        participant: usize,
        /// For how long.
        for_ns: Nanos,
        /// With what; none: with something else each time.
        status: Option<u16>,
    },
    /// etcd's database is as large as it may be.
    EtcdFull {
        /// For how long.
        for_ns: Nanos,
    },
    /// The wall clock of a proxy's machine jumps.
    ClockJump {
        /// Which.
        proxy: usize,
        /// By how much, in nanoseconds.
        by_ns: i64,
    },
}

/// What becomes of an old configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Succession {
    /// Envoy, by LDS: the new root is in the same VM, the old one ends when it says so.
    SameVm,
    /// The code or environment has changed: the new root is in a new VM, the old one ends when it says so.
    NewVm,
    /// The same, but the old VM does not get the time that it asks for.
    OldVmThrownAway,
}
