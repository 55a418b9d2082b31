//! What can come between two writes of a saga that is kept in etcd: one run each, and the fault that it would show.

use std::sync::LazyLock;

use harness::envoy::{default_wasm, project_root};
use harness::participant::{Action, Fault, FaultKind};
use harness::simulator::campaign::{SeedReport, run_plan};
use harness::simulator::checker::Rule;
use harness::simulator::faults::Faults;
use harness::simulator::filter::Filter;
use harness::simulator::history::{Happening, Told};
use harness::simulator::plan::{ClientPlan, EtcdFate, EtcdOrder, MS, Plan, ProxyPlan, SECOND, Trouble};
use harness::simulator::world::MAIN_VMS;
use sagabox::planted::Planted;
use serde_json::json;

static SHIPPED: LazyLock<Filter> = LazyLock::new(|| Filter::load(&default_wasm().unwrap()).unwrap());
static PLANTED: LazyLock<Filter> = LazyLock::new(|| {
    let path = project_root().join("target/wasm32-wasip1/planted/sagabox.wasm");
    Filter::load(&path).unwrap_or_else(|error| panic!("{error:#}: run `make build-planted`"))
});

/// The lease of every VM.
const LEASE_S: u64 = 3;

/// Two proxies of one worker, a hotel and then a flight, and nothing that goes wrong.
fn plan(clients: Vec<ClientPlan>) -> Plan {
    let step = |name: &str, after: &[&str]| {
        json!({"name": name, "after": after,
               "transaction": {"cluster": name, "method": "POST", "path": "/bookings",
                               "body": {"guest": "${request.body.guest}", "what": name}, "per_try_timeout": "1s",
                               "retry": {"max_attempts": 3, "base_interval": "10ms", "max_interval": "10s"}},
               "compensation": {"method": "DELETE", "path": "/bookings/by-key/${transaction.idempotency_key}"}})
    };
    let configuration = json!({
        "version": 1,
        "journal": {"etcd": {"cluster": "etcd", "lease": format!("{LEASE_S}s"), "timeout": "500ms"}},
        "sagas": [{"name": "trip", "match": {"method": "POST", "path": "/trips"}, "deadline": "20s",
                   "steps": [step("hotel", &[]), step("flight", &["hotel"])],
                   "reply": {"completed": {"status": 201, "body": {"trip": "${saga.id}"}}}}],
    });
    Plan {
        configurations: vec![configuration],
        proxies: vec![ProxyPlan { workers: 1, gate_pair: false, holder_missing: false }; 2],
        participants: vec!["hotel".to_owned(), "flight".to_owned()],
        clients,
        troubles: Vec::new(),
        orders: Vec::new(),
        etcd_orders: Vec::new(),
        latency: 2 * MS,
        faults: Faults::default(),
        checks_journal: true,
        versions: None,
        heal_at: 40 * SECOND,
    }
}

fn client(guest: &str, proxy: usize, at: u64) -> ClientPlan {
    ClientPlan {
        at,
        proxy,
        worker: 0,
        method: "POST".to_owned(),
        path: "/trips".to_owned(),
        headers: vec![("content-type".to_owned(), b"application/json".to_vec())],
        body: json!({ "guest": guest }).to_string().into_bytes(),
        pieces: 1,
        trailers: false,
        leaves_after: None,
        repeats: 0,
        wanders: false,
        travels: false,
        front: None,
    }
}

fn keyed(mut client: ClientPlan, key: &str) -> ClientPlan {
    client.headers.push(("idempotency-key".to_owned(), key.as_bytes().to_vec()));
    client
}

fn order(plan: &mut Plan, writes: &str, fate: EtcdFate) {
    plan.etcd_orders.push(EtcdOrder { writes: writes.to_owned(), fate });
}

/// Runs it with the filter that ships, which keeps every rule; and with the one of the fault, which breaks this one.
/// Where no fault is chosen the artefact of the faults keeps every rule, too.
fn run(plan: &Plan, fault: Planted, rule: Rule) -> SeedReport {
    let planted = PLANTED.with_environment("SAGABOX_PLANTED_FAULT", fault.name());
    let found = run_plan(&planted, 1, plan);
    let breaks = found.violations.iter().any(|violation| violation.rule == rule);
    assert!(breaks, "{} does not break {rule:?}:\n{}", fault.name(), found.show(true));
    keeps_every_rule(&PLANTED, plan);
    keeps_every_rule(&SHIPPED, plan)
}

