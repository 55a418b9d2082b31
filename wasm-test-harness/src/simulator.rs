//! The simulator: the compiled filter under every fault, from one seed.
//!
//! ```text
//!   seed --> generate --> plan --> world (clients, proxies, VMs, network, participants; virtual time) --> history
//!                           |                                                                               |
//!                           +--------------------------------> checker <------------------------------------+
//! ```
//!
//! The [`checker`] knows nothing of the filter's code: it reads the configuration for itself and looks at what left the
//! proxies, what participants did, and what clients were told.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`faults`] | what goes wrong, and how often |
//! | [`generate`] | from a seed to a plan: random sagas, clients and troubles |
//! | [`plan`] | what a run is given |
//! | [`world`] | the run |
//! | [`wasm`], [`host`], [`process`] | Envoy, as one VM and one process see it |
//! | [`etcd`] | where some runs keep their sagas |
//! | [`versions`] | two versions of the module in one run |
//! | [`journal_view`] | what is kept of them |
//! | [`native`] | the crate in place of the module |
//! | [`history`] | what happened: for the checker, for people, and its hash |
//! | [`checker`], [`model`] | what must hold |
//! | [`campaign`] | many seeds |

pub mod campaign;
pub mod checker;
pub mod etcd;
pub mod faults;
pub mod filter;
pub mod generate;
pub mod history;
pub mod host;
pub mod journal_view;
pub mod model;
pub mod native;
pub mod participants;
pub mod plan;
pub mod process;
pub mod versions;
pub mod vm;
pub mod wasm;
pub mod world;
