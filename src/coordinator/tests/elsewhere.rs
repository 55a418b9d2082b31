//! A journal that is not in the proxy, and knows nothing at once.

use super::*;
use crate::journal::{Acknowledgement, Entry, Fate, Found, News, OpenSaga, StartKey};
use crate::saga::SagaState;

/// What it says when it is asked for a start key, one answer each time, and what becomes of the first records of sagas.
#[derive(Default)]
struct Elsewhere {
    found: VecDeque<Found>,
    /// None: nothing, yet.
    fates: VecDeque<Acknowledgement>,
    /// Under which keys sagas were to begin.
    written: Vec<Option<StartKey>>,
    pending: News,
}

impl Journal for Elsewhere {
    fn write(&mut self, _store: &mut impl SharedData, entry: Entry<'_>) -> Acknowledgement {
        self.written.push(entry.start.cloned());
        if let Some(acknowledgement) = self.fates.pop_front() {
            let (saga, sequence) = (entry.saga.to_owned(), entry.record.sequence);
            self.pending.fates.push(Fate { saga, sequence, acknowledgement });
        }
        Acknowledgement::Pending
    }
    fn find(&self, _store: &impl SharedData, _start: &StartKey) -> Found {
        Found::Nothing
    }
    fn look(&mut self, _store: &impl SharedData, _start: &StartKey, _since: Millis, _now: Millis) -> Found {
        self.found.pop_front().unwrap_or(Found::Asked)
    }
    fn owns(&mut self, _store: &mut impl SharedData, _saga: &str, _now: Millis) -> Ownership {
        Ownership::Ours
    }
    fn quarantine(&mut self, _store: &mut impl SharedData, _saga: &str, _why: &str) {}
    fn tick(&mut self, _store: &mut impl SharedData, _now: Millis) -> News {
        std::mem::take(&mut self.pending)
    }
    fn next_due(&self) -> Millis {
        Millis::MAX
    }
    fn leave(&mut self, _store: &mut impl SharedData) {}
}

fn elsewhere(
    found: impl IntoIterator<Item = Found>,
    fates: impl IntoIterator<Item = Acknowledgement>,
) -> (Proxy, Coordinator<Elsewhere>, Arc<Definition>) {
    let (proxy, coordinator, trip) = setting();
    let (found, fates) = (found.into_iter().collect(), fates.into_iter().collect());
    let journal = Elsewhere { found, fates, ..Elsewhere::default() };
    (proxy, Coordinator::new(journal, coordinator.limits, Vec::new()), trip)
}

/// Lets time pass until a client is answered.
fn until_answered(proxy: &mut Proxy, coordinator: &mut Coordinator<Elsewhere>) {
    let begun = proxy.now;
    while proxy.replies.is_empty() && proxy.now < begun + 60_000 {
        proxy.now += 50;
        coordinator.due(proxy);
    }
}

