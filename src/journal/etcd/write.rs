//! The writes of the sagas that are ours.

use super::EtcdJournal;
use super::api::{Compare, Request, Txn, TxnAnswer};
use super::group::{Readiness, Room, Wish};
use super::kept::{Head, StartRow, encode};
use super::pending::Pending;
use super::standing::{Standing, found_revision, named_by_start, standing};
use crate::journal::{Acknowledgement, Entry, StartKey};
use crate::planted::{Planted, planted};
use crate::saga::record::RECORD_VERSION;
use crate::saga::step_states::StepStates;
use crate::saga::{Millis, SagaId, SagaState};

/// A saga that is ours, or that is about to be.
#[derive(Debug)]
pub(super) struct Kept {
    /// As etcd has it. Before the begin: as it would have been.
    pub(super) head: Head,
    /// At which etcd has it; 0 before the begin.
    pub(super) revision: i64,
    pending: Option<Pending>,
    /// Its head is being written without a record.
    pub(super) head_under_way: bool,
    /// Its begin was repeated, so a copy of it may arrive after the saga's end. Its start key refuses that, or else what is
    /// left of it until then.
    begun_twice: bool,
    /// Only another module can read it: it gets its old owner back.
    pub(super) is_given_back: bool,
}

/// What becomes of a saga whose VM has lost its lease.
pub(super) enum AfterTheLease {
    /// It was certainly never written, and begins under the VM's next name.
    BeginsAnew,
    /// Whether it has begun is looked up.
    InDoubt,
    /// Whoever takes it over goes on with it.
    Lost,
}

impl Kept {
    pub(super) fn taken(head: Head, revision: i64) -> Kept {
        Kept { head, revision, pending: None, head_under_way: false, begun_twice: false, is_given_back: false }
    }

    pub(super) fn is_being_written(&self) -> bool {
        self.pending.is_some() || self.head_under_way
    }

    /// Under the old name nothing can be written any more: the comparisons fail.
    pub(super) fn after_the_lease(&mut self) -> AfterTheLease {
        if self.certainly_never_written() {
            return AfterTheLease::BeginsAnew;
        }
        match &mut self.pending {
            // Its start key outlives it. Without one, a saga that was taken over and has ended leaves nothing to be found.
            Some(pending) if self.revision == 0 && self.head.start.is_some() => {
                (pending.is_looked_for, pending.may_be_written, pending.is_sent) = (true, false, false);
                AfterTheLease::InDoubt
            }
            _ => AfterTheLease::Lost,
        }
    }

    pub(super) fn certainly_never_written(&self) -> bool {
        let unsent = |pending: &Pending| !pending.is_sent && !pending.may_be_written && !pending.is_looked_for;
        self.revision == 0 && self.pending.as_ref().is_some_and(unsent)
    }
}

impl EtcdJournal {
    /// Takes a record to be written.
    pub(super) fn keep(&mut self, entry: Entry<'_>) -> Acknowledgement {
        let record = entry.record;
        let Some(kept) = self.sagas.get_mut(entry.saga) else {
            return if record.sequence == 1 { self.begin(entry) } else { Acknowledgement::Lost };
        };
        let follows = kept.head.sequence.checked_add(1) == Some(record.sequence);
        if kept.head.epoch != entry.epoch || !follows || kept.pending.is_some() {
            return Acknowledgement::Lost;
        }
        kept.pending = Some(Pending::of(record, kept.head.clone()));
        if !kept.head_under_way {
            self.wish(Wish::Write(entry.saga.to_owned()));
        }
        Acknowledgement::Pending
    }

    fn begin(&mut self, entry: Entry<'_>) -> Acknowledgement {
        if entry.record.ends() && entry.start.is_none() {
            // It has sent nothing, and never will: there is nothing to take over.
            return Acknowledgement::Written;
        }
        if self.session.cannot_begin(entry.now) {
            return Acknowledgement::Refused;
        }
        let head = Head {
            version: RECORD_VERSION,
            needs: Vec::new(),
            // Whoever it is when it is written.
            owner: String::new(),
            epoch: entry.epoch,
            sequence: 0,
            state: SagaState::Running,
            steps: StepStates::default(),
            definitions: self.definitions.0.clone(),
            start: entry.start.cloned(),
            on_probation: false,
            suspicion: 0,
            quarantined: None,
        };
        let pending = Some(Pending::of(entry.record, head.clone()));
        let kept = Kept { head, revision: 0, pending, head_under_way: false, begun_twice: false, is_given_back: false };
        self.sagas.insert(entry.saga.to_owned(), kept);
        self.queue.wants_session = true;
        if entry.start.is_some() {
            self.retention.will_be_needed(entry.now);
        }
        self.wish(Wish::Write(entry.saga.to_owned()));
        Acknowledgement::Pending
    }

