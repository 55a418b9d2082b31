//! What streams leave for their root: one VM runs in one thread, so this is a plain queue.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;

use proxy_wasm::hostcalls;

use crate::coordinator::{Client, MatchedRequest};
use crate::definition::Limits;
use crate::hold::{HeldByVm, HeldRequests, UnreadBodies};

thread_local! {
    /// A VM is one thread with a memory of its own, which its roots share.
    static HELD_BY_VM: Rc<HeldByVm> = Rc::default();
}

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
#[derive(Debug)]
pub(super) struct Inbox {
    messages: RefCell<Vec<Message>>,
    /// The shared queue that wakes the root: an item in it makes Envoy call the VM that registered it, from the same
    /// event loop.
    queue: Cell<Option<u32>>,
    /// Requests that streams have paused, for their root to look after.
    unread: RefCell<UnreadBodies>,
    /// Requests that match, from their headers until they are answered.
    held: RefCell<HeldRequests>,
}

impl Inbox {
    pub(super) fn new(limits: &Limits) -> Inbox {
        let held = HeldRequests::new(HELD_BY_VM.with(Rc::clone), limits);
        Inbox {
            messages: RefCell::default(),
            queue: Cell::new(None),
            unread: RefCell::default(),
            held: RefCell::new(held),
        }
    }

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

    pub(super) fn held(&self) -> RefMut<'_, HeldRequests> {
        self.held.borrow_mut()
    }

    fn enqueue(&self) -> bool {
        self.queue.get().is_some_and(|queue| hostcalls::enqueue_shared_queue(queue, None).is_ok())
    }

    pub(super) fn take(&self) -> Vec<Message> {
        self.messages.take()
    }
}
