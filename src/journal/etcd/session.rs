//! The VM's lease: as long as it lives, so do the sagas of the VM.
//!
//! ```text
//!   Out --grant--> Granted --put vm/<name> on the lease--> In --keepalive--> In
//!    ^                                                      |
//!    +------- under another name: the lease is gone --------+
//! ```

use super::answer::Answer;
use super::api::{Compare, Grant, Int, KeepAlive, Lease, Request, Streamed, Txn, TxnAnswer};
use super::kept::{Keys, VmRow, encode};
use super::{NOT_NOW_BEFORE_REFUSED, back_off_ms};
use crate::planted::{Planted, planted};
use crate::saga::Millis;
use crate::saga::record::RECORD_VERSION;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Session {
    /// Which no other VM has or has had.
    base_name: String,
    /// How often this VM has lost its lease.
    incarnation: u32,
    state: State,
    /// As it was granted.
    ttl_ms: Millis,
    /// When that was sent which etcd acknowledged last: the lease lives at least until its time to live after that.
    alive_from: Millis,
    /// What was sent until then says nothing of now: time has stood still here since, and not in etcd.
    doubted_at: Option<Millis>,
    /// When the next call is due.
    next_at: Millis,
    /// Calls in a row that came to nothing.
    failures: u32,
    /// After the last of them nothing can begin until the next attempt.
    gives_up: bool,
    under_way: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Out,
    Granted { lease: i64 },
    In { lease: i64, registered: i64 },
}

/// What the session asks etcd.
#[derive(Debug)]
pub(super) enum Ask {
    Grant(Grant),
    Register(Txn),
    KeepAlive(KeepAlive),
}

/// What came of a call of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It goes on.
    Fine,
    /// The VM has no lease yet, and etcd could not be asked for one.
    CannotBegin,
    /// The lease is gone, and the name with it.
    Deposed,
}

impl Session {
    pub(super) fn new(base_name: String, ttl_ms: Millis) -> Session {
        Session {
            base_name,
            incarnation: 0,
            state: State::Out,
            ttl_ms,
            alive_from: 0,
            doubted_at: None,
            next_at: 0,
            failures: 0,
            gives_up: false,
            under_way: false,
        }
    }

