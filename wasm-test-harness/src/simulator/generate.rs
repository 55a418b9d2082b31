//! From a seed to a plan: random sagas, clients and troubles.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Map, Value as Json, json};

mod alone;
mod versions;

pub use self::alone::PATH_STATUSES;
use super::faults::Faults;
use super::host::Nanos;
use super::plan::{ClientPlan, MS, Plan, ProxyPlan, SECOND, Succession, Trouble};
use super::versions::Difference;
use super::world::MAIN_VMS;

/// When everything heals.
const HEALS_AT: Nanos = 40 * SECOND;
/// Clients ask before this time, and what happens to proxies and participants begins before it.
const BEGINS_BEFORE: Nanos = 12 * SECOND;
const PARTICIPANTS: [&str; 4] = ["hotel", "flight", "car", "train"];
/// `limits.max_retained` of a configuration by which hardly any saga is retained.
const FEW: usize = 2;
/// `limits.max_body` of every configuration.
const MAX_BODY: usize = 4_096;

/// The plan of a seed. `faults` is as [`Faults::with`] reads it, and overrules what the seed draws. `difference`: there are
/// two versions of the module.
///
/// # Errors
/// `faults` cannot be read.
pub fn plan(seed: u64, faults: &str, difference: Option<&Difference>) -> anyhow::Result<Plan> {
    let mut generator = Generator {
        random: Pcg64Mcg::seed_from_u64(seed ^ 0x5a6a_b0c5),
        of_the_journal: Pcg64Mcg::seed_from_u64(seed ^ 0x10c4_a75e),
        of_owners: Pcg64Mcg::seed_from_u64(seed ^ 0x00f0_3e12),
        of_etcd: Pcg64Mcg::seed_from_u64(seed ^ 0x0e7c_d000),
        of_replicas: Pcg64Mcg::seed_from_u64(seed ^ 0x0e7c_d3e9),
        of_gates: Pcg64Mcg::seed_from_u64(seed ^ 0x6a7e_0b0d),
        sagas: 0,
    };
    let drawn = Faults::random(&mut generator.random);
    let drawn = drawn.with_journal(&mut generator.of_the_journal, &mut generator.of_owners);
    let mut of_unsure = Pcg64Mcg::seed_from_u64(seed ^ 0x0e7c_d0f5);
    let drawn = drawn.with_etcd(&mut generator.of_etcd, &mut of_unsure, &mut generator.of_replicas);
    let drawn = drawn.with_each_alone(seed);
    let drawn = if difference.is_some() { drawn.with_versions(seed) } else { drawn };
    let mut plan = generator.plan(drawn.with(faults)?);
    alone::add_to(&mut plan, seed);
    if let Some(difference) = difference {
        versions::add_to(&mut plan, seed, difference);
    }
    Ok(plan)
}

struct Generator {
    random: Pcg64Mcg,
    /// For what came with the journal: seeds that found something before keep what they have.
    of_the_journal: Pcg64Mcg,
    /// For what came after that.
    of_owners: Pcg64Mcg,
    /// For what came with etcd.
    of_etcd: Pcg64Mcg,
    /// For what came after that: several proxies on one etcd.
    of_replicas: Pcg64Mcg,
    /// For what came after that: proxies that hold nothing.
    of_gates: Pcg64Mcg,
    sagas: usize,
}

