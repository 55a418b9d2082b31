//! Group commit: what is due together goes out as one transaction, each with a nested one of its own.
//!
//! One whose comparison fails leaves the others. One that etcd refuses as such (too large, a lease that is gone) takes the
//! whole with it: halves of it are tried then, down to each for itself. Takeovers, whose answers are large, go in small
//! numbers.
//!
//! An etcd whose database is as large as its quota refuses what takes room, but does not look into nested transactions
//! (`costTxn`). So with a begin goes a small write that is not nested: no saga begins where there is no room. What is
//! under way may end, which makes some. It looks again once it has done something, and says the same if the database has
//! become full in between. So a begin that is refused for want of room is looked for before its client is told.

use std::collections::VecDeque;

use super::answer::Answer;
use super::api::{Request, Txn, TxnAnswer};
use super::bundle::{Bundle, MAX_NESTED};
use super::session::failure;
use super::takeover::{Candidate, Records};
use super::{EtcdJournal, NOT_NOW_BEFORE_REFUSED, back_off_ms};
use crate::journal::{Acknowledgement, StartKey};
use crate::planted::{Planted, planted};
use crate::saga::{Millis, SagaId};

/// While one is under way the next one gathers; a second lets nobody wait for an answer that is lost.
const MAX_UNDER_WAY: usize = 2;

/// Something that wants a transaction.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    /// The record of a saga that is pending.
    Write(SagaId),
    /// The head of a saga anew: it has outlived its resuming, or is set aside.
    Head(SagaId),
    /// What has begun under a start key.
    Look(StartKey),
    /// The definitions of this hash.
    Definitions(String),
    /// A saga without owner.
    Take(Box<Candidate>),
    /// Definitions to which nobody refers, as they were written at this revision.
    Forget(String, i64),
}

/// Where a wish stands.
pub(super) enum Readiness {
    /// This is what it wants.
    Ready(Txn),
    /// Something else has to be there first.
    NotYet,
    /// Nobody wants it any more.
    Moot,
}

#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) wish: Wish,
    /// Of the VM, when it was wished for, or sent: what one name wanted is nothing to the next.
    incarnation: u32,
    not_before: Millis,
    failures: u32,
    /// With how many it may go at most.
    pub(super) share: usize,
    /// It was refused for want of room, for the sake of a begin that it went with.
    goes_without_begins: bool,
}

impl Queued {
    pub(super) fn is_take(&self) -> bool {
        matches!(self.wish, Wish::Take(_))
    }

    fn reads_much(&self) -> bool {
        matches!(self.wish, Wish::Take(_) | Wish::Look(_) | Wish::Definitions(_))
    }
}

/// What waits for a transaction.
#[derive(Debug)]
pub(super) struct Queue {
    wishes: VecDeque<Queued>,
    under_way: usize,
    /// When a wish comes out of its back-off.
    pub(super) due: Millis,
    /// Something in it has needed the VM to have a lease.
    pub(super) wants_session: bool,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { wishes: VecDeque::new(), under_way: 0, due: Millis::MAX, wants_session: false }
    }
}

/// Whether something may go only where etcd has room, or must go where it has none: the two do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Needed,
    NotNeeded,
}

/// A transaction under way.
#[derive(Debug)]
pub(super) struct Group(Vec<Queued>);

impl EtcdJournal {
    pub(super) fn wish(&mut self, wish: Wish) {
        let incarnation = self.session.incarnation();
        let queued =
            Queued { wish, incarnation, not_before: 0, failures: 0, share: MAX_NESTED, goes_without_begins: false };
        self.queue.wishes.push_back(queued);
    }

    /// The same after a moment: what was found does not go together, and may in a while.
    pub(super) fn wish_later(&mut self, wish: Wish, now: Millis) {
        self.wish(wish);
        if let Some(queued) = self.queue.wishes.back_mut() {
            queued.not_before = now.saturating_add(back_off_ms(0));
        }
    }

