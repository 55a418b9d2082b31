//! `make demo-crash`: one of two Envoys is killed in the middle of trips, and the other finishes them.
//!
//! ```text
//! play: guests ask A -> kill -9 A -> who was not answered asks B -> Crash --> timeline   what was sent when, and by whom
//!                                                                        '--> wrong      what does not hold; nothing, or
//!                                                                                        the demo fails
//! ```

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use futures::future::join_all;

use super::palette::{Paint, Palette};
use super::timeline;
use crate::fleet::{Fleet, PREFIX};
use crate::loopback::Answer;
use crate::participant::{Action, Attempt, Fault, FaultKind};
use crate::trip::{STEPS, TripRequest};

/// How many trips, how far apart they begin, and how long after the last one Envoy is killed.
const GUESTS: usize = 12;
const APART: Duration = Duration::from_millis(70);
const KILLED_AFTER: Duration = Duration::from_millis(150);
/// How long who was not answered goes on asking.
const ASKS_FOR: Duration = Duration::from_secs(30);

/// The command line of `make demo-crash`.
#[derive(clap::Args, Debug, Clone)]
pub struct CrashArguments {
    /// No colours; nor are there any where NO_COLOR is set, or where the output is no terminal.
    #[arg(long)]
    pub no_color: bool,
}

/// What happened. Times are microseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub struct Crash {
    /// When the first guest asked.
    pub began_at_us: i64,
    /// When Envoy A was killed.
    pub killed_at_us: i64,
    /// In the order in which they began.
    pub trips: Vec<CrashedTrip>,
    /// Keys in etcd as Envoy was killed, and in the end, by kind.
    pub keys: [BTreeMap<String, usize>; 2],
    /// How many sagas Envoy B says that it has taken over.
    pub taken_over: u64,
    /// What does not hold, a sentence each.
    pub wrong: Vec<String>,
}

