//! The compiled filter under random faults, in virtual time: see `harness::simulator`.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::LazyLock;

use harness::envoy::{default_wasm, project_root};
use harness::simulator::campaign::{self, Campaign, Until, run_seed};
use harness::simulator::checker::{Rule, Tally};
use harness::simulator::filter::Filter;
use sagabox::planted::Planted;

/// Seeds that are run each time.
const SEEDS: u64 = 2_000;
/// Seeds that are run with two versions of the module.
const SEEDS_OF_TWO_VERSIONS: u64 = 300;
/// Seeds in which a planted fault has to be found.
const SEEDS_OF_A_PLANTED_FAULT: u64 = 200;
/// Seeds that have found something, kept from the day on which it was mended.
const NAMED_SEEDS: [(u64, &str, &str); 17] = [
    (494, IN_SHARED_DATA, "resolving forgot the retry-after of the last attempt"),
    (
        205,
        IN_SHARED_DATA,
        "a copy of a request that was put off is put off, too: else a participant does what nobody undoes",
    ),
    (7_425, IN_SHARED_DATA, "a proxy that was frozen twice took the pieces of a body in the wrong order when it woke"),
    (
        10_212,
        IN_SHARED_DATA,
        "a client whose connection was cut was answered all the same, before the stream was closed",
    ),
    (66_517, IN_SHARED_DATA, "a root was told of its queue after it had ended, which Envoy does not do"),
    (
        59,
        IN_SHARED_DATA,
        "who took a saga over took a first 404 for the success of a compensation that had never been sent",
    ),
    (
        60,
        IN_SHARED_DATA,
        "a VM that was taken for dead began a saga in the row that it had lost, and then gave up one it had just begun",
    ),
    (
        1_385,
        IN_SHARED_DATA,
        "a route that is missing answers 404 to a compensation that the owner before may have sent",
    ),
    (3_858, IN_SHARED_DATA, "after a conflict a row was passed over, so that VMs beyond it seemed dead"),
    (
        50_001,
        IN_ETCD,
        "what the lease before had asked ended the next one, and a key was taken for that of another lease",
    ),
    (1_286, IN_ETCD, "a compensation that was about to be sent when its VM went away need not have been"),
    (2_046, IN_ETCD, "a client that waited was told that the journal does not answer, between two looks"),
    (25_669, IN_ETCD, "a client waits for a saga that nobody has taken over yet"),
    (1_004_766, OF_REPLICAS, "a client that lost its begin to another waited anew from there on"),
    (1_006_327, OF_REPLICAS, "who looks for sagas without owner waited for its next turn where its token had ended"),
    (
        4_061,
        "path_answers=1,works_long=0.3,keys_forgotten=0.6,deep_requests=0.3",
        "that a step is unknown was in the journal in time, and was taken for what had become of it later",
    ),
    (1_037_161, OF_REPLICAS, "what a step answered may be unreadable for the next owner, too, that does not ask again"),
];

const IN_SHARED_DATA: &str = "journal_in_etcd=0,trap_of_main=0,few_retained=0,holder_missing=0";
const OF_REPLICAS: &str = "journal_in_etcd=1,few_retained=0,holder_missing=0";
/// Seeds keep what they had before there were more faults.
const IN_ETCD: &str =
    "journal_in_etcd=1,etcd_unsure=0,etcd_cut_off=0,client_travels=0,etcd_tokens=0,trap_of_main=0,holder_missing=0";
const WITHOUT_HOLDERS: &str = "journal_in_etcd=0,holder_missing=1";

/// What is drawn for itself seeds did not have before there was any of it.
const NOTHING_ALONE: &str = "path_answers=0,works_long=0,keys_forgotten=0,compensation_gone=0,compensation_busy=0,\
                             large_answers=0,front_retries=0,deep_requests=0,broad_refusals=0";

/// Compiled once: that takes longer than many seeds.
fn shipped() -> Filter {
    static SHIPPED: LazyLock<Filter> = LazyLock::new(|| Filter::load(&default_wasm().unwrap()).unwrap());
    SHIPPED.clone()
}

fn planted() -> Filter {
    static PLANTED: LazyLock<Filter> = LazyLock::new(|| {
        let path = project_root().join("target/wasm32-wasip1/planted/sagabox.wasm");
        Filter::load(&path).unwrap_or_else(|error| panic!("{error:#}: run `make build-planted`"))
    });
    PLANTED.clone()
}

fn many(filter: &Filter, seeds: u64, faults: &str, until: Until) -> Campaign {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    campaign::run(filter, 0, seeds, faults, threads, until).unwrap()
}

