//! hotel, flight and car, each with a database of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use super::{History, STEPS};
use crate::participant::{AttemptFilter, BookingState, Participant};

/// The participants of the trip. They end with it.
#[derive(Debug)]
pub struct Participants {
    /// A participant.
    pub hotel: Participant,
    /// A participant.
    pub flight: Participant,
    /// A participant.
    pub car: Participant,
    databases: TempDir,
}

impl Participants {
    /// Starts all three.
    ///
    /// # Errors
    /// One does not start.
    pub async fn start() -> anyhow::Result<Participants> {
        let databases = tempfile::tempdir().context("a directory for the databases")?;
        let start = |role: &'static str| {
            let database = databases.path().join(format!("{role}.sqlite"));
            async move { Participant::start(role, &database).await }
        };
        let (hotel, flight, car) = tokio::try_join!(start("hotel"), start("flight"), start("car"))?;
        Ok(Participants { hotel, flight, car, databases })
    }

    /// A participant by its role.
    ///
    /// # Panics
    /// There is none of that role.
    pub fn participant(&self, role: &str) -> &Participant {
        match role {
            "hotel" => &self.hotel,
            "flight" => &self.flight,
            "car" => &self.car,
            _ => panic!("no participant `{role}`"),
        }
    }

    /// Where the database of a participant is.
    pub fn database(&self, role: &str) -> std::path::PathBuf {
        let directory: &Path = self.databases.path();
        directory.join(format!("{role}.sqlite"))
    }

    /// Starts a participant again that was stopped: where it was, with the database that it had.
    ///
    /// # Errors
    /// As [`Participant::start_on`].
    pub async fn restart(&mut self, role: &str) -> anyhow::Result<()> {
        let address = self.participant(role).address();
        let started = Participant::start_on(role, &self.database(role), address).await?;
        match role {
            "hotel" => self.hotel = started,
            "flight" => self.flight = started,
            _ => self.car = started,
        }
        Ok(())
    }

    /// What the participants saw and hold of every guest. Reads each database once.
    ///
    /// # Errors
    /// A database cannot be read.
    pub fn histories(&self) -> anyhow::Result<BTreeMap<String, History>> {
        let mut histories = BTreeMap::new();
        for role in STEPS {
            let participant = self.participant(role);
            History::add(&mut histories, role, participant.attempts(&AttemptFilter::default())?);
            History::add_bookings(&mut histories, role, participant.bookings()?);
        }
        Ok(histories)
    }

    /// What the participants saw and hold of one guest; of one that they do not know, nothing.
    ///
    /// # Errors
    /// As [`Participants::histories`].
    pub fn history(&self, guest: &str) -> anyhow::Result<History> {
        Ok(self.histories()?.remove(guest).unwrap_or_else(|| History::of(guest)))
    }

    /// Waits until no participant has been asked for anything for `quiet`.
    ///
    /// # Errors
    /// They still are after `timeout`.
    pub async fn wait_until_quiet(&self, quiet: Duration, timeout: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let mut attempts = 0;
            for role in STEPS {
                attempts += self.participant(role).attempts(&AttemptFilter::default())?.len();
            }
            if attempts != seen {
                (seen, since) = (attempts, Instant::now());
            }
            if since.elapsed() >= quiet {
                return Ok(());
            }
            ensure!(started.elapsed() < timeout, "participants are still being asked after {timeout:?}");
            tokio::time::sleep(quiet / 4).await;
        }
    }

    /// What the participants hold of a guest: the roles with a booking that is not cancelled.
    pub fn held(&self, guest: &str) -> anyhow::Result<BTreeSet<&'static str>> {
        let mut held = BTreeSet::new();
        for role in STEPS {
            let bookings = self.participant(role).bookings()?;
            if bookings.iter().any(|one| one.guest == guest && one.state == BookingState::Booked) {
                held.insert(role);
            }
        }
        Ok(held)
    }

    /// Waits until the participants hold exactly `steps` of a guest and nothing has been under way for half a second.
    ///
    /// # Errors
    /// It does not come to that within `timeout`; the error says what they hold, and what they were asked for.
    pub async fn wait_until_held(&self, guest: &str, steps: &[&str], timeout: Duration) -> anyhow::Result<()> {
        let wanted: BTreeSet<&str> = steps.iter().copied().collect();
        let started = Instant::now();
        let mut quiet_since = Instant::now();
        let mut seen = 0;
        loop {
            let attempts = self.attempts(guest)?;
            if attempts != seen {
                seen = attempts;
                quiet_since = Instant::now();
            }
            let held = self.held(guest)?;
            if held == wanted && quiet_since.elapsed() > Duration::from_millis(500) {
                return Ok(());
            }
            if started.elapsed() >= timeout {
                let history = self.history(guest)?.table();
                bail!("{guest} holds {held:?} after {timeout:?}, not {wanted:?}\n{history}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// No participant did one step twice.
    pub fn check_nothing_applied_twice(&self) -> anyhow::Result<()> {
        for role in STEPS {
            let balance = self.participant(role).balance()?;
            ensure!(balance.applied_twice == 0, "{role} did {} steps twice", balance.applied_twice);
        }
        Ok(())
    }

    /// All that was ever done for a guest was done by one saga, and once at each participant. That is so where every
    /// guest asks for one trip, under one start key.
    ///
    /// # Errors
    /// It is not so of some guest; or as [`Participants::histories`].
    pub fn check_one_saga_for_each_guest(&self) -> anyhow::Result<()> {
        for (guest, history) in self.histories()? {
            let sagas = history.sagas();
            ensure!(sagas.len() == 1, "{guest} has the sagas {sagas:?}\n{}", history.table());
            for role in STEPS {
                let bookings = history.bookings(role);
                ensure!(bookings.len() <= 1, "{guest} was booked twice at {role}: {bookings:?}\n{}", history.table());
            }
        }
        Ok(())
    }

    fn attempts(&self, guest: &str) -> anyhow::Result<usize> {
        let mut attempts = 0;
        for role in STEPS {
            attempts += self.participant(role).attempts(&AttemptFilter::guest(guest))?.len();
        }
        Ok(attempts)
    }
}
