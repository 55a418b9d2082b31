//! Participants keep the word that sagas ask of them, and show each fault as it was ordered.

use std::net::SocketAddr;

use harness::loopback::Client;
use harness::participant::{Attempt, AttemptFilter, BookingState, FaultKind, Participant};
use hyper::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use participant::hotel::{Hotel, SILENCE, database, json_of, raw, transaction, until};

mod participant {
    mod faults;
    pub mod hotel;
}

#[tokio::test]
async fn a_key_books_once_and_answers_the_same() {
    let hotel = Hotel::open().await;
    let first = hotel.booking("s1", "ada").send().await.unwrap();
    assert_eq!(first.status, 201);
    let first = json_of(first);
    assert_eq!(first, json!({"id": "hotel-1", "guest": "ada", "nights": 2}));
    let second = hotel.booking("s1", "ada").send().await.unwrap();
    assert_eq!(second.status, 201);
    assert_eq!(json_of(second), first);

    let bookings = hotel.participant.bookings().unwrap();
    assert_eq!(bookings.len(), 1);
    assert_eq!(bookings[0].booked_again, 1);
    let attempts = hotel.attempts("ada");
    assert_eq!(attempts.iter().map(|attempt| attempt.applied_at_us.is_some()).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test]
async fn a_key_books_once_when_its_attempts_come_together() {
    let hotel = Hotel::open().await;
    let all = futures::future::join_all((0..20).map(|_| hotel.booking("s1", "ada").send())).await;
    for answer in all {
        assert_eq!(json_of(answer.unwrap())["id"], "hotel-1");
    }
    assert_eq!(hotel.booked(), 1);
}

#[tokio::test]
async fn without_a_key_each_request_books() {
    let hotel = Hotel::open().await;
    for id in ["hotel-1", "hotel-2"] {
        let request = hotel.post("/bookings", &json!({"guest": "ada"}));
        assert_eq!(json_of(request.send().await.unwrap())["id"], id);
    }
    assert_eq!(hotel.booked(), 2);
}

#[tokio::test]
async fn what_names_no_guest_is_refused() {
    let hotel = Hotel::open().await;
    for body in ["", "{", "[]", "{}", r#"{"guest": 1}"#, r#""guest""#] {
        let answer = hotel.ask(Method::POST, "/bookings", body).send().await.unwrap();
        assert_eq!(answer.status, 422, "{body}");
    }
    assert_eq!(hotel.participant.bookings().unwrap(), []);
    assert_eq!(hotel.participant.attempts(&AttemptFilter::default()).unwrap().len(), 6);
}

#[tokio::test]
async fn a_compensation_is_final() {
    let hotel = Hotel::open().await;
    hotel.booking("s1", "ada").send().await.unwrap();
    for _ in 0..2 {
        let answer = hotel.cancellation("s1", "/bookings/hotel-1").send().await.unwrap();
        assert_eq!(answer.status, 204);
    }
    // Late under its own key, and late under another: either is the same step of the same saga.
    assert_eq!(hotel.booking("s1", "ada").send().await.unwrap().status, 409);
    let other = hotel.post("/bookings", &json!({"guest": "ada"}));
    let other = other.header("saga-id", "s1").header("saga-step", "hotel").header("idempotency-key", "other");
    assert_eq!(other.send().await.unwrap().status, 409);
    let flight = hotel.post("/bookings", &json!({"guest": "ada"}));
    let flight = flight.header("saga-id", "s1").header("saga-step", "flight").header("idempotency-key", "flight");
    assert_eq!(flight.send().await.unwrap().status, 201);

    let booking = &hotel.participant.bookings().unwrap()[0];
    assert_eq!((booking.state, booking.cancelled_again), (BookingState::Cancelled, 1));
    let applied: Vec<_> = hotel.attempts("ada").iter().map(|attempt| attempt.applied_at_us.is_some()).collect();
    assert_eq!(applied, [true, true, false, false, false, true]);
}

#[tokio::test]
async fn a_compensation_of_what_never_happened_keeps_it_from_happening() {
    let hotel = Hotel::open().await;
    let path = "/bookings/by-key/s1.hotel.t";
    for _ in 0..2 {
        assert_eq!(hotel.cancellation("s1", path).send().await.unwrap().status, 204);
    }
    assert_eq!(hotel.booking("s1", "ada").send().await.unwrap().status, 409);
    // By the step alone, and by the key alone.
    let step = hotel.post("/bookings", &json!({"guest": "ada"}));
    let step = step.header("saga-id", "s1").header("saga-step", "hotel");
    assert_eq!(step.send().await.unwrap().status, 409);
    let key = hotel.post("/bookings", &json!({"guest": "ada"}));
    assert_eq!(key.header("idempotency-key", "s1.hotel.t").send().await.unwrap().status, 409);

    let balance = hotel.participant.balance().unwrap();
    assert_eq!((balance.booked, balance.cancelled), (0, 0));
    assert_eq!(balance.sagas["s1"].never_applied, 1);
}

#[tokio::test]
async fn a_booking_can_be_cancelled_by_its_key_and_an_unknown_id_is_told() {
    let hotel = Hotel::open().await;
    hotel.booking("s1", "ada").send().await.unwrap();
    let answer = hotel.cancellation("s1", "/bookings/by-key/s1%2Ehotel.t").send().await.unwrap();
    assert_eq!(answer.status, 204);
    assert_eq!(hotel.cancellation("s1", "/bookings/hotel-9").send().await.unwrap().status, 404);
    let balance = hotel.participant.balance().unwrap();
    assert_eq!((balance.booked, balance.cancelled, balance.applied_twice), (0, 1, 0));
    let saga = &balance.sagas["s1"];
    assert_eq!((saga.applied, saga.compensated, saga.never_applied), (1, 1, 0));
}

#[tokio::test]
async fn a_step_booked_under_two_keys_shows_in_the_balance() {
    let hotel = Hotel::open().await;
    for key in ["one", "two"] {
        let request = hotel.post("/bookings", &json!({"guest": "ada"}));
        let request = request.header("saga-id", "s1").header("saga-step", "hotel").header("idempotency-key", key);
        assert_eq!(request.send().await.unwrap().status, 201);
    }
    assert_eq!(hotel.participant.balance().unwrap().applied_twice, 1);
}

#[tokio::test]
async fn attempts_tell_what_was_received() {
    let hotel = Hotel::open().await;
    let request = hotel.booking("s1", "ada").header("x-more", "a").header("x-more", "b");
    request.send().await.unwrap();
    hotel.cancellation("s1", "/bookings/hotel-1?why=test").send().await.unwrap();
    hotel.ask(Method::PUT, "/elsewhere", "hello").send().await.unwrap();

    let all = hotel.participant.attempts(&AttemptFilter::default()).unwrap();
    let [booking, cancellation, elsewhere] = &all[..] else { panic!("{all:#?}") };
    assert_eq!(booking.guest.as_deref(), Some("ada"));
    assert_eq!(booking.saga_name.as_deref(), Some("book-trip"));
    assert_eq!(booking.saga_step.as_deref(), Some("hotel"));
    assert_eq!((booking.attempt, booking.epoch, booking.status), (Some(1), Some(7), Some(201)));
    assert_eq!(booking.idempotency_key.as_deref(), Some("s1.hotel.t"));
    assert_eq!(booking.body, r#"{"guest":"ada","nights":2}"#);
    assert_eq!(booking.header("content-type"), Some("application/json"));
    let more: Vec<_> = booking.headers.iter().filter(|(name, _)| name == "x-more").collect();
    assert_eq!(more.len(), 2);
    assert!(booking.received_at_us <= booking.applied_at_us.unwrap());
    assert!(booking.applied_at_us <= booking.answered_at_us);
    assert!(booking.answered_at_us.unwrap() <= cancellation.received_at_us);
    assert_eq!((cancellation.method.as_str(), cancellation.status), ("DELETE", Some(204)));
    assert_eq!(cancellation.path, "/bookings/hotel-1?why=test");
    assert_eq!(cancellation.action.as_deref(), Some("compensation"));
    assert_eq!(cancellation.guest.as_deref(), Some("ada"));
    assert_eq!((elsewhere.body.as_str(), elsewhere.status, &elsewhere.action), ("hello", Some(404), &None));
    assert_eq!(hotel.participant.attempts(&AttemptFilter::saga("s1")).unwrap(), all[..2]);
}

#[tokio::test]
async fn control_routes_order_faults_and_tell_what_happened() {
    let hotel = Hotel::open().await;
    let faults = "/control/faults";
    let order = |fault: Value| hotel.post(faults, &fault).send();
    let refuse = json!({"guest": "ada", "action": "transaction", "fault": "refuse", "attempts": 2});
    assert_eq!(order(refuse).await.unwrap().status, 204);
    for kind in ["error_500", "unavailable_503", "too_many_429", "apply_no_answer", "big_answer"] {
        let fault = json!({"guest": "bob", "action": "compensation", "fault": kind});
        assert_eq!(order(fault).await.unwrap().status, 204, "{kind}");
    }
    for contradiction in [
        json!({"guest": "ada", "action": "transaction", "fault": "refuse", "applies": true}),
        json!({"guest": "ada", "action": "transaction", "fault": "apply_no_answer", "applies": false}),
        json!({"guest": "ada", "action": "transaction", "fault": "refuse", "attempts": 0}),
        json!({"guest": "ada", "action": "transaction", "fault": "refuse", "atempts": 1}),
        json!({"guest": "ada", "action": "transaction", "fault": "explode"}),
    ] {
        assert_eq!(order(contradiction.clone()).await.unwrap().status, 422, "{contradiction}");
    }
    assert_eq!(hotel.participant.pending_faults().len(), 6);

    assert_eq!(hotel.booking("s1", "ada").send().await.unwrap().status, 422);
    assert_eq!(hotel.ask(Method::DELETE, faults, "").send().await.unwrap().status, 204);
    assert_eq!(hotel.booking("s1", "ada").send().await.unwrap().status, 201);

    let get = async |path: &str| json_of(hotel.ask(Method::GET, path, "").send().await.unwrap());
    let attempts: Vec<Attempt> = serde_json::from_value(get("/control/attempts?guest=ada").await).unwrap();
    assert_eq!(attempts, hotel.attempts("ada"));
    assert_eq!(get("/control/attempts?saga_id=none").await, json!([]));
    assert_eq!(get("/control/balance").await["sagas"]["s1"]["applied"], 1);
    assert_eq!(get("/control/bookings").await, get("/bookings").await);
    assert_eq!(get("/bookings").await[0]["state"], "booked");
    assert_eq!(get("/control/faults").await, json!([]));
}

#[tokio::test]
async fn a_stopped_participant_refuses_and_comes_back_on_its_address() {
    let hotel = Hotel::open().await;
    let address = hotel.participant.address();
    hotel.booking("s1", "ada").send().await.unwrap();
    hotel.booking("s2", "bob").send().await.unwrap();
    hotel.cancellation("s2", "/bookings/hotel-2").send().await.unwrap();
    hotel.order(transaction("eve", FaultKind::Hang));
    hotel.order(transaction("dan", FaultKind::Delay).delay(SILENCE * 2));
    let hanging = tokio::spawn(raw(address, "eve"));
    let delayed = tokio::spawn(raw(address, "dan"));
    until("both requests", || hotel.participant.pending_faults().is_empty()).await;

    hotel.participant.stop().await;
    assert_eq!(hanging.await.unwrap().0, "");
    assert_eq!(delayed.await.unwrap().0, "");
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    tokio::time::sleep(SILENCE * 3).await;
    assert_eq!(hotel.booked(), 1, "nothing is done after the stop");

    let participant = Participant::start_on("hotel", &database(hotel.folder.path()), address).await.unwrap();
    let hotel = Hotel { participant, client: Client::http1(), folder: hotel.folder };
    assert_eq!(json_of(hotel.booking("s1", "ada").send().await.unwrap())["id"], "hotel-1");
    assert_eq!(hotel.booking("s2", "bob").send().await.unwrap().status, 409);
    assert_eq!(json_of(hotel.booking("s3", "cy").send().await.unwrap())["id"], "hotel-3");
}

#[tokio::test]
async fn a_participant_listens_on_loopback_only() {
    let folder = tempfile::tempdir().unwrap();
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let error = Participant::start_on("hotel", &database(folder.path()), anywhere).await.unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error:#}");
}
