use super::*;

const BYTES: u64 = 1_000;

fn vm() -> Rc<HeldByVm> {
    Rc::default()
}

/// A root that takes three requests and [`BYTES`].
fn root(vm: &Rc<HeldByVm>) -> HeldRequests {
    let max_bytes = usize::try_from(BYTES).unwrap();
    HeldRequests::new(Rc::clone(vm), &Limits { max_sagas: 3, max_bytes, ..Limits::default() })
}

fn incoming(client: Client, header_bytes: u64) -> Incoming {
    Incoming { client, header_bytes, header_lines: 0, deadline_ms: 10_000, may_be_repeated: false }
}

fn counted(vm: &HeldByVm) -> (usize, u64) {
    (vm.collecting.get(), vm.bytes.get())
}

fn kind(reply: &Reply) -> String {
    let body: serde_json::Value = serde_json::from_str(reply.body.as_ref().unwrap()).unwrap();
    body["type"].as_str().unwrap().replace("urn:sagabox:problem:", "")
}

#[test]
fn one_request_more_than_the_limit_is_refused_until_another_is_taken() {
    let vm = vm();
    let mut root = root(&vm);
    for client in 1..=3 {
        assert_eq!(root.admit(incoming(client, 10)), Ok(()));
    }
    assert_eq!(root.admit(incoming(4, 10)), Err(HeldLimit::Number));
    root.hand_over(1);
    assert_eq!(root.admit(incoming(4, 10)), Err(HeldLimit::Number), "it lies in the inbox");
    root.take(1);
    assert_eq!(root.admit(incoming(4, 10)), Ok(()));
    assert_eq!(counted(&vm), (3, 40), "Envoy keeps what is taken");
}

#[test]
fn a_byte_more_than_the_limit_is_refused_in_headers_and_in_bodies() {
    let vm = vm();
    let mut root = root(&vm);
    assert_eq!(root.admit(incoming(1, BYTES + 1)), Err(HeldLimit::Bytes));
    assert_eq!(root.admit(incoming(1, BYTES - 100)), Ok(()));
    assert_eq!(root.admit(incoming(2, 101)), Err(HeldLimit::Bytes));
    assert_eq!((root.receive(1, 60), root.receive(1, 100)), (Ok(()), Ok(())), "what has come by now, not what is new");
    let reply = root.receive(1, 101).unwrap_err();
    assert_eq!((reply.status, kind(&reply)), (503, "overload".to_owned()));
    assert!(reply.headers.iter().any(|(name, _)| name == "retry-after"));
    assert!(!root.is_collecting(1));
    assert_eq!(counted(&vm), (0, 0));
}

#[test]
fn many_short_headers_count_with_what_each_takes() {
    let vm = vm();
    let many = Incoming { header_lines: 16, ..incoming(1, 0) };
    assert_eq!(root(&vm).admit(many), Err(HeldLimit::Bytes));
}

#[test]
fn the_roots_of_a_vm_share_what_is_counted_and_other_vms_do_not() {
    let vm = vm();
    let (mut one, mut other) = (root(&vm), root(&vm));
    assert_eq!(one.admit(incoming(1, 600)), Ok(()));
    assert_eq!(other.admit(incoming(2, 600)), Err(HeldLimit::Bytes));
    assert_eq!((other.admit(incoming(2, 1)), other.admit(incoming(3, 1))), (Ok(()), Ok(())));
    assert_eq!(one.admit(incoming(4, 1)), Err(HeldLimit::Number));
    assert_eq!(root(&Rc::default()).admit(incoming(4, 600)), Ok(()));
}

#[test]
fn a_root_that_ends_gives_back_what_it_held_and_no_more() {
    let vm = vm();
    let (mut old, mut new) = (root(&vm), root(&vm));
    for client in [1, 2] {
        old.admit(incoming(client, 100)).unwrap();
    }
    old.hand_over(1);
    old.take(1);
    new.admit(incoming(3, 7)).unwrap();
    drop(old);
    assert_eq!(counted(&vm), (1, 7));
}

#[test]
fn whoever_has_gone_gives_back_all_of_it_once() {
    let vm = vm();
    let mut root = root(&vm);
    for stage in 0..3 {
        root.admit(incoming(1, 100)).unwrap();
        root.receive(1, 50).unwrap();
        if stage >= 1 {
            root.hand_over(1);
        }
        if stage >= 2 {
            root.take(1);
        }
        root.gone(1);
        if stage == 1 {
            assert_eq!(counted(&vm), (1, 150), "its copy lies in the inbox");
            root.gone(1);
            root.take(1);
        }
        root.gone(1);
        root.take(1);
        assert_eq!(counted(&vm), (0, 0), "stage {stage}");
        assert!(root.look(Millis::MAX).is_empty());
    }
}

#[test]
fn a_request_that_does_not_end_is_late_30_seconds_after_its_headers_or_at_its_deadline() {
    for (deadline_ms, late_after) in [(10_000, 30_000), (90_000, 90_000)] {
        let vm = vm();
        let mut root = root(&vm);
        root.admit(Incoming { deadline_ms, may_be_repeated: true, ..incoming(1, 10) }).unwrap();
        assert_eq!(root.next_look(), None, "no turn has come");
        assert!(root.look(5_000).is_empty());
        assert_eq!(root.next_look(), Some(5_000 + late_after));
        assert!(root.look(5_000 + late_after - 1).is_empty());
        let late = root.look(5_000 + late_after);
        assert_eq!(late.len(), 1);
        assert_eq!((late[0].0, late[0].1.status, kind(&late[0].1)), (1, 503, "fate-unknown".to_owned()));
        assert!(!root.is_collecting(1));
        assert_eq!((counted(&vm), root.next_look()), ((0, 0), None));
    }
}

#[test]
fn a_request_that_is_whole_is_never_late() {
    let vm = vm();
    let mut root = root(&vm);
    for client in [1, 2] {
        root.admit(incoming(client, 10)).unwrap();
    }
    root.hand_over(1);
    assert!(root.look(0).is_empty());
    root.hand_over(2);
    assert!(root.look(100_000).is_empty());
    assert_eq!(root.next_look(), None);
}

#[test]
fn what_is_told_names_the_limit() {
    let detail = |limit: HeldLimit| limit.reply(false).body.unwrap();
    assert!(detail(HeldLimit::Number).contains("limits.max_sagas"));
    assert!(detail(HeldLimit::Bytes).contains("limits.max_bytes"));
    assert!(detail(HeldLimit::Time).contains("not come to its end in time"));
}