fn keeps_every_rule(filter: &Filter, plan: &Plan) -> SeedReport {
    let report = run_plan(filter, 1, plan);
    assert!(report.violations.is_empty(), "{}", report.show(true));
    report
}

/// The statuses that clients were told, by client.
fn told(report: &SeedReport, client: usize) -> Vec<u32> {
    let told = report.history.happenings.iter().filter_map(|(_, happening)| match happening {
        Happening::Told(stream, Told::Answer { status, .. }) => Some((stream, *status)),
        _ => None,
    });
    told.filter(|(stream, _)| report.history.streams[**stream].client == client).map(|(_, status)| status).collect()
}

/// How many calls to etcd wrote a key with this in its name.
fn asked(report: &SeedReport, writes: &str) -> usize {
    report.history.trace(false).lines().filter(|line| line.contains("asks etcd") && line.contains(writes)).count()
}

/// The epochs of the calls to participants, in order.
fn epochs(report: &SeedReport) -> Vec<&str> {
    report.history.calls.iter().map(|call| call.header("saga-epoch")).collect()
}

#[test]
fn a_start_whose_answer_is_lost_is_found_to_have_been_written() {
    let mut plan = plan(vec![client("ann", 0, SECOND)]);
    order(&mut plan, "/0000000001", EtcdFate::AnswerLost);
    let report = run(&plan, Planted::LostAnswerTakenForRefusal, Rule::Left);
    assert_eq!((told(&report, 0), asked(&report, "/0000000001")), (vec![201], 2));
}

#[test]
fn a_start_that_is_known_too_late_sends_nothing_and_lets_its_request_begin_anew() {
    let first = keyed(client("ann", 0, SECOND), "key");
    let again = keyed(client("ann", 1, 4 * SECOND), "key");
    let mut plan = plan(vec![first, again]);
    plan.configurations[0]["sagas"][0]["deadline"] = json!("300ms");
    // One comes to nothing, and arrives again when the next has been undone.
    order(&mut plan, "/0000000001", EtcdFate::RequestLate(5 * SECOND));
    let report = keeps_every_rule(&SHIPPED, &plan);
    assert_eq!([told(&report, 0), told(&report, 1)], [[503], [201]]);
    assert_eq!(epochs(&report), ["1", "1"]);
}

#[test]
fn a_start_for_which_etcd_was_not_asked_in_time_is_taken_back() {
    let mut plan = plan(vec![keyed(client("ann", 0, SECOND), "key")]);
    plan.configurations[0]["sagas"][0]["deadline"] = json!("1s");
    // The lease is granted while the VM does nothing.
    order(&mut plan, "/v3/lease/grant", EtcdFate::RequestLate(200 * MS));
    plan.troubles.push((SECOND + 100 * MS, Trouble::Stall { proxy: 0, thread: MAIN_VMS, for_ns: 10 * SECOND }));
    let report = keeps_every_rule(&SHIPPED, &plan);
    assert_eq!((told(&report, 0), epochs(&report)), (vec![503], vec![]));
}

#[test]
fn a_start_that_arrives_again_after_its_saga_has_ended_begins_nothing() {
    let mut plan = plan(vec![client("ann", 0, SECOND)]);
    order(&mut plan, "/0000000001", EtcdFate::RequestLate(5 * SECOND));
    let report = keeps_every_rule(&SHIPPED, &plan);
    assert_eq!((told(&report, 0), asked(&report, "/0000000001")), (vec![201], 2));
}

#[test]
fn a_start_in_doubt_when_its_lease_ends_is_looked_up_before_its_client_is_told() {
    let mut plan = plan(vec![keyed(client("ann", 0, SECOND), "key")]);
    plan.troubles.push((SECOND + 100 * MS, Trouble::Freeze { proxy: 0, for_ns: 9 * SECOND }));
    order(&mut plan, "/0000000001", EtcdFate::RequestLate(12 * SECOND));
    let never_begun = keeps_every_rule(&SHIPPED, &plan);
    assert_eq!((told(&never_begun, 0), epochs(&never_begun)), (vec![503], vec![]));

    plan.etcd_orders.clear();
    order(&mut plan, "/0000000001", EtcdFate::AnswerLost);
    let begun = keeps_every_rule(&SHIPPED, &plan);
    assert_eq!((told(&begun, 0), epochs(&begun)), (vec![504], vec!["2", "2"]));
}