impl Generator {
    fn plan(&mut self, faults: Faults) -> Plan {
        let participants = PARTICIPANTS[..self.upto(1, 4)].iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        self.sagas = self.upto(1, 3);
        let versions = if faults.reconfigured > 0.0 || faults.vm_replaced > 0.0 { 3 } else { 1 };
        let mut configurations: Vec<Json> = (0..versions).map(|_| self.configuration(&participants)).collect();
        let proxies = if self.chance(0.3) { 2 } else { 1 };
        let mut proxies: Vec<ProxyPlan> = (0..proxies)
            .map(|_| ProxyPlan { workers: self.upto(1, 3), gate_pair: self.chance(0.2), holder_missing: false })
            .collect();
        let mut clients: Vec<ClientPlan> =
            (0..self.upto(1, 8)).map(|index| self.client(index, &proxies, &faults)).collect();
        self.give_start_keys(&mut clients);
        let moments: Vec<Nanos> = clients.iter().map(|client| client.at).collect();
        let mut troubles = self.troubles(&faults, &proxies, participants.len(), versions, &moments);
        self.stall(&mut troubles, &faults, &proxies, &moments);
        self.trap_in_sagas(&mut troubles, &faults, &clients);
        if self.of_replicas.random_bool(faults.few_retained) {
            for configuration in &mut configurations {
                configuration["limits"]["max_retained"] = FEW.into();
            }
        }
        self.trap_main(&mut troubles, &faults, proxies.len(), &moments);
        if faults.journal_in_etcd > 0.0 {
            self.keep_in_etcd(&mut configurations, &mut proxies, &mut troubles, &faults, &moments);
            self.use_replicas(&mut clients, &mut troubles, &faults, proxies.len(), &moments);
        }
        for proxy in &mut proxies {
            proxy.holder_missing = self.of_gates.random_bool(faults.holder_missing);
        }
        let latency = self.one_of(&[3 * MS, 3 * MS, 30 * MS, 150 * MS], 3 * MS);
        let (orders, heal_at, checks_journal) = (Vec::new(), HEALS_AT, true);
        Plan {
            configurations,
            proxies,
            participants,
            clients,
            troubles,
            orders,
            etcd_orders: Vec::new(),
            latency,
            faults,
            checks_journal,
            versions: None,
            heal_at,
        }
    }

    fn upto(&mut self, least: usize, most: usize) -> usize {
        self.random.random_range(least..=most)
    }

    fn chance(&mut self, rate: f64) -> bool {
        self.random.random_bool(rate)
    }

    fn one_of<T: Copy>(&mut self, values: &[T], otherwise: T) -> T {
        values.choose(&mut self.random).copied().unwrap_or(otherwise)
    }

    /// How long a client stays: often shorter than a saga takes.
    fn patience(&mut self) -> Nanos {
        let longest = self.one_of(&[100 * MS, 100 * MS, 5 * SECOND], SECOND);
        self.random.random_range(0..longest)
    }

    /// A time at which something happens: half of them soon after a client has asked, when most is under way.
    fn moment(&mut self, asked: &[Nanos]) -> Nanos {
        match asked.choose(&mut self.random) {
            Some(asked) if self.random.random_bool(0.5) => asked + self.random.random_range(0..100 * MS),
            _ => self.random.random_range(0..BEGINS_BEFORE),
        }
    }

    fn configuration(&mut self, participants: &[String]) -> Json {
        let sagas: Vec<Json> = (0..self.sagas).map(|index| self.saga(index, participants)).collect();
        let max_sagas = if self.chance(0.05) { 2 } else { 1_000 };
        json!({"version": 1, "limits": {"max_body": MAX_BODY, "max_sagas": max_sagas}, "sagas": sagas})
    }

    fn saga(&mut self, index: usize, participants: &[String]) -> Json {
        let count = if self.chance(0.5) { self.upto(1, 4) } else { self.upto(1, 12) };
        let density = self.one_of(&[0.0, 0.15, 0.4, 1.0], 0.4);
        let mut steps: Vec<Json> = Vec::new();
        for step in 0..count {
            let after: Vec<usize> = (0..step)
                .filter(|before| if density == 1.0 { before + 1 == step } else { self.random.random_bool(density) })
                .collect();
            steps.push(self.step(step, &after, &steps, participants));
        }
        let mut body = json!({"trip": "${saga.id}", "guest": "${request.body.guest}"});
        for step in steps.iter().filter(|step| step["when"].is_null()) {
            let name = step["name"].as_str().unwrap_or_default();
            body[name] = format!("${{steps.{name}.response.body.id}}").into();
        }
        json!({
            "name": format!("saga-{index}"),
            "match": {"method": "POST", "path": format!("/saga-{index}")},
            "deadline": format!("{}ms", self.one_of(&[1_000, 3_000, 10_000, 20_000], 10_000)),
            "steps": steps,
            "reply": {"completed": {"status": 201, "body": body}},
        })
    }

