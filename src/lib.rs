//! Sagabox: an Envoy HTTP filter that makes the proxy in front of a service the coordinator of its sagas.
//!
//! ```text
//! request  -> matcher -> Saga::begin -> Action::Call -> callout -> Event -> Saga::handle -> ... -> outcome -> reply
//! recovery:  tick -> journal -> replay -> Saga::resume -> the same loop
//! ```
//!
//! The [`saga::Saga`] is a value and `handle(event, now) -> actions` is pure: no host call, no clock, no
//! randomness inside. The [`coordinator`] is the one place that performs actions and feeds in events. Only `filter`
//! knows Envoy (`proxy_wasm`); everything else builds, runs and is tested natively.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`config`] | JSON or `google.protobuf.Struct` -> checked [`definition`]s, or every error with its path |
//! | [`definition`] | what a configuration means: sagas, steps, calls, replies |
//! | [`matcher`] | which saga a request begins |
//! | [`facts`] | what expressions can read of requests and responses, as JSON |
//! | [`template`] | CEL expressions and `${...}` templates |
//! | [`answer`] | what clients are answered: its form |
//! | [`saga`] | the saga itself: states, steps, retries, compensations, records |
//! | [`journal`] | where sagas are kept, so that they outlive their VM; start keys |
//! | [`hold`] | who holds a request while its saga runs |
//! | [`coordinator`] | the sagas of one VM, their timers, callouts and clients |
//! | [`planted`] | faults for the simulation to find; not in what ships |

pub mod answer;
pub mod config;
pub mod coordinator;
pub mod definition;
pub mod facts;
#[cfg(target_arch = "wasm32")]
mod filter;
pub mod hold;
pub mod journal;
pub mod matcher;
pub mod planted;
pub mod saga;
pub mod template;
