//! The write-ahead log of one saga, on the saga's side: which changes no record holds yet, which record is on its way,
//! and up to where the journal has acknowledged.
//!
//! ```text
//!   change --> unwritten --(record, as much as fits)--> outstanding --(acknowledged)--> durable
//! ```
//!
//! Changes are numbered from 1 in the order in which they are made. Whoever must not act before a change is durable
//! remembers its number, so it does not matter into how many records the changes are cut.

use std::sync::Arc;

use super::Millis;
use super::record::{Change, Record};
use crate::planted::{Planted, planted};

/// How long a change may stay in memory that nothing awaits.
pub(super) const WRITTEN_WITHIN_MS: u64 = 1_000;

/// What the journal takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one record, as JSON.
    pub record_bytes: usize,
    /// Bytes of all that the records of one saga hold.
    pub saga_bytes: usize,
}

impl Bounds {
    /// Those of a journal that takes anything.
    pub const NONE: Bounds = Bounds { record_bytes: usize::MAX, saga_bytes: usize::MAX };
}

/// Number of a change.
pub(super) type ChangeNumber = u64;

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Wal {
    unwritten: Vec<Change>,
    /// Number of the last change.
    made: ChangeNumber,
    /// Up to this number the journal holds every change.
    durable: ChangeNumber,
    /// When the oldest unwritten change was made.
    unwritten_since: Option<Millis>,
    /// Sequence of the next record.
    next_sequence: u64,
    /// No record is made before.
    not_before: Millis,
    outstanding: Option<Outstanding>,
}

/// A record that the journal has not acknowledged yet.
#[derive(Clone, Debug)]
struct Outstanding {
    record: Arc<Record>,
    /// Number of the last change that it holds.
    up_to: ChangeNumber,
}

impl Wal {
    /// The log of a saga of which the journal holds the records up to this sequence; 0: none.
    pub(super) fn after(sequence: u64) -> Wal {
        Wal {
            unwritten: Vec::new(),
            made: 0,
            durable: 0,
            unwritten_since: None,
            next_sequence: sequence.saturating_add(1),
            not_before: 0,
            outstanding: None,
        }
    }

    /// Takes a change that was made; gives its number.
    pub(super) fn push(&mut self, change: Change, now: Millis) -> ChangeNumber {
        self.made = self.made.saturating_add(1);
        self.unwritten_since.get_or_insert(now);
        self.unwritten.push(change);
        self.made
    }

    /// Changes the last unwritten change that `find` takes, in place. False: there is none.
    pub(super) fn amend(&mut self, mut find: impl FnMut(&mut Change) -> bool) -> bool {
        self.unwritten.iter_mut().rev().any(&mut find)
    }

    /// The changes that no record holds yet.
    pub(super) fn unwritten(&self) -> &[Change] {
        &self.unwritten
    }

    pub(super) fn is_durable(&self, change: ChangeNumber) -> bool {
        change <= self.durable
    }

    /// Whether the journal has the saga's first record.
    pub(super) fn has_begun(&self) -> bool {
        match &self.outstanding {
            Some(outstanding) => outstanding.record.sequence > 1,
            None => self.next_sequence > 1,
        }
    }

    pub(super) fn has_outstanding(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Whether the journal holds every change.
    pub(super) fn is_settled(&self) -> bool {
        self.outstanding.is_none() && self.unwritten.is_empty()
    }

    /// When what nothing awaits is to be written.
    pub(super) fn next_due(&self) -> Option<Millis> {
        let since = self.unwritten_since.filter(|_| self.outstanding.is_none())?;
        Some(since.saturating_add(WRITTEN_WITHIN_MS).max(self.not_before))
    }

    /// The next record: as many of the unwritten changes, in order, as the journal takes at once. None: one is
    /// outstanding, or there is nothing to write.
    pub(super) fn next_record(&mut self, bounds: Bounds, now: Millis) -> Option<Arc<Record>> {
        if self.outstanding.is_some() || self.unwritten.is_empty() || now < self.not_before {
            return None;
        }
        let mut changes = self.take_what_fits(bounds);
        let sequence = self.next_sequence;
        if planted(Planted::IntentNotJournaled) && sequence > 1 {
            changes.retain(|change| !matches!(change, Change::InFlight { .. }));
        }
        let left = u64::try_from(self.unwritten.len()).unwrap_or(u64::MAX);
        let record = Arc::new(Record::new(sequence, changes));
        self.outstanding = Some(Outstanding { record: Arc::clone(&record), up_to: self.made.saturating_sub(left) });
        self.next_sequence = sequence.saturating_add(1);
        // What is left waits no longer for having been cut off.
        self.unwritten_since = self.unwritten_since.filter(|_| left > 0);
        Some(record)
    }

    fn take_what_fits(&mut self, bounds: Bounds) -> Vec<Change> {
        if bounds == Bounds::NONE {
            return std::mem::take(&mut self.unwritten);
        }
        let mut bytes = 0_usize;
        let fits = |change: &Change| {
            bytes = bytes.saturating_add(change.bytes());
            bytes <= bounds.record_bytes
        };
        // A change that is too large by itself goes alone: whether the journal takes it only the journal knows.
        let count = self.unwritten.iter().map(fits).take_while(|fits| *fits).count().max(1);
        let left = self.unwritten.split_off(count.min(self.unwritten.len()));
        std::mem::replace(&mut self.unwritten, left)
    }

    /// The journal holds the record of this sequence. The error says which one was outstanding.
    pub(super) fn acknowledged(&mut self, sequence: u64) -> Result<(), Option<u64>> {
        self.durable = self.take_outstanding(sequence)?.up_to;
        Ok(())
    }

    /// The journal takes no record as large as that of this sequence: gives its changes, which no record holds any more.
    /// The error says which one was outstanding.
    pub(super) fn refused(&mut self, sequence: u64) -> Result<Vec<Change>, Option<u64>> {
        let outstanding = self.take_outstanding(sequence)?;
        self.next_sequence = sequence;
        Ok(Arc::unwrap_or_clone(outstanding.record).changes)
    }

    /// The changes that no record holds yet, to be put back.
    pub(super) fn take_unwritten(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.unwritten)
    }

