//! What the participants saw and hold of one guest, and the rules that hold for it whatever went wrong.
//!
//! The rules know the trip of the shipped configuration (its three steps, which come after which, how each is
//! undone), and nothing of the code that is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::STEPS;
use crate::participant::{Action, Attempt, Booking, BookingState, FaultKind};

/// Envoy's timer of an attempt starts when the request leaves, a participant's clock when it has arrived and been
/// scheduled: on a busy machine that is this much later, at most.
const SCHEDULING: Duration = Duration::from_millis(700);

/// One request that a participant got.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Which participant.
    pub role: &'static str,
    /// What it wrote down.
    pub attempt: Attempt,
}

/// What the participants saw and hold of one guest.
#[derive(Debug, Clone)]
pub struct History {
    guest: String,
    seen: Vec<Seen>,
    bookings: BTreeMap<&'static str, Vec<Booking>>,
}

impl History {
    /// One to which nothing has happened.
    pub(super) fn of(guest: &str) -> History {
        History { guest: guest.to_owned(), seen: Vec::new(), bookings: BTreeMap::new() }
    }

    pub(super) fn add(histories: &mut BTreeMap<String, History>, role: &'static str, attempts: Vec<Attempt>) {
        for attempt in attempts {
            let Some(guest) = attempt.guest.clone() else { continue };
            let history = histories.entry(guest.clone()).or_insert_with(|| History::of(&guest));
            history.seen.push(Seen { role, attempt });
        }
    }

    pub(super) fn add_bookings(histories: &mut BTreeMap<String, History>, role: &'static str, bookings: Vec<Booking>) {
        for booking in bookings {
            let history = histories.entry(booking.guest.clone()).or_insert_with(|| History::of(&booking.guest));
            history.bookings.entry(role).or_default().push(booking);
        }
    }

    /// The requests of one kind that a participant got, in order of arrival.
    pub fn calls(&self, role: &str, action: Action) -> Vec<&Attempt> {
        let of_kind = |seen: &&Seen| seen.role == role && seen.attempt.action.as_deref() == Some(name(action));
        self.seen.iter().filter(of_kind).map(|seen| &seen.attempt).collect()
    }

    /// Every request that the participants got.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// The sagas in whose name participants were asked for anything, or have booked.
    pub fn sagas(&self) -> BTreeSet<&str> {
        let asked = self.seen.iter().map(|seen| seen.attempt.saga_id.as_deref());
        let booked = self.bookings.values().flatten().map(|booking| booking.saga_id.as_deref());
        asked.chain(booked).map(Option::unwrap_or_default).collect()
    }

    /// The calls that came after one of a higher epoch: their sender had lost the saga, and sent for it all the same.
    pub fn overtaken(&self) -> Vec<&Seen> {
        let mut seen: Vec<&Seen> = self.seen.iter().collect();
        seen.sort_by_key(|seen| seen.attempt.received_at_us);
        let mut highest = 0;
        seen.retain(|seen| {
            let epoch = seen.attempt.epoch.unwrap_or_default();
            highest = highest.max(epoch);
            epoch < highest
        });
        seen
    }

