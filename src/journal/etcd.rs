//! The journal in etcd: sagas outlive the VM, the proxy's process and its node.
//!
//! ```text
//!   sagabox/vm/<vm>                 the VM lives: on its lease
//!   sagabox/saga/<id>               whose the saga is: owner, epoch, sequence
//!   sagabox/record/<id>/<sequence>  its records, each written once
//!   sagabox/ended/<id>              what refuses late copies of its begin, on a lease, where no start key does
//!   sagabox/start/<hash>            which saga has begun under a start key; its answer, on a lease, once it has ended
//!   sagabox/definitions/<hash>      under which sagas began, by content
//!   sagabox/room                    empty; written with every begin, for a full etcd to refuse
//!
//!   write -----+                                               +--> writes of many sagas --> Fate
//!   look ------+--> queue --> one transaction of many, nested --+--> what was looked for
//!   scan ------+                                               +--> takeovers ------------> Orphan
//! ```
//!
//! Every write compares the revision that was read, so whoever is not the owner any more writes nothing. A takeover
//! compares that the owner's key is gone as well, which its lease took along. Before anything is sent the VM looks
//! whether its own lease is certain to live: one that was frozen does nothing for a saga that is not its own any more.
//!
//! A call to etcd may be lost, and so may its answer. The same conditional write is then repeated: if it finds the
//! record as this VM would have written it, that is what it did.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use self::answer::Answer;
use self::api::{AUTHENTICATE, GRANT, KEEPALIVE, TXN};
use self::group::{Group, Queue, Wish};
use self::kept::Keys;
use self::lookout::Lookout;
use self::retention::Retention;
use self::scan::Scan;
use self::session::{Ask, Outcome, Session};
use self::start::Looks;
use self::takeover::Takeovers;
use self::token::Token;
use self::write::{AfterTheLease, Kept};
use super::replay::Reader;
use super::{Acknowledgement, Entry, Fate, Found, Journal, JournalCall, News, Ownership, SharedData, StartKey};
use crate::definition::EtcdSettings;
use crate::planted::{Planted, planted};
use crate::saga::{AttemptResult, Bounds, Millis, SagaId};

mod answer;
mod api;
mod bundle;
mod group;
mod kept;
mod lookout;
mod pending;
mod retention;
mod scan;
mod session;
mod standing;
mod start;
mod takeover;
mod token;
mod write;

/// A member of etcd that has just gone takes its share of the calls until Envoy knows: another may take the next. One that
/// is too busy may be less so in a moment.
const NOT_NOW_BEFORE_REFUSED: u32 = 3;

/// etcd takes requests of 1.5 MiB by default, and a record goes with its saga's head. A takeover reads all records of a
/// saga at once, and etcd before 3.4.17 gives answers of 4 MiB at most. As JSON they are somewhat longer than what is counted.
const BOUNDS: Bounds = Bounds { record_bytes: 1 << 20, saga_bytes: 5 << 19 };

/// How long to wait after so many failures in a row.
fn back_off_ms(failures: u32) -> Millis {
    50_u64.checked_shl(failures.min(5)).unwrap_or(1_000).min(1_000)
}

/// See the module's text.
#[derive(Debug)]
pub struct EtcdJournal {
    settings: EtcdSettings,
    keys: Keys,
    reader: Reader,
    /// Under which sagas begin here: their hash and their text.
    definitions: (String, Vec<u8>),
    session: Session,
    token: Token,
    retention: Retention,
    lookout: Lookout,
    scan: Scan,
    takeovers: Takeovers,
    looks: Looks,
    /// The sagas that are ours.
    sagas: HashMap<SagaId, Kept>,
    /// No more are taken over once this many are ours.
    max_sagas: usize,
    /// Bytes that sagas may take which are taken over.
    room: usize,
    queue: Queue,
    calls: BTreeMap<u64, Call>,
    last_call: u64,
    news: News,
}

/// A call under way.
#[derive(Debug)]
struct Call {
    sent_at: Millis,
    /// Of the VM: what one name has asked is nothing to the next.
    incarnation: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    Authenticate,
    Grant,
    Register,
    KeepAlive,
    GrantRetention,
    Page,
    Group(Group),
}

