//! Many sagas at once, some of which are refused and some of which are not lucky at first.

use std::time::{Duration, Instant};

use futures::StreamExt;
use harness::loopback::Client;
use harness::participant::{Action, Fault, FaultKind};
use harness::trip::{BodyMode, STEPS, Trip, TripRequest, per_try_timeout};

const SAGAS: usize = 500;
const CONNECTIONS: usize = 64;

/// What happens to the saga of this number: the step that it happens to, and what.
fn misfortune(number: usize) -> Option<(&'static str, FaultKind)> {
    let step = STEPS[number / 10 % STEPS.len()];
    match number % 10 {
        0 => Some((step, FaultKind::Refuse)),
        1 => Some((step, FaultKind::Error500)),
        2 => Some((step, FaultKind::Reset)),
        3 => Some((step, FaultKind::Truncate)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_sagas_with_a_tenth_refused_and_a_third_stumbling_balance() {
    let trip = Trip::start_with(|envoy| envoy.workers(2)).await.unwrap();
    let client = Client::http1().timeout(Duration::from_secs(30));
    let began = Instant::now();
    let book = |number: usize| {
        let request = TripRequest::of(format!("guest {number}")).with_car();
        let url = trip.url(BodyMode::ALL[number % 2]);
        if let Some((step, kind)) = misfortune(number) {
            trip.participant(step).set_fault(Fault::new(&request.guest, Action::Transaction, kind)).unwrap();
        }
        let client = client.clone();
        async move { (number, client.post_json(&url, &request.body(), &[]).await) }
    };
    let answers: Vec<_> = futures::stream::iter(0..SAGAS).map(book).buffer_unordered(CONNECTIONS).collect().await;
    println!("{SAGAS} sagas in {:.1} s", began.elapsed().as_secs_f64());
    trip.wait_until_quiet(Duration::from_millis(700), Duration::from_secs(20)).await.unwrap();

    let histories = trip.histories().unwrap();
    let mut wrong = String::new();
    for (number, answer) in answers {
        let history = &histories[&format!("guest {number}")];
        let refused = matches!(misfortune(number), Some((_, FaultKind::Refuse)));
        let expected = if refused { (409, Some("compensated"), 0) } else { (201, Some("completed"), 3) };
        let found = match &answer {
            Ok(answer) => (answer.status.as_u16(), answer.header("saga-status"), history.held().len()),
            Err(_) => (0, None, history.held().len()),
        };
        let saga_id = answer.as_ref().ok().and_then(|answer| answer.header("saga-id"));
        let broken = history.broken_rules(saga_id, per_try_timeout);
        if found != expected || !broken.is_empty() {
            wrong += &format!("{}  {found:?}, expected {expected:?}; {broken:?}; {answer:?}\n", history.table());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let refused = (0..SAGAS).filter(|number| matches!(misfortune(*number), Some((_, FaultKind::Refuse)))).count();
    for role in STEPS {
        let balance = trip.participant(role).balance().unwrap();
        assert_eq!((balance.booked as usize, balance.applied_twice), (SAGAS - refused, 0), "{role}");
    }
    trip.check_filter_is_well().await.unwrap();
}
