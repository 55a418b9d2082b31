//! Time: wall time at the start, carried on by the monotonic clock, so that a wall clock that jumps moves no deadline.

use std::time::{Instant, SystemTime};

use crate::saga::Millis;

#[derive(Debug)]
pub(super) struct Clock {
    started_at: Millis,
    started: Instant,
}

/// Wall time, in milliseconds since the Unix epoch.
pub(super) fn wall() -> Millis {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(0)
}

impl Clock {
    pub(super) fn start() -> Clock {
        Clock { started_at: wall(), started: Instant::now() }
    }

    pub(super) fn now(&self) -> Millis {
        self.started_at.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
