//! From JSON or a `google.protobuf.Struct` to checked [`definition`](crate::definition)s, or to every error with its path.
//!
//! ```text
//! bytes -> source (JSON) -> raw (which fields there are) -> saga, matching, order, call, target, reply (what they mean)
//! ```
//!
//! Errors do not stop the reading: see `config/located.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use deserr::{Deserr, IntoValue, ValuePointerRef};
use serde_json::Value;

use crate::definition::{Definition, EtcdSettings, Limits};

mod body;
mod call;
mod error;
mod journal;
mod located;
mod matching;
mod names;
mod order;
mod proxies;
mod raw;
mod reply;
mod saga;
mod scalar;
#[cfg(feature = "schema")]
mod schema;
mod source;
mod target;
#[cfg(test)]
mod tests;

pub use error::{ConfigurationError, ConfigurationErrors};
pub use scalar::show_duration;
#[cfg(feature = "schema")]
pub use schema::json_schema;

use error::{Errors, show};
use located::{At, Located, optional, required};
use raw::{RawConfiguration, RawLimits, RawRole};

/// What an instance of the filter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes requests and runs their sagas.
    Coordinator {
        /// Held headers are let through to the instance with role gate that follows.
        gate: bool,
    },
    /// The second instance of a pair: holds back requests that the first one took.
    Gate,
}

/// A configuration without errors.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// What this instance of the filter does.
    pub role: Role,
    /// In the order of the configuration: the first whose match holds is taken.
    pub definitions: Vec<Arc<Definition>>,
    /// Where sagas are kept; none: in shared data.
    pub etcd: Option<EtcdSettings>,
    /// Bounds of what one worker holds.
    pub limits: Limits,
    /// Lower-case names of request headers that are copied to every call, besides the trace headers.
    pub forward_headers: Vec<String>,
    /// What is allowed, but probably not meant; one line each.
    pub warnings: Vec<String>,
}

/// Reads a configuration as Envoy hands it over: JSON text or a serialized `google.protobuf.Struct`.
///
/// # Errors
///
/// Everything that is wrong with it, at once.
pub fn load(bytes: &[u8]) -> Result<Configuration, ConfigurationErrors> {
    let mut errors = Errors::default();
    let value = source::read(bytes, &mut errors)?;
    check(value, errors)
}

/// Reads a configuration that is JSON already.
///
/// # Errors
///
/// Everything that is wrong with it, at once.
pub fn from_json(value: &Value) -> Result<Configuration, ConfigurationErrors> {
    check(value.clone(), Errors::default())
}

fn check(value: Value, mut errors: Errors) -> Result<Configuration, ConfigurationErrors> {
    // Reading something located does not fail: it is opened to know.
    let located = Located::<RawConfiguration>::deserialize_from_value(value.into_value(), ValuePointerRef::Origin).ok();
    let configuration = optional(located, &mut errors).map(|raw| configuration(raw.value, &mut errors));
    let Errors(mut all) = errors;
    // What a compensation takes over from its transaction is compiled twice, and may fail twice.
    let mut seen = BTreeSet::new();
    all.retain(|error| seen.insert(error.to_string()));
    match configuration.flatten() {
        Some(configuration) if all.is_empty() => Ok(configuration),
        _ => Err(ConfigurationErrors(all)),
    }
}

fn configuration(raw: RawConfiguration, errors: &mut Errors) -> Option<Configuration> {
    let RawConfiguration { version, role, gate, sagas, journal, limits, forward_headers } = raw;
    let mut warnings = Vec::new();
    if let Some(At { path, value }) = required(version, "", "version", "1", errors)
        && value.0 != 1
    {
        errors.push(&path, value.0.to_string(), "1");
    }
    let role_given = role.is_some();
    let role = match optional(role, errors) {
        Some(role) => Some(role.value),
        None => (!role_given).then_some(RawRole::Coordinator),
    };
    let others = [
        ("sagas", sagas.is_some()),
        ("journal", journal.is_some()),
        ("limits", limits.is_some()),
        ("forward_headers", forward_headers.is_some()),
    ];
    let gate = optional(gate, errors);
    let definitions = saga::definitions(sagas, errors, &mut warnings);
    let limits = limits_of(limits, errors);
    let etcd = journal::etcd(journal, errors);
    let forward_headers = forwarded(forward_headers, errors, &mut warnings);
    let gate_follows = gate.as_ref().is_some_and(|gate| gate.value);
    let role = match role? {
        RawRole::Coordinator => Role::Coordinator { gate: gate_follows },
        RawRole::Gate => {
            if let (Some(gate), true) = (gate, gate_follows) {
                errors.push(&gate.path, "true", "false, or role coordinator: a gate has no gate of its own");
            }
            let useless = others.iter().filter(|(name, given)| *given && (*name != "sagas" || !definitions.is_empty()));
            for (name, _) in useless {
                errors.push(name, "a value", "no such field with role gate: it runs no sagas");
            }
            Role::Gate
        }
    };
    let definitions = definitions.into_iter().map(Arc::new).collect();
    Some(Configuration { role, definitions, etcd, limits, forward_headers, warnings })
}

fn limits_of(raw: Option<Located<RawLimits>>, errors: &mut Errors) -> Limits {
    let mut limits = Limits::default();
    let Some(At { path: _, value: raw }) = optional(raw, errors) else {
        return limits;
    };
    let RawLimits { max_sagas, max_bytes, max_body, max_retained, max_retained_bytes, retention } = raw;
    for (given, limit) in [(max_sagas, &mut limits.max_sagas), (max_retained, &mut limits.retained.sagas)] {
        let Some(At { path, value }) = optional(given, errors) else { continue };
        match u32::try_from(value.0).ok().and_then(|number| usize::try_from(number).ok()) {
            Some(number) if number > 0 => *limit = number,
            _ => errors.push(&path, show(&Value::from(value.0)), "a number from 1 to 4294967295"),
        }
    }
    let sizes = [
        (max_bytes, &mut limits.max_bytes),
        (max_body, &mut limits.max_body),
        (max_retained_bytes, &mut limits.retained.bytes),
    ];
    for (given, limit) in sizes {
        if let Some(size) = optional(given, errors) {
            *limit = size.value.0;
        }
    }
    if let Some(period) = optional(retention, errors) {
        limits.retained.time = period.value.0;
    }
    limits
}

fn forwarded(
    raw: Option<Located<Vec<Located<String>>>>,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in optional(raw, errors).map(|list| list.value).unwrap_or_default() {
        let Some(At { path, value }) = name.open(errors) else {
            continue;
        };
        let name = value.to_ascii_lowercase();
        if let Some(expected) = names::fault_of_forwarded_header(&name) {
            errors.add(&path, &value, expected);
        } else if names.contains(&name) {
            errors.add(&path, &value, "each header once: names are compared without case");
        } else {
            if name == "authorization" {
                warnings.push(format!("{path}: authorization may have expired when a compensation needs it"));
            }
            names.push(name);
        }
    }
    names
}
