//! Tests of expressions and templates.

mod compiling;
mod evaluating;
mod limits;
mod places;
mod properties;
mod reading;
mod text_bodies;

use serde_json::{Map, Value as Json, json};

use super::*;

/// Facts that own what they hold.
#[derive(Debug)]
struct World {
    request: Json,
    response: Json,
    transaction: Json,
    steps: Map<String, Json>,
    saga: Json,
}

impl World {
    fn with_body(body: Json) -> World {
        let call = json!({"method": "POST", "path": "/bookings", "headers": {}, "body": {"guest": "ada"}});
        let response = json!({"code": 201, "headers": {"location": "/b/7", "x-user": "ada"}, "body": {"id": "b7"}});
        let steps = json!({"hotel": {"request": call, "response": response}});
        World {
            request: json!({
                "method": "POST", "path": "/trips?a=1", "url_path": "/trips", "query": "a=1",
                "query_params": {"a": "1"}, "host": "example.com", "params": {"id": "42"},
                "headers": {"x-user": "Ada", "host": "example.com"}, "body": body,
            }),
            transaction: json!({"request": call, "response": response, "idempotency_key": "s.hotel.t"}),
            response,
            steps: steps.as_object().cloned().unwrap_or_default(),
            saga: json!({"id": "s", "name": "book-trip", "status": "compensated", "failed_step": "", "reason": "r"}),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            request: Some(&self.request),
            response: Some(&self.response),
            transaction: Some(&self.transaction),
            steps: Some(&self.steps),
            saga: Some(&self.saga),
        }
    }
}

fn compensation() -> Scope {
    Scope::compensation(&["hotel", "car"])
}

/// The value of `source` where the request's body is `body`.
fn value(source: &str, body: Json) -> Result<Json, RenderError> {
    let expression = Expression::compile(source, &compensation()).unwrap_or_else(|error| panic!("{error}"));
    expression.evaluate_json(&World::with_body(body).facts())
}

fn reason(source: &str, body: Json) -> String {
    value(source, body).expect_err(source).reason
}

/// What is wrong with `source`.
fn refusal(source: &str) -> String {
    Expression::compile(source, &compensation()).expect_err(source).to_string()
}

fn render(source: &str, place: Place, body: Json) -> Result<String, RenderError> {
    let template = Template::compile(source, place, &compensation()).unwrap_or_else(|error| panic!("{error}"));
    template.render(&World::with_body(body).facts())
}