    /// The participants with a booking that stands.
    pub fn held(&self) -> BTreeSet<&'static str> {
        let stands = |bookings: &[Booking]| bookings.iter().any(|booking| booking.state == BookingState::Booked);
        self.bookings.iter().filter(|(_, bookings)| stands(bookings)).map(|(role, _)| *role).collect()
    }

    /// The bookings at a participant, cancelled or not.
    pub fn bookings(&self, role: &str) -> &[Booking] {
        self.bookings.get(role).map_or(&[], Vec::as_slice)
    }

    /// Which rules are broken, in words. `per_try_timeout` is that of each step.
    ///
    /// - Nothing was applied twice, and every request is of the one saga `saga_id`.
    /// - Every attempt carries the headers of a call, and all attempts of a call the same key.
    /// - A step begins when those before it have been answered.
    /// - A compensation comes after every attempt of its transaction has ended, names what was booked, and comes after
    ///   everything that was to be undone before it.
    pub fn broken_rules(&self, saga_id: Option<&str>, per_try_timeout: fn(&str) -> Duration) -> Vec<String> {
        let mut broken = Vec::new();
        for role in STEPS {
            let bookings = self.bookings(role);
            if bookings.len() > 1 {
                broken.push(format!("{role} booked {} times", bookings.len()));
            }
            for action in [Action::Transaction, Action::Compensation] {
                self.check_headers(role, action, saga_id, &mut broken);
            }
            self.check_compensation(role, per_try_timeout(role), &mut broken);
        }
        self.check_order(per_try_timeout("car"), &mut broken);
        broken
    }

    fn check_headers(&self, role: &'static str, action: Action, saga_id: Option<&str>, broken: &mut Vec<String>) {
        let mut last = 0;
        for attempt in self.calls(role, action) {
            let what = format!("{role} {} {}", name(action), attempt.attempt.unwrap_or(0));
            let own_id = attempt.saga_id.as_deref().unwrap_or_default();
            if own_id.is_empty() || saga_id.is_some_and(|saga_id| saga_id != own_id) {
                broken.push(format!("{what} is of the saga {own_id:?}, not {saga_id:?}"));
            }
            let suffix = if action == Action::Transaction { "t" } else { "c" };
            let key = format!("{own_id}.{role}.{suffix}");
            let headers = [
                ("saga-name", "book-trip"),
                ("saga-step", role),
                ("saga-action", name(action)),
                ("saga-epoch", "1"),
                ("idempotency-key", &key),
                ("host", role),
            ];
            for (header, expected) in headers {
                let values: Vec<_> = attempt.headers.iter().filter(|(other, _)| other == header).collect();
                if values.len() != 1 || values[0].1 != expected {
                    broken.push(format!("{what} has {header} {values:?}, expected {expected:?}"));
                }
            }
            if attempt.attempt.is_none_or(|number| number <= last) {
                broken.push(format!("{what} comes after attempt {last}"));
            }
            last = attempt.attempt.unwrap_or(last);
        }
    }

    fn check_compensation(&self, role: &str, timeout: Duration, broken: &mut Vec<String>) {
        let compensations = self.calls(role, Action::Compensation);
        let Some(first) = compensations.first() else { return };
        for attempt in self.calls(role, Action::Transaction) {
            if first.received_at_us < least_end_us(attempt, timeout) {
                let number = attempt.attempt.unwrap_or(0);
                broken.push(format!("{role} was compensated before attempt {number} of its transaction had ended"));
            }
        }
        for compensation in compensations {
            let key = compensation.saga_id.as_deref().unwrap_or_default();
            let expected = match self.bookings(role).first() {
                _ if role == "flight" => format!("/bookings/by-key/{key}.flight.t"),
                Some(booking) => format!("/bookings/{}", booking.id),
                None => "nothing, because nothing was booked".to_owned(),
            };
            if compensation.method != "DELETE" || compensation.path != expected {
                let (method, path) = (&compensation.method, &compensation.path);
                broken.push(format!("{role} was compensated by {method} {path}, expected {expected}"));
            }
        }
    }

    /// The car comes after hotel and flight, and is undone before them.
    fn check_order(&self, car_timeout: Duration, broken: &mut Vec<String>) {
        let car = self.calls("car", Action::Transaction);
        let car_ended = car.iter().map(|attempt| least_end_us(attempt, car_timeout)).max();
        let car_undone = self.calls("car", Action::Compensation);
        let car_undone = car_undone.iter().map(|attempt| least_end_us(attempt, car_timeout)).max();
        for before in ["hotel", "flight"] {
            let answered = self.calls(before, Action::Transaction).last().map(|attempt| attempt.answered_at_us);
            let answered = answered.flatten().unwrap_or(i64::MAX);
            if car.first().is_some_and(|first| first.received_at_us < answered) {
                broken.push(format!("the car was booked before {before} had answered"));
            }
            let Some(undone) = self.calls(before, Action::Compensation).first().map(|first| first.received_at_us)
            else {
                continue;
            };
            if car_ended.max(car_undone).is_some_and(|car| undone < car) {
                broken.push(format!("{before} was compensated before the car"));
            }
        }
    }

    /// All requests of the guest as a table, in order of arrival, times in milliseconds after the first.
    pub fn table(&self) -> String {
        let mut seen: Vec<&Seen> = self.seen.iter().collect();
        seen.sort_by_key(|seen| seen.attempt.received_at_us);
        let began = seen.first().map_or(0, |first| first.attempt.received_at_us);
        let at = |at_us: Option<i64>| at_us.map_or("-".to_owned(), |at| format!("{:.1}", (at - began) as f64 / 1000.0));
        let mut table = format!(
            "{}\n  {:>9} {:>9} {:>9}  {:<6} {:<12} {:>2}  {:<16} {:>6}  path\n",
            self.guest, "received", "applied", "answered", "at", "action", "no", "fault", "status"
        );
        for Seen { role, attempt } in seen {
            table += &format!(
                "  {:>9} {:>9} {:>9}  {role:<6} {:<12} {:>2}  {:<16} {:>6}  {}\n",
                at(Some(attempt.received_at_us)),
                at(attempt.applied_at_us),
                at(attempt.answered_at_us),
                attempt.action.as_deref().unwrap_or("-"),
                attempt.attempt.map_or("-".to_owned(), |number| number.to_string()),
                attempt.fault.map_or("-".to_owned(), |fault| format!("{fault:?}")),
                attempt.status.map_or("-".to_owned(), |status| status.to_string()),
                attempt.path,
            );
        }
        table + &format!("  holds {:?}\n", self.held())
    }
}

fn name(action: Action) -> &'static str {
    match action {
        Action::Transaction => "transaction",
        Action::Compensation => "compensation",
    }
}

/// When an attempt can have ended at the earliest, for the one who sent it.
fn least_end_us(attempt: &Attempt, timeout: Duration) -> i64 {
    let silent = matches!(attempt.fault, Some(FaultKind::Hang | FaultKind::ApplyNoAnswer | FaultKind::Delay));
    match attempt.answered_at_us {
        Some(answered) => answered,
        None if silent => {
            let least = timeout.saturating_sub(SCHEDULING).as_micros();
            attempt.received_at_us + i64::try_from(least).unwrap_or(i64::MAX)
        }
        None => attempt.received_at_us,
    }
}
