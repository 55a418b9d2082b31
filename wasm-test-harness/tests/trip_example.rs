//! The example of the README, word for word, on a real Envoy: what goes right, who is refused, what overlaps, and who
//! waits for whom.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::loopback::{self, Answer, Client};
use harness::participant::{Action, Attempt, Fault, FaultKind};
use harness::trip::{BodyMode, Downstream, History, STEPS, Trip, TripRequest, per_try_timeout};
use serde_json::{Value as Json, json};

const SOON: Duration = Duration::from_secs(5);
/// Long enough for what happens at the same time to overlap.
const A_WHILE: Duration = Duration::from_millis(400);

fn fault(guest: &str, action: Action, kind: FaultKind) -> Fault {
    Fault::new(guest, action, kind)
}

/// Books, waits until the participants hold `held`, and checks the rules that hold for every trip.
async fn book(trip: &Trip, request: &TripRequest, downstream: Downstream, held: &[&str]) -> (Answer, History) {
    let answer = trip.begin(request, downstream).unwrap().answer().await.unwrap();
    if let Err(error) = trip.wait_until_held(&request.guest, held, SOON).await {
        panic!("{error}answer: {} {}", answer.status, answer.text());
    }
    let history = trip.history(&request.guest).unwrap();
    let broken = history.broken_rules(answer.header("saga-id"), per_try_timeout);
    assert!(broken.is_empty(), "{}answer: {} {}\n{broken:#?}", history.table(), answer.status, answer.text());
    (answer, history)
}

/// The states of the steps as a default reply names them.
fn states(answer: &Answer) -> Json {
    answer.json().unwrap()["steps"].clone()
}

fn assert_compensated(answer: &Answer, failed_step: &str) {
    assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (409, Some("compensated")), "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json().unwrap()["failed_step"], failed_step, "{}", answer.text());
}

/// Were they under way at the same time, by the participants' clocks?
fn overlap(one: &Attempt, other: &Attempt) -> bool {
    let began = one.received_at_us.max(other.received_at_us);
    let ended = one.answered_at_us.min(other.answered_at_us);
    ended.is_some_and(|ended| began < ended)
}

#[tokio::test]
async fn a_trip_is_booked_over_both_listeners_both_protocols_and_with_trailers() {
    let trip = Trip::start().await.unwrap();
    for (number, downstream) in Downstream::all().into_iter().enumerate() {
        for car in [false, true] {
            let mut request = TripRequest::of(format!("ann {number} {car}"));
            request.car = car;
            let (answer, history) = book(&trip, &request, downstream, request.steps()).await;
            let saga_id = answer.header("saga-id").unwrap().to_owned();
            let booked = |role: &str| history.bookings(role)[0].id.clone();
            assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (201, Some("completed")));
            assert_eq!(answer.header("location").unwrap(), format!("/trips/{saga_id}"));
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let body = json!({"trip": saga_id, "hotel": booked("hotel"), "flight": booked("flight")});
            assert_eq!(answer.json().unwrap(), body);
            for role in STEPS {
                let calls =
                    history.calls(role, Action::Transaction).len() + history.calls(role, Action::Compensation).len();
                assert_eq!(calls, usize::from(request.steps().contains(&role)), "{role} of {downstream:?}");
            }
        }
    }
    trip.check_filter_is_well().await.unwrap();
}

