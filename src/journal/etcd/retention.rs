//! Leases on which that is kept which is to be forgotten after a while: a new one each minute.
//!
//! A full etcd grants none. What ends makes room, so it does not wait for one: the last lease goes on serving.

use super::answer::Answer;
use super::api::{Grant, Int, Lease};
use super::back_off_ms;
use super::session::failure;
use crate::saga::Millis;

const MINUTE_MS: Millis = 60_000;
/// A lease is followed by the next before it is that old.
const NEXT_AFTER_MS: Millis = 45_000;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Retention {
    /// For how long something is kept at least.
    time_ms: Millis,
    /// What was granted last, and when that was asked for.
    lease: Option<(i64, Millis)>,
    wanted: bool,
    under_way: bool,
    next_at: Millis,
    failures: u32,
}

impl Retention {
    pub(super) fn new(time_ms: Millis) -> Retention {
        Retention { time_ms, lease: None, wanted: false, under_way: false, next_at: 0, failures: 0 }
    }

    /// There will be something to keep.
    pub(super) fn will_be_needed(&mut self, now: Millis) {
        self.wanted |= self.asked_within(NEXT_AFTER_MS, now).is_none();
    }

    /// A lease to keep something on from now on. None: it has to wait for one.
    pub(super) fn lease(&mut self, now: Millis) -> Option<i64> {
        self.will_be_needed(now);
        // With none to be had, half of the time is better than no end.
        let old = || self.asked_within(MINUTE_MS.saturating_add(self.time_ms / 2), now).filter(|_| self.failures > 0);
        self.asked_within(MINUTE_MS, now).or_else(old)
    }

    fn asked_within(&self, time_ms: Millis, now: Millis) -> Option<i64> {
        self.lease.filter(|(_, asked_at)| now < asked_at.saturating_add(time_ms)).map(|(lease, _)| lease)
    }

    pub(super) fn next_due(&self) -> Millis {
        if self.wanted && !self.under_way { self.next_at } else { Millis::MAX }
    }

    /// What is to be asked now. What is kept last in the minute is kept for the whole time.
    pub(super) fn ask(&mut self, now: Millis) -> Option<Grant> {
        if self.next_due() > now {
            return None;
        }
        self.under_way = true;
        let ttl = self.time_ms.saturating_add(MINUTE_MS).div_ceil(1_000);
        Some(Grant { ttl: Int(i64::try_from(ttl).unwrap_or(i64::MAX)) })
    }

    /// `sent_at` is when the call was sent.
    pub(super) fn granted(&mut self, answer: Answer<Lease>, sent_at: Millis, now: Millis) {
        self.under_way = false;
        match answer {
            Answer::Done(Lease { id, ttl }) if ttl.0 > 0 => {
                (self.lease, self.wanted, self.failures) = (Some((id.0, sent_at)), false, 0);
            }
            other => {
                log::warn!("etcd gives no lease for what is retained: {}", failure(&other));
                self.next_at = now.saturating_add(back_off_ms(self.failures));
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    /// It is gone before its time.
    pub(super) fn forget(&mut self) {
        self.lease = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(lease: i64) -> Answer<Lease> {
        Answer::Done(Lease { id: Int(lease), ttl: Int(3_660) })
    }

    #[test]
    fn a_lease_is_followed_by_the_next_and_serves_on_where_there_is_none_to_be_had() {
        let hour = 60 * MINUTE_MS;
        let mut retention = Retention::new(hour);
        assert_eq!((retention.lease(0), retention.ask(0).is_some()), (None, true));
        retention.granted(granted(1), 0, 10);
        assert_eq!((retention.lease(NEXT_AFTER_MS - 1), retention.ask(NEXT_AFTER_MS - 1).is_some()), (Some(1), false));
        // The next one is asked for in time.
        assert_eq!((retention.lease(NEXT_AFTER_MS), retention.ask(NEXT_AFTER_MS).is_some()), (Some(1), true));
        assert_eq!(retention.lease(MINUTE_MS), None);
        retention.granted(Answer::NoSpace, NEXT_AFTER_MS, MINUTE_MS);
        assert_eq!(retention.lease(MINUTE_MS), Some(1));
        assert_eq!(retention.lease(hour / 2), Some(1));
        assert_eq!(retention.lease(MINUTE_MS + hour / 2), None);
        assert!(retention.ask(hour).is_some());
        retention.granted(granted(2), hour, hour);
        assert_eq!(retention.lease(hour), Some(2));
    }
}
