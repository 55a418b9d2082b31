//! Many guests who book at the same time, each under a key of its own, and ask again until they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use harness::fleet::Fleet;
use harness::loopback::{Answer, InFlight};
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::TripRequest;

/// Guests of one round. Of five in a row one is refused its flight; every third wants a car.
pub struct Crowd {
    round: usize,
    size: usize,
    pub deadline: Duration,
    began: Instant,
}

/// What a guest was told who asked first, and when that was known.
pub type FirstAnswer = Option<(Answer, Instant)>;

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
    /// `round` tells their names from those of others. Their sagas have the deadline that ships.
    pub fn new(round: usize, size: usize) -> Crowd {
        Crowd { round, size, deadline: Duration::from_secs(10), began: Instant::now() }
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

    /// Every hotel takes so long or half a second more over the first `slow_attempts`, cars and cancellations some time:
    /// most sagas are under way when the last guest has asked, and they are at every stage a moment later.
    pub fn set_faults(&self, fleet: &Fleet, hotels_take: Duration, slow_attempts: u32) {
        let participants = &fleet.participants;
        for number in 0..self.size {
            let name = self.request(number).guest;
            let slow = |action, delay| Fault::new(&name, action, FaultKind::Delay).delay(delay);
            let hotel_takes = hotels_take + Duration::from_millis(50 * (number as u64 % 11));
            let hotel = slow(Action::Transaction, hotel_takes).attempts(slow_attempts);
            participants.hotel.set_fault(hotel).unwrap();
            let later = Duration::from_millis(53 * (number as u64 % 7));
            participants.hotel.set_fault(slow(Action::Compensation, later)).unwrap();
            participants.car.set_fault(slow(Action::Transaction, later)).unwrap();
            if Self::is_refused(number) {
                // Also for whoever takes the saga over.
                let refused = Fault::new(&name, Action::Transaction, FaultKind::Refuse).attempts(20);
                participants.flight.set_fault(refused).unwrap();
            }
        }
    }

    /// All of them ask one Envoy, one after another.
    pub async fn begin(&self, fleet: &Fleet, envoy: usize, apart: Duration) -> Vec<InFlight> {
        let mut under_way = Vec::new();
        let began = tokio::time::Instant::now();
        for number in 0..self.size {
            // However late the ones before were.
            tokio::time::sleep_until(began + apart * number as u32).await;
            under_way.push(fleet.begin(envoy, &self.request(number), &self.key(number)).unwrap());
        }
        under_way
    }

    /// Waits for what those are told who asked first; nothing where their Envoy has gone.
    pub async fn first_answers(under_way: Vec<InFlight>) -> Vec<FirstAnswer> {
        let answers = under_way.into_iter().map(|one| async {
            let answer = one.answer().await.ok()?;
            Some((answer, Instant::now()))
        });
        futures::future::join_all(answers).await
    }

    /// All of them ask until they are told an end, and again at every Envoy: each is told one and the same, which is what
    /// its participants hold. Who is not refused gets the trip, unless the deadline can have passed before. Gives of how
    /// many it can have.
    pub async fn check(&self, fleet: &Fleet, envoys: &[usize], first: &[FirstAnswer]) -> usize {
        let timeout = Duration::from_secs(40);
        let mut told: BTreeMap<usize, Told> = BTreeMap::new();
        let mut may_be_late: BTreeSet<usize> = BTreeSet::new();
        let mut go_on: BTreeMap<usize, &str> = BTreeMap::new();
        let mut hear = |number: usize, answer: &Answer, at: Instant| {
            let answer = Told::of(answer);
            if !told.contains_key(&number) && at - self.began >= self.deadline {
                may_be_late.insert(number);
            }
            let before = told.entry(number).or_insert_with(|| answer.clone());
            assert_eq!(*before, answer, "guest {number} of round {} was told two things", self.round);
        };
        for (number, first) in first.iter().enumerate() {
            let Some((answer, at)) = first else { continue };
            if matches!(answer.header("saga-status"), Some("completed" | "compensated")) {
                hear(number, answer, *at);
            } else if let Some(saga_id) = answer.header("saga-id") {
                go_on.insert(number, saga_id);
            }
        }
        for envoy in envoys {
            let asked = (0..self.size).map(|number| async move {
                let answer = fleet.ask_until_told(*envoy, &self.request(number), &self.key(number), timeout).await?;
                anyhow::Ok((answer, Instant::now()))
            });
            for (number, (answer, at)) in try_join_all(asked).await.unwrap().into_iter().enumerate() {
                hear(number, &answer, at);
            }
        }
        for (number, saga_id) in go_on {
            assert_eq!(told[&number].saga_id, saga_id, "guest {number} was told that this one goes on");
        }
        // Only then is there none of which nobody is told.
        fleet.wait_until_no_saga_is_open(Duration::from_secs(20)).await.unwrap();
        let histories = fleet.participants.histories().unwrap();
        for number in 0..self.size {
            let request = self.request(number);
            let Told { status, saga_id, .. } = &told[&number];
            let Some(history) = histories.get(&request.guest) else {
                let nothing_was_sent = *status == 409 && may_be_late.contains(&number);
                assert!(nothing_was_sent, "{} was told {status}", request.guest);
                continue;
            };
            let wanted = if *status == 201 { request.steps() } else { &[] };
            let wanted = wanted.iter().copied().collect();
            assert_eq!(history.held(), wanted, "{} was told {status}\n{}", request.guest, history.table());
            assert_eq!(history.sagas(), BTreeSet::from([saga_id.as_str()]), "{}", history.table());
            match (Self::is_refused(number), may_be_late.contains(&number)) {
                (true, _) => assert_eq!(*status, 409, "{}", history.table()),
                (false, false) => assert_eq!(*status, 201, "{}", history.table()),
                // One that was under way for longer than its deadline is undone.
                (false, true) => assert!([201, 409].contains(status), "{}", history.table()),
            }
            assert!(history.overtaken().is_empty(), "{:?}\n{}", history.overtaken(), history.table());
        }
        fleet.participants.check_nothing_applied_twice().unwrap();
        // Nor by a second saga, which would be another one for what is checked above.
        fleet.participants.check_one_saga_for_each_guest().unwrap();
        for envoy in envoys {
            assert_eq!(fleet.counter(*envoy, "illegal_events").await.unwrap(), 0, "{}", fleet.envoys[*envoy].log());
            assert_eq!(fleet.counter(*envoy, "sagas_quarantined").await.unwrap(), 0);
        }
        may_be_late.len()
    }
}
