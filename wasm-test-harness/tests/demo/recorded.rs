//! Four trips as they may go, with round times, and the pages that they are drawn as.

use std::collections::BTreeMap;

use harness::demo::recording::{ClientOutcome, ClientView, Databases, End, Recording};
use harness::participant::{Attempt, Booking, BookingState};
use harness::trip::STEPS;
use serde_json::{Value as Json, json};

/// The id of every saga here.
pub const SAGA: &str = "01900000-0000-7000-8000-000000000001";

const ZERO_US: i64 = 1_700_000_000_000_000;

/// One attempt: when it came, when it was applied and when it was answered, in ms, and the status.
struct Came(&'static str, u32, i64, Option<i64>, Option<(i64, u16)>);

fn attempts(guest: &str, came: &[Came]) -> Vec<Attempt> {
    let at = |ms: i64| ZERO_US + ms * 1_000;
    let attempt = |(index, came): (usize, &Came)| Attempt {
        number: index as i64 + 1,
        received_at_us: at(came.2),
        applied_at_us: came.3.map(at),
        answered_at_us: came.4.map(|(ms, _)| at(ms)),
        guest: Some(guest.to_owned()),
        saga_id: Some(SAGA.to_owned()),
        saga_name: Some("book-trip".to_owned()),
        saga_step: None,
        action: Some(came.0.to_owned()),
        attempt: Some(came.1),
        epoch: Some(1),
        idempotency_key: None,
        method: "POST".to_owned(),
        path: "/bookings".to_owned(),
        headers: vec![("x-envoy-expected-rq-timeout-ms".to_owned(), "2000".to_owned())],
        body: String::new(),
        fault: None,
        status: came.4.map(|(_, status)| status),
    };
    came.iter().enumerate().map(attempt).collect()
}

fn row(id: &str, guest: &str, state: BookingState) -> Booking {
    let saga = if guest == "ann" && id.ends_with("-0") { "an earlier one" } else { SAGA };
    Booking {
        id: id.to_owned(),
        guest: guest.to_owned(),
        key: None,
        saga_id: Some(saga.to_owned()),
        saga_step: None,
        state,
        answer: Json::Null,
        booked_at_us: ZERO_US,
        cancelled_at_us: None,
        booked_again: 0,
        cancelled_again: 0,
    }
}

/// What stood before, and with it what came.
fn databases(rows: [&[Booking]; 3]) -> Databases {
    STEPS.into_iter().zip(rows).map(|(role, rows)| (role, rows.to_vec())).collect()
}

fn received(guest: &str, came: [&[Came]; 3]) -> BTreeMap<&'static str, Vec<Attempt>> {
    STEPS.into_iter().zip(came).map(|(role, came)| (role, attempts(guest, came))).collect()
}

fn answered(after_ms: i64, status: u16, saga_status: &str, body: Json) -> ClientView {
    let outcome = ClientOutcome::Answered {
        status,
        saga_id: Some(SAGA.to_owned()),
        saga_status: Some(saga_status.to_owned()),
        body,
    };
    ClientView { asked_at_us: ZERO_US, until_us: ZERO_US + after_ms * 1_000, outcome }
}

fn problem(failed_step: &str, reason: &str) -> Json {
    json!({"failed_step": failed_step, "reason": reason})
}

use BookingState::{Booked, Cancelled};

/// Hotel and flight at the same time, then the car.
pub fn all_well() -> Recording {
    let body = json!({"hotel": "hotel-1", "flight": "flight-1"});
    Recording {
        title: "all goes well".to_owned(),
        story: "The story.".to_owned(),
        guest: "ann".to_owned(),
        wanted: STEPS.to_vec(),
        expected: End::Completed,
        client: answered(370, 201, "completed", body),
        attempts: received(
            "ann",
            [
                &[Came("transaction", 1, 2, Some(240), Some((241, 201)))],
                &[Came("transaction", 1, 2, Some(160), Some((161, 201)))],
                &[Came("transaction", 1, 245, Some(365), Some((366, 201)))],
            ],
        ),
        before: databases([&[], &[], &[]]),
        after: databases([
            &[row("hotel-1", "ann", Booked)],
            &[row("flight-1", "ann", Booked)],
            &[row("car-1", "ann", Booked)],
        ]),
        restless: None,
    }
}

/// The flight refuses at once, while the hotel is under way.
pub fn flight_refused() -> Recording {
    let before = row("hotel-0", "ann", Booked);
    Recording {
        title: "the flight is refused".to_owned(),
        story: "The story.".to_owned(),
        guest: "bob".to_owned(),
        wanted: STEPS.to_vec(),
        expected: End::Compensated,
        client: answered(370, 409, "compensated", problem("flight", "answered 422")),
        attempts: received(
            "bob",
            [
                &[
                    Came("transaction", 1, 2, Some(240), Some((241, 201))),
                    Came("compensation", 1, 243, Some(365), Some((366, 204))),
                ],
                &[Came("transaction", 1, 2, None, Some((3, 422)))],
                &[],
            ],
        ),
        before: databases([std::slice::from_ref(&before), &[], &[]]),
        after: databases([&[before, row("hotel-1", "bob", Cancelled)], &[], &[]]),
        restless: None,
    }
}

