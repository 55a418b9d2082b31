//! What a participant received, as it was received: one row for each request, by the participant's own clock.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::http::request::Parts;
use rusqlite::{Connection, Row, named_params, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fault::FaultKind;

/// Microseconds since the Unix epoch.
pub(super) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(i64::MAX)
}

/// One request received. Times are microseconds since the Unix epoch; requests to `/control` and the listing of
/// bookings are not written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first request that this database saw, and so on.
    pub number: i64,
    /// When the head of the request had arrived.
    pub received_at_us: i64,
    /// When it changed what is booked, or made a late transaction impossible. None for a repetition, which
    /// changes nothing, and for what was refused.
    pub applied_at_us: Option<i64>,
    /// When the answer was handed to the connection; none if there was none, or the caller had gone.
    pub answered_at_us: Option<i64>,
    /// Of a transaction: whom it names. Of a compensation: see [`super::Fault`].
    pub guest: Option<String>,
    /// The header `saga-id`.
    pub saga_id: Option<String>,
    /// The header `saga-name`.
    pub saga_name: Option<String>,
    /// The header `saga-step`.
    pub saga_step: Option<String>,
    /// The header `saga-action`; without it, `transaction` for a booking and `compensation` for a cancellation.
    pub action: Option<String>,
    /// The header `saga-attempt`, where it is a number.
    pub attempt: Option<u32>,
    /// The header `saga-epoch`, where it is a number.
    pub epoch: Option<i64>,
    /// The header `idempotency-key`.
    pub idempotency_key: Option<String>,
    /// Such as `POST`.
    pub method: String,
    /// With its query, as it was sent.
    pub path: String,
    /// Every header line, names in lower case. What is not UTF-8 is replaced. `host` is there with HTTP/2, too.
    pub headers: Vec<(String, String)>,
    /// As text. What is not UTF-8 is replaced.
    pub body: String,
    /// The fault that acted on it.
    pub fault: Option<FaultKind>,
    /// What was answered, also where the rest of the answer was cut short.
    pub status: Option<u16>,
}

impl Attempt {
    /// The value of the first header line of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }
}

/// Which attempts to list; what is none lets all through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptFilter {
    /// Those of one guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// Those of one saga.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga_id: Option<String>,
}

impl AttemptFilter {
    /// Those of one guest.
    pub fn guest(guest: &str) -> Self {
        Self { guest: Some(guest.to_owned()), saga_id: None }
    }

    /// Those of one saga.
    pub fn saga(saga_id: &str) -> Self {
        Self { guest: None, saga_id: Some(saga_id.to_owned()) }
    }
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) received_at_us: i64,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    /// The body, where it is JSON.
    pub(super) json: Option<Value>,
}

impl Call {
    pub(super) fn new(received_at_us: i64, parts: &Parts, body: &[u8]) -> Self {
        let mut headers: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        if let (None, Some(authority)) = (first(&headers, "host"), parts.uri.authority()) {
            headers.insert(0, ("host".to_owned(), authority.to_string()));
        }
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        Self {
            received_at_us,
            method: parts.method.to_string(),
            path: path.to_owned(),
            headers,
            body: String::from_utf8_lossy(body).into_owned(),
            json: serde_json::from_slice(body).ok(),
        }
    }

    /// The first header line of this name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// The guest that a transaction names.
    pub(super) fn guest(&self) -> Option<&str> {
        self.json.as_ref()?.as_object()?.get("guest")?.as_str()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.header(name)?.parse().ok()
    }
}

fn first<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

/// The table of attempts.
pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS attempts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        received_at_us INTEGER NOT NULL, applied_at_us INTEGER, answered_at_us INTEGER,
        guest TEXT, saga_id TEXT, saga_name TEXT, saga_step TEXT, action TEXT, attempt INTEGER, epoch INTEGER,
        idempotency_key TEXT, method TEXT NOT NULL, path TEXT NOT NULL, headers TEXT NOT NULL, body TEXT NOT NULL,
        fault TEXT, status INTEGER);
    CREATE INDEX IF NOT EXISTS attempts_by_guest ON attempts (guest);
    CREATE INDEX IF NOT EXISTS attempts_by_saga ON attempts (saga_id);";

