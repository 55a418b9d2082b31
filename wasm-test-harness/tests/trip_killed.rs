//! Envoys and etcds that are killed or frozen in the middle of sagas: what is under way ends, once.

use std::time::{Duration, Instant};

use harness::fleet::Fleet;

#[path = "support/crowd.rs"]
mod crowd;

use crowd::Crowd;

const SAGAS: usize = 50;
const APART: Duration = Duration::from_millis(10);

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
        crowd.set_faults(&fleet);
        let before = fleet.counter(heir, "sagas_taken_over").await.unwrap();
        let under_way = crowd.begin(&fleet, victim, APART).await;
        // At another moment in each round.
        tokio::time::sleep(Duration::from_millis(37 * (round as u64 % 10))).await;
        fleet.envoys[victim].kill9();
        let killed = Instant::now();
        let first = Crowd::first_answers(under_way).await;
        let unanswered = first.iter().filter(|answer| answer.is_none()).count();
        crowd.check(&fleet, &[heir], &first).await;
        let taken_over = fleet.counter(heir, "sagas_taken_over").await.unwrap() - before;
        println!(
            "kill {:2} of {}: {unanswered:2} unanswered, {taken_over:2} taken over, all told and checked after {:.1} s",
            round + 1,
            kills(),
            killed.elapsed().as_secs_f64()
        );
        fleet.envoys[victim] = fleet.another().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_was_frozen_for_longer_than_its_lease_does_nothing_for_sagas_that_are_another_s() {
    let fleet = Fleet::start(2).await.unwrap();
    let crowd = Crowd::new(0, SAGAS);
    crowd.set_faults(&fleet);
    let under_way = crowd.begin(&fleet, 0, APART).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    fleet.envoys[0].freeze().unwrap();
    crowd.check(&fleet, &[1], &[]).await;
    assert!(fleet.counter(1, "sagas_taken_over").await.unwrap() > 0, "none was under way");
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
async fn sagas_wait_for_an_etcd_that_was_killed_and_go_on_when_it_is_back() {
    let fleet = Fleet::start(1).await.unwrap();
    let crowd = Crowd::new(0, SAGAS);
    crowd.set_faults(&fleet);
    let under_way = crowd.begin(&fleet, 0, APART).await;
    fleet.etcd.kill9();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    fleet.etcd.restart().await.unwrap();
    let first = Crowd::first_answers(under_way).await;
    crowd.check(&fleet, &[0], &first).await;
}