    fn step(&mut self, index: usize, after: &[usize], before: &[Json], participants: &[String]) -> Json {
        let cluster = participants.choose(&mut self.random).cloned().unwrap_or_default();
        let mut transaction = json!({
            "cluster": cluster,
            "method": "POST",
            "path": "/bookings",
            "body": {"guest": "${request.body.guest}", "what": format!("step{index}")},
            "per_try_timeout": format!("{}ms", self.one_of(&[200, 1_000, 3_000], 1_000)),
            "retry": {
                "max_attempts": self.upto(1, 4),
                "base_interval": format!("{}ms", self.one_of(&[10, 50, 200], 50)),
                "max_interval": format!("{}ms", self.one_of(&[200, 1_000, 5_000], 1_000)),
            },
        });
        if self.chance(0.3) {
            transaction["success"] = "response.code == 201".into();
        }
        // Of a step that may be skipped nothing can be read.
        let read = after.iter().filter_map(|index| before.get(*index)).find(|step| step["when"].is_null());
        if let Some(read) = read.filter(|_| self.random.random_bool(0.5)) {
            let name = read["name"].as_str().unwrap_or_default();
            transaction["headers"] = json!({"x-before": format!("${{steps.{name}.response.body.id}}")});
        }
        let names: Vec<String> = after.iter().map(|index| format!("step{index}")).collect();
        let mut step = json!({"name": format!("step{index}"), "after": names, "transaction": transaction});
        if self.chance(0.15) {
            step["when"] = format!("has(request.body.flag{})", index % 3).into();
        }
        let path = self.one_of(
            &["", "/bookings/${transaction.response.body.id}", "/bookings/by-key/${transaction.idempotency_key}"],
            "",
        );
        if !path.is_empty() && !self.chance(0.1) {
            let max_interval = self.one_of(&[200, 1_000, 5_000], 1_000);
            step["compensation"] = json!({
                "method": "DELETE",
                "path": path,
                "retry": {"base_interval": "50ms", "max_interval": format!("{max_interval}ms")},
            });
        }
        step
    }

    fn client(&mut self, index: usize, proxies: &[ProxyPlan], faults: &Faults) -> ClientPlan {
        let proxy = self.upto(0, proxies.len() - 1);
        let mut body = Map::new();
        body.insert("guest".to_owned(), format!("guest-{index}").into());
        for flag in 0..3 {
            if self.chance(0.5) {
                body.insert(format!("flag{flag}"), true.into());
            }
        }
        if self.chance(faults.bad_request) {
            if self.chance(0.5) {
                body.remove("guest");
            } else {
                body.insert("filler".to_owned(), "x".repeat(MAX_BODY).into());
            }
        }
        let saga = self.upto(0, self.sagas - 1);
        let path = if self.chance(0.08) { "/other".to_owned() } else { format!("/saga-{saga}") };
        ClientPlan {
            at: self.random.random_range(0..BEGINS_BEFORE),
            proxy,
            worker: self.upto(0, proxies[proxy].workers - 1),
            method: "POST".to_owned(),
            path,
            headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
            body: Json::Object(body).to_string().into_bytes(),
            pieces: self.upto(1, 3),
            trailers: self.chance(0.2),
            leaves_after: self.chance(faults.client_gone).then(|| self.patience()),
            repeats: if self.chance(faults.client_repeats) { 2 } else { 0 },
            wanders: false,
            travels: false,
            front: None,
        }
    }