    /// Whether a saga of this VM has begun under a start key, or may begin at any moment.
    pub(super) fn has_saga_under(&self, start: &StartKey) -> bool {
        self.sagas.values().any(|kept| kept.head.start.as_ref().is_some_and(|one| one.key == start.key))
    }

    /// What the pending record of a saga wants of etcd.
    pub(super) fn write_txn(&mut self, saga: &str, now: Millis) -> Readiness {
        let Some(registered) = self.session.registered() else { return Readiness::NotYet };
        let vm = self.session.name();
        let Some(kept) = self.sagas.get_mut(saga) else { return Readiness::Moot };
        let Some(pending) = &mut kept.pending else { return Readiness::Moot };
        pending.head.owner = vm.clone();
        let (saga_key, vm_key) = (self.keys.saga(saga), self.keys.vm(&vm));
        let mut txn = Txn { failure: vec![Request::get(&saga_key), Request::look(&vm_key)], ..Txn::default() };
        if pending.is_looked_for {
            let start = kept.head.start.as_ref().map(|start| Request::get(&self.keys.start(start)));
            // No key has this revision, so nothing is written.
            txn.compare.push(Compare::unchanged(&saga_key, -1));
            txn.failure.extend(start);
            return Readiness::Ready(txn);
        }
        if kept.revision == 0 {
            // A copy of a begin may arrive after the saga's end.
            let (never_begun, never_ended) =
                (Compare::created(&saga_key, 0), Compare::created(&self.keys.ended(saga), 0));
            txn.compare.extend([never_begun, never_ended, Compare::created(&vm_key, registered)]);
        } else if !planted(Planted::WrittenWithoutComparing) {
            txn.compare.push(Compare::unchanged(&saga_key, kept.revision));
        }
        // What is kept for a while, and for how long no further copy of a begin can arrive.
        let start = kept.head.start.clone();
        let is_forgotten = pending.end.as_ref().is_some_and(|end| end.nothing_sent);
        let tombstone = kept.begun_twice && (start.is_none() || is_forgotten);
        let retained = pending.end.is_some() && (start.is_some() && !is_forgotten || tombstone);
        let lease = if retained { self.retention.lease(now) } else { None };
        if retained && lease.is_none() {
            return Readiness::NotYet;
        }
        let start_key = start.as_ref().map(|start| self.keys.start(start));
        if let (Some(start), Some(key)) = (&start, &start_key) {
            if kept.revision == 0 {
                txn.compare.push(Compare::created(key, 0));
            }
            txn.failure.push(Request::get(key));
            if is_forgotten {
                txn.success.push(Request::delete(key));
            } else if kept.revision == 0 || pending.end.is_some() {
                let mut row = StartRow::new(start, saga, pending.end.as_ref().map(|end| end.reply.clone()));
                if planted(Planted::NeedsKeptWithAnswer) {
                    row.needs.clone_from(&pending.head.needs);
                }
                txn.success.push(Request::put(key, encode(&row), lease));
            }
        }
        txn.success.extend(pending.requests(&self.keys, saga, kept.revision, tombstone, lease));
        Readiness::Ready(txn)
    }

    /// The start key that a wish writes, by its hash: etcd takes none of them twice in one transaction.
    pub(super) fn start_written_by(&self, wish: &Wish) -> Option<String> {
        let Wish::Write(saga) = wish else { return None };
        let kept = self.sagas.get(saga)?;
        let pending = kept.pending.as_ref().filter(|pending| !pending.is_looked_for)?;
        let writes = kept.revision == 0 || pending.end.is_some();
        kept.head.start.as_ref().filter(|_| writes).map(|start| start.key.clone())
    }

