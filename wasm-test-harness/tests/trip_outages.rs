//! Participants that are not there: down, without an endpoint, or without a cluster.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::loopback::Answer;
use harness::participant::Action;
use harness::trip::{Downstream, History, STEPS, Trip, TripRequest, per_try_timeout, saga_definition};
use serde_json::{Value as Json, json};
use serde_yaml_ng::Value as Yaml;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);

/// What has become of a guest whose saga has ended.
async fn ended(trip: &Trip, guest: &str, answer: &Answer, held: &[&str]) -> History {
    if let Err(error) = trip.wait_until_held(guest, held, SOON).await {
        panic!("{error}answer: {} {}", answer.status, answer.text());
    }
    let history = trip.history(guest).unwrap();
    let broken = history.broken_rules(answer.header("saga-id"), per_try_timeout);
    assert!(broken.is_empty(), "{}answer: {} {}\n{broken:#?}", history.table(), answer.status, answer.text());
    trip.check_filter_is_well().await.unwrap();
    history
}

fn assert_compensated(answer: &Answer, failed_step: &str, states: [&str; 3]) {
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (409, Some("compensated")), "{}", answer.text());
    let problem = answer.json().unwrap();
    let states: serde_json::Map<_, _> =
        STEPS.into_iter().zip(states).map(|(step, state)| (step.to_owned(), state.into())).collect();
    assert_eq!((&problem["failed_step"], &problem["steps"]), (&json!(failed_step), &Json::Object(states)), "{problem}");
}

/// `saga-attempt` of the requests that arrived.
fn arrived(history: &History, role: &str, action: Action) -> Vec<u32> {
    history.calls(role, action).iter().filter_map(|attempt| attempt.attempt).collect()
}

/// Books a trip while `role` is down, and starts it again after a while.
async fn book_without(role: &str) -> (Trip, Answer, String) {
    let mut trip = Trip::start().await.unwrap();
    let request = TripRequest::of(format!("without {role}")).with_car();
    trip.participant(role).stop().await;
    let booking = trip.begin(&request, Downstream::PLAIN).unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(!booking.is_done(), "what may have been done can only be undone when {role} is back");
    trip.restart(role).await.unwrap();
    let answer = booking.answer().await.unwrap();
    (trip, answer, request.guest)
}

/// Whether the request was lost before or after it had its effect cannot be seen from a connection that fails.
#[tokio::test]
async fn a_flight_whose_connection_is_refused_is_compensated_by_its_key() {
    let (trip, answer, guest) = book_without("flight").await;
    assert_compensated(&answer, "flight", ["compensated", "compensated", "not_started"]);
    let history = ended(&trip, &guest, &answer, &[]).await;
    // The participant has never seen the guest, only what undoes the saga's step.
    assert!(history.calls("flight", Action::Transaction).is_empty());
    let saga_id = answer.header("saga-id").unwrap();
    assert_eq!(trip.flight.balance().unwrap().sagas[saga_id].never_applied, 1);
    assert_eq!(arrived(&history, "hotel", Action::Compensation), [1]);
}

#[tokio::test]
async fn a_hotel_whose_connection_is_refused_is_asked_what_became_of_it_and_undone() {
    let (trip, answer, guest) = book_without("hotel").await;
    assert_compensated(&answer, "hotel", ["compensated", "compensated", "not_started"]);
    let history = ended(&trip, &guest, &answer, &[]).await;
    let resolved = arrived(&history, "hotel", Action::Transaction);
    assert!(resolved.len() == 1 && resolved[0] > 3, "three were refused, this one was to learn more: {resolved:?}");
    assert_eq!(arrived(&history, "hotel", Action::Compensation), [1]);
    assert_eq!(arrived(&history, "flight", Action::Compensation), [1]);
}

#[tokio::test]
async fn a_car_whose_connection_is_refused_is_undone_before_hotel_and_flight() {
    let (trip, answer, guest) = book_without("car").await;
    assert_compensated(&answer, "car", ["compensated", "compensated", "compensated"]);
    let history = ended(&trip, &guest, &answer, &[]).await;
    assert_eq!(arrived(&history, "car", Action::Compensation), [1], "{}", history.table());
}

/// The endpoints of the cluster `flight`, in a file that Envoy watches.
struct Endpoints {
    directory: TempDir,
    version: u32,
}

impl Endpoints {
    /// None at first.
    fn none() -> Endpoints {
        let mut endpoints = Endpoints { directory: tempfile::tempdir().unwrap(), version: 0 };
        endpoints.become_those(&[]);
        endpoints
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("flight.json")
    }