impl EtcdJournal {
    /// Takes the VM's name, which no other VM has or has had, the text of the definitions under which sagas begin here, for
    /// how long a saga that has ended is remembered, and beyond how many no saga is taken over.
    pub fn new(
        name: String,
        definitions: Vec<u8>,
        settings: EtcdSettings,
        retention: std::time::Duration,
        max_sagas: usize,
    ) -> EtcdJournal {
        let hash = Sha256::digest(&definitions).iter().map(|byte| format!("{byte:02x}")).collect();
        let keys = Keys::under(&settings.prefix);
        let lease_ms = millis(settings.lease);
        let journal = format!("{}/{}", settings.cluster, keys.prefix());
        EtcdJournal {
            session: Session::new(name.clone(), lease_ms),
            token: Token::new(settings.credentials.clone()),
            retention: Retention::new(millis(retention)),
            lookout: Lookout::new(&journal, name, lease_ms / 3),
            scan: Scan::default(),
            takeovers: Takeovers::default(),
            looks: Looks::default(),
            sagas: HashMap::new(),
            max_sagas,
            room: usize::MAX,
            queue: Queue::default(),
            calls: BTreeMap::new(),
            last_call: 0,
            news: News::default(),
            definitions: (hash, definitions),
            keys,
            reader: Reader::default(),
            settings,
        }
    }

    #[cfg(test)]
    pub(super) fn knows(&mut self, features: &'static [&'static str]) {
        self.reader = Reader::of(features);
    }

    /// What is to be asked now, with its path and body.
    fn next_ask(&mut self, now: Millis) -> Option<(What, &'static str, String)> {
        if self.token.is_missing() {
            let ask = self.token.ask(now)?;
            return Some((What::Authenticate, AUTHENTICATE, json(&ask)));
        }
        let (hash, text) = &self.definitions;
        if let Some(ask) = self.session.ask(&self.keys, (hash, text), self.queue.wants_session, now) {
            return Some(match ask {
                Ask::Grant(grant) => (What::Grant, GRANT, json(&grant)),
                Ask::Register(txn) => (What::Register, TXN, json(&txn)),
                Ask::KeepAlive(keep) => (What::KeepAlive, KEEPALIVE, json(&keep)),
            });
        }
        if let Some(grant) = self.retention.ask(now) {
            return Some((What::GrantRetention, GRANT, json(&grant)));
        }
        if let Some(txn) = self.scan.ask(&self.keys) {
            return Some((What::Page, TXN, json(&txn)));
        }
        let (group, txn) = self.group(now)?;
        Some((What::Group(group), TXN, json(&txn)))
    }

    fn headers(&self, path: &str) -> Vec<(String, String)> {
        // An outbound cluster of Istio is called `outbound|port|subset|host`, which is no authority.
        let authority = self.settings.cluster.rsplit('|').next().unwrap_or_default();
        let fixed =
            [(":method", "POST"), (":path", path), (":authority", authority), ("content-type", "application/json")];
        let mut headers: Vec<_> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        headers.extend(self.token.header());
        headers
    }

    fn ended(&mut self, call: Call, result: &AttemptResult, now: Millis) {
        let sent_at = call.sent_at;
        let stale = call.incarnation != self.session.incarnation();
        let outcome = match call.what {
            What::Grant | What::Register | What::KeepAlive if stale => Outcome::Fine,
            What::Authenticate => match self.token.given(answer::read(result), now) {
                true => Outcome::Fine,
                false => Outcome::CannotBegin,
            },
            What::Grant => self.session.granted(answer::read(result), sent_at, now),
            What::Register => self.session.was_registered(answer::read(result), now),
            What::KeepAlive => self.session.kept_alive(answer::read(result), sent_at, now),
            What::GrantRetention => {
                self.retention.granted(answer::read(result), sent_at, now);
                Outcome::Fine
            }
            What::Page => {
                self.page_read(answer::read(result));
                Outcome::Fine
            }
            What::Group(group) => {
                self.group_ended(group, answer::read(result), now);
                Outcome::Fine
            }
        };
        match outcome {
            Outcome::Fine => {}
            Outcome::CannotBegin => self.refuse_begins(),
            Outcome::Deposed => self.lose_all(),
        }
    }

    /// The VM's key is gone: its sagas are for whoever takes them over, perhaps this VM under its next name.
    fn depose(&mut self) {
        self.session.deposed();
        self.lose_all();
    }

    fn lose_all(&mut self) {
        let (mut lost, mut to_begin): (Vec<SagaId>, Vec<SagaId>) = Default::default();
        self.sagas.retain(|saga, kept| match kept.after_the_lease() {
            AfterTheLease::BeginsAnew | AfterTheLease::InDoubt => {
                to_begin.push(saga.clone());
                true
            }
            AfterTheLease::Lost => {
                lost.push(saga.clone());
                false
            }
        });
        lost.sort_unstable();
        to_begin.sort_unstable();
        log::warn!("etcd has let this VM's lease go: {} sagas go on elsewhere", lost.len());
        self.news.lost.extend(lost);
        self.forget_writes();
        to_begin.into_iter().for_each(|saga| self.wish(Wish::Write(saga)));
        self.takeovers.forget();
    }

    fn tell_fate(&mut self, saga: &str, sequence: u64, acknowledgement: Acknowledgement) {
        self.news.fates.push(Fate { saga: saga.to_owned(), sequence, acknowledgement });
    }
}

