//! Who holds a request while its saga runs: without that the application would answer it, too.
//!
//! ```text
//!   alone:   coordinator pauses the headers, and Envoy still hands it the body (allow_on_headers_stop_iteration)
//!   a pair:  coordinator -- asks (a property of the stream) --> gate pauses the headers, and writes back that it holds
//! ```
//!
//! A request has one holder. The first coordinator of a chain that matches it asks, those behind let it pass, and the
//! first gate behind holds it; so any number of pairs may stand in a chain, in any order. What a client sends plays no
//! part: properties are written by filters only.
//!
//! A saga begins only when its request is held: see [`HoldState`] and [`UnreadBodies`]. How much is held at a time is
//! bounded: see [`HeldRequests`].

mod held;
mod unread;

pub use held::{COLLECT_MS, HeldByVm, HeldLimit, HeldRequests, Incoming};
pub use unread::UnreadBodies;

use crate::saga::{Problem, Reply};

/// The property of a stream that holds its [`HoldState`]. Envoy keeps it as the filter state `wasm.sagabox_hold`.
pub const HOLD_PROPERTY: &str = "sagabox_hold";

/// What a request has for a path while a gate holds it.
///
/// The routes that proxies have for an application (`prefix: /`) begin with a slash, and this does not: where the gate
/// is missing, no route is found, and the request ends at the proxy.
pub const HELD_PATH: &str = "sagabox-gate-missing";

/// Where a held request has its own path. Envoy's access log prefers it to `:path`.
pub const ORIGINAL_PATH: &str = "x-envoy-original-path";

/// Headers that a held request loses: they are nobody's business should it get past a missing gate.
pub const CREDENTIALS: [&str; 2] = ["authorization", "cookie"];

/// How far a pair is with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// A coordinator has asked for a gate.
    Asked,
    /// A gate holds it.
    Held,
}

impl HoldState {
    /// What the property says. None: no pair has to do with the stream.
    pub fn of_property(value: Option<&[u8]>) -> Option<HoldState> {
        match value {
            None | Some(b"") => None,
            Some(b"held") => Some(HoldState::Held),
            Some(_) => Some(HoldState::Asked),
        }
    }

    /// What the property is to say.
    pub fn property(self) -> &'static [u8] {
        match self {
            HoldState::Asked => b"asked",
            HoldState::Held => b"held",
        }
    }
}

/// Why nobody holds a request that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// The configuration says `gate: true`, and no gate has seen the request.
    GateMissing,
    /// The configuration says `gate: false`, and Envoy does not hand over the body of a request that is paused.
    OptionMissing,
}

impl NotHeld {
    /// What is missing, and both ways out.
    pub fn detail(self) -> &'static str {
        match self {
            NotHeld::GateMissing => {
                "no gate behind this instance: add an instance with role: gate right behind it, or set \
                 allow_on_headers_stop_iteration and leave gate: false"
            }
            NotHeld::OptionMissing => {
                "neither allow_on_headers_stop_iteration nor a gate: set allow_on_headers_stop_iteration for this \
                 instance, or set gate: true and add an instance with role: gate right behind it"
            }
        }
    }

    /// What the client is told.
    pub fn reply(self) -> Reply {
        Problem::new(500, "not-held", "The proxy cannot hold the request", self.detail().to_owned()).into_reply()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_says_what_was_written() {
        for state in [HoldState::Asked, HoldState::Held] {
            assert_eq!(HoldState::of_property(Some(state.property())), Some(state));
        }
        assert_eq!(HoldState::of_property(None), None);
        assert_eq!(HoldState::of_property(Some(b"something else")), Some(HoldState::Asked), "nothing passes by it");
    }

    #[test]
    fn what_is_told_names_both_ways_out() {
        for missing in [NotHeld::GateMissing, NotHeld::OptionMissing] {
            let reply = missing.reply();
            let body = reply.body.unwrap();
            assert_eq!(reply.status, 500);
            assert!(body.contains("role: gate") && body.contains("allow_on_headers_stop_iteration"), "{body}");
        }
    }
}