#[test]
fn every_seed_keeps_every_rule() {
    let campaign = many(&shipped(), SEEDS, "", Until::TheEnd);
    println!("{campaign}");
    let Some(seed) = campaign.failed.keys().next() else {
        assert!(campaign.tally.completed > SEEDS && campaign.tally.compensated > SEEDS / 2, "{campaign}");
        // Nothing can be said of these.
        assert!(campaign.tally.set_aside < SEEDS / 100 && campaign.tally.lost < SEEDS / 10, "{campaign}");
        return;
    };
    let report = run_seed(&shipped(), *seed, "").unwrap();
    panic!("{}\n{campaign}\nto see it again: make simulate SEED={seed}", report.show(false));
}

/// What ships, and the module of tomorrow, in upgrades and rollbacks.
#[test]
fn two_versions_at_once_keep_every_rule() {
    let two = shipped().with_tomorrow(&planted());
    let campaign = many(&two, SEEDS_OF_TWO_VERSIONS, "", Until::TheEnd);
    println!("{campaign}");
    let Some(seed) = campaign.failed.keys().next() else {
        let Tally { completed, compensated, left_alone, lost, .. } = campaign.tally;
        assert!(completed > SEEDS_OF_TWO_VERSIONS && compensated > SEEDS_OF_TWO_VERSIONS / 2, "{campaign}");
        assert!((5..SEEDS_OF_TWO_VERSIONS / 4).contains(&left_alone), "{campaign}");
        assert!(lost < SEEDS_OF_TWO_VERSIONS / 10, "{campaign}");
        return;
    };
    let report = run_seed(&two, *seed, "").unwrap();
    let options = "--other-module target/wasm32-wasip1/planted/sagabox.wasm --other-is tomorrow";
    panic!("{}\n{campaign}\nto see it again: make simulate SEED={seed} OPTIONS='{options}'", report.show(false));
}

/// An older VM that lived on had taken over, with what it could read, the row of a saga that it left alone.
#[test]
fn a_seed_of_two_versions_that_has_found_something_keeps_every_rule() {
    let two = shipped().with_tomorrow(&planted());
    let report = run_seed(&two, 2_292, "keys_forgotten=1,works_long=0.3,other_version=0.3").unwrap();
    assert!(report.violations.is_empty(), "{}", report.show(false));
}

#[test]
fn seeds_that_have_found_something_keep_every_rule() {
    for (seed, journal, what) in NAMED_SEEDS {
        let report = run_seed(&shipped(), seed, &format!("{NOTHING_ALONE},{journal}")).unwrap();
        assert!(report.violations.is_empty(), "seed {seed} ({what}):\n{}", report.show(false));
    }
}

