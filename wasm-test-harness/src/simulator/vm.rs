//! The callbacks of a VM, as a proxy makes them.

use super::host::{CalloutAnswer, Host};
use super::process::ContextId;

/// The VM is of no use any more. Why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trapped(pub String);

/// What a filter says about a piece of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Let it pass.
    Continue,
    /// Hold it.
    Pause,
}

impl Action {
    /// By its number in the ABI.
    pub fn of(number: u32) -> Action {
        if number == 0 { Action::Continue } else { Action::Pause }
    }
}

/// One VM. Every callback can trap, and then all later ones do.
pub trait Vm {
    /// The proxy as this VM sees it. Contexts must be entered there before, and taken out after, their callbacks.
    fn host(&mut self) -> &mut Host;
    /// Makes the VM trap at a host call, counted from now.
    fn trap_after(&mut self, host_calls: u64);
    /// Makes a root and configures it. False: it refuses the configuration.
    fn create_root(&mut self, root: ContextId, configuration: &[u8]) -> Result<bool, Trapped>;
    /// Makes a stream under a root.
    fn create_stream(&mut self, stream: ContextId, root: ContextId) -> Result<(), Trapped>;
    /// The headers of a request; `end`: nothing follows.
    fn request_headers(&mut self, stream: ContextId, count: usize, end: bool) -> Result<Action, Trapped>;
    /// A piece of the body has come: so much of it is here, or was held.
    fn request_body(&mut self, stream: ContextId, bytes: usize, end: bool) -> Result<Action, Trapped>;
    /// The trailers, with which the request ends.
    fn request_trailers(&mut self, stream: ContextId, count: usize) -> Result<Action, Trapped>;
    /// The headers of the answer.
    fn response_headers(&mut self, stream: ContextId, count: usize, end: bool) -> Result<Action, Trapped>;
    /// A callout has ended.
    fn callout_ended(&mut self, root: ContextId, token: u32, answer: CalloutAnswer) -> Result<(), Trapped>;
    /// The period of the ticks has passed.
    fn tick(&mut self, root: ContextId) -> Result<(), Trapped>;
    /// An item was added to the root's queue.
    fn queue_ready(&mut self, root: ContextId, queue: u32) -> Result<(), Trapped>;
    /// A context is to end. False: it goes on until it says that it has.
    fn done(&mut self, context: ContextId) -> Result<bool, Trapped>;
    /// The last look at a stream.
    fn log(&mut self, context: ContextId) -> Result<(), Trapped>;
    /// The context has ended.
    fn delete(&mut self, context: ContextId) -> Result<(), Trapped>;
}