    /// Whether what a saga writes next takes room; none where it is no begin: it may end, which makes some.
    pub(super) fn room_for(&self, saga: &str) -> Option<Room> {
        let kept = self.sagas.get(saga).filter(|kept| kept.revision == 0)?;
        let is_looked_for = kept.pending.as_ref().is_some_and(|pending| pending.is_looked_for);
        Some(if is_looked_for { Room::NotNeeded } else { Room::Needed })
    }

    /// There was no room for a begin, or it was the last for which there was: that is looked up. False: it is none, or was
    /// being looked up.
    pub(super) fn look_for_begin(&mut self, saga: &str) -> bool {
        let Some(kept) = self.sagas.get_mut(saga).filter(|kept| kept.revision == 0) else { return false };
        kept.pending.as_mut().is_some_and(|pending| !std::mem::replace(&mut pending.is_looked_for, true))
    }

    /// What came of it.
    pub(super) fn written(&mut self, saga: &str, answer: &TxnAnswer, revision: i64, now: Millis) {
        let Some(kept) = self.sagas.get_mut(saga) else { return };
        let was_looked_for = kept.pending.as_mut().is_some_and(|pending| std::mem::take(&mut pending.is_looked_for));
        let Some(pending) = &kept.pending else { return };
        let sequence = pending.sequence;
        let standing =
            if answer.succeeded { Standing::Written } else { standing(saga, kept, pending, answer, self.reader) };
        match standing {
            Standing::Written => {
                let revision = if answer.succeeded { revision } else { found_revision(answer).unwrap_or(revision) };
                self.acknowledge(saga, revision);
            }
            Standing::Before(0) if was_looked_for => {
                let write = Wish::Write(saga.to_owned());
                if !self.refuse(&write, Acknowledgement::Refused) {
                    // A copy of it may still arrive.
                    self.wish_later(write, now);
                }
            }
            Standing::Before(revision) => {
                kept.revision = revision;
                if let Some(pending) = kept.pending.as_mut().filter(|_| was_looked_for) {
                    pending.may_be_written = false;
                }
                self.wish_later(Wish::Write(saga.to_owned()), now);
            }
            Standing::Lost => {
                let vm_is_gone = answer.found(1).is_empty();
                let begin = kept.revision == 0;
                // One that was looked for may have begun, and been taken over, and ended.
                let never = !was_looked_for && kept.certainly_never_written();
                // A start key that cannot be read is somebody's, too.
                let key_taken =
                    !answer.found(2).is_empty() && named_by_start(answer, self.reader).as_deref() != Some(saga);
                if begin && key_taken {
                    self.sagas.remove(saga);
                    self.tell_fate(saga, sequence, Acknowledgement::KeyTaken);
                } else if begin && never && vm_is_gone {
                    // It begins under the next name.
                    self.wish(Wish::Write(saga.to_owned()));
                } else {
                    self.sagas.remove(saga);
                    self.tell_fate(saga, sequence, Acknowledgement::Lost);
                }
                if vm_is_gone && self.session.registered().is_some() {
                    self.depose();
                }
            }
        }
    }

    /// The pending record is in etcd.
    fn acknowledge(&mut self, saga: &str, revision: i64) {
        let Some(kept) = self.sagas.get_mut(saga) else { return };
        let Some(pending) = kept.pending.take() else { return };
        kept.head = pending.head;
        kept.revision = revision;
        if pending.end.is_some() {
            self.sagas.remove(saga);
        }
        self.tell_fate(saga, pending.sequence, Acknowledgement::Written);
    }

    /// A record has gone into a transaction, or come out of it.
    pub(super) fn mark_sent(&mut self, wish: &Wish, is_sent: bool) {
        let Wish::Write(saga) = wish else { return };
        if let Some(pending) = self.sagas.get_mut(saga).and_then(|kept| kept.pending.as_mut()) {
            pending.is_sent = is_sent;
        }
    }

    /// Notes that its last transaction may be in etcd. False: there is nothing to be written any more.
    pub(super) fn mark_in_doubt(&mut self, saga: &str) -> bool {
        let Some(kept) = self.sagas.get_mut(saga) else { return false };
        let Some(pending) = &mut kept.pending else { return false };
        if pending.is_looked_for {
            return true;
        }
        pending.may_be_written = true;
        kept.begun_twice |= kept.revision == 0;
        if planted(Planted::LostAnswerTakenForRefusal) && kept.revision == 0 {
            let sequence = pending.sequence;
            self.sagas.remove(saga);
            self.tell_fate(saga, sequence, Acknowledgement::Refused);
            return false;
        }
        true
    }

