//! What must hold of every run, told by the configuration and by what could be seen from outside.
//!
//! - Every saga: all transactions applied and none compensated, or every applied transaction compensated after it.
//! - What a client was told agrees with that, and is told once; none that stays waits longer than its saga may take.
//! - No compensation overtakes an attempt, comes before those of the steps after, or undoes what was certainly not done.
//! - No transaction is sent before those that come before it, after the deadline, too often, or once it is being undone.
//! - Only who owns a saga sends for it: a higher epoch takes it over from a VM that is dead or seemed so, and ends the
//!   lower one.
//! - Nothing is sent before the journal has the records that say so and why; no end is told before the journal has it.
//! - A start key begins one saga, and who asks again gets its answer.
//! - Of two versions of the module, the older leaves alone what only the newer can read, and counts it.
//! - In the end nothing is left: no saga, no timer but heartbeats.
//!
//! Sagas of a process that was killed need not end: they lived in its memory. What was sent for them is checked all the
//! same.

mod calls;
mod ends;
mod journal;
mod refusals;
mod step;
mod view;

use super::history::{Happening, Told};
use super::model::Configuration;
use super::plan::Plan;
use super::world::Outcome;

use self::view::View;

/// A rule that did not hold: when (nanoseconds), and what in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When it showed.
    pub at: u64,
    /// Which rule.
    pub rule: Rule,
    /// What was wrong.
    pub what: String,
}

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The checker understands every configuration, and every VM takes it.
    Configuration,
    /// Nothing panics in the simulator.
    Panic,
    /// VMs trap only where that was ordered.
    Trap,
    /// The filter logs no error.
    LogError,
    /// Events fit their sagas.
    IllegalEvent,
    /// A run comes to its end.
    NotConverged,
    /// A call is of a saga that a request has begun, and carries what it should, to where it should.
    Envelope,
    /// Nothing is sent, and no end is told, before it is journaled.
    Journaled,
    /// Only the owner of a saga sends for it, and only from an owner that is dead or seemed so is it taken over.
    Owner,
    /// Under a start key one saga is begun, and who asks again is told of it, and the same.
    StartKey,
    /// Attempts are counted, and there are no more than is allowed.
    Attempts,
    /// An attempt comes neither before it is welcome nor much later.
    Pace,
    /// An attempt may take as long as is configured.
    Timeout,
    /// An attempt, or a compensation, overtakes no attempt that is under way.
    UnderWay,
    /// A transaction comes after those before it, and only where its condition holds.
    Forward,
    /// Steps that wait for nothing are tried at once.
    Together,
    /// No transaction is sent once it has succeeded, was refused or is undone, or its saga has failed.
    Final,
    /// No transaction is sent after the deadline.
    Deadline,
    /// No transaction is sent once its participant may have forgotten its key.
    KeyLifetime,
    /// Nothing is compensated without a cause.
    Cause,
    /// Only what may have been done is compensated, and once.
    Undo,
    /// A step is undone after those that come after it.
    UndoOrder,
    /// A saga's calls say how deep it is, and one that is too deep does not begin.
    Depth,
    /// A saga is marked as stuck only for a reason.
    Stuck,
    /// What a client is told is true.
    Told,
    /// A client is told once.
    ToldTwice,
    /// A client waits as long as it should, and no longer.
    Waits,
    /// The status of an answer is the configured one.
    Status,
    /// The body of an answer is of the saga.
    Reply,
    /// A request is refused only for a reason.
    Refusal,
    /// In the end a saga is done or undone at its participants.
    Outcome,
    /// Nothing is left in the end.
    Left,
    /// What only the newer of two versions can read the older leaves as it is, and counts.
    LeftAlone,
}

/// Whether a rule holds; if not, which, and what in words.
type Check = Result<(), (Rule, String)>;

/// How the sagas of a run ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Every transaction applied.
    pub completed: u64,
    /// Everything undone.
    pub compensated: u64,
    /// Neither: a step may have been done, and is too old to be asked for again.
    pub stuck: u64,
    /// Set aside, as what their owners may have died of.
    pub set_aside: u64,
    /// Left to a newer version than the run ends on.
    pub left_alone: u64,
    /// Lost with their process before they had ended.
    pub lost: u64,
}

/// Checks a run: gives what did not hold, and how its sagas ended.
pub fn check(plan: &Plan, outcome: &Outcome) -> (Vec<Violation>, Tally) {
    let configurations: anyhow::Result<Vec<_>> = plan.configurations.iter().map(Configuration::read).collect();
    let configurations = match configurations {
        Ok(configurations) => configurations,
        Err(error) => {
            let what = format!("the checker does not understand a configuration: {error:#}");
            return (vec![Violation { at: 0, rule: Rule::Configuration, what }], Tally::default());
        }
    };
    let mut view = View::new(plan, &configurations, &outcome.history);
    for (at, happening) in &outcome.history.happenings {
        view.now = *at;
        match happening {
            Happening::Called(call) => view.called(*call),
            Happening::CallRefused(call, status) => view.call_refused(*call, *status),
            Happening::Ended(call, ended) => view.ended(*call, ended),
            Happening::Dealt { call, deed, .. } => view.dealt(*call, *deed),
            Happening::Told(stream, told) => view.told(*stream, told),
            Happening::Left(stream) => view.left(*stream),
            Happening::VmGone(vm, why) => view.vm_gone(*vm, why),
            Happening::Stalled(vm, _) => view.stalled(*vm),
            Happening::RootEnded(vm, _) => view.root_ended(*vm),
            Happening::Requested(stream) => view.requested(*stream),
            Happening::NotJournaled(call, what) => {
                let name = outcome.history.name(*call);
                view.wrong(Rule::Journaled, format!("{name}: {what}"));
            }
            Happening::EndNotJournaled(stream, what) => {
                let client = outcome.history.streams[*stream].client;
                view.wrong(Rule::Journaled, format!("client {client} was told {what}"));
            }
            Happening::Durable(saga, what) => view.durable(saga, *what),
            Happening::NotLeftAlone(what) => view.wrong(Rule::LeftAlone, what.clone()),
            Happening::Unowned(what) => view.wrong(Rule::Owner, what.clone()),
            Happening::Trapped(_, why) if !why.contains("as was ordered") => {
                view.wrong(Rule::Trap, format!("a VM trapped: {why}"));
            }
            Happening::VmStarted(_, _, false) => {
                view.wrong(Rule::Configuration, "a configuration was refused".to_owned());
            }
            // Somebody else has to tell of a VM that died.
            Happening::Logged(vm, _, text) if text.contains(DIED) && view.has_lost_vm(vm.0) => {}
            Happening::Logged(_, level, text) if *level >= LOG_ERROR => {
                view.wrong(Rule::LogError, format!("the filter says: {text}"));
            }
            _ => {}
        }
    }
    view.now = outcome.took;
    let tally = view.end(outcome);
    (view.violations, tally)
}

/// What the filter says of a VM that never came to the end of a callback.
const DIED: &str = "has died in the middle of its work";

/// By the ABI: an error, or worse.
const LOG_ERROR: u32 = 4;

/// An answer that tells the end of a saga, or that it goes on: its status and its saga.
pub fn of_saga(told: &Told) -> Option<(&str, &str)> {
    let Told::Answer { headers, .. } = told else { return None };
    Some((super::host::text(headers, "saga-status")?, super::host::text(headers, "saga-id")?))
}
