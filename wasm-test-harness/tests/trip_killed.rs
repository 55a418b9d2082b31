//! Envoys and etcds that are killed or frozen in the middle of sagas: what is under way ends, once.

use std::time::{Duration, Instant};

use harness::fleet::Fleet;
use harness::loopback::InFlight;
use harness::participant::{Attempt, AttemptFilter};

#[path = "support/crowd.rs"]
mod crowd;

use crowd::Crowd;

const SAGAS: usize = 50;
const APART: Duration = Duration::from_millis(10);
const HOTELS_TAKE: Duration = Duration::from_millis(550);

/// How many Envoys are killed: 20 unless `KILLS` says otherwise.
fn kills() -> usize {
    std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(20)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_every_kill_of_an_envoy_the_other_finishes_its_sagas() {
    let mut fleet = Fleet::start(2).await.unwrap();
    for round in 0..kills() {
        let (victim, heir) = (round % 2, (round + 1) % 2);
        let crowd = Crowd::new(round, SAGAS);
        crowd.set_faults(&fleet, HOTELS_TAKE, 1);
        let before = fleet.counter(heir, "sagas_taken_over").await.unwrap();
        let under_way = crowd.begin(&fleet, victim, APART).await;
        // At another moment in each round.
        tokio::time::sleep(Duration::from_millis(37 * (round as u64 % 10))).await;
        fleet.envoys[victim].kill9();
        let killed = Instant::now();
        let first = Crowd::first_answers(under_way).await;
        let unanswered = first.iter().filter(|answer| answer.is_none()).count();
        assert!(unanswered >= SAGAS / 2, "only {unanswered} of {SAGAS} were under way");
        let open = open_once_all_has_arrived(&fleet).await;
        // Most were answered nothing: they ask twice.
        let late = crowd.check(&fleet, &[heir, heir], &first).await;
        assert!(late < SAGAS / 2, "{late} of {SAGAS} were told so late that they need not have succeeded");
        let taken_over = fleet.counter(heir, "sagas_taken_over").await.unwrap() - before;
        println!(
            "kill {:2} of {}: {unanswered:2} unanswered, {open:2} open, {taken_over:2} taken over, all told and checked after {:.1} s",
            round + 1,
            kills(),
            killed.elapsed().as_secs_f64()
        );
        assert!(open >= SAGAS / 2, "only {open} of {SAGAS} were open");
        assert_eq!(taken_over, open as u64, "each that was open is taken over, once");
        fleet.envoys[victim] = fleet.another().await.unwrap();
    }
}

/// How many sagas are open: well before the lease of a dead Envoy ends, and after what was on its way to etcd.
async fn open_once_all_has_arrived(fleet: &Fleet) -> usize {
    let mut open = None;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = fleet.open_sagas().await.unwrap().len();
        if open.replace(now) == Some(now) {
            return now;
        }
    }
}

