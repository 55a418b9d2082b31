//! Calls to participants: rendered once, kept in records, sent with the headers of the attempt.

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::definition::{Call, StepIndex};
use crate::planted::{Planted, planted};
use crate::template::{BodyKind, Facts, Reads, RenderError};

/// How deep sagas may call each other: a saga whose participant is its own proxy would begin others without end.
pub const MAX_DEPTH: u8 = 8;

/// Which of a step's two calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallKind {
    /// What the step does.
    Transaction,
    /// What undoes it.
    Compensation,
}

impl CallKind {
    /// The value of `saga-action`.
    pub fn action(self) -> &'static str {
        match self {
            CallKind::Transaction => "transaction",
            CallKind::Compensation => "compensation",
        }
    }

    fn key_suffix(self) -> &'static str {
        match self {
            CallKind::Compensation if planted(Planted::CompensationUnderKeyOfTransaction) => "t",
            CallKind::Transaction => "t",
            CallKind::Compensation => "c",
        }
    }
}

/// One attempt of one call of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId {
    /// The step.
    pub step: StepIndex,
    /// Transaction or compensation.
    pub kind: CallKind,
    /// The value of `saga-attempt`: 1 for the first that was sent.
    pub attempt: u32,
}

/// A rendered call, without what differs between attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Envoy cluster.
    pub cluster: String,
    /// `:authority`.
    pub authority: String,
    /// `:method`.
    pub method: String,
    /// `:path`, with its query.
    pub path: String,
    /// Lower-case names; without pseudo headers and those of the saga.
    pub headers: Vec<(String, String)>,
    /// None: no body.
    pub body: Option<String>,
    /// Milliseconds that one attempt may take.
    pub timeout_ms: u32,
}

/// An attempt, ready to be dispatched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingCall {
    /// What to name when the attempt has ended.
    pub id: CallId,
    /// Envoy cluster.
    pub cluster: String,
    /// All headers, pseudo headers first.
    pub headers: Vec<(String, String)>,
    /// None: no body.
    pub body: Option<String>,
    /// Milliseconds that the attempt may take; never 0, which to Envoy is "for ever".
    pub timeout_ms: u32,
}

/// A template of a call that could not be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct CallError {
    /// `path`, `authority`, `body`, `headers.NAME`.
    pub place: String,
    /// The expression and why.
    pub error: RenderError,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.error)
    }
}

impl std::error::Error for CallError {}

fn at(place: &str) -> impl FnOnce(RenderError) -> CallError + '_ {
    move |error| CallError { place: place.to_owned(), error }
}

impl Request {
    /// Renders a call with what can be read now.
    pub fn render(call: &Call, facts: &Facts) -> Result<Request, CallError> {
        let mut headers = Vec::with_capacity(call.headers.len());
        for (name, template) in &call.headers {
            let value = template.render(facts).map_err(at(&format!("headers.{name}")))?;
            headers.push((name.clone(), value));
        }
        let mut body = None;
        if let Some(template) = &call.body {
            let rendered = template.render(facts).map_err(at("body"))?;
            if let Some(content_type) = rendered.content_type
                && !headers.iter().any(|(name, _)| name == "content-type")
            {
                headers.push(("content-type".to_owned(), content_type.to_owned()));
            }
            body = Some(String::from_utf8_lossy(&rendered.bytes).into_owned());
        }
        Ok(Request {
            cluster: call.cluster.clone(),
            authority: call.authority.render(facts).map_err(at("authority"))?,
            method: call.method.clone(),
            path: call.path.render(facts).map_err(at("path"))?,
            headers,
            body,
            timeout_ms: u32::try_from(call.per_try_timeout.as_millis()).unwrap_or(u32::MAX).max(1),
        })
    }

