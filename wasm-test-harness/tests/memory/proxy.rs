//! An Envoy with one worker and a small limit, and clients that ask for more than that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::future::join_all;
use harness::envoy::{Envoy, RunningEnvoy, project_root};
use harness::loopback::{self, Client};
use harness::trip::{CONFIGURATION, STEPS};
use sagabox::planted::TRAP_HEADER;
use serde_json::{Value as Json, json};
use serde_yaml_ng::Value as Yaml;

use super::participant;
use super::resident::resident_bytes;

/// Longer than any saga of these tests, but the shortest that Envoy lets a client wait is longer.
const PATIENCE: Duration = Duration::from_secs(28);

pub struct Proxy {
    envoy: RunningEnvoy,
    client: Client,
}

/// What a flood came to.
pub struct Seen {
    /// How many clients were told what.
    pub statuses: BTreeMap<u16, usize>,
    /// What the client was told whose saga was under way before, and after how long.
    pub bystander: (u16, Duration),
    /// Bytes by which what is resident grew, at most.
    pub grew: u64,
}

fn step(name: &str, path: &str, after: &[&str]) -> Json {
    let timeout = if path == "/held_long" { "5s" } else { "20s" };
    json!({"name": name, "after": after, "transaction":
        {"cluster": "car", "method": "POST", "path": path, "per_try_timeout": timeout, "success": "response.code == 200"}})
}

fn undone(mut step: Json) -> Json {
    step["compensation"] = json!({"method": "DELETE", "path": "/"});
    step
}

fn saga(name: &str, reply: Option<&str>, steps: &[Json]) -> Json {
    let mut saga = json!({"name": name.replace('_', "-"), "match": {"method": "POST", "path": format!("/{name}")},
                          "deadline": "22s", "steps": steps});
    if let Some(reply) = reply {
        saga["reply"] = json!({"completed": {"headers": {"x-size": format!("${{size({reply})}}")}}});
    }
    saga
}

fn configuration(max_bytes: &str) -> Json {
    let (body, more) = ("request.body", "steps.wordy.response.body.more");
    let wordy = undone(step("wordy", "/wordy?nested=${request.query_params.nested}", &[]));
    json!({
        "version": 1,
        "limits": {"max_bytes": max_bytes},
        "sagas": [
            saga("quick", None, &[undone(step("one", "/quick", &[]))]),
            saga("bystander", None, &[undone(step("one", "/quick", &[])), undone(step("held", "/held", &["one"]))]),
            saga("keep", Some(body), &[step("held", "/held", &[])]),
            saga("keep_long", Some(body), &[step("held", "/held_long", &[])]),
            saga("answered", Some(more), &[wordy.clone(), step("held", "/held", &["wordy"])]),
            saga("refused", Some(more), &[wordy, step("late", "/refused", &[])]),
        ],
    })
}

fn planted() -> PathBuf {
    project_root().join("target/wasm32-wasip1/planted/sagabox.wasm")
}

/// All VMs get the variable: those that differ in it are not one.
fn set_environment(yaml: &mut Yaml, fault: &str) {
    match yaml {
        Yaml::Mapping(mapping) => {
            if let Some(vm) = mapping.get_mut("vm_config") {
                let variables = json!({"key_values": {"SAGABOX_PLANTED_FAULT": fault}});
                vm["environment_variables"] = serde_yaml_ng::to_value(variables).unwrap();
            }
            mapping.iter_mut().for_each(|(_, inner)| set_environment(inner, fault));
        }
        Yaml::Sequence(items) => items.iter_mut().for_each(|item| set_environment(item, fault)),
        _ => {}
    }
}

impl Proxy {
    /// With the module that ships; with a fault, the one that has it.
    pub async fn start(max_bytes: &str, fault: Option<&str>) -> Proxy {
        Proxy::start_module(1, max_bytes, fault, fault.map(|_| planted())).await
    }

    /// With two workers and the module that has the faults, and can be made to trap.
    pub async fn start_planted(max_bytes: &str, fault: Option<&str>) -> Proxy {
        Proxy::start_module(2, max_bytes, fault, Some(planted())).await
    }

