//! Starts real Envoys.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use harness::envoy::Envoy;
//!
//! let hotel = "127.0.0.1:45001".parse()?;
//! let envoy = Envoy::from_file("envoy/trip/envoy.yaml").workers(2).upstream("hotel", hotel).start().await?;
//! let url = format!("http://{}/trips", envoy.listener("trip"));
//! # Ok(()) }
//! ```
//!
//! The shipped configurations have fixed ports, so that people can use them by hand. Here every one of them becomes 0,
//! and the ports that the kernel gave are read from Envoy's administration; so any number of Envoys run side by side.
//! Each has a directory of its own for its files and its log. An Envoy ends with the [`RunningEnvoy`] that stands for
//! it, by its process id; if the test panics, the end of its log is printed.
//!
//! Which Envoy: `ENVOY` in the environment, else what `envoy/find-envoy` finds. Which filter: [`Envoy::wasm`], else
//! `SAGABOX_WASM`, else the one that `make build` builds.

mod configuration;
mod locate;
mod running;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_yaml_ng::Value;

pub(crate) use locate::path_printed_by;
pub use locate::{binary, default_wasm, project_root};
pub use running::RunningEnvoy;

/// How long a start may take. Compiling the filter takes V8 seconds where all cores are busy.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Why an Envoy does not run.
#[derive(Debug)]
pub enum StartError {
    /// The configuration cannot be read, or what was to be changed in it is not there. Envoy was not started.
    Configuration(anyhow::Error),
    /// There is no Envoy or no filter on this machine, or the process cannot be started.
    Missing(anyhow::Error),
    /// Envoy ended by itself: it refused its configuration, or crashed.
    Refused(StartRefused),
    /// Envoy runs, but was not ready in time. It has been ended.
    NotReady(StartRefused),
}

/// What Envoy said before it ended, or was ended.
#[derive(Debug, Clone)]
pub struct StartRefused {
    /// How the process ended.
    pub status: String,
    /// The whole log.
    pub log: String,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Configuration(error) => {
                write!(f, "Envoy was not started, its configuration cannot be made: {error:#}")
            }
            Self::Missing(error) => write!(f, "Envoy cannot be started: {error:#}"),
            Self::Refused(refused) => write!(f, "Envoy refused to start ({}):\n{}", refused.status, refused.log),
            Self::NotReady(refused) => write!(f, "Envoy was not ready within {START_TIMEOUT:?}:\n{}", refused.log),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    /// The log of an Envoy that refused to start.
    pub fn log(&self) -> Option<&str> {
        match self {
            Self::Refused(refused) | Self::NotReady(refused) => Some(&refused.log),
            Self::Configuration(_) | Self::Missing(_) => None,
        }
    }
}

type Edit = Box<dyn FnOnce(&mut Value) -> anyhow::Result<()> + Send>;

/// An Envoy to be: a configuration, and what to change in it.
pub struct Envoy {
    source: Source,
    wasm: Option<PathBuf>,
    workers: u32,
    log_level: String,
    component_log_levels: String,
    drain_s: u32,
    keeps_ports: bool,
    edits: Vec<Edit>,
}

enum Source {
    File(PathBuf),
    Text(String),
}

impl Envoy {
    /// Starts from a file; a relative path is relative to the root of the project.
    pub fn from_file(path: impl AsRef<Path>) -> Self {
        Self::new(Source::File(project_root().join(path)))
    }

