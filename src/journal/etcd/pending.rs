//! A record that is on its way to etcd.

use super::api::Request;
use super::kept::{Head, Keys, encode};
use crate::planted::{Planted, planted};
use crate::saga::Reply;
use crate::saga::record::{Change, Record};

/// A record whose fate is not known yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) sequence: u64,
    record: Vec<u8>,
    /// After it.
    pub(super) head: Head,
    /// It is the saga's last.
    pub(super) end: Option<End>,
    /// It is in a transaction under way.
    pub(super) is_sent: bool,
    /// Its last transaction may have been done.
    pub(super) may_be_written: bool,
    /// A begin that may have been written, of which no copy can be written any more.
    pub(super) is_looked_for: bool,
}

/// How a saga ends.
#[derive(Debug)]
pub(super) struct End {
    /// What its client gets.
    pub(super) reply: Reply,
    /// It has sent nothing: the same request may begin anew.
    pub(super) nothing_sent: bool,
}

impl Pending {
    /// Takes the saga's head as it is before the record.
    pub(super) fn of(record: &Record, before: Head) -> Pending {
        let end = record.changes.iter().find_map(|change| match change {
            Change::Ended { reply, nothing_sent, .. } => {
                Some(End { reply: reply.clone(), nothing_sent: *nothing_sent })
            }
            _ => None,
        });
        let head = before.after(record);
        Pending {
            sequence: record.sequence,
            record: encode(record),
            head,
            end,
            is_sent: false,
            may_be_written: false,
            is_looked_for: false,
        }
    }

    /// The saga's own keys after the record.
    pub(super) fn requests(
        &self,
        keys: &Keys,
        saga: &str,
        revision: i64,
        tombstone: bool,
        lease: Option<i64>,
    ) -> Vec<Request> {
        let key = keys.saga(saga);
        if self.end.is_none() {
            let record = Request::put(&keys.record(saga, self.sequence), self.record.clone(), None);
            return vec![Request::put(&key, encode(&self.head), None), record];
        }
        if revision == 0 {
            // Only its start key is kept.
            return Vec::new();
        }
        let mut requests = vec![Request::delete(&key)];
        if tombstone {
            requests.push(Request::put(&keys.ended(saga), encode(&self.head), lease));
        }
        if !planted(Planted::RecordsLeftBehind) {
            requests.push(Request::delete_under(&keys.records(saga)));
        }
        requests
    }
}