    /// Renders only those templates of a call that read nothing under `absent`, to learn early what cannot be rendered.
    pub fn check(call: &Call, facts: &Facts, absent: &[&[&str]]) -> Result<(), CallError> {
        let ready = |reads: &Reads| !absent.iter().any(|prefix| reads.any_under(prefix));
        if ready(call.path.reads()) {
            call.path.render(facts).map_err(at("path"))?;
        }
        if ready(call.authority.reads()) {
            call.authority.render(facts).map_err(at("authority"))?;
        }
        for (name, template) in &call.headers {
            if ready(template.reads()) {
                template.render(facts).map_err(at(&format!("headers.{name}")))?;
            }
        }
        if let Some(body) = call.body.as_ref().filter(|body| ready(body.reads())) {
            body.render(facts).map_err(at("body"))?;
        }
        Ok(())
    }

    /// What expressions read as `transaction.request` and `steps.NAME.request`: `method`, `path`, `headers`, `body`.
    pub fn facts(&self) -> Json {
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), Json::String(value.clone())));
        let mut facts = json!({
            "method": self.method,
            "path": self.path,
            "headers": headers.collect::<serde_json::Map<_, _>>(),
        });
        if let (Some(body), Some(facts)) = (&self.body, facts.as_object_mut()) {
            let content_type = self.headers.iter().find(|(name, _)| name == "content-type");
            let kind = BodyKind::of(content_type.map(|(_, value)| value.as_str()));
            facts.insert("body".to_owned(), crate::facts::body(body.as_bytes(), kind == Some(BodyKind::Json)));
        }
        facts
    }

    /// Bytes that this request holds, about.
    pub fn held_bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.path.len() + headers + self.body.as_ref().map_or(0, String::len)
    }
}

/// True where some template of the call reads something at, above or below one of the paths.
pub fn reads_any(call: &Call, paths: &[&[&str]]) -> bool {
    let touches = |reads: &Reads| paths.iter().any(|prefix| reads.any_under(prefix));
    touches(call.path.reads())
        || touches(call.authority.reads())
        || call.headers.iter().any(|(_, template)| touches(template.reads()))
        || call.body.as_ref().is_some_and(|body| touches(body.reads()))
}

/// What every attempt of one saga carries.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// `saga-id`.
    pub saga_id: &'a str,
    /// `saga-name`.
    pub saga_name: &'a str,
    /// `saga-step`.
    pub step: &'a str,
    /// `saga-epoch`.
    pub epoch: u32,
    /// Headers of the client's request that go with every call.
    pub forwarded: &'a [(String, String)],
    /// `saga-depth`.
    pub depth: u8,
}

impl Envelope<'_> {
    /// The key under which every attempt of this call is one.
    pub fn idempotency_key(&self, kind: CallKind) -> String {
        format!("{}.{}.{}", self.saga_id, self.step, kind.key_suffix())
    }

    /// Adds to a rendered call what this attempt of it carries. `left_ms` is for how long it is of use.
    pub fn attempt(&self, id: CallId, request: &Request, left_ms: u64) -> OutgoingCall {
        let mut headers: Vec<(String, String)> = [
            (":method", request.method.as_str()),
            (":path", &request.path),
            (":authority", &request.authority),
            ("saga-id", self.saga_id),
            ("saga-name", self.saga_name),
            ("saga-step", self.step),
            ("saga-action", id.kind.action()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        headers.push(("saga-attempt".to_owned(), id.attempt.to_string()));
        headers.push(("saga-epoch".to_owned(), self.epoch.to_string()));
        let depth = if planted(Planted::DepthIgnored) { 1 } else { self.depth };
        headers.push(("saga-depth".to_owned(), depth.to_string()));
        headers.push(("saga-deadline".to_owned(), left_ms.to_string()));
        let mut key = self.idempotency_key(id.kind);
        if planted(Planted::KeyChangesWithAttempt) && id.attempt > 1 {
            key = format!("{key}.{}", id.attempt);
        }
        headers.push(("idempotency-key".to_owned(), key));
        headers.extend(request.headers.iter().cloned());
        // What the configuration says of a header outranks what the client sent under its name.
        let configured = |name: &String| request.headers.iter().any(|(other, _)| other == name);
        headers.extend(self.forwarded.iter().filter(|(name, _)| !configured(name)).cloned());
        OutgoingCall {
            id,
            cluster: request.cluster.clone(),
            headers,
            body: request.body.clone(),
            timeout_ms: request.timeout_ms,
        }
    }
}
