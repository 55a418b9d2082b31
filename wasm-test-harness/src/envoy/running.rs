//! An Envoy that runs: its process, its files, its administration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;
use serde_yaml_ng::Value;
use tempfile::TempDir;

use super::{StartError, StartRefused};
use crate::loopback::Client;
use crate::process::{POLL_INTERVAL, Process};

/// A running Envoy. It is killed when this is dropped.
#[derive(Debug)]
pub struct RunningEnvoy {
    process: Process,
    admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    client: Client,
    // After the process, which is dropped first and reads its log then.
    _directory: TempDir,
}

/// Starts `binary` with `yaml` and waits until it is ready.
pub async fn start(
    binary: &Path,
    yaml: &Value,
    arguments: &[String],
    timeout: Duration,
) -> Result<RunningEnvoy, StartError> {
    let directory = TempDir::with_prefix("sagabox-envoy-").map_err(|error| StartError::Missing(error.into()))?;
    let process = spawn(binary, yaml, arguments, directory.path()).map_err(StartError::Missing)?;
    let client = Client::http1().timeout(Duration::from_secs(10));
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = process.ended() {
            return Err(StartError::Refused(StartRefused { status: status.to_string(), log: process.log() }));
        }
        if let Ok(admin) = written_address(directory.path())
            && is_ready(&client, admin).await
            && let Ok(listeners) = listeners(&client, admin).await
        {
            return Ok(RunningEnvoy { process, admin, listeners, client, _directory: directory });
        }
        if Instant::now() > deadline {
            let status = "still running".to_owned();
            return Err(StartError::NotReady(StartRefused { status, log: process.log() }));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

impl RunningEnvoy {
    /// The address on which the listener of this name accepts connections.
    ///
    /// # Panics
    ///
    /// The configuration has no such listener.
    pub fn listener(&self, name: &str) -> SocketAddr {
        match self.listeners.get(name) {
            Some(address) => *address,
            None => panic!("there is no listener {name:?}, only {:?}", self.listeners.keys()),
        }
    }

    /// The address of the administration.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What Envoy and its filters have logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The counters and gauges whose names match `filter`, a regular expression.
    ///
    /// # Errors
    ///
    /// The administration does not answer, or refuses the expression.
    pub async fn stats(&self, filter: &str) -> anyhow::Result<BTreeMap<String, u64>> {
        #[derive(Deserialize)]
        struct Stats {
            stats: Vec<serde_json::Value>,
        }
        let url = format!("http://{}/stats?format=json&filter={}", self.admin, percent_encoded(filter));
        let answer = self.client.get(&url).await?;
        let stats: Stats = serde_json::from_slice(&answer.body).with_context(|| answer.text())?;
        let value = |it: &serde_json::Value| Some((it.get("name")?.as_str()?.to_owned(), it.get("value")?.as_u64()?));
        Ok(stats.stats.iter().filter_map(value).collect())
    }

    /// Has the process not ended yet?
    pub fn is_running(&self) -> bool {
        self.process.ended().is_none()
    }

    /// Kills the process as `kill -9` does: it can do nothing about it, and nothing before it.
    pub fn kill9(&self) {
        self.process.kill();
    }

    /// Asks the process to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    ///
    /// It has not ended within ten seconds; it is killed then.
    pub async fn terminate(&self) -> anyhow::Result<ExitStatus> {
        self.process.terminate().await
    }

    /// Stops the process where it stands (SIGSTOP), until [`RunningEnvoy::thaw`].
    ///
    /// # Errors
    ///
    /// It has ended, or did not stop within five seconds.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process.freeze()
    }

    /// Lets a process that was frozen go on (SIGCONT).
    pub fn thaw(&self) {
        self.process.thaw();
    }
}

fn spawn(binary: &Path, yaml: &Value, arguments: &[String], directory: &Path) -> anyhow::Result<Process> {
    let configuration = directory.join("envoy.yaml");
    std::fs::write(&configuration, serde_yaml_ng::to_string(yaml)?)?;
    let mut command = Command::new(binary);
    command
        .arg("--config-path")
        .arg(&configuration)
        .arg("--admin-address-path")
        .arg(admin_file(directory))
        // Else two Envoys of one machine take each other for the old and the new one of a hot restart.
        .arg("--disable-hot-restart")
        .args(arguments)
        .current_dir(directory);
    Process::spawn("Envoy", command, directory.join("log"))
}

fn admin_file(directory: &Path) -> PathBuf {
    directory.join("admin")
}

/// The address of the administration, once Envoy has written it.
fn written_address(directory: &Path) -> anyhow::Result<SocketAddr> {
    Ok(std::fs::read_to_string(admin_file(directory))?.trim().parse()?)
}

async fn is_ready(client: &Client, admin: SocketAddr) -> bool {
    client.get(&format!("http://{admin}/ready")).await.is_ok_and(|answer| answer.status == 200)
}

async fn listeners(client: &Client, admin: SocketAddr) -> anyhow::Result<BTreeMap<String, SocketAddr>> {
    #[derive(Deserialize)]
    struct Listeners {
        #[serde(default)]
        listener_statuses: Vec<Listener>,
    }
    #[derive(Deserialize)]
    struct Listener {
        name: String,
        local_address: Address,
    }
    #[derive(Deserialize)]
    struct Address {
        socket_address: SocketAddress,
    }
    #[derive(Deserialize)]
    struct SocketAddress {
        address: std::net::IpAddr,
        port_value: u16,
    }
    let answer = client.get(&format!("http://{admin}/listeners?format=json")).await?;
    let listeners: Listeners = serde_json::from_slice(&answer.body).with_context(|| answer.text())?;
    let address = |it: SocketAddress| SocketAddr::new(it.address, it.port_value);
    Ok(listeners.listener_statuses.into_iter().map(|it| (it.name, address(it.local_address.socket_address))).collect())
}

/// `text` as a value in a query: everything but letters and digits as `%XX`.
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(encode).collect()
}
