//! What the filter takes for granted of Envoy, shown on a running one: with the filter, or with the probe where a
//! module has to do what the filter never does.

#[path = "envoy_behaviour/callouts.rs"]
mod callouts;
#[path = "envoy_behaviour/expressions.rs"]
mod expressions;
#[path = "envoy_behaviour/limits.rs"]
mod limits;
#[path = "support/memory.rs"]
mod memory;
#[path = "envoy_behaviour/probe.rs"]
mod probe;
#[path = "envoy_behaviour/replies.rs"]
mod replies;
#[path = "envoy_behaviour/streams.rs"]
mod streams;
#[path = "envoy_behaviour/time.rs"]
mod time;
#[path = "support/trap.rs"]
mod trap;
