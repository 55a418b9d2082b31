//! Starts real etcds, of one member each or three, and looks at what they hold.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use harness::etcd::Etcd;
//!
//! let etcd = Etcd::new().start().await?;
//! etcd.put("sagas/1", "begun").await?;
//! etcd.kill9();
//! etcd.restart().await?;
//! assert_eq!(etcd.entries("sagas/").await?[0].value, b"begun");
//! # Ok(()) }
//! ```
//!
//! Each has free ports on loopback and a directory of its own for its data and its log, so any number run side by side.
//! An etcd ends with the [`RunningEtcd`] that stands for it, by its process id; if the test panics, the end of its log
//! is printed. It is looked at through its JSON gateway, by the client that reaches loopback only.
//!
//! Which etcd: `ETCD` in the environment, else what `wasm-test-harness/find-etcd` finds.

mod gateway;
mod port;
mod running;

use std::path::PathBuf;

use futures::future::try_join_all;
use tokio::sync::OnceCell;

pub use gateway::Entry;
pub use running::RunningEtcd;

use crate::envoy::path_printed_by;
use gateway::Login;
use port::Ports;
use running::Member;

/// How often a start is tried, each time on other ports, where those that were free have been taken meanwhile.
const PORT_ATTEMPTS: usize = 3;

/// The path of the etcd to use, as `wasm-test-harness/find-etcd` prints it. The first call may fetch one, which takes
/// minutes on a slow line; later ones remember.
///
/// # Errors
///
/// There is none, and none can be fetched; the error repeats what the script says.
pub async fn binary() -> anyhow::Result<PathBuf> {
    static FOUND: OnceCell<PathBuf> = OnceCell::const_new();
    FOUND.get_or_try_init(|| path_printed_by("wasm-test-harness/find-etcd")).await.cloned()
}

/// An etcd to be.
#[derive(Debug, Clone, Default)]
pub struct Etcd {
    quota_bytes: Option<u64>,
    login: Option<Login>,
}

impl Etcd {
    /// One with etcd's own settings: 2 GiB of room, and no authentication.
    pub fn new() -> Self {
        Self::default()
    }

    /// How large its database may be, in bytes. Once it is larger, or a write would make it so, etcd refuses every write
    /// but deletions until it is told otherwise; that survives a restart. An empty database has some 20 KiB.
    pub fn quota_bytes(mut self, bytes: u64) -> Self {
        self.quota_bytes = Some(bytes);
        self
    }

    /// Asks for a password: of `user`, who may read and write everything, and of `root`, who has the same one.
    pub fn auth(mut self, user: &str, password: &str) -> Self {
        self.login = Some(Login { user: user.to_owned(), password: password.to_owned() });
        self
    }

    /// Starts etcd and waits until it answers, at most a minute.
    ///
    /// # Errors
    ///
    /// There is no etcd on this machine; it ended by itself, or was not ready in time: then the error has its log.
    pub async fn start(self) -> anyhow::Result<RunningEtcd> {
        self.start_on(Ports::free).await
    }

    /// Starts three members of one cluster, each with etcd's own settings, and waits until all of them answer.
    ///
    /// # Errors
    ///
    /// As [`Etcd::start`].
    pub async fn start_three() -> anyhow::Result<[RunningEtcd; 3]> {
        let binary = binary().await?;
        let mut attempt = 1;
        loop {
            let ports = [Ports::free()?, Ports::free()?, Ports::free()?];
            let members = Member::each_of(&ports).into_iter().zip(ports);
            let spawned = members.map(|(member, ports)| RunningEtcd::spawn(&binary, member, ports, None));
            let spawned: Vec<RunningEtcd> = spawned.collect::<anyhow::Result<_>>()?;
            match try_join_all(spawned.iter().map(RunningEtcd::until_ready)).await {
                Err(_) if attempt < PORT_ATTEMPTS && spawned.iter().any(RunningEtcd::misses_a_port) => attempt += 1,
                Err(error) => return Err(error),
                Ok(_) => return spawned.try_into().map_err(|_| anyhow::anyhow!("not three members")),
            }
        }
    }

    async fn start_on(self, mut ports: impl FnMut() -> std::io::Result<Ports>) -> anyhow::Result<RunningEtcd> {
        let binary = binary().await?;
        let mut attempt = 1;
        loop {
            let ports = ports()?;
            let mut etcd = RunningEtcd::spawn(&binary, Member::only(&ports), ports, self.quota_bytes)?;
            match etcd.until_ready().await {
                Err(_) if attempt < PORT_ATTEMPTS && etcd.misses_a_port() => attempt += 1,
                Err(error) => return Err(error),
                Ok(()) => {
                    if let Some(login) = self.login {
                        etcd.require(login).await?;
                    }
                    return Ok(etcd);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_is_tried_on_other_ports_where_one_has_been_taken() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
        let mut handed_out = 0;
        let ports = || {
            handed_out += 1;
            if handed_out == 1 { Ports::free_but_client(taken.1) } else { Ports::free() }
        };
        let etcd = Etcd::new().start_on(ports).await.unwrap();
        assert_ne!(etcd.address(), taken.1);
        assert_eq!(handed_out, 2);
    }

    #[tokio::test]
    async fn a_start_is_given_up_where_every_port_has_been_taken() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut handed_out = 0;
        let ports = || {
            handed_out += 1;
            Ports::free_but_client(address)
        };
        let error = Etcd::new().start_on(ports).await.unwrap_err().to_string();
        assert!(error.contains("address already in use"), "{error}");
        assert_eq!(handed_out, PORT_ATTEMPTS);
    }
}
