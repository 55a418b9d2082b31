//! What the tests, the demo and the tools of Sagabox are made of.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`participant`] | an HTTP service with a SQLite database, whose faults can be ordered by guest |
//! | [`envoy`] | starts a real Envoy on free ports from one of the shipped configurations |
//! | [`etcd`] | starts a real etcd on free ports, and looks at what it holds |
//! | [`fleet`] | several Envoys with one journal in etcd |
//! | [`process`] | a process that was started: killed, frozen, thawed, with its log |
//! | [`application`] | what gets the requests that begin no saga: writes them down, echoes, trickles |
//! | [`loopback`] | the one HTTP client; refuses every target that is not on loopback |
//! | [`check`] | reads a configuration out of JSON or YAML and prints all of its errors |
//! | [`draw`] | draws the sagas of a configuration: Mermaid and text |
//! | [`trip`] | the shipped trip, up and running |
//! | [`scenario`] | scenarios as data, for real Envoy and for the simulator |
//! | [`demo`] | `make demo` and `make run` |
//! | [`simulator`] | the compiled filter under every fault, in virtual time, from one seed |
//! | [`simulate`] | `make simulate` |

pub mod application;
pub mod check;
pub mod demo;
pub mod draw;
pub mod envoy;
pub mod etcd;
pub mod fleet;
pub mod loopback;
pub mod participant;
pub mod process;
pub mod scenario;
pub mod simulate;
pub mod simulator;
pub mod trip;
