//! The demo: its pictures from recorded data, its verdict on databases in and out of balance, and what `make run`
//! leaves up.

use harness::demo::balance::check;
use harness::demo::page;
use harness::demo::palette::Palette;
use harness::demo::picture;
use harness::demo::recording::{ClientOutcome, Recording};
use harness::demo::up::Up;
use harness::loopback::{self, Client, Outgoing};
use harness::participant::{Action, BookingState, Fault, FaultKind, Participant};
use hyper::Method;

#[path = "demo/recorded.rs"]
mod recorded;

use recorded::{all_well, client_leaves, flight_refused, hotel_silent};

fn findings(change: impl FnOnce(&mut Recording), mut recording: Recording) -> String {
    assert_eq!(check(&recording), Vec::<String>::new(), "in balance before the change");
    change(&mut recording);
    check(&recording).join("; ")
}

/// Without the colours, nothing else changes.
fn drawn(recording: &Recording) -> String {
    let plain = page(recording, &check(recording), Palette::plain());
    let coloured = page(recording, &check(recording), Palette::coloured());
    assert!(coloured.contains("\x1b[32m"));
    let mut stripped = String::new();
    let mut rest = coloured.as_str();
    while let Some((text, after)) = rest.split_once('\x1b') {
        stripped.push_str(text);
        rest = after.split_once('m').expect("the end of a colour").1;
    }
    stripped.push_str(rest);
    let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&stripped), trimmed(&plain));
    for line in plain.lines() {
        assert!(line.chars().count() <= 80, "wider than a terminal: {line}");
    }
    format!("\n{plain}")
}

#[test]
fn a_trip_that_goes_well_shows_what_runs_at_the_same_time() {
    assert_eq!(drawn(&all_well()), recorded::ALL_WELL);
}

#[test]
fn a_refused_trip_shows_that_what_is_under_way_is_waited_for_and_then_undone() {
    assert_eq!(drawn(&flight_refused()), recorded::FLIGHT_REFUSED);
}

#[test]
fn attempts_without_answer_are_apart_and_numbered() {
    assert_eq!(drawn(&hotel_silent()), recorded::HOTEL_SILENT);
}

#[test]
fn a_client_that_leaves_is_seen_to_leave_before_the_saga_ends() {
    assert_eq!(drawn(&client_leaves()), recorded::CLIENT_LEAVES);
}

#[test]
fn many_attempts_in_no_time_are_all_drawn() {
    let mut recording = all_well();
    let attempts = recording.attempts.get_mut("hotel").unwrap();
    for number in 2..40 {
        let mut again = attempts[0].clone();
        again.attempt = Some(number);
        attempts.push(again);
    }
    let drawn = picture::draw(&recording, Palette::plain());
    let line = drawn.lines().find(|line| line.starts_with("hotel")).unwrap();
    assert_eq!(line.matches('✓').count(), 39, "{line}");
}

#[test]
fn a_page_says_in_words_what_is_out_of_balance() {
    let mut recording = flight_refused();
    recording.after.get_mut("hotel").unwrap()[1].state = BookingState::Booked;
    let page = page(&recording, &check(&recording), Palette::plain());
    assert!(page.contains("✗ out of balance: half a trip: hotel booked, of hotel, flight, car"), "{page}");
    assert!(!page.contains("✓ in balance"), "{page}");
}

#[test]
fn half_a_trip_is_out_of_balance() {
    let cancelled = |one: &mut Recording| one.after.get_mut("car").unwrap()[0].state = BookingState::Cancelled;
    assert_eq!(findings(cancelled, all_well()), "half a trip: hotel, flight booked, of hotel, flight, car");
    let missing = |one: &mut Recording| one.after.get_mut("flight").unwrap().clear();
    assert!(findings(missing, all_well()).contains("half a trip: hotel, car booked"));
}

#[test]
fn a_step_that_is_there_twice_is_out_of_balance_be_it_cancelled() {
    let twice = |one: &mut Recording| {
        let rows = one.after.get_mut("hotel").unwrap();
        let mut again = rows[0].clone();
        again.id = "hotel-9".to_owned();
        again.state = BookingState::Cancelled;
        rows.push(again);
    };
    assert_eq!(findings(twice, all_well()), "hotel booked 2 times");
}

#[test]
fn what_the_client_was_told_has_to_agree() {
    let told = |status: u16, saga_status: &str| {
        let saga_status = saga_status.to_owned();
        move |one: &mut Recording| {
            let ClientOutcome::Answered { status: was, saga_status: said, .. } = &mut one.client.outcome else {
                panic!("the client was answered")
            };
            (*was, *said) = (status, Some(saga_status));
        }
    };
    assert_eq!(
        findings(told(409, "compensated"), all_well()),
        "the client was told 409 compensated, but it was completed"
    );
    assert_eq!(
        findings(told(201, "completed"), flight_refused()),
        "the client was told 201 completed, but it was compensated"
    );
    assert!(findings(told(200, "compensated"), flight_refused()).contains("was told 200 compensated"));
    assert!(findings(told(504, "compensating"), flight_refused()).contains("was told 504 compensating"));
}

