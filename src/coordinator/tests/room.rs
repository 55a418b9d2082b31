//! What there is room for, and what comes of what there is no room for.

use super::*;

/// A saga of one step whose compensation reads the answer.
fn by_answer() -> (Proxy, Coordinator<SharedJournal>, Arc<Definition>) {
    let text = json!({
        "version": 1,
        "sagas": [{"name": "stay", "match": {"path": "/stays"}, "steps": [
            {"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"},
             "compensation": {"method": "DELETE", "path": "/${transaction.response.body.id}"}},
            {"name": "flight", "transaction": {"cluster": "flight", "method": "POST", "path": "/"}}]}],
        "limits": {"max_bytes": MAX_BYTES},
    });
    let configuration = config::from_json(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let journal =
        SharedJournal::new("a".to_owned(), text.to_string().into_bytes(), configuration.limits.retained.clone());
    let coordinator = Coordinator::new(journal, configuration.limits, Vec::new());
    let proxy = Proxy { now: 1_700_000_000_000, ..Proxy::default() };
    (proxy, coordinator, Arc::clone(&configuration.definitions[0]))
}

fn answer(code: u16, body: &str) -> AttemptResult {
    AttemptResult::Answered(ParticipantResponse { code, headers: Vec::new(), body: Some(body.as_bytes().to_vec()) })
}

/// A list of this many lists.
fn lists(count: usize) -> String {
    format!("[{}]", vec!["[]"; count].join(","))
}

fn statuses(proxy: &Proxy) -> Vec<(Client, u16)> {
    proxy.replies.iter().map(|(client, reply)| (*client, reply.status)).collect()
}

/// Lets time pass until this many calls were sent.
fn wait_until_sent(proxy: &mut Proxy, coordinator: &mut Coordinator<SharedJournal>, calls: usize) {
    for _ in 0..100 {
        if proxy.dispatched.len() >= calls {
            return;
        }
        wait_until_due(proxy, coordinator);
    }
    panic!("{} calls were sent", proxy.dispatched.len());
}

fn wait_until_due(proxy: &mut Proxy, coordinator: &mut Coordinator<SharedJournal>) {
    proxy.now = proxy.now.max(coordinator.next_due());
    coordinator.due(proxy);
}

#[test]
fn past_the_limit_a_request_is_refused_and_below_it_the_next_is_taken() {
    let (mut proxy, mut coordinator, trip) = setting();
    proxy.allocated = MAX_BYTES;
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    assert_eq!(statuses(&proxy), [(1, 503)]);
    assert_eq!(header_of(&proxy.replies[0].1, "retry-after"), Some("1".to_owned()));
    proxy.allocated = 0;
    coordinator.begin(&mut proxy, request(2, &trip, ANN));
    assert_eq!((coordinator.open(), proxy.dispatched.len()), (1, 2));
}

#[test]
fn those_under_way_get_on_where_no_other_may_begin() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    proxy.allocated = MAX_BYTES - MAX_BYTES / 8;
    coordinator.begin(&mut proxy, request(2, &trip, ANN));
    coordinator.ended(&mut proxy, 100, answered(500));
    wait_until_sent(&mut proxy, &mut coordinator, 3);
    assert_eq!((statuses(&proxy), proxy.dispatched.len()), (vec![(2, 503)], 3));
}

