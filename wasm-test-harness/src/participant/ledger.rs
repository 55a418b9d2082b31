//! The database of a participant: bookings, which are never deleted, and the tombstones that keep a late
//! transaction from undoing its compensation.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use axum::http::StatusCode;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::attempt::{self, Attempt, AttemptFilter, Call, now_us};
use super::balance::{self, Balance};
use super::fault::{Action, FaultKind};

/// Another process may hold the database for a moment: a restart, or somebody who looks at it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS bookings (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE, guest TEXT NOT NULL, key TEXT UNIQUE, saga_id TEXT, saga_step TEXT,
        answer TEXT NOT NULL, booked_at_us INTEGER NOT NULL, cancelled_at_us INTEGER,
        booked_again INTEGER NOT NULL DEFAULT 0, cancelled_again INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX IF NOT EXISTS bookings_by_step ON bookings (saga_id, saga_step);
    CREATE TABLE IF NOT EXISTS tombstones (
        key TEXT, saga_id TEXT, saga_step TEXT, booking TEXT, at_us INTEGER NOT NULL);
    CREATE INDEX IF NOT EXISTS tombstones_by_key ON tombstones (key);
    CREATE INDEX IF NOT EXISTS tombstones_by_step ON tombstones (saga_id, saga_step);
    CREATE TABLE IF NOT EXISTS guests (saga_id TEXT PRIMARY KEY, guest TEXT NOT NULL) WITHOUT ROWID;";

/// Whether a booking stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BookingState {
    /// It stands.
    Booked,
    /// It was cancelled, for good.
    Cancelled,
}

/// A booking: a transaction that was applied. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// The role and a running number: `hotel-1`.
    pub id: String,
    /// Who it is for.
    pub guest: String,
    /// The `idempotency-key` of the transaction. No two bookings have the same.
    pub key: Option<String>,
    /// The `saga-id` of the transaction.
    pub saga_id: Option<String>,
    /// The `saga-step` of the transaction.
    pub saga_step: Option<String>,
    /// Whether it stands.
    pub state: BookingState,
    /// The body that the transaction was answered with: that of the request and the `id`.
    pub answer: Value,
    /// When it was booked.
    pub booked_at_us: i64,
    /// When it was cancelled.
    pub cancelled_at_us: Option<i64>,
    /// How often the transaction came again under its key and changed nothing.
    pub booked_again: u32,
    /// How often a cancellation came again and changed nothing.
    pub cancelled_again: u32,
}

/// Which booking to cancel.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Id(String),
    Key(String),
}

/// What a request is for.
#[derive(Debug, Clone)]
pub(super) enum Wish {
    Book,
    Cancel(Target),
}

impl Wish {
    pub(super) fn action(&self) -> Action {
        match self {
            Self::Book => Action::Transaction,
            Self::Cancel(_) => Action::Compensation,
        }
    }

    /// What success looks like where nothing was done.
    pub(super) fn pretended(&self) -> Outcome {
        match self {
            Self::Book => Outcome { status: StatusCode::CREATED, body: Some(json!({})) },
            Self::Cancel(_) => Outcome { status: StatusCode::NO_CONTENT, body: None },
        }
    }
}

/// What a request came to. An error has a body that says why.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) status: StatusCode,
    pub(super) body: Option<Value>,
}

impl Outcome {
    pub(super) fn error(status: StatusCode, why: &str) -> Self {
        Self { status, body: Some(json!({"error": why})) }
    }
}

/// The one connection to the database. Calls block, for microseconds.
#[derive(Debug)]
pub(super) struct Ledger {
    role: String,
    database: Mutex<Connection>,
}

