//! What differs between two runs of the same cases, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value as Json;

use super::Observed;

/// One place in which two runs of a case differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The case.
    pub case: String,
    /// Where, such as `at hotel received 2 headers saga-attempt`.
    pub place: String,
    /// What Envoy did; empty: there is no such thing.
    pub envoy: String,
    /// What the simulator did; the same.
    pub simulator: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| if text.is_empty() { "nothing".to_owned() } else { text.to_owned() };
        writeln!(f, "{}: {}", self.case, self.place)?;
        writeln!(f, "    Envoy:     {}", shown(&self.envoy))?;
        write!(f, "    simulator: {}", shown(&self.simulator))
    }
}

/// Every difference between two runs of the cases of a file.
pub fn differences(envoy: &BTreeMap<String, Observed>, simulator: &BTreeMap<String, Observed>) -> Vec<Difference> {
    let cases: BTreeSet<&String> = envoy.keys().chain(simulator.keys()).collect();
    let mut differences = Vec::new();
    for case in cases {
        let json = |observed: &BTreeMap<String, Observed>| {
            observed.get(case).and_then(|observed| serde_json::to_value(observed).ok())
        };
        compare(case, "", json(envoy).as_ref(), json(simulator).as_ref(), &mut differences);
    }
    differences
}

fn compare(case: &str, place: &str, envoy: Option<&Json>, simulator: Option<&Json>, found: &mut Vec<Difference>) {
    let inner = |name: &str| format!("{place}{}{name}", if place.is_empty() { "" } else { " " });
    match (envoy, simulator) {
        (one, other) if one == other => {}
        (Some(Json::Object(one)), Some(Json::Object(other))) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                compare(case, &inner(name), one.get(name), other.get(name), found);
            }
        }
        (Some(Json::Array(one)), Some(Json::Array(other))) => {
            for index in 0..one.len().max(other.len()) {
                compare(case, &inner(&(index + 1).to_string()), one.get(index), other.get(index), found);
            }
        }
        (one, other) => found.push(Difference {
            case: case.to_owned(),
            place: place.to_owned(),
            envoy: one.map_or(String::new(), Json::to_string),
            simulator: other.map_or(String::new(), Json::to_string),
        }),
    }
}
