//! Which saga has begun under a start key.
//!
//! Keys are spread over a fixed number of buckets, so that their number in shared data is bounded. A bucket has a line for
//! each key. A line counts only where the slot that it names holds the saga that it names: whoever dies between the two
//! writes of a begin or of an end leaves nothing that could be taken for a saga.

use serde::{Deserialize, Serialize};

use super::row::{bucket_key, slot_key};
use super::slot::{Ended, Slot};
use super::{MAX_TRIES, Place};
use crate::journal::replay::Unreadable;
use crate::journal::{Found, OpenSaga, SharedData, StartKey};
use crate::planted::{Planted, planted};

/// More than sagas are retained by default would want a longer line in each, not more of them.
const BUCKETS: u32 = 4_096;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
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

fn parsed(line: &str) -> Option<Line> {
    serde_json::from_str(line).ok()
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

fn held(store: &impl SharedData, line: &Line) -> Held {
    let bytes = store.shared(&slot_key(line.row, line.slot)).map(|(bytes, _)| bytes).unwrap_or_default();
    match Slot::parse(&bytes) {
        Ok(slot) if slot.head.saga == line.saga => Held::Saga(Box::new(slot)),
        Err(Unreadable::OtherVersion(_)) => Held::Unreadable,
        Ok(_) | Err(Unreadable::Damaged(_)) => Held::Nothing,
    }
}

/// What has become of the saga that has begun under a key.
pub(super) fn find(store: &impl SharedData, start: &StartKey) -> Found {
    let Some((bytes, _)) = store.shared(&bucket_of(start)) else { return Found::Nothing };
    let found = lines(&bytes).iter().filter_map(|line| parsed(line)).find(|line| line.start.key == start.key);
    let Some(line) = found else { return Found::Nothing };
    let slot = match held(store, &line) {
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
pub(super) fn insert(store: &mut impl SharedData, start: &StartKey, saga: &str, place: Place) -> bool {
    let new = Line { start: start.clone(), saga: saga.to_owned(), row: place.row, slot: place.slot };
    // Nothing in a line can fail to become JSON.
    let new = serde_json::to_string(&new).unwrap_or_default();
    let key = bucket_of(start);
    for _ in 0..MAX_TRIES {
        let (bytes, version) = match store.shared(&key) {
            Some((bytes, version)) => (bytes, Some(version)),
            None => (Vec::new(), None),
        };
        let mut lines = lines(&bytes);
        let same = |line: &String| parsed(line).filter(|line| line.start.key == start.key);
        if lines.iter().filter_map(same).any(|line| !matches!(held(store, &line), Held::Nothing)) {
            return false;
        }
        lines.retain(|line| same(line).is_none());
        lines.push(new.clone());
        if store.set_shared(&key, lines.join("\n").as_bytes(), version).is_ok() {
            return true;
        }
    }
    false
}

/// Whether a key names this saga in this place.
pub(super) fn names(store: &impl SharedData, start: &StartKey, saga: &str, place: Place) -> bool {
    let Some((bytes, _)) = store.shared(&bucket_of(start)) else { return false };
    let found = lines(&bytes).iter().filter_map(|line| parsed(line)).find(|line| line.start.key == start.key);
    found.is_some_and(|line| line.saga == saga && (line.row, line.slot) == (place.row, place.slot))
}

/// Forgets the key of a saga.
pub(super) fn remove(store: &mut impl SharedData, start: &StartKey, saga: &str) {
    let key = bucket_of(start);
    for _ in 0..MAX_TRIES {
        let Some((bytes, version)) = store.shared(&key) else { return };
        let mut lines = lines(&bytes);
        lines.retain(|line| parsed(line).is_none_or(|line| line.start.key != start.key || line.saga != saga));
        if store.set_shared(&key, lines.join("\n").as_bytes(), Some(version)).is_ok() {
            return;
        }
    }
    // It names a slot that will not hold the saga any more.
    log::debug!("the start key of saga {saga} was not removed");
}
