//! What a VM runs.

use std::path::Path;

use super::host::Host;
use super::native::NativeVm;
use super::vm::{Trapped, Vm};
use super::wasm::WasmFilter;

/// What the VMs of a run are made of.
#[derive(Debug, Clone)]
pub enum Filter {
    /// The compiled module, with environment variables for its VMs.
    Wasm(WasmFilter, Vec<(String, String)>),
    /// The crate itself, without the ABI: for measuring which of its lines a simulation reaches.
    Native,
}

impl Filter {
    /// The module in a file.
    ///
    /// # Errors
    /// As [`WasmFilter::load`].
    pub fn load(path: &Path) -> anyhow::Result<Filter> {
        Ok(Filter::Wasm(WasmFilter::load(path)?, Vec::new()))
    }

    /// The same module with an environment variable.
    pub fn with_environment(&self, name: &str, value: &str) -> Filter {
        match self {
            Filter::Wasm(filter, environment) => {
                let mut environment = environment.clone();
                environment.push((name.to_owned(), value.to_owned()));
                Filter::Wasm(filter.clone(), environment)
            }
            Filter::Native => Filter::Native,
        }
    }

    /// Starts a VM.
    ///
    /// # Errors
    /// The module's initialisation traps.
    pub fn start(&self, mut host: Host) -> Result<Box<dyn Vm>, Trapped> {
        match self {
            Filter::Wasm(filter, environment) => {
                host.environment.clone_from(environment);
                Ok(Box::new(filter.start(host)?))
            }
            Filter::Native => Ok(Box::new(NativeVm::new(host))),
        }
    }
}
