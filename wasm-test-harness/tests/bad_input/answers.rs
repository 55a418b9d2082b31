//! Answers of participants that templates were not written for.

use harness::loopback::Client;
use harness::participant::{Action, AttemptFilter, Fault, FaultKind};
use harness::trip::{BodyMode, STEPS, Trip, TripRequest};
use serde_json::json;

use super::{assert_alive, one_step};
use crate::trap;

#[tokio::test]
async fn strange_big_and_unreadable_answers_of_any_step_trap_nothing_and_the_trip_ends_well() {
    let trip = Trip::start().await.unwrap();
    // Where the compensation needs the answer and cannot have it, the same request is sent again.
    let cases = [
        (FaultKind::StrangeHeaders, [1, 1, 1]),
        (FaultKind::Trailers, [1, 1, 1]),
        (FaultKind::NotJson, [2, 1, 2]),
        (FaultKind::BigAnswer, [2, 2, 2]),
    ];
    for (kind, attempts) in cases {
        for (role, expected) in STEPS.into_iter().zip(attempts) {
            for mode in BodyMode::ALL {
                let request = TripRequest::of(format!("{role}-{kind:?}-{mode:?}")).with_car();
                let guest = &request.guest;
                trip.participant(role).set_fault(Fault::new(guest, Action::Transaction, kind)).unwrap();
                let answer = Client::http1().post_json(&trip.url(mode), &request.body(), &[]).await.unwrap();
                let sent = trip.participant(role).attempts(&AttemptFilter::guest(guest)).unwrap();
                assert_eq!((answer.status.as_u16(), sent.len()), (201, expected), "{guest}: {}", answer.text());
            }
        }
    }
    trip.check_nothing_applied_twice().unwrap();
    assert_alive(&trip).await;
}

#[tokio::test]
async fn an_answer_to_a_compensation_may_be_anything() {
    let trip = Trip::start().await.unwrap();
    for kind in [FaultKind::StrangeHeaders, FaultKind::Trailers, FaultKind::NotJson, FaultKind::BigAnswer] {
        let request = TripRequest::of(format!("{kind:?}")).with_car();
        let guest = &request.guest;
        for role in ["hotel", "flight"] {
            trip.participant(role).set_fault(Fault::new(guest, Action::Compensation, kind)).unwrap();
        }
        trip.car.set_fault(Fault::new(guest, Action::Transaction, FaultKind::Refuse)).unwrap();
        let answer = trip.book(&request).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.header("saga-status")), (409, Some("compensated")), "{guest}");
        assert!(trip.held(guest).unwrap().is_empty(), "{guest}");
    }
    assert_alive(&trip).await;
}

#[tokio::test]
async fn repeated_headers_of_an_answer_are_joined_and_strange_ones_can_be_read() {
    let matched = json!({"method": "POST", "path": "/trips"});
    let call = json!({"cluster": "hotel", "method": "POST", "path": "/bookings", "body": {"guest": "ann"},
        "success": "response.headers['x-repeated'].endsWith('three') && response.headers['x-empty'] == ''"});
    let headers = json!({"x-repeated": "${steps.hotel.response.headers['x-repeated']}"});
    let body = json!({"strange": "${steps.hotel.response.headers['x-not-utf-8']}"});
    let trip = one_step(matched, call, json!({"completed": {"headers": headers, "body": body}})).await;
    for mode in BodyMode::ALL {
        trip.hotel.set_fault(Fault::new("ann", Action::Transaction, FaultKind::StrangeHeaders)).unwrap();
        let answer = Client::http1().post_json(&trip.url(mode), &json!({}), &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-repeated"), Some("one,two,three"));
        assert_eq!(answer.json().unwrap(), json!({"strange": "caf\u{fffd} \u{fffd}\u{fffd}"}));
    }
    trap::assert_none(&trip.envoy);
}
