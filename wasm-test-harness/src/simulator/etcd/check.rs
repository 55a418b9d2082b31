//! What etcd looks at before it does anything: the counts and the keys of a transaction.

use std::collections::BTreeSet;

use super::refusal::Refusal;
use super::request::{Operation, Txn};

/// So many operations are allowed, with the default flags.
const MAX_OPERATIONS: usize = 128;

/// Whether a transaction may be done.
pub fn check(txn: &Txn) -> Result<(), Refusal> {
    check_operations(txn, MAX_OPERATIONS)?;
    check_keys(&txn.success)?;
    check_keys(&txn.failure)?;
    Ok(())
}

/// What a key has to be.
pub fn check_key(key: &[u8]) -> Result<(), Refusal> {
    if key.is_empty() { Err(Refusal::EMPTY_KEY) } else { Ok(()) }
}

/// The longest of a transaction's three lists counts, and what it leaves is what each nested transaction may have.
fn check_operations(txn: &Txn, allowed: usize) -> Result<(), Refusal> {
    let longest = txn.compare.len().max(txn.success.len()).max(txn.failure.len());
    let left = allowed.checked_sub(longest).ok_or(Refusal::TOO_MANY_OPERATIONS)?;
    for compare in &txn.compare {
        check_key(&compare.key)?;
    }
    for operation in txn.success.iter().chain(&txn.failure) {
        match operation {
            Operation::Empty => return Err(Refusal::EMPTY_OPERATION),
            Operation::Range(range) => check_key(&range.key)?,
            Operation::Put(put) => check_key(&put.key)?,
            Operation::DeleteRange(delete) => check_key(&delete.key)?,
            Operation::Txn(nested) => check_operations(nested, left)?,
        }
    }
    Ok(())
}

/// What a list of operations may write, whichever way its nested transactions go.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Vec<Span<'a>>,
}

/// The keys from one on and before another; only the first without another.
#[derive(Clone, Copy)]
struct Span<'a> {
    key: &'a [u8],
    end: &'a [u8],
}

impl Span<'_> {
    /// "All that follow" holds nothing here: etcd takes the zero byte that says so for a key.
    fn holds(&self, key: &[u8]) -> bool {
        if self.end.is_empty() { self.key == key } else { self.key <= key && key < self.end }
    }
}

impl<'a> Writes<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), Refusal> {
        if self.deletes.iter().any(|span| span.holds(key)) {
            return Err(Refusal::DUPLICATE_KEY);
        }
        self.puts.insert(key);
        Ok(())
    }
}

/// No key is put twice, or put and removed. Two branches of which one is taken may put the same.
///
/// As in etcd, the order counts: a nested transaction may remove what an earlier one puts, but not the other way round.
fn check_keys(operations: &[Operation]) -> Result<Writes<'_>, Refusal> {
    let mut writes = Writes::default();
    for operation in operations {
        if let Operation::DeleteRange(delete) = operation {
            writes.deletes.push(Span { key: &delete.key, end: &delete.range_end });
        }
    }
    for operation in operations {
        let Operation::Txn(nested) = operation else { continue };
        let (success, failure) = (check_keys(&nested.success)?, check_keys(&nested.failure)?);
        if success.puts.union(&failure.puts).any(|key| writes.puts.contains(key)) {
            return Err(Refusal::DUPLICATE_KEY);
        }
        for key in success.puts.into_iter().chain(failure.puts) {
            writes.put(key)?;
        }
        writes.deletes.extend(success.deletes.into_iter().chain(failure.deletes));
    }
    for operation in operations {
        let Operation::Put(put) = operation else { continue };
        if writes.puts.contains(put.key.as_slice()) {
            return Err(Refusal::DUPLICATE_KEY);
        }
        writes.put(&put.key)?;
    }
    Ok(writes)
}
