//! Clients that do not wait, and clients that wait in vain.

use std::time::{Duration, Instant};

use harness::envoy::{Envoy, RunningEnvoy};
use harness::loopback::Client;
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{BodyMode, Downstream, History, STEPS, Trip, TripRequest, per_try_timeout, saga_definition};
use serde_json::json;
use serde_yaml_ng::Value as Yaml;

const SOON: Duration = Duration::from_secs(10);
/// Longer than it takes to go away, and to see that one has.
const A_WHILE: Duration = Duration::from_millis(1_500);

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets clients of every kind go away while the hotel is busy with `action`, and waits until Envoy knows that they have.
async fn go_away(trip: &Trip, car: FaultKind, action: Action) -> Vec<String> {
    let mut guests = Vec::new();
    let mut bookings = Vec::new();
    for (number, downstream) in Downstream::all().into_iter().enumerate() {
        let guest = format!("nel {number} {car:?} {action:?}");
        trip.hotel.set_fault(Fault::new(&guest, action, FaultKind::Delay).delay(A_WHILE)).unwrap();
        trip.car.set_fault(Fault::new(&guest, Action::Transaction, car)).unwrap();
        bookings.push(trip.begin(&TripRequest::of(&guest).with_car(), downstream).unwrap());
        guests.push(guest);
    }
    for guest in &guests {
        let busy = async || (!trip.history(guest).unwrap().calls("hotel", action).is_empty()).then_some(());
        until("the hotel is busy", busy).await;
    }
    for booking in bookings {
        assert!(!booking.is_done());
        booking.abandon();
    }
    let gone = async || {
        let active = trip.envoy.stats(r"^http\.trip(_gate)?\.downstream_rq_active$").await.unwrap();
        (active.len() == 2 && active.values().sum::<u64>() == 0).then_some(())
    };
    until("the clients have gone", gone).await;
    for guest in &guests {
        let history = trip.history(guest).unwrap();
        assert_eq!(history.calls("hotel", action)[0].answered_at_us, None, "the client was there to the end");
    }
    guests
}

async fn assert_ended(trip: &Trip, guests: &[String], held: &[&str], compensated: &[&str]) {
    for guest in guests {
        trip.wait_until_held(guest, held, SOON).await.unwrap();
        let history = trip.history(guest).unwrap();
        let broken = history.broken_rules(None, per_try_timeout);
        assert!(broken.is_empty(), "{}\n{broken:#?}", history.table());
        for step in STEPS {
            let calls =
                (history.calls(step, Action::Transaction).len(), history.calls(step, Action::Compensation).len());
            assert_eq!(calls, (1, usize::from(compensated.contains(&step))), "{step}\n{}", history.table());
        }
    }
    trip.check_filter_is_well().await.unwrap();
}

#[tokio::test]
async fn a_saga_ends_as_it_would_have_though_its_client_has_gone() {
    let trip = Trip::start_with(|envoy| envoy.workers(2)).await.unwrap();
    let undone = ["hotel", "flight"];
    let guests = go_away(&trip, FaultKind::StrangeHeaders, Action::Transaction).await;
    assert_ended(&trip, &guests, &STEPS, &[]).await;
    let guests = go_away(&trip, FaultKind::Refuse, Action::Transaction).await;
    assert_ended(&trip, &guests, &[], &undone).await;
    let guests = go_away(&trip, FaultKind::Refuse, Action::Compensation).await;
    assert_ended(&trip, &guests, &[], &undone).await;
}

const DEADLINE: Duration = Duration::from_millis(1_500);

/// A trip that has to be over sooner: every attempt of hotel and flight may take 600 ms, and there are many.
async fn in_a_hurry() -> Trip {
    let edit = |yaml: &mut Yaml| {
        let saga = saga_definition(yaml);
        saga["deadline"] = "1500ms".into();
        for step in 0..2 {
            let transaction = &mut saga["steps"][step]["transaction"];
            transaction["per_try_timeout"] = "600ms".into();
            transaction["retry"] = serde_yaml_ng::from_str("{max_attempts: 50, max_interval: 100ms}").unwrap();
        }
    };
    Trip::start_with(|envoy| envoy.workers(1).edit(edit)).await.unwrap()
}

fn hurried_timeout(role: &str) -> Duration {
    if role == "car" { Duration::from_secs(5) } else { Duration::from_millis(600) }
}

fn assert_rules(history: &History, saga_id: Option<&str>) {
    let broken = history.broken_rules(saga_id, hurried_timeout);
    assert!(broken.is_empty(), "{}\n{broken:#?}", history.table());
}

