//! What clients, participants and operators should not send: it is refused and named, or carried along, and the filter lives on.

use std::time::Duration;

use harness::envoy::Envoy;
use harness::loopback::Client;
use harness::participant::AttemptFilter;
use harness::trip::{BodyMode, STEPS, Trip, TripRequest};
use serde_json::{Value, json};

#[path = "bad_input/answers.rs"]
mod answers;
#[path = "bad_input/bodies.rs"]
mod bodies;
#[path = "bad_input/configurations.rs"]
mod configurations;
#[path = "support/trap.rs"]
mod trap;
#[path = "bad_input/values.rs"]
mod values;

const SOON: Duration = Duration::from_secs(5);

/// A trip whose two listeners have one saga of one step at the hotel, with `transaction` and `reply`, begun by `matched`.
async fn one_step(matched: Value, transaction: Value, reply: Value) -> Trip {
    let steps = json!([{"name": "hotel", "transaction": transaction}]);
    let saga = json!({"name": "one", "match": matched, "steps": steps, "reply": reply});
    with_configuration(json!({"version": 1, "sagas": [saga]})).await
}

/// A trip whose two listeners have `configuration`.
async fn with_configuration(configuration: Value) -> Trip {
    Trip::start_with(|envoy| configured(envoy, configuration).workers(1)).await.unwrap()
}

fn configured(envoy: Envoy, mut configuration: Value) -> Envoy {
    let envoy = envoy.plugin_configuration("trip", "sagabox", &configuration.to_string());
    configuration["gate"] = json!(true);
    envoy.plugin_configuration("trip_gate", "sagabox_gate_first", &configuration.to_string())
}

/// Nothing was sent to any participant.
fn assert_nothing_sent(trip: &Trip) {
    for role in STEPS {
        let attempts = trip.participant(role).attempts(&AttemptFilter::default()).unwrap();
        assert!(attempts.is_empty(), "{attempts:?}");
    }
}

/// Both listeners of the shipped configuration still book trips, and no virtual machine has died.
async fn assert_alive(trip: &Trip) {
    for mode in BodyMode::ALL {
        let request = TripRequest::of(format!("alive-{mode:?}")).with_car();
        let answer = Client::http1().post_json(&trip.url(mode), &request.body(), &[]).await.unwrap();
        assert_eq!(answer.status, 201, "{mode:?}: {}", answer.text());
        trip.wait_until_held(&request.guest, request.steps(), SOON).await.unwrap();
    }
    trap::assert_none(&trip.envoy);
}
