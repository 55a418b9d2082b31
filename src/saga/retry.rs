//! How long to wait between attempts.

use std::time::{Duration, SystemTime};

use super::Millis;
use crate::definition::Retry;

/// Exponential back-off with full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS, 2015).
///
/// `failures` counts from 1. Gives milliseconds, at least 1, so that an attempt which fails at once cannot spin.
/// `random` is any number; the same number gives the same wait.
pub fn back_off(retry: &Retry, failures: u32, random: u64) -> u64 {
    let base = millis(retry.base_interval);
    let doubled = 1_u64.checked_shl(failures.saturating_sub(1)).map_or(u64::MAX, |factor| base.saturating_mul(factor));
    let bound = doubled.min(millis(retry.max_interval));
    (random % bound.saturating_add(1).max(1)).max(1)
}

/// The wait where a participant said `retry-after`: the larger of the back-off and what it asks for, the latter at
/// most `max_interval`. Milliseconds.
pub fn back_off_asked(retry: &Retry, back_off: u64, asked: Option<Duration>) -> u64 {
    asked.map_or(back_off, |asked| back_off.max(millis(asked).min(millis(retry.max_interval))))
}

/// Reads a `retry-after` (RFC 9110, 10.2.3: seconds or a date); none where it is neither. A date that has passed is 0.
pub fn retry_after(value: &str, now: Millis) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::from(u32::MAX))));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(now))?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A number that depends on the saga, the call and the failure, and on nothing else: the same saga replayed waits the
/// same. Sagas' ids are random, so their waits spread. (FNV-1a, then the finaliser of SplitMix64.)
pub fn jitter(saga_id: &str, step: usize, failures: u32) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let numbers = (step as u64).to_le_bytes().into_iter().chain(failures.to_le_bytes());
    for byte in saga_id.bytes().chain(numbers) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(base_ms: u64, max_ms: u64) -> Retry {
        Retry {
            max_attempts: None,
            base_interval: Duration::from_millis(base_ms),
            max_interval: Duration::from_millis(max_ms),
        }
    }

    #[test]
    fn the_bound_doubles_up_to_the_largest_interval() {
        let retry = retry(50, 5_000);
        let bounds = [(1, 50), (2, 100), (3, 200), (7, 3_200), (8, 5_000), (64, 5_000), (u32::MAX, 5_000)];
        for (failures, bound) in bounds {
            assert_eq!(back_off(&retry, failures, bound), bound, "after {failures} failures");
            assert_eq!(back_off(&retry, failures, bound + 1), 1, "after {failures} failures");
        }
    }

    #[test]
    fn waits_are_spread_over_the_whole_interval() {
        let retry = retry(1_000, 1_000);
        let waits: Vec<u64> = (0..1_000).map(|n| back_off(&retry, 1, jitter(&format!("saga-{n}"), 0, 1))).collect();
        for quarter in 0..4_u64 {
            let range = quarter * 250..(quarter + 1) * 250;
            let share = waits.iter().filter(|wait| range.contains(wait)).count();
            assert!((180..320).contains(&share), "{share} of 1000 waits in {range:?}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(" 0 ", now), Some(Duration::ZERO));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:40 GMT", now), Some(Duration::from_secs(3)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:30 GMT", now), Some(Duration::ZERO));
        for nonsense in ["", "soon", "-1", "1.5", "7 s"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense:?}");
        }
    }

    #[test]
    fn retry_after_only_lengthens_a_wait_and_never_past_the_largest_interval() {
        let retry = retry(50, 1_000);
        assert_eq!(back_off_asked(&retry, 40, None), 40);
        assert_eq!(back_off_asked(&retry, 40, Some(Duration::from_millis(500))), 500);
        assert_eq!(back_off_asked(&retry, 40, Some(Duration::from_secs(3_600))), 1_000);
        assert_eq!(back_off_asked(&retry, 40, Some(Duration::ZERO)), 40);
    }
}
