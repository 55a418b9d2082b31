//! Looking for what has begun under a start key.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

use super::EtcdJournal;
use super::api::{KeyValue, Request, Txn, TxnAnswer};
use super::group::{Readiness, Wish};
use super::kept::{Head, StartRow};
use crate::journal::replay::{Reader, Unreadable};
use crate::journal::{Found, OpenSaga, StartKey};
use crate::planted::{Planted, planted};
use crate::saga::Millis;

/// Who has asked comes back for the answer before this.
const KEPT_MS: Millis = 5_000;
/// An answer that nobody has come for is too old after this: much may have begun since.
const FRESH_MS: Millis = 1_000;
/// etcd is asked about a saga under way so often at most, however many wait for it.
const AGAIN_MS: Millis = 100;

/// What was looked for, by start key and request.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The same key may come with other requests.
    looks: BTreeMap<(String, String), Look>,
}

#[derive(Debug)]
struct Look {
    /// When somebody asked last.
    asked_at: Millis,
    /// When etcd was asked last.
    sent_at: Millis,
    /// A saga that was not at its end when it was looked at last.
    open: Option<StartRow>,
    found: Option<Answered>,
}

#[derive(Debug)]
struct Answered {
    found: Found,
    /// When etcd was asked.
    sent_at: Millis,
    at: Millis,
    /// All who ask in the same moment get the same.
    told_at: Option<Millis>,
}

impl Looks {
    /// Nobody has come for these answers.
    pub(super) fn forget_past(&mut self, now: Millis) {
        self.looks.retain(|_, look| look.found.as_ref().is_none_or(|found| now < found.at.saturating_add(KEPT_MS)));
    }
}

impl EtcdJournal {
    pub(super) fn look_for(&mut self, start: &StartKey, since: Millis, now: Millis) -> Found {
        let has_saga = self.has_saga_under(start);
        let Some(look) = self.looks.looks.get_mut(&name(start)) else {
            if self.token.is_missing() {
                // Whoever waits asks again. Nothing is to pile up meanwhile.
                return Found::Asked;
            }
            self.looks.looks.insert(name(start), Look { asked_at: now, sent_at: 0, open: None, found: None });
            self.wish(Wish::Look(start.clone()));
            return Found::Asked;
        };
        look.asked_at = now;
        let Some(answered) = &mut look.found else { return Found::Asked };
        let is_open = matches!(answered.found, Found::UnderWay(_));
        let is_past = now >= answered.at.saturating_add(FRESH_MS) || answered.told_at.is_some_and(|told| told != now);
        let may_have_begun = matches!(answered.found, Found::Nothing) && (has_saga || answered.sent_at < since);
        if (!is_past && !may_have_begun) || (is_open && now < answered.at.saturating_add(AGAIN_MS)) {
            answered.told_at = Some(now);
            return answered.found.clone();
        }
        look.found = None;
        self.wish(Wish::Look(start.clone()));
        Found::Asked
    }

    /// The row of the start key; the second time also the head of the saga that it names.
    pub(super) fn look_txn(&mut self, start: &StartKey, now: Millis) -> Readiness {
        let Some(look) = self.looks.looks.get_mut(&name(start)) else { return Readiness::Moot };
        if now >= look.asked_at.saturating_add(KEPT_MS) {
            self.looks.looks.remove(&name(start));
            return Readiness::Moot;
        }
        look.sent_at = now;
        let mut success = vec![Request::get(&self.keys.start(start))];
        success.extend(look.open.as_ref().map(|row| Request::get(&self.keys.saga(&row.saga))));
        Readiness::Ready(Txn { success, ..Txn::default() })
    }

    pub(super) fn looked(&mut self, start: &StartKey, answer: &TxnAnswer, now: Millis) {
        let has_saga = self.has_saga_under(start);
        let Some(look) = self.looks.looks.get_mut(&name(start)) else { return };
        // That nothing had begun is too old for anybody where this VM begins something meanwhile.
        let sent_at = if has_saga { 0 } else { look.sent_at };
        let row = read::<StartRow>(answer.found(0).first(), self.reader);
        let head = read::<Head>(answer.found(1).first(), self.reader);
        let (row, head) = match (row, head) {
            (Ok(row), Ok(head)) => (row, head),
            (row, head) => {
                look.found = Some(Answered { found: Found::Unreadable, sent_at, at: now, told_at: None });
                let is_of_key = row.is_err();
                return match row.err().or(head.err()) {
                    Some(why) if why.is_for_others() && is_of_key => {
                        self.leave_alone(self.keys.start(start), &why.to_string());
                    }
                    // It may have an owner: who looks for sagas without one counts it where it has none.
                    Some(why) if why.is_for_others() => log::info!("the saga under the start key {}: {why}", start.key),
                    Some(why) => log::error!("what has begun under the start key {}: {why}", start.key),
                    None => {}
                };
            }
        };
        let found = match row {
            None => Some(Found::Nothing),
            Some(row) if row.request != start.request && !planted(Planted::RequestUnderKeyNotCompared) => {
                Some(Found::OtherRequest)
            }
            Some(StartRow { reply: Some(reply), .. }) => Some(Found::Ended(reply)),
            Some(row) => match (head, look.open.replace(row.clone()).filter(|before| before.saga == row.saga)) {
                (Some(head), Some(_)) => {
                    let is_set_aside = head.quarantined.is_some();
                    Some(Found::UnderWay(OpenSaga { saga: row.saga, state: head.state, is_set_aside }))
                }
                // Both were looked at, and the saga is not there: somebody has removed it.
                (None, Some(_)) => Some(Found::Nothing),
                // Now it is known which saga to look at.
                (_, None) => None,
            },
        };
        look.found = found.map(|found| Answered { found, sent_at, at: now, told_at: None });
        if look.found.is_none() {
            self.wish(Wish::Look(start.clone()));
        }
    }
}

/// None: there is nothing.
fn read<T: DeserializeOwned>(found: Option<&KeyValue>, reader: Reader) -> Result<Option<T>, Unreadable> {
    found.map(|found| reader.parse(&found.value.0)).transpose()
}

fn name(start: &StartKey) -> (String, String) {
    (start.key.clone(), start.request.clone())
}
