//! What the client gets, and when that is decided.

use serde_json::{Map, Value as Json, json};

use super::record::{Cause, Change, length};
use super::{Action, CLIENT_GRACE_MS, Millis, Report, Saga, SagaState, Told};
use crate::answer::{Problem, Reply};
use crate::definition::ReplyTemplate;
use crate::planted::{Planted, planted};
use crate::template::{Facts, RenderError};

/// Told where nothing was sent.
pub(crate) const JOURNAL_TOO_SLOW: &str = "the journal took longer than the saga may take: nothing was sent";

impl Saga {
    /// Decides how the saga ended, and with it what the client gets.
    pub(super) fn end(&mut self, state: SagaState, now: Millis) {
        // Who was told that the saga goes on, or may be told so while the end is written, finds its end under the same key.
        let has_time = now.saturating_add(CLIENT_GRACE_MS / 2) < self.client_waits_until();
        let nothing_sent = self.begun_too_late && !self.answered && has_time;
        let reply = if nothing_sent { Problem::overload(JOURNAL_TOO_SLOW) } else { self.reply_at_end(state) };
        (self.ends_unsent, self.ended_at) = (nothing_sent, Some(now));
        self.change(Change::Ended { state, reply, nothing_sent }, now);
    }

    /// What a client gets whose saga ends so.
    pub(super) fn reply_at_end(&mut self, state: SagaState) -> Reply {
        let definition = std::sync::Arc::clone(&self.definition);
        let template = if state == SagaState::Completed { &definition.completed } else { &definition.compensated };
        let rendered = self.render_reply(template, state);
        let reply = rendered.unwrap_or_else(|error| {
            self.actions.push(Action::Report(Report::ReplyNotRendered { reason: error.to_string() }));
            self.default_reply(template.status, state)
        });
        let bytes = length(&reply, reply.held_bytes());
        let reply = if bytes > self.bounds.record_bytes {
            let reason = format!("it is larger than the journal takes: {bytes} bytes");
            self.actions.push(Action::Report(Report::ReplyNotRendered { reason }));
            self.default_reply(template.status, state)
        } else {
            reply
        };
        let mut reply = self.with_saga_headers(reply, state).without_forbidden_body();
        if planted(Planted::WrongStatus) {
            reply.status =
                if state == SagaState::Completed { definition.compensated.status } else { definition.completed.status };
        }
        reply
    }

    /// The same with the default body.
    pub(super) fn default_reply_at_end(&self, state: SagaState) -> Reply {
        let completed = state == SagaState::Completed;
        let template = if completed { &self.definition.completed } else { &self.definition.compensated };
        self.with_saga_headers(self.default_reply(template.status, state), state).without_forbidden_body()
    }

    /// The answer to a client that has waited long enough: the saga goes on without it.
    pub(super) fn still_working_reply(&self) -> Reply {
        let state = self.told().open_state();
        let waited = self.definition.deadline.as_millis().saturating_add(u128::from(CLIENT_GRACE_MS));
        let detail = format!("the saga is still {} after {waited} ms, and goes on", state.name());
        let mut problem = Problem::new(504, "still-working", "The saga has not ended in time", detail);
        problem.members = self.summary(state, &self.told());
        self.with_saga_headers(problem.into_reply(), state)
    }

    /// The answer to a client that has waited long enough while the journal is told that its saga ends without having
    /// sent anything: then its key is given back, and another owner may see it otherwise.
    pub(super) fn perhaps_unsent_reply(&self) -> Reply {
        Problem::fate_unknown("the journal took longer than the saga may take, and does not say what it holds of it")
    }

    /// The answer to a client whose saga another owner has taken over.
    pub fn goes_on_elsewhere_reply(&self) -> Reply {
        let state = self.told().open_state();
        let detail =
            "what drove the saga was taken for dead, and something else goes on with what has begun".to_owned();
        let mut problem = Problem::new(504, "goes-on-elsewhere", "The saga goes on elsewhere", detail);
        problem.members = self.summary(state, &self.told());
        self.with_saga_headers(problem.into_reply(), state)
    }

    /// What may be told before the end: what the journal has acknowledged.
    fn told(&self) -> Told {
        if planted(Planted::ToldFromMemory) { Told::of(&self.progress) } else { self.told.clone() }
    }

    fn render_reply(&self, template: &ReplyTemplate, state: SagaState) -> Result<Reply, RenderError> {
        let saga = self.reply_facts(state);
        let facts: Facts = self.facts(&saga, None);
        let mut reply = match &template.body {
            None => self.default_reply(template.status, state),
            Some(body) => {
                let rendered = body.render(&facts)?;
                let json = rendered.content_type.map(|media_type| ("content-type".to_owned(), media_type.to_owned()));
                Reply {
                    status: template.status,
                    headers: json.into_iter().collect(),
                    body: Some(String::from_utf8_lossy(&rendered.bytes).into_owned()),
                }
            }
        };
        for (name, value) in &template.headers {
            let value = value.render(&facts)?;
            reply.headers.retain(|(other, _)| other != name);
            reply.headers.push((name.clone(), value));
        }
        Ok(reply)
    }

    fn default_reply(&self, status: u16, state: SagaState) -> Reply {
        let summary = self.summary(state, &Told::of(&self.progress));
        if state == SagaState::Completed {
            let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
            return Reply { status, headers, body: Some(Json::Object(summary).to_string()) };
        }
        let reason = self.progress.cause.as_ref().map(|cause| cause.reason.clone()).unwrap_or_default();
        let mut problem = Problem::new(status, "compensated", "The saga was compensated", reason);
        problem.members = summary;
        problem.into_reply()
    }

    fn with_saga_headers(&self, mut reply: Reply, state: SagaState) -> Reply {
        reply.headers.push(("saga-id".to_owned(), self.id().to_owned()));
        reply.headers.push(("saga-status".to_owned(), state.name().to_owned()));
        reply
    }

    /// `saga` as replies read it.
    fn reply_facts(&self, state: SagaState) -> Json {
        let cause = self.progress.cause.as_ref();
        json!({
            "id": self.id(),
            "name": self.definition.name,
            "status": state.name(),
            "failed_step": self.failed_step_name(cause),
            "reason": cause.map_or("", |cause| &cause.reason),
        })
    }

    fn failed_step_name(&self, cause: Option<&Cause>) -> &str {
        let failed = cause.and_then(|cause| cause.failed_step);
        failed.and_then(|index| self.step(index)).map_or("", |step| &step.name)
    }

    /// The saga at a glance: its name, where it is, and where each of its steps is.
    fn summary(&self, state: SagaState, told: &Told) -> Map<String, Json> {
        let names = self.definition.steps.iter().map(|step| step.name.clone());
        let steps = names.zip(told.steps.iter().map(|state| state.name().into()));
        let mut summary = Map::new();
        summary.insert("saga_id".to_owned(), self.id().into());
        summary.insert("saga_name".to_owned(), self.definition.name.clone().into());
        summary.insert("saga_status".to_owned(), state.name().into());
        if let Some(cause) = &told.cause {
            summary.insert("failed_step".to_owned(), self.failed_step_name(Some(cause)).into());
            summary.insert("reason".to_owned(), cause.reason.clone().into());
        }
        if let Some(stuck) = &told.stuck {
            summary.insert("stuck".to_owned(), stuck.reason.clone().into());
        }
        summary.insert("steps".to_owned(), Json::Object(steps.collect()));
        summary
    }
}
