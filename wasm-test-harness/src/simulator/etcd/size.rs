//! How large a request is between etcd's members: as Protocol Buffers write it, with empty fields left out.

use super::request::{Compare, DeleteRange, Operand, Operation, Put, Range, Txn};

/// What a member puts around a request: its kind, and a header with an id of 9 bytes (10 on some members).
const AROUND_BYTES: usize = 14;

/// A message with a size.
pub trait Encoded {
    /// Bytes.
    fn size_bytes(&self) -> usize;

    /// Bytes once a member has put a header to it.
    fn size_agreed_bytes(&self) -> usize {
        let bytes = self.size_bytes();
        AROUND_BYTES + varint(bytes as u64) + bytes
    }
}

impl Encoded for Range {
    fn size_bytes(&self) -> usize {
        let flags = [self.serializable, self.keys_only, self.count_only];
        bytes(&self.key)
            + bytes(&self.range_end)
            + number(self.limit)
            + number(self.revision)
            + number(self.sort_order)
            + 2 * flags.iter().filter(|flag| **flag).count()
    }
}

impl Encoded for Put {
    fn size_bytes(&self) -> usize {
        bytes(&self.key) + bytes(&self.value) + number(self.lease)
    }
}

impl Encoded for DeleteRange {
    fn size_bytes(&self) -> usize {
        bytes(&self.key) + bytes(&self.range_end)
    }
}

impl Encoded for Txn {
    fn size_bytes(&self) -> usize {
        let compare: usize = self.compare.iter().map(message).sum();
        let operations: usize = self.success.iter().chain(&self.failure).map(message).sum();
        compare + operations
    }
}

impl Encoded for Operation {
    fn size_bytes(&self) -> usize {
        match self {
            Operation::Empty => 0,
            Operation::Range(range) => message(range),
            Operation::Put(put) => message(put),
            Operation::DeleteRange(delete) => message(delete),
            Operation::Txn(txn) => message(txn),
        }
    }
}

impl Encoded for Compare {
    fn size_bytes(&self) -> usize {
        // One of several is written even where it is empty.
        let operand = match &self.operand {
            None => 0,
            Some(Operand::Value(value)) => 1 + varint(value.len() as u64) + value.len(),
            Some(
                Operand::Version(number)
                | Operand::CreateRevision(number)
                | Operand::ModRevision(number)
                | Operand::Lease(number),
            ) => 1 + varint(number.cast_unsigned()),
        };
        number(self.result) + number(self.target) + bytes(&self.key) + operand
    }
}

fn message(message: &impl Encoded) -> usize {
    let bytes = message.size_bytes();
    1 + varint(bytes as u64) + bytes
}

fn bytes(value: &[u8]) -> usize {
    if value.is_empty() { 0 } else { 1 + varint(value.len() as u64) + value.len() }
}

fn number(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint(value.cast_unsigned()) }
}

/// Seven bits to a byte.
fn varint(value: u64) -> usize {
    let bits = (u64::BITS - value.leading_zeros()).max(1);
    bits.div_ceil(7) as usize
}