impl Ledger {
    /// Opens the SQLite file, and makes it and its tables where they are missing.
    pub(super) fn open(role: &str, path: &Path) -> anyhow::Result<Self> {
        let database = Connection::open(path)?;
        database.busy_timeout(BUSY_TIMEOUT)?;
        // What is committed outlives the process, which is all that a test kills; nothing waits for the disk.
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "OFF")?;
        database.set_prepared_statement_cache_capacity(64);
        database.execute_batch(SCHEMA)?;
        database.execute_batch(attempt::SCHEMA)?;
        Ok(Self { role: role.to_owned(), database: Mutex::new(database) })
    }

    fn database(&self) -> MutexGuard<'_, Connection> {
        self.database.lock().expect("no holder panics")
    }

    /// Writes down that `call` has come in, and whom its saga is for. Gives the number of the attempt and its
    /// guest.
    pub(super) fn receive(&self, call: &Call, wish: Option<&Wish>) -> anyhow::Result<(i64, Option<String>)> {
        let mut database = self.database();
        let database = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let guest = match wish {
            Some(Wish::Cancel(target)) => guest_of(&database, target, call.header("saga-id"))?,
            Some(Wish::Book) | None => call.guest().map(str::to_owned),
        };
        if let (Some(Wish::Book), Some(guest), Some(saga_id)) = (wish, &guest, call.header("saga-id")) {
            let mut statement = database.prepare_cached("INSERT OR REPLACE INTO guests VALUES (?1, ?2)")?;
            statement.execute(params![saga_id, guest])?;
        }
        let action = wish.map(|wish| match wish.action() {
            Action::Transaction => "transaction",
            Action::Compensation => "compensation",
        });
        let number = attempt::insert(&database, call, guest.as_deref(), action)?;
        database.commit()?;
        Ok((number, guest))
    }

    pub(super) fn set_fault(&self, number: i64, fault: FaultKind) -> anyhow::Result<()> {
        attempt::set_fault(&self.database(), number, fault)
    }

    pub(super) fn set_answered(&self, number: i64, status: StatusCode) -> anyhow::Result<()> {
        attempt::set_answered(&self.database(), number, status.as_u16())
    }

    /// Does what `call`, the attempt of this number, asks for, as far as it can be granted.
    pub(super) fn apply(&self, number: i64, call: &Call, wish: &Wish) -> anyhow::Result<Outcome> {
        let mut database = self.database();
        let database = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (outcome, changed) = match wish {
            Wish::Book => book(&database, &self.role, call)?,
            Wish::Cancel(target) => cancel(&database, target, call)?,
        };
        if changed {
            attempt::set_applied(&database, number, now_us())?;
        }
        database.commit()?;
        Ok(outcome)
    }

    pub(super) fn bookings(&self) -> anyhow::Result<Vec<Booking>> {
        let database = self.database();
        let mut statement = database.prepare_cached("SELECT * FROM bookings ORDER BY number")?;
        statement.query_and_then([], booking)?.collect()
    }

    pub(super) fn attempts(&self, filter: &AttemptFilter) -> anyhow::Result<Vec<Attempt>> {
        attempt::list(&self.database(), filter)
    }

    pub(super) fn balance(&self) -> anyhow::Result<Balance> {
        balance::read(&self.database())
    }
}

fn booking(row: &Row<'_>) -> anyhow::Result<Booking> {
    let cancelled_at_us: Option<i64> = row.get("cancelled_at_us")?;
    Ok(Booking {
        id: row.get("id")?,
        guest: row.get("guest")?,
        key: row.get("key")?,
        saga_id: row.get("saga_id")?,
        saga_step: row.get("saga_step")?,
        state: if cancelled_at_us.is_some() { BookingState::Cancelled } else { BookingState::Booked },
        answer: serde_json::from_str(&row.get::<_, String>("answer")?).context("answer of a booking")?,
        booked_at_us: row.get("booked_at_us")?,
        cancelled_at_us,
        booked_again: row.get("booked_again")?,
        cancelled_again: row.get("cancelled_again")?,
    })
}

fn find(database: &Connection, target: &Target) -> anyhow::Result<Option<Booking>> {
    let (statement, value) = match target {
        Target::Id(id) => ("SELECT * FROM bookings WHERE id = ?1", id),
        Target::Key(key) => ("SELECT * FROM bookings WHERE key = ?1", key),
    };
    database.prepare_cached(statement)?.query_and_then([value], booking)?.next().transpose()
}

fn guest_of(database: &Connection, target: &Target, saga_id: Option<&str>) -> anyhow::Result<Option<String>> {
    if let Some(booking) = find(database, target)? {
        return Ok(Some(booking.guest));
    }
    let mut statement = database.prepare_cached("SELECT guest FROM guests WHERE saga_id = ?1")?;
    Ok(statement.query_row([saga_id], |row| row.get(0)).optional()?)
}

