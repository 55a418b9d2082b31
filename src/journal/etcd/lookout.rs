//! Which VM of a process looks for sagas without owner: one is enough of those that can read the same. What needs more than
//! an older module knows, only a newer one finds.

use serde::{Deserialize, Serialize};

use crate::journal::SharedData;
use crate::journal::replay::Reader;
use crate::saga::Millis;

/// Another takes the place of one that has not been seen for so many ticks.
const GONE_AFTER_TICKS: u32 = 3;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Lookout {
    key: String,
    name: String,
    every_ms: Millis,
    at: Millis,
    beat: u64,
    /// The last beat of another, and how often it was seen.
    seen: Option<(Beat, u32)>,
}

/// What stands in shared data: who it is, and that it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Beat {
    vm: String,
    beat: u64,
}

impl Lookout {
    /// `journal` names where sagas are kept: every such place has a lookout of its own.
    pub(super) fn new(journal: &str, name: String, every_ms: Millis) -> Lookout {
        Lookout { key: format!("sagabox/lookout/{journal}"), name, every_ms, at: 0, beat: 0, seen: None }
    }

    /// Modules that know different features do not stand in for each other.
    fn key_of(&self, reader: Reader) -> String {
        reader.features().iter().fold(self.key.clone(), |key, feature| format!("{key}/{feature}"))
    }

    pub(super) fn next_due(&self) -> Millis {
        self.at
    }

    /// Takes its turn to look, if it is due and no other VM of the process is the lookout: true where this one is to look. One that has no room for what it finds leaves that to another.
    pub(super) fn take_turn(
        &mut self,
        store: &mut impl SharedData,
        reader: Reader,
        has_room: bool,
        now: Millis,
    ) -> bool {
        if now < self.at {
            return false;
        }
        self.at = now.saturating_add(self.every_ms);
        if !has_room {
            return false;
        }
        let key = self.key_of(reader);
        let read = store.shared(&key);
        let found: Option<Beat> = read.as_ref().and_then(|(bytes, _)| serde_json::from_slice(bytes).ok());
        if let Some(other) = found.filter(|found| found.vm != self.name) {
            let times = self.seen.take().filter(|(seen, _)| *seen == other).map_or(0, |(_, times)| times);
            self.seen = Some((other, times.saturating_add(1)));
            if times < GONE_AFTER_TICKS {
                return false;
            }
        }
        self.beat = self.beat.wrapping_add(1);
        let ours = serde_json::to_vec(&Beat { vm: self.name.clone(), beat: self.beat }).unwrap_or_default();
        // Two look where both are first: whoever takes a saga over compares.
        store.set_shared(&key, &ours, read.map(|(_, version)| version)).is_ok()
    }
}
