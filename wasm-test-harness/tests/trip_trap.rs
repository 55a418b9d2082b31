//! A VM ends in the middle of its sagas: others of the process finish them.

use std::time::{Duration, Instant};

use futures::future::join_all;
use harness::envoy::project_root;
use harness::loopback::{self, Answer, Client};
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{BodyMode, Trip, TripRequest};
use sagabox::planted::{TRAP_HEADER, TRAP_IN_BEGIN};

/// Under way when the VM ends.
const SAGAS: usize = 100;

async fn trip() -> Trip {
    let module = project_root().join("target/wasm32-wasip1/planted/sagabox.wasm");
    Trip::start_with(|envoy| envoy.workers(1).wasm(module)).await.unwrap()
}

fn guest(number: usize) -> TripRequest {
    let request = TripRequest::of(format!("guest-{number}"));
    if number.is_multiple_of(3) { request.with_car() } else { request }
}

/// Asks under the guest's own key, as a client does that repeats what was not answered.
async fn ask(trip: &Trip, request: &TripRequest, timeout: Duration) -> anyhow::Result<Answer> {
    let key = format!("key-of-{}", request.guest);
    let url = trip.url(BodyMode::Option);
    let request = loopback::json_request(&url, &request.body(), &[("idempotency-key", &key)])?;
    Client::http1().timeout(timeout).begin(request).answer().await
}

#[tokio::test]
async fn every_saga_of_a_vm_that_traps_ends_and_who_asks_again_gets_its_answer() {
    let trip = trip().await;
    for number in 0..SAGAS {
        let name = guest(number).guest;
        trip.hotel
            .set_fault(Fault::new(&name, Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_800)))
            .unwrap();
        if number.is_multiple_of(5) {
            trip.flight.set_fault(Fault::new(&name, Action::Transaction, FaultKind::Refuse).attempts(5)).unwrap();
        }
    }
    let under_way: Vec<_> = (0..SAGAS)
        .map(|number| {
            let request = guest(number);
            let key = format!("key-of-{}", request.guest);
            let url = trip.url(BodyMode::Option);
            let request = loopback::json_request(&url, &request.body(), &[("idempotency-key", &key)]).unwrap();
            Client::http1().timeout(Duration::from_secs(60)).begin(request)
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(700)).await;

    let trap = loopback::json_request(&trip.url(BodyMode::Option), &guest(0).body(), &[(TRAP_HEADER, "1")]).unwrap();
    let trapped = Client::http1().timeout(Duration::from_secs(5)).begin(trap);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(under_way.iter().all(|one| !one.is_done()), "all were to be under way when the VM ended");
    // Their streams are never answered: whoever waits gives up, and asks again.
    under_way.into_iter().for_each(harness::loopback::InFlight::abandon);
    trapped.abandon();

    let started = Instant::now();
    let answers = join_all((0..SAGAS).map(|number| {
        let trip = &trip;
        async move {
            loop {
                match ask(trip, &guest(number), Duration::from_secs(30)).await {
                    // Until Envoy makes a new VM.
                    Ok(answer) if answer.status == 503 || answer.status == 500 => {
                        assert!(started.elapsed() < Duration::from_secs(20), "{answer:?}");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    answer => return answer,
                }
            }
        }
    }))
    .await;
    println!("all were answered {:.1} s after the trap", started.elapsed().as_secs_f64());
    for (number, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        let refused = number.is_multiple_of(5);
        let expected = if refused { (409, "compensated") } else { (201, "completed") };
        let found = (answer.status.as_u16(), answer.header("saga-status").unwrap_or_default());
        assert_eq!(found, expected, "guest {number}: {}", answer.text());
        assert_eq!(answer.header("idempotency-replayed"), Some("true"), "guest {number}");
        let held = trip.held(&guest(number).guest).unwrap();
        let wanted = if refused { Vec::new() } else { guest(number).steps().to_vec() };
        assert_eq!(held.len(), wanted.len(), "guest {number} holds {held:?}");
    }
    trip.check_nothing_applied_twice().unwrap();
    let reloads = trip.envoy.stats(r"^wasm\..*\.vm_reload").await.unwrap();
    println!("{reloads:?}");
    assert_eq!(trip.counter("illegal_events").await.unwrap(), 0, "{}", trip.envoy.log());
    assert_eq!(trip.counter("sagas_taken_over").await.unwrap(), SAGAS as u64);
    assert_eq!(trip.counter("sagas_quarantined").await.unwrap(), 0);
}

#[tokio::test]
async fn the_next_vm_says_what_the_dead_one_was_working_on() {
    let trip = trip().await;
    assert_eq!(trip.book(&guest(1)).await.unwrap().status, 201);
    let headers = [(TRAP_HEADER, TRAP_IN_BEGIN)];
    let trap = loopback::json_request(&trip.url(BodyMode::Option), &guest(2).body(), &headers).unwrap();
    let trapped = Client::http1().timeout(Duration::from_secs(5)).begin(trap);
    let started = Instant::now();
    let said = loop {
        let log = trip.envoy.log();
        if let Some(line) = log.lines().find(|line| line.contains("has died in the middle of its work")) {
            break line.to_owned();
        }
        assert!(started.elapsed() < Duration::from_secs(15), "{log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(said.contains("[error]") && said.contains("the begin of saga 0") && said.contains("(book-trip)"), "{said}");
    trapped.abandon();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(trip.envoy.log().matches("has died in the middle").count(), 1, "{}", trip.envoy.log());
}
