//! Transactions: which way they go, and what they do.

use std::cmp::Ordering;

use super::Etcd;
use super::refusal::Refusal;
use super::reply::{Header, Int, Response, Txn as Reply};
use super::request::{Compare, DeleteRange, Operand, Operation, Put, Range, Txn};
use super::store::{Entry, Store};

/// The branch that a transaction takes. Nested ones choose theirs at the same time, before anything is written: a
/// nested comparison does not see what the transaction around it does.
struct Branch<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a Range),
    Put(&'a Put),
    DeleteRange(&'a DeleteRange),
    Txn(Branch<'a>),
}

impl Etcd {
    /// Does a transaction, at one revision, or refuses it as a whole.
    pub(super) fn transact(&mut self, txn: &Txn) -> Result<Reply, Refusal> {
        let branch = choose(&self.store, txn);
        self.check_leases(&branch)?;
        self.check_revisions(&branch)?;
        let mut reply = self.take(branch)?;
        self.store.end();
        reply.header = self.header();
        Ok(reply)
    }

    fn check_leases(&self, branch: &Branch) -> Result<(), Refusal> {
        branch.steps.iter().try_for_each(|step| match step {
            Step::Put(put) => self.check_lease(put),
            Step::Txn(nested) => self.check_leases(nested),
            Step::Range(_) | Step::DeleteRange(_) => Ok(()),
        })
    }

    fn check_revisions(&self, branch: &Branch) -> Result<(), Refusal> {
        branch.steps.iter().try_for_each(|step| match step {
            Step::Range(range) => self.store.check_revision(range.revision),
            Step::Txn(nested) => self.check_revisions(nested),
            Step::Put(_) | Step::DeleteRange(_) => Ok(()),
        })
    }

    fn take(&mut self, branch: Branch) -> Result<Reply, Refusal> {
        let mut responses = Vec::with_capacity(branch.steps.len());
        for step in branch.steps {
            responses.push(match step {
                Step::Range(range) => Response::ResponseRange(self.find(range)?),
                Step::Put(put) => Response::ResponsePut(self.set(put)),
                Step::DeleteRange(delete) => Response::ResponseDeleteRange(self.erase(delete)),
                Step::Txn(nested) => Response::ResponseTxn(self.take(nested)?),
            });
        }
        Ok(Reply { header: Header::default(), succeeded: branch.succeeded, responses })
    }
}

/// A header as it is within a transaction.
pub fn header_within(store: &Store) -> Header {
    Header { revision: Int(store.revision()), ..Header::default() }
}

/// Whether a transaction writes nothing, for which no member needs the others' consent. etcd does not look into nested
/// transactions for that.
pub fn is_read_only(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).all(|operation| matches!(operation, Operation::Range(_)))
}

/// Whether a transaction needs space. etcd does not look into nested transactions for that.
pub fn needs_space(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|operation| matches!(operation, Operation::Put(_)))
}

fn choose<'a>(store: &Store, txn: &'a Txn) -> Branch<'a> {
    let succeeded = txn.compare.iter().all(|compare| holds(store, compare));
    let operations = if succeeded { &txn.success } else { &txn.failure };
    let steps = operations.iter().filter_map(|operation| match operation {
        Operation::Empty => None,
        Operation::Range(range) => Some(Step::Range(range)),
        Operation::Put(put) => Some(Step::Put(put)),
        Operation::DeleteRange(delete) => Some(Step::DeleteRange(delete)),
        Operation::Txn(nested) => Some(Step::Txn(choose(store, nested))),
    });
    Branch { succeeded, steps: steps.collect() }
}

/// A key that is not there has 0 for every number, and no value that could be compared with any.
fn holds(store: &Store, compare: &Compare) -> bool {
    let entry = store.get(&compare.key);
    let number = |of: fn(&Entry) -> i64| entry.map_or(0, of).cmp(&operand_number(compare));
    let ordering = match compare.target {
        0 => number(|entry| entry.version),
        1 => number(|entry| entry.create_revision),
        2 => number(|entry| entry.mod_revision),
        3 => match (entry, &compare.operand) {
            (None, _) => return false,
            (Some(entry), Some(Operand::Value(value))) => entry.value.cmp(value),
            (Some(entry), _) => entry.value.as_slice().cmp(&[]),
        },
        4 => number(|entry| entry.lease),
        _ => Ordering::Equal,
    };
    match compare.result {
        0 => ordering.is_eq(),
        1 => ordering.is_gt(),
        2 => ordering.is_lt(),
        3 => ordering.is_ne(),
        _ => true,
    }
}

/// The number to compare with: 0, if the operand is not of the target's kind.
fn operand_number(compare: &Compare) -> i64 {
    match (compare.target, &compare.operand) {
        (0, Some(Operand::Version(number)))
        | (1, Some(Operand::CreateRevision(number)))
        | (2, Some(Operand::ModRevision(number)))
        | (4, Some(Operand::Lease(number))) => *number,
        _ => 0,
    }
}
