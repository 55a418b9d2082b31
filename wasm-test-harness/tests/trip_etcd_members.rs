//! An etcd of three members, of which one goes away in the middle of sagas: the other two go on.

use std::time::{Duration, Instant};

use harness::etcd::RunningEtcd;
use harness::fleet::Fleet;
use harness::trip::TripRequest;

#[path = "support/crowd.rs"]
mod crowd;

use crowd::Crowd;

const LEASE: Duration = Duration::from_secs(10);
const SAGAS: usize = 50;
const APART: Duration = Duration::from_millis(10);
/// So that most sagas are under way as it goes.
const HOTELS_TAKE: Duration = Duration::from_millis(700);
/// Within this the two that are left have elected a leader, and Envoy has seen who is away.
const GRACE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(20);
/// Trips that are begun after that, one after another.
const LATER: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_sagas_under_way_end_and_new_ones_begin() {
    one_goes_away(true, RunningEtcd::kill9).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_follower_is_killed_sagas_under_way_end_and_new_ones_begin() {
    one_goes_away(false, RunningEtcd::kill9).await;
}

/// Its port still takes connections, and calls that it never answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_frozen_sagas_under_way_end_and_new_ones_begin() {
    one_goes_away(true, |member| member.freeze().unwrap()).await;
}

async fn one_goes_away(leader: bool, go: impl FnOnce(&RunningEtcd)) {
    // The lease that ships: electing a leader takes longer than one of 2 s lets an Envoy go on without etcd.
    let mut fleet = Fleet::plan().three_members().lease(LEASE).start(2).await.unwrap();
    let crowd = Crowd::new(0, SAGAS);
    crowd.set_faults(&fleet, HOTELS_TAKE, 1);
    put_aside(&mut fleet, leader).await;
    let under_way = crowd.begin(&fleet, 0, APART).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    go(victim(&fleet));
    let gone = Instant::now();

    tokio::time::sleep(GRACE).await;
    let mut refused = 0;
    for number in 0..LATER {
        let (request, key) = (TripRequest::of(format!("later-{number}")), format!("key-of-later-{number}"));
        let mut answer = fleet.ask(number % 2, &request, &key).await.unwrap();
        let after = gone.elapsed();
        if answer.status == 503 {
            refused += 1;
            answer = fleet.ask_until_told(number % 2, &request, &key, SOON).await.unwrap();
        }
        assert_eq!(answer.status, 201, "trip {number}, {after:?} after it went: {}", answer.text());
        assert_eq!(fleet.participants.held(&request.guest).unwrap(), request.steps().iter().copied().collect());
    }
    // On a slow machine the members may elect once more.
    assert!(refused <= LATER / 20, "{refused} of {LATER} were refused");
    let first = Crowd::first_answers(under_way).await;
    crowd.check(&fleet, &[0, 1], &first).await;

    victim(&fleet).restart().await.unwrap();
    let answer = fleet.ask(0, &TripRequest::of("ann"), "key-of-ann").await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.text());
}

/// Makes the one that will go the last of the other members, so that the fleet asks another what etcd holds.
async fn put_aside(fleet: &mut Fleet, leader: bool) {
    let mut of_other = None;
    for (number, member) in fleet.other_members.iter().enumerate() {
        if member.is_leader().await.unwrap() == leader {
            of_other = Some(number);
        }
    }
    match of_other {
        Some(number) => fleet.other_members.swap(number, 1),
        // Then it is the one that is asked.
        None => std::mem::swap(&mut fleet.etcd, &mut fleet.other_members[1]),
    }
}

fn victim(fleet: &Fleet) -> &RunningEtcd {
    &fleet.other_members[1]
}
