//! An etcd that runs: its process and its files.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;
use tempfile::TempDir;

use super::gateway::{Entry, Gateway, Login};
use super::port::Ports;
use crate::process::{POLL_INTERVAL, Process};

/// How long a start may take: an election takes about a second, and a busy machine some more.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// After how long it is asked again, and looked whether it has ended. Who has a port that etcd needs may never answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running etcd. It is killed when this is dropped.
#[derive(Debug)]
pub struct RunningEtcd {
    process: Mutex<Process>,
    gateway: Gateway,
    // After the process, which is dropped first and reads its log then.
    launch: Launch,
}

/// What it takes to start the process, be it for the first time or again.
#[derive(Debug)]
struct Launch {
    binary: PathBuf,
    member: Member,
    ports: Ports,
    quota_bytes: Option<u64>,
    directory: TempDir,
}

/// Which of which members an etcd is.
#[derive(Debug)]
pub(super) struct Member {
    name: String,
    /// All of them, with where they hear each other, as `--initial-cluster` takes it.
    cluster: String,
}

impl Member {
    pub(super) fn only(ports: &Ports) -> Self {
        Self::each_of(std::slice::from_ref(ports)).remove(0)
    }

    /// One for each of the ports, which know each other.
    pub(super) fn each_of(ports: &[Ports]) -> Vec<Self> {
        let names: Vec<String> = (0..ports.len()).map(|number| format!("member-{number}")).collect();
        let urls = names.iter().zip(ports).map(|(name, ports)| format!("{name}=http://{}", ports.peer()));
        let cluster = urls.collect::<Vec<_>>().join(",");
        names.into_iter().map(|name| Self { name, cluster: cluster.clone() }).collect()
    }
}

impl Launch {
    fn spawn(&self) -> anyhow::Result<Process> {
        let directory = self.directory.path();
        let (client, peer) = (self.ports.client(), self.ports.peer());
        let Member { name, cluster } = &self.member;
        let mut command = Command::new(&self.binary);
        // What ETCD_NAME and the like would set contradicts these arguments, and etcd does not start then.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        if cfg!(target_arch = "aarch64") {
            // Version 3.4 wants to be told that its user knows that it is not tested here.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        command
            .arg(format!("--name={name}"))
            .arg("--data-dir=data")
            .arg(format!("--listen-client-urls=http://{client}"))
            .arg(format!("--advertise-client-urls=http://{client}"))
            .arg(format!("--listen-peer-urls=http://{peer}"))
            .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
            .arg(format!("--initial-cluster={cluster}"))
            .args(["--logger=zap", "--log-outputs=stderr"])
            // The cheapest: nothing here is worth a good hash, and every look at what etcd holds may need the password.
            .arg("--bcrypt-cost=4")
            .args(self.quota_bytes.map(|bytes| format!("--quota-backend-bytes={bytes}")))
            .current_dir(directory);
        Process::spawn("etcd", command, directory.join("log"))
    }
}

impl RunningEtcd {
    pub(super) fn spawn(binary: &Path, member: Member, ports: Ports, quota_bytes: Option<u64>) -> anyhow::Result<Self> {
        let gateway = Gateway::new(ports.client());
        let directory = TempDir::with_prefix("sagabox-etcd-")?;
        let launch = Launch { binary: binary.to_owned(), member, ports, quota_bytes, directory };
        Ok(Self { process: Mutex::new(launch.spawn()?), gateway, launch })
    }

    /// Waits until etcd has a leader and answers.
    pub(super) async fn until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.ended() {
                bail!("etcd ended ({status}):\n{}", self.log());
            }
            let answer = tokio::time::timeout(PROBE_TIMEOUT, self.gateway.probe()).await;
            let Err(error) = answer.map_err(anyhow::Error::from).flatten() else { return Ok(()) };
            if Instant::now() > deadline {
                self.kill9();
                bail!("etcd was not ready within {START_TIMEOUT:?}: {error:#}\n{}", self.log());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Did etcd end because somebody else listens on one of its ports?
    pub(super) fn misses_a_port(&self) -> bool {
        self.ended().is_some() && self.log().contains("address already in use")
    }

    pub(super) async fn require(&mut self, login: Login) -> anyhow::Result<()> {
        self.gateway.require(login).await
    }

    /// The address on which etcd accepts clients, the same over restarts.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// The id of the process; another one after [`RunningEtcd::restart`].
    pub fn pid(&self) -> u32 {
        self.process().pid()
    }

    /// What etcd has logged so far, before restarts too.
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// Has the process not ended yet?
    pub fn is_running(&self) -> bool {
        self.ended().is_none()
    }

    /// Is it the leader of its cluster now? One that is the only member is.
    ///
    /// # Errors
    ///
    /// etcd does not answer.
    pub async fn is_leader(&self) -> anyhow::Result<bool> {
        let status = self.ask("/v3/maintenance/status", &Value::Object(serde_json::Map::new())).await?;
        Ok(status["leader"] == status["header"]["member_id"])
    }

    /// Kills the process as `kill -9` does: it can do nothing about it, and nothing before it.
    pub fn kill9(&self) {
        self.process().kill();
    }

    /// Starts etcd anew, with the data and the ports that it had, and waits until it answers, at most a minute. One that
    /// still runs, or is frozen, is killed first, as by [`RunningEtcd::kill9`].
    ///
    /// # Errors
    ///
    /// It ended by itself, or was not ready in time; the error has its log.
    pub async fn restart(&self) -> anyhow::Result<()> {
        {
            let mut process = self.process();
            process.kill();
            *process = self.launch.spawn()?;
        }
        self.until_ready().await
    }

    /// Stops the process where it stands (SIGSTOP), until [`RunningEtcd::thaw`].
    ///
    /// # Errors
    ///
    /// It has ended, or did not stop within five seconds.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process().freeze()
    }

    /// Lets a process that was frozen go on (SIGCONT).
    pub fn thaw(&self) {
        self.process().thaw();
    }

    /// All that etcd holds under keys that begin with `prefix`, in the order of the keys, as of one moment.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or a key is not text.
    pub async fn entries(&self, prefix: &str) -> anyhow::Result<Vec<Entry>> {
        self.gateway.entries(prefix).await
    }

    /// The ids of the leases that live, in ascending order.
    ///
    /// # Errors
    ///
    /// etcd does not answer.
    pub async fn leases(&self) -> anyhow::Result<Vec<i64>> {
        self.gateway.leases().await
    }

    /// Writes `value` under `key`, without a lease.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or refuses.
    pub async fn put(&self, key: &str, value: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.gateway.put(key, value.as_ref()).await
    }

    /// Deletes all keys that begin with `prefix`, and returns how many there were.
    ///
    /// # Errors
    ///
    /// etcd does not answer, or refuses.
    pub async fn delete(&self, prefix: &str) -> anyhow::Result<i64> {
        self.gateway.delete(prefix).await
    }

    /// Asks anything else of the gateway, as the user that [`Etcd::auth`](super::Etcd::auth) named: posts `body` to
    /// `path`, as to `/v3/lease/grant`, and returns the answer. Bytes are base64 in it, and numbers of 64 bits text.
    ///
    /// # Errors
    ///
    /// etcd does not answer within ten seconds, or with another status than 200; the error names it, and etcd's reason.
    pub async fn ask(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.gateway.session().await?.ask(path, body).await
    }

    fn ended(&self) -> Option<ExitStatus> {
        self.process().ended()
    }

    /// For one call: who keeps it and asks for anything else of this etcd waits for itself.
    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
