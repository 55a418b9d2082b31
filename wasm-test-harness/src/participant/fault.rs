//! The faults that a participant can be told to have, and the queue in which they wait for their guest.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// The largest answer that [`FaultKind::BigAnswer`] can be told to give, in MiB.
const MAX_SIZE_MIB: u64 = 256;
/// The longest that [`FaultKind::Delay`] can be told to wait, in milliseconds.
const MAX_DELAY_MS: u64 = 600_000;

/// Which half of a step a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A booking.
    Transaction,
    /// A cancellation.
    Compensation,
}

/// What goes wrong. "Does it" is: books, or cancels, as far as the request can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Does nothing and answers 422.
    Refuse,
    /// Does nothing and answers 404, as a proxy on the path does that has no route.
    NoRoute,
    /// Waits `delay_ms`, then does it and answers, also when the caller has gone by then. With `applies`: does it
    /// at once and answers after `delay_ms`.
    Delay,
    /// Does it and never answers.
    ApplyNoAnswer,
    /// Does nothing and never answers.
    Hang,
    /// Resets the connection (TCP RST), without or with having done it.
    Reset,
    /// Does it, announces more bytes than it sends, and closes the connection. A compensation answers 200.
    Truncate,
    /// Answers 500, without or with having done it.
    #[serde(rename = "error_500")]
    Error500,
    /// Does nothing and answers 503 with `retry-after: <retry_after_s>`.
    #[serde(rename = "unavailable_503")]
    Unavailable503,
    /// Does nothing and answers 429 with `retry-after: <retry_after_s>`.
    #[serde(rename = "too_many_429")]
    TooMany429,
    /// Does it and answers 2xx with `size_mib` of JSON, streamed.
    BigAnswer,
    /// Does it and answers as usual, with a header that is not UTF-8 and one that is repeated.
    StrangeHeaders,
    /// Does it and answers 2xx with a chunked body and trailers.
    Trailers,
    /// Does it and answers 2xx with text that is not JSON.
    NotJson,
}

impl FaultKind {
    /// Whether it also shows where what was asked cannot be granted. The others only change the answer to what was.
    pub(crate) fn shows_on_a_refusal(self) -> bool {
        matches!(self, Self::ApplyNoAnswer | Self::Hang | Self::Reset | Self::Truncate | Self::Error500 | Self::Delay)
    }

    /// Whether it does what was asked, and whether it may be told otherwise.
    fn applies(self) -> (bool, bool) {
        match self {
            Self::Refuse | Self::NoRoute | Self::Unavailable503 | Self::TooMany429 => (false, false),
            Self::Hang | Self::Delay | Self::Reset | Self::Error500 => (false, true),
            Self::Truncate => (true, true),
            Self::ApplyNoAnswer | Self::BigAnswer | Self::StrangeHeaders | Self::Trailers | Self::NotJson => {
                (true, false)
            }
        }
    }
}

/// An order for a fault: it acts on the next `attempts` requests of `guest` that are an `action`. Several for the
/// same guest and action act one after another, in the order in which they were given.
///
/// A compensation does not name its guest: it is that of the booking, else the one whom a transaction of the same
/// `saga-id` named, whatever became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Whose requests.
    pub guest: String,
    /// Which of them.
    pub action: Action,
    /// What goes wrong.
    pub fault: FaultKind,
    /// With how many of them; at least 1.
    #[serde(default = "one")]
    pub attempts: u32,
    /// Whether what was asked is done before the fault shows; none: as the kind says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applies: Option<bool>,
    /// Of [`FaultKind::Delay`], in milliseconds, at most ten minutes.
    #[serde(default)]
    pub delay_ms: u64,
    /// Of [`FaultKind::Unavailable503`] and [`FaultKind::TooMany429`], in seconds.
    #[serde(default = "one")]
    pub retry_after_s: u32,
    /// Of [`FaultKind::BigAnswer`], in MiB, at most 256.
    #[serde(default = "forty")]
    pub size_mib: u64,
}

fn one() -> u32 {
    1
}

fn forty() -> u64 {
    40
}

impl Fault {
    /// One attempt of `guest`, with what the kind says by itself: `retry-after: 1`, 40 MiB, no delay.
    pub fn new(guest: &str, action: Action, fault: FaultKind) -> Self {
        Self {
            guest: guest.to_owned(),
            action,
            fault,
            attempts: 1,
            applies: None,
            delay_ms: 0,
            retry_after_s: one(),
            size_mib: forty(),
        }
    }

    /// The same for this many attempts.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The same, but with or without doing what was asked before the fault shows.
    #[must_use]
    pub fn applies(mut self, applies: bool) -> Self {
        self.applies = Some(applies);
        self
    }

    /// The same with this delay, of which whole milliseconds count.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay_ms = delay.as_millis().try_into().unwrap_or(u64::MAX);
        self
    }

    /// The same with this `retry-after`.
    #[must_use]
    pub fn retry_after_s(mut self, retry_after_s: u32) -> Self {
        self.retry_after_s = retry_after_s;
        self
    }

    /// The same with an answer of this many MiB.
    #[must_use]
    pub fn size_mib(mut self, size_mib: u64) -> Self {
        self.size_mib = size_mib;
        self
    }

    /// Whether what was asked is done before the fault shows.
    pub(crate) fn does_it(&self) -> bool {
        self.applies.unwrap_or(self.fault.applies().0)
    }

    fn check(&self) -> anyhow::Result<()> {
        let (applies, either) = self.fault.applies();
        ensure!(self.attempts > 0, "attempts: 0, expected at least 1");
        ensure!(
            either || self.does_it() == applies,
            "applies: {}, but {:?} is always {applies}",
            self.does_it(),
            self.fault
        );
        ensure!(self.delay_ms <= MAX_DELAY_MS, "delay_ms: {}, expected at most {MAX_DELAY_MS}", self.delay_ms);
        ensure!(self.size_mib <= MAX_SIZE_MIB, "size_mib: {}, expected at most {MAX_SIZE_MIB}", self.size_mib);
        Ok(())
    }
}

/// The faults that have not acted yet.
#[derive(Debug, Default)]
pub struct Faults {
    waiting: Mutex<BTreeMap<(String, Action), VecDeque<Fault>>>,
}

impl Faults {
    /// Orders a fault, behind those ordered before.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn add(&self, fault: Fault) -> anyhow::Result<()> {
        fault.check()?;
        let key = (fault.guest.clone(), fault.action);
        self.waiting.lock().expect("no holder panics").entry(key).or_default().push_back(fault);
        Ok(())
    }

    /// The fault that acts on this request, counted down.
    pub(crate) fn take(&self, guest: &str, action: Action) -> Option<Fault> {
        let mut waiting = self.waiting.lock().expect("no holder panics");
        let key = (guest.to_owned(), action);
        let queue = waiting.get_mut(&key)?;
        let first = queue.front_mut()?;
        let acting = first.clone();
        first.attempts -= 1;
        if first.attempts == 0 {
            queue.pop_front();
        }
        if queue.is_empty() {
            waiting.remove(&key);
        }
        Some(acting)
    }

    pub(super) fn clear(&self) {
        self.waiting.lock().expect("no holder panics").clear();
    }

    pub(super) fn pending(&self) -> Vec<Fault> {
        self.waiting.lock().expect("no holder panics").values().flatten().cloned().collect()
    }
}