#[test]
fn an_own_write_whose_answer_is_lost_is_not_taken_for_a_lost_saga() {
    let mut plan = plan(vec![client("ann", 0, SECOND)]);
    order(&mut plan, "/0000000002", EtcdFate::AnswerLost);
    let report = run(&plan, Planted::OwnWriteTakenForLost, Rule::Left);
    assert_eq!((told(&report, 0), asked(&report, "/0000000002")), (vec![201], 2));
    assert_eq!(epochs(&report), ["1", "1"]);
}

#[test]
fn an_end_whose_answer_is_lost_is_told_as_it_was_written() {
    let mut plan = plan(vec![client("ann", 0, SECOND)]);
    order(&mut plan, "-sagabox/saga/", EtcdFate::AnswerLost);
    let report = keeps_every_rule(&SHIPPED, &plan);
    assert_eq!((told(&report, 0), asked(&report, "-sagabox/saga/")), (vec![201], 2));
}

#[test]
fn a_zombie_that_wakes_in_a_back_off_sends_nothing_for_a_saga_that_is_another_s() {
    let mut plan = plan(vec![client("ann", 0, SECOND)]);
    let put_off = Fault::new("ann", Action::Transaction, FaultKind::Unavailable503).retry_after_s(2);
    plan.orders.push(("hotel".to_owned(), put_off));
    plan.troubles.push((SECOND + 500 * MS, Trouble::Freeze { proxy: 0, for_ns: 9 * SECOND }));
    let report = run(&plan, Planted::LeaseNotWatched, Rule::Owner);
    assert!(epochs(&report).starts_with(&["1", "2"]), "{:?}", epochs(&report));
    assert!(epochs(&report)[1..].iter().all(|epoch| *epoch == "2"), "{:?}", epochs(&report));
}

#[test]
fn a_write_that_arrives_after_a_takeover_is_not_done() {
    let mut plan = plan(vec![client("ann", 0, SECOND)]);
    order(&mut plan, "/0000000002", EtcdFate::RequestLate(7 * SECOND));
    plan.troubles.push((SECOND + 100 * MS, Trouble::Freeze { proxy: 0, for_ns: 12 * SECOND }));
    // The heir takes its time, so that the saga is still open when the write arrives.
    let slow = Fault::new("ann", Action::Transaction, FaultKind::Unavailable503).retry_after_s(9);
    plan.orders.push(("flight".to_owned(), slow));
    let report = run(&plan, Planted::WrittenWithoutComparing, Rule::Owner);
    assert!(epochs(&report).contains(&"2"), "{:?}", epochs(&report));
}

#[test]
fn of_a_transaction_with_one_stale_member_the_others_are_written() {
    let first = keyed(client("ann", 1, SECOND), "key");
    let (again, other) = (keyed(client("ann", 0, 2 * SECOND), "key"), client("bob", 0, 2 * SECOND));
    let mut plan = plan(vec![first, again, other]);
    // Both wait for the lease of their VM.
    plan.latency = 40 * MS;
    let report = run(&plan, Planted::GroupTakenForItsMembers, Rule::Journaled);
    assert_eq!([told(&report, 0), told(&report, 1), told(&report, 2)], [[201], [201], [201]]);
    let trace = report.history.trace(false);
    let together = |line: &&str| line.contains("asks etcd") && line.matches("/0000000001").count() == 2;
    assert_eq!(trace.lines().filter(together).count(), 1, "{trace}");
}

#[test]
fn a_vm_with_nothing_to_do_but_to_have_a_token_rests_once_it_has_one() {
    let mut plan = plan(Vec::new());
    let etcd = &mut plan.configurations[0]["journal"]["etcd"];
    (etcd["username"], etcd["password"], etcd["recovery"]) = ("sagabox".into(), "secret".into(), "hold".into());
    keeps_every_rule(&SHIPPED, &plan);
}
