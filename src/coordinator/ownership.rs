//! Sagas that come from other VMs, and those that go to them.

use std::collections::HashSet;

use super::breadcrumb::Crumb;
use super::repeated::{OfAnother, Wait};
use super::{Coordinator, Counter, Host, Key};
use crate::journal::{Journal, Orphan};
use crate::saga::{Millis, Problem, Reply, Saga, SagaId};

impl<J: Journal> Coordinator<J> {
    /// Shows others that this VM lives, and resumes the sagas of those that do not.
    pub(super) fn look_at_owners(&mut self, host: &mut impl Host, now: Millis) {
        self.journal.offer_room(self.room.free(host));
        let news = self.journal.tick(host, now);
        self.hear(host, news, now);
    }

    pub(super) fn resume(&mut self, host: &mut impl Host, orphan: Orphan, now: Millis) {
        let id = orphan.progress.begun.as_ref().map(|begun| begun.id.clone()).unwrap_or_default();
        let epoch = orphan.epoch;
        let (name, callback) = (orphan.definition.name.clone(), "the takeover".to_owned());
        self.breadcrumb.leave(host, &Crumb { saga: id.clone(), name, step: String::new(), callback });
        match Saga::resume(orphan.resume(self.journal.bounds()), now) {
            Ok((saga, actions)) => {
                log::debug!("saga {id} is {}, and goes on here in epoch {epoch}", saga.state().name());
                host.count(Counter::TakenOver);
                let key = self.add(saga, None, None);
                self.run(host, key, actions, now);
            }
            Err(why) => {
                self.journal.quarantine(host, &id, &why.to_string());
                quarantined(host, &id, &why.to_string());
            }
        }
    }

    /// Others have taken this VM for dead, and these sagas with it. Some may have gone already.
    pub(super) fn lost(&mut self, host: &mut impl Host, lost: &[SagaId]) {
        let lost: HashSet<&str> = lost.iter().map(String::as_str).collect();
        let of_lost = self.sagas.iter().filter(|(_, entry)| lost.contains(entry.saga.id()));
        let mut keys: Vec<Key> = of_lost.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        log::warn!("this VM was taken for dead: {} sagas go on elsewhere", lost.len());
        for key in keys {
            self.goes_on_elsewhere(host, key);
        }
    }

    /// The saga belongs to another VM. Its client is still here, and is told so.
    pub(super) fn goes_on_elsewhere(&mut self, host: &mut impl Host, key: Key) {
        let Some(entry) = self.sagas.get(&key) else { return };
        host.count(Counter::GoneElsewhere);
        if let Some(client) = entry.client {
            host.reply(client, &entry.saga.goes_on_elsewhere_reply());
        }
        self.forget(key);
    }

    /// In the same moment another VM has begun a saga under the same key: nothing was sent for this one.
    pub(super) fn was_begun_elsewhere(&mut self, host: &mut impl Host, key: Key) {
        let Some(entry) = self.sagas.get_mut(&key) else { return };
        let (client, start, request) = (entry.client, entry.start.take(), entry.request.take());
        let until = entry.saga.client_waits_until();
        self.forget(key);
        let (Some(client), Some(start)) = (client, start) else { return };
        let wait = Wait::of(start.looks_for(), host.now(), until, OfAnother::of(&start, request));
        self.wait(host, client, wait);
    }

    /// The journal does not take the first record: nothing was sent for it. What may have begun before under its key it
    /// may still be able to say.
    pub(super) fn refuse_for_lack_of_room(&mut self, host: &mut impl Host, key: Key) {
        let Some(entry) = self.sagas.get_mut(&key) else { return };
        let (client, start, until) = (entry.client, entry.start.take(), entry.saga.client_waits_until());
        self.forget(key);
        let Some(client) = client else { return };
        let refusal = Problem::overload("the journal cannot take another saga now");
        self.refuse_unless_begun_before(host, client, start.as_ref(), until, refusal);
    }

    /// The journal does not take the first record: nothing was sent, and there is no saga.
    pub(super) fn refused_by_journal(&mut self, host: &mut impl Host, key: Key, answer: &Reply) {
        if let Some(client) = self.sagas.get(&key).and_then(|entry| entry.client) {
            host.reply(client, answer);
        }
        self.forget(key);
    }
}

pub(super) fn quarantined(host: &mut impl Host, saga: &str, why: &str) {
    log::error!("saga {saga} is set aside, and waits for an operator: {why}");
    host.count(Counter::Quarantined);
}
