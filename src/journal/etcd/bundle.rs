//! What may go out to etcd as one transaction.

use std::collections::BTreeSet;

use super::api::Request;
use super::group::{Queued, Room};

/// etcd takes 128 operations at each level, and those of a nested transaction on top of how many there are beside it.
pub(super) const MAX_NESTED: usize = 120;
/// Well below the 1.5 MiB that etcd takes as one request. A larger one goes alone.
const MAX_BYTES: usize = 768 << 10;
/// A takeover's answer holds all records of its saga, each as large as etcd takes.
const MAX_TAKES: usize = 8;

/// What goes out together.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) members: Vec<Queued>,
    /// One of each member.
    pub(super) requests: Vec<Request>,
    bytes: usize,
    /// The smallest share of its members: with how many they may go at most.
    share: usize,
    takes: usize,
    /// Start keys that it writes: etcd takes none of them twice.
    pub(super) starts: BTreeSet<String>,
    /// Of those members to which that matters.
    pub(super) room: Option<Room>,
}

impl Bundle {
    pub(super) fn new() -> Bundle {
        Bundle {
            members: Vec::new(),
            requests: Vec::new(),
            bytes: 0,
            share: MAX_NESTED,
            takes: 0,
            starts: BTreeSet::new(),
            room: None,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.members.len() >= self.share || self.bytes >= MAX_BYTES
    }

    /// Whether it goes with what is there.
    pub(super) fn admits(&self, queued: &Queued, room: Option<Room>) -> bool {
        let one_take_too_many = queued.is_take() && self.takes >= MAX_TAKES;
        let same_room = room.is_none() || self.room.is_none() || room == self.room;
        self.members.len() < queued.share && !one_take_too_many && same_room
    }

    /// A larger one goes alone.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        self.members.is_empty() || self.bytes.saturating_add(bytes) <= MAX_BYTES
    }

    pub(super) fn add(
        &mut self,
        queued: Queued,
        room: Option<Room>,
        request: Request,
        bytes: usize,
        start: Option<String>,
    ) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.share = self.share.min(queued.share);
        self.takes = self.takes.saturating_add(usize::from(queued.is_take()));
        self.starts.extend(start);
        self.room = self.room.or(room);
        self.requests.push(request);
        self.members.push(queued);
    }
}