/// Writes down that `call` has come in; gives its number.
pub(super) fn insert(
    database: &Connection,
    call: &Call,
    guest: Option<&str>,
    action: Option<&str>,
) -> anyhow::Result<i64> {
    let mut statement = database.prepare_cached(
        "INSERT INTO attempts (received_at_us, guest, saga_id, saga_name, saga_step, action, attempt, epoch,
                               idempotency_key, method, path, headers, body)
         VALUES (:received_at_us, :guest, :saga_id, :saga_name, :saga_step, :action, :attempt, :epoch,
                 :idempotency_key, :method, :path, :headers, :body)",
    )?;
    Ok(statement.insert(named_params! {
        ":received_at_us": call.received_at_us,
        ":guest": guest,
        ":saga_id": call.header("saga-id"),
        ":saga_name": call.header("saga-name"),
        ":saga_step": call.header("saga-step"),
        ":action": call.header("saga-action").or(action),
        ":attempt": call.number::<u32>("saga-attempt"),
        ":epoch": call.number::<i64>("saga-epoch"),
        ":idempotency_key": call.header("idempotency-key"),
        ":method": call.method,
        ":path": call.path,
        ":headers": serde_json::to_string(&call.headers)?,
        ":body": call.body,
    })?)
}

pub(super) fn set_fault(database: &Connection, number: i64, fault: FaultKind) -> anyhow::Result<()> {
    let mut statement = database.prepare_cached("UPDATE attempts SET fault = ?2 WHERE number = ?1")?;
    statement.execute(params![number, serde_json::to_string(&fault)?])?;
    Ok(())
}

pub(super) fn set_applied(database: &Connection, number: i64, at_us: i64) -> anyhow::Result<()> {
    let mut statement = database.prepare_cached("UPDATE attempts SET applied_at_us = ?2 WHERE number = ?1")?;
    statement.execute(params![number, at_us])?;
    Ok(())
}

pub(super) fn set_answered(database: &Connection, number: i64, status: u16) -> anyhow::Result<()> {
    let mut statement =
        database.prepare_cached("UPDATE attempts SET answered_at_us = ?2, status = ?3 WHERE number = ?1")?;
    statement.execute(params![number, now_us(), status])?;
    Ok(())
}

/// The attempts that `filter` lets through, in order of arrival.
pub(super) fn list(database: &Connection, filter: &AttemptFilter) -> anyhow::Result<Vec<Attempt>> {
    // One statement for each filter: a condition that may be absent would keep SQLite from using an index.
    let condition = match (&filter.guest, &filter.saga_id) {
        (Some(_), Some(_)) => "guest = ?1 AND saga_id = ?2",
        (Some(_), None) => "guest = ?1 AND ?2 IS NULL",
        (None, Some(_)) => "?1 IS NULL AND saga_id = ?2",
        (None, None) => "?1 IS NULL AND ?2 IS NULL",
    };
    let mut statement =
        database.prepare_cached(&format!("SELECT * FROM attempts WHERE {condition} ORDER BY number"))?;
    statement.query_and_then(params![filter.guest, filter.saga_id], read)?.collect()
}

fn read(row: &Row<'_>) -> anyhow::Result<Attempt> {
    let fault: Option<String> = row.get("fault")?;
    Ok(Attempt {
        number: row.get("number")?,
        received_at_us: row.get("received_at_us")?,
        applied_at_us: row.get("applied_at_us")?,
        answered_at_us: row.get("answered_at_us")?,
        guest: row.get("guest")?,
        saga_id: row.get("saga_id")?,
        saga_name: row.get("saga_name")?,
        saga_step: row.get("saga_step")?,
        action: row.get("action")?,
        attempt: row.get("attempt")?,
        epoch: row.get("epoch")?,
        idempotency_key: row.get("idempotency_key")?,
        method: row.get("method")?,
        path: row.get("path")?,
        headers: serde_json::from_str(&row.get::<_, String>("headers")?).context("headers of an attempt")?,
        body: row.get("body")?,
        fault: fault.map(|fault| serde_json::from_str(&fault)).transpose().context("fault of an attempt")?,
        status: row.get("status")?,
    })
}
