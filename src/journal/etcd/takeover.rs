//! Sagas whose owner has gone: who takes them over, and what of.
//!
//! A saga may be what its owners die of. Whoever takes one over puts it on probation, until it has outlived its resuming
//! by some seconds. One that is found on probation is a suspect: of those a VM resumes one at a time, and after three
//! such owners in a row it is set aside. That takes no clock but the VM's own.
//!
//! A saga whose definitions this VM cannot read, as those of a newer module, stays without owner, for one that can. One
//! whose definitions are gone, or are no configuration, is set aside.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::EtcdJournal;
use super::api::{Compare, Request, Txn, TxnAnswer};
use super::group::{Readiness, Wish};
use super::kept::{Head, encode};
use super::write::Kept;
use crate::definition::Definition;
use crate::journal::replay::{self, NoDefinitions};
use crate::planted::{Planted, planted};
use crate::saga::record::RECORD_VERSION;
use crate::saga::step_states::StepStates;
use crate::saga::{Millis, SagaId};

/// A VM that dies within so long after it has resumed a saga may have died of it.
const PROBATION_MS: Millis = 5_000;
/// So many owners in a row that died on probation are enough.
const MAX_SUSPICION: u32 = 3;
/// Taken over at a time. The others are looked for again once these are done.
const MAX_TAKING: usize = 128;
/// What there must be room for beside what is being taken over already. How large a saga is shows only as its records come: seldom so
/// large.
const OF_ONE_SAGA: usize = 512 << 10;

/// A saga without owner, as it was found.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) saga: SagaId,
    pub(super) revision: i64,
    pub(super) head: Head,
    pub(super) records: Records,
}

/// Whether what a takeover asks for has the saga's records in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Records {
    Read,
    /// They are larger than etcd's gateway hands over at once: the saga is taken over to be set aside.
    TooLarge,
}

/// Definitions, or why they cannot be read.
type Definitions = Result<Vec<Arc<Definition>>, NoDefinitions>;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Takeovers {
    /// Being taken over.
    taking: BTreeSet<SagaId>,
    /// The suspect that was resumed last, or is about to be.
    suspect: Option<SagaId>,
    /// When probations end, in the order of time.
    probations: VecDeque<(Millis, SagaId)>,
    /// By hash; none: they are being read.
    definitions: BTreeMap<String, Option<Definitions>>,
    /// More were found than are taken over at a time.
    more: bool,
    /// So were suspects whose turn has not come.
    more_suspects: bool,
}

impl Takeovers {
    pub(super) fn next_due(&self) -> Millis {
        self.probations.front().map_or(Millis::MAX, |(at, _)| *at)
    }

    /// Everything that this VM had is another's.
    pub(super) fn forget(&mut self) {
        self.taking.clear();
        self.suspect = None;
        self.probations.clear();
    }
}

impl EtcdJournal {
    /// Whether one more can be taken over while so many are. A VM that has none takes one in any case.
    pub(super) fn has_room_beside(&self, taking: usize) -> bool {
        let is_first = taking == 0 && self.sagas.is_empty();
        let bytes = taking.saturating_add(1).saturating_mul(OF_ONE_SAGA);
        let fits = bytes <= self.room || is_first || planted(Planted::TakenOverWithoutRoom);
        self.sagas.len().saturating_add(taking) < self.max_sagas && fits
    }

    /// Takes a saga over, unless that is under way, or more is than can be.
    pub(super) fn take_over(&mut self, candidate: Candidate) {
        let taking = self.takeovers.taking.len();
        if self.sagas.contains_key(&candidate.saga) || self.takeovers.taking.contains(&candidate.saga) {
            return;
        }
        if !self.has_room_beside(taking) {
            // Another VM may have room, or this one later: at the latest once it has more than what is under way.
            self.takeovers.more |= taking > 0;
            return;
        }
        if taking >= MAX_TAKING {
            self.takeovers.more = true;
            return;
        }
        if let Some(Some(Err(NoDefinitions::ForOthers(why)))) =
            self.takeovers.definitions.get(&candidate.head.definitions)
        {
            let why = why.clone();
            return self.leave_alone(self.keys.saga(&candidate.saga), &why);
        }
        if self.is_left_alone(&candidate.saga) {
            return;
        }
        let is_suspected = self.is_suspected(&candidate.head);
        if is_suspected && self.has_suspect() {
            self.takeovers.more_suspects = true;
            return;
        }
        self.takeovers.taking.insert(candidate.saga.clone());
        if is_suspected {
            self.takeovers.suspect = Some(candidate.saga.clone());
        }
        self.queue.wants_session = true;
        self.wish(Wish::Take(Box::new(candidate)));
    }

