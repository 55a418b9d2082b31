//! Records on their way to the journal, and what follows from what the journal says of them.

use super::{Coordinator, Host, Key, too_large_for_the_journal};
use crate::journal::{self, Acknowledgement, IdempotencyKey, Journal};
use crate::saga::record::Record;
use crate::saga::{Event, Millis};

impl<J: Journal> Coordinator<J> {
    pub(super) fn write(&mut self, host: &mut impl Host, key: Key, record: &Record, now: Millis) -> Option<Event> {
        let entry = self.sagas.get(&key)?;
        let (saga, start) = (&entry.saga, entry.start.as_ref().map(IdempotencyKey::begins));
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
            Acknowledgement::Written => {
                if let Some(entry) = self.sagas.get_mut(&key) {
                    entry.request = None;
                }
                return Some(Event::Written { sequence });
            }
            Acknowledgement::Pending => {}
            Acknowledgement::Lost => self.goes_on_elsewhere(host, key),
            Acknowledgement::Refused => self.refuse_for_lack_of_room(host, key),
            Acknowledgement::TooLarge if self.sagas.get(&key).is_some_and(|entry| entry.saga.has_begun()) => {
                return Some(Event::TooLarge { sequence });
            }
            Acknowledgement::TooLarge => self.refused_by_journal(host, key, &too_large_for_the_journal()),
            Acknowledgement::KeyTaken => self.was_begun_elsewhere(host, key),
        }
        None
    }
}
