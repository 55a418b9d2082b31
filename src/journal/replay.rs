//! From what is kept of a saga to a saga that can be resumed.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Orphan;
use crate::config;
use crate::definition::Definition;
use crate::saga::record::{Change, Progress, RECORD_VERSION, Record};

/// Why a value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A module that keeps other records wrote it: it is not for us to touch.
    OtherVersion(u64),
    /// It is not what any module writes.
    Damaged(String),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::OtherVersion(version) => write!(f, "it is of version {version}, not {RECORD_VERSION}"),
            Unreadable::Damaged(why) => write!(f, "it cannot be read: {why}"),
        }
    }
}

/// Only what tells whether the rest can be read.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

fn damaged(error: serde_json::Error) -> Unreadable {
    Unreadable::Damaged(error.to_string())
}

/// Reads a value that says of which version it is.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    let Versioned { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != u64::from(RECORD_VERSION) {
        return Err(Unreadable::OtherVersion(version));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Reads the records of a saga whose last has the sequence `last`.
pub(super) fn records<'a>(lines: impl Iterator<Item = &'a [u8]>, last: u64) -> Result<Vec<Record>, Unreadable> {
    let records: Vec<Record> =
        lines.map(|line| serde_json::from_slice(line).map_err(damaged)).collect::<Result<_, _>>()?;
    let whole = (1..).zip(&records).all(|(sequence, record)| record.sequence == sequence);
    if !whole || records.last().map_or(0, |record| record.sequence) != last {
        return Err(Unreadable::Damaged(format!("it should have {last} records, in order")));
    }
    match records.iter().find(|record| record.version != RECORD_VERSION) {
        Some(record) => Err(Unreadable::OtherVersion(record.version.into())),
        None => Ok(records),
    }
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

/// Reads the definitions under which sagas began.
pub(super) fn definitions(configuration: &[u8]) -> Result<Vec<Arc<Definition>>, NoDefinitions> {
    let cannot = |errors| format!("the configuration with which it began cannot be read: {errors}");
    match config::load(configuration) {
        Ok(configuration) => Ok(configuration.definitions),
        Err(errors) if serde_json::from_slice::<serde::de::IgnoredAny>(configuration).is_ok() => {
            Err(NoDefinitions::ForOthers(cannot(errors)))
        }
        Err(errors) => Err(NoDefinitions::Gone(cannot(errors))),
    }
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
