//! The scenarios of `scenarios/`: what they expect, and that the simulator and Envoy agree on all that can be seen.

use std::collections::BTreeMap;

use futures::StreamExt;
use harness::envoy::default_wasm;
use harness::scenario::difference::differences;
use harness::scenario::observed::Answer;
use harness::scenario::simulated::{self, Simulated};
use harness::scenario::{Observed, Role, Scenarios, on_envoy};
use harness::simulator::filter::Filter;

/// Envoys that run at the same time.
const AT_ONCE: usize = 3;
/// Seeds of the simulator, which draw the latencies.
const SEEDS: std::ops::Range<u64> = 0..3;

fn filter() -> Filter {
    Filter::load(&default_wasm().unwrap()).unwrap()
}

/// With `SCENARIOS=trip`, that file only.
fn files() -> BTreeMap<String, Scenarios> {
    let mut files = Scenarios::all().unwrap();
    if let Ok(only) = std::env::var("SCENARIOS") {
        files.retain(|name, _| *name == only);
    }
    assert!(!files.is_empty());
    files
}

fn simulate(filter: &Filter, scenarios: &Scenarios) -> anyhow::Result<Simulated> {
    simulated::run(scenarios, filter, SEEDS.start)
}

#[test]
fn every_case_comes_to_what_it_must_in_the_simulator() {
    let filter = filter();
    let mut wrong = String::new();
    for (name, scenarios) in files() {
        match simulate(&filter, &scenarios) {
            Ok(run) => wrong.extend(scenarios.unmet(&run.observed).iter().map(|unmet| format!("{name}: {unmet}\n"))),
            Err(error) => wrong += &format!("{name}: {error:#}\n"),
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Latencies decide nothing that is compared: else a difference to Envoy could be one of chance.
#[test]
fn every_case_is_the_same_with_other_latencies() {
    let filter = filter();
    for (name, scenarios) in files() {
        let first = simulate(&filter, &scenarios).unwrap().observed;
        for seed in SEEDS.skip(1) {
            let other = simulated::run(&scenarios, &filter, seed).unwrap().observed;
            let differences = differences(&first, &other);
            let shown: String = differences.iter().map(|difference| format!("{difference}\n")).collect();
            assert!(differences.is_empty(), "{name}, first seed (as Envoy) and {seed}:\n{shown}");
        }
    }
}

/// A file whose expressions it does not know tells the checker nothing; the others it has to look at.
#[test]
fn the_checker_looks_at_all_files_but_that_with_expressions() {
    let filter = filter();
    for (name, scenarios) in files() {
        let checked = simulate(&filter, &scenarios).unwrap().checked;
        assert_eq!(checked, name != "expressions", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulator_agrees_with_envoy_and_every_case_comes_to_what_it_must() {
    let filter = filter();
    let files = files();
    let runs = files.iter().map(|(name, scenarios)| async move {
        let began = std::time::Instant::now();
        let observed = on_envoy::run(scenarios).await;
        println!("{name}: {} cases in {:.1} s", scenarios.cases.len(), began.elapsed().as_secs_f64());
        (name, scenarios, observed)
    });
    let runs: Vec<_> = futures::stream::iter(runs).buffer_unordered(AT_ONCE).collect().await;
    let mut wrong = String::new();
    for (name, scenarios, envoy) in runs {
        let (envoy, simulator) = match (envoy, simulate(&filter, scenarios)) {
            (Ok(envoy), Ok(simulator)) => (envoy, simulator.observed),
            (envoy, simulator) => {
                let errors = [envoy.err(), simulator.err()].into_iter().flatten();
                wrong.extend(errors.map(|error| format!("{name}: {error:#}\n")));
                continue;
            }
        };
        wrong.extend(scenarios.unmet(&envoy).iter().map(|unmet| format!("{name}, on Envoy: {unmet}\n")));
        let differences = differences(&envoy, &simulator);
        wrong.extend(differences.iter().map(|difference| format!("{name}: {difference}\n")));
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Whatever is altered in one of two equal runs, the comparison finds it and says where.
#[test]
fn whatever_differs_is_found_and_named() {
    let scenarios = Scenarios::all().unwrap().remove("trip").unwrap();
    let observed = simulate(&filter(), &scenarios).unwrap().observed;
    assert_eq!(differences(&observed, &observed), []);
    let found = |alter: &dyn Fn(&mut Observed)| {
        let mut altered = observed.clone();
        alter(altered.get_mut("the hotel refuses").unwrap());
        let differences = differences(&observed, &altered);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!(differences[0].case, "the hotel refuses");
        (differences[0].place.clone(), differences[0].to_string())
    };
    let flight = |observed: &mut Observed| observed.at.remove(&Role::Flight).unwrap();
    let (place, shown) = found(&|observed| {
        let Answer::Proxy { status, .. } = &mut observed.answer else { panic!() };
        *status = 410;
    });
    assert_eq!(place, "answer proxy status");
    assert!(shown.contains("Envoy:     409") && shown.contains("simulator: 410"), "{shown}");
    let (place, _) = found(&|observed| {
        let mut flight = flight(observed);
        flight.received[1].headers.get_mut("idempotency-key").unwrap()[0].push('x');
        observed.at.insert(Role::Flight, flight);
    });
    assert_eq!(place, "at flight received 2 headers idempotency-key 1");
    let (place, shown) = found(&|observed| {
        let mut flight = flight(observed);
        flight.received.pop();
        observed.at.insert(Role::Flight, flight);
    });
    assert_eq!(place, "at flight received 2");
    assert!(shown.contains("simulator: nothing"), "{shown}");
    let (place, _) = found(&|observed| {
        let mut flight = flight(observed);
        flight.bookings.clear();
        observed.at.insert(Role::Flight, flight);
    });
    assert_eq!(place, "at flight bookings flight");
    let mut fewer = observed.clone();
    fewer.remove("the hotel refuses");
    assert_eq!(differences(&observed, &fewer).len(), 1);
    assert_eq!(scenarios.unmet(&fewer), ["the hotel refuses: was not run"]);
}