    /// Starts from YAML.
    pub fn from_yaml(text: impl Into<String>) -> Self {
        Self::new(Source::Text(text.into()))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            wasm: None,
            workers: 2,
            log_level: "info".to_owned(),
            component_log_levels: "wasm:info".to_owned(),
            drain_s: 600,
            keeps_ports: false,
            edits: Vec::new(),
        }
    }

    /// The filter to run in place of every module that the configuration names.
    pub fn wasm(mut self, path: impl Into<PathBuf>) -> Self {
        self.wasm = Some(path.into());
        self
    }

    /// The number of worker threads, each with a virtual machine of its own; 2 unless told.
    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// Seconds that a listener which is replaced has for its connections; 600 unless told, as in Envoy.
    pub fn drain_time_s(mut self, seconds: u32) -> Self {
        self.drain_s = seconds;
        self
    }

    /// The log level of all of Envoy (`info` unless told), and of components: `wasm:debug,http:trace`.
    pub fn log_level(mut self, level: &str, components: &str) -> Self {
        self.log_level = level.to_owned();
        self.component_log_levels = components.to_owned();
        self
    }

    /// Listens on the ports that the configuration has, rather than on free ones: for an Envoy that people use by hand.
    pub fn keep_ports(mut self) -> Self {
        self.keeps_ports = true;
        self
    }

    /// Where the endpoints of `cluster` are: all of them become this one, which must be on loopback.
    pub fn upstream(self, cluster: &str, address: SocketAddr) -> Self {
        self.upstreams(cluster, vec![address])
    }

    /// As [`Envoy::upstream`], with several.
    pub fn upstreams(self, cluster: &str, addresses: Vec<SocketAddr>) -> Self {
        let cluster = cluster.to_owned();
        self.try_edit(move |yaml| configuration::set_upstreams(yaml, &cluster, &addresses))
    }

    /// What the filter named `filter` of `listener` is configured with: YAML or JSON, which reaches the filter in the
    /// form that the file has there (`Struct` or JSON text).
    pub fn plugin_configuration(self, listener: &str, filter: &str, text: &str) -> Self {
        let (listener, filter, text) = (listener.to_owned(), filter.to_owned(), text.to_owned());
        self.try_edit(move |yaml| configuration::set_plugin(yaml, &listener, &filter, &text))
    }

    /// As [`Envoy::plugin_configuration`], but handed over as text as it stands, be it JSON or not.
    pub fn plugin_configuration_text(self, listener: &str, filter: &str, text: &str) -> Self {
        let (listener, filter, text) = (listener.to_owned(), filter.to_owned(), text.to_owned());
        self.try_edit(move |yaml| configuration::set_plugin_text(yaml, &listener, &filter, &text))
    }

    /// Changes what was asked for in any other way. Changes are made in the order of the calls.
    pub fn edit(self, edit: impl FnOnce(&mut Value) + Send + 'static) -> Self {
        self.try_edit(move |yaml| {
            edit(yaml);
            Ok(())
        })
    }

    fn try_edit(mut self, edit: impl FnOnce(&mut Value) -> anyhow::Result<()> + Send + 'static) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// Starts Envoy and waits until it is ready, at most a minute.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(self) -> Result<RunningEnvoy, StartError> {
        let mut yaml = self.source.read().map_err(StartError::Configuration)?;
        if configuration::has_modules(&yaml) {
            let wasm = match self.wasm {
                Some(path) => path,
                None => default_wasm().map_err(StartError::Missing)?,
            };
            let wasm = std::path::absolute(wasm).map_err(|error| StartError::Missing(error.into()))?;
            configuration::set_module(&mut yaml, &wasm);
        }
        for edit in self.edits {
            edit(&mut yaml).map_err(StartError::Configuration)?;
        }
        if !self.keeps_ports {
            configuration::free_ports(&mut yaml);
        }

        let binary = binary().await.map_err(StartError::Missing)?;
        let arguments = [
            "--concurrency".to_owned(),
            self.workers.to_string(),
            "--log-level".to_owned(),
            self.log_level,
            "--component-log-level".to_owned(),
            self.component_log_levels,
            "--drain-time-s".to_owned(),
            self.drain_s.to_string(),
        ];
        running::start(&binary, &yaml, &arguments, START_TIMEOUT).await
    }
}

impl Source {
    fn read(self) -> anyhow::Result<Value> {
        let (text, name) = match self {
            Self::File(path) => {
                let name = path.display().to_string();
                (std::fs::read_to_string(path).with_context(|| name.clone())?, name)
            }
            Self::Text(text) => (text, "the configuration given as text".to_owned()),
        };
        serde_yaml_ng::from_str(&text).with_context(|| name)
    }
}
