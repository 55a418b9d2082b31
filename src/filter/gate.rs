//! The second instance of a pair: it holds what the first has asked for.
//!
//! Where Envoy is not told to deliver the body of a request whose headers are held
//! (`allow_on_headers_stop_iteration`), the first instance lets the headers pass to read the body, and this one, right
//! behind it, stops them: the application sees no byte. Both go by a property of the stream: see [`crate::hold`].

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, Status};

use crate::hold::{HOLD_PROPERTY, HoldState};

/// How far a pair is with the stream that is effective. None: no pair has to do with it.
pub(super) fn hold_state() -> Result<Option<HoldState>, Status> {
    let value = hostcalls::get_property(vec![HOLD_PROPERTY])?;
    Ok(HoldState::of_property(value.as_deref()))
}

/// Writes that for those behind, or in front, to read.
pub(super) fn set_hold_state(state: HoldState) -> bool {
    hostcalls::set_property(vec![HOLD_PROPERTY], Some(state.property())).is_ok()
}

/// The stream context of a gate.
#[derive(Default)]
pub(super) struct Gate {
    is_holding: bool,
}

impl Gate {
    fn action(&self) -> Action {
        if self.is_holding { Action::Pause } else { Action::Continue }
    }
}

impl Context for Gate {}

impl HttpContext for Gate {
    fn on_http_request_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        // What cannot be read may be asked for: it must not pass. The first instance refuses it then.
        self.is_holding = !matches!(hold_state(), Ok(None));
        if self.is_holding && !set_hold_state(HoldState::Held) {
            log::error!("a request is held, and the instance that has asked for it cannot be told");
        }
        self.action()
    }

    /// The first instance lets nothing of the body pass; and if it did, a `Continue` would let the headers go, too.
    fn on_http_request_body(&mut self, _body_size: usize, _end_of_stream: bool) -> Action {
        self.action()
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        self.action()
    }
}
