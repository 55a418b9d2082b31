//! Definitions as journals keep them: checked, with every default in place, and never judged again.
//!
//! A saga ends under the definition with which it began, also where a later module would refuse the configuration that it
//! came from. So what is kept is not that text but what it meant. Loading it compiles expressions and templates; what may
//! stand where was looked at before the saga began. The same definitions give the same bytes: etcd keeps them by their hash.
//!
//! A field that is added later has a default that means what was before it, or a feature that `needs` names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Call, Definition, ReplyTemplate, Retry, Step, StepIndex};
use crate::matcher::Matcher;
use crate::planted::tomorrow;
use crate::saga::record::RECORD_VERSION;
use crate::template::{BodyKind, BodyTemplate, Expression, Place, Reads, Scope, Template};

/// What is kept under one key.
#[derive(Debug, Serialize, Deserialize)]
struct StoredDefinitions {
    /// [`RECORD_VERSION`] of whoever wrote them.
    version: u32,
    /// What whoever goes on with a saga of any of them must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    needs: Vec<String>,
    definitions: Vec<StoredDefinition>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDefinition {
    name: String,
    matcher: Matcher,
    deadline_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_key: Option<String>,
    steps: Vec<StoredStep>,
    completed: StoredReply,
    compensated: StoredReply,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredStep {
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    after: Vec<StepIndex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    predecessors: Vec<StepIndex>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    successors: Vec<StepIndex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    when: Option<String>,
    transaction: StoredCall,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compensation: Option<StoredCall>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredCall {
    cluster: String,
    authority: String,
    method: String,
    path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    /// A body that is the JSON `null` is another than none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<StoredBody>,
    per_try_timeout_ms: u64,
    #[serde(default = "a_day")]
    key_lifetime_ms: u64,
    retry: StoredRetry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    success: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rejected: Option<String>,
}

// As serde wants it.
fn a_day() -> u64 {
    24 * 60 * 60 * 1_000
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredBody {
    template: Json,
    #[serde(default, skip_serializing_if = "is_plain")]
    kind: BodyKind,
}

// As serde wants it.
fn is_plain(kind: &BodyKind) -> bool {
    *kind == BodyKind::Plain
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredRetry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    base_interval_ms: u64,
    max_interval_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredReply {
    status: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<StoredBody>,
}

/// Definitions as they are kept: JSON text.
pub fn store(definitions: &[Arc<Definition>]) -> Vec<u8> {
    let stored = StoredDefinitions {
        version: RECORD_VERSION,
        needs: needs_of(definitions),
        definitions: definitions.iter().map(|definition| StoredDefinition::of(definition)).collect(),
    };
    // Nothing in a definition can fail to become JSON.
    serde_json::to_vec(&stored).unwrap_or_default()
}

/// The features without which a saga of any of these definitions cannot be gone on with.
fn needs_of(definitions: &[Arc<Definition>]) -> Vec<String> {
    let features = definitions.iter().filter_map(|definition| feature_of(definition));
    features.collect::<BTreeSet<_>>().into_iter().map(str::to_owned).collect()
}

/// The feature without which a definition cannot be understood: one of [`FEATURES`](crate::saga::record::FEATURES).
fn feature_of(definition: &Definition) -> Option<&'static str> {
    tomorrow::feature_of_definition(definition)
}

/// Reads what [`store`] gave. Whether this module may read it, its caller has looked at.
///
/// # Errors
///
/// It is not what any module writes.
pub fn load(bytes: &[u8]) -> Result<Vec<Arc<Definition>>, String> {
    let stored: StoredDefinitions = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    stored.definitions.into_iter().map(|definition| definition.load().map(Arc::new)).collect()
}

impl StoredDefinition {
    fn of(definition: &Definition) -> StoredDefinition {
        let Definition { name, matcher, deadline, start_key, steps, completed, compensated, reads: _ } = definition;
        StoredDefinition {
            name: name.clone(),
            matcher: matcher.clone(),
            deadline_ms: millis(*deadline),
            start_key: source_of(start_key.as_ref()),
            steps: steps.iter().map(StoredStep::of).collect(),
            completed: StoredReply::of(completed),
            compensated: StoredReply::of(compensated),
        }
    }

    fn load(self) -> Result<Definition, String> {
        let mut definition = Definition {
            deadline: Duration::from_millis(self.deadline_ms),
            start_key: expression(self.start_key.as_deref())?,
            steps: self.steps.into_iter().map(StoredStep::load).collect::<Result<_, _>>()?,
            completed: self.completed.load()?,
            compensated: self.compensated.load()?,
            reads: Reads::default(),
            name: self.name,
            matcher: self.matcher,
        };
        definition.reads = definition.all_reads();
        Ok(definition)
    }
}

impl StoredStep {
    fn of(step: &Step) -> StoredStep {
        let Step { name, after, predecessors, successors, when, transaction, compensation } = step;
        StoredStep {
            name: name.clone(),
            after: after.clone(),
            predecessors: predecessors.clone(),
            successors: successors.clone(),
            when: source_of(when.as_ref()),
            transaction: StoredCall::of(transaction),
            compensation: compensation.as_ref().map(StoredCall::of),
        }
    }

    fn load(self) -> Result<Step, String> {
        Ok(Step {
            name: self.name,
            after: self.after,
            predecessors: self.predecessors,
            successors: self.successors,
            when: expression(self.when.as_deref())?,
            transaction: self.transaction.load()?,
            compensation: self.compensation.map(StoredCall::load).transpose()?,
        })
    }
}

impl StoredCall {
    fn of(call: &Call) -> StoredCall {
        let Call {
            cluster,
            authority,
            method,
            path,
            headers,
            body,
            per_try_timeout,
            key_lifetime,
            retry,
            success,
            rejected,
        } = call;
        StoredCall {
            cluster: cluster.clone(),
            authority: authority.source().to_owned(),
            method: method.clone(),
            path: path.source().to_owned(),
            headers: sources_of(headers),
            body: StoredBody::of(body.as_ref()),
            per_try_timeout_ms: millis(*per_try_timeout),
            key_lifetime_ms: millis(*key_lifetime),
            retry: StoredRetry {
                max_attempts: retry.max_attempts,
                base_interval_ms: millis(retry.base_interval),
                max_interval_ms: millis(retry.max_interval),
            },
            success: source_of(success.as_ref()),
            rejected: source_of(rejected.as_ref()),
        }
    }

    fn load(self) -> Result<Call, String> {
        Ok(Call {
            cluster: self.cluster,
            authority: template(&self.authority, Place::Authority)?,
            method: self.method,
            path: template(&self.path, Place::Path)?,
            headers: headers(&self.headers)?,
            body: self.body.as_ref().map(StoredBody::load).transpose()?,
            per_try_timeout: Duration::from_millis(self.per_try_timeout_ms),
            key_lifetime: Duration::from_millis(self.key_lifetime_ms),
            retry: Retry {
                max_attempts: self.retry.max_attempts,
                base_interval: Duration::from_millis(self.retry.base_interval_ms),
                max_interval: Duration::from_millis(self.retry.max_interval_ms),
            },
            success: expression(self.success.as_deref())?,
            rejected: expression(self.rejected.as_deref())?,
        })
    }
}

impl StoredReply {
    fn of(reply: &ReplyTemplate) -> StoredReply {
        let ReplyTemplate { status, headers, body } = reply;
        StoredReply { status: *status, headers: sources_of(headers), body: StoredBody::of(body.as_ref()) }
    }

    fn load(self) -> Result<ReplyTemplate, String> {
        let body = self.body.as_ref().map(StoredBody::load).transpose()?;
        Ok(ReplyTemplate { status: self.status, headers: headers(&self.headers)?, body })
    }
}

impl StoredBody {
    fn of(body: Option<&BodyTemplate>) -> Option<StoredBody> {
        body.map(|body| StoredBody { template: body.source().clone(), kind: body.kind() })
    }

    fn load(&self) -> Result<BodyTemplate, String> {
        BodyTemplate::compile(&self.template, self.kind, &Scope::checked_before()).map_err(|error| error.to_string())
    }
}

fn source_of(expression: Option<&Expression>) -> Option<String> {
    expression.map(|expression| expression.source().to_owned())
}

fn sources_of(headers: &[(String, Template)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.clone(), value.source().to_owned())).collect()
}

fn headers(stored: &[(String, String)]) -> Result<Vec<(String, Template)>, String> {
    stored.iter().map(|(name, value)| Ok((name.clone(), template(value, Place::Header)?))).collect()
}

fn template(source: &str, place: Place) -> Result<Template, String> {
    Template::compile(source, place, &Scope::checked_before()).map_err(|error| error.to_string())
}

fn expression(source: Option<&str>) -> Result<Option<Expression>, String> {
    source
        .map(|source| Expression::compile(source, &Scope::checked_before()).map_err(|error| error.to_string()))
        .transpose()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config;
    use crate::saga::definitions_for_tests::random;

    /// Definitions and what became of them.
    fn there_and_back(definitions: &[Arc<Definition>]) -> Vec<Arc<Definition>> {
        load(&store(definitions)).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Every field and every compiled expression, but for the scopes they were checked in.
    fn shown(definitions: &[Arc<Definition>]) -> String {
        format!("{definitions:?}")
    }

    proptest! {
        #[test]
        fn what_is_stored_is_the_same_when_it_is_loaded(seed in any::<u64>()) {
            let definitions = [random(seed)];
            let loaded = there_and_back(&definitions);
            prop_assert_eq!(shown(&loaded), shown(&definitions));
            prop_assert_eq!(store(&loaded), store(&definitions));
        }
    }

    fn everything() -> Json {
        let call = |cluster: &str| {
            json!({
                "cluster": cluster, "authority": "${request.headers['X-Host']}:80", "method": "PUT",
                "path": "/a/${request.params.id}?b=c", "per_try_timeout": "1500ms",
                "headers": {"X-One": "$${c} ${steps.a.response.headers['ETag']} and ${request.headers[request.query]}"},
                "body": {"list": ["${request.body.a}", "x${saga.id}", null, 1.5], "sum": "${request.body.list.map(x, x + 1)}"},
                "retry": {"max_attempts": 7, "base_interval": "1ms", "max_interval": "2h"},
                "success": "response.code == 200 && response.headers['OK'] == 'yes'", "rejected": "response.body.?no.orValue(false)",
            })
        };
        let mut undo = call("b");
        undo["retry"] = json!({"base_interval": "3ms"});
        undo["headers"] = json!({"Content-Type": "application/x-www-form-urlencoded"});
        undo["body"] = json!("key=${transaction.idempotency_key}&of=${transaction.response.code}");
        let plain = json!({"name": "a", "transaction": {"destination": {"host": "h.ns.svc", "port": 80},
                           "method": "POST", "path": "/", "body": null}});
        let form = json!({"name": "f", "transaction": {"cluster": "c", "method": "POST", "path": "/",
                          "form": {"guest": "${request.body.guest}", "price": 100}}});
        json!({"version": 1, "sagas": [
            {
                "name": "all", "deadline": "90s", "start_key": "request.headers['Key']",
                "match": {"method": "POST", "path_template": "/t/{id}", "host": "Travel.example",
                          "headers": [{"name": "X", "exact": "1"}, {"name": "y", "prefix": "2"}, {"name": "z", "present": false}]},
                "steps": [plain, form, {"name": "b", "after": ["a"], "when": "'a' in steps", "transaction": call("b"), "compensation": undo}],
                "reply": {"completed": {"status": 299, "headers": {"Location": "/${saga.id}"}, "body": "${saga.status}"},
                          "compensated": {"status": 422, "body": {"why": "${saga.reason}", "step": "${saga.failed_step}"}}},
            },
            {"name": "prefix", "match": {"path_prefix": "/p"}, "steps": [{"name": "a", "transaction": {"cluster": "c", "method": "GET", "path": "/"}}]},
        ]})
    }

    #[test]
    fn everything_that_a_definition_can_say_is_stored() {
        let configuration = config::from_json(&everything()).unwrap_or_else(|errors| panic!("{errors}"));
        let loaded = there_and_back(&configuration.definitions);
        assert_eq!(shown(&loaded), shown(&configuration.definitions));
        assert_eq!(store(&loaded), store(&configuration.definitions));
    }

    #[test]
    fn what_is_stored_is_not_judged_again() {
        let configuration = config::from_json(&everything()).unwrap_or_else(|errors| panic!("{errors}"));
        let text = String::from_utf8(store(&configuration.definitions)).expect("JSON");
        // As if a later module had become stricter: names, scopes, places, and what else a configuration is asked.
        for (accepted, refused_now) in [
            ("\"all\"", "\"A name that nobody would accept\""),
            ("/a/${request.params.id}", "//a/../${request.params.id}"),
            ("steps.a.response.headers['ETag']", "steps.later.response.headers['ETag']"),
            ("saga.reason", "saga.who"),
            ("\"status\":299", "\"status\":199"),
        ] {
            assert!(text.contains(accepted), "{accepted} in {text}");
            assert!(load(text.replace(accepted, refused_now).as_bytes()).is_ok(), "{refused_now}");
        }
        let of_the_future = text.replace("\"deadline_ms\"", "\"of_the_future\":{\"a\":1},\"deadline_ms\"");
        assert_eq!(shown(&load(of_the_future.as_bytes()).expect("ignored")), shown(&configuration.definitions));
        assert!(load(b"no definitions").is_err());
    }
}