    /// Ends the taking over of a saga, whatever has come of it.
    fn stop_taking(&mut self, saga: &str) {
        self.takeovers.taking.remove(saga);
        if self.takeovers.taking.is_empty() && std::mem::take(&mut self.takeovers.more) {
            self.scan.begin();
        }
    }

    /// Whether its owner may have died of it. This VM has not, where that was its own name before it lost its lease.
    fn is_suspected(&self, head: &Head) -> bool {
        head.on_probation && !self.session.is_named(&head.owner)
    }

    /// The head of a saga once it is ours.
    fn heir(&self, candidate: &Candidate) -> Head {
        let mut head = Head { version: RECORD_VERSION, ..candidate.head.clone() };
        head.suspicion = match (self.is_suspected(&head), head.on_probation) {
            (true, _) => head.suspicion.saturating_add(1),
            (false, true) => head.suspicion,
            (false, false) => 0,
        };
        if head.suspicion >= MAX_SUSPICION {
            let why = format!("{MAX_SUSPICION} owners in a row have died soon after they had resumed it");
            head.quarantined = Some(why);
            return head;
        }
        head.owner = self.session.name();
        head.epoch = head.epoch.saturating_add(u32::from(!planted(Planted::EpochNotRaised)));
        head.on_probation = true;
        head
    }

    pub(super) fn take_txn(&mut self, candidate: &Candidate) -> Readiness {
        let Some(registered) = self.session.registered() else { return Readiness::NotYet };
        match self.look_up_definitions(&candidate.head.definitions) {
            None => return Readiness::NotYet,
            // It is taken over to be set aside.
            Some(Ok(_) | Err(NoDefinitions::Gone(_))) => {}
            Some(Err(NoDefinitions::ForOthers(why))) => {
                self.leave_alone(self.keys.saga(&candidate.saga), &why);
                self.stop_taking(&candidate.saga);
                self.look_for_more_suspects();
                return Readiness::Moot;
            }
        }
        let heir = self.heir(candidate);
        let (key, records) = (self.keys.saga(&candidate.saga), self.keys.records(&candidate.saga));
        let mut compare = vec![Compare::unchanged(&key, candidate.revision)];
        if !planted(Planted::TakenFromTheLiving) {
            compare.push(Compare::created(&self.keys.vm(&candidate.head.owner), 0));
        }
        compare.push(Compare::created(&self.keys.vm(&self.session.name()), registered));
        let (mut success, mut failure) = (vec![Request::put(&key, encode(&heir), None)], vec![Request::get(&key)]);
        if candidate.records == Records::Read {
            success.push(Request::list(&records, None, None, false));
            failure.push(Request::list(&records, None, None, false));
        }
        Readiness::Ready(Txn { compare, success, failure })
    }

    /// The turn of the next one has come.
    fn look_for_more_suspects(&mut self) {
        if self.takeovers.more_suspects && !self.has_suspect() {
            self.takeovers.more_suspects = false;
            self.scan.begin();
        }
    }

    /// A suspect is being taken over, or has not outlived it yet.
    fn has_suspect(&self) -> bool {
        self.takeovers.suspect.as_ref().is_some_and(|suspect| {
            let on_probation = self.sagas.get(suspect).is_some_and(|kept| kept.head.on_probation);
            self.takeovers.taking.contains(suspect) || on_probation
        })
    }

