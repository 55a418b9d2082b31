//! The command `simulate`: runs seeds of the simulator, and shows what went wrong in those that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{bail, ensure};
use sagabox::saga::record::RECORD_VERSION;

use crate::envoy::default_wasm;
use crate::scenario::{FOLDER, Scenarios, simulated};
use crate::simulator::campaign::{self, Campaign, Until, run_seed};
use crate::simulator::checker::Rule;
use crate::simulator::filter::{Filter, TwoVersions};
use crate::simulator::versions::Difference;

/// Failing seeds that are named.
const NAMED: usize = 20;

/// The command line of the simulator.
#[derive(clap::Args, Debug, Clone)]
pub struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 2_000)]
    pub seeds: u64,
    /// The first of them: a long run can be done in pieces.
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// Runs this one seed, and shows all that happened in it.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Rates that overrule what the seeds draw, such as `request_lost=0.2,trap=0` or `all=0`.
    #[arg(long, default_value = "")]
    pub faults: String,
    /// The filter; without it, the one that `make build` builds.
    #[arg(long)]
    pub wasm: Option<PathBuf>,
    /// The planted fault that the filter is to have, if it was built with them.
    #[arg(long)]
    pub planted: Option<String>,
    /// Another version of the module, which runs beside the filter: some proxies and VMs have it, and go from one to the
    /// other and back.
    #[arg(long)]
    pub other_module: Option<PathBuf>,
    /// What the other version is to the filter. `tomorrow` is the build with planted faults, as a newer one.
    #[arg(long, value_enum, default_value = "older", requires = "other_module")]
    pub other_is: OtherIs,
    /// The newest version of a record that the older of the two reads; if the other writes a newer one, no proxy goes back.
    #[arg(long, default_value_t = RECORD_VERSION, requires = "other_module")]
    pub older_reads: u32,
    /// Runs the crate itself instead of the compiled filter.
    #[arg(long)]
    pub native: bool,
    /// Runs the files of scenarios, too, before the seeds.
    #[arg(long)]
    pub scenarios: bool,
    /// Stops at the first failure.
    #[arg(long)]
    pub stop: bool,
    /// Shows also what the filter logs.
    #[arg(long)]
    pub log: bool,
}

/// What another version of the module is to the filter.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherIs {
    /// An older one.
    Older,
    /// A newer one.
    Newer,
    /// The one that a build with planted faults can be.
    Tomorrow,
}

/// Runs what the command line says.
///
/// # Errors
/// A seed fails, or the filter cannot be loaded.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let filter = filter(arguments)?;
    if let Some(seed) = arguments.seed {
        let report = run_seed(&filter, seed, &arguments.faults)?;
        print!("{}", report.show(arguments.log));
        if !report.violations.is_empty() {
            bail!("seed {seed} fails");
        }
        return Ok(());
    }
    if arguments.scenarios {
        scenarios(&filter)?;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let until = if arguments.stop { Until::AFailure } else { Until::TheEnd };
    let campaign = campaign::run(&filter, arguments.from, arguments.seeds, &arguments.faults, threads, until)?;
    println!("{campaign}");
    for (seed, violations) in campaign.failed.iter().take(NAMED) {
        let Some(first) = violations.first() else { continue };
        println!("  seed {seed}: {:?}: {}", first.rule, first.what);
    }
    for (rule, (seeds, first)) in by_rule(&campaign) {
        println!("  {rule:?}: {seeds} seeds, the first is {first}");
    }
    if let Some(seed) = campaign.failed.keys().next() {
        let faults = &arguments.faults;
        let faults = if faults.is_empty() { String::new() } else { format!(" FAULTS={faults}") };
        bail!("to see what happened: make simulate SEED={seed}{faults}{}", options(arguments));
    }
    println!("to go on: make simulate FROM={} SEEDS={}", arguments.from + arguments.seeds, arguments.seeds);
    Ok(())
}

/// How many seeds have broken each rule, and the first of them.
fn by_rule(campaign: &Campaign) -> BTreeMap<Rule, (u64, u64)> {
    let mut rules: BTreeMap<Rule, (u64, u64)> = BTreeMap::new();
    for (seed, violations) in &campaign.failed {
        let broken: BTreeSet<Rule> = violations.iter().map(|violation| violation.rule).collect();
        for rule in broken {
            rules.entry(rule).or_insert((0, *seed)).0 += 1;
        }
    }
    rules
}

/// What else a run has to be told to be the same.
fn options(arguments: &Arguments) -> String {
    let mut options = Vec::new();
    options.extend(arguments.native.then(|| "--native".to_owned()));
    options.extend(arguments.wasm.as_ref().map(|path| format!("--wasm {}", path.display())));
    if let Some(path) = &arguments.other_module {
        let is = format!("{:?}", arguments.other_is).to_lowercase();
        options.push(format!(
            "--other-module {} --other-is {is} --older-reads {}",
            path.display(),
            arguments.older_reads
        ));
    }
    options.extend(arguments.planted.as_ref().map(|fault| format!("--planted {fault}")));
    if options.is_empty() { String::new() } else { format!(" OPTIONS='{}'", options.join(" ")) }
}

fn scenarios(filter: &Filter) -> anyhow::Result<()> {
    let files = Scenarios::all()?;
    let mut cases = 0;
    for (name, scenarios) in &files {
        let run = simulated::run(scenarios, filter, 0)?;
        let unmet = scenarios.unmet(&run.observed);
        ensure!(unmet.is_empty(), "{FOLDER}/{name}.yaml:\n{}", unmet.join("\n"));
        cases += scenarios.cases.len();
    }
    println!("{cases} cases of {} files in {FOLDER} came to what they must", files.len());
    Ok(())
}

fn filter(arguments: &Arguments) -> anyhow::Result<Filter> {
    if arguments.native {
        return Ok(Filter::Native);
    }
    let path = match &arguments.wasm {
        Some(path) => path.clone(),
        None => default_wasm()?,
    };
    let filter = with_other(Filter::load(&path)?, arguments)?;
    Ok(match &arguments.planted {
        Some(fault) => filter.with_environment("SAGABOX_PLANTED_FAULT", fault),
        None => filter,
    })
}

fn with_other(filter: Filter, arguments: &Arguments) -> anyhow::Result<Filter> {
    let Some(path) = &arguments.other_module else { return Ok(filter) };
    let other = Filter::load(path)?;
    let difference = Difference {
        older_reads: Some(arguments.older_reads.into()),
        only_newer_knows: BTreeSet::new(),
        no_way_back: arguments.older_reads < RECORD_VERSION,
    };
    let two = |older, newer| Filter::Two(Box::new(TwoVersions { older, newer, difference }));
    Ok(match arguments.other_is {
        OtherIs::Older => two(other, filter),
        OtherIs::Newer => two(filter, other),
        OtherIs::Tomorrow => filter.with_tomorrow(&other),
    })
}
