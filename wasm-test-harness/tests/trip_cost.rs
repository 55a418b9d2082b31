//! What a saga costs, by where it is kept. By hand: `make cost`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::envoy::RunningEnvoy;
use harness::fleet::Fleet;
use harness::loopback::{self, Client};
use harness::trip::{BodyMode, Trip, TripRequest};

const ROUNDS: usize = 5;
/// So many sagas in a round, and so many of them at a time.
const LOADS: [(usize, usize); 2] = [(1_500, 64), (300, 1)];

/// Envoy with something that keeps its sagas.
enum Running {
    Shared(Box<Trip>),
    Etcd(Box<Fleet>),
}

impl Running {
    fn envoy(&self) -> &RunningEnvoy {
        match self {
            Running::Shared(trip) => &trip.envoy,
            Running::Etcd(fleet) => &fleet.envoys[0],
        }
    }

    fn url(&self) -> String {
        match self {
            Running::Shared(trip) => trip.url(BodyMode::Option),
            Running::Etcd(fleet) => format!("http://{}/trips", fleet.envoys[0].listener("trip")),
        }
    }
}

struct Subject {
    name: String,
    running: Running,
    rounds: Vec<Round>,
}

struct Round {
    per_second: f64,
    cpu_us: f64,
    median_ms: f64,
}

/// `COST_MODULES=name=path,...` adds other modules, with their sagas in shared data; those whose names begin with `etcd`
/// with theirs in etcd.
async fn subjects() -> Vec<Subject> {
    let mut subjects = Vec::new();
    let mut modules: Vec<(String, Option<PathBuf>)> = vec![("shared data".into(), None), ("etcd".into(), None)];
    for module in std::env::var("COST_MODULES").unwrap_or_default().split(',').filter(|module| !module.is_empty()) {
        let (name, path) = module.split_once('=').expect("name=path");
        modules.push((name.to_owned(), Some(path.into())));
    }
    for (name, module) in modules {
        let running = if name.starts_with("etcd") {
            let mut plan = Fleet::plan().lease(Duration::from_secs(10));
            if let Some(module) = module {
                plan = plan.wasm(module);
            }
            Running::Etcd(Box::new(plan.start(1).await.unwrap()))
        } else {
            let started = Trip::start_with(|envoy| {
                let envoy = envoy.workers(1);
                if let Some(module) = module { envoy.wasm(module) } else { envoy }
            });
            Running::Shared(Box::new(started.await.unwrap()))
        };
        subjects.push(Subject { name, running, rounds: Vec::new() });
    }
    subjects
}

async fn round(running: &Running, (sagas, at_a_time): (usize, usize)) -> Round {
    let url = running.url();
    let client = Client::http1().timeout(Duration::from_secs(60));
    let cpu = cpu_us(running.envoy().pid());
    let started = Instant::now();
    let booked = futures::stream::iter(0..sagas).map(|number| {
        let (client, url) = (&client, &url);
        async move {
            let request = TripRequest::of(format!("guest-{number}"));
            let sent = Instant::now();
            let answer = client.send(loopback::json_request(url, &request.body(), &[]).unwrap()).await.unwrap();
            assert_eq!(answer.status, 201, "{}", answer.text());
            sent.elapsed()
        }
    });
    let mut times: Vec<Duration> = booked.buffer_unordered(at_a_time).collect().await;
    times.sort_unstable();
    let took = started.elapsed().as_secs_f64();
    Round {
        per_second: sagas as f64 / took,
        cpu_us: (cpu_us(running.envoy().pid()) - cpu) / sagas as f64,
        median_ms: times[sagas / 2].as_secs_f64() * 1e3,
    }
}

/// Time that all threads of a process have run, in microseconds.
fn cpu_us(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel tells it in hundredths of a second.
    ticks as f64 * 10_000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and says something only on a machine that does nothing else: make cost"]
async fn what_a_saga_costs_by_where_it_is_kept() {
    for load in LOADS {
        let mut subjects = subjects().await;
        for number in 0..=ROUNDS {
            for subject in &mut subjects {
                let round = round(&subject.running, load).await;
                // The first is for warming up.
                if number > 0 {
                    subject.rounds.push(round);
                }
            }
        }
        let (sagas, at_a_time) = load;
        println!("\n{sagas} sagas of two steps, {at_a_time} at a time; medians of {ROUNDS} rounds, taken in turn");
        println!("{:<28} {:>10} {:>16} {:>14}", "sagas kept in", "sagas/s", "Envoy us/saga", "median ms");
        for subject in &subjects {
            let of = |value: fn(&Round) -> f64| median(subject.rounds.iter().map(value).collect());
            let (rate, cpu, time) = (of(|it| it.per_second), of(|it| it.cpu_us), of(|it| it.median_ms));
            println!("{:<28} {rate:>10.0} {cpu:>16.0} {time:>14.2}", subject.name);
        }
    }
}