    /// The name that is the VM's as long as its lease lives.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.base_name, self.incarnation)
    }

    /// Whether this was or is the VM's name: it has not died of what it had under it.
    pub(super) fn is_named(&self, name: &str) -> bool {
        name.rsplit_once('.').is_some_and(|(base, _)| base == self.base_name)
    }

    pub(super) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    /// The revision at which the VM's key was made; none: it has none.
    pub(super) fn registered(&self) -> Option<i64> {
        match self.state {
            State::In { registered, .. } => Some(registered),
            State::Out | State::Granted { .. } => None,
        }
    }

    /// Nobody can have taken this VM for dead yet, and nobody will in the time that a call takes to leave.
    pub(super) fn may_send(&self, now: Millis) -> bool {
        let safe_ms = self.ttl_ms.saturating_mul(2) / 3;
        let safe = now < self.alive_from.saturating_add(safe_ms) || planted(Planted::LeaseNotWatched);
        self.registered().is_some() && safe && !self.is_in_doubt()
    }

    /// Nothing is sent before etcd has acknowledged what is sent from now on.
    pub(super) fn doubt(&mut self, now: Millis) {
        log::warn!("this machine may have been suspended: whether the lease of this VM lives is asked anew");
        (self.doubted_at, self.next_at) = (Some(now), now);
    }

    fn is_in_doubt(&self) -> bool {
        self.doubted_at.is_some_and(|doubted_at| self.alive_from <= doubted_at)
    }

    /// When the lease is to be kept alive next.
    fn next_keepalive(&self) -> Millis {
        if self.is_in_doubt() { 0 } else { self.alive_from.saturating_add(self.ttl_ms / 3) }
    }

    /// Nothing that needs a lease can begin: the last attempt to get one has just failed.
    pub(super) fn cannot_begin(&self, now: Millis) -> bool {
        match self.state {
            State::Out | State::Granted { .. } => self.gives_up && now < self.next_at,
            State::In { .. } => !self.may_send(now),
        }
    }

    /// When there is something to ask, if a lease is wanted.
    pub(super) fn next_due(&self, wanted: bool) -> Millis {
        let idle = self.under_way || (self.registered().is_none() && !wanted);
        if idle { Millis::MAX } else { self.next_at }
    }

    /// What is to be asked now.
    pub(super) fn ask(&mut self, keys: &Keys, definitions: (&str, &[u8]), wanted: bool, now: Millis) -> Option<Ask> {
        if self.next_due(wanted) > now {
            return None;
        }
        self.under_way = true;
        Some(match self.state {
            // Whole seconds; etcd grants what it likes.
            State::Out => {
                Ask::Grant(Grant { ttl: Int(i64::try_from(self.ttl_ms.div_ceil(1_000)).unwrap_or(i64::MAX)) })
            }
            State::Granted { lease } => Ask::Register(self.register(keys, definitions, lease)),
            State::In { lease, .. } => Ask::KeepAlive(KeepAlive { id: Int(lease) }),
        })
    }

    /// The key on the lease, and the definitions, which are written anew by every VM: whoever removes those that nobody
    /// refers to sees that.
    fn register(&self, keys: &Keys, (hash, definitions): (&str, &[u8]), lease: i64) -> Txn {
        let key = keys.vm(&self.name());
        let row = VmRow { version: RECORD_VERSION, needs: Vec::new(), definitions: hash.to_owned() };
        Txn {
            compare: vec![Compare::created(&key, 0)],
            success: vec![
                Request::put(&key, encode(&row), Some(lease)),
                Request::put(&keys.definitions(hash), definitions.to_vec(), None),
            ],
            failure: vec![Request::get(&key)],
        }
    }

    /// `sent_at` is when the call was sent.
    pub(super) fn granted(&mut self, answer: Answer<Lease>, sent_at: Millis, now: Millis) -> Outcome {
        match answer {
            Answer::Done(Lease { id, ttl }) if ttl.0 > 0 => {
                self.ttl_ms = u64::try_from(ttl.0).unwrap_or(0).saturating_mul(1_000);
                self.alive_from = sent_at;
                self.go_on(State::Granted { lease: id.0 }, now)
            }
            other => self.failed("a lease", &other, now),
        }
    }

    pub(super) fn was_registered(&mut self, answer: Answer<TxnAnswer>, now: Millis) -> Outcome {
        let State::Granted { lease } = self.state else { return Outcome::Fine };
        // The lease has lived since it was granted, however long this call took.
        let soon = self.next_keepalive();
        match &answer {
            Answer::Done(done) if done.succeeded => {
                self.go_on(State::In { lease, registered: done.header.revision.0 }, soon)
            }
            // The answer to an attempt before this one was lost.
            Answer::Done(done) => match done.found(0).first() {
                Some(row) if row.lease.0 == lease => {
                    self.go_on(State::In { lease, registered: row.create_revision.0 }, soon)
                }
                _ => self.deposed(),
            },
            Answer::Refused(refusal) if refusal.is_of_lease() => self.deposed(),
            other => self.failed("a key on its lease", other, now),
        }
    }

    /// `sent_at` is when the call was sent.
    pub(super) fn kept_alive(&mut self, answer: Answer<Streamed<Lease>>, sent_at: Millis, now: Millis) -> Outcome {
        match answer {
            Answer::Done(Streamed { result }) if result.ttl.0 > 0 => {
                self.alive_from = sent_at;
                self.go_on(self.state, self.next_keepalive())
            }
            Answer::Done(_) => self.deposed(),
            Answer::Refused(refusal) if refusal.is_of_lease() => self.deposed(),
            other => {
                log::warn!("the lease of this VM is not kept alive: {}", failure(&other));
                self.back_off(now);
                Outcome::Fine
            }
        }
    }

    /// The VM's key is gone: so is its name.
    pub(super) fn deposed(&mut self) -> Outcome {
        self.incarnation = self.incarnation.saturating_add(1);
        self.go_on(State::Out, 0);
        Outcome::Deposed
    }

    fn go_on(&mut self, state: State, next_at: Millis) -> Outcome {
        (self.state, self.next_at, self.failures, self.gives_up, self.under_way) = (state, next_at, 0, false, false);
        Outcome::Fine
    }

    fn failed<T>(&mut self, what: &str, answer: &Answer<T>, now: Millis) -> Outcome {
        log::warn!("etcd does not give this VM {what}: {}", failure(answer));
        self.back_off(now);
        // Another member may be there; another token may be valid, where this one has ended with its time.
        let may_help_itself = matches!(answer, Answer::NotNow(_) | Answer::Unauthenticated);
        self.gives_up = !may_help_itself || self.failures >= NOT_NOW_BEFORE_REFUSED;
        if self.gives_up { Outcome::CannotBegin } else { Outcome::Fine }
    }

    fn back_off(&mut self, now: Millis) {
        self.under_way = false;
        self.next_at = now.saturating_add(back_off_ms(self.failures).min(self.ttl_ms / 12).max(1));
        self.failures = self.failures.saturating_add(1);
    }
}

/// What went wrong, in words.
pub(super) fn failure<T>(answer: &Answer<T>) -> String {
    match answer {
        Answer::Done(_) => "it gives what makes no sense".to_owned(),
        Answer::Refused(refusal) => refusal.to_string(),
        Answer::Unauthenticated => "the token is not valid any more".to_owned(),
        Answer::TooLarge(refusal) => refusal.to_string(),
        Answer::NoSpace => "its database is as large as its quota".to_owned(),
        Answer::NotNow(why) => (*why).to_owned(),
        Answer::Unknown(why) => why.clone(),
    }
}
