//! The command line of the harness: participants, the checker of configurations, the demo, the simulator.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "sagabox-harness",
    about = "Participants, configuration checks, the demo and the simulator of Sagabox"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one participant with a database of its own.
    Participant(harness::participant::Arguments),
    /// Checks a configuration file and prints every error with its path.
    Check(harness::check::Arguments),
    /// Draws the sagas of a configuration file.
    Draw(harness::draw::Arguments),
    /// Prints the JSON Schema of the configuration.
    Schema,
    /// Books four trips on a real Envoy and shows each as a picture.
    Demo(harness::demo::Arguments),
    /// Kills one of two Envoys in the middle of trips, and shows how the other finishes them.
    DemoCrash(harness::demo::crash::CrashArguments),
    /// Starts Envoy and the participants, and leaves them up.
    Run(harness::demo::RunArguments),
    /// Runs the filter under random faults, in virtual time, and checks what comes of it.
    Simulate(harness::simulate::Arguments),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // In one line: what went wrong is a user's file or machine, and no backtrace helps with those.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Participant(arguments) => harness::participant::run(arguments),
        Command::Check(arguments) => harness::check::run(arguments),
        Command::Draw(arguments) => harness::draw::run(arguments),
        Command::Schema => harness::check::print_schema(),
        Command::Demo(arguments) => harness::demo::run(arguments),
        Command::DemoCrash(arguments) => harness::demo::crash::run(&arguments),
        Command::Run(arguments) => harness::demo::leave_up(arguments),
        Command::Simulate(arguments) => harness::simulate::run(&arguments),
    }
}
