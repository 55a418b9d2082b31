//! Where records go before anything is done that they imply.
//!
//! The saga writes ahead: it emits a record and waits until the journal has it. What kind of journal that is, and when
//! it answers, the saga does not know.

use crate::saga::record::Record;

/// A place that keeps records.
pub trait Journal {
    /// Takes a record of the saga of that id. Records of one saga come in the order of their sequence, one at a time.
    fn write(&mut self, saga: &str, record: Record) -> Acknowledgement;
}

/// What a journal says when it is given a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The record is as durable as this journal makes it.
    Written,
}

/// The journal of sagas that live in the memory of their VM only, and are lost with it: there is nothing to keep that
/// the saga itself does not hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct VolatileJournal;

impl Journal for VolatileJournal {
    fn write(&mut self, _saga: &str, _record: Record) -> Acknowledgement {
        Acknowledgement::Written
    }
}
