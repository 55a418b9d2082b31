//! A participant: an HTTP service with a SQLite database, whose faults can be ordered by guest.
//!
//! ```text
//! request -> connection -> routes -> attempt written down -> fault? -> ledger (book, cancel) -> answer
//! ```
//!
//! It keeps the word that a saga asks of its participants: transactions and compensations are idempotent
//! under their `idempotency-key`, a compensation accepts that its transaction never happened, and once it was
//! applied, the same transaction arriving late is refused.
//!
//! | route | what it does |
//! | --- | --- |
//! | `POST /bookings` | books what a JSON object with a `guest` describes: 201 and the booking with its `id`; 422 without a guest; 409 once it was compensated |
//! | `DELETE /bookings/{id}` | cancels: 204, repeated or not; 404 where the id is unknown |
//! | `DELETE /bookings/by-key/{key}` | cancels what was booked under a key, or sees to it that it never will be: 204 |
//! | `GET /bookings`, `GET /control/bookings` | every booking, cancelled ones included: [`Booking`] |
//! | `POST /control/faults` | orders a [`Fault`] |
//! | `GET /control/faults`, `DELETE /control/faults` | the faults that have not acted yet; forgets them |
//! | `GET /control/attempts?guest=&saga_id=` | what was received, in order of arrival: [`Attempt`] |
//! | `GET /control/balance` | what was applied and compensated, saga by saga: [`Balance`] |

mod answer;
mod attempt;
mod balance;
mod connection;
mod fault;
mod ledger;
mod routes;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use attempt::{Attempt, AttemptFilter};
pub use balance::{Balance, SagaBalance};
pub use fault::{Action, Fault, FaultKind, Faults};
pub use ledger::{Booking, BookingState};

use ledger::Ledger;
use routes::Service;

/// Connections that may wait to be accepted: a burst of callouts must not look like a participant that is down.
const BACKLOG: u32 = 4096;

/// The command line of one participant.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// What it books: hotel, flight, car, or any other name. Ids of bookings begin with it.
    pub role: String,
    /// The port on 127.0.0.1; 0 takes a free one. The address is printed.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// The SQLite file, made where it is missing. Without it, a temporary one that ends with the process.
    #[arg(long)]
    pub database: Option<PathBuf>,
}

/// Serves one participant until SIGTERM or SIGINT. Prints `<role> <address>` once it accepts connections.
///
/// # Errors
///
/// When the database cannot be opened or the port is taken.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let temporary = tempfile::tempdir()?;
        let database = arguments.database.unwrap_or_else(|| temporary.path().join("bookings.sqlite"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, arguments.port));
        let participant = Participant::start_on(&arguments.role, &database, address).await?;
        println!("{} {}", arguments.role, participant.address());
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            _ = terminated.recv() => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        participant.stop().await;
        Ok(())
    })
}

/// A participant that serves in the current runtime, until it is stopped or dropped.
///
/// Its database outlives it. Faults do not: they are held in memory.
#[derive(Debug)]
pub struct Participant {
    address: SocketAddr,
    service: Arc<Service>,
    stop: watch::Sender<bool>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Participant {
    /// Starts on a free port of 127.0.0.1, with the SQLite file `database`, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// When the database cannot be opened or no port is to be had.
    pub async fn start(role: &str, database: &Path) -> anyhow::Result<Self> {
        Self::start_on(role, database, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts on `address`, which may be that of a participant that was stopped.
    ///
    /// # Errors
    ///
    /// When the address is not on loopback or taken, or the database cannot be opened.
    pub async fn start_on(role: &str, database: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        ensure!(address.ip().is_loopback(), "a participant listens on loopback only, not on {address}");
        let ledger = Ledger::open(role, database).with_context(|| format!("database {}", database.display()))?;
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart finds connections of its predecessor in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address).with_context(|| format!("participant {role} on {address}"))?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let service = Arc::new(Service::new(ledger, Faults::default(), stopped.clone()));
        let accepting = tokio::spawn(connection::accept(listener, routes::router(Arc::clone(&service)), stopped));
        Ok(Self { address, service, stop, accepting: Mutex::new(Some(accepting)) })
    }

    /// Where it listens, or listened before it was stopped.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Goes away as a killed process does: closes the listener and every connection, and does nothing more of
    /// what it had delayed. Returns when new connections are refused. What it wrote can still be read.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let accepting = self.accepting.lock().expect("no holder panics").take();
        if let Some(accepting) = accepting {
            // It ends by itself; an error would be its panic, which the runtime has reported.
            let _ = accepting.await;
        }
    }

    /// Orders a fault, behind those ordered before for the same guest and action.
    ///
    /// # Errors
    ///
    /// When the fault contradicts itself, such as a refusal that applies.
    pub fn set_fault(&self, fault: Fault) -> anyhow::Result<()> {
        self.service.faults.add(fault)
    }

    /// Forgets every fault that has not acted yet.
    pub fn clear_faults(&self) {
        self.service.faults.clear();
    }

    /// The faults that have not acted yet, with the attempts that are left to each.
    pub fn pending_faults(&self) -> Vec<Fault> {
        self.service.faults.pending()
    }

    /// Every booking ever made, in order.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn bookings(&self) -> anyhow::Result<Vec<Booking>> {
        self.service.ledger.bookings()
    }

    /// The requests received, in order of arrival, that `filter` lets through.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn attempts(&self, filter: &AttemptFilter) -> anyhow::Result<Vec<Attempt>> {
        self.service.ledger.attempts(filter)
    }

    /// What was applied and what was compensated.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub fn balance(&self) -> anyhow::Result<Balance> {
        self.service.ledger.balance()
    }
}
