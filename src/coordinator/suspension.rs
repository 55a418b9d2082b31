//! Whether the machine may have been suspended.
//!
//! The monotonic clock, by which a coordinator lives, stands still meanwhile; others' leases do not. What tells is that wall
//! time has run ahead of it. So does a wall clock that is set right: then nothing is lost but the time of one keepalive.

use crate::saga::Millis;

/// A clock that is set right moves less at a time, nearly always.
const JUMP_MS: i64 = 250;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Suspension {
    /// So far wall time was ahead of the monotonic clock at the last look, in milliseconds.
    ahead: i64,
}

impl Suspension {
    /// Looks at both clocks. True: wall time has run ahead since the last look.
    pub(super) fn look(&mut self, wall: Millis, now: Millis) -> bool {
        let ahead = i64::try_from(wall).unwrap_or(0).saturating_sub(i64::try_from(now).unwrap_or(0));
        let before = std::mem::replace(&mut self.ahead, ahead);
        ahead.saturating_sub(before) >= JUMP_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_that_runs_ahead_is_noticed_once() {
        let mut suspension = Suspension::default();
        assert!(!suspension.look(1_000_000, 1_000_000));
        assert!(!suspension.look(1_005_249, 1_005_000), "it is set right");
        assert!(suspension.look(1_065_249, 1_005_000), "an hour's sleep, or a minute's");
        assert!(!suspension.look(1_075_249, 1_015_000));
        assert!(!suspension.look(1_010_000, 1_020_000), "it was set back");
        assert!(suspension.look(1_020_300, 1_030_000), "and forth again");
    }
}