    fn troubles(
        &mut self,
        faults: &Faults,
        proxies: &[ProxyPlan],
        participants: usize,
        versions: usize,
        moments: &[Nanos],
    ) -> Vec<(Nanos, Trouble)> {
        let mut troubles = Vec::new();
        let mut add = |generator: &mut Self, rate: f64, make: &mut dyn FnMut(&mut Self, usize, Nanos) -> Trouble| {
            for _ in 0..2 {
                if generator.chance(rate) {
                    let at = generator.moment(moments);
                    let for_ns = generator.random.random_range(100 * MS..20 * SECOND);
                    let proxy = generator.upto(0, proxies.len() - 1);
                    let trouble = make(generator, proxy, for_ns);
                    troubles.push((at, trouble));
                }
            }
        };
        add(self, faults.participant_down, &mut |generator, _, for_ns| Trouble::ParticipantDown {
            participant: generator.upto(0, participants - 1),
            for_ns,
        });
        add(self, faults.dispatch_refused, &mut |generator, _, for_ns| Trouble::NoEndpoint {
            participant: generator.upto(0, participants - 1),
            for_ns,
        });
        add(self, faults.trap, &mut |generator, proxy, _| Trouble::Trap {
            proxy,
            worker: generator.upto(0, proxies[proxy].workers - 1),
            host_calls: generator.random.random_range(1..200),
        });
        add(self, faults.proxy_killed, &mut |_, proxy, for_ns| Trouble::Kill { proxy, for_ns });
        add(self, faults.proxy_frozen, &mut |_, proxy, for_ns| Trouble::Freeze { proxy, for_ns });
        add(self, faults.clock_jump, &mut |generator, proxy, _| Trouble::ClockJump {
            proxy,
            by_ns: generator.random.random_range(-3_600_000_000_000..=3_600_000_000_000),
        });
        let mut reconfigure = |generator: &mut Self, rate: f64, ways: &[Succession]| {
            add(generator, rate, &mut |generator, proxy, for_ns| Trouble::Reconfigure {
                proxy,
                version: generator.upto(1, versions - 1),
                how: generator.one_of(ways, Succession::SameVm),
                drain_ns: generator.one_of(&[0, 20 * MS, 500 * MS, for_ns], for_ns),
            });
        };
        reconfigure(self, faults.reconfigured, &[Succession::SameVm]);
        reconfigure(self, faults.vm_replaced, &[Succession::NewVm, Succession::OldVmThrownAway]);
        troubles
    }

    /// Half of the clients send an `idempotency-key`, each its own; a few send another client's. Most of those ask again
    /// where they were not answered, perhaps over another worker.
    fn give_start_keys(&mut self, clients: &mut [ClientPlan]) {
        let random = &mut self.of_the_journal;
        for index in 0..clients.len() {
            if random.random_bool(0.5) {
                continue;
            }
            let of = if random.random_bool(0.05) { random.random_range(0..=index) } else { index };
            let key = format!("key-of-{of}").into_bytes();
            let Some(client) = clients.get_mut(index) else { continue };
            client.headers.push(("idempotency-key".to_owned(), key));
            client.repeats = client.repeats.max(random.random_range(0..=3));
            client.wanders = random.random_bool(0.5);
        }
    }

    fn trap_in_sagas(&mut self, troubles: &mut Vec<(Nanos, Trouble)>, faults: &Faults, clients: &[ClientPlan]) {
        let random = &mut self.of_owners;
        for client in clients {
            if random.random_bool(faults.trap_in_saga / 2.0) {
                let (proxy, worker) = (client.proxy, client.worker);
                let at = client.at + random.random_range(0..60 * MS);
                troubles.push((at, Trouble::Trap { proxy, worker, host_calls: random.random_range(1..=60) }));
            }
        }
    }

