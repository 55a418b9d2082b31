//! The facts that an input of the target `template` stands for.

use sagabox::facts::{self, ClientRequest, ParticipantResponse};
use sagabox::template::Facts;
use serde_json::{Map, Value, json};

/// Most nodes and bytes of a body once it has been repeated.
const LARGEST: usize = 256 * 1024;

/// Facts that own what they hold.
pub struct World {
    request: Value,
    response: Value,
    transaction: Value,
    steps: Map<String, Value>,
    saga: Value,
}

impl World {
    /// Facts from the fields `path`, `host`, `param`, `headers`, `body` (of the client's request), `answer` (a
    /// participant's body), `code`, and `times`, how often what is in the body is repeated.
    pub fn new(input: &Value) -> World {
        let text = |name: &str, default: &str| input[name].as_str().unwrap_or(default).to_owned();
        let times = input["times"].as_u64().unwrap_or(1).clamp(1, 1_000) as usize;
        let body = bytes(&repeated(&input["body"], times));
        let headers: Vec<(String, Vec<u8>)> = match input["headers"].as_object() {
            Some(headers) => headers.iter().map(|(name, value)| (name.clone(), bytes(value))).collect(),
            None => Vec::new(),
        };
        let client = ClientRequest {
            method: "POST".to_owned(),
            path: text("path", "/trips/42?a=1"),
            host: text("host", "example.com"),
            headers: headers.clone(),
            body,
        };
        let request = facts::request(&client, &[("id".to_owned(), text("param", "42"))]);
        let code = input["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(201);
        let body = (!input["answer"].is_null()).then(|| bytes(&input["answer"]));
        let response = facts::response(&ParticipantResponse { code, headers, body });
        let call = json!({"method": "POST", "path": "/bookings", "headers": {"x-a": "b"}, "body": input["answer"]});
        let transaction = json!({"request": call, "response": response, "idempotency_key": "s.hotel.t"});
        let steps = Map::from_iter([("hotel".to_owned(), json!({"request": call, "response": response}))]);
        let saga =
            json!({"id": "s", "name": "book-trip", "status": "compensated", "failed_step": "car", "reason": "refused"});
        World { request, response, transaction, steps, saga }
    }

    /// The same with other texts wherever a text stands.
    pub fn harmless(&self) -> World {
        World {
            request: harmless(&self.request),
            response: harmless(&self.response),
            transaction: harmless(&self.transaction),
            steps: self.steps.iter().map(|(name, step)| (name.clone(), harmless(step))).collect(),
            saga: harmless(&self.saga),
        }
    }

    /// The same with another request.
    pub fn with_request(self, request: Value) -> World {
        World { request, ..self }
    }

    /// The client's request.
    pub fn request(&self) -> &Value {
        &self.request
    }

    /// All facts.
    pub fn facts(&self) -> Facts<'_> {
        Facts {
            request: Some(&self.request),
            response: Some(&self.response),
            transaction: Some(&self.transaction),
            steps: Some(&self.steps),
            saga: Some(&self.saga),
        }
    }
}

/// As it comes over the wire.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

fn harmless(value: &Value) -> Value {
    match value {
        Value::String(_) => Value::from("x7"),
        Value::Array(items) => items.iter().map(harmless).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), harmless(value))).collect(),
        other => other.clone(),
    }
}

/// `value` with the items of its lists, or its texts where there are none, `times` as often; at most [`LARGEST`].
fn repeated(value: &Value, times: usize) -> Value {
    let most = |size: usize| times.min(LARGEST / size.max(1)).max(1);
    match value {
        Value::String(text) => Value::from(text.repeat(most(text.len()))),
        Value::Array(items) => {
            let size = items.iter().map(|item| item.to_string().len()).sum();
            Value::Array(std::iter::repeat_n(items, most(size)).flatten().cloned().collect())
        }
        Value::Object(fields) => {
            let share = (times / fields.len().max(1)).max(1);
            fields.iter().map(|(name, value)| (name.clone(), repeated(value, share))).collect()
        }
        other => other.clone(),
    }
}