/// Freezes the first Envoy while all sagas wait for their hotels, and for nothing else: what the filter has handed to Envoy
/// before, and Envoy not yet to the network, arrives after the thaw.
async fn freeze_while_all_wait(fleet: &Fleet, crowd: &Crowd, slow_attempts: u32) -> Vec<InFlight> {
    crowd.set_faults(fleet, Duration::from_millis(1_200), slow_attempts);
    let under_way = crowd.begin(fleet, 0, Duration::ZERO).await;
    let count = |role, is_wanted: fn(&Attempt) -> bool| {
        let attempts = fleet.participants.participant(role).attempts(&AttemptFilter::default()).unwrap();
        attempts.into_iter().filter(is_wanted).count()
    };
    while count("hotel", |_| true) < SAGAS || count("flight", |attempt| attempt.answered_at_us.is_some()) < SAGAS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Envoy has the answers of the flights, too.
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet.envoys[0].freeze().unwrap();
    let answered = count("hotel", |attempt| attempt.answered_at_us.is_some());
    assert_eq!(answered, 0, "the machine is too slow: hotels have answered before all had asked");
    under_way
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_was_frozen_for_longer_than_its_lease_does_nothing_for_sagas_that_are_another_s() {
    let fleet = Fleet::start(2).await.unwrap();
    let crowd = Crowd::new(0, SAGAS);
    let under_way = freeze_while_all_wait(&fleet, &crowd, 1).await;
    crowd.check(&fleet, &[1], &[]).await;
    assert!(fleet.counter(1, "sagas_taken_over").await.unwrap() >= SAGAS as u64 / 2, "few were under way");
    let attempts = fleet.participants.histories().unwrap();
    fleet.envoys[0].thaw();
    let first = Crowd::first_answers(under_way).await;
    crowd.check(&fleet, &[0, 1], &first).await;
    for (guest, before) in &attempts {
        let now = fleet.participants.history(guest).unwrap().table();
        assert_eq!(before.table(), now, "something was sent for {guest} by who does not have the saga any more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_wakes_while_another_works_on_its_sagas_lets_go_of_them() {
    let fleet = Fleet::start(2).await.unwrap();
    let crowd = Crowd::new(0, SAGAS);
    // The heir, too, has to wait for its hotels.
    let under_way = freeze_while_all_wait(&fleet, &crowd, 2).await;
    let started = Instant::now();
    while fleet.counter(1, "sagas_taken_over").await.unwrap() < SAGAS as u64 / 2 {
        assert!(started.elapsed() < Duration::from_secs(10), "few were taken over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fleet.envoys[0].thaw();
    let open = fleet.open_sagas().await.unwrap().len();
    assert!(open >= SAGAS / 4, "the heir was to be at work still, and has {open}");
    let first = Crowd::first_answers(under_way).await;
    crowd.check(&fleet, &[0, 1], &first).await;
    assert!(fleet.counter(0, "sagas_gone_elsewhere").await.unwrap() > 0, "it has not noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sagas_wait_for_an_etcd_that_was_killed_and_go_on_when_it_is_back() {
    let fleet = Fleet::start(1).await.unwrap();
    let crowd = Crowd::new(0, SAGAS);
    crowd.set_faults(&fleet, HOTELS_TAKE, 1);
    let under_way = crowd.begin(&fleet, 0, APART).await;
    kill_etcd_under(&fleet, &under_way).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    fleet.etcd.restart().await.unwrap();
    let first = Crowd::first_answers(under_way).await;
    crowd.check(&fleet, &[0], &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_that_their_sagas_go_on_where_etcd_is_away_for_longer_than_they_may_wait() {
    let deadline = Duration::from_secs(3);
    let fleet = Fleet::plan().change(|yaml| yaml["sagas"][0]["deadline"] = "3s".into()).start(1).await.unwrap();
    let mut crowd = Crowd::new(0, SAGAS);
    crowd.deadline = deadline;
    crowd.set_faults(&fleet, HOTELS_TAKE, 1);
    let under_way = crowd.begin(&fleet, 0, APART).await;
    kill_etcd_under(&fleet, &under_way).await;
    // They wait for 5 s more than the deadline.
    tokio::time::sleep(deadline + Duration::from_secs(9)).await;
    assert!(under_way.iter().all(InFlight::is_done), "some wait for longer");
    let first = Crowd::first_answers(under_way).await;
    let answers = || first.iter().flatten().map(|(answer, _)| answer);
    let go_on = answers().filter(|answer| answer.status == 504 && answer.header("saga-id").is_some()).count();
    let statuses: Vec<u16> = answers().map(|answer| answer.status.as_u16()).collect();
    assert!(go_on >= SAGAS / 2, "{statuses:?}");
    fleet.etcd.restart().await.unwrap();
    crowd.check(&fleet, &[0], &first).await;
}

/// Most clients wait, and all that asked have begun their sagas.
async fn kill_etcd_under(fleet: &Fleet, clients: &[InFlight]) {
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet.etcd.kill9();
    let waiting = clients.iter().filter(|client| !client.is_done()).count();
    assert!(waiting >= SAGAS / 2, "only {waiting} were under way");
}
