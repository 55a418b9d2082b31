//! What a saga definition says, as the checker understands it: read from the same configuration as the filter gets, by
//! other code.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value as Json;

/// A configuration of the filter, as far as the checker looks at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Configuration {
    /// The first whose path fits is meant.
    pub sagas: Vec<SagaModel>,
}

/// A saga definition.
#[derive(Debug, Clone, Deserialize)]
pub struct SagaModel {
    /// Unique.
    pub name: String,
    #[serde(rename = "match")]
    matching: Matching,
    #[serde(default)]
    deadline: Option<String>,
    /// In the order of the configuration.
    pub steps: Vec<StepModel>,
    #[serde(default)]
    reply: Replies,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Replies {
    #[serde(default)]
    completed: ReplyModel,
    #[serde(default)]
    compensated: ReplyModel,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ReplyModel {
    status: Option<u64>,
    body: Option<Json>,
}

#[derive(Debug, Clone, Deserialize)]
struct Matching {
    method: Option<String>,
    path: Option<String>,
    path_prefix: Option<String>,
    path_template: Option<String>,
}

/// A step.
#[derive(Debug, Clone, Deserialize)]
pub struct StepModel {
    /// Unique in its saga.
    pub name: String,
    /// Names of steps.
    #[serde(default)]
    pub after: Vec<String>,
    when: Option<String>,
    /// The call that does it.
    pub transaction: CallModel,
    /// The call that undoes it.
    pub compensation: Option<CallModel>,
}

/// A call.
#[derive(Debug, Clone, Deserialize)]
pub struct CallModel {
    /// Of a compensation: where it is not the transaction's.
    pub cluster: Option<String>,
    /// With `${...}`.
    pub path: String,
    per_try_timeout: Option<String>,
    success: Option<String>,
    rejected: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Json,
    #[serde(default)]
    retry: RetryModel,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct RetryModel {
    max_attempts: Option<u32>,
    max_interval: Option<String>,
}

/// What the configuration's documentation says of what is left out.
const DEFAULT_DEADLINE_MS: u64 = 10_000;
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
const DEFAULT_MAX_ATTEMPTS: u32 = 3;
const DEFAULT_MAX_INTERVAL_MS: u64 = 5_000;
const DEFAULT_COMPLETED: u64 = 200;
const DEFAULT_COMPENSATED: u64 = 409;

impl Configuration {
    /// Reads a configuration of the filter.
    ///
    /// # Errors
    /// It has not the form that the checker knows.
    pub fn read(configuration: &Json) -> anyhow::Result<Configuration> {
        Ok(serde_json::from_value(configuration.clone())?)
    }

    /// The saga that a request begins.
    pub fn matching(&self, method: &str, path: &str) -> Option<&SagaModel> {
        self.sagas.iter().find(|saga| saga.matching.fits(method, path))
    }

    /// Whether the checker knows all that decides how sagas of this configuration end: it takes 2xx for a success
    /// and, but for those that say otherwise, 4xx for a refusal.
    pub fn is_understood(&self) -> bool {
        let calls = |step: &StepModel| {
            let compensation = step.compensation.as_ref();
            step.transaction.is_understood("response.code == 201")
                && compensation.is_none_or(|call| call.is_understood(""))
        };
        let step = |step: &StepModel| step.when.as_deref().is_none_or(|when| condition(when).is_some()) && calls(step);
        self.sagas.iter().all(|saga| saga.steps.iter().all(step))
    }
}

impl Matching {
    /// The query string takes no part.
    fn fits(&self, method: &str, path: &str) -> bool {
        let path = path.split('?').next().unwrap_or(path);
        let whole_segments = |rest: &str| rest.is_empty() || rest.starts_with('/');
        let prefix = |prefix: &str| path.strip_prefix(prefix.trim_end_matches('/')).is_some_and(whole_segments);
        let template = |template: &str| {
            let (wanted, given): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            let fits =
                |(wanted, given): (&&str, &&str)| wanted == given || (wanted.starts_with('{') && !given.is_empty());
            wanted.len() == given.len() && wanted.iter().zip(&given).all(fits)
        };
        self.method.as_deref().is_none_or(|wanted| wanted == method)
            && self.path.as_deref().is_none_or(|wanted| wanted == path)
            && self.path_prefix.as_deref().is_none_or(prefix)
            && self.path_template.as_deref().is_none_or(template)
    }
}

impl SagaModel {
    /// How long after its begin transactions are attempted, in milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline.as_deref().map_or(DEFAULT_DEADLINE_MS, milliseconds)
    }

    /// The status of the answer where it has completed.
    pub fn status_when_completed(&self) -> u64 {
        self.reply.completed.status.unwrap_or(DEFAULT_COMPLETED)
    }

    /// The status of the answer where it was compensated.
    pub fn status_when_compensated(&self) -> u64 {
        self.reply.compensated.status.unwrap_or(DEFAULT_COMPENSATED)
    }

    /// Whether the body of the answer is configured where it was compensated.
    pub fn has_body_when_compensated(&self) -> bool {
        self.reply.compensated.body.is_some()
    }

    /// A step by its name.
    pub fn step(&self, name: &str) -> Option<&StepModel> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The steps that come after one, transitively.
    pub fn successors(&self, name: &str) -> BTreeSet<&str> {
        let mut successors = BTreeSet::new();
        loop {
            let more: Vec<&str> = self
                .steps
                .iter()
                .filter(|step| step.after.iter().any(|before| before == name || successors.contains(before.as_str())))
                .map(|step| step.name.as_str())
                .filter(|step| !successors.contains(step))
                .collect();
            if more.is_empty() {
                return successors;
            }
            successors.extend(more);
        }
    }
}

impl StepModel {
    /// Whether its condition skips it. Only conditions `has(request.body.NAME)` are understood.
    ///
    /// # Panics
    /// The condition is another one: then the checker would be wrong.
    pub fn is_skipped(&self, body: &Json) -> bool {
        let Some(when) = &self.when else { return false };
        let name = condition(when).unwrap_or_else(|| panic!("the checker does not understand the condition {when:?}"));
        body.get(name).is_none()
    }

    /// Whether its compensation reads what the participant answered.
    pub fn needs_answer(&self) -> bool {
        self.compensation.as_ref().is_some_and(|call| call.path.contains("transaction.response"))
    }

    /// The status from which on its definition takes every answer for a refusal.
    pub fn rejects_all_from(&self) -> Option<u16> {
        self.transaction.rejected.as_deref()?.strip_prefix("response.code >= ")?.parse().ok()
    }

    /// Attempts that its transaction is given.
    pub fn max_attempts(&self) -> u32 {
        self.transaction.retry.max_attempts.unwrap_or(DEFAULT_MAX_ATTEMPTS)
    }

    /// How long one attempt may take, in milliseconds. A compensation may take as long as its transaction, unless its
    /// own definition says otherwise.
    pub fn timeout_ms(&self, compensation: bool) -> u64 {
        let own = self.compensation.as_ref().filter(|_| compensation).and_then(|call| call.per_try_timeout.as_ref());
        let timeout = own.or(self.transaction.per_try_timeout.as_ref());
        timeout.map_or(DEFAULT_TIMEOUT_MS, |timeout| milliseconds(timeout))
    }

    /// Members of the request's body that its calls read.
    pub fn reads_of_request(&self) -> BTreeSet<&str> {
        self.templates().flat_map(|text| text.split("${request.body.").skip(1)).map(word).collect()
    }

    /// Whether its calls read what another step was answered.
    pub fn reads_answer_of(&self, other: &str) -> bool {
        self.templates().flat_map(|text| text.split("${steps.").skip(1)).any(|rest| word(rest) == other)
    }

    fn templates(&self) -> impl Iterator<Item = &str> {
        [Some(&self.transaction), self.compensation.as_ref()].into_iter().flatten().flat_map(CallModel::templates)
    }
}

impl CallModel {
    /// Texts with `${...}`: those of a body only from its first level.
    fn templates(&self) -> impl Iterator<Item = &str> {
        let members = self.body.as_object().into_iter().flat_map(|body| body.values());
        let body = members.chain([&self.body]).filter_map(Json::as_str);
        self.headers.values().map(String::as_str).chain([self.path.as_str()]).chain(body)
    }

    /// Whether its outcomes are those that the checker expects, or its `success` is one that makes no difference.
    fn is_understood(&self, success: &str) -> bool {
        self.rejected.is_none() && self.success.as_deref().is_none_or(|other| other == success)
    }

    /// The longest wait between two attempts, in milliseconds.
    pub fn max_interval_ms(&self) -> u64 {
        self.retry.max_interval.as_deref().map_or(DEFAULT_MAX_INTERVAL_MS, milliseconds)
    }
}

/// The name with which a text begins.
fn word(text: &str) -> &str {
    let end = text.find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The member of the request's body that a condition asks for.
fn condition(when: &str) -> Option<&str> {
    when.strip_prefix("has(request.body.")?.strip_suffix(')')
}

/// A duration in one unit, `s` or `ms`.
///
/// # Panics
/// It is another one: then the checker would be wrong.
fn milliseconds(text: &str) -> u64 {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.trim_end_matches('s'), 1_000),
    };
    let number: u64 =
        number.parse().unwrap_or_else(|_| panic!("the checker does not understand the duration {text:?}"));
    number * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn configuration(matching: Json, when: &str, success: &str) -> Configuration {
        let transaction = json!({"path": "/bookings", "success": success});
        let steps = json!([{"name": "a", "when": when, "transaction": transaction}]);
        Configuration::read(&json!({"sagas": [{"name": "s", "match": matching, "steps": steps}]})).unwrap()
    }

    #[test]
    fn a_request_is_matched_as_the_documentation_says() {
        for (matching, fits, fits_not) in [
            (json!({"method": "POST", "path": "/trips"}), ["/trips", "/trips?a=/b"], ["/trips/", "/trip"]),
            (json!({"path_prefix": "/trips"}), ["/trips", "/trips/1"], ["/tripsy", "/"]),
            (json!({"path_template": "/trips/{id}"}), ["/trips/1", "/trips/2?a=b"], ["/trips/", "/trips/1/2"]),
        ] {
            let configuration = configuration(matching, "has(request.body.a)", "response.code == 201");
            assert!(fits.iter().all(|path| configuration.matching("POST", path).is_some()), "{configuration:?}");
            assert!(fits_not.iter().all(|path| configuration.matching("POST", path).is_none()), "{configuration:?}");
        }
    }

    #[test]
    fn what_the_checker_does_not_know_is_not_understood() {
        let understood = |when, success| configuration(json!({"path": "/"}), when, success).is_understood();
        assert!(understood("has(request.body.a)", "response.code == 201"));
        assert!(!understood("request.body.a > 1", "response.code == 201"));
        assert!(!understood("has(request.body.a)", "response.code == 204"));
    }
}
