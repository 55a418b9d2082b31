//! What goes wrong in one saga of the matrix.

use std::time::Duration;

use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{Trip, per_try_timeout};

/// A fault, told apart as the matrix tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Refuse,
    /// A proxy on the path has no route. After an unknown attempt it says nothing; not in [`Kind::ALL`].
    NoRoute,
    /// Shorter than the attempt may take.
    Slow,
    /// Longer than the attempt may take: done when nobody waits any more.
    Late,
    ApplyNoAnswer,
    Hang,
    ResetBefore,
    ResetAfter,
    TruncateBefore,
    TruncateAfter,
    Error500Before,
    Error500After,
    Unavailable503,
    TooMany429,
    /// More than the filter keeps of an answer, and less than Envoy does.
    Big2MiB,
    /// More than Envoy keeps.
    Big40MiB,
    StrangeHeaders,
    Trailers,
    NotJson,
}

impl Kind {
    pub const ALL: [Kind; 18] = [
        Kind::Refuse,
        Kind::Slow,
        Kind::Late,
        Kind::ApplyNoAnswer,
        Kind::Hang,
        Kind::ResetBefore,
        Kind::ResetAfter,
        Kind::TruncateBefore,
        Kind::TruncateAfter,
        Kind::Error500Before,
        Kind::Error500After,
        Kind::Unavailable503,
        Kind::TooMany429,
        Kind::Big2MiB,
        Kind::Big40MiB,
        Kind::StrangeHeaders,
        Kind::Trailers,
        Kind::NotJson,
    ];

    /// No answer comes before the attempt times out.
    pub fn times_out(self) -> bool {
        matches!(self, Kind::Late | Kind::ApplyNoAnswer | Kind::Hang)
    }

    fn fault(self, role: &str, guest: &str, action: Action) -> Fault {
        let of = |kind| Fault::new(guest, action, kind);
        match self {
            Kind::Refuse => of(FaultKind::Refuse),
            Kind::NoRoute => of(FaultKind::NoRoute),
            Kind::Slow => of(FaultKind::Delay).delay(Duration::from_millis(300)),
            Kind::Late => of(FaultKind::Delay).delay(per_try_timeout(role) + Duration::from_millis(500)),
            Kind::ApplyNoAnswer => of(FaultKind::ApplyNoAnswer),
            Kind::Hang => of(FaultKind::Hang),
            Kind::ResetBefore => of(FaultKind::Reset),
            Kind::ResetAfter => of(FaultKind::Reset).applies(true),
            Kind::TruncateBefore => of(FaultKind::Truncate).applies(false),
            Kind::TruncateAfter => of(FaultKind::Truncate),
            Kind::Error500Before => of(FaultKind::Error500),
            Kind::Error500After => of(FaultKind::Error500).applies(true),
            Kind::Unavailable503 => of(FaultKind::Unavailable503),
            Kind::TooMany429 => of(FaultKind::TooMany429),
            Kind::Big2MiB => of(FaultKind::BigAnswer).size_mib(2),
            Kind::Big40MiB => of(FaultKind::BigAnswer),
            Kind::StrangeHeaders => of(FaultKind::StrangeHeaders),
            Kind::Trailers => of(FaultKind::Trailers),
            Kind::NotJson => of(FaultKind::NotJson),
        }
    }
}

/// How often a fault acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Often {
    /// On the first attempt.
    Once,
    /// On every attempt that a transaction is given; on several of a compensation, which is given any number.
    Lastingly,
}

/// This fault on so many attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Which.
    pub kind: Kind,
    /// On how many attempts.
    pub attempts: u32,
}

/// One saga: for a guest of its own, with a hotel, a flight and a car.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Whose saga, and what goes wrong, in words.
    pub guest: String,
    /// What goes wrong, one after another, with the transaction of each step and with its compensation.
    pub orders: Vec<(&'static str, Action, Vec<Order>)>,
}

impl Cell {
    /// `kind` on a transaction or a compensation of a step. Where it is the compensation's, the saga is made to
    /// compensate that step: hotel and flight by a car that is refused, the car by answers of it that get lost.
    pub fn new(kind: Kind, step: &'static str, action: Action, often: Often) -> Cell {
        let attempts = match (often, action) {
            (Often::Once, _) => 1,
            // A refusal is final.
            (Often::Lastingly, Action::Transaction) if kind == Kind::Refuse => 1,
            // Two timeouts of 5 s reach the deadline. A compensation has to be done before its client gives up, and
            // waits 5 s after a refusal.
            (Often::Lastingly, _) if kind.times_out() && step != "hotel" => 2,
            (Often::Lastingly, Action::Compensation) if kind == Kind::Refuse => 2,
            (Often::Lastingly, _) => 3,
        };
        let mut orders = vec![(step, action, vec![Order { kind, attempts }])];
        if action == Action::Compensation {
            let forced = match step {
                "car" => Order { kind: Kind::Error500After, attempts: 3 },
                _ => Order { kind: Kind::Refuse, attempts: 1 },
            };
            orders.push(("car", Action::Transaction, vec![forced]));
        }
        Cell { guest: format!("{step} {action:?} {kind:?} {often:?}"), orders }
    }

    /// Several faults one after another, on transactions of a step.
    pub fn sequence(step: &'static str, kinds: &[Kind]) -> Cell {
        let orders = kinds.iter().map(|kind| Order { kind: *kind, attempts: 1 }).collect();
        Cell { guest: format!("{step} {kinds:?}"), orders: vec![(step, Action::Transaction, orders)] }
    }

    /// The orders for one call of a step.
    pub fn of(&self, step: &str, action: Action) -> Vec<Order> {
        let of_call = |order: &&(&str, Action, Vec<Order>)| order.0 == step && order.1 == action;
        self.orders.iter().filter(of_call).flat_map(|order| order.2.clone()).collect()
    }

    /// Tells the participants.
    pub fn order(&self, trip: &Trip) -> anyhow::Result<()> {
        for (step, action, orders) in &self.orders {
            for order in orders {
                let fault = order.kind.fault(step, &self.guest, *action).attempts(order.attempts);
                trip.participant(step).set_fault(fault)?;
            }
        }
        Ok(())
    }
}
