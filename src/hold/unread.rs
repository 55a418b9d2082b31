//! Requests whose headers an instance has paused, and whose body does not come: does Envoy keep it back, or is the
//! client slow?
//!
//! Without `allow_on_headers_stop_iteration` Envoy buffers the body of a paused request and never calls the filter again
//! (`StopAllIterationAndWatermark`): its client would wait for ever. With it, Envoy calls the filter with every byte.
//! Nothing tells a filter which of the two it has. What tells them apart is what Envoy has received: it counts the bytes
//! of a body (`request.total_size`) before it calls any filter. So
//!
//! - no byte has been received: the client is slow, whichever it is. The filter waits.
//! - bytes have been received, and the filter was not called: either Envoy keeps them back, or a filter in front does, as
//!   those do that look at whole bodies. The latter let go once they have all of it. So the request is refused once all
//!   that `content-length` announces is here and stays here for [`WHOLE_MS`]; where it announces nothing, or more than
//!   Envoy buffers, once no byte has come for [`STILL_MS`].
//! - any body was handed over: the option is set, for every request of this root. From then on nothing is watched.
//!
//! Not told apart from a slow client is a body of no bytes whose end comes on its own (chunked, or an empty last frame
//! of HTTP/2): Envoy's stream idle timeout ends such a request, and nothing has begun. Refused wrongly may be a body
//! whose length is not announced and that stops for five seconds behind a filter that collects it, before this root
//! has been handed any body at all: its client gets a 500, and nothing has begun either.

use std::collections::BTreeMap;

use crate::coordinator::Client;
use crate::saga::Millis;

/// Milliseconds between two looks: two of them, and some, make less than a second.
const LOOK_MS: Millis = 400;

/// For how long a whole body may lie at the proxy, in milliseconds.
const WHOLE_MS: Millis = 400;

/// For how long a body may stand still in the middle, in milliseconds.
const STILL_MS: Millis = 5_000;

/// The paused requests of one root. See the module's text.
#[derive(Debug, Default)]
pub struct UnreadBodies {
    is_option_seen: bool,
    waiting: BTreeMap<Client, Waiting>,
    next_look: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    /// `content-length`.
    announced: Option<u64>,
    /// What Envoy had counted of the request when it was paused: its headers, in bytes.
    headers: u64,
    /// What it has received of the body, in bytes, and since when that has not changed.
    received: u64,
    since: Millis,
}

impl Waiting {
    fn is_kept_back(&self, now: Millis) -> bool {
        let still_for = now.saturating_sub(self.since);
        let is_whole = self.announced.is_some_and(|announced| self.received >= announced);
        self.received > 0 && still_for >= if is_whole { WHOLE_MS } else { STILL_MS }
    }
}

impl UnreadBodies {
    /// Whether a body was handed over: then the option is set.
    pub fn is_option_seen(&self) -> bool {
        self.is_option_seen
    }

    /// A request was paused that announces a body of so many bytes; `headers`: what Envoy has counted of it so far.
    pub fn add(&mut self, client: Client, announced: Option<u64>, headers: u64) {
        // The time is the next look's: streams have no clock.
        self.waiting.insert(client, Waiting { announced, headers, received: 0, since: Millis::MAX });
    }

    /// Envoy has handed over (some of) a body.
    pub fn read(&mut self) {
        self.is_option_seen = true;
        self.waiting.clear();
    }

    /// The stream has ended.
    pub fn gone(&mut self, client: Client) {
        self.waiting.remove(&client);
    }

    /// When [`UnreadBodies::look`] is due; none: nothing waits.
    pub fn next_look(&self) -> Option<Millis> {
        self.next_look
    }

    /// Looks at what has been received: `counted` gives what Envoy has counted of a request by now, headers and body.
    /// Gives the requests that are to be refused. To be called in every turn; before a look is due it only notes the
    /// time.
    pub fn look(&mut self, now: Millis, mut counted: impl FnMut(Client) -> Option<u64>) -> Vec<Client> {
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.since == Millis::MAX) {
            waiting.since = now;
        }
        let mut kept_back = Vec::new();
        if self.next_look.is_some_and(|at| at <= now) {
            for (client, waiting) in &mut self.waiting {
                let received = counted(*client).map_or(0, |counted| counted.saturating_sub(waiting.headers));
                if received != waiting.received {
                    (waiting.received, waiting.since) = (received, now);
                }
                if waiting.is_kept_back(now) {
                    kept_back.push(*client);
                }
            }
            self.next_look = None;
        }
        for client in &kept_back {
            self.waiting.remove(client);
        }
        if self.waiting.is_empty() {
            self.next_look = None;
        } else {
            self.next_look.get_or_insert(now.saturating_add(LOOK_MS));
        }
        kept_back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers of 100 bytes, and a body of which so much has been received at each look, every [`LOOK_MS`]. Gives when
    /// the request was refused.
    fn refused_after(announced: Option<u64>, received: &[u64]) -> Option<Millis> {
        let mut unread = UnreadBodies::default();
        unread.add(7, announced, 100);
        assert!(unread.look(0, |_| Some(100)).is_empty());
        for (look, received) in received.iter().enumerate() {
            let now = unread.next_look()?;
            assert_eq!(now, LOOK_MS * (look as Millis + 1));
            assert!(unread.look(now - 1, |_| panic!("not yet")).is_empty());
            if unread.look(now, |_| Some(100 + received)) == [7] {
                assert_eq!(unread.next_look(), None, "nothing is watched any more");
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn a_body_that_is_here_and_not_handed_over_is_refused_within_a_second() {
        assert_eq!(refused_after(Some(4), &[4; 20]), Some(800));
        assert_eq!(refused_after(Some(4), &[0, 4, 4]), Some(1_200), "the client took its time");
    }

    #[test]
    fn a_slow_client_is_waited_for() {
        assert_eq!(refused_after(Some(4), &[0; 100]), None);
        assert_eq!(refused_after(None, &[0; 100]), None);
        // A filter in front collects what comes.
        assert_eq!(refused_after(Some(100), &[1, 2, 2, 2, 2, 2, 2, 3, 4, 5, 5, 5, 5]), None);
    }

    #[test]
    fn a_body_of_unknown_length_is_refused_once_it_stands_still() {
        assert_eq!(refused_after(None, &[4; 20]), Some(LOOK_MS + 5_200));
        assert_eq!(refused_after(Some(9), &[4; 20]), Some(LOOK_MS + 5_200), "Envoy buffers no more");
    }

    #[test]
    fn once_a_body_was_handed_over_nobody_is_refused() {
        let mut unread = UnreadBodies::default();
        unread.add(7, Some(4), 100);
        assert!(unread.look(0, |_| None).is_empty());
        unread.read();
        assert!(unread.is_option_seen());
        assert!(unread.look(5_000, |_| Some(104)).is_empty());
        assert_eq!(unread.next_look(), None, "nothing is watched any more");
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let mut unread = UnreadBodies::default();
        unread.add(7, Some(4), 100);
        unread.gone(7);
        assert_eq!((unread.look(0, |_| None), unread.next_look()), (vec![], None));
    }
}