#[tokio::test]
async fn participants_get_what_the_configuration_says_and_the_trace_of_the_client() {
    let trip = Trip::start().await.unwrap();
    let request = TripRequest::of("dörte \"§\" /../").with_car();
    let traces = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1"),
    ];
    let headers = [traces[0], traces[1], ("authorization", "secret"), ("saga-id", "forged"), ("saga-attempt", "9")];
    let http = loopback::json_request(&trip.url(BodyMode::Option), &request.body(), &headers).unwrap();
    let answer = Client::http1().send(http).await.unwrap();
    trip.wait_until_held(&request.guest, &STEPS, SOON).await.unwrap();
    let history = trip.history(&request.guest).unwrap();
    let broken = history.broken_rules(answer.header("saga-id"), per_try_timeout);
    assert!(broken.is_empty(), "{broken:#?}");

    let guest = &request.guest;
    let expected = [
        ("hotel", json!({"guest": guest, "nights": 3})),
        ("flight", json!({"guest": guest, "seat": "12A"})),
        ("car", json!({"guest": guest, "class": "compact"})),
    ];
    for (role, body) in expected {
        let calls = history.calls(role, Action::Transaction);
        let call = calls[0];
        assert_eq!(serde_json::from_str::<Json>(&call.body).unwrap(), body);
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/bookings"));
        assert_eq!(call.header("content-type"), Some("application/json"));
        let car_only = (role == "car").then(|| history.bookings("hotel")[0].id.as_str());
        assert_eq!(call.header("x-hotel"), car_only);
        for (name, value) in traces {
            assert_eq!(call.header(name), Some(value));
        }
        assert!(call.header("x-request-id").is_some(), "Envoy gives one to every request");
        assert_eq!(call.header("authorization"), None, "only what is configured is forwarded");
    }
}

