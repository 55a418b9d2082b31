//! A journal that is not in the proxy, and knows nothing at once.

use super::*;
use crate::journal::{Acknowledgement, Entry, Found, News, StartKey};

/// What it says when it is asked for a start key, one answer each time.
struct Elsewhere(VecDeque<Found>);

impl Journal for Elsewhere {
    fn write(&mut self, _store: &mut impl SharedData, _entry: Entry<'_>) -> Acknowledgement {
        Acknowledgement::Pending
    }
    fn find(&self, _store: &impl SharedData, _start: &StartKey) -> Found {
        Found::Nothing
    }
    fn look(&mut self, _store: &impl SharedData, _start: &StartKey, _now: Millis) -> Found {
        self.0.pop_front().expect("it is not asked so often")
    }
    fn owns(&mut self, _store: &mut impl SharedData, _saga: &str, _now: Millis) -> Ownership {
        Ownership::Ours
    }
    fn quarantine(&mut self, _store: &mut impl SharedData, _saga: &str, _why: &str) {}
    fn tick(&mut self, _store: &mut impl SharedData, _now: Millis) -> News {
        News::default()
    }
    fn next_due(&self) -> Millis {
        Millis::MAX
    }
    fn leave(&mut self, _store: &mut impl SharedData) {}
}

/// What a client is told who sends a request without a guest, of which no saga can begin.
fn told(key: Option<&str>, found: impl IntoIterator<Item = Found>) -> Vec<u16> {
    let replies = replies(key, "{}", found, |_| {});
    replies.iter().map(|reply| reply.status).collect()
}

/// The same where no further saga is taken, with the problem's type.
fn told_when_full(found: impl IntoIterator<Item = Found>) -> (u16, bool) {
    let replies = replies(Some("k"), ANN, found, |limits| limits.max_bytes = 1);
    let unknown = replies[0].body.as_deref().is_some_and(|body| body.contains("fate-unknown"));
    (replies[0].status, unknown)
}

fn replies(
    key: Option<&str>,
    body: &str,
    found: impl IntoIterator<Item = Found>,
    limit: impl Fn(&mut Limits),
) -> Vec<Reply> {
    let (mut proxy, coordinator, trip) = setting();
    let journal = Elsewhere(found.into_iter().collect());
    let mut limits = coordinator.limits;
    limit(&mut limits);
    let mut coordinator = Coordinator::new(journal, limits, Vec::new());
    let matched = match key {
        Some(key) => with_key(1, &trip, body, key),
        None => request(1, &trip, body),
    };
    coordinator.begin(&mut proxy, matched);
    while proxy.replies.is_empty() {
        proxy.now = coordinator.next_due();
        coordinator.due(&mut proxy);
    }
    assert!(coordinator.journal.0.is_empty(), "it was asked less often");
    proxy.replies.into_iter().map(|(_, reply)| reply).collect()
}

#[test]
fn a_request_that_begins_no_saga_gets_the_end_of_the_one_that_has_begun_under_its_key() {
    let ended = || Found::Ended(Reply { status: 201, headers: Vec::new(), body: None });
    assert_eq!(told(None, []), [400]);
    assert_eq!(told(Some("k"), [Found::Nothing]), [400]);
    assert_eq!(told(Some("k"), [Found::Asked, Found::Asked, Found::Nothing]), [400]);
    assert_eq!(told(Some("k"), [Found::Asked, ended()]), [201]);
    assert_eq!(told(Some("k"), [Found::Asked, Found::OtherRequest]), [422]);
    assert_eq!(told(Some("k"), [Found::Asked, Found::Unreadable]), [503]);
}

/// 503 says that nothing was sent only where that is known of the key.
#[test]
fn a_proxy_that_is_full_looks_a_key_up_before_it_says_that_nothing_was_sent() {
    let ended = || Found::Ended(Reply { status: 201, headers: Vec::new(), body: None });
    assert_eq!(told_when_full([Found::Asked, ended()]), (201, false));
    assert_eq!(told_when_full([Found::Asked, Found::OtherRequest]), (422, false));
    assert_eq!(told_when_full([Found::Asked, Found::Nothing]), (503, false));
    assert_eq!(told_when_full([Found::Asked, Found::Unreadable]), (503, true));
    // As long as a client waits: 15 s, 20 times a second.
    let silent = std::iter::repeat_n(Found::Asked, 301);
    assert_eq!(told_when_full(silent), (503, true));
}
