//! The journal that the configuration names.

use super::{
    Acknowledgement, Entry, EtcdJournal, Found, Journal, JournalCall, News, Ownership, SharedData, SharedJournal,
    StartKey,
};
use crate::config::Configuration;
use crate::definition::stored;
use crate::saga::{AttemptResult, Bounds, Millis};

/// One of the journals.
#[derive(Debug)]
pub enum AnyJournal {
    /// In the shared data of the proxy process.
    Shared(Box<SharedJournal>),
    /// In etcd.
    Etcd(Box<EtcdJournal>),
}

impl AnyJournal {
    /// Takes the VM's name, which no other VM has or has had, and its configuration.
    pub fn new(name: String, configuration: &Configuration) -> AnyJournal {
        let definitions = stored::store(&configuration.definitions);
        let retained = configuration.limits.retained.clone();
        let max_sagas = configuration.limits.max_sagas;
        match &configuration.etcd {
            None => AnyJournal::Shared(Box::new(SharedJournal::new(name, definitions, retained))),
            Some(etcd) => {
                AnyJournal::Etcd(Box::new(EtcdJournal::new(name, definitions, etcd.clone(), retained.time, max_sagas)))
            }
        }
    }
}

macro_rules! of_either {
    ($self:ident, $journal:ident => $call:expr) => {
        match $self {
            AnyJournal::Shared($journal) => $call,
            AnyJournal::Etcd($journal) => $call,
        }
    };
}

impl Journal for AnyJournal {
    fn bounds(&self) -> Bounds {
        of_either!(self, journal => journal.bounds())
    }

    fn write(&mut self, store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement {
        of_either!(self, journal => journal.write(store, entry))
    }

    fn withdraw(&mut self, saga: &str) -> bool {
        of_either!(self, journal => journal.withdraw(saga))
    }

    fn find(&self, store: &impl SharedData, start: &StartKey) -> Found {
        of_either!(self, journal => journal.find(store, start))
    }

    fn look(&mut self, store: &impl SharedData, start: &StartKey, since: Millis, now: Millis) -> Found {
        of_either!(self, journal => journal.look(store, start, since, now))
    }

    fn owns(&mut self, store: &mut impl SharedData, saga: &str, now: Millis) -> Ownership {
        of_either!(self, journal => journal.owns(store, saga, now))
    }

    fn doubt_ownership(&mut self, now: Millis) {
        of_either!(self, journal => journal.doubt_ownership(now));
    }

    fn quarantine(&mut self, store: &mut impl SharedData, saga: &str, why: &str) {
        of_either!(self, journal => journal.quarantine(store, saga, why));
    }

    fn tick(&mut self, store: &mut impl SharedData, now: Millis) -> News {
        of_either!(self, journal => journal.tick(store, now))
    }

    fn offer_room(&mut self, bytes: usize) {
        of_either!(self, journal => journal.offer_room(bytes));
    }

    fn next_due(&self) -> Millis {
        of_either!(self, journal => journal.next_due())
    }

    fn next_call(&mut self, now: Millis) -> Option<JournalCall> {
        of_either!(self, journal => journal.next_call(now))
    }

    fn call_ended(&mut self, number: u64, result: &AttemptResult, now: Millis) -> News {
        of_either!(self, journal => journal.call_ended(number, result, now))
    }

    fn leave(&mut self, store: &mut impl SharedData) {
        of_either!(self, journal => journal.leave(store));
    }
}
