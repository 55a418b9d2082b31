//! Records on their way to the journal, and what follows from what the journal says of them.

use super::{Coordinator, Entry, Host, Key, too_large_for_the_journal};
use crate::journal::{self, Acknowledgement, Journal, KeyRole};
use crate::saga::record::Record;
use crate::saga::{Event, Millis, Problem, Reply};

impl<J: Journal> Coordinator<J> {
    pub(super) fn write(&mut self, host: &mut impl Host, key: Key, record: &Record, now: Millis) -> Option<Event> {
        let Entry { saga, known_by, .. } = self.sagas.get(&key)?;
        let start = known_by.as_ref().map(|known_by| &known_by.start);
        let entry = journal::Entry { saga: saga.id(), epoch: saga.epoch(), record, start, now };
        match self.journal.write(host, entry) {
            Acknowledgement::Pending => None,
            known => self.acknowledged(host, key, record.sequence, known),
        }
    }

    pub(super) fn acknowledged(
        &mut self,
        host: &mut impl Host,
        key: Key,
        sequence: u64,
        acknowledgement: Acknowledgement,
    ) -> Option<Event> {
        match acknowledgement {
            Acknowledgement::Written => return Some(Event::Written { sequence }),
            Acknowledgement::Pending => {}
            Acknowledgement::Lost => self.goes_on_elsewhere(host, key),
            Acknowledgement::Refused => {
                let refusal = self.refusal_of_the_journal(key);
                self.refused_by_journal(host, key, &refusal);
            }
            Acknowledgement::TooLarge if self.sagas.get(&key).is_some_and(|entry| entry.saga.has_begun()) => {
                return Some(Event::TooLarge { sequence });
            }
            Acknowledgement::TooLarge => self.refused_by_journal(host, key, &too_large_for_the_journal()),
            Acknowledgement::KeyTaken => return self.key_taken(host, key),
        }
        None
    }

    /// Another saga has begun under the key of this one.
    fn key_taken(&mut self, host: &mut impl Host, key: Key) -> Option<Event> {
        let entry = self.sagas.get_mut(&key)?;
        let begins_anyway = entry.known_by.as_ref().is_some_and(|known_by| known_by.role == KeyRole::BeginsAnyway);
        match entry.saga.outstanding().filter(|_| begins_anyway) {
            Some(record) => {
                entry.known_by = None;
                let now = host.now();
                self.write(host, key, &record, now)
            }
            None => {
                self.was_begun_elsewhere(host, key);
                None
            }
        }
    }

    /// That this saga has not begun says nothing of its key, if that is kept elsewhere: an earlier request may have begun one.
    fn refusal_of_the_journal(&self, key: Key) -> Reply {
        let detail = "the journal cannot take another saga now";
        let has_key = self.sagas.get(&key).is_some_and(|entry| entry.known_by.is_some());
        if has_key && !self.journal.knows_keys_at_once() {
            Problem::fate_unknown(detail)
        } else {
            Problem::overload(detail)
        }
    }
}