#[tokio::test]
async fn past_the_deadline_no_transaction_is_attempted_and_the_saga_compensates() {
    let trip = in_a_hurry().await;
    trip.flight.set_fault(Fault::new("oz", Action::Transaction, FaultKind::Hang).attempts(50)).unwrap();
    let began = Instant::now();
    let answer = trip.book(&TripRequest::of("oz").with_car()).await.unwrap();
    let took = began.elapsed();
    assert!(took >= DEADLINE && took < DEADLINE + Duration::from_secs(3), "{took:?}");
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (409, Some("compensated")));
    let problem = answer.json().unwrap();
    assert_eq!(problem["failed_step"], "", "it was the deadline: {problem}");
    assert_eq!(problem["steps"], json!({"hotel": "compensated", "flight": "compensated", "car": "not_started"}));
    trip.wait_until_held("oz", &[], SOON).await.unwrap();

    let history = trip.history("oz").unwrap();
    assert_rules(&history, answer.header("saga-id"));
    let attempts = history.calls("flight", Action::Transaction);
    assert!(attempts.len() >= 2, "{}", history.table());
    let deadline_us = attempts[0].received_at_us + i64::try_from(DEADLINE.as_micros()).unwrap();
    // An attempt that was sent just before may have arrived just after.
    let late = attempts.iter().filter(|attempt| attempt.received_at_us > deadline_us + 100_000).count();
    assert_eq!(late, 0, "{}", history.table());
}

#[tokio::test]
async fn a_client_whose_saga_is_not_undone_in_time_is_told_so_and_the_saga_goes_on() {
    let trip = in_a_hurry().await;
    trip.car.set_fault(Fault::new("pat", Action::Transaction, FaultKind::Refuse)).unwrap();
    trip.hotel.set_fault(Fault::new("pat", Action::Compensation, FaultKind::Hang).attempts(1_000)).unwrap();
    let began = Instant::now();
    let answer = trip.book(&TripRequest::of("pat").with_car()).await.unwrap();
    let (took, grace) = (began.elapsed(), Duration::from_secs(5));
    assert!(took >= DEADLINE + grace && took < DEADLINE + grace + Duration::from_secs(2), "{took:?}");
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (504, Some("compensating")));
    let problem = answer.json().unwrap();
    assert_eq!(problem["steps"], json!({"hotel": "compensating", "flight": "compensated", "car": "rejected"}));
    assert_eq!(trip.held("pat").unwrap(), ["hotel"].into());

    trip.hotel.clear_faults();
    trip.wait_until_held("pat", &[], SOON).await.unwrap();
    let history = trip.history("pat").unwrap();
    assert_rules(&history, answer.header("saga-id"));
    trip.check_filter_is_well().await.unwrap();
}

/// A proxy in front that sends a request again if it is not answered in time.
const RETRYING_PROXY: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          route_config:
            virtual_hosts:
            - name: sagabox
              domains: ["*"]
              include_request_attempt_count: true
              routes:
              - match: {prefix: /}
                route:
                  cluster: sagabox
                  timeout: 20s
                  retry_policy: {retry_on: "5xx,reset", num_retries: 5, per_try_timeout: 1s}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: sagabox
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: sagabox, endpoints: [{}]}
"#;

async fn retrying_proxy(trip: &Trip, mode: BodyMode) -> RunningEnvoy {
    let front = Envoy::from_yaml(RETRYING_PROXY).workers(1);
    front.upstream("sagabox", trip.address(mode)).start().await.unwrap()
}

#[tokio::test]
async fn a_trip_that_a_proxy_in_front_asks_for_again_and_again_is_booked_once() {
    let trip = Trip::start_with(|envoy| envoy.workers(2)).await.unwrap();
    for mode in BodyMode::ALL {
        let front = retrying_proxy(&trip, mode).await;
        let guest = format!("quin {mode:?}");
        let slow = Fault::new(&guest, Action::Transaction, FaultKind::Delay).delay(Duration::from_millis(1_700));
        trip.hotel.set_fault(slow.clone()).unwrap();
        trip.car.set_fault(slow).unwrap();
        let url = format!("http://{}/trips", front.listener("front"));
        let client = Client::http1().timeout(Duration::from_secs(30));
        let answer = client.post_json(&url, &TripRequest::of(&guest).with_car().body(), &[]).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")), "{answer:?}");
        assert_eq!(answer.header("idempotency-replayed"), Some("true"), "{answer:?}");
        let retries = front.stats(r"^cluster\.sagabox\.upstream_rq_retry$").await.unwrap();
        assert!(retries.values().sum::<u64>() >= 3, "the proxy in front was to ask again: {retries:?}");

        let history = trip.history(&guest).unwrap();
        let broken = history.broken_rules(answer.header("saga-id"), per_try_timeout);
        assert!(broken.is_empty(), "{}\n{broken:#?}", history.table());
        for step in STEPS {
            assert_eq!(history.calls(step, Action::Transaction).len(), 1, "{step}\n{}", history.table());
        }
        assert_eq!(trip.held(&guest).unwrap(), STEPS.into());
    }
    trip.check_filter_is_well().await.unwrap();
}

#[tokio::test]
async fn a_client_that_gives_every_request_one_id_books_every_trip() {
    let trip = Trip::start().await.unwrap();
    let front = retrying_proxy(&trip, BodyMode::Option).await;
    let url = format!("http://{}/trips", front.listener("front"));
    let client = Client::http1().timeout(Duration::from_secs(30));
    let mut sagas = std::collections::BTreeSet::new();
    for guest in ["rhea", "sol", "sol"] {
        let headers = [("x-request-id", "the-only-one")];
        let answer = client.post_json(&url, &TripRequest::of(guest).body(), &headers).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("idempotency-replayed")), (201, None), "{answer:?}");
        sagas.extend(answer.header("saga-id").map(str::to_owned));
    }
    assert_eq!(sagas.len(), 3);
}
