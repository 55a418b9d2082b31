//! What a VM runs.

use std::path::Path;

use super::host::Host;
use super::native::NativeVm;
use super::versions::{Age, Difference};
use super::vm::{Trapped, Vm};
use super::wasm::WasmFilter;

/// What the VMs of a run are made of.
#[derive(Debug, Clone)]
pub enum Filter {
    /// The compiled module, with environment variables for its VMs.
    Wasm(WasmFilter, Vec<(String, String)>),
    /// The crate itself, without the ABI: for measuring which of its lines a simulation reaches.
    Native,
    /// Two versions of the module.
    Two(Box<TwoVersions>),
}

/// Two versions of the module.
#[derive(Debug, Clone)]
pub struct TwoVersions {
    /// The one that does not know the other's features.
    pub older: Filter,
    /// The one that does.
    pub newer: Filter,
    /// How they differ.
    pub difference: Difference,
}

impl Filter {
    /// The module in a file.
    ///
    /// # Errors
    /// As [`WasmFilter::load`].
    pub fn load(path: &Path) -> anyhow::Result<Filter> {
        Ok(Filter::Wasm(WasmFilter::load(path)?, Vec::new()))
    }

    /// This module as the older one, with the module of tomorrow. `with_faults` is built with planted faults: it can be of
    /// tomorrow.
    pub fn with_tomorrow(self, with_faults: &Filter) -> Filter {
        Filter::Two(Box::new(TwoVersions {
            older: self,
            newer: with_faults.with_environment("SAGABOX_OF_TOMORROW", "1"),
            difference: Difference {
                older_reads: None,
                only_newer_knows: ["tomorrow".to_owned()].into(),
                no_way_back: false,
            },
        }))
    }

    /// This module, or both, with an environment variable.
    pub fn with_environment(&self, name: &str, value: &str) -> Filter {
        match self {
            Filter::Wasm(filter, environment) => {
                let mut environment = environment.clone();
                environment.push((name.to_owned(), value.to_owned()));
                Filter::Wasm(filter.clone(), environment)
            }
            Filter::Native => Filter::Native,
            Filter::Two(two) => Filter::Two(Box::new(TwoVersions {
                older: two.older.with_environment(name, value),
                newer: two.newer.with_environment(name, value),
                difference: two.difference.clone(),
            })),
        }
    }

    /// How its two versions differ, if there are two.
    pub fn difference(&self) -> Option<&Difference> {
        if let Filter::Two(two) = self { Some(&two.difference) } else { None }
    }

    /// Starts a VM, of the version of that age if there are two.
    ///
    /// # Errors
    /// The module's initialisation traps.
    pub fn start(&self, mut host: Host, age: Age) -> Result<Box<dyn Vm>, Trapped> {
        match self {
            Filter::Wasm(filter, environment) => {
                host.environment.clone_from(environment);
                Ok(Box::new(filter.start(host)?))
            }
            Filter::Native => Ok(Box::new(NativeVm::new(host))),
            Filter::Two(two) if age == Age::Older => two.older.start(host, age),
            Filter::Two(two) => two.newer.start(host, age),
        }
    }
}