#[test]
fn a_body_is_weighed_by_what_it_becomes_before_it_is_parsed() {
    for (element, taken) in [("1234567890", true), (r#"{"":{"":0}}"#, false)] {
        let (mut proxy, mut coordinator, trip) = setting();
        let body = format!(r#"{{"guest": "ann", "more": [{}]}}"#, vec![element; 100].join(","));
        proxy.allocated = MAX_BYTES / 2;
        coordinator.begin(&mut proxy, request(1, &trip, &body));
        assert_eq!(coordinator.open() == 1, taken, "{element}: {:?}", statuses(&proxy));
    }
}

#[test]
fn a_body_with_too_many_values_gets_413_that_says_so() {
    let (mut proxy, _, trip) = setting();
    let limits = Limits { max_bytes: 1 << 30, ..Limits::default() };
    let journal = SharedJournal::new("a".to_owned(), Vec::new(), limits.retained.clone());
    let mut coordinator = Coordinator::new(journal, limits, Vec::new());
    for (client, count) in [(1, 19_996), (2, 19_999)] {
        let body = format!(r#"{{"guest": "ann", "more": {}}}"#, lists(count));
        coordinator.begin(&mut proxy, request(client, &trip, &body));
    }
    assert_eq!((statuses(&proxy), coordinator.open()), (vec![(2, 413)], 1));
    assert_eq!(kind_of(&proxy.replies[0].1), "too-many-values");
    assert_eq!(not_handed_over(&request(3, &trip, &lists(30_000))).status, 503, "nothing of it is parsed");
}

#[test]
fn a_request_that_no_empty_vm_has_room_for_gets_413_and_one_that_fits_into_an_empty_vm_is_taken() {
    let (mut proxy, mut coordinator, trip) = setting();
    let body = |count: usize| format!(r#"{{"guest": "ann", "more": [{}]}}"#, vec![r#"{"":0}"#; count].join(","));
    coordinator.begin(&mut proxy, request(1, &trip, &body(200)));
    assert_eq!((statuses(&proxy), kind_of(&proxy.replies[0].1)), (vec![(1, 413)], "body-too-large".to_owned()));
    coordinator.begin(&mut proxy, request(2, &trip, &body(80)));
    // Whatever its steps were answered before.
    (0..2).for_each(|step| coordinator.room.learn(&trip, step, usize::MAX));
    coordinator.begin(&mut proxy, request(3, &trip, ANN));
    assert_eq!((proxy.replies.len(), coordinator.open()), (1, 2));
}

#[test]
fn a_key_that_cannot_be_read_for_want_of_room_may_have_begun_something() {
    let text = json!({"version": 1, "sagas": [{"name": "trip", "match": {"path": "/trips"},
        "start_key": "request.body.guest",
        "steps": [{"name": "hotel", "transaction": {"cluster": "hotel", "method": "POST", "path": "/"}}]}]});
    let configuration = config::from_json(&text).unwrap_or_else(|errors| panic!("{errors}"));
    let (mut proxy, mut coordinator, _) = setting();
    proxy.allocated = MAX_BYTES;
    coordinator.begin(&mut proxy, request(1, &configuration.definitions[0], ANN));
    assert_eq!((statuses(&proxy), kind_of(&proxy.replies[0].1)), (vec![(1, 503)], "fate-unknown".to_owned()));
}

#[test]
fn who_repeats_a_request_is_told_of_its_saga_although_no_other_may_begin() {
    let (mut proxy, mut coordinator, trip) = setting();
    coordinator.begin(&mut proxy, with_key(1, &trip, ANN, "k"));
    proxy.allocated = MAX_BYTES - MAX_BYTES / 8;
    coordinator.begin(&mut proxy, with_key(2, &trip, ANN, "k"));
    coordinator.begin(&mut proxy, with_key(3, &trip, ANN, "other"));
    assert_eq!((statuses(&proxy), coordinator.waiting.count()), (vec![(3, 503)], 1));
    // Waiting takes room, too.
    proxy.allocated = MAX_BYTES;
    coordinator.begin(&mut proxy, with_key(4, &trip, ANN, "k"));
    assert_eq!((statuses(&proxy)[1], kind_of(&proxy.replies[1].1)), ((4, 503), "fate-unknown".to_owned()));
}

#[test]
fn a_transaction_waits_for_room_without_counting_as_an_attempt_and_is_rejected_at_the_deadline() {
    let (mut proxy, mut coordinator, trip) = setting();
    let deadline = proxy.now + 10_000;
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    coordinator.ended(&mut proxy, 100, answered(200));
    coordinator.ended(&mut proxy, 101, answered(500));
    proxy.allocated = MAX_BYTES;
    for _ in 0..8 {
        wait_until_due(&mut proxy, &mut coordinator);
    }
    assert_eq!(proxy.dispatched.len(), 2, "it waits");
    proxy.allocated = 0;
    wait_until_sent(&mut proxy, &mut coordinator, 3);
    let attempt = |index: usize| proxy.dispatched[index].1.id.attempt;
    assert_eq!((attempt(1), attempt(2)), (1, 2));
    coordinator.ended(&mut proxy, 102, answered(500));
    proxy.allocated = MAX_BYTES;
    proxy.now = deadline;
    wait_until_due(&mut proxy, &mut coordinator);
    // What may have been done is undone, room or not.
    let methods: Vec<_> = proxy.dispatched.iter().skip(3).map(|(_, call)| call.headers[0].1.clone()).collect();
    assert_eq!(methods, ["DELETE", "DELETE"]);
    [103, 104].iter().for_each(|token| coordinator.ended(&mut proxy, *token, answered(204)));
    assert_eq!((statuses(&proxy), coordinator.open()), (vec![(1, 409)], 0));
}

#[test]
fn a_saga_that_nothing_was_sent_of_for_want_of_room_says_so() {
    let (mut proxy, mut coordinator, trip) = setting();
    // Another coordinator of this VM has reserved everything once this one has let the saga begin.
    proxy.grows_by = MAX_BYTES;
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    assert!(proxy.dispatched.is_empty());
    proxy.now += 10_000;
    wait_until_due(&mut proxy, &mut coordinator);
    let (_, reply) = &proxy.replies[0];
    assert_eq!((reply.status, coordinator.open()), (409, 0));
}

#[test]
fn coordinators_of_one_vm_share_what_is_reserved_and_one_that_goes_leaves_nothing_of_it() {
    let (mut proxy, one, trip) = setting();
    let reserved = Reserved::default();
    let limits = one.limits.clone();
    let beside = |vm: &str| {
        let journal = SharedJournal::new(vm.to_owned(), Vec::new(), limits.retained.clone());
        Coordinator::sharing(reserved.clone(), journal, limits.clone(), Vec::new())
    };
    let (mut one, mut other) = (beside("b"), beside("c"));
    one.begin(&mut proxy, request(1, &trip, ANN));
    // There would be room for this saga, but for what the other coordinator has reserved.
    let of_another = request(2, &trip, ANN);
    proxy.allocated = MAX_BYTES;
    let cost = other.room.cost_of_begin(&proxy, &of_another).expect("few values");
    proxy.allocated = MAX_BYTES - MAX_BYTES / 8 - cost;
    other.begin(&mut proxy, of_another.clone());
    assert_eq!(statuses(&proxy), [(2, 503)]);
    drop(one);
    other.begin(&mut proxy, of_another);
    assert_eq!(other.open(), 1);
}

#[test]
fn what_is_reserved_is_free_again_once_the_call_has_ended_or_was_refused() {
    let (mut proxy, mut coordinator, trip) = setting();
    let all = coordinator.room.free(&proxy);
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    assert_eq!(coordinator.room.free(&proxy), all - 2 * 1024);
    coordinator.ended(&mut proxy, 100, answered(200));
    assert_eq!(coordinator.room.free(&proxy), all - 1024);
    coordinator.ended(&mut proxy, 101, answered(422));
    assert_eq!(coordinator.room.free(&proxy), all, "a compensation reserves nothing");
    proxy.refuses = Some(DispatchRefusal::Unavailable);
    coordinator.begin(&mut proxy, request(2, &trip, ANN));
    assert_eq!(coordinator.room.free(&proxy), all);
}

#[test]
fn more_is_reserved_for_a_step_whose_answers_add_more_and_less_again_after_small_ones() {
    let (mut proxy, mut coordinator, trip) = setting();
    let reserved = |coordinator: &Coordinator<SharedJournal>, proxy: &mut Proxy| {
        proxy.allocated = 0;
        MAX_BYTES - coordinator.room.free(proxy)
    };
    coordinator.begin(&mut proxy, request(1, &trip, ANN));
    proxy.grows_by = 5_000;
    coordinator.ended(&mut proxy, 100, answer(200, "{}"));
    coordinator.ended(&mut proxy, 101, answer(200, "{}"));
    proxy.grows_by = 0;
    coordinator.begin(&mut proxy, request(2, &trip, ANN));
    let after_large = reserved(&coordinator, &mut proxy);
    assert!(after_large > 5_000, "{after_large}");
    for client in 3..100 {
        let first = u32::try_from(proxy.dispatched.len()).expect("few") + 98;
        coordinator.ended(&mut proxy, first, answer(200, "{}"));
        coordinator.ended(&mut proxy, first + 1, answer(200, "{}"));
        coordinator.begin(&mut proxy, request(client, &trip, ANN));
    }
    assert_eq!(reserved(&coordinator, &mut proxy), 2 * 1024);
    let stay = &trip;
    coordinator.room.learn(stay, 0, usize::MAX);
    assert!(coordinator.room.reserve(&proxy, stay, 0).is_some_and(|bytes| bytes <= MAX_BYTES / 16));
}

#[test]
fn an_answer_without_room_is_kept_without_its_body_and_what_needs_it_is_unknown() {
    let (mut proxy, mut coordinator, stay) = by_answer();
    coordinator.begin(&mut proxy, request(1, &stay, "{}"));
    let large = format!(r#"{{"id": 7, "more": {}}}"#, lists(300));
    proxy.allocated = MAX_BYTES - 20_000;
    coordinator.ended(&mut proxy, 100, answer(201, &large));
    coordinator.ended(&mut proxy, 101, answer(201, &large));
    assert_eq!(proxy.counted, [Counter::AnswerNotKept; 2]);
    // The flight's answer is read by nothing: it has succeeded. The hotel's is asked for again.
    proxy.allocated = 0;
    wait_until_sent(&mut proxy, &mut coordinator, 3);
    assert_eq!((proxy.dispatched[2].1.cluster.as_str(), proxy.dispatched[2].1.id.attempt), ("hotel", 2));
    coordinator.ended(&mut proxy, 102, answer(201, &large));
    assert_eq!((statuses(&proxy), coordinator.open()), (vec![(1, 200)], 0));
}

#[test]
fn an_answer_for_which_enough_was_reserved_is_kept_whatever_is_held() {
    let (mut proxy, mut coordinator, stay) = by_answer();
    coordinator.begin(&mut proxy, request(1, &stay, "{}"));
    proxy.allocated = 2 * MAX_BYTES;
    coordinator.ended(&mut proxy, 100, answer(201, r#"{"id": 7}"#));
    coordinator.ended(&mut proxy, 101, answer(201, ""));
    assert_eq!((proxy.counted.len(), statuses(&proxy)), (0, vec![(1, 200)]));
}

#[test]
fn an_answer_with_too_many_values_is_never_kept() {
    let (mut proxy, mut coordinator, stay) = by_answer();
    coordinator.begin(&mut proxy, request(1, &stay, "{}"));
    coordinator.ended(&mut proxy, 101, answer(422, &lists(20_000)));
    coordinator.ended(&mut proxy, 100, answer(201, &lists(20_000)));
    assert_eq!(proxy.counted, [Counter::AnswerNotKept; 2]);
    assert_eq!(coordinator.open(), 1, "the hotel may have been booked: it is asked again");
}

#[test]
fn what_undoes_a_saga_finds_room_in_a_full_vm() {
    let (mut proxy, mut coordinator, stay) = by_answer();
    coordinator.begin(&mut proxy, request(1, &stay, "{}"));
    proxy.allocated = 2 * MAX_BYTES;
    coordinator.ended(&mut proxy, 100, answered(500));
    coordinator.ended(&mut proxy, 101, answered(422));
    wait_until_sent(&mut proxy, &mut coordinator, 3);
    // Too large to be let in, until half as much again as the limit holds it.
    coordinator.ended(&mut proxy, 102, answer(201, &format!(r#"{{"id": 7, "more": {}}}"#, lists(1_000))));
    assert_eq!(proxy.counted, [Counter::AnswerNotKept]);
    wait_until_sent(&mut proxy, &mut coordinator, 4);
    coordinator.ended(&mut proxy, 103, answer(201, r#"{"id": 7}"#));
    let (_, undo) = proxy.dispatched.last().expect("sent");
    assert!(undo.headers.contains(&(":path".to_owned(), "/7".to_owned())), "{undo:?}");
    coordinator.ended(&mut proxy, 104, answered(204));
    assert_eq!((statuses(&proxy), coordinator.open()), (vec![(1, 409)], 0));
}