fn json(value: &impl serde::Serialize) -> String {
    // Nothing that is said to etcd can fail to become JSON.
    serde_json::to_string(value).unwrap_or_default()
}

fn millis(duration: std::time::Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Journal for EtcdJournal {
    fn bounds(&self) -> Bounds {
        BOUNDS
    }

    fn write(&mut self, _store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement {
        let acknowledgement = self.keep(entry);
        match acknowledgement {
            Acknowledgement::Pending if planted(Planted::SentBeforeWritten) => Acknowledgement::Written,
            acknowledgement => acknowledgement,
        }
    }

    fn withdraw(&mut self, saga: &str) -> bool {
        let is_unsent = self.sagas.get(saga).is_some_and(Kept::certainly_never_written);
        if is_unsent {
            self.sagas.remove(saga);
        }
        is_unsent
    }

    fn find(&self, _store: &impl SharedData, _start: &StartKey) -> Found {
        Found::Nothing
    }

    fn look(&mut self, _store: &impl SharedData, start: &StartKey, since: Millis, now: Millis) -> Found {
        self.look_for(start, since, now)
    }

    fn owns(&mut self, _store: &mut impl SharedData, saga: &str, now: Millis) -> Ownership {
        match self.sagas.contains_key(saga) {
            false => Ownership::Lost,
            true if self.session.may_send(now) => Ownership::Ours,
            true => Ownership::Unsure,
        }
    }

    fn doubt_ownership(&mut self, now: Millis) {
        self.session.doubt(now);
    }

    fn quarantine(&mut self, _store: &mut impl SharedData, saga: &str, why: &str) {
        self.set_aside(saga, why);
    }

    fn tick(&mut self, store: &mut impl SharedData, now: Millis) -> News {
        let has_room = self.has_room_beside(0);
        if self.settings.takes_over && self.lookout.take_turn(store, self.reader, has_room, now) {
            self.scan.begin();
            self.forget_definitions();
        }
        self.end_probations(now);
        self.looks.forget_past(now);
        std::mem::take(&mut self.news)
    }

    fn offer_room(&mut self, bytes: usize) {
        self.room = bytes;
    }

    fn next_due(&self) -> Millis {
        let lookout = if self.settings.takes_over { self.lookout.next_due() } else { Millis::MAX };
        let idle = lookout.min(self.takeovers.next_due());
        if self.token.is_missing() {
            // Nothing else can be asked meanwhile.
            return idle.min(self.token.next_due());
        }
        let session = self.session.next_due(self.queue.wants_session);
        idle.min(session).min(self.retention.next_due()).min(self.queue.due)
    }

    fn next_call(&mut self, now: Millis) -> Option<JournalCall> {
        let (what, path, body) = self.next_ask(now)?;
        self.last_call = self.last_call.wrapping_add(1);
        let incarnation = self.session.incarnation();
        let timeout = match what {
            // A lost one must leave time for others before the lease ends.
            What::Grant | What::Register | What::KeepAlive => self.settings.timeout.min(self.settings.lease / 4),
            _ => self.settings.timeout,
        };
        self.calls.insert(self.last_call, Call { sent_at: now, incarnation, what });
        Some(JournalCall {
            number: self.last_call,
            cluster: self.settings.cluster.clone(),
            headers: self.headers(path),
            body,
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
        })
    }

    fn call_ended(&mut self, number: u64, result: &AttemptResult, now: Millis) -> News {
        if matches!(answer::read::<serde::de::IgnoredAny>(result), Answer::Unauthenticated) {
            self.token.forget();
        }
        if let Some(call) = self.calls.remove(&number) {
            self.ended(call, result, now);
        }
        std::mem::take(&mut self.news)
    }

    /// Nothing is to be left: without keepalives the lease ends by itself.
    fn leave(&mut self, _store: &mut impl SharedData) {}
}

#[cfg(test)]
mod tests;
