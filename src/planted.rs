//! Faults that were put into the filter on purpose, to show that the simulation of it finds them.
//!
//! A place that can go wrong asks [`planted`]. What ships is built without the feature `planted-faults`: the answer is
//! then a constant, and neither the faults nor their names are in the artefact. What is built with it
//! (`make build-planted`) has the one fault that the environment of the VM names in `SAGABOX_PLANTED_FAULT`, and none
//! where the variable is not set.

pub mod tomorrow;

macro_rules! faults {
    ($($(#[$doc:meta])* $fault:ident = $name:literal,)*) => {
        /// A fault. Each shows at participants or clients.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Planted {
            $($(#[$doc])* $fault,)*
        }

        impl Planted {
            /// Every fault.
            pub const ALL: &[Planted] = &[$(Planted::$fault,)*];

            /// The name that chooses it: lower case, words joined by hyphens.
            pub fn name(self) -> &'static str {
                match self {
                    $(Planted::$fault => $name,)*
                }
            }
        }
    };
}

faults! {
    // What an answer is taken for.
    /// A transaction that came to unknown settles as rejected once it is not attempted any more.
    UnknownTakenForRejected = "unknown-taken-for-rejected",
    /// A refusal settles a step as rejected although an earlier attempt came to unknown.
    RefusalAfterUnknownTakenForRejection = "refusal-after-unknown-taken-for-rejection",
    /// 409 while a step is being resolved is taken for a refusal: the step settles as rejected.
    ConflictWhileResolvingTakenForRefusal = "conflict-while-resolving-taken-for-refusal",
    /// The first 404 on a compensation is a success although the transaction is known to have succeeded.
    First404TakenForUndone = "first-404-taken-for-undone",
    /// A 503 without `retry-after`, as the proxy sends on a reset, means that nothing was done.
    Plain503TakenForNotDone = "plain-503-taken-for-not-done",
    /// A 504, as the proxy sends when an attempt times out, is a refusal.
    TimeoutTakenForRefusal = "timeout-taken-for-refusal",
    /// No answer, or one that was cut short, is a refusal.
    CutShortTakenForRefusal = "cut-short-taken-for-refusal",
    /// A success counts although its compensation cannot be rendered; nothing is undone then.
    SuccessWithoutCompensationTaken = "success-without-compensation-taken",

    /// A refusal that proxies on the path answer, too, settles a step as rejected while it is being resolved.
    PathRefusalWhileResolvingTaken = "path-refusal-while-resolving-taken",
    /// What Envoy itself answers in a participant's place meets the predicates of the definition.
    ProxyAnswerMeetsPredicates = "proxy-answer-meets-predicates",
    /// Where there need not be anything to undo, one 404 is enough.
    First404AfterUnknownTaken = "first-404-after-unknown-taken",
    /// 410 to a compensation is a refusal.
    Gone410NotDone = "gone-410-not-done",
    /// 409 to a compensation is a refusal although an attempt before may be worked on.
    ConflictOnCompensationTakenForRefusal = "conflict-on-compensation-taken-for-refusal",

    // Attempts.
    /// A transaction is sent under a key that its participant may have forgotten.
    KeyLifetimeIgnored = "key-lifetime-ignored",
    /// Calls say that no saga has called this one.
    DepthIgnored = "depth-ignored",
    /// The idempotency key ends with the number of the attempt, from the second on.
    KeyChangesWithAttempt = "key-changes-with-attempt",
    /// A compensation goes out under the key of its transaction.
    CompensationUnderKeyOfTransaction = "compensation-under-key-of-transaction",
    /// A transaction is attempted once more than `max_attempts` allows.
    TooManyAttempts = "too-many-attempts",
    /// A transaction that comes to unknown is not attempted again: its saga compensates at once.
    NoSecondAttempt = "no-second-attempt",
    /// A transaction that the proxy refuses to send for want of an endpoint settles as rejected.
    RefusedDispatchTakenForRejection = "refused-dispatch-taken-for-rejection",
    /// The next attempt does not wait for as long as `retry-after` asks.
    RetryAfterIgnored = "retry-after-ignored",
    /// Attempts have no timeout: one that is never answered is never over.
    AttemptWithoutTimeout = "attempt-without-timeout",

    // Forwards.
    /// Steps start before those that they name in `after` have succeeded, wherever they can be rendered by then.
    AfterIgnored = "after-ignored",
    /// Independent steps are sent one at a time.
    OneAfterAnother = "one-after-another",
    /// Steps are sent although their `when` is false.
    WhenIgnored = "when-ignored",
    /// The deadline comes a day late, for the saga and for its client.
    DeadlineIgnored = "deadline-ignored",

    // Backwards.
    /// A step in flight is compensated at once where its compensation is known; how its attempt ends is ignored.
    CompensationOvertakesAttempt = "compensation-overtakes-attempt",
    /// A step in flight when the saga begins to compensate that then succeeds is taken for rejected.
    LateSuccessForgotten = "late-success-forgotten",
    /// A transaction that waits for its next attempt when the saga begins to compensate is attempted all the same.
    RetriedWhileCompensating = "retried-while-compensating",
    /// An unknown step whose compensation needs the answer is not resolved: it has nothing to undo.
    UnknownNotResolved = "unknown-not-resolved",
    /// A step is compensated without waiting for the steps after it.
    OrderOfCompensationsIgnored = "order-of-compensations-ignored",
    /// After three failed attempts of its compensation a step counts as compensated.
    CompensationGivenUp = "compensation-given-up",
    /// A saga ends as compensated once its compensations are sent, whatever becomes of them.
    CompensationsNotAwaited = "compensations-not-awaited",

    // The journal.
    /// That a step is about to be sent is not recorded, unless it is one of the first.
    IntentNotJournaled = "intent-not-journaled",
    /// Who takes a saga over leaves its epoch as it was.
    EpochNotRaised = "epoch-not-raised",
    /// A VM is dead to the others as soon as they have seen its beat once unchanged.
    TakenOverTooSoon = "taken-over-too-soon",
    /// The sagas of a dead VM stay where they are.
    NeverTakenOver = "never-taken-over",
    /// Who takes a saga over takes what was in flight for ended.
    InheritedAttemptNotAwaited = "inherited-attempt-not-awaited",
    /// What nothing awaits is not written: that the saga compensates, and results.
    WrittenOnlyWhenAwaited = "written-only-when-awaited",
    /// Who takes a saga over takes what was in flight for not sent.
    InFlightTakenForNotSent = "in-flight-taken-for-not-sent",
    /// Who takes a saga over goes on under the definition that it has itself.
    ResumedUnderOwnDefinition = "resumed-under-own-definition",
    /// A saga that has ended stays in its slot.
    SlotNotEmptied = "slot-not-emptied",
    /// A saga that was begun in a row that had been taken over stays in it.
    BegunInLostRow = "begun-in-lost-row",
    /// Start keys are not read.
    StartKeyIgnored = "start-key-ignored",
    /// Another request under the same start key gets the saga of the first.
    RequestUnderKeyNotCompared = "request-under-key-not-compared",
    /// The answer of a saga is forgotten as it ends.
    ReplyNotRetained = "reply-not-retained",

    // The journal in etcd.
    /// A VM sends although its lease may be over, and its sagas another's.
    LeaseNotWatched = "lease-not-watched",
    /// What follows from a record is done before etcd has it.
    SentBeforeWritten = "sent-before-written",
    /// A begin whose answer is lost is taken for refused; the client is told that nothing was sent.
    LostAnswerTakenForRefusal = "lost-answer-taken-for-refusal",
    /// A repeated write that finds itself written is taken for one that has lost its saga.
    OwnWriteTakenForLost = "own-write-taken-for-lost",
    /// Records are written whoever owns the saga.
    WrittenWithoutComparing = "written-without-comparing",
    /// What has become of a transaction of many is taken for what has become of each.
    GroupTakenForItsMembers = "group-taken-for-its-members",
    /// Sagas are taken over although their owners live.
    TakenFromTheLiving = "taken-from-the-living",
    /// The records of a saga that has ended stay in etcd.
    RecordsLeftBehind = "records-left-behind",

    // Two versions of the module.
    /// What a value needs is not looked at: it is read as if this module knew all of it.
    NeedsIgnored = "needs-ignored",
    /// Records do not say what they need.
    NeedsNotWritten = "needs-not-written",
    /// A saga forgets what its records need with the next that needs nothing.
    NeedsForgottenByHead = "needs-forgotten-by-head",
    /// What needs more than this module knows is taken for damaged, and set aside.
    NeedsTakenForDamage = "needs-taken-for-damage",
    /// What is left to a module that knows more is not counted.
    LeftAloneNotCounted = "left-alone-not-counted",
    /// Records are of a newer version where they need nothing, too.
    NewestVersionAlways = "newest-version-always",
    /// Stored definitions are judged by the check of the module that reads them.
    StoredDefinitionsJudgedAgain = "stored-definitions-judged-again",
    /// The answer of a saga that has ended needs what the saga needed.
    NeedsKeptWithAnswer = "needs-kept-with-answer",

    // Clients.
    /// A client is told `completed` while the last step is still in flight; the saga goes on.
    ToldBeforeDone = "told-before-done",
    /// A client is told the end of its saga before the journal has it.
    ToldBeforeWritten = "told-before-written",
    /// What a client is told of a saga that goes on is what memory says, not the journal.
    ToldFromMemory = "told-from-memory",
    /// A client is told every end with the status that is meant for the other.
    WrongStatus = "wrong-status",
    /// A client gets the answer of another open saga, and that saga's client gets this one's.
    AnswerToWrongClient = "answer-to-wrong-client",
    /// A saga is forgotten when its client goes away.
    SagaDroppedWithClient = "saga-dropped-with-client",
    /// A request that a proxy in front sends once more begins a saga of its own.
    RetriedRequestBeginsAnew = "retried-request-begins-anew",

    // The proxy.
    /// A saga begins although no gate holds its request.
    GateNotAsked = "gate-not-asked",
    /// Nobody looks after requests that are paused and never handed over.
    UnreadForgotten = "unread-forgotten",
    /// An answer without headers is asked for one, at which the SDK panics: the VM traps.
    NoHeadersAskedFor = "no-headers-asked-for",
    /// The tick is set to one second by every callback: while they come more often than that, it never comes.
    TickAlwaysSet = "tick-always-set",
    /// The roots of all VMs register their wake queue under one name: only the last one is woken.
    OneQueueName = "one-queue-name",
    /// A root lets itself be deleted with sagas open; they stop where they are.
    OldConfigurationLetGo = "old-configuration-let-go",

    // Memory. They show in the memory of Envoy.
    /// What a body becomes is not weighed before it is parsed: a saga begins if there is any room.
    BodyNotWeighed = "body-not-weighed",
    /// Answers are kept whatever is held, and however many values they have.
    AnswersNotCounted = "answers-not-counted",
    /// What was reserved for an answer is never free again.
    ReservationKept = "reservation-kept",
    /// Compensations wait for room, as transactions do.
    CompensationsWaitForRoom = "compensations-wait-for-room",
    /// Sagas of the dead are taken over whatever is held.
    TakenOverWithoutRoom = "taken-over-without-room",
    // What is held of requests that are not whole.
    /// Any number of requests is collected, of any size.
    CollectedWithoutLimit = "collected-without-limit",
    /// A request that does not end is collected for ever.
    CollectedForEver = "collected-for-ever",
    /// A request that has gone goes on to count.
    PlaceNotGivenBack = "place-not-given-back",
}

/// Header of a request that begins a saga at which a build with planted faults traps, to show what becomes of the other
/// sagas of that VM.
pub const TRAP_HEADER: &str = "x-sagabox-trap";

/// Value of [`TRAP_HEADER`] at which it is the root that traps, as it begins the saga. At any other the stream does.
pub const TRAP_IN_BEGIN: &str = "in the begin";

/// [`TRAP_HEADER`] in a build with planted faults: what ships reads no such header.
#[cfg(not(feature = "planted-faults"))]
pub const fn trap_header() -> Option<&'static str> {
    None
}

/// [`TRAP_HEADER`] in a build with planted faults: what ships reads no such header.
#[cfg(feature = "planted-faults")]
pub const fn trap_header() -> Option<&'static str> {
    Some(TRAP_HEADER)
}

