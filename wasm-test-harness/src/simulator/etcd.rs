//! A simulated etcd: what the JSON gateway of etcd 3.4 answers to single requests, in memory and in virtual time.
//!
//! It is one member; who has to say who they are is looked after by [`Tokens`], before it is asked. What it does not simulate
//! it refuses with the status 501. Compared with a real one in `tests/simulated_etcd.rs`. Where it differs on purpose:
//!
//! - A lease ends when its time is up; a real one looks for such leases every half second.
//! - The ids of leases can be foretold.
//! - An operation that is `null` is refused as an empty one; a real etcd drops the connection.

mod check;
mod json;
mod leases;
mod refusal;
mod reply;
mod request;
mod size;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod txn;

use serde::Serialize;

use self::check::check_key;
pub use self::leases::Lease;
use self::leases::Leases;
pub use self::refusal::Refusal;
use self::reply::{Bytes, Header, Int, Streamed};
use self::request::{Any, Compaction, DeleteRange, OfLease, Put, Range, Request, Txn};
use self::size::Encoded;
pub use self::store::Entry;
use self::store::Store;
pub use self::tokens::Tokens;
use super::host::Nanos;

/// The largest request on which members agree.
const MAX_REQUEST_BYTES: usize = 1536 * 1024;
/// The largest message that a member takes.
const MAX_MESSAGE_BYTES: usize = MAX_REQUEST_BYTES + 512 * 1024;

const CLUSTER_ID: Int = Int(0x5a6a_b0c5_0000_0001);
const MEMBER_ID: Int = Int(0x5a6a_b0c5_0000_0002);
const FIRST_RAFT_TERM: i64 = 2;

/// See the module's text.
#[derive(Debug)]
pub struct Etcd {
    store: Store,
    leases: Leases,
    full: bool,
    /// So many more requests are done although there is no space for them.
    done_without_space: u32,
    raft_term: i64,
}

impl Default for Etcd {
    fn default() -> Etcd {
        Etcd::new()
    }
}

impl Etcd {
    /// An empty one, whose revision is 1.
    pub fn new() -> Etcd {
        Etcd::at_revision(1)
    }

    /// An empty one, as if there had been other keys before: its first change will have the revision after this one.
    pub fn at_revision(revision: i64) -> Etcd {
        Etcd {
            store: Store::new(revision),
            leases: Leases::default(),
            full: false,
            done_without_space: 0,
            raft_term: FIRST_RAFT_TERM,
        }
    }

    /// The status and the body with which it answers to a POST. Leases that are due end before.
    pub fn answer(&mut self, path: &str, body: &[u8], now: Nanos) -> (u16, Vec<u8>) {
        self.expire(now);
        let answer = match path {
            "/v3/kv/range" => self.on(body, Etcd::range),
            "/v3/kv/put" => self.on(body, Etcd::put),
            "/v3/kv/deleterange" => self.on(body, Etcd::delete_range),
            "/v3/kv/txn" => self.on(body, Etcd::txn),
            "/v3/kv/compaction" => self.on(body, |etcd, asked: Compaction| {
                etcd.compact(asked.revision).map(|()| reply::Done { header: etcd.header() })
            }),
            "/v3/lease/grant" => self.on(body, |etcd, asked| etcd.grant(&asked, now)),
            "/v3/lease/revoke" | "/v3/kv/lease/revoke" => self.on(body, Etcd::revoke),
            "/v3/lease/keepalive" => self.keep_alive(body, now),
            "/v3/lease/timetolive" | "/v3/kv/lease/timetolive" => {
                self.on(body, |etcd, asked| Ok(etcd.time_to_live(&asked, now)))
            }
            "/v3/lease/leases" | "/v3/kv/lease/leases" => self.on(body, |etcd, _: Any| Ok(etcd.list_leases())),
            "/v3/auth/authenticate" => self.on(body, |_, _: Any| Err::<reply::Done, _>(Refusal::NO_AUTHENTICATION)),
            _ => return (404, b"Not Found\n".to_vec()),
        };
        answer.map_or_else(|refusal| refusal.answer(), |body| (200, body))
    }

    /// Ends the leases whose time is up, each with the keys that are attached to it, at a revision of its own.
    pub fn expire(&mut self, now: Nanos) {
        while let Some((_, id)) = self.leases.first_to_expire().filter(|(due, _)| *due <= now) {
            self.end_lease(id);
        }
    }

