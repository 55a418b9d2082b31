//! Looks for sagas without owner, page by page, and for definitions to which nobody refers any more.

use std::collections::{BTreeMap, BTreeSet};

use super::EtcdJournal;
use super::answer::Answer;
use super::api::{Compare, KeyValue, Request, Txn, TxnAnswer};
use super::group::{Readiness, Wish};
use super::kept::{Head, Keys, Owned, VmRow, last_part};
use super::session::failure;
use super::takeover::{Candidate, Records};
use crate::journal::replay::Unreadable;
use crate::planted::{Planted, planted};

/// Sagas in one answer.
const PAGE: u32 = 100;
/// Of a stranger's keys so many are told, each once.
const MAX_REPORTED: usize = 1_000;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Scan {
    wanted: bool,
    page: Option<Page>,
    under_way: bool,
    /// Keys that cannot be read, and were told.
    reported: BTreeSet<String>,
}

/// How far it has come.
#[derive(Debug, Default)]
struct Page {
    /// The last key of the page before.
    after: Option<String>,
    /// Definitions to which nothing has referred so far, with the revisions at which they were written. None: something
    /// cannot be read that may refer to any.
    unreferenced: Option<BTreeMap<String, i64>>,
}

impl Scan {
    /// Looks once more, as soon as what is under way has come to its end.
    pub(super) fn begin(&mut self) {
        self.wanted = true;
    }

    /// Who lives and a page of sagas are read as they are at one revision.
    pub(super) fn ask(&mut self, keys: &Keys) -> Option<Txn> {
        if self.under_way || (self.page.is_none() && !self.wanted) {
            return None;
        }
        (self.under_way, self.wanted) = (true, self.wanted && self.page.is_some());
        let after = self.page.get_or_insert_default().after.as_deref();
        let mut success =
            vec![Request::list(&keys.vms(), None, None, false), Request::list(&keys.sagas(), after, Some(PAGE), false)];
        if after.is_none() {
            success.push(Request::list(&keys.all_definitions(), None, None, true));
        }
        Some(Txn { success, ..Txn::default() })
    }
}

impl EtcdJournal {
    pub(super) fn page_read(&mut self, answer: Answer<TxnAnswer>) {
        self.scan.under_way = false;
        let Some(mut page) = self.scan.page.take() else { return };
        let Answer::Done(answer) = answer else {
            // With the next token it looks at once.
            self.scan.wanted |= answer == Answer::Unauthenticated;
            return log::warn!("etcd does not tell which sagas have lost their owner: {}", failure(&answer));
        };
        let (vms, sagas) = (answer.found(0), answer.found(1));
        if page.after.is_none() {
            let revision = |found: &KeyValue| Some((name(found).filter(|name| is_hash(name))?, found.mod_revision.0));
            page.unreferenced = Some(answer.found(2).iter().filter_map(revision).collect());
        }
        let living: BTreeSet<String> = vms.iter().filter_map(name).collect();
        for vm in vms {
            page.keep_definitions_of(self.reader.parse(&vm.value.0).map(|row: VmRow| row.definitions).ok());
        }
        for found in sagas {
            self.look_at(found, &living, &mut page);
        }
        let last = sagas.last().and_then(|last| last.key.text()).map(str::to_owned);
        if last.is_some() && u32::try_from(sagas.len()).is_ok_and(|count| count >= PAGE) {
            page.after = last;
            self.scan.page = Some(page);
            return;
        }
        for (hash, revision) in page.unreferenced.unwrap_or_default() {
            self.wish(Wish::Forget(hash, revision));
        }
    }

    fn look_at(&mut self, found: &KeyValue, living: &BTreeSet<String>, page: &mut Page) {
        let key = String::from_utf8_lossy(&found.key.0).into_owned();
        let head: Head = match self.reader.parse(&found.value.0) {
            Ok(head) => head,
            Err(why) => {
                page.unreferenced = None;
                let owner = serde_json::from_slice(&found.value.0).ok().map(|Owned { owner }| owner);
                let is_owned = why.is_for_others() && owner.is_some_and(|owner| living.contains(&owner));
                if !is_owned {
                    self.report(key, &why);
                }
                return;
            }
        };
        page.keep_definitions_of(Some(head.definitions.clone()));
        let nobody_s = head.quarantined.is_some() || head.state.has_ended();
        if nobody_s || (living.contains(&head.owner) && !planted(Planted::TakenFromTheLiving)) {
            return;
        }
        if !planted(Planted::NeverTakenOver) {
            let (saga, revision) = (last_part(&key).to_owned(), found.mod_revision.0);
            self.take_over(Candidate { saga, revision, head, records: Records::Read });
        }
    }

    /// What is not ours to touch is told once.
    fn report(&mut self, key: String, why: &Unreadable) {
        if why.is_for_others() {
            self.leave_alone(key, &why.to_string());
        } else if self.remember_as_told(&key) {
            self.news.quarantined.push((key, why.to_string()));
        }
    }

    /// What is for a module that knows more is told once.
    pub(super) fn leave_alone(&mut self, key: String, why: &str) {
        if self.remember_as_told(&key) {
            log::warn!("{key}: {why}; it is for a module that knows it");
            let saga = key.strip_prefix(&self.keys.sagas()).unwrap_or(&key).to_owned();
            self.news.left_alone.push((saga, why.to_owned()));
        }
    }

    /// Whether it was told that something is not for this module.
    pub(super) fn is_left_alone(&self, saga: &str) -> bool {
        self.scan.reported.contains(&self.keys.saga(saga))
    }

    /// Remembers that something is told of this key. False: it was before, or there is no room to remember more.
    fn remember_as_told(&mut self, key: &str) -> bool {
        self.scan.reported.len() < MAX_REPORTED && self.scan.reported.insert(key.to_owned())
    }

    pub(super) fn forget_txn(&self, hash: &str, revision: i64) -> Readiness {
        let key = self.keys.definitions(hash);
        let txn = Txn {
            compare: vec![Compare::unchanged(&key, revision)],
            success: vec![Request::delete(&key)],
            failure: Vec::new(),
        };
        Readiness::Ready(txn)
    }
}

impl Page {
    /// Something refers to the definitions of this hash; none where it cannot be read.
    fn keep_definitions_of(&mut self, hash: Option<String>) {
        match (hash, &mut self.unreferenced) {
            (Some(hash), Some(unreferenced)) => {
                unreferenced.remove(&hash);
            }
            _ => self.unreferenced = None,
        }
    }
}

/// What stands under `definitions/` otherwise is a stranger's.
fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn name(found: &KeyValue) -> Option<String> {
    found.key.text().map(|key| last_part(key).to_owned())
}