/// What it came to, and whether anything changed.
fn book(database: &Connection, role: &str, call: &Call) -> anyhow::Result<(Outcome, bool)> {
    let (Some(guest), Some(Value::Object(asked))) = (call.guest(), &call.json) else {
        let why = "expected a JSON object with a guest";
        return Ok((Outcome::error(StatusCode::UNPROCESSABLE_ENTITY, why), false));
    };
    let key = call.header("idempotency-key");
    let (saga_id, saga_step) = (call.header("saga-id"), call.header("saga-step"));
    if is_buried(database, key, saga_id, saga_step)? {
        return Ok((Outcome::error(StatusCode::CONFLICT, "it was compensated, which is final"), false));
    }
    if let Some(key) = key
        && let Some(before) = find(database, &Target::Key(key.to_owned()))?
    {
        let mut statement =
            database.prepare_cached("UPDATE bookings SET booked_again = booked_again + 1 WHERE id = ?1")?;
        statement.execute([before.id])?;
        return Ok((Outcome { status: StatusCode::CREATED, body: Some(before.answer) }, false));
    }
    let mut next = database.prepare_cached("SELECT coalesce(max(number), 0) + 1 FROM bookings")?;
    let number: i64 = next.query_row([], |row| row.get(0))?;
    let id = format!("{role}-{number}");
    let mut answer = asked.clone();
    answer.insert("id".to_owned(), Value::String(id.clone()));
    let answer = Value::Object(answer);
    let mut statement = database.prepare_cached(
        "INSERT INTO bookings (number, id, guest, key, saga_id, saga_step, answer, booked_at_us)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    statement.execute(params![number, id, guest, key, saga_id, saga_step, answer.to_string(), now_us()])?;
    Ok((Outcome { status: StatusCode::CREATED, body: Some(answer) }, true))
}

/// What it came to, and whether anything changed.
fn cancel(database: &Connection, target: &Target, call: &Call) -> anyhow::Result<(Outcome, bool)> {
    let (saga_id, saga_step) = (call.header("saga-id"), call.header("saga-step"));
    let changed = match (find(database, target)?, target) {
        (Some(booking), _) => {
            let (column, value) = match booking.state {
                BookingState::Booked => ("cancelled_at_us", now_us()),
                BookingState::Cancelled => ("cancelled_again", i64::from(booking.cancelled_again) + 1),
            };
            let mut statement = database.prepare_cached(&format!("UPDATE bookings SET {column} = ?2 WHERE id = ?1"))?;
            statement.execute(params![booking.id, value])?;
            let (key, id) = (booking.key.as_deref(), Some(booking.id.as_str()));
            bury(database, key, booking.saga_id.as_deref(), booking.saga_step.as_deref(), id)?;
            bury(database, key, saga_id, saga_step, id)?;
            booking.state == BookingState::Booked
        }
        (None, Target::Key(key)) => bury(database, Some(key), saga_id, saga_step, None)?,
        (None, Target::Id(_)) => {
            return Ok((Outcome::error(StatusCode::NOT_FOUND, "no such booking"), false));
        }
    };
    Ok((Outcome { status: StatusCode::NO_CONTENT, body: None }, changed))
}

/// Whether the transaction of this key, or of this step of a saga, was compensated.
fn is_buried(
    database: &Connection,
    key: Option<&str>,
    saga_id: Option<&str>,
    saga_step: Option<&str>,
) -> anyhow::Result<bool> {
    // A comparison with NULL holds for nothing: a request without the headers meets no tombstone.
    let mut statement = database.prepare_cached(
        "SELECT 1 FROM tombstones WHERE key = ?1
         UNION ALL SELECT 1 FROM tombstones WHERE saga_id = ?2 AND saga_step = ?3",
    )?;
    Ok(statement.exists(params![key, saga_id, saga_step])?)
}

/// Sees to it that the transaction is refused from now on; whether it was not before.
fn bury(
    database: &Connection,
    key: Option<&str>,
    saga_id: Option<&str>,
    saga_step: Option<&str>,
    booking: Option<&str>,
) -> anyhow::Result<bool> {
    let mut statement = database.prepare_cached(
        "INSERT INTO tombstones SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS (
             SELECT 1 FROM tombstones WHERE key IS ?1 AND saga_id IS ?2 AND saga_step IS ?3)",
    )?;
    Ok(statement.execute(params![key, saga_id, saga_step, booking, now_us()])? > 0)
}