/// Three attempts without an answer, a fourth to learn it, and the cancellation.
pub fn hotel_silent() -> Recording {
    Recording {
        title: "the hotel books, but does not answer".to_owned(),
        story: "The story.".to_owned(),
        guest: "cleo".to_owned(),
        wanted: vec!["hotel", "flight"],
        expected: End::Compensated,
        client: answered(6_900, 409, "compensated", problem("hotel", "answered 504")),
        attempts: received(
            "cleo",
            [
                &[
                    Came("transaction", 1, 2, Some(2), None),
                    Came("transaction", 2, 2_050, None, None),
                    Came("transaction", 3, 4_150, None, None),
                    Came("transaction", 4, 6_160, None, Some((6_500, 201))),
                    Came("compensation", 1, 6_510, Some(6_890), Some((6_895, 204))),
                ],
                &[
                    Came("transaction", 1, 2, Some(200), Some((201, 201))),
                    Came("compensation", 1, 6_155, Some(6_159), Some((6_160, 204))),
                ],
                &[],
            ],
        ),
        before: databases([&[], &[], &[]]),
        after: databases([&[row("hotel-1", "cleo", Cancelled)], &[row("flight-1", "cleo", Cancelled)], &[]]),
        restless: None,
    }
}

/// The client leaves at 400 ms, the hotel answers at 1 s.
pub fn client_leaves() -> Recording {
    Recording {
        title: "the client leaves".to_owned(),
        story: "The story.".to_owned(),
        guest: "dan".to_owned(),
        wanted: vec!["hotel", "flight"],
        expected: End::Completed,
        client: ClientView { asked_at_us: ZERO_US, until_us: ZERO_US + 400_000, outcome: ClientOutcome::Left },
        attempts: received(
            "dan",
            [
                &[Came("transaction", 1, 2, Some(1_000), Some((1_001, 201)))],
                &[Came("transaction", 1, 2, Some(200), Some((201, 201)))],
                &[],
            ],
        ),
        before: databases([&[], &[], &[]]),
        after: databases([&[row("hotel-1", "dan", Booked)], &[row("flight-1", "dan", Booked)], &[]]),
        restless: None,
    }
}

/// The page of [`all_well`].
pub const ALL_WELL: &str = r#"
The story.

ms      0           100         200         300
        ┼───────────┼───────────┼───────────┼─────────
client  ─────────────────────────────────────────────┤       201 completed
hotel   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓●✓                       booked hotel-1
flight  ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓●✓                                 booked flight-1
car                                  ▓▓▓▓▓▓▓▓▓▓▓▓▓▓●✓        booked car-1

The client got 201 after 370 ms, saga-status: completed
  {"flight":"flight-1","hotel":"hotel-1"}

        before                          after
hotel   -                               hotel-1   ann    booked
flight  -                               flight-1  ann    booked
car     -                               car-1     ann    booked

✓ in balance: hotel, flight, car stand, once each
"#;

/// The page of [`flight_refused`].
pub const FLIGHT_REFUSED: &str = "
The story.

ms      0           100         200         300
        ┼───────────┼───────────┼───────────┼─────────
client  ─────────────────────────────────────────────┤       409 compensated
hotel   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓●✓░░░░░░░░░░░░░○✓        cancelled hotel-1
flight  ▓✗                                                   never booked
car                                                          never asked

The client got 409 after 370 ms, saga-status: compensated
  reason: answered 422

        before                          after
hotel   hotel-0   ann    booked         hotel-0   ann    booked
        -                               hotel-1   bob    cancelled
flight  -                               -
car     -                               -

✓ in balance: nothing of it stands
";

/// The page of [`hotel_silent`].
pub const HOTEL_SILENT: &str = "
The story.

ms      0            2000         4000         6000
        ┼────────────┼────────────┼────────────┼──────
client  ──────────────────────────────────────────────┤      409 compensated
hotel   ●▓▓▓▓▓▓▓▓▓▓▓▓?2▓▓▓▓▓▓▓▓▓▓▓?3▓▓▓▓▓▓▓▓▓▓▓▓?4✓░○✓       cancelled hotel-1
flight  ▓●✓                                     ○░✓          cancelled flight-1
car                                                          not wanted

The client got 409 after 6900 ms, saga-status: compensated
  reason: answered 504

        before                          after
hotel   -                               hotel-1   cleo   cancelled
flight  -                               flight-1  cleo   cancelled
car     -                               -

✓ in balance: nothing of it stands
";

/// The page of [`client_leaves`].
pub const CLIENT_LEAVES: &str = "
The story.

ms      0       200      400      600      800      1000
        ┼───────┼────────┼────────┼────────┼────────┼─
client  ─────────────────╳                                   left
hotel   ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓●✓       booked hotel-1
flight  ▓▓▓▓▓▓▓▓●✓                                           booked flight-1
car                                                          not wanted

The client left after 400 ms and was told nothing.

        before                          after
hotel   -                               hotel-1   dan    booked
flight  -                               flight-1  dan    booked
car     -                               -

✓ in balance: hotel, flight stand, once each
";