    /// The next transaction, of as many wishes as it takes.
    pub(super) fn group(&mut self, now: Millis) -> Option<(Group, Txn)> {
        if self.queue.under_way >= MAX_UNDER_WAY {
            self.queue.due = Millis::MAX;
            return None;
        }
        let mut wishes = std::mem::take(&mut self.queue.wishes);
        let mut left = VecDeque::new();
        let mut bundle = Bundle::new();
        while let Some(queued) = wishes.pop_front() {
            if bundle.is_full() {
                left.push_back(queued);
                break;
            }
            let room = self.room_for_wish(&queued);
            if queued.not_before > now || !bundle.admits(&queued, room) {
                left.push_back(queued);
                continue;
            }
            let start = self.start_written_by(&queued.wish);
            if start.as_ref().is_some_and(|start| bundle.starts.contains(start)) {
                left.push_back(queued);
                continue;
            }
            let txn = match self.readiness(&queued, now) {
                Readiness::Moot => continue,
                Readiness::NotYet => {
                    left.push_back(queued);
                    continue;
                }
                Readiness::Ready(txn) => txn,
            };
            let bytes = super::json(&txn).len();
            if !bundle.has_room_for(bytes) {
                left.push_back(queued);
                break;
            }
            self.mark_sent(&queued.wish, true);
            let queued = Queued { incarnation: self.session.incarnation(), ..queued };
            bundle.add(queued, room, Request::Txn(txn), bytes, start);
        }
        left.append(&mut wishes);
        // What some of them need first has come in meanwhile.
        let has_come_in = !self.queue.wishes.is_empty();
        left.append(&mut self.queue.wishes);
        self.queue.due =
            left.iter().map(|queued| queued.not_before).filter(|at| *at > now).min().unwrap_or(Millis::MAX);
        self.queue.wishes = left;
        if bundle.members.is_empty() {
            return if has_come_in { self.group(now) } else { None };
        }
        if bundle.room == Some(Room::Needed) {
            bundle.requests.push(Request::put(&self.keys.room(), Vec::new(), None));
        }
        self.queue.under_way = self.queue.under_way.saturating_add(1);
        Some((Group(bundle.members), Txn { success: bundle.requests, ..Txn::default() }))
    }

    fn room_for_wish(&self, queued: &Queued) -> Option<Room> {
        match &queued.wish {
            _ if queued.goes_without_begins => Some(Room::NotNeeded),
            Wish::Write(saga) => self.room_for(saga),
            _ => None,
        }
    }

    fn is_stale_write(&self, queued: &Queued) -> bool {
        matches!(queued.wish, Wish::Write(_)) && self.is_stale(queued)
    }

    /// What was wished for under the name that the VM has lost. Sagas that are still to be written are wished for anew.
    pub(super) fn forget_writes(&mut self) {
        self.queue.wishes.retain(|queued| !matches!(queued.wish, Wish::Write(_)));
    }

    fn is_stale(&self, queued: &Queued) -> bool {
        queued.incarnation != self.session.incarnation()
    }

    fn readiness(&mut self, queued: &Queued, now: Millis) -> Readiness {
        let stale = self.is_stale(queued);
        match &queued.wish {
            Wish::Write(saga) => self.write_txn(saga, now),
            Wish::Look(start) => self.look_txn(start, now),
            Wish::Definitions(hash) => self.definitions_txn(hash),
            Wish::Forget(hash, revision) => self.forget_txn(hash, *revision),
            Wish::Head(_) | Wish::Take(_) if stale => Readiness::Moot,
            Wish::Head(saga) => self.head_txn(saga),
            Wish::Take(candidate) => self.take_txn(candidate),
        }
    }

