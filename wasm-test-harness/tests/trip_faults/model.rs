//! What a trip must come to, given what goes wrong: the rules of the README in a few lines, written down again from
//! its tables and not from the code that is tested. Time is in milliseconds, back-offs take none.
//!
//! It holds for sagas in which one step fails by itself: which of two failures comes first is not its business.

use std::collections::{BTreeSet, VecDeque};

use harness::participant::Action;
use harness::trip::{STEPS, per_try_timeout};

use super::cell::{Cell, Kind, Order};

const DEADLINE: u64 = 10_000;
/// Envoy counts a timeout from when its loop last woke: under load, two of 5 s end just before the deadline.
const DEADLINE_JUST_AHEAD: u64 = DEADLINE + 1;
const MAX_ATTEMPTS: u32 = 3;
/// `retry-after` of the participants.
const RETRY_AFTER: u64 = 1_000;
/// Between attempts of a compensation that was refused.
const MAX_INTERVAL: u64 = 5_000;

/// What a saga must come to.
#[derive(Debug)]
pub struct Expected {
    pub completed: bool,
    /// Empty where the deadline failed the saga.
    pub failed_step: &'static str,
    /// Hotel, flight and car.
    pub steps: [ExpectedStep; 3],
    /// The reply can be rendered: it reads the answer of the flight.
    pub reply_renders: bool,
    /// Some compensation is refused.
    pub stuck: bool,
    /// When the saga has ended.
    pub takes: u64,
}

/// What becomes of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedStep {
    /// As a problem document names it.
    pub state: &'static str,
    /// How many attempts of it the participant sees.
    pub transactions: u32,
    /// The same.
    pub compensations: u32,
}

impl Expected {
    /// The participants that hold a booking in the end.
    pub fn held(&self) -> BTreeSet<&'static str> {
        if self.completed { STEPS.into_iter().collect() } else { BTreeSet::new() }
    }
}

/// What comes of one attempt.
enum Comes {
    /// A success whose body can be read, or not.
    Success(bool),
    Refusal,
    /// A refusal that may not be the participant's.
    OfThePath,
    NotNow,
    /// Unknown.
    Nothing,
}

/// The attempts of one call.
struct Attempts {
    step: &'static str,
    deadline: u64,
    faults: VecDeque<Kind>,
    count: u32,
    now: u64,
}

impl Attempts {
    fn new(cell: &Cell, step: &'static str, action: Action, now: u64, deadline: u64) -> Attempts {
        let repeat = |order: Order| (0..order.attempts).map(move |_| order.kind);
        let faults = cell.of(step, action).into_iter().flat_map(repeat).collect();
        Attempts { step, deadline, faults, count: 0, now }
    }

    fn next(&mut self) -> Comes {
        self.count += 1;
        match self.faults.pop_front() {
            None | Some(Kind::Slow | Kind::StrangeHeaders | Kind::Trailers) => Comes::Success(true),
            Some(Kind::NotJson | Kind::Big2MiB) => Comes::Success(false),
            Some(Kind::Refuse) => Comes::Refusal,
            Some(Kind::NoRoute) => Comes::OfThePath,
            Some(Kind::Unavailable503 | Kind::TooMany429) => {
                self.now += RETRY_AFTER;
                Comes::NotNow
            }
            Some(kind) => {
                if kind.times_out() {
                    self.now += u64::try_from(per_try_timeout(self.step).as_millis()).unwrap();
                }
                Comes::Nothing
            }
        }
    }

    /// Only a flight is compensated without knowing its answer.
    fn needs_answer(&self) -> bool {
        self.step != "flight"
    }

    fn transaction(&mut self) -> Settled {
        let mut unknown = false;
        loop {
            match self.next() {
                Comes::Success(readable) if readable || !self.needs_answer() => return Settled::Succeeded { readable },
                Comes::Refusal => return Settled::Rejected,
                Comes::OfThePath if !unknown => return Settled::Rejected,
                Comes::NotNow => {}
                Comes::Success(_) | Comes::OfThePath | Comes::Nothing => unknown = true,
            }
            if self.count == MAX_ATTEMPTS || self.now >= self.deadline {
                return if unknown { Settled::Unknown } else { Settled::Rejected };
            }
        }
    }

