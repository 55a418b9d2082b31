//! Time: wall time at the start, carried on by the monotonic clock, so that a wall clock that jumps moves no deadline.
//!
//! The monotonic clock stands still while the machine is suspended, and others' leases and beats do not. Wall time has run
//! ahead of it then.

use std::time::{Instant, SystemTime};

use crate::saga::Millis;

#[derive(Debug)]
pub(super) struct Clock {
    started_at: Millis,
    started: Instant,
    /// So far wall time was ahead when it was looked at last, in milliseconds.
    ahead: i64,
}

/// A clock that is set right moves less at a time, nearly always.
const JUMP_MS: i64 = 250;

fn wall() -> Millis {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(0)
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { started_at: wall(), started: Instant::now(), ahead: 0 }
    }

    /// Looks at wall time. True: it has run ahead since the last look, so the machine may have been suspended meanwhile.
    pub(super) fn notice_suspension(&mut self) -> bool {
        let ahead = i64::try_from(wall()).unwrap_or(0).saturating_sub(i64::try_from(self.now()).unwrap_or(0));
        let before = std::mem::replace(&mut self.ahead, ahead);
        ahead.saturating_sub(before) >= JUMP_MS
    }

    pub(super) fn now(&self) -> Millis {
        self.started_at.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