    pub(super) fn taken(&mut self, candidate: &Candidate, answer: &TxnAnswer, revision: i64, now: Millis) {
        let saga = &candidate.saga;
        self.stop_taking(saga);
        let heir = self.heir(candidate);
        // The answer to an attempt before this one may have been lost.
        let found = answer.found(0).first().filter(|found| found.value.0 == encode(&heir));
        let Some(revision) = (if answer.succeeded { Some(revision) } else { found.map(|found| found.mod_revision.0) })
        else {
            return;
        };
        if let Some(why) = heir.quarantined {
            return self.news.quarantined.push((saga.clone(), why));
        }
        log::warn!("saga {saga} has lost its owner {}, and is taken over", candidate.head.owner);
        let (sequence, epoch, definitions) = (heir.sequence, heir.epoch, heir.definitions.clone());
        self.sagas.insert(saga.clone(), Kept::taken(heir, revision));
        self.takeovers.probations.push_back((now.saturating_add(PROBATION_MS), saga.clone()));
        if candidate.records == Records::TooLarge {
            let why = "its records are larger than etcd's gateway hands over at once";
            self.set_aside(saga, why);
            return self.news.quarantined.push((saga.clone(), why.to_owned()));
        }
        let records = self.reader.records(answer.found(1).iter().map(|record| record.value.0.as_slice()), sequence);
        if let Err(why) = &records
            && why.is_for_others()
        {
            // Its head should have said so.
            self.leave_alone(self.keys.saga(saga), &why.to_string());
            return self.give_back(saga, candidate.head.owner.clone());
        }
        if let (Ok(records), Some(kept)) = (&records, self.sagas.get_mut(saga)) {
            // The first version's heads say nothing of steps.
            kept.head.steps = StepStates::of(records);
        }
        let hash = if planted(Planted::ResumedUnderOwnDefinition) { &self.definitions.0 } else { &definitions };
        let known = self.takeovers.definitions.get(hash).and_then(Option::as_ref);
        let orphan = match (records, known) {
            (Ok(records), Some(definitions)) => replay::orphan(&records, definitions, epoch),
            (Err(why), _) => Err(why.to_string()),
            (Ok(_), None) => Err("the definitions under which it began are gone".to_owned()),
        };
        match orphan {
            Ok(orphan) => self.news.orphans.push(orphan),
            Err(why) => {
                self.set_aside(saga, &why);
                self.news.quarantined.push((saga.clone(), why));
            }
        }
    }

    /// Gives definitions, or why they cannot be read. None: they are being read, from now on if nobody did before.
    fn look_up_definitions(&mut self, hash: &str) -> Option<Definitions> {
        let (own, text) = &self.definitions;
        if hash == own || planted(Planted::ResumedUnderOwnDefinition) {
            let entry = self.takeovers.definitions.entry(own.clone());
            return entry.or_insert_with(|| Some(replay::definitions(text, self.reader))).clone();
        }
        if let Some(definitions) = self.takeovers.definitions.get(hash) {
            return definitions.clone();
        }
        self.takeovers.definitions.insert(hash.to_owned(), None);
        self.wish(Wish::Definitions(hash.to_owned()));
        None
    }

    /// Nobody wants them now; what could not be read may be there the next time.
    pub(super) fn forget_definitions(&mut self) {
        if self.takeovers.taking.is_empty() {
            self.takeovers.definitions.clear();
        }
    }

    pub(super) fn definitions_txn(&self, hash: &str) -> Readiness {
        let success = vec![Request::get(&self.keys.definitions(hash))];
        Readiness::Ready(Txn { success, ..Txn::default() })
    }

    pub(super) fn definitions_read(&mut self, hash: &str, answer: &TxnAnswer) {
        let definitions = match answer.found(0).first() {
            Some(found) => replay::definitions(&found.value.0, self.reader),
            None => Err(NoDefinitions::Gone("the definitions under which it began are gone".to_owned())),
        };
        self.takeovers.definitions.insert(hash.to_owned(), Some(definitions));
    }

    /// Sagas that have outlived their resuming are beyond suspicion.
    pub(super) fn end_probations(&mut self, now: Millis) {
        while self.takeovers.next_due() <= now {
            let Some((_, saga)) = self.takeovers.probations.pop_front() else { break };
            let Some(kept) = self.sagas.get_mut(&saga).filter(|kept| kept.head.on_probation) else { continue };
            if kept.is_being_written() {
                self.takeovers.probations.push_back((now.saturating_add(PROBATION_MS), saga));
                continue;
            }
            (kept.head.on_probation, kept.head.suspicion) = (false, 0);
            kept.head_under_way = true;
            self.wish(Wish::Head(saga));
        }
        self.look_for_more_suspects();
    }
}