    /// Of an unknown step whose compensation needs the answer: whether there is something to undo.
    fn resolve(&mut self) -> bool {
        loop {
            match self.next() {
                Comes::Success(true) => return true,
                Comes::Refusal => return false,
                Comes::Success(false) | Comes::OfThePath | Comes::NotNow | Comes::Nothing => {}
            }
        }
    }

    /// Whether it was refused on the way.
    fn compensation(&mut self) -> bool {
        let mut refused = false;
        loop {
            match self.next() {
                Comes::Success(_) => return refused,
                Comes::Refusal | Comes::OfThePath => {
                    refused = true;
                    self.now += MAX_INTERVAL;
                }
                Comes::NotNow | Comes::Nothing => {}
            }
        }
    }
}

enum Settled {
    NotStarted,
    Succeeded { readable: bool },
    Rejected,
    Unknown,
}

impl Settled {
    fn failed(&self) -> bool {
        matches!(self, Settled::Rejected | Settled::Unknown)
    }
}

/// What the saga of `cell` must come to: mostly twice the same, else one of both.
pub fn expected(cell: &Cell) -> [Expected; 2] {
    [DEADLINE, DEADLINE_JUST_AHEAD].map(|deadline| expected_with(cell, deadline))
}

fn expected_with(cell: &Cell, deadline: u64) -> Expected {
    let run = |step, start| {
        let mut attempts = Attempts::new(cell, step, Action::Transaction, start, deadline);
        let settled = attempts.transaction();
        (attempts, settled)
    };
    let (hotel, flight) = (run("hotel", 0), run("flight", 0));
    let reply_renders = matches!(flight.1, Settled::Succeeded { readable: true });
    let begins = hotel.0.now.max(flight.0.now);
    let car = if hotel.1.failed() || flight.1.failed() {
        (Attempts { step: "car", deadline, faults: VecDeque::new(), count: 0, now: begins }, Settled::NotStarted)
    } else {
        run("car", begins)
    };
    let steps = [hotel, flight, car];
    let failed = steps.iter().find(|(_, settled)| settled.failed()).map(|(attempts, _)| (attempts.step, attempts.now));
    let Some((failed_step, at)) = failed else {
        let takes = steps[2].0.now;
        let done = |(attempts, _): &(Attempts, _)| ExpectedStep {
            state: "succeeded",
            transactions: attempts.count,
            compensations: 0,
        };
        let steps = [done(&steps[0]), done(&steps[1]), done(&steps[2])];
        return Expected { completed: true, failed_step: "", steps, reply_renders, stuck: false, takes };
    };
    let failed_step = if at >= deadline { "" } else { failed_step };
    let (mut stuck, mut takes) = (false, 0);
    let mut undo = |(mut attempts, settled): (Attempts, Settled)| {
        attempts.now = attempts.now.max(at);
        let something = match settled {
            Settled::NotStarted | Settled::Rejected => false,
            Settled::Succeeded { .. } => true,
            Settled::Unknown => !attempts.needs_answer() || attempts.resolve(),
        };
        let mut compensations = 0;
        if something {
            let mut undoing = Attempts::new(cell, attempts.step, Action::Compensation, attempts.now, deadline);
            stuck |= undoing.compensation();
            (compensations, attempts.now) = (undoing.count, undoing.now);
        }
        takes = takes.max(attempts.now);
        let state = match settled {
            Settled::NotStarted => "not_started",
            _ if something => "compensated",
            _ => "rejected",
        };
        ExpectedStep { state, transactions: attempts.count, compensations }
    };
    let steps = steps.map(&mut undo);
    Expected { completed: false, failed_step, steps, reply_renders: true, stuck, takes }
}
