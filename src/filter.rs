//! The filter in Envoy: the only code that knows `proxy_wasm`.
//!
//! ```text
//!   stream:  match, collect the body --(inbox, wake)--> root:  Coordinator::begin, ended, due
//!   stream  <---------------(reply, stream effective)---------- root
//! ```
//!
//! Sagas are driven from the root context: a callout of a stream is answered to that stream, and to nobody once the
//! client has gone, while one of the root outlives the client.

use proxy_wasm::traits::RootContext;
use proxy_wasm::types::LogLevel;

mod clock;
mod gate;
mod host;
mod inbox;
mod memory;
mod root;
mod stream;

// The exported entry point of the module: the macro expands to `#[no_mangle]`, which counts as unsafe code.
#[allow(unsafe_code, missing_docs)]
mod entry {
    use super::*;

    proxy_wasm::main! {{
        proxy_wasm::set_log_level(LogLevel::Info);
        proxy_wasm::set_root_context(|id| -> Box<dyn RootContext> { Box::new(root::Root::new(id)) });
    }}
}
