//! Time: wall time at the start, carried on by the monotonic clock, so that a wall clock that jumps moves no deadline.

use std::time::{Instant, SystemTime};

use crate::saga::Millis;

#[derive(Debug)]
pub(super) struct Clock {
    started_at: Millis,
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Clock {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Clock { started_at: u64::try_from(since_epoch.as_millis()).unwrap_or(0), started: Instant::now() }
    }

    pub(super) fn now(&self) -> Millis {
        self.started_at.saturating_add(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
