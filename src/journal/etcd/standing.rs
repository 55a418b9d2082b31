//! Where a write that failed has found its saga: a call whose answer was lost may have been done.

use super::api::TxnAnswer;
use super::kept::{Head, StartRow};
use super::pending::Pending;
use super::write::Kept;
use crate::journal::replay::Reader;
use crate::planted::{Planted, planted};
use crate::saga::SagaId;

/// Where a write finds the saga.
pub(super) enum Standing {
    /// As this VM would have written it.
    Written,
    /// As it was before, at this revision.
    Before(i64),
    /// It is another's, or nobody's.
    Lost,
}

/// What the failed write of a saga says of it. Its answer holds the saga's head, the VM's key and the start key.
pub(super) fn standing(saga: &str, kept: &Kept, pending: &Pending, answer: &TxnAnswer, reader: Reader) -> Standing {
    let vm_lives = !answer.found(1).is_empty();
    let Some(found) = answer.found(0).first() else {
        // A saga that has ended leaves nothing. As long as this VM's key is there nobody else can have ended it.
        let ended_by_us = kept.revision > 0 && pending.end.is_some() && pending.may_be_written && vm_lives;
        let begun_and_ended =
            kept.revision == 0 && pending.end.is_some() && named_by_start(answer, reader).as_deref() == Some(saga);
        return if ended_by_us || begun_and_ended { Standing::Written } else { lost_or_again(kept, answer, vm_lives) };
    };
    // What this module cannot read it has not written.
    let Ok(head) = reader.parse::<Head>(&found.value.0) else { return Standing::Lost };
    // One that was set aside by hand is nobody's: what others write into a head is not overwritten from memory.
    let is_set_aside = head.quarantined.is_some() && kept.head.quarantined.is_none();
    let ours = head.owner == pending.head.owner && head.epoch == pending.head.epoch && !is_set_aside;
    let written = head.sequence >= pending.sequence && !planted(Planted::OwnWriteTakenForLost);
    match (ours, written) {
        (true, true) => Standing::Written,
        (true, false) if head.sequence < pending.sequence => Standing::Before(found.mod_revision.0),
        _ => Standing::Lost,
    }
}

/// A begin that finds nothing in its way any more can be repeated.
fn lost_or_again(kept: &Kept, answer: &TxnAnswer, vm_lives: bool) -> Standing {
    let free = answer.found(2).is_empty();
    if kept.revision == 0 && vm_lives && free { Standing::Before(0) } else { Standing::Lost }
}

/// Which saga the start key names; none where it names none, or cannot be read.
pub(super) fn named_by_start(answer: &TxnAnswer, reader: Reader) -> Option<SagaId> {
    let row: StartRow = reader.parse(&answer.found(2).first()?.value.0).ok()?;
    Some(row.saga)
}

/// At which revision the saga's head was found.
pub(super) fn found_revision(answer: &TxnAnswer) -> Option<i64> {
    answer.found(0).first().map(|found| found.mod_revision.0)
}
