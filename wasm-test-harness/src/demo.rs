//! `make demo` and `make run`.
//!
//! ```text
//! demo:  Scenario -> book -> Recording --> picture    what the participants received, and when
//!                                     |--> databases  rows before and after
//!                                     '--> balance    what is wrong; nothing, or the demo fails
//! run:   Up: the shipped ports, an application, and requests to try
//! ```

pub mod balance;
pub mod crash;
pub mod databases;
pub mod palette;
pub mod picture;
pub mod recording;
pub mod scenario;
pub mod timeline;
pub mod up;

use std::future::Future;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::trip::Trip;
use palette::{Paint, Palette};
use recording::Recording;
use scenario::Scenario;
use up::Up;

/// How often a dot shows that it goes on.
const DOT_EVERY: Duration = Duration::from_millis(500);

/// What is drawn above all.
const FLOW: &str = "
client ── POST /trips ──► Envoy with Sagabox ──┬──► hotel  ──┐
                                               └──► flight ──┴──► car, if wanted
";

/// The command line of `make demo`.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// Envoy's worker threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// No colours; nor are there any where NO_COLOR is set, or where the output is no terminal.
    #[arg(long)]
    pub no_color: bool,
}

/// The command line of `make run`.
#[derive(clap::Args, Debug, Clone)]
pub struct RunArguments {
    /// Envoy's worker threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
}

/// Books four trips on a real Envoy, and shows each.
///
/// # Errors
///
/// Envoy or a participant does not start; a database is out of balance; SIGINT or SIGTERM came first.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        tokio::select! {
            result = show_all(&arguments) => result,
            interrupted = interrupted() => {
                interrupted?;
                bail!("interrupted")
            }
        }
    })
}

/// Starts everything on the shipped ports, prints requests to try, and leaves it up until SIGINT or SIGTERM.
///
/// # Errors
///
/// Something does not start, or Envoy ends by itself.
pub fn leave_up(arguments: RunArguments) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        tokio::select! {
            result = stay_up(&arguments) => result,
            interrupted = interrupted() => interrupted,
        }
    })
}

async fn show_all(arguments: &Arguments) -> anyhow::Result<()> {
    let palette = Palette::of_stdout(arguments.no_color);
    let workers = arguments.workers;
    let trip =
        progress("starting Envoy, hotel, flight and car", Trip::start_with(|envoy| envoy.workers(workers))).await?;
    println!("{FLOW}\nHow to read the pictures:\n\n{}", picture::legend(palette));

    let scenarios = Scenario::all();
    let (count, started) = (scenarios.len(), Instant::now());
    let (mut recordings, mut wrong) = (Vec::new(), 0);
    for (index, scenario) in scenarios.iter().enumerate() {
        let what = format!("booking trip {} of {count}: {}", index + 1, scenario.title());
        let recording = progress(&palette.paint(Paint::Bold, &what), scenario.book(&trip)).await?;
        let findings = balance::check(&recording);
        println!("\n{}", page(&recording, &findings, palette));
        wrong += findings.len();
        recordings.push(recording);
    }
    println!("{}", palette.paint(Paint::Bold, "what the databases hold, and what the clients were told"));
    println!("\n{}", databases::draw_all(&recordings, palette));
    ensure!(wrong == 0, "{}", palette.paint(Paint::Bad, "out of balance: see every ✗ above"));
    let seconds = started.elapsed().as_secs();
    let verdict =
        format!("In balance: {count} trips in {seconds} s, each booked as a whole or not at all, nothing twice.");
    println!("{}", palette.paint(Paint::Good, &verdict));
    Ok(())
}

/// All that is shown of one trip: its story, its picture, the databases, and what is wrong with it.
pub fn page(recording: &Recording, findings: &[String], palette: Palette) -> String {
    let mut page = format!("{}\n\n", recording.story);
    page.push_str(&picture::draw(recording, palette));
    page.push('\n');
    page.push_str(&databases::draw(recording, palette));
    page.push('\n');
    let verdict = match recording.standing().as_slice() {
        [] => "in balance: nothing of it stands".to_owned(),
        standing => format!("in balance: {} stand, once each", standing.join(", ")),
    };
    if findings.is_empty() {
        page.push_str(&format!("{}\n", palette.paint(Paint::Good, &format!("✓ {verdict}"))));
    }
    for finding in findings {
        page.push_str(&format!("{}\n", palette.paint(Paint::Bad, &format!("✗ out of balance: {finding}"))));
    }
    page
}

async fn stay_up(arguments: &RunArguments) -> anyhow::Result<()> {
    let up = progress("starting Envoy, hotel, flight, car and an application", Up::start(arguments.workers)).await?;
    println!("\n{up}");
    up.until_envoy_ends().await
}

/// Prints `what` and a dot now and then until it is done, and how long it took.
async fn progress<T>(what: &str, done: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let started = Instant::now();
    let show = |text: &str| {
        print!("{text}");
        // What cannot be shown is not worth stopping for.
        let _ = std::io::stdout().flush();
    };
    show(&format!("{what} ."));
    let mut done = std::pin::pin!(done);
    loop {
        match tokio::time::timeout(DOT_EVERY, &mut done).await {
            Ok(result) => {
                println!(" {:.1} s", started.elapsed().as_secs_f64());
                return result;
            }
            Err(_) => show("."),
        }
    }
}

/// Returns on SIGINT or SIGTERM.
async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    println!();
    Ok(())
}