/// One trip.
#[derive(Debug, Clone)]
pub struct CrashedTrip {
    /// Who travels.
    pub guest: String,
    /// When the guest asked.
    pub asked_at_us: i64,
    /// What participants received, in order of arrival.
    pub received: Vec<(&'static str, Attempt)>,
    /// What the guest was told, by which Envoy, and when.
    pub told: Option<Told>,
    /// The participants with a booking that stands.
    pub held: Vec<&'static str>,
}

/// What a guest was told.
#[derive(Debug, Clone)]
pub struct Told {
    /// `A` or `B`.
    pub by: char,
    /// When.
    pub at_us: i64,
    /// The status of the answer.
    pub status: u16,
    /// The header `saga-status`.
    pub end: String,
}

/// Shows it.
///
/// # Errors
///
/// Something does not start; something does not hold.
pub fn run(arguments: &CrashArguments) -> anyhow::Result<()> {
    let palette = Palette::of_stdout(arguments.no_color);
    tokio::runtime::Runtime::new()?.block_on(async {
        print!("Starting etcd, hotel, flight, car, and two Envoys with one journal ... ");
        std::io::stdout().flush()?;
        let fleet = Fleet::start(2).await?;
        println!("up.\n{GUESTS} guests ask Envoy A; then it is killed (kill -9).\n");
        let crash = play(&fleet).await?;
        println!("{}", timeline::draw(&crash, palette));
        if !crash.wrong.is_empty() {
            bail!("{}", crash.wrong.join("\n"));
        }
        let verdict = "every trip ended, as a whole or not at all; nothing was done twice";
        println!("{} {verdict}", palette.paint(Paint::Good, "✓"));
        Ok(())
    })
}

/// Begins trips at the first Envoy of a fleet of two, kills it, and waits for their ends.
///
/// # Errors
///
/// Something cannot be asked or read.
pub async fn play(fleet: &Fleet) -> anyhow::Result<Crash> {
    let mut under_way = Vec::new();
    for number in 0..GUESTS {
        set_faults(fleet, number)?;
        let first = fleet.begin(0, &request(number), &key(number))?;
        let answered = tokio::spawn(async move { first.answer().await.map(|answer| told('A', now_us(), &answer)) });
        under_way.push((now_us(), answered));
        tokio::time::sleep(APART).await;
    }
    tokio::time::sleep(KILLED_AFTER).await;
    let at_kill = keys(fleet).await?;
    fleet.envoys[0].kill9();
    let killed_at_us = now_us();

    let trips = under_way.into_iter().enumerate().map(|(number, (asked_at_us, first))| async move {
        let told = match first.await {
            Ok(Ok(told)) => Some(told),
            // The connection has gone with Envoy: as any client does, it asks again under its key.
            _ => {
                let again = fleet.ask_until_told(1, &request(number), &key(number), ASKS_FOR).await;
                again.ok().map(|answer| told('B', now_us(), &answer))
            }
        };
        CrashedTrip { guest: request(number).guest, asked_at_us, received: Vec::new(), told, held: Vec::new() }
    });
    let mut trips = join_all(trips).await;
    let settled = fleet.wait_until_no_saga_is_open(ASKS_FOR).await;
    let mut wrong: Vec<String> = settled.err().iter().map(ToString::to_string).collect();
    for trip in &mut trips {
        let history = fleet.participants.history(&trip.guest)?;
        trip.held = history.held().into_iter().collect();
        trip.received = history.seen().iter().map(|seen| (seen.role, seen.attempt.clone())).collect();
        trip.received.sort_by_key(|(_, attempt)| attempt.received_at_us);
    }
    wrong.extend((0..GUESTS).zip(&trips).filter_map(|(number, trip)| wrong_with(trip, &request(number))));
    wrong.extend(fleet.participants.check_nothing_applied_twice().err().map(|error| error.to_string()));
    wrong.extend(fleet.participants.check_one_saga_for_each_guest().err().map(|error| error.to_string()));
    let taken_over = fleet.counter(1, "sagas_taken_over").await?;
    if taken_over == 0 {
        wrong.push("no saga was under way when Envoy was killed".to_owned());
    }
    let began_at_us = trips.first().map_or(killed_at_us, |trip| trip.asked_at_us);
    Ok(Crash { began_at_us, killed_at_us, trips, keys: [at_kill, keys(fleet).await?], taken_over, wrong })
}

fn request(number: usize) -> TripRequest {
    let request = TripRequest::of(format!("guest-{:02}", number + 1));
    if number.is_multiple_of(3) { request.with_car() } else { request }
}

fn key(number: usize) -> String {
    format!("key-of-guest-{:02}", number + 1)
}

/// Hotels take up to a second, so that trips are at every stage when Envoy is killed; every fourth flight is full.
fn set_faults(fleet: &Fleet, number: usize) -> anyhow::Result<()> {
    let guest = request(number).guest;
    let delay = Duration::from_millis(90 * (number as u64 * 5 % 12));
    let slow = Fault::new(&guest, Action::Transaction, FaultKind::Delay).delay(delay);
    fleet.participants.hotel.set_fault(slow)?;
    if number % 4 == 1 {
        let full = Fault::new(&guest, Action::Transaction, FaultKind::Refuse).attempts(20);
        fleet.participants.flight.set_fault(full)?;
    }
    Ok(())
}

/// Keys in etcd, by kind.
async fn keys(fleet: &Fleet) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut keys = BTreeMap::new();
    for entry in fleet.etcd.entries(PREFIX).await? {
        let kind = entry.key.trim_start_matches(PREFIX).split('/').next().unwrap_or_default().to_owned();
        *keys.entry(kind).or_default() += 1;
    }
    Ok(keys)
}

fn told(by: char, at_us: i64, answer: &Answer) -> Told {
    let end = answer.header("saga-status").unwrap_or("nothing").to_owned();
    Told { by, at_us, status: answer.status.as_u16(), end }
}

/// A trip is there as a whole or not at all, and its guest knows.
fn wrong_with(trip: &CrashedTrip, request: &TripRequest) -> Option<String> {
    let Some(told) = &trip.told else { return Some(format!("{} was told nothing", trip.guest)) };
    let mut wanted = match (told.status, told.end.as_str()) {
        (201, "completed") => request.steps().to_vec(),
        (409, "compensated") => Vec::new(),
        _ => return Some(format!("{} was told {} {}", trip.guest, told.status, told.end)),
    };
    wanted.sort_by_key(|role| STEPS.iter().position(|step| step == role));
    let mut held = trip.held.clone();
    held.sort_by_key(|role| STEPS.iter().position(|step| step == role));
    (held != wanted).then(|| format!("{} was told {} and holds {:?}", trip.guest, told.end, trip.held))
}

fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