    /// The sagas of this run are kept in etcd; perhaps there is a proxy more to take them over.
    fn keep_in_etcd(
        &mut self,
        configurations: &mut [Json],
        proxies: &mut Vec<ProxyPlan>,
        troubles: &mut Vec<(Nanos, Trouble)>,
        faults: &Faults,
        moments: &[Nanos],
    ) {
        let random = &mut self.of_etcd;
        let lease_s = random.random_range(3..=10);
        let timeout_ms = [200, 500, 1_000][random.random_range(0..3)];
        let mut etcd = json!({"cluster": "etcd", "lease": format!("{lease_s}s"), "timeout": format!("{timeout_ms}ms")});
        if faults.etcd_tokens > 0.0 {
            (etcd["username"], etcd["password"]) = ("sagabox".into(), "secret".into());
        }
        for configuration in configurations {
            configuration["journal"] = json!({"etcd": etcd});
        }
        if random.random_bool(0.5) {
            proxies.push(ProxyPlan { workers: 1, gate_pair: false, holder_missing: false });
        }
        for (rate, away) in [(faults.etcd_away, true), (faults.etcd_full, false)] {
            if !random.random_bool(rate) {
                continue;
            }
            let asked = moments.choose(random).copied().unwrap_or_default();
            let at = asked + random.random_range(0..200 * MS);
            let for_ns = random.random_range(100 * MS..15 * SECOND);
            troubles.push((at, if away { Trouble::EtcdAway { for_ns } } else { Trouble::EtcdFull { for_ns } }));
        }
    }

    fn trap_main(&mut self, troubles: &mut Vec<(Nanos, Trouble)>, faults: &Faults, proxies: usize, moments: &[Nanos]) {
        let random = &mut self.of_replicas;
        for proxy in 0..proxies {
            if random.random_bool(faults.trap_of_main) {
                let asked = moments.choose(random).copied().unwrap_or_default();
                let at = asked + random.random_range(0..5 * SECOND);
                troubles.push((at, Trouble::TrapOfMain { proxy, host_calls: random.random_range(1..=60) }));
            }
        }
    }

    /// Clients ask again at another proxy, and single proxies are cut off from etcd.
    fn use_replicas(
        &mut self,
        clients: &mut [ClientPlan],
        troubles: &mut Vec<(Nanos, Trouble)>,
        faults: &Faults,
        proxies: usize,
        moments: &[Nanos],
    ) {
        let random = &mut self.of_replicas;
        for client in clients {
            client.travels = random.random_bool(faults.client_travels);
        }
        for _ in 0..2 {
            if random.random_bool(faults.etcd_cut_off) {
                let asked = moments.choose(random).copied().unwrap_or_default();
                let at = asked + random.random_range(0..200 * MS);
                let for_ns = random.random_range(100 * MS..20 * SECOND);
                let (proxy, without_endpoint) = (random.random_range(0..proxies), random.random_bool(0.3));
                troubles.push((at, Trouble::CutOffFromEtcd { proxy, for_ns, without_endpoint }));
            }
        }
    }

    fn stall(
        &mut self,
        troubles: &mut Vec<(Nanos, Trouble)>,
        faults: &Faults,
        proxies: &[ProxyPlan],
        moments: &[Nanos],
    ) {
        let random = &mut self.of_the_journal;
        for _ in 0..2 {
            if !random.random_bool(faults.vm_stalled) {
                continue;
            }
            let asked = moments.choose(random).copied().unwrap_or_default();
            let at = asked + random.random_range(0..100 * MS);
            let proxy = random.random_range(0..proxies.len());
            let threads = MAIN_VMS + proxies[proxy].workers;
            let thread = if random.random_bool(0.8) { threads - 1 } else { random.random_range(0..threads) };
            let for_ns = random.random_range(500 * MS..12 * SECOND);
            troubles.push((at, Trouble::Stall { proxy, thread, for_ns }));
        }
    }
}