#[test]
fn the_ids_that_the_client_was_told_are_those_of_the_rows() {
    let other = |one: &mut Recording| one.after.get_mut("flight").unwrap()[0].id = "flight-7".to_owned();
    assert_eq!(findings(other, all_well()), "the client was told flight flight-1, which is not what is booked");
}

#[test]
fn a_trip_that_ends_otherwise_than_it_should_is_a_finding() {
    let cancelled = |one: &mut Recording| {
        one.after.values_mut().flatten().for_each(|row| row.state = BookingState::Cancelled);
    };
    let found = findings(cancelled, all_well());
    assert!(found.contains("the databases say that it was compensated, but it was to be completed"), "{found}");
    assert!(found.contains("the client was told 201 completed, but it was compensated"), "{found}");
}

#[test]
fn rows_of_others_and_of_other_sagas_are_findings() {
    let others = |one: &mut Recording| one.after.get_mut("hotel").unwrap()[0].state = BookingState::Cancelled;
    assert_eq!(findings(others, flight_refused()), "hotel has changed the rows of other guests");
    let saga = |one: &mut Recording| one.after.get_mut("car").unwrap()[0].saga_id = Some("another".to_owned());
    assert!(findings(saga, all_well()).contains("not of one saga"));
}

#[test]
fn a_client_that_leaves_when_nothing_is_under_way_shows_nothing() {
    let late = |one: &mut Recording| one.client.until_us += 60_000_000;
    assert_eq!(findings(late, client_leaves()), "the client was to leave while a step was under way, and none was");
}

#[test]
fn what_does_not_come_to_rest_is_a_finding() {
    let restless = |one: &mut Recording| one.restless = Some("bob holds {hotel}".to_owned());
    assert_eq!(findings(restless, flight_refused()), "it did not come to rest: bob holds {hotel}");
}

/// The rows are those of a real database: a participant that says 200 to a cancellation and does not do it is found out.
#[tokio::test]
async fn a_participant_that_only_says_that_it_has_cancelled_is_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let hotel = Participant::start("hotel", &directory.path().join("hotel.sqlite")).await.unwrap();
    let url = format!("http://{}/bookings", hotel.address());
    // The body of the lie is cut short, so only its head is asked for.
    let ask = async |method: Method, url: &str, body: String, action: &str| {
        let key = format!("{}.hotel.{action}", recorded::SAGA);
        let headers = [("saga-id", recorded::SAGA), ("saga-step", "hotel"), ("idempotency-key", &key)];
        let request = loopback::request(method, url, &headers, Outgoing::whole(body)).unwrap();
        Client::http1().open(request).await.unwrap().status()
    };
    let body = serde_json::json!({"guest": "bob"}).to_string();
    assert_eq!(ask(Method::POST, &url, body, "t").await, 201);
    let lie = Fault::new("bob", Action::Compensation, FaultKind::Truncate).applies(false);
    hotel.set_fault(lie).unwrap();

    let mut recording = flight_refused();
    recording.before.get_mut("hotel").unwrap().clear();
    let cancel = async || ask(Method::DELETE, &format!("{url}/hotel-1"), String::new(), "c").await;
    assert_eq!(cancel().await, 200);
    recording.after.insert("hotel", hotel.bookings().unwrap());
    assert!(check(&recording).join("; ").contains("half a trip: hotel booked"), "{:?}", check(&recording));

    assert_eq!(cancel().await, 204);
    recording.after.insert("hotel", hotel.bookings().unwrap());
    assert_eq!(check(&recording), Vec::<String>::new());
}

/// On a real Envoy: what `make run` prints is what it says, also where ports are taken.
#[tokio::test]
async fn every_request_that_is_printed_to_be_tried_comes_to_what_it_says() {
    let blocker = std::net::TcpListener::bind("127.0.0.1:18083");
    let up = Up::start(1).await.unwrap();
    assert!(up.taken().iter().any(|text| text.contains("port 18083") && text.contains("cluster `car`")), "{up}");
    drop(blocker);
    let mut came = Vec::new();
    for one in up.tries() {
        let answer = one.send().await.unwrap();
        let text = answer.text();
        assert!(one.body.is_some() || !text.is_empty());
        came.push((answer.status.as_u16(), answer.header("saga-status").map(str::to_owned), text));
    }
    let statuses: Vec<_> = came.iter().map(|(status, saga, _)| (*status, saga.as_deref())).collect();
    let completed = (201, Some("completed"));
    let expected = [completed, completed, (204, None), (409, Some("compensated")), (200, None), (200, None), completed];
    assert_eq!(statuses, expected, "{came:?}");
    assert!(came[3].2.contains("flight"), "{}", came[3].2);
    let bookings: serde_json::Value = serde_json::from_str(&came[4].2).unwrap();
    let bobs: Vec<_> = bookings.as_array().unwrap().iter().filter(|row| row["guest"] == "bob").collect();
    assert_eq!(bobs.len(), 1);
    assert_eq!(bobs[0]["state"], "cancelled");
    assert_eq!(came[5].2, "the application got GET /hello\n");
    let printed = up.to_string();
    for one in up.tries() {
        assert!(printed.contains(&format!("curl -i {}", one.url)), "{printed}");
    }
}