/// Traps, in a build with planted faults, where a request asks for it.
#[cfg(not(feature = "planted-faults"))]
#[inline]
pub fn trap_where(_asked: impl FnOnce() -> bool) {}

/// Traps, in a build with planted faults, where a request asks for it.
#[cfg(feature = "planted-faults")]
pub fn trap_where(asked: impl FnOnce() -> bool) {
    if asked() {
        std::process::abort();
    }
}

/// True where this build has the fault and the environment names it.
#[cfg(not(feature = "planted-faults"))]
#[inline]
pub const fn planted(_fault: Planted) -> bool {
    false
}

/// True where this build has the fault and the environment names it.
#[cfg(feature = "planted-faults")]
pub fn planted(fault: Planted) -> bool {
    // One for each VM: it has a memory of its own, and its environment does not change.
    static CHOSEN: std::sync::OnceLock<Option<Planted>> = std::sync::OnceLock::new();
    *CHOSEN.get_or_init(chosen) == Some(fault)
}

#[cfg(feature = "planted-faults")]
fn chosen() -> Option<Planted> {
    let name = std::env::var("SAGABOX_PLANTED_FAULT").ok()?;
    let fault = Planted::ALL.iter().copied().find(|fault| fault.name() == name);
    match fault {
        Some(_) => log::warn!("planted fault: {name}"),
        None => log::error!("SAGABOX_PLANTED_FAULT names no fault: {name:?}"),
    }
    fault
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case_and_unlike_each_other() {
        for fault in Planted::ALL {
            let name = fault.name();
            let words = name.split('-').all(|word| {
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
            });
            assert!(words, "{name}");
            assert_eq!(Planted::ALL.iter().filter(|other| other.name() == name).count(), 1, "{name}");
            // A name says what its variant says.
            assert_eq!(name.replace('-', ""), format!("{fault:?}").to_lowercase());
        }
    }

    #[test]
    #[cfg(not(feature = "planted-faults"))]
    fn what_ships_has_no_planted_fault() {
        assert!(!Planted::ALL.iter().any(|fault| planted(*fault)));
    }
}
