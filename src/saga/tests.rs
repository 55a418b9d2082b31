//! Tests of the saga: examples one by one, and random runs against a checker that knows nothing of its code.

pub(crate) mod definitions;
mod examples;
mod found;
mod key_lifetime;
mod large;
mod late_begin;
mod participants;
mod path_lies;
mod properties;
mod takeover;
mod told;
mod world;
