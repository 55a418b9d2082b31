//! Definitions for tests.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::config;
use crate::definition::Definition;

/// Loads one saga definition; what is left out of `match` is filled in.
pub fn load(mut saga: Json) -> Arc<Definition> {
    if let Some(saga) = saga.as_object_mut() {
        saga.entry("name").or_insert(json!("book-trip"));
        saga.entry("match").or_insert(json!({"path": "/trips"}));
    }
    let loaded = config::from_json(&json!({"version": 1, "sagas": [saga]}));
    let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
    Arc::clone(&loaded.definitions[0])
}

/// A step whose compensation reads the participant's answer.
pub fn by_id(name: &str, after: &[&str]) -> Json {
    json!({
        "name": name,
        "after": after,
        "transaction": {"cluster": name, "method": "POST", "path": "/bookings", "body": {"guest": "${request.body.guest}"}},
        "compensation": {"method": "DELETE", "path": "/bookings/${transaction.response.body.id}"},
    })
}

/// A step whose compensation needs no answer.
pub fn by_key(name: &str, after: &[&str]) -> Json {
    let mut step = by_id(name, after);
    step["compensation"]["path"] = json!("/bookings/by-key/${transaction.idempotency_key}");
    step
}

/// A step with nothing to undo.
pub fn forward_only(name: &str, after: &[&str]) -> Json {
    let mut step = by_id(name, after);
    if let Some(step) = step.as_object_mut() {
        step.remove("compensation");
    }
    step
}

/// The trip of the README: hotel and flight at once, the car after both and only where asked for.
pub fn trip() -> Arc<Definition> {
    let mut car = by_id("car", &["hotel", "flight"]);
    car["when"] = json!("has(request.body.car)");
    car["transaction"]["headers"] = json!({"x-hotel": "${steps.hotel.response.body.id}"});
    load(json!({
        "steps": [by_id("hotel", &[]), by_key("flight", &[]), car],
        "reply": {
            "completed": {"status": 201, "headers": {"location": "/trips/${saga.id}"},
                          "body": {"hotel": "${steps.hotel.response.body.id}"}},
            "compensated": {"status": 409},
        },
    }))
}

/// A random graph of up to six steps of every sort. The same seed gives the same.
pub fn random(seed: u64) -> Arc<Definition> {
    let mut numbers = seed;
    let mut draw = |bound: u64| {
        numbers = crate::saga::retry::jitter("definition", numbers as usize, 1);
        numbers % bound
    };
    let mut steps: Vec<Json> = Vec::new();
    for index in 0..=draw(6) {
        let name = format!("s{index}");
        let names: Vec<String> = (0..index).filter(|_| draw(3) == 0).map(|before| format!("s{before}")).collect();
        let after: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut step = match draw(5) {
            0 | 1 => by_id(&name, &after),
            2 | 3 => by_key(&name, &after),
            _ => forward_only(&name, &after),
        };
        if draw(3) == 0 {
            step["transaction"]["retry"] = json!({"max_attempts": 1 + draw(3), "base_interval": "10ms"});
        }
        match (draw(6), after.first()) {
            (0, _) => step["when"] = json!("has(request.body.flag)"),
            (1, Some(before)) => step["when"] = json!(format!("steps.{before}.response.body.id != 'x'")),
            (2, Some(before)) => {
                step["transaction"]["headers"] = json!({"x-before": format!("${{steps.{before}.response.body.id}}")});
            }
            _ => {}
        }
        if draw(5) == 0 {
            step["transaction"]["success"] = json!("response.code == 201 && has(response.body.id)");
        }
        steps.push(step);
    }
    load(json!({"steps": steps, "deadline": "2s"}))
}
