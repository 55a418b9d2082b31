//! Memory over many sagas. Takes minutes, so it runs by hand: `make memory [SAGAS=200000]`.

use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::loopback::Client;
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{BodyMode, Trip, TripRequest, plugin_configuration};

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

/// Half of the sagas have start keys, one in ten is compensated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make memory"]
async fn memory_stays_as_it_is_over_many_sagas() {
    let sagas: usize = std::env::var("SAGAS").ok().map_or(200_000, |sagas| sagas.parse().unwrap());
    let bound = |yaml: &mut serde_yaml_ng::Value| {
        plugin_configuration(yaml)["limits"]["max_retained"] = RETAINED.into();
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
        println!("{done:>8} sagas  {:>7} KiB resident  {:>5.0} s", resident, began.elapsed().as_secs_f64());
        seen.push(resident);
    }
    let (second, last) = (seen[1] as f64, seen[LOOKS - 1] as f64);
    assert!(last <= second * GROWTH, "it grew from {second} to {last} KiB");
    trip.check_filter_is_well().await.unwrap();
}
