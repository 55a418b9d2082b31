//! An Envoy that runs: its process, its files, its administration.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Deserialize;
use serde_yaml_ng::Value;
use tempfile::TempDir;

use super::{StartError, StartRefused};
use crate::loopback::Client;

const POLL_INTERVAL: Duration = Duration::from_millis(20);
const LOG_LINES_ON_PANIC: usize = 150;

/// A running Envoy. It is killed when this is dropped.
#[derive(Debug)]
pub struct RunningEnvoy {
    process: Process,
    admin: SocketAddr,
    listeners: BTreeMap<String, SocketAddr>,
    client: Client,
}

/// The process and its files, from before it is ready until it has been reaped.
#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    pid: u32,
    directory: TempDir,
}

/// Starts `binary` with `yaml` and waits until it is ready.
pub async fn start(
    binary: &Path,
    yaml: &Value,
    arguments: &[String],
    timeout: Duration,
) -> Result<RunningEnvoy, StartError> {
    let process = Process::spawn(binary, yaml, arguments).map_err(StartError::Missing)?;
    let client = Client::http1().timeout(Duration::from_secs(10));
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = process.ended() {
            return Err(StartError::Refused(StartRefused { status: status.to_string(), log: process.log() }));
        }
        if let Ok(admin) = process.admin()
            && is_ready(&client, admin).await
            && let Ok(listeners) = listeners(&client, admin).await
        {
            return Ok(RunningEnvoy { process, admin, listeners, client });
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
        self.process.pid
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
        self.process.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.process.ended() {
                return Ok(status);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.process.kill();
        anyhow::bail!("Envoy did not end within ten seconds of SIGTERM:\n{}", self.log())
    }

    /// Stops the process where it stands (SIGSTOP), until [`RunningEnvoy::thaw`].
    ///
    /// # Errors
    ///
    /// It has ended, or did not stop within five seconds.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::STOP);
        self.process.wait_until_stopped(Duration::from_secs(5))
    }

    /// Lets a process that was frozen go on (SIGCONT).
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }
}

impl Process {
    fn spawn(binary: &Path, yaml: &Value, arguments: &[String]) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix("sagabox-envoy-")?;
        let configuration = directory.path().join("envoy.yaml");
        std::fs::write(&configuration, serde_yaml_ng::to_string(yaml)?)?;
        let log = File::create(directory.path().join("log"))?;
        let child = Command::new(binary)
            .arg("--config-path")
            .arg(&configuration)
            .arg("--admin-address-path")
            .arg(directory.path().join("admin"))
            // Else two Envoys of one machine take each other for the old and the new one of a hot restart.
            .arg("--disable-hot-restart")
            .args(arguments)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        Ok(Self { pid: child.id(), child: Mutex::new(child), directory })
    }

    /// The address of the administration, once Envoy has written it.
    fn admin(&self) -> anyhow::Result<SocketAddr> {
        Ok(std::fs::read_to_string(self.directory.path().join("admin"))?.trim().parse()?)
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the process has ended, if it has. From then on its id may be another's, and is not used any more.
    fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.child();
        if matches!(child.try_wait(), Ok(None)) {
            // It cannot have been reaped in between: this is the only place that could, and it holds the lock.
            let _ = kill_process(Pid::from_child(&child), signal);
        }
    }

    /// The signal only asks for the stop: on a busy machine threads still answer requests for a while after it.
    fn wait_until_stopped(&self, timeout: Duration) -> anyhow::Result<()> {
        let child = self.child();
        let deadline = Instant::now() + timeout;
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(Pid::from_child(&child)), stopped)?.is_none() {
            anyhow::ensure!(Instant::now() < deadline, "Envoy {} did not stop within {timeout:?}", self.pid);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES_ON_PANIC)..];
            eprintln!("--- the end of the log of Envoy {} ---\n{}\n--- ---", self.pid, tail.join("\n"));
        }
    }
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
