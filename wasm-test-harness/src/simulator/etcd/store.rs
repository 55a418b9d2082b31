//! Keys with their values, as they are and as they were.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::refusal::Refusal;

/// What is under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// When the key came to be.
    pub create_revision: i64,
    /// When it was last set.
    pub mod_revision: i64,
    /// How often it was set since it came to be.
    pub version: i64,
    /// The lease with which it ends, or 0.
    pub lease: i64,
}

/// An entry that is no more.
#[derive(Debug)]
struct Past {
    entry: Entry,
    /// The revision that has ended it.
    until: i64,
}

/// See the module's text. Changes are made one after another, and all since the last [`Store::end`] are of one revision.
#[derive(Debug)]
pub struct Store {
    current: BTreeMap<Vec<u8>, Entry>,
    past: BTreeMap<Vec<u8>, Vec<Past>>,
    revision: i64,
    changed: bool,
    compacted: i64,
}

/// What was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// As many entries as were asked for, by key.
    pub entries: Vec<(&'a [u8], &'a Entry)>,
    /// How many there are.
    pub count: usize,
}

impl Store {
    /// An empty one at this revision.
    pub fn new(revision: i64) -> Store {
        Store { current: BTreeMap::new(), past: BTreeMap::new(), revision, changed: false, compacted: -1 }
    }

    /// The revision: the next one, once there is a change that has not ended.
    pub fn revision(&self) -> i64 {
        self.revision + i64::from(self.changed)
    }

    /// What is under a key.
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.current.get(key)
    }

    /// All entries, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.current.iter().map(|(key, entry)| (key.as_slice(), entry))
    }

    /// The entries from a key on: up to `end`, as in a request. At most `limit`, unless it is 0, and as they were at a
    /// revision, unless it is 0 or less.
    pub fn range(&self, key: &[u8], end: &[u8], revision: i64, limit: usize) -> Result<Found<'_>, Refusal> {
        if revision > self.revision() {
            return Err(Refusal::FUTURE_REVISION);
        }
        if revision > 0 && revision < self.compacted {
            return Err(Refusal::COMPACTED);
        }
        let Some(bounds) = bounds(key, end) else {
            return Ok(Found { entries: Vec::new(), count: 0 });
        };
        let limit = if limit == 0 { usize::MAX } else { limit };
        let current = self.current.range::<[u8], _>(bounds).map(|(key, entry)| (key.as_slice(), entry));
        if revision <= 0 || revision == self.revision() {
            let entries: Vec<_> = current.clone().take(limit).collect();
            return Ok(Found { count: entries.len() + current.skip(limit).count(), entries });
        }
        let mut then: BTreeMap<&[u8], &Entry> = current.filter(|(_, entry)| entry.mod_revision <= revision).collect();
        for (key, past) in self.past.range::<[u8], _>(bounds) {
            let was = past.iter().find(|past| past.entry.mod_revision <= revision && revision < past.until);
            then.extend(was.map(|past| (key.as_slice(), &past.entry)));
        }
        Ok(Found { count: then.len(), entries: then.into_iter().take(limit).collect() })
    }

    /// Whether a transaction may ask for this revision. It is stricter with what is below 0 than a request is.
    pub fn check_revision(&self, revision: i64) -> Result<(), Refusal> {
        match revision {
            0 => Ok(()),
            future if future > self.revision() => Err(Refusal::FUTURE_REVISION),
            gone if gone < self.compacted => Err(Refusal::COMPACTED),
            _ => Ok(()),
        }
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: Vec<u8>, lease: i64) {
        let revision = self.revision + 1;
        let before = self.current.remove(key);
        let (create_revision, version) =
            before.as_ref().map_or((revision, 1), |entry| (entry.create_revision, entry.version + 1));
        let entry = Entry { value, create_revision, mod_revision: revision, version, lease };
        self.current.insert(key.to_vec(), entry);
        self.changed = true;
        self.bury(key, before);
    }

    /// Removes a key, if it is there, and says which lease it had.
    pub fn delete(&mut self, key: &[u8]) -> Option<i64> {
        let before = self.current.remove(key)?;
        let lease = before.lease;
        self.changed = true;
        self.bury(key, Some(before));
        Some(lease)
    }

    /// Ends a revision. Without changes there is none.
    pub fn end(&mut self) {
        self.revision = self.revision();
        self.changed = false;
    }

    /// Forgets what was before a revision.
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::COMPACTED);
        }
        if revision > self.revision {
            return Err(Refusal::FUTURE_REVISION);
        }
        self.compacted = revision;
        self.past.retain(|_, past| {
            past.retain(|past| past.until > revision);
            !past.is_empty()
        });
        Ok(())
    }

    /// Keeps what a change has ended. What began with the same revision was never seen by anybody.
    fn bury(&mut self, key: &[u8], before: Option<Entry>) {
        let until = self.revision + 1;
        if let Some(entry) = before.filter(|entry| entry.mod_revision < until) {
            self.past.entry(key.to_vec()).or_default().push(Past { entry, until });
        }
    }
}

type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The keys that a request means; none if it ends before it begins.
fn bounds<'a>(key: &'a [u8], end: &'a [u8]) -> Option<Bounds<'a>> {
    match end {
        [] => Some((Bound::Included(key), Bound::Included(key))),
        [0] => Some((Bound::Included(key), Bound::Unbounded)),
        end if key < end => Some((Bound::Included(key), Bound::Excluded(end))),
        _ => None,
    }
}
