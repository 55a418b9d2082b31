//! A process that the harness has started, with the file that it logs to.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// How often it is looked whether something that was waited for has come.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(10);
const LOG_LINES_ON_PANIC: usize = 150;

/// A process, from its start until it has been reaped. It is killed when this is dropped, by its id; if the thread
/// panics, the end of its log is printed. The log's directory must outlive this.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Mutex<Child>,
    pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, without input, all output appended to the file `log`. Messages call it `name`.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or the process not be started.
    pub fn spawn(name: &'static str, mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| command.get_program().display().to_string())?;
        Ok(Self { name, pid: child.id(), child: Mutex::new(child), log })
    }

    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How the process has ended, if it has. From then on its id may be another's, and is not used any more.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Kills the process as `kill -9` does, and waits until it has ended. Does nothing where it has already.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Asks the process to end (SIGTERM), and waits until it has.
    ///
    /// # Errors
    ///
    /// It has not ended within ten seconds; it is killed then.
    pub async fn terminate(&self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + TERMINATE_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.kill();
        anyhow::bail!("{} did not end within {TERMINATE_TIMEOUT:?} of SIGTERM:\n{}", self.name, self.log())
    }

    /// Stops the process where it stands (SIGSTOP), until [`Process::thaw`].
    ///
    /// # Errors
    ///
    /// It has ended, or did not stop within five seconds.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP);
        // The signal only asks for the stop: on a busy machine threads still answer requests for a while after it.
        let child = self.child();
        let deadline = Instant::now() + STOP_TIMEOUT;
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(Pid::from_child(&child)), stopped)?.is_none() {
            anyhow::ensure!(
                Instant::now() < deadline,
                "{} {} did not stop within {STOP_TIMEOUT:?}",
                self.name,
                self.pid
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets a process that was frozen go on (SIGCONT).
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.child();
        if matches!(child.try_wait(), Ok(None)) {
            // It cannot have been reaped in between: this is the only place that could, and it holds the lock.
            let _ = kill_process(Pid::from_child(&child), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_LINES_ON_PANIC)..];
            eprintln!("--- the end of the log of {} {} ---\n{}\n--- ---", self.name, self.pid, tail.join("\n"));
        }
    }
}
