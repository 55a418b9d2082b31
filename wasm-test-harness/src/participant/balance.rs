//! What a participant's database comes to: what was applied, and what of it was compensated.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

/// The sums over one participant's database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// Bookings that stand.
    pub booked: u64,
    /// Bookings that were cancelled.
    pub cancelled: u64,
    /// Steps of sagas that were booked more than once, as happens when an attempt does not carry the key of the
    /// one before: must be 0.
    pub applied_twice: u64,
    /// The same by saga; bookings without `saga-id` are not in it.
    pub sagas: BTreeMap<String, SagaBalance>,
}

/// The sums over what one saga did at one participant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SagaBalance {
    /// Transactions that were applied, compensated since or not.
    pub applied: u64,
    /// How many of those were compensated.
    pub compensated: u64,
    /// Compensations applied whose transaction never was, nor will be.
    pub never_applied: u64,
}

pub(super) fn read(database: &Connection) -> anyhow::Result<Balance> {
    let mut balance = Balance::default();
    let mut steps = database.prepare_cached(
        "SELECT saga_id, count(*), sum(cancelled_at_us IS NOT NULL), saga_step IS NOT NULL
         FROM bookings GROUP BY saga_id, saga_step",
    )?;
    let mut rows = steps.query([])?;
    while let Some(row) = rows.next()? {
        let (applied, cancelled): (u32, u32) = (row.get(1)?, row.get(2)?);
        let (applied, cancelled) = (u64::from(applied), u64::from(cancelled));
        balance.booked += applied - cancelled;
        balance.cancelled += cancelled;
        let Some(saga_id) = row.get::<_, Option<String>>(0)? else {
            continue;
        };
        if applied > 1 && row.get(3)? {
            balance.applied_twice += 1;
        }
        let saga = balance.sagas.entry(saga_id).or_default();
        saga.applied += applied;
        saga.compensated += cancelled;
    }
    let mut never = database.prepare_cached(
        "SELECT saga_id, count(*) FROM tombstones
         WHERE saga_id IS NOT NULL AND booking IS NULL GROUP BY saga_id",
    )?;
    let mut rows = never.query([])?;
    while let Some(row) = rows.next()? {
        let count: u32 = row.get(1)?;
        balance.sagas.entry(row.get(0)?).or_default().never_applied += u64::from(count);
    }
    Ok(balance)
}