    /// A transaction has ended, one way or another.
    pub(super) fn group_ended(&mut self, Group(group): Group, answer: Answer<TxnAnswer>, now: Millis) {
        self.queue.under_way = self.queue.under_way.saturating_sub(1);
        for queued in &group {
            if !self.is_stale(queued) {
                self.mark_sent(&queued.wish, false);
            }
        }
        // What one write or look finds was small enough to be written: alone, only a takeover has an answer that is too large.
        // Several together are small enough to be asked: there it is the answer.
        let answer = match answer {
            Answer::TooLarge(refusal) if group.len() == 1 && !group.iter().any(Queued::is_take) => {
                Answer::Refused(refusal)
            }
            answer => answer,
        };
        match &answer {
            Answer::Done(done) => {
                for (index, queued) in group.into_iter().enumerate() {
                    match done.nested(index) {
                        Some(nested) => self.fulfilled(&queued, &as_planted(nested), done.header.revision.0, now),
                        // etcd leaves none out.
                        None => self.again(queued, true, now),
                    }
                }
            }
            Answer::Refused(refusal) if group.len() > 1 && refusal.may_be_for_one() => {
                log::debug!("etcd refuses {} writes together: {refusal}", group.len());
                let share = (group.len() / 2).max(1);
                // A saga whose VM has lost its lease meanwhile has been wished for anew.
                for queued in group.into_iter().rev().filter(|queued| !self.is_stale_write(queued)).collect::<Vec<_>>()
                {
                    self.queue.wishes.push_front(Queued { share, ..queued });
                }
            }
            Answer::Refused(refusal) => {
                if refusal.is_of_lease() {
                    self.retention.forget();
                }
                let why = if refusal.is_of_size() { Acknowledgement::TooLarge } else { Acknowledgement::Refused };
                for queued in group {
                    if !self.is_stale(&queued) && self.refuse(&queued.wish, why) {
                        continue;
                    }
                    let is_too_large = refusal.is_of_size() && !self.is_stale(&queued);
                    if is_too_large && self.refuse_as_too_large(&queued.wish) {
                        log::warn!("etcd does not take {}: {refusal}", queued.wish);
                        continue;
                    }
                    log::warn!("etcd refuses {}: {refusal}; it is tried again", queued.wish);
                    self.again(queued, false, now);
                }
            }
            Answer::NoSpace => self.found_no_space(group, now),
            Answer::Unauthenticated => group.into_iter().for_each(|queued| self.again(queued, false, now)),
            Answer::NotNow(why) => {
                log::debug!("etcd does not do {} writes now: {why}", group.len());
                for queued in group {
                    let once_more = queued.failures < NOT_NOW_BEFORE_REFUSED || self.is_stale(&queued);
                    if once_more || !self.refuse(&queued.wish, Acknowledgement::Refused) {
                        self.again(queued, false, now);
                    }
                }
            }
            Answer::Unknown(_) | Answer::TooLarge(_) => {
                log::warn!("whether etcd has done {} writes is not known: {}", group.len(), failure(&answer));
                let half = (group.len() / 2).max(1);
                let is_too_large = matches!(answer, Answer::TooLarge(_));
                let is_alone = group.len() == 1;
                for mut queued in group {
                    if let Wish::Take(candidate) = &mut queued.wish
                        && is_too_large
                        && is_alone
                    {
                        candidate.records = Records::TooLarge;
                    }
                    // Perhaps the answer takes too long for what they read.
                    let share = if is_too_large || queued.reads_much() { queued.share.min(half) } else { queued.share };
                    self.again(Queued { share, ..queued }, true, now);
                }
            }
        }
    }

    /// For the sake of the begins in it, perhaps after all was done. What begins is looked for at once; the others go
    /// without it.
    fn found_no_space(&mut self, group: Vec<Queued>, now: Millis) {
        log::warn!("etcd has no room for {} writes", group.len());
        for queued in group {
            match &queued.wish {
                Wish::Write(_) if self.is_stale(&queued) => {}
                Wish::Write(saga) if self.look_for_begin(saga) => self.queue.wishes.push_back(queued),
                Wish::Write(saga) if self.room_for(saga).is_some() => self.again(queued, true, now),
                _ => self.again(Queued { goes_without_begins: true, ..queued }, true, now),
            }
        }
    }

    /// Tries the same once more after a while.
    fn again(&mut self, queued: Queued, may_be_done: bool, now: Millis) {
        if let Wish::Write(saga) = &queued.wish
            && (self.is_stale(&queued) || (may_be_done && !self.mark_in_doubt(saga)))
        {
            return;
        }
        let not_before = now.saturating_add(back_off_ms(queued.failures));
        let failures = queued.failures.saturating_add(1);
        self.queue.wishes.push_back(Queued { not_before, failures, ..queued });
    }

    fn fulfilled(&mut self, queued: &Queued, answer: &TxnAnswer, revision: i64, now: Millis) {
        let stale = self.is_stale(queued);
        match &queued.wish {
            Wish::Write(_) if stale => {}
            Wish::Write(saga) => self.written(saga, answer, revision, now),
            Wish::Look(start) => self.looked(start, answer, now),
            Wish::Definitions(hash) => self.definitions_read(hash, answer),
            Wish::Forget(..) => {}
            Wish::Head(_) | Wish::Take(_) if stale => {}
            Wish::Head(saga) => self.head_written(saga, answer, revision, now),
            Wish::Take(candidate) => self.taken(candidate, answer, revision, now),
        }
    }
}

/// What became of a nested transaction; what one with a fault takes for that.
fn as_planted(nested: &TxnAnswer) -> TxnAnswer {
    let mut nested = nested.clone();
    nested.succeeded |= planted(Planted::GroupTakenForItsMembers);
    nested
}

impl std::fmt::Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wish::Write(saga) => write!(f, "to write a record of saga {saga}"),
            Wish::Head(saga) => write!(f, "to write whose saga {saga} is"),
            Wish::Look(start) => write!(f, "to look for the start key {}", start.key),
            Wish::Definitions(hash) => write!(f, "to read the definitions {hash}"),
            Wish::Take(candidate) => write!(f, "to give us saga {}", candidate.saga),
            Wish::Forget(hash, _) => write!(f, "to forget the definitions {hash}"),
        }
    }
}