#[test]
fn without_faults_every_saga_completes() {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    for faults in ["all=0", "all=0,journal_in_etcd=1"] {
        let campaign = campaign::run(&shipped(), 0, 200, faults, threads, Until::TheEnd).unwrap();
        assert!(campaign.failed.is_empty(), "{faults}: {:?}", campaign.failed);
        let Tally { set_aside, lost, .. } = campaign.tally;
        assert_eq!((campaign.faults, set_aside, lost), (0, 0, 0), "{faults}: {campaign}");
        assert!(campaign.tally.completed > 400, "{faults}: {campaign}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let hash = |seed| run_seed(&shipped(), seed, "").unwrap().history.hash();
    for seed in 0..20 {
        assert_eq!(hash(seed), hash(seed), "seed {seed}");
    }
    assert_ne!(hash(1), hash(2), "the hash tells runs apart");
}

/// What is compiled to WebAssembly does what the crate does natively: to the byte, and to the nanosecond.
#[test]
fn the_compiled_filter_and_the_native_crate_give_the_same_run() {
    let module = shipped();
    for seed in 0..200 {
        // Only a VM of WebAssembly can trap.
        let hash =
            |filter: &Filter| run_seed(filter, seed, "trap=0,trap_in_saga=0,trap_of_main=0").unwrap().history.hash();
        assert_eq!(hash(&module), hash(&Filter::Native), "seed {seed}");
    }
}

fn broken_rules(campaign: &Campaign) -> BTreeSet<Rule> {
    campaign.failed.values().flatten().map(|violation| violation.rule).collect()
}

/// What a planted fault breaks: not what the filter says of itself, but what shows at participants and clients.
fn rules_that_find(fault: Planted) -> &'static [Rule] {
    match fault {
        Planted::UnknownTakenForRejected
        | Planted::RefusalAfterUnknownTakenForRejection
        | Planted::ConflictWhileResolvingTakenForRefusal
        | Planted::First404TakenForUndone
        | Planted::Plain503TakenForNotDone
        | Planted::TimeoutTakenForRefusal
        | Planted::CutShortTakenForRefusal
        | Planted::SuccessWithoutCompensationTaken
        | Planted::UnknownNotResolved
        | Planted::LateSuccessForgotten
        | Planted::CompensationGivenUp
        | Planted::CompensationsNotAwaited
        | Planted::ToldBeforeDone
        | Planted::AnswerToWrongClient => &[Rule::Told, Rule::Outcome],
        Planted::KeyChangesWithAttempt | Planted::CompensationUnderKeyOfTransaction => &[Rule::Envelope],
        Planted::TooManyAttempts => &[Rule::Attempts, Rule::Final],
        Planted::NoSecondAttempt | Planted::RefusedDispatchTakenForRejection => &[Rule::Cause],
        Planted::RetryAfterIgnored => &[Rule::Pace],
        Planted::AttemptWithoutTimeout => &[Rule::Timeout],
        Planted::AfterIgnored | Planted::WhenIgnored => &[Rule::Forward],
        Planted::OneAfterAnother => &[Rule::Together],
        Planted::DeadlineIgnored => &[Rule::Deadline],
        Planted::CompensationOvertakesAttempt => &[Rule::UnderWay],
        Planted::RetriedWhileCompensating => &[Rule::Final],
        Planted::OrderOfCompensationsIgnored => &[Rule::UndoOrder],
        Planted::WrongStatus => &[Rule::Status],
        Planted::SagaDroppedWithClient => &[Rule::Left],
        Planted::OldConfigurationLetGo => &[Rule::Outcome, Rule::Left],
        Planted::EpochNotRaised | Planted::TakenOverTooSoon => &[Rule::Owner],
        Planted::InFlightTakenForNotSent => &[Rule::UndoOrder, Rule::Outcome],
        Planted::IntentNotJournaled => &[Rule::Journaled],
        Planted::NeverTakenOver
        | Planted::ResumedUnderOwnDefinition
        | Planted::SlotNotEmptied
        | Planted::BegunInLostRow => &[Rule::Left],
        Planted::StartKeyIgnored | Planted::RequestUnderKeyNotCompared | Planted::ReplyNotRetained => &[Rule::StartKey],
        Planted::LeaseNotWatched => &[Rule::Owner, Rule::Journaled],
        Planted::SentBeforeWritten | Planted::ToldBeforeWritten => &[Rule::Journaled],
        Planted::LostAnswerTakenForRefusal => &[Rule::Left, Rule::Told, Rule::Journaled],
        Planted::OwnWriteTakenForLost | Planted::RecordsLeftBehind => &[Rule::Left],
        Planted::WrittenWithoutComparing => &[Rule::Owner, Rule::Left],
        Planted::GroupTakenForItsMembers | Planted::TakenFromTheLiving => &[Rule::Owner, Rule::Journaled],
        Planted::PathRefusalWhileResolvingTaken
        | Planted::ProxyAnswerMeetsPredicates
        | Planted::First404AfterUnknownTaken => &[Rule::Told, Rule::Outcome],
        Planted::Gone410NotDone => &[Rule::Undo],
        Planted::ConflictOnCompensationTakenForRefusal => &[Rule::Stuck],
        Planted::KeyLifetimeIgnored => &[Rule::KeyLifetime],
        Planted::DepthIgnored => &[Rule::Depth],
        Planted::InheritedAttemptNotAwaited => &[Rule::UnderWay],
        Planted::WrittenOnlyWhenAwaited => &[Rule::Journaled],
        Planted::ToldFromMemory => &[Rule::Journaled, Rule::Told],
        Planted::RetriedRequestBeginsAnew => &[Rule::StartKey],
        Planted::NoHeadersAskedFor => &[Rule::Trap],
        Planted::TickAlwaysSet => &[Rule::Waits, Rule::Pace, Rule::Deadline],
        Planted::OneQueueName => &[Rule::Waits],
        Planted::UnreadForgotten => &[Rule::Waits],
        Planted::GateNotAsked => &[Rule::Told, Rule::ToldTwice],
        // A simulated VM is never full. They are found on Envoy: tests/memory.rs.
        Planted::BodyNotWeighed
        | Planted::AnswersNotCounted
        | Planted::ReservationKept
        | Planted::CompensationsWaitForRoom
        | Planted::TakenOverWithoutRoom => &[],
        // It takes a crowd, or more patience than any client here has: `trip_collecting.rs` finds them on a real Envoy.
        Planted::CollectedWithoutLimit | Planted::CollectedForEver | Planted::PlaceNotGivenBack => &[],
        Planted::NeedsIgnored
        | Planted::NeedsForgottenByHead
        | Planted::NeedsTakenForDamage
        | Planted::LeftAloneNotCounted => &[Rule::LeftAlone],
        Planted::NeedsNotWritten | Planted::NewestVersionAlways => &[Rule::Left],
        Planted::StoredDefinitionsJudgedAgain => &[Rule::Left, Rule::NotConverged],
        Planted::NeedsKeptWithAnswer => &[Rule::StartKey],
    }
}

/// Where the sagas of the runs are kept that are to find it.
fn journal_of(fault: Planted) -> &'static str {
    match fault {
        Planted::LeaseNotWatched
        | Planted::SentBeforeWritten
        | Planted::ToldBeforeWritten
        | Planted::LostAnswerTakenForRefusal
        | Planted::OwnWriteTakenForLost
        | Planted::WrittenWithoutComparing
        | Planted::GroupTakenForItsMembers
        | Planted::TakenFromTheLiving
        | Planted::RecordsLeftBehind => IN_ETCD,
        Planted::GateNotAsked | Planted::UnreadForgotten => WITHOUT_HOLDERS,
        _ => IN_SHARED_DATA,
    }
}