    /// Takes the changes of a refused record back, with those that came after them: as many as there were, in their
    /// order. No record is made before then.
    pub(super) fn put_back(&mut self, changes: Vec<Change>, now: Millis, not_before: Millis) {
        self.unwritten = changes;
        self.unwritten_since = Some(now);
        self.not_before = not_before;
    }

    fn take_outstanding(&mut self, sequence: u64) -> Result<Outstanding, Option<u64>> {
        let found = self.outstanding.as_ref().map(|outstanding| outstanding.record.sequence);
        match self.outstanding.take_if(|outstanding| outstanding.record.sequence == sequence) {
            Some(outstanding) => Ok(outstanding),
            None => Err(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Stuck;
    use super::*;

    fn skipped(step: usize) -> Change {
        Change::Skipped { step }
    }

    fn stuck(bytes: usize) -> Change {
        Change::Stuck(Stuck { since: 0, reason: "x".repeat(bytes) })
    }

    #[test]
    fn a_change_is_durable_once_the_record_that_holds_it_is_acknowledged() {
        let mut wal = Wal::after(0);
        let first = wal.push(skipped(0), 5);
        assert!(!wal.is_durable(first) && !wal.has_begun());
        let record = wal.next_record(Bounds::NONE, 5).unwrap();
        assert_eq!((record.sequence, record.changes.len()), (1, 1));
        let second = wal.push(skipped(1), 6);
        assert!(wal.next_record(Bounds::NONE, 6).is_none(), "one at a time");
        assert_eq!(wal.acknowledged(2), Err(Some(1)));
        assert_eq!(wal.acknowledged(1), Ok(()));
        assert!(wal.is_durable(first) && !wal.is_durable(second) && wal.has_begun() && !wal.is_settled());
        assert_eq!(wal.acknowledged(1), Err(None));
    }

    #[test]
    fn what_does_not_fit_into_one_record_goes_into_the_next() {
        let bounds = Bounds { record_bytes: 100_000, saga_bytes: usize::MAX };
        let mut wal = Wal::after(3);
        let numbers = [10_000, 70_000, 70_000, 500_000].map(|bytes| wal.push(stuck(bytes), 0));
        let mut sizes = Vec::new();
        for sequence in 4.. {
            assert_eq!(wal.next_due(), (sequence < 7).then_some(1_000), "also what was cut off");
            let Some(record) = wal.next_record(bounds, 1_010) else { break };
            assert_eq!(record.sequence, sequence);
            sizes.push(record.changes.len());
            wal.acknowledged(sequence).unwrap();
        }
        assert_eq!(sizes, [2, 1, 1], "in order; what is too large by itself goes alone");
        assert!(numbers.into_iter().all(|number| wal.is_durable(number)) && wal.is_settled());
    }

    #[test]
    fn what_nothing_awaits_is_due_a_second_after_it_was_made() {
        let mut wal = Wal::after(1);
        assert_eq!(wal.next_due(), None);
        wal.push(skipped(0), 5_000);
        wal.push(skipped(1), 5_700);
        assert_eq!(wal.next_due(), Some(6_000));
        let record = wal.next_record(Bounds::NONE, 6_000).unwrap();
        assert_eq!(wal.next_due(), None, "nothing is left");
        wal.push(skipped(2), 6_100);
        assert_eq!(wal.next_due(), None, "it waits for the record that is outstanding");
        wal.acknowledged(record.sequence).unwrap();
        assert_eq!(wal.next_due(), Some(7_100));
    }
}