    /// Envoy only sees a file that is moved into place.
    fn become_those(&mut self, addresses: &[SocketAddr]) {
        self.version += 1;
        let endpoint = |address: &SocketAddr| {
            let address = json!({"address": address.ip().to_string(), "port_value": address.port()});
            json!({"endpoint": {"address": {"socket_address": address}}})
        };
        let endpoints: Vec<Json> = addresses.iter().map(endpoint).collect();
        let assignment = json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "flight",
            "endpoints": [{"lb_endpoints": endpoints}],
        });
        let response = json!({"version_info": self.version.to_string(), "resources": [assignment]});
        let beside = self.directory.path().join("next");
        fs::write(&beside, response.to_string()).unwrap();
        fs::rename(beside, self.path()).unwrap();
    }
}

/// Makes `flight` a cluster whose endpoints are in the file `path`.
fn take_flights_from(yaml: &mut Yaml, path: &Path) {
    let directory = path.parent().unwrap();
    let cluster = format!(
        "{{name: flight, type: EDS, connect_timeout: 1s, eds_cluster_config: {{eds_config: {{resource_api_version: V3, \
         path_config_source: {{path: {path:?}, watched_directory: {{path: {directory:?}}}}}}}}}}}"
    );
    let clusters = yaml["static_resources"]["clusters"].as_sequence_mut().unwrap();
    let flight = clusters.iter_mut().find(|cluster| cluster["name"].as_str() == Some("flight")).unwrap();
    *flight = serde_yaml_ng::from_str(&cluster).unwrap();
    yaml["node"] = serde_yaml_ng::from_str("{id: trip, cluster: trip}").unwrap();
}

#[tokio::test]
async fn a_cluster_without_endpoints_is_tried_again_until_it_has_one() {
    let mut endpoints = Endpoints::none();
    let path = endpoints.path();
    let trip = Trip::start_with(|envoy| envoy.workers(1).edit(move |yaml| take_flights_from(yaml, &path)));
    let trip = trip.await.unwrap();
    let request = TripRequest::of("jo").with_car();
    let booking = trip.begin(&request, Downstream::PLAIN).unwrap();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(!booking.is_done(), "it was given up");
    endpoints.become_those(&[trip.flight.address()]);
    let answer = booking.answer().await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")), "{}", answer.text());
    let history = ended(&trip, "jo", &answer, &STEPS).await;
    assert_eq!(arrived(&history, "flight", Action::Transaction), [1], "what never left is not counted");

    // And it goes away again.
    endpoints.become_those(&[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let request = TripRequest::of("kim").with_car();
    let booking = trip.begin(&request, Downstream::PLAIN).unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!booking.is_done(), "it was given up");
    endpoints.become_those(&[trip.flight.address()]);
    let answer = booking.answer().await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
    ended(&trip, "kim", &answer, &STEPS).await;
}

#[tokio::test]
async fn a_cluster_without_endpoints_until_the_deadline_rejects_its_step() {
    let endpoints = Endpoints::none();
    let path = endpoints.path();
    let edit = move |yaml: &mut Yaml| {
        take_flights_from(yaml, &path);
        saga_definition(yaml)["deadline"] = "1500ms".into();
    };
    let trip = Trip::start_with(|envoy| envoy.workers(1).edit(edit)).await.unwrap();
    let began = Instant::now();
    let answer = trip.book(&TripRequest::of("lee").with_car()).await.unwrap();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_490) && took < Duration::from_secs(5), "{took:?}");
    assert_compensated(&answer, "", ["compensated", "rejected", "not_started"]);
    let history = ended(&trip, "lee", &answer, &[]).await;
    assert_eq!(arrived(&history, "hotel", Action::Compensation), [1]);
}

#[tokio::test]
async fn a_cluster_that_envoy_does_not_know_rejects_its_step_at_once() {
    let edit = |yaml: &mut Yaml| saga_definition(yaml)["steps"][1]["transaction"]["cluster"] = "unheard-of".into();
    let trip = Trip::start_with(|envoy| envoy.workers(1).edit(edit)).await.unwrap();
    let began = Instant::now();
    let answer = trip.book(&TripRequest::of("max").with_car()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_compensated(&answer, "flight", ["compensated", "rejected", "not_started"]);
    let told = answer.text();
    assert!(told.contains("does not know the participant's cluster") && !told.contains("unheard-of"), "{told}");
    let history = ended(&trip, "max", &answer, &[]).await;
    assert_eq!(arrived(&history, "hotel", Action::Compensation), [1]);
}
