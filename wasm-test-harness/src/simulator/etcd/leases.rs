//! Leases, and the keys that end with them.

use std::collections::{BTreeMap, BTreeSet};

use super::Nanos;
use super::refusal::Refusal;

/// No lease is shorter: one and a half election timeouts, in whole seconds, with the default flags.
const MIN_TTL_S: i64 = 2;
/// No lease is longer.
const MAX_TTL_S: i64 = 9_000_000_000;
/// A new leader gives every lease this much more than its own time: an election timeout, with the default flags.
const EXTENSION: Nanos = SECOND;

const SECOND: Nanos = 1_000_000_000;

/// A lease.
#[derive(Debug)]
pub struct Lease {
    /// What it was granted for, and is again each time that it is kept alive.
    pub granted_ttl_s: i64,
    /// When it ends unless it is kept alive.
    pub expires_at: Nanos,
    /// The keys that end with it.
    pub keys: BTreeSet<Vec<u8>>,
}

impl Lease {
    /// Since when nobody has kept it alive, at the least.
    pub fn idle_since(&self) -> Nanos {
        self.expires_at.saturating_sub(end(0, self.granted_ttl_s))
    }

    /// Whole seconds that are left.
    pub fn left_s(&self, now: Nanos) -> i64 {
        (self.expires_at.saturating_sub(now) / SECOND).cast_signed()
    }
}

/// All leases.
#[derive(Debug, Default)]
pub struct Leases {
    by_id: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(Nanos, i64)>,
    drawn: u64,
}

impl Leases {
    /// Grants one: with this id, or with one that is drawn if it is 0. Gives its id and its seconds.
    pub fn grant(&mut self, id: i64, ttl_s: i64, now: Nanos) -> Result<(i64, i64), Refusal> {
        let id = if id == 0 { self.draw() } else { id };
        if ttl_s > MAX_TTL_S {
            return Err(Refusal::LEASE_TOO_LONG);
        }
        if self.by_id.contains_key(&id) {
            return Err(Refusal::LEASE_EXISTS);
        }
        let granted_ttl_s = ttl_s.max(MIN_TTL_S);
        let expires_at = end(now, granted_ttl_s);
        self.by_id.insert(id, Lease { granted_ttl_s, expires_at, keys: BTreeSet::new() });
        self.by_expiry.insert((expires_at, id));
        Ok((id, granted_ttl_s))
    }

    /// The lease with this id.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// All, by id.
    pub fn all(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease))
    }

    /// Their ids, those that end first before the others.
    pub fn ids_by_expiry(&self) -> impl Iterator<Item = i64> {
        self.by_expiry.iter().map(|(_, id)| *id)
    }

    /// Gives a lease its whole time again, and says how many seconds that is.
    pub fn keep_alive(&mut self, id: i64, now: Nanos) -> Option<i64> {
        let lease = self.by_id.get_mut(&id)?;
        self.by_expiry.remove(&(lease.expires_at, id));
        lease.expires_at = end(now, lease.granted_ttl_s);
        self.by_expiry.insert((lease.expires_at, id));
        Some(lease.granted_ttl_s)
    }

    /// Takes one away, and gives the keys that end with it.
    pub fn remove(&mut self, id: i64) -> Option<BTreeSet<Vec<u8>>> {
        let lease = self.by_id.remove(&id)?;
        self.by_expiry.remove(&(lease.expires_at, id));
        Some(lease.keys)
    }

    /// The one that ends first: when, and its id.
    pub fn first_to_expire(&self) -> Option<(Nanos, i64)> {
        self.by_expiry.first().copied()
    }

    /// A key ends with this lease; with none, if it is 0.
    pub fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(key.to_vec());
        }
    }

    /// A key does not end with this lease any more.
    pub fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// A new leader does not know when they were kept alive: all get their whole time again, and a little more.
    pub fn extend_all(&mut self, now: Nanos) {
        for lease in self.by_id.values_mut() {
            lease.expires_at = end(now, lease.granted_ttl_s).saturating_add(EXTENSION);
        }
        self.by_expiry = self.by_id.iter().map(|(id, lease)| (lease.expires_at, *id)).collect();
    }

    /// An id that nobody has: positive, and without an order that could be relied on.
    fn draw(&mut self) -> i64 {
        loop {
            self.drawn += 1;
            let id = (mix(self.drawn) >> 1).cast_signed();
            if id != 0 && !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}

fn end(now: Nanos, ttl_s: i64) -> Nanos {
    now.saturating_add(ttl_s.max(0).cast_unsigned().saturating_mul(SECOND))
}

/// SplitMix64's finalizer.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
