//! Which saga has begun under a start key.
//!
//! Keys are spread over a fixed number of buckets, so that their number in shared data is bounded. A bucket has a line for
//! each key. A line counts only where the slot that it names holds the saga that it names: whoever dies between the two
//! writes of a begin or of an end leaves nothing that could be taken for a saga.

use serde::{Deserialize, Serialize};

use super::row::{bucket_key, slot_key};
use super::slot::{Ended, Slot};
use super::{MAX_TRIES, Place};
use crate::journal::replay::Reader;
use crate::journal::{Found, OpenSaga, SharedData, StartKey};
use crate::planted::{Planted, planted};
use crate::saga::record::RECORD_VERSION;

/// More than sagas are retained by default would want a longer line in each, not more of them.
const BUCKETS: u32 = 4_096;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    /// [`RECORD_VERSION`] of whoever wrote it; the first version did not say so.
    #[serde(default = "first_version")]
    version: u32,
    /// What whoever reads it must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    needs: Vec<String>,
    #[serde(flatten)]
    start: StartKey,
    saga: String,
    row: u32,
    slot: u32,
}

/// Which bucket a key is in: the keys are hashes, so any part of them will do.
fn bucket_of(start: &StartKey) -> String {
    let hash = start.key.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0);
    bucket_key(hash % BUCKETS)
}

/// The lines of a bucket as text; what a stranger has left in it is not lost.
fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

fn first_version() -> u32 {
    1
}

/// What every version says of a line in the same way.
#[derive(Deserialize)]
struct Named {
    key: String,
    #[serde(default = "first_version")]
    version: u32,
    #[serde(default)]
    needs: Vec<String>,
}

/// Whose key a line has; none where it is no line.
fn named(line: &str) -> Option<Named> {
    serde_json::from_str(line).ok()
}

fn is_of(line: &str, key: &str) -> bool {
    named(line).is_some_and(|named| named.key == key)
}

/// What stands under a key.
enum Under {
    Line(Line),
    /// Another module has begun a saga under it.
    Unreadable,
    Nothing,
}

fn under(lines: &[String], key: &str, reader: Reader) -> Under {
    let Some((line, named)) =
        lines.iter().filter_map(|line| Some((line, named(line)?))).find(|(_, named)| named.key == key)
    else {
        return Under::Nothing;
    };
    if reader.may_read(named.version.into(), named.needs).is_err() {
        return Under::Unreadable;
    }
    serde_json::from_str(line).map_or(Under::Nothing, Under::Line)
}

/// What the slot of a line holds.
enum Held {
    /// The line's saga.
    Saga(Box<Slot>),
    /// What another module has written: it may be the line's saga.
    Unreadable,
    /// Nothing, or another saga.
    Nothing,
}

fn held(store: &impl SharedData, line: &Line, reader: Reader) -> Held {
    let bytes = store.shared(&slot_key(line.row, line.slot)).map(|(bytes, _)| bytes).unwrap_or_default();
    match Slot::parse(&bytes, reader) {
        Ok(slot) if slot.head.saga == line.saga => Held::Saga(Box::new(slot)),
        Err(why) if why.is_for_others() => Held::Unreadable,
        Ok(_) | Err(_) => Held::Nothing,
    }
}

/// What has become of the saga that has begun under a key.
pub(super) fn find(store: &impl SharedData, start: &StartKey, reader: Reader) -> Found {
    let Some((bytes, _)) = store.shared(&bucket_of(start)) else { return Found::Nothing };
    let line = match under(&lines(&bytes), &start.key, reader) {
        Under::Line(line) => line,
        Under::Unreadable => return Found::Unreadable,
        Under::Nothing => return Found::Nothing,
    };
    let slot = match held(store, &line, reader) {
        Held::Saga(slot) => slot,
        Held::Unreadable => return Found::Unreadable,
        Held::Nothing => return Found::Nothing,
    };
    if line.start.request != start.request && !planted(Planted::RequestUnderKeyNotCompared) {
        return Found::OtherRequest;
    }
    match slot.head.ended {
        Some(Ended { reply, .. }) => Found::Ended(reply),
        None => {
            let is_set_aside = slot.head.quarantined.is_some();
            Found::UnderWay(OpenSaga { saga: line.saga, state: slot.head.state, is_set_aside })
        }
    }
}

/// Names a saga under its key. False: another has begun under it before.
pub(super) fn insert(store: &mut impl SharedData, start: &StartKey, saga: &str, place: Place, reader: Reader) -> bool {
    let Place { row, slot } = place;
    let (version, needs) = (RECORD_VERSION, Vec::new());
    let new = Line { version, needs, start: start.clone(), saga: saga.to_owned(), row, slot };
    // Nothing in a line can fail to become JSON.
    let new = serde_json::to_string(&new).unwrap_or_default();
    let key = bucket_of(start);
    for _ in 0..MAX_TRIES {
        let (bytes, version) = match store.shared(&key) {
            Some((bytes, version)) => (bytes, Some(version)),
            None => (Vec::new(), None),
        };
        let mut lines = lines(&bytes);
        match under(&lines, &start.key, reader) {
            Under::Line(line) if matches!(held(store, &line, reader), Held::Nothing) => {}
            Under::Line(_) | Under::Unreadable => return false,
            Under::Nothing => {}
        }
        lines.retain(|line| !is_of(line, &start.key));
        lines.push(new.clone());
        if store.set_shared(&key, lines.join("\n").as_bytes(), version).is_ok() {
            return true;
        }
    }
    false
}

/// Whether a key names this saga in this place; also where that cannot be read, so that nothing is thrown away.
pub(super) fn names(store: &impl SharedData, start: &StartKey, saga: &str, place: Place, reader: Reader) -> bool {
    let Some((bytes, _)) = store.shared(&bucket_of(start)) else { return false };
    match under(&lines(&bytes), &start.key, reader) {
        Under::Line(line) => line.saga == saga && (line.row, line.slot) == (place.row, place.slot),
        Under::Unreadable => true,
        Under::Nothing => false,
    }
}

/// Forgets the key of a saga.
pub(super) fn remove(store: &mut impl SharedData, start: &StartKey, saga: &str, reader: Reader) {
    let key = bucket_of(start);
    for _ in 0..MAX_TRIES {
        let Some((bytes, version)) = store.shared(&key) else { return };
        let mut lines = lines(&bytes);
        match under(&lines, &start.key, reader) {
            Under::Line(line) if line.saga == saga => lines.retain(|line| !is_of(line, &start.key)),
            Under::Line(_) | Under::Unreadable | Under::Nothing => return,
        }
        if store.set_shared(&key, lines.join("\n").as_bytes(), Some(version)).is_ok() {
            return;
        }
    }
    // It names a slot that will not hold the saga any more.
    log::debug!("the start key of saga {saga} was not removed");
}
