//! Memory over many sagas. Takes minutes, so it runs by hand: `make memory [SAGAS=200000]`.

use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::loopback::Client;
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{BodyMode, Trip, TripRequest, plugin_configuration};
use serde_yaml_ng::Value as Yaml;

#[path = "envoy_behaviour/probe.rs"]
#[expect(dead_code, reason = "of the probe only one behaviour is of use here")]
mod probe;

use probe::Listener;

const CONNECTIONS: usize = 32;
/// Times at which memory is looked at.
const LOOKS: usize = 10;
/// What a process may grow by from the second look to the last: allocators keep what they have had at most once.
const GROWTH: f64 = 1.10;
/// Finished sagas that are remembered: reached before the first look.
const RETAINED: u64 = 2_000;

/// Resident memory of a process, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A listener with the probe, which sees the same shared data as the filter: that is of a `vm_id`, whatever the code.
fn looks_into_shared_data(module: &std::path::Path) -> Yaml {
    let text = probe::listener(Listener("shared-data", true));
    let text =
        text.replace("vm_id: shared-data", "vm_id: sagabox").replace("probe.wasm", &module.display().to_string());
    let mut listeners: Yaml = serde_yaml_ng::from_str(&text).unwrap();
    listeners.as_sequence_mut().unwrap().remove(0)
}

/// Keys and bytes.
async fn shared_data(trip: &Trip, client: &Client) -> (usize, usize) {
    let answer = client.get(&format!("http://{}/", trip.envoy.listener("shared-data"))).await.unwrap().text();
    let (keys, bytes) = answer.split_once(' ').unwrap_or_else(|| panic!("{answer:?}"));
    (keys.parse().unwrap(), bytes.parse().unwrap())
}

/// Half of the sagas have start keys, one in ten is compensated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make memory"]
async fn memory_stays_as_it_is_over_many_sagas() {
    let sagas: usize = std::env::var("SAGAS").ok().map_or(200_000, |sagas| sagas.parse().unwrap());
    let probe = probe::module().await;
    let bound = move |yaml: &mut Yaml| {
        plugin_configuration(yaml)["limits"]["max_retained"] = RETAINED.into();
        yaml["static_resources"]["listeners"].as_sequence_mut().unwrap().push(looks_into_shared_data(&probe));
    };
    let trip = Trip::start_with(|envoy| envoy.workers(2).edit(bound)).await.unwrap();
    let client = Client::http1().timeout(Duration::from_secs(30));
    let url = trip.url(BodyMode::Option);
    let mut seen = Vec::new();
    let began = Instant::now();
    for look in 0..LOOKS {
        let numbers = look * sagas / LOOKS..(look + 1) * sagas / LOOKS;
        let book = |number: usize| {
            let request = TripRequest::of(format!("guest {number}"));
            if number.is_multiple_of(10) {
                let refuse = Fault::new(&request.guest, Action::Transaction, FaultKind::Refuse);
                trip.flight.set_fault(refuse).unwrap();
            }
            let (client, url) = (client.clone(), url.clone());
            async move {
                let key = format!("key {number}");
                let headers = [("idempotency-key", key.as_str())];
                let headers = if number.is_multiple_of(2) { &headers[..] } else { &[] };
                client.post_json(&url, &request.body(), headers).await.unwrap().status
            }
        };
        let statuses: Vec<_> = futures::stream::iter(numbers).map(book).buffer_unordered(CONNECTIONS).collect().await;
        assert!(statuses.iter().all(|status| [201, 409].contains(&status.as_u16())));
        let resident = resident_kib(trip.envoy.pid());
        let done = (look + 1) * sagas / LOOKS;
        let (keys, bytes) = shared_data(&trip, &client).await;
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{done:>8} sagas  {resident:>7} KiB resident  {keys:>6} keys, {:>6} KiB shared  {seconds:>5.0} s",
            bytes >> 10
        );
        seen.push([resident as f64, keys as f64, bytes as f64]);
    }
    for (what, index) in [("KiB resident", 0), ("keys in shared data", 1), ("bytes in shared data", 2)] {
        let (second, last) = (seen[1][index], seen[LOOKS - 1][index]);
        assert!(last <= second * GROWTH, "{what} grew from {second} to {last}");
    }
    trip.check_filter_is_well().await.unwrap();
}