    async fn start_module(workers: u32, max_bytes: &str, fault: Option<&str>, module: Option<PathBuf>) -> Proxy {
        let address = participant::start().await;
        let mut envoy = Envoy::from_file(CONFIGURATION).workers(workers);
        for role in STEPS {
            envoy = envoy.upstream(role, address);
        }
        if let Some(module) = module {
            envoy = envoy.wasm(module);
        }
        if let Some(fault) = fault {
            let fault = fault.to_owned();
            envoy = envoy.edit(move |yaml| set_environment(yaml, &fault));
        }
        let mut configuration = configuration(max_bytes);
        let envoy = envoy.plugin_configuration("trip", "sagabox", &configuration.to_string());
        configuration["gate"] = json!(true);
        let envoy = envoy.plugin_configuration("trip_gate", "sagabox_gate_first", &configuration.to_string());
        Proxy { envoy: envoy.start().await.unwrap(), client: Client::http1().timeout(PATIENCE) }
    }

    /// Begins a saga, and says what its client is told and after how long.
    pub async fn begin(&self, listener: &str, path: &str, body: &str) -> (u16, Duration) {
        let (began, url) = (Instant::now(), format!("http://{}{path}", self.envoy.listener(listener)));
        let body: Json = serde_json::from_str(body).unwrap();
        let status = match self.client.post_json(&url, &body, &[]).await {
            Ok(answer) => answer.status.as_u16(),
            Err(_) => 0,
        };
        (status, began.elapsed())
    }

    /// So many clients ask at once, by turns at these listeners.
    pub async fn ask(&self, count: usize, listeners: &[&str], path: &str, body: &str) -> BTreeMap<u16, usize> {
        let clients = (0..count).map(|number| self.begin(listeners[number % listeners.len()], path, body));
        let mut statuses = BTreeMap::new();
        for (status, _) in join_all(clients).await {
            *statuses.entry(status).or_default() += 1;
        }
        statuses
    }

    /// The same, with a bystander, and a look at the memory all the time.
    pub async fn flood(&self, count: usize, listeners: &[&str], path: &str, body: &str) -> Seen {
        let pid = self.envoy.pid();
        let before = resident_bytes(pid);
        let asked = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            self.ask(count, listeners, path, body).await
        };
        let told = async { tokio::join!(self.begin(listeners[0], "/bystander", "{}"), asked) };
        let mut told = std::pin::pin!(told);
        let mut most = before;
        let (bystander, statuses) = loop {
            tokio::select! {
                told = &mut told => break told,
                () = tokio::time::sleep(Duration::from_millis(20)) => most = most.max(resident_bytes(pid)),
            }
        };
        Seen { statuses, bystander, grew: most - before }
    }

    /// Clients ask until no more sagas are taken; then all VMs that serve them end. Gives how many sagas were under way.
    pub async fn fill_and_trap(&self, count: usize, path: &str, body: &str) -> usize {
        let url = format!("http://{}{path}", self.envoy.listener("trip"));
        let body: Json = serde_json::from_str(body).unwrap();
        let request = |headers: &[(&str, &str)]| loopback::json_request(&url, &body, headers).unwrap();
        // Each over a connection of its own, so that every worker gets some.
        let begin = |headers: &[(&str, &str)]| Client::http1().timeout(PATIENCE).begin(request(headers));
        let under_way: Vec<_> = (0..count).map(|_| begin(&[])).collect();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        let begun = under_way.iter().filter(|one| !one.is_done()).count();
        let traps: Vec<_> = (0..30).map(|_| begin(&[(TRAP_HEADER, "1")])).collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        under_way.into_iter().chain(traps).for_each(loopback::InFlight::abandon);
        begun
    }

    pub async fn taken_over(&self) -> usize {
        let stats = self.envoy.stats("^wasmcustom\\.sagabox_sagas_taken_over$").await.unwrap();
        stats.into_values().next().unwrap_or_default() as usize
    }

    /// No VM was lost.
    pub async fn check_vm_lives(&self) -> Result<(), String> {
        // Envoy makes a new one only when the next request comes.
        let (status, _) = self.begin("trip", "/quick", "{}").await;
        let reloads = self.envoy.stats(r"^wasm\..*\.vm_reload").await.unwrap();
        match status == 200 && reloads.values().all(|count| *count == 0) {
            true => Ok(()),
            false => Err(format!("told {status}, {reloads:?}")),
        }
    }
}
