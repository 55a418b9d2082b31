//! CEL as the module that ships evaluates it.

use harness::envoy::Envoy;
use harness::loopback::Client;
use harness::participant::AttemptFilter;
use harness::trip::{BodyMode, CONFIGURATION, Trip, TripRequest};
use serde_json::{Value, json};

/// A saga of one step at the hotel, with a body of its own.
fn saga(body: &Value) -> String {
    let call = json!({"cluster": "hotel", "method": "POST", "path": "/bookings", "body": body});
    let steps = json!([{"name": "hotel", "transaction": call}]);
    let matched = json!({"method": "POST", "path": "/trips"});
    json!({"version": 1, "sagas": [{"name": "one", "match": matched, "steps": steps}]}).to_string()
}

#[tokio::test]
async fn whole_numbers_of_a_body_are_integers_that_can_be_reckoned_with() {
    let configuration = saga(&json!({
        "guest": "${request.body.guest}",
        "more": "${request.body.nights + 1}",
        "text": "night ${request.body.nights + 1} of ${request.body.nights * 2}",
        "half": "${request.body.half + 0.25}",
        "large": "${request.body.large}",
        "all": "${[1, 2, 3].map(n, n * request.body.nights)}",
        "user": "${request.headers[?'x-user'].orValue('anon')}",
        "is": "${request.body.guest.startsWith('a') && size(request.body.guest) == 3}",
    }));
    let trip = Trip::start_with(|envoy| envoy.workers(1).plugin_configuration("trip", "sagabox", &configuration));
    let trip = trip.await.unwrap();
    let mut body = TripRequest::of("ann").body();
    body["half"] = json!(0.5);
    body["large"] = json!(9_007_199_254_740_993_i64);
    let answer = Client::http1().post_json(&trip.url(BodyMode::Option), &body, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let attempts = trip.hotel.attempts(&AttemptFilter::guest("ann")).unwrap();
    let sent: Value = serde_json::from_str(&attempts[0].body).unwrap();
    let expected = json!({
        "guest": "ann", "more": 4, "text": "night 4 of 6", "half": 0.75, "large": 9_007_199_254_740_993_i64,
        "all": [3, 6, 9], "user": "anon", "is": true,
    });
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn what_an_expression_cannot_have_is_refused_when_the_configuration_is_loaded() {
    let wrong = [
        ("function", "${unheard_of(1)}", "unheard_of"),
        ("regex", "${request.body.guest.matches('a.*')}", "matches"),
        ("variable", "${unheard.of}", "unheard"),
        ("field", "${request.bdy}", "bdy"),
        ("step", "${steps.flight.response.code}", "flight"),
        ("syntax", "${1 +}", "1 +"),
    ];
    let body: serde_json::Map<_, _> = wrong.iter().map(|(name, text, _)| ((*name).to_owned(), json!(text))).collect();
    let envoy = Envoy::from_file(CONFIGURATION).workers(1);
    let error = envoy.plugin_configuration("trip", "sagabox", &saga(&body.into())).start().await.unwrap_err();
    let log = error.log().unwrap_or_default();
    for (name, _, found) in wrong {
        let path = format!("configuration: sagas[0].steps[0].transaction.body.{name}: ");
        let named = log.lines().any(|line| line.split_once(&path).is_some_and(|(_, error)| error.contains(found)));
        assert!(named, "{name}: {error}");
    }
}