    /// When the next lease ends unless it is kept alive.
    pub fn next_expiry(&self) -> Option<Nanos> {
        self.leases.first_to_expire().map(|(due, _)| due)
    }

    /// Starts again, or gets a new leader: every lease gets its whole time again and one second more, as a new leader
    /// gives it. That goes for those, too, whose time ran out while it was down, unless [`Etcd::expire`] was called.
    pub fn restart(&mut self, now: Nanos) {
        self.raft_term += 1;
        self.leases.extend_all(now);
    }

    /// Whether the quota is used up: puts are refused then, transactions with a put among the operations of either branch
    /// (etcd does not look into nested ones), and new leases; before anything else is found wrong with them.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
        self.done_without_space = 0;
    }

    /// The quota is used up while so many requests are between their proposal, before which members look whether there is
    /// space, and their application, when they look again: those are done, and then refused all the same.
    pub fn fill_up(&mut self, proposed: u32) {
        self.full = true;
        self.done_without_space = proposed;
    }

    /// Forgets what was before a revision, which is never done unasked.
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        self.store.compact(revision)
    }

    /// All leases by id.
    pub fn leases(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.leases.all()
    }

    /// All keys in their order, with what is under them.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        self.store.entries()
    }

    /// The revision of the last change.
    pub fn revision(&self) -> i64 {
        self.store.revision()
    }

    fn on<R: Request, A: Serialize>(
        &mut self,
        body: &[u8],
        act: impl FnOnce(&mut Etcd, R) -> Result<A, Refusal>,
    ) -> Result<Vec<u8>, Refusal> {
        let asked = request::read(body)?;
        act(self, asked).map(|answer| written(&answer))
    }

    fn header(&self) -> Header {
        let (revision, raft_term) = (Int(self.store.revision()), Int(self.raft_term));
        Header { cluster_id: CLUSTER_ID, member_id: MEMBER_ID, revision, raft_term }
    }

    fn range(&mut self, asked: Range) -> Result<reply::Range, Refusal> {
        check_message(&asked)?;
        check_key(&asked.key)?;
        let found = self.find(&asked)?;
        Ok(reply::Range { header: self.header(), ..found })
    }

    fn put(&mut self, asked: Put) -> Result<reply::Done, Refusal> {
        check_message(&asked)?;
        self.with_space(true, |etcd| {
            check_key(&asked.key)?;
            check_agreed(&asked)?;
            etcd.check_lease(&asked)?;
            etcd.set(&asked);
            etcd.store.end();
            Ok(reply::Done { header: etcd.header() })
        })
    }

    fn delete_range(&mut self, asked: DeleteRange) -> Result<reply::DeleteRange, Refusal> {
        check_message(&asked)?;
        check_key(&asked.key)?;
        check_agreed(&asked)?;
        let erased = self.erase(&asked);
        self.store.end();
        Ok(reply::DeleteRange { header: self.header(), ..erased })
    }

    fn txn(&mut self, asked: Txn) -> Result<reply::Txn, Refusal> {
        check_message(&asked)?;
        self.with_space(txn::needs_space(&asked), |etcd| {
            check::check(&asked)?;
            if !txn::is_read_only(&asked) {
                check_agreed(&asked)?;
            }
            etcd.transact(&asked)
        })
    }

    fn grant(&mut self, asked: &OfLease, now: Nanos) -> Result<reply::Lease, Refusal> {
        self.with_space(true, |etcd| {
            let (id, ttl_s) = etcd.leases.grant(asked.id, asked.ttl_s, now)?;
            Ok(reply::Lease { header: etcd.header(), id: Int(id), ttl_s: Int(ttl_s), ..reply::Lease::default() })
        })
    }

    fn revoke(&mut self, asked: OfLease) -> Result<reply::Done, Refusal> {
        if !self.end_lease(asked.id) {
            return Err(Refusal::NO_LEASE);
        }
        Ok(reply::Done { header: self.header() })
    }

    /// A stream in which each value of the body is a request: with none there is no answer.
    fn keep_alive(&mut self, body: &[u8], now: Nanos) -> Result<Vec<u8>, Refusal> {
        let Some(value) = json::first_value(body).map_err(Refusal::malformed_in_stream)? else {
            return Ok(Vec::new());
        };
        let id = json::Fields::of(value).and_then(|fields| fields.int("ID")).map_err(Refusal::malformed_in_stream)?;
        let ttl_s = Int(self.leases.keep_alive(id, now).unwrap_or(0));
        let result = reply::Lease { header: self.header(), id: Int(id), ttl_s, ..reply::Lease::default() };
        let mut answer = written(&Streamed { result });
        answer.push(b'\n');
        Ok(answer)
    }

    fn time_to_live(&self, asked: &OfLease, now: Nanos) -> reply::Lease {
        let (header, id) = (self.header(), Int(asked.id));
        let Some(lease) = self.leases.get(asked.id) else {
            return reply::Lease { header, id, ttl_s: Int(-1), ..reply::Lease::default() };
        };
        let keys = lease.keys.iter().filter(|_| asked.keys).map(|key| Bytes(key.clone())).collect();
        let (ttl_s, granted_ttl_s) = (Int(lease.left_s(now)), Int(lease.granted_ttl_s));
        reply::Lease { header, id, ttl_s, granted_ttl_s, keys }
    }

    fn list_leases(&self) -> reply::Leases {
        let leases = self.leases.ids_by_expiry().map(|id| reply::LeaseId { id: Int(id) }).collect();
        reply::Leases { header: self.header(), leases }
    }

    /// Does what needs space, or refuses it, or both.
    fn with_space<A>(&mut self, needed: bool, act: impl FnOnce(&mut Etcd) -> Result<A, Refusal>) -> Result<A, Refusal> {
        if !needed || !self.full {
            return act(self);
        }
        if self.done_without_space > 0 {
            act(self)?;
            self.done_without_space -= 1;
        }
        Err(Refusal::NO_SPACE)
    }

    fn check_lease(&self, put: &Put) -> Result<(), Refusal> {
        if put.lease == 0 || self.leases.get(put.lease).is_some() { Ok(()) } else { Err(Refusal::NO_LEASE) }
    }

    /// Finds keys, at the revision that the changes of the same request have made.
    fn find(&self, asked: &Range) -> Result<reply::Range, Refusal> {
        let limit = usize::try_from(asked.limit).unwrap_or(0);
        let found = self.store.range(&asked.key, &asked.range_end, asked.revision, limit)?;
        let count = Int(i64::try_from(found.count).unwrap_or(i64::MAX));
        let header = txn::header_within(&self.store);
        if asked.count_only {
            return Ok(reply::Range { header, kvs: Vec::new(), more: false, count });
        }
        let more = found.entries.len() < found.count;
        let kvs = found.entries.into_iter().map(|(key, entry)| reply::KeyValue::of(key, entry, asked.keys_only));
        Ok(reply::Range { header, kvs: kvs.collect(), more, count })
    }

    fn set(&mut self, asked: &Put) -> reply::Done {
        if let Some(before) = self.store.get(&asked.key) {
            self.leases.detach(before.lease, &asked.key);
        }
        self.store.put(&asked.key, asked.value.clone(), asked.lease);
        self.leases.attach(asked.lease, &asked.key);
        reply::Done { header: txn::header_within(&self.store) }
    }

    fn erase(&mut self, asked: &DeleteRange) -> reply::DeleteRange {
        let found = self.store.range(&asked.key, &asked.range_end, 0, 0);
        let keys: Vec<Vec<u8>> =
            found.into_iter().flat_map(|found| found.entries).map(|(key, _)| key.to_vec()).collect();
        for key in &keys {
            self.erase_key(key);
        }
        let deleted = Int(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        reply::DeleteRange { header: txn::header_within(&self.store), deleted }
    }

    fn erase_key(&mut self, key: &[u8]) {
        if let Some(lease) = self.store.delete(key) {
            self.leases.detach(lease, key);
        }
    }

    fn end_lease(&mut self, id: i64) -> bool {
        let Some(keys) = self.leases.remove(id) else {
            return false;
        };
        for key in &keys {
            self.erase_key(key);
        }
        self.store.end();
        true
    }
}

/// Whether a message is small enough to be taken at all.
fn check_message(message: &impl Encoded) -> Result<(), Refusal> {
    let bytes = message.size_bytes();
    if bytes > MAX_MESSAGE_BYTES { Err(Refusal::too_large_for_grpc(bytes, MAX_MESSAGE_BYTES)) } else { Ok(()) }
}

/// Whether a request is small enough to be agreed on.
fn check_agreed(message: &impl Encoded) -> Result<(), Refusal> {
    if message.size_agreed_bytes() > MAX_REQUEST_BYTES { Err(Refusal::TOO_LARGE) } else { Ok(()) }
}

fn written(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("an answer has nothing that JSON cannot say")
}
