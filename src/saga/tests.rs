//! Tests of the saga: examples one by one, and random runs against a checker that knows nothing of its code.

pub(crate) mod definitions;
mod examples;
mod late_begin;
mod properties;
mod takeover;
mod world;
