//! From what is kept of a saga to a saga that can be resumed.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::Orphan;
use crate::config;
use crate::definition::{Definition, stored};
use crate::planted::{Planted, planted, tomorrow};
use crate::saga::record::{Change, OLDEST_VERSION, Progress, RECORD_VERSION, Record};

/// Why a value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A module that keeps things in another form wrote it: it is not for us to touch.
    OtherVersion(u64),
    /// It needs these features, which this module does not know: it is not for us to touch.
    Needs(Vec<String>),
    /// It is not what any module writes.
    Damaged(String),
}

impl Unreadable {
    /// Another module can read it: it is left alone.
    pub(super) fn is_for_others(&self) -> bool {
        match self {
            Unreadable::OtherVersion(_) => true,
            Unreadable::Needs(_) => !planted(Planted::NeedsTakenForDamage),
            Unreadable::Damaged(_) => false,
        }
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::OtherVersion(version) => {
                write!(f, "it is of version {version}, not {OLDEST_VERSION} to {RECORD_VERSION}")
            }
            Unreadable::Needs(features) => {
                write!(f, "it needs what this module does not know: {}", features.join(", "))
            }
            Unreadable::Damaged(why) => write!(f, "it cannot be read: {why}"),
        }
    }
}

/// Only what tells whether the rest can be read.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
    #[serde(default)]
    needs: Vec<String>,
}

fn damaged(error: serde_json::Error) -> Unreadable {
    Unreadable::Damaged(error.to_string())
}

/// What a module can read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    features: &'static [&'static str],
}

impl Default for Reader {
    fn default() -> Reader {
        Reader { features: tomorrow::features() }
    }
}

impl Reader {
    /// One that knows other features.
    #[cfg(test)]
    pub(super) fn of(features: &'static [&'static str]) -> Reader {
        Reader { features }
    }

    /// What it knows.
    pub(super) fn features(self) -> &'static [&'static str] {
        self.features
    }

    /// Reads a value that says of which version it is, and what it needs.
    pub(super) fn parse<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, Unreadable> {
        let Versioned { version, needs } = serde_json::from_slice(bytes).map_err(damaged)?;
        self.may_read(version, needs)?;
        serde_json::from_slice(bytes).map_err(damaged)
    }

    /// Whether a value of this version that needs this can be read.
    pub(super) fn may_read(self, version: u64, mut needs: Vec<String>) -> Result<(), Unreadable> {
        let newest = RECORD_VERSION + u32::from(planted(Planted::NewestVersionAlways) && tomorrow::is_chosen());
        if !(u64::from(OLDEST_VERSION)..=u64::from(newest)).contains(&version) {
            return Err(Unreadable::OtherVersion(version));
        }
        needs.retain(|feature| !self.features.contains(&feature.as_str()));
        if needs.is_empty() || planted(Planted::NeedsIgnored) { Ok(()) } else { Err(Unreadable::Needs(needs)) }
    }

    /// Reads the records of a saga whose last has the sequence `last`.
    pub(super) fn records<'a>(
        self,
        lines: impl Iterator<Item = &'a [u8]>,
        last: u64,
    ) -> Result<Vec<Record>, Unreadable> {
        let mut read: Vec<Result<Record, Unreadable>> = lines.map(|line| self.parse(line)).collect();
        // What another module can read of it may tell it more than this one sees.
        if let Some(index) = read.iter().position(|one| one.as_ref().is_err_and(Unreadable::is_for_others)) {
            read.swap(0, index);
        }
        let records: Vec<Record> = read.into_iter().collect::<Result<_, _>>()?;
        let whole = (1..).zip(&records).all(|(sequence, record)| record.sequence == sequence);
        if !whole || records.last().map_or(0, |record| record.sequence) != last {
            return Err(Unreadable::Damaged(format!("it should have {last} records, in order")));
        }
        Ok(records)
    }
}

/// Adds the features that `record` needs to those of a head.
pub(super) fn add_needs(needs: &mut Vec<String>, record: &Record) {
    if planted(Planted::NeedsForgottenByHead) {
        needs.clear();
    }
    needs.extend(record.needs.iter().cloned());
    needs.sort_unstable();
    needs.dedup();
}

/// Why definitions cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoDefinitions {
    /// Another module may be able to: they are what a configuration looks like.
    ForOthers(String),
    /// Nobody can.
    Gone(String),
}

impl std::fmt::Display for NoDefinitions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoDefinitions::ForOthers(why) | NoDefinitions::Gone(why) => f.write_str(why),
        }
    }
}

/// Only what tells stored definitions from a configuration.
#[derive(Deserialize)]
struct Stored {
    definitions: IgnoredAny,
}

/// Reads the definitions under which sagas began: as they are stored, or the configuration that the first version kept.
pub(super) fn definitions(bytes: &[u8], reader: Reader) -> Result<Vec<Arc<Definition>>, NoDefinitions> {
    let cannot = |why: String| format!("the definitions with which it began cannot be read: {why}");
    if serde_json::from_slice(bytes).is_ok_and(|Stored { definitions: IgnoredAny }| true) {
        return match reader.parse::<IgnoredAny>(bytes) {
            Ok(_) => match stored::load(bytes) {
                Ok(definitions) if is_judged_again(&definitions) => {
                    Err(NoDefinitions::ForOthers(cannot("they would be refused now".to_owned())))
                }
                Ok(definitions) => Ok(definitions),
                Err(why) => Err(NoDefinitions::Gone(cannot(why))),
            },
            Err(why) if why.is_for_others() => Err(NoDefinitions::ForOthers(cannot(why.to_string()))),
            Err(why) => Err(NoDefinitions::Gone(cannot(why.to_string()))),
        };
    }
    match config::load(bytes) {
        Ok(configuration) => Ok(configuration.definitions),
        Err(errors) if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() => {
            Err(NoDefinitions::ForOthers(cannot(errors.to_string())))
        }
        Err(errors) => Err(NoDefinitions::Gone(cannot(errors.to_string()))),
    }
}

/// Never, unless that is planted.
fn is_judged_again(definitions: &[Arc<Definition>]) -> bool {
    planted(Planted::StoredDefinitionsJudgedAgain) && definitions.iter().any(|definition| tomorrow::refuses(definition))
}

/// Replays records under one of the definitions.
pub(super) fn orphan(
    records: &[Record],
    definitions: &Result<Vec<Arc<Definition>>, NoDefinitions>,
    epoch: u32,
) -> Result<Orphan, String> {
    let definitions = definitions.as_ref().map_err(NoDefinitions::to_string)?;
    let name = records.first().and_then(begun_as).ok_or("its records do not say how it began")?;
    let definition = definitions.iter().find(|definition| definition.name == name);
    let definition =
        definition.ok_or_else(|| format!("it began as `{name}`, of which its configuration knows nothing"))?;
    let mut progress = Progress::new(definition.steps.iter().map(|step| step.name.as_str()));
    for change in records.iter().flat_map(|record| &record.changes) {
        progress.apply(change).map_err(|illegal| format!("its records contradict each other: {illegal}"))?;
    }
    let sequence = records.last().map_or(0, |record| record.sequence);
    Ok(Orphan { definition: Arc::clone(definition), progress, sequence, epoch })
}

fn begun_as(record: &Record) -> Option<&str> {
    match record.changes.first() {
        Some(Change::Begun(begun)) => Some(&begun.definition),
        _ => None,
    }
}