/// What the runs have that are to find it.
fn faults_of(fault: Planted) -> String {
    let faults = match fault {
        Planted::PathRefusalWhileResolvingTaken | Planted::First404AfterUnknownTaken => "path_answers=1",
        Planted::ProxyAnswerMeetsPredicates => "broad_refusals=1",
        Planted::Gone410NotDone => "compensation_gone=0.3",
        Planted::ConflictOnCompensationTakenForRefusal => "compensation_busy=0.3",
        Planted::KeyLifetimeIgnored => "keys_forgotten=1,works_long=0.3",
        Planted::DepthIgnored => "deep_requests=0.5",
        Planted::InheritedAttemptNotAwaited | Planted::WrittenOnlyWhenAwaited => "works_long=0.3",
        Planted::ToldFromMemory => "works_long=0.3,journal_in_etcd=1,etcd_away=0.7",
        Planted::RetriedRequestBeginsAnew => "front_retries=0.5",
        _ => journal_of(fault),
    };
    format!("{NOTHING_ALONE},{faults}")
}

/// Shows only where a module has to do with what another version has written.
fn is_of_two_versions(fault: Planted) -> bool {
    matches!(
        fault,
        Planted::NeedsIgnored
            | Planted::NeedsNotWritten
            | Planted::NeedsForgottenByHead
            | Planted::NeedsTakenForDamage
            | Planted::LeftAloneNotCounted
            | Planted::NewestVersionAlways
            | Planted::StoredDefinitionsJudgedAgain
            | Planted::NeedsKeptWithAnswer
    )
}

#[test]
fn every_planted_fault_is_found() {
    let module = planted();
    let mut missed = Vec::new();
    for fault in Planted::ALL {
        let two = is_of_two_versions(*fault);
        let filter = if two { module.clone().with_tomorrow(&module) } else { module.clone() };
        let filter = filter.with_environment("SAGABOX_PLANTED_FAULT", fault.name());
        let rules = rules_that_find(*fault);
        if rules.is_empty() {
            continue;
        }
        let faults = if two { String::new() } else { faults_of(*fault) };
        let campaign = many(&filter, SEEDS_OF_A_PLANTED_FAULT, &faults, Until::OneBreaks(rules));
        let found = campaign.failed.iter().find_map(|(seed, violations)| {
            let violation = violations.iter().find(|violation| rules.contains(&violation.rule))?;
            Some((seed, violation))
        });
        match found {
            Some((seed, violation)) => {
                println!("{:<45} seed {seed:>3}: {:?}: {}", fault.name(), violation.rule, violation.what);
            }
            None => missed.push((fault.name(), broken_rules(&campaign))),
        }
    }
    assert!(missed.is_empty(), "not found in {SEEDS_OF_A_PLANTED_FAULT} seeds: {missed:?}");
}

#[test]
fn the_artefact_of_the_planted_faults_keeps_every_rule_where_none_is_chosen() {
    let campaign = many(&planted(), 100, "", Until::TheEnd);
    assert!(campaign.failed.is_empty(), "{:?}", campaign.failed);
}
