//! A new configuration while a saga is under way.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{Downstream, STEPS, Trip, TripRequest, plugin_configuration, saga_definition};
use serde_yaml_ng::Value as Yaml;

/// The listener of the trip, in a file that Envoy watches (LDS).
struct Listeners {
    directory: tempfile::TempDir,
    listener: Arc<Mutex<Yaml>>,
}

impl Listeners {
    fn new() -> Listeners {
        let directory = tempfile::tempdir().expect("a directory");
        Listeners { directory, listener: Arc::new(Mutex::new(Yaml::Null)) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("listeners.yaml")
    }

    /// Moves the first listener of a configuration into the file.
    fn take_from(&self) -> impl FnOnce(&mut Yaml) + Send + 'static {
        let (path, kept) = (self.path(), Arc::clone(&self.listener));
        move |yaml| {
            let mut listener = yaml["static_resources"]["listeners"][0].clone();
            listener["address"]["socket_address"]["port_value"] = 0.into();
            listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
            write(&path, &listener);
            *kept.lock().expect("unbroken") = listener;
            let directory = path.parent().expect("a directory");
            let source = format!(
                "{{lds_config: {{resource_api_version: V3, path_config_source: {{path: {path:?}, watched_directory: \
                 {{path: {directory:?}}}}}}}}}"
            );
            yaml["static_resources"]["listeners"].as_sequence_mut().expect("listeners").remove(0);
            yaml["dynamic_resources"] = serde_yaml_ng::from_str(&source).expect("YAML");
            yaml["node"] = serde_yaml_ng::from_str("{id: trip, cluster: trip}").expect("YAML");
        }
    }

    /// Replaces the listener by one whose filter is configured otherwise.
    fn replace(&self, change: Change, succession: Succession) {
        let listener = self.listener.lock().expect("unbroken").clone();
        let mut configuration: Yaml = serde_yaml_ng::from_str("{static_resources: {}}").expect("YAML");
        configuration["static_resources"]["listeners"] = Yaml::Sequence(vec![listener]);
        match change {
            Change::Renamed => {
                saga_definition(&mut configuration)["name"] = "renamed".into();
                saga_definition(&mut configuration)["reply"]["completed"]["status"] = 202.into();
            }
            Change::Removed => plugin_configuration(&mut configuration)["sagas"] = Yaml::Sequence(Vec::new()),
        }
        if succession == Succession::NewVm {
            let manager = &mut configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
            let plugin = &mut manager["typed_config"]["http_filters"][0]["typed_config"]["config"];
            plugin["vm_config"]["environment_variables"]["key_values"]["GENERATION"] = "2".into();
        }
        write(&self.path(), &configuration["static_resources"]["listeners"][0]);
    }
}

/// What becomes of the saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Another is in its place: under another name, answered with 202.
    Renamed,
    /// There is none any more: requests pass, and there is no application here.
    Removed,
}

impl Change {
    /// What a request is answered with that began the saga before.
    fn status(self) -> u16 {
        match self {
            Change::Renamed => 202,
            Change::Removed => 503,
        }
    }
}

/// What Envoy does on an update by LDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Succession {
    /// The code and its environment are the same: another root in the same VM.
    SameVm,
    /// The environment has changed, as Istio does with every update: another VM.
    NewVm,
}

/// Puts a file in its place at once: Envoy reads it as soon as it is there.
fn write(path: &Path, listener: &Yaml) {
    let resources = Yaml::Mapping([("resources".into(), Yaml::Sequence(vec![listener.clone()]))].into_iter().collect());
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_yaml_ng::to_string(&resources).expect("YAML")).expect("written");
    std::fs::rename(&beside, path).expect("moved");
}

/// The old configuration's root stays, with its callouts and its timers, until its last saga has ended.
#[tokio::test]
async fn a_saga_ends_under_the_configuration_with_which_it_began_and_outlives_its_listener() {
    outlives_its_configuration(Change::Renamed, Succession::SameVm).await;
}

#[tokio::test]
async fn a_saga_ends_in_its_own_vm_when_another_takes_its_place() {
    outlives_its_configuration(Change::Renamed, Succession::NewVm).await;
}

#[tokio::test]
async fn a_saga_ends_where_it_is_not_configured_any_more() {
    for succession in [Succession::SameVm, Succession::NewVm] {
        outlives_its_configuration(Change::Removed, succession).await;
    }
}

async fn outlives_its_configuration(change: Change, succession: Succession) {
    let listeners = Listeners::new();
    let trip = Trip::start_with(|envoy| envoy.workers(1).drain_time_s(1).edit(listeners.take_from())).await.unwrap();
    let slow = |guest, ms| Fault::new(guest, Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(ms));
    trip.hotel.set_fault(slow("ann", 1_700)).unwrap();
    trip.car.set_fault(slow("ann", 2_000)).unwrap();
    let under_way = trip.begin(&TripRequest::of("ann").with_car(), Downstream::PLAIN).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    listeners.replace(change, succession);
    let started = Instant::now();
    for number in 0.. {
        // The old listener drains and cuts off at its end whoever it still answers.
        if let Ok(answer) = trip.book(&TripRequest::of(format!("new-{number}"))).await
            && answer.status == change.status()
            && answer.header("saga-id").is_some() == (change == Change::Renamed)
        {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "the new configuration is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(trip.held("ann").unwrap().len() < STEPS.len(), "the saga was to be under way still");

    trip.wait_until_held("ann", &STEPS, Duration::from_secs(15)).await.unwrap();
    // Its client was cut off with the old listener.
    assert!(under_way.answer().await.is_err(), "the listener was to end before its saga");
    trip.check_nothing_applied_twice().unwrap();
    assert_eq!(trip.book(&TripRequest::of("bob")).await.unwrap().status, change.status());
    trip.check_filter_is_well().await.unwrap();
    assert_eq!(trip.counter("sagas_taken_over").await.unwrap(), 0, "it was to end where it began");
}