#[tokio::test]
async fn a_step_that_is_refused_is_not_compensated_and_the_others_are() {
    let trip = Trip::start().await.unwrap();
    for mode in BodyMode::ALL {
        for refused in STEPS {
            let request = TripRequest::of(format!("bob {refused} {mode:?}")).with_car();
            let order = fault(&request.guest, Action::Transaction, FaultKind::Refuse);
            trip.participant(refused).set_fault(order).unwrap();
            let (answer, history) = book(&trip, &request, Downstream { mode, ..Downstream::PLAIN }, &[]).await;
            assert_compensated(&answer, refused);
            let reason = format!("step `{refused}` was rejected: answered 422");
            assert_eq!(answer.json().unwrap()["reason"], json!(reason));
            let state = |step| match step {
                _ if step == refused => "rejected",
                "car" => "not_started",
                _ => "compensated",
            };
            let expected: serde_json::Map<_, _> =
                STEPS.map(|step| (step.to_owned(), state(step).into())).into_iter().collect();
            assert_eq!(states(&answer), Json::Object(expected));
            for step in STEPS {
                let compensations = history.calls(step, Action::Compensation).len();
                assert_eq!(compensations, usize::from(state(step) == "compensated"), "{}", history.table());
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_does_not_give_what_the_first_steps_read_begins_nothing() {
    let trip = Trip::start().await.unwrap();
    for mode in BodyMode::ALL {
        let answer = Client::http1().post_json(&trip.url(mode), &json!({"guest": "eve"}), &[]).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-id")), (400, None));
        assert!(answer.text().contains("request.body.nights"), "{}", answer.text());
    }
    trip.wait_until_held("eve", &[], SOON).await.unwrap();
    assert!(trip.histories().unwrap().is_empty());
}

#[tokio::test]
async fn independent_steps_run_at_the_same_time_and_the_car_after_both() {
    let trip = Trip::start().await.unwrap();
    let request = TripRequest::of("cat").with_car();
    for role in ["hotel", "flight"] {
        trip.participant(role).set_fault(fault("cat", Action::Transaction, FaultKind::Delay).delay(A_WHILE)).unwrap();
    }
    let (_, history) = book(&trip, &request, Downstream::PLAIN, &STEPS).await;
    let call = |role| history.calls(role, Action::Transaction)[0].clone();
    assert!(overlap(&call("hotel"), &call("flight")), "{}", history.table());
    for before in ["hotel", "flight"] {
        assert!(!overlap(&call(before), &call("car")), "{}", history.table());
    }
}

#[tokio::test]
async fn compensations_of_independent_steps_go_out_at_once() {
    let trip = Trip::start().await.unwrap();
    let request = TripRequest::of("dan").with_car();
    trip.car.set_fault(fault("dan", Action::Transaction, FaultKind::Refuse)).unwrap();
    for role in ["hotel", "flight"] {
        trip.participant(role).set_fault(fault("dan", Action::Compensation, FaultKind::Delay).delay(A_WHILE)).unwrap();
    }
    let (answer, history) = book(&trip, &request, Downstream::PLAIN, &[]).await;
    assert_compensated(&answer, "car");
    let call = |role| history.calls(role, Action::Compensation)[0].clone();
    assert!(overlap(&call("hotel"), &call("flight")), "{}", history.table());
}

#[tokio::test]
async fn a_dependent_step_is_undone_before_those_that_it_came_after() {
    let trip = Trip::start().await.unwrap();
    let request = TripRequest::of("fay").with_car();
    // Booked, and never told: it has to be asked what became of it, and to be undone. Slowly.
    trip.car.set_fault(fault("fay", Action::Transaction, FaultKind::Error500).applies(true).attempts(3)).unwrap();
    trip.car.set_fault(fault("fay", Action::Compensation, FaultKind::Delay).delay(A_WHILE)).unwrap();
    let (answer, history) = book(&trip, &request, Downstream::PLAIN, &[]).await;
    assert_compensated(&answer, "car");
    let car = history.calls("car", Action::Compensation)[0].answered_at_us.unwrap();
    for before in ["hotel", "flight"] {
        let undone = history.calls(before, Action::Compensation)[0].received_at_us;
        assert!(undone >= car, "{}", history.table());
    }
}

/// A step that is still under way when another one fails is waited for; those that have settled are not kept waiting.
#[tokio::test]
async fn a_compensation_waits_for_its_own_transaction_and_for_no_other() {
    let trip = Trip::start().await.unwrap();
    for (slow, quick) in [("hotel", "flight"), ("flight", "hotel")] {
        let guest = format!("gus {slow}");
        let delay = fault(&guest, Action::Transaction, FaultKind::Delay).delay(A_WHILE);
        trip.participant(slow).set_fault(delay).unwrap();
        trip.participant(quick).set_fault(fault(&guest, Action::Transaction, FaultKind::Refuse)).unwrap();
        let (answer, history) = book(&trip, &TripRequest::of(&guest), Downstream::PLAIN, &[]).await;
        assert_compensated(&answer, quick);
        let booked = history.calls(slow, Action::Transaction)[0].answered_at_us.unwrap();
        assert!(history.calls(slow, Action::Compensation)[0].received_at_us >= booked, "{}", history.table());
    }
    // While it is being found out what has become of the hotel, the flight is undone.
    let guest = "hal";
    trip.hotel.set_fault(fault(guest, Action::Transaction, FaultKind::Error500).applies(true).attempts(3)).unwrap();
    trip.hotel.set_fault(fault(guest, Action::Transaction, FaultKind::Delay).delay(A_WHILE).applies(true)).unwrap();
    let (_, history) = book(&trip, &TripRequest::of(guest), Downstream::PLAIN, &[]).await;
    let resolved = history.calls("hotel", Action::Transaction)[3].answered_at_us.unwrap();
    let flight_undone = history.calls("flight", Action::Compensation)[0].received_at_us;
    assert!(flight_undone < resolved, "{}", history.table());
}

#[tokio::test]
async fn what_is_no_saga_reaches_the_application_alone() {
    let trip = Trip::start().await.unwrap();
    for mode in BodyMode::ALL {
        let other = format!("http://{}/elsewhere", trip.address(mode));
        let answer = Client::http1().post_json(&other, &TripRequest::of("ida").body(), &[]).await.unwrap();
        // There is no application here: Envoy says so, and the filter nothing.
        assert_eq!((answer.status.as_u16(), answer.header("saga-id")), (503, None));
    }
    assert_eq!(trip.held("ida").unwrap(), BTreeSet::new());
    assert!(trip.histories().unwrap().is_empty());
}
