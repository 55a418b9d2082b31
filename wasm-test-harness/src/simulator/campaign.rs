//! Many seeds, on all cores, with progress; and what is shown of one that fails.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::checker::{self, Rule, Tally, Violation};
use super::filter::Filter;
use super::generate;
use super::history::History;
use super::plan::Plan;
use super::world::World;

/// Violations that are shown of a failing seed.
const SHOWN: usize = 10;

/// How one seed came out.
pub struct SeedReport {
    /// Which.
    pub seed: u64,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// How its sagas ended.
    pub tally: Tally,
    /// Faults that were injected.
    pub faults: u64,
    /// How much virtual time it took, in nanoseconds.
    pub took: u64,
    /// Everything that happened.
    pub history: History,
    /// The faults that its plan allows, as `--faults` takes them.
    pub allows: String,
}

/// Runs one seed. `faults` overrules what the seed draws: see [`super::faults::Faults::with`].
///
/// # Errors
/// `faults` cannot be read.
pub fn run_seed(filter: &Filter, seed: u64, faults: &str) -> anyhow::Result<SeedReport> {
    Ok(run_plan(filter, seed, &generate::plan(seed, faults, filter.difference())?))
}

/// Runs a plan. What is drawn on the way comes from the seed.
pub fn run_plan(filter: &Filter, seed: u64, plan: &Plan) -> SeedReport {
    let allows = plan.faults.to_string();
    let run = AssertUnwindSafe(|| {
        let outcome = World::run(plan, filter, seed);
        let (violations, tally) = checker::check(plan, &outcome);
        (violations, tally, outcome)
    });
    match catch_unwind(run) {
        Ok((violations, tally, outcome)) => SeedReport {
            seed,
            violations,
            tally,
            faults: outcome.faults,
            took: outcome.took,
            history: outcome.history,
            allows,
        },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            let what = format!("the simulator panicked: {text}");
            SeedReport {
                seed,
                violations: vec![Violation { at: 0, rule: Rule::Panic, what }],
                tally: Tally::default(),
                faults: 0,
                took: 0,
                history: History::default(),
                allows,
            }
        }
    }
}

impl SeedReport {
    /// Whether one of these rules did not hold.
    pub fn breaks(&self, rules: &[Rule]) -> bool {
        self.violations.iter().any(|violation| rules.contains(&violation.rule))
    }

    /// What a person needs to understand a failure: the trace, what was wrong, and how to see it again.
    pub fn show(&self, log: bool) -> String {
        let mut text = self.history.trace(log);
        text += &format!("\nseed {}: faults {}\n", self.seed, self.allows);
        for violation in self.violations.iter().take(SHOWN) {
            text += &format!("WRONG {:>12.3}  {:?}: {}\n", violation.at as f64 / 1e6, violation.rule, violation.what);
        }
        text +=
            &format!("{} rules were broken; the run's hash is {:016x}\n", self.violations.len(), self.history.hash());
        text
    }
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Campaign {
    /// Seeds that were run.
    pub seeds: u64,
    /// How their sagas ended.
    pub tally: Tally,
    /// Faults that were injected.
    pub faults: u64,
    /// Seeds that failed, each with what was wrong.
    pub failed: BTreeMap<u64, Vec<Violation>>,
    /// The longest that a run took, in nanoseconds of virtual time.
    pub longest: u64,
    /// How long it took.
    pub took: Duration,
}

impl std::fmt::Display for Campaign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.seeds as f64 / self.took.as_secs_f64().max(1e-9);
        let Tally { completed, compensated, stuck, set_aside, left_alone, lost } = self.tally;
        let left_alone = if left_alone > 0 { format!("{left_alone} left alone, ") } else { String::new() };
        write!(
            f,
            "{} seeds in {:.1} s ({rate:.0} a second): {} faults; {completed} sagas completed, {compensated} compensated, \
             {stuck} stuck, {set_aside} set aside, {left_alone}{lost} lost with their process; the longest took {} s; {} seeds failed",
            self.seeds,
            self.took.as_secs_f64(),
            self.faults,
            self.longest / 1_000_000_000,
            self.failed.len(),
        )
    }
}

/// When to stop before the last seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// All seeds are run.
    TheEnd,
    /// The first failure is enough.
    AFailure,
    /// The first seed that breaks one of these rules is enough.
    OneBreaks(&'static [Rule]),
}

/// Runs `count` seeds from `from` on, on `threads` threads.
///
/// # Errors
/// `faults` cannot be read.
pub fn run(
    filter: &Filter,
    from: u64,
    count: u64,
    faults: &str,
    threads: usize,
    until: Until,
) -> anyhow::Result<Campaign> {
    generate::plan(from, faults, filter.difference())?;
    let bar = ProgressBar::new(count);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {eta} left  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let next = AtomicU64::new(0);
    let started = std::time::Instant::now();
    let campaign = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    // `faults` was read before.
                    let Ok(report) = run_seed(filter, from + index, faults) else { return };
                    bar.inc(1);
                    let Ok(mut campaign) = campaign.lock() else { return };
                    campaign.add(&report);
                    let Tally { completed, compensated, .. } = campaign.tally;
                    bar.set_message(format!(
                        "{} faults, {completed} completed, {compensated} compensated, {} failed",
                        campaign.faults,
                        campaign.failed.len()
                    ));
                    let enough = match until {
                        Until::TheEnd => false,
                        Until::AFailure => !campaign.failed.is_empty(),
                        Until::OneBreaks(rules) => report.breaks(rules),
                    };
                    if enough {
                        next.store(count, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut campaign = campaign.into_inner().unwrap_or_default();
    campaign.took = started.elapsed();
    Ok(campaign)
}

impl Campaign {
    fn add(&mut self, report: &SeedReport) {
        self.seeds += 1;
        self.faults += report.faults;
        self.tally.completed += report.tally.completed;
        self.tally.compensated += report.tally.compensated;
        self.tally.stuck += report.tally.stuck;
        self.tally.set_aside += report.tally.set_aside;
        self.tally.left_alone += report.tally.left_alone;
        self.tally.lost += report.tally.lost;
        self.longest = self.longest.max(report.took);
        if !report.violations.is_empty() {
            self.failed.insert(report.seed, report.violations.clone());
        }
    }
}