/// What a client is told who sends a request without a guest, of which no saga can begin.
fn told(key: Option<&str>, found: impl IntoIterator<Item = Found>) -> Vec<u16> {
    let (mut proxy, mut coordinator, trip) = elsewhere(found, []);
    let matched = match key {
        Some(key) => with_key(1, &trip, "{}", key),
        None => request(1, &trip, "{}"),
    };
    coordinator.begin(&mut proxy, matched);
    while proxy.replies.is_empty() {
        proxy.now = coordinator.next_due();
        coordinator.due(&mut proxy);
    }
    assert!(coordinator.journal.found.is_empty(), "it was asked less often");
    proxy.replies.iter().map(|(_, reply)| reply.status).collect()
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

#[test]
fn a_full_proxy_looks_before_it_says_that_nothing_was_sent() {
    let ended = || Found::Ended(Reply { status: 201, headers: Vec::new(), body: None });
    let open = || Found::UnderWay(OpenSaga { saga: "s".to_owned(), state: SagaState::Running, is_set_aside: false });
    let told = |found: Vec<Found>| {
        let (mut proxy, mut coordinator, trip) = elsewhere(found, []);
        coordinator.begin(&mut proxy, request(8, &trip, ANN));
        coordinator.begin(&mut proxy, request(9, &trip, ANN));
        let begun = proxy.now;
        coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
        until_answered(&mut proxy, &mut coordinator);
        assert_eq!(coordinator.journal.written.len(), 2, "nothing more begins");
        let (client, reply) = proxy.replies.remove(0);
        assert_eq!(client, 1);
        (reply.status, kind_of(&reply), proxy.now - begun)
    };
    assert_eq!(told(vec![Found::Nothing]), (503, "overload".to_owned(), 0));
    assert_eq!(told(vec![Found::Asked, Found::Nothing]), (503, "overload".to_owned(), 50));
    assert_eq!(told(vec![ended()]).0, 201);
    assert_eq!(told(vec![Found::Asked, open(), open(), ended()]), (201, String::new(), 150));
    assert_eq!(told(vec![Found::OtherRequest]).1, "idempotency-key-reused");
    assert_eq!(told(vec![Found::Unreadable]).1, "fate-unknown");
    assert_eq!(told(vec![Found::Asked, open(), Found::Nothing]).1, "fate-unknown");
    let (status, kind, took) = told(Vec::new());
    assert_eq!((status, kind.as_str()), (503, "fate-unknown"), "the journal does not answer");
    assert!((1_000..=1_100).contains(&took), "{took} ms");
}

#[test]
fn while_the_journal_does_not_say_whether_a_saga_has_begun_it_is_named_only_where_no_other_can_have_its_key() {
    for (key, status, kind) in [(false, 504, "still-working"), (true, 503, "fate-unknown")] {
        let (mut proxy, mut coordinator, trip) = elsewhere([], []);
        let matched = if key { with_key(1, &trip, ANN, "k") } else { request(1, &trip, ANN) };
        coordinator.begin(&mut proxy, matched);
        until_answered(&mut proxy, &mut coordinator);
        let reply = &proxy.replies[0].1;
        assert_eq!(
            (reply.status, kind_of(reply).as_str(), header_of(reply, "saga-id").is_some()),
            (status, kind, !key)
        );
        assert_eq!(coordinator.open(), 1, "it is found out all the same");
    }
}

#[test]
fn a_journal_that_does_not_take_a_saga_is_asked_what_has_begun_before() {
    let told = |key: bool, found: Vec<Found>| {
        let (mut proxy, mut coordinator, trip) = elsewhere(found, [Acknowledgement::Refused]);
        let matched = if key { with_key(1, &trip, ANN, "k") } else { request(1, &trip, ANN) };
        coordinator.begin(&mut proxy, matched);
        until_answered(&mut proxy, &mut coordinator);
        (proxy.replies[0].1.status, kind_of(&proxy.replies[0].1))
    };
    assert_eq!(told(false, vec![]), (503, "overload".to_owned()));
    assert_eq!(told(true, vec![Found::Asked, Found::Nothing]), (503, "overload".to_owned()));
    assert_eq!(told(true, vec![]), (503, "fate-unknown".to_owned()));
    let ended = Found::Ended(Reply { status: 201, headers: Vec::new(), body: None });
    assert_eq!(told(true, vec![Found::Asked, ended]).0, 201);
}

#[test]
fn a_first_attempt_whose_key_an_equal_request_has_begins_a_saga_of_its_own() {
    let fates = [Acknowledgement::KeyTaken];
    let (mut proxy, mut coordinator, trip) = elsewhere([Found::Asked, Found::OtherRequest], fates);
    coordinator.begin(&mut proxy, attempt(1, &trip, ANN, 1));
    for _ in 0..5 {
        proxy.now += 50;
        coordinator.due(&mut proxy);
    }
    let keys: Vec<bool> = coordinator.journal.written.iter().map(Option::is_some).collect();
    assert_eq!((keys, coordinator.open(), proxy.replies.len()), (vec![true, false], 1, 0));
}

#[test]
fn a_first_attempt_that_its_retry_has_overtaken_gets_the_saga_of_the_retry() {
    let ended = Found::Ended(Reply { status: 201, headers: Vec::new(), body: None });
    let (mut proxy, mut coordinator, trip) = elsewhere([Found::Asked, ended], [Acknowledgement::KeyTaken]);
    coordinator.begin(&mut proxy, attempt(1, &trip, ANN, 1));
    until_answered(&mut proxy, &mut coordinator);
    assert_eq!((proxy.replies[0].1.status, coordinator.journal.written.len(), coordinator.open()), (201, 1, 0));
}

#[test]
fn a_retry_gets_the_saga_of_the_first_attempt() {
    let ended = Found::Ended(Reply { status: 201, headers: Vec::new(), body: None });
    let found = [Found::OtherRequest, Found::Asked, ended];
    let (mut proxy, mut coordinator, trip) = elsewhere(found, [Acknowledgement::KeyTaken]);
    coordinator.begin(&mut proxy, attempt(1, &trip, ANN, 2));
    until_answered(&mut proxy, &mut coordinator);
    assert_eq!((proxy.replies[0].1.status, coordinator.journal.written.len(), coordinator.open()), (201, 1, 0));
}
