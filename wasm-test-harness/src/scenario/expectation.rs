//! Whether a case came to what its file says.

use std::collections::{BTreeMap, BTreeSet};

use super::observed::State;
use super::{Expectation, Observed, Role, Scenarios};
use crate::participant::Action;

impl Scenarios {
    /// What did not come as expected in a run of all cases, in words.
    pub fn unmet(&self, observed: &BTreeMap<String, Observed>) -> Vec<String> {
        let mut unmet = Vec::new();
        for case in &self.cases {
            match observed.get(&case.name) {
                Some(observed) => {
                    let wrong = case.expect.unmet(observed);
                    unmet.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", case.name)));
                }
                None => unmet.push(format!("{}: was not run", case.name)),
            }
        }
        let known = |name: &&String| !self.cases.iter().any(|case| case.name == **name);
        unmet.extend(observed.keys().filter(known).map(|name| format!("{name}: something was received")));
        unmet
    }
}

impl Expectation {
    fn unmet(&self, observed: &Observed) -> Vec<String> {
        let mut unmet = Vec::new();
        let mut equal = |what: &str, found: String, expected: String| {
            if found != expected {
                unmet.push(format!("{what} {found}, expected {expected}"));
            }
        };
        let answer = &observed.answer;
        equal("status", format!("{:?}", answer.status()), format!("{:?}", Some(self.status)));
        let status = answer.header("saga-status");
        equal("saga-status", format!("{status:?}"), format!("{:?}", self.saga_status.as_deref()));
        let holds = |role: &&Role| {
            observed.at.get(role).is_some_and(|at| at.bookings.values().any(|one| *one == State::Booked))
        };
        let held: BTreeSet<Role> = Role::ALL.iter().filter(holds).copied().collect();
        equal("held", format!("{held:?}"), format!("{:?}", self.held));
        for role in Role::ALL {
            let received = observed.at.get(&role).map(|at| at.received.as_slice()).unwrap_or_default();
            let received: Vec<Option<Action>> = received.iter().map(|one| one.action()).collect();
            let expected: Vec<Option<Action>> =
                self.received.get(&role).into_iter().flatten().copied().map(Some).collect();
            equal(&format!("received by {role}:"), format!("{received:?}"), format!("{expected:?}"));
        }
        unmet
    }
}
