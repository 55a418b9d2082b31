//! A stream, and what its properties say.

use sagabox::facts::ClientRequest;
use sagabox::hold::{HOLD_PROPERTY, HoldState};

use crate::simulator::host::StreamData;
use crate::simulator::process::ContextId;

pub(super) struct Stream {
    pub(super) id: ContextId,
    pub(super) root: ContextId,
    pub(super) phase: Phase,
}

pub(super) enum Phase {
    Passing,
    Collecting(Collecting),
    Handed,
    Refused,
}

pub(super) struct Collecting {
    pub(super) definition: usize,
    pub(super) params: Vec<(String, String)>,
    /// Of a request that is let through to a gate.
    pub(super) request: Option<Box<ClientRequest>>,
}

pub(super) fn hold_state(data: &StreamData) -> Option<HoldState> {
    HoldState::of_property(data.property(HOLD_PROPERTY.as_bytes()).as_deref())
}

pub(super) fn set_hold_state(data: &mut StreamData, state: HoldState) {
    data.properties.insert(HOLD_PROPERTY.into(), state.property().into());
}

pub(super) fn counted_bytes(data: &StreamData) -> Option<u64> {
    let bytes = data.property(b"request\0total_size")?;
    u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok()
}