    /// Refuses a begin that was certainly never written. False: it is something else, and has to be tried again.
    pub(super) fn refuse(&mut self, wish: &Wish, why: Acknowledgement) -> bool {
        let Wish::Write(saga) = wish else { return false };
        let Some(kept) = self.sagas.get(saga).filter(|kept| kept.certainly_never_written()) else { return false };
        let sequence = kept.pending.as_ref().map_or(1, |pending| pending.sequence);
        self.sagas.remove(saga);
        self.tell_fate(saga, sequence, why);
        true
    }

    /// A record is larger than etcd takes, so it was not written, and will not be. False: it is something else; or another
    /// member, which takes more, may have written it before, which is looked up.
    pub(super) fn refuse_as_too_large(&mut self, wish: &Wish) -> bool {
        let Wish::Write(saga) = wish else { return false };
        let Some(kept) = self.sagas.get_mut(saga).filter(|kept| kept.revision > 0) else { return false };
        if let Some(pending) = kept.pending.as_mut().filter(|pending| pending.may_be_written) {
            pending.is_looked_for = true;
            return false;
        }
        let Some(pending) = kept.pending.take() else { return false };
        self.tell_fate(saga, pending.sequence, Acknowledgement::TooLarge);
        true
    }

    /// No lease can be had: what was to begin does not.
    pub(super) fn refuse_begins(&mut self) {
        let waiting = self.sagas.iter().filter(|(_, kept)| kept.certainly_never_written());
        let mut sagas: Vec<SagaId> = waiting.map(|(saga, _)| saga.clone()).collect();
        sagas.sort_unstable();
        for saga in sagas {
            self.refuse(&Wish::Write(saga), Acknowledgement::Refused);
        }
    }

    /// What the head of a saga wants of etcd, where that is written without a record.
    pub(super) fn head_txn(&mut self, saga: &str) -> Readiness {
        let Some(kept) = self.sagas.get(saga) else { return Readiness::Moot };
        let key = self.keys.saga(saga);
        let txn = Txn {
            compare: vec![Compare::unchanged(&key, kept.revision)],
            success: vec![Request::put(&key, encode(&kept.head), None)],
            failure: vec![Request::get(&key)],
        };
        Readiness::Ready(txn)
    }

    pub(super) fn head_written(&mut self, saga: &str, answer: &TxnAnswer, revision: i64, now: Millis) {
        let Some(kept) = self.sagas.get_mut(saga) else { return };
        kept.head_under_way = false;
        let found = answer.found(0).first();
        let as_written = found.filter(|found| found.value.0 == encode(&kept.head)).map(|found| found.mod_revision.0);
        match if answer.succeeded { Some(revision) } else { as_written } {
            Some(revision) => kept.revision = revision,
            // A record's write finds out what has become of the saga.
            None => log::warn!("the head of saga {saga} was not written: somebody else has"),
        }
        let writes = kept.pending.is_some();
        if kept.head.quarantined.is_some() || kept.is_given_back {
            self.sagas.remove(saga);
        } else if writes {
            self.wish(Wish::Write(saga.to_owned()));
        }
        self.end_probations(now);
    }

    /// Gives a saga back to its old owner, which is gone: who can read it takes it over.
    pub(super) fn give_back(&mut self, saga: &str, owner: String) {
        let Some(kept) = self.sagas.get_mut(saga) else { return };
        (kept.head.owner, kept.head.on_probation) = (owner, false);
        (kept.is_given_back, kept.head_under_way) = (true, true);
        self.wish(Wish::Head(saga.to_owned()));
    }

    /// Marks a saga as one that nobody resumes.
    pub(super) fn set_aside(&mut self, saga: &str, why: &str) {
        let Some(kept) = self.sagas.get_mut(saga) else { return };
        kept.head.quarantined = Some(why.to_owned());
        kept.pending = None;
        kept.head_under_way = true;
        self.wish(Wish::Head(saga.to_owned()));
    }
}
