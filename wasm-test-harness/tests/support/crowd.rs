//! Many guests who book at the same time, each under a key of its own, and ask again until they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::try_join_all;
use harness::fleet::Fleet;
use harness::loopback::{Answer, InFlight};
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::TripRequest;

/// Guests of one round. Of five in a row one is refused its flight; every third wants a car.
pub struct Crowd {
    round: usize,
    size: usize,
}

/// What a guest was told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    status: u16,
    saga_id: String,
    body: String,
}

impl Told {
    fn of(answer: &Answer) -> Told {
        let saga_id = answer.header("saga-id").unwrap_or_default().to_owned();
        Told { status: answer.status.as_u16(), saga_id, body: answer.text() }
    }
}

impl Crowd {
    /// `round` tells their names from those of others.
    pub fn new(round: usize, size: usize) -> Crowd {
        Crowd { round, size }
    }

    pub fn request(&self, number: usize) -> TripRequest {
        let request = TripRequest::of(format!("guest-{}-{number}", self.round));
        if number.is_multiple_of(3) { request.with_car() } else { request }
    }

    pub fn key(&self, number: usize) -> String {
        format!("key-{}-{number}", self.round)
    }

    fn is_refused(number: usize) -> bool {
        number % 5 == 4
    }

    /// Some hotels take their time, so that at any moment sagas are at every stage.
    pub fn set_faults(&self, fleet: &Fleet) {
        for number in 0..self.size {
            let name = self.request(number).guest;
            let delay = Duration::from_millis(97 * (number as u64 % 11));
            let slow = Fault::new(&name, Action::Transaction, FaultKind::Delay).delay(delay);
            fleet.participants.hotel.set_fault(slow).unwrap();
            if Self::is_refused(number) {
                // Also for whoever takes the saga over.
                let refused = Fault::new(&name, Action::Transaction, FaultKind::Refuse).attempts(20);
                fleet.participants.flight.set_fault(refused).unwrap();
            }
        }
    }

    /// All of them ask one Envoy, one after another.
    pub async fn begin(&self, fleet: &Fleet, envoy: usize, apart: Duration) -> Vec<InFlight> {
        let mut under_way = Vec::new();
        for number in 0..self.size {
            under_way.push(fleet.begin(envoy, &self.request(number), &self.key(number)).unwrap());
            tokio::time::sleep(apart).await;
        }
        under_way
    }

    /// Waits for what those are told who asked first; nothing where their Envoy has gone.
    pub async fn first_answers(under_way: Vec<InFlight>) -> Vec<Option<Answer>> {
        futures::future::join_all(under_way.into_iter().map(|one| async { one.answer().await.ok() })).await
    }

    /// All of them ask until they are told an end, and again at every Envoy: each is told one and the same, which is what
    /// its participants hold.
    pub async fn check(&self, fleet: &Fleet, envoys: &[usize], first: &[Option<Answer>]) {
        let timeout = Duration::from_secs(40);
        let mut told: BTreeMap<usize, Told> = BTreeMap::new();
        for (number, answer) in first.iter().enumerate() {
            let ended = |answer: &&Answer| matches!(answer.header("saga-status"), Some("completed" | "compensated"));
            if let Some(answer) = answer.as_ref().filter(ended) {
                told.insert(number, Told::of(answer));
            }
        }
        for envoy in envoys {
            let asked = (0..self.size).map(|number| async move {
                fleet.ask_until_told(*envoy, &self.request(number), &self.key(number), timeout).await
            });
            for (number, answer) in try_join_all(asked).await.unwrap().into_iter().enumerate() {
                let answer = Told::of(&answer);
                let before = told.entry(number).or_insert_with(|| answer.clone());
                assert_eq!(*before, answer, "guest {number} of round {} was told two things", self.round);
            }
        }
        // Only then is there none of which nobody is told.
        fleet.wait_until_no_saga_is_open(Duration::from_secs(20)).await.unwrap();
        let histories = fleet.participants.histories().unwrap();
        for number in 0..self.size {
            let request = self.request(number);
            let Told { status, saga_id, .. } = &told[&number];
            // There is none where the deadline had passed before anything was sent.
            let Some(history) = histories.get(&request.guest) else {
                assert_eq!(*status, 409, "{} was told {status}", request.guest);
                continue;
            };
            let wanted = if *status == 201 { request.steps() } else { &[] };
            let wanted = wanted.iter().copied().collect();
            assert_eq!(history.held(), wanted, "{} was told {status}\n{}", request.guest, history.table());
            assert_eq!(history.sagas(), BTreeSet::from([saga_id.as_str()]), "{}", history.table());
            // One that was under way for longer than its deadline is undone as well.
            assert!(*status == 409 || !Self::is_refused(number), "{}", history.table());
        }
        fleet.participants.check_nothing_applied_twice().unwrap();
        // Nor by a second saga, which would be another one for what is checked above.
        fleet.participants.check_one_saga_for_each_guest().unwrap();
        for envoy in envoys {
            assert_eq!(fleet.counter(*envoy, "illegal_events").await.unwrap(), 0, "{}", fleet.envoys[*envoy].log());
            assert_eq!(fleet.counter(*envoy, "sagas_quarantined").await.unwrap(), 0);
        }
    }
}
