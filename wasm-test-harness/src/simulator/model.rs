//! What a saga definition says, as the checker understands it: read from the same configuration as the filter gets, by
//! other code.

use std::collections::BTreeSet;

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
}

#[derive(Debug, Clone, Deserialize)]
struct Matching {
    method: String,
    path: String,
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
        self.sagas.iter().find(|saga| saga.matching.method == method && saga.matching.path == path)
    }
}

impl SagaModel {
    /// How long after its begin transactions are attempted, in milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline.as_deref().map_or(DEFAULT_DEADLINE_MS, milliseconds)
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
        let name = when.strip_prefix("has(request.body.").and_then(|rest| rest.strip_suffix(')'));
        let name = name.unwrap_or_else(|| panic!("the checker does not understand the condition {when:?}"));
        body.get(name).is_none()
    }

    /// Whether its compensation reads what the participant answered.
    pub fn needs_answer(&self) -> bool {
        self.compensation.as_ref().is_some_and(|call| call.path.contains("transaction.response"))
    }

    /// Attempts that its transaction is given.
    pub fn max_attempts(&self) -> u32 {
        self.transaction.retry.max_attempts.unwrap_or(DEFAULT_MAX_ATTEMPTS)
    }

    /// How long one attempt of the transaction may take, in milliseconds.
    pub fn timeout_ms(&self) -> u64 {
        self.transaction.per_try_timeout.as_deref().map_or(DEFAULT_TIMEOUT_MS, milliseconds)
    }
}

impl CallModel {
    /// The longest wait between two attempts, in milliseconds.
    pub fn max_interval_ms(&self) -> u64 {
        self.retry.max_interval.as_deref().map_or(DEFAULT_MAX_INTERVAL_MS, milliseconds)
    }
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
