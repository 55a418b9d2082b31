//! What streams leave for their root: one VM runs in one thread, so this is a plain queue.

use std::cell::{Cell, RefCell, RefMut};

use proxy_wasm::hostcalls;

use crate::coordinator::{Client, MatchedRequest};
use crate::hold::UnreadBodies;

/// A message of a stream.
#[derive(Debug)]
pub(super) enum Message {
    /// A whole request that begins a saga.
    Begin(MatchedRequest),
    /// The stream has ended, answered or not.
    Gone(Client),
    /// The stream has refused its request: nobody would hold it.
    NotHeld,
}

/// Messages that the root has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    messages: RefCell<Vec<Message>>,
    /// The shared queue that wakes the root: an item in it makes Envoy call the VM that registered it, from the same
    /// event loop.
    queue: Cell<Option<u32>>,
    /// Requests that streams have paused, for their root to look after.
    unread: RefCell<UnreadBodies>,
}

impl Inbox {
    pub(super) fn wake_by(&self, queue: u32) {
        self.queue.set(Some(queue));
    }

    /// Leaves a message that can wait until the root runs anyway.
    pub(super) fn leave(&self, message: Message) {
        self.messages.borrow_mut().push(message);
    }

    /// Wakes the root and leaves a message for it. Gives the message back if the root cannot be woken.
    pub(super) fn leave_and_wake(&self, message: Message) -> Result<(), Message> {
        // The root is called only after this callback has ended.
        let woken = self.enqueue();
        if !woken {
            return Err(message);
        }
        self.leave(message);
        Ok(())
    }

    /// Wakes the root, which then looks at the paused requests.
    pub(super) fn wake(&self) {
        if !self.enqueue() {
            log::error!("the root cannot be woken");
        }
    }

    pub(super) fn unread(&self) -> RefMut<'_, UnreadBodies> {
        self.unread.borrow_mut()
    }

    fn enqueue(&self) -> bool {
        self.queue.get().is_some_and(|queue| hostcalls::enqueue_shared_queue(queue, None).is_ok())
    }

    pub(super) fn take(&self) -> Vec<Message> {
        self.messages.take()
    }
}
