//! The second instance of a pair: it holds what the first has marked.
//!
//! Where Envoy is not told to deliver the body of a request whose headers are held
//! (`allow_on_headers_stop_iteration`), the first instance lets the headers pass to read the body, and this one, right
//! behind it, stops them: the application sees no byte.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, MapType};

/// Header by which the first instance marks a request that is to be held. It removes it from everything it receives.
pub(super) const MARK: &str = "x-sagabox-held";

/// Path of a marked request. Only where the gate is missing does an application ever see it.
pub(super) const HELD_PATH: &str = "/.sagabox-gate-missing";

pub(super) struct Gate;

impl Context for Gate {}

impl HttpContext for Gate {
    fn on_http_request_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        match hostcalls::get_map_value_bytes(MapType::HttpRequestHeaders, MARK) {
            Ok(None) => Action::Continue,
            _ => Action::Pause,
        }
    }
}
