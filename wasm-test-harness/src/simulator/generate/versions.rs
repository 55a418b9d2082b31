//! What is added to a plan for two versions of the module.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_pcg::Pcg64Mcg;
use serde_json::Value as Json;

use super::BEGINS_BEFORE;
use crate::simulator::faults::stream_of;
use crate::simulator::host::Nanos;
use crate::simulator::plan::{MS, Plan, SECOND, Succession, Trouble};
use crate::simulator::versions::{Age, Difference, Versions};

/// The longest deadline that tomorrow's check lets pass.
const LONGEST_DEADLINE: &str = "15000ms";
/// One that it refuses.
const TOO_LONG: &str = "20000ms";

/// What the operators of a run do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    /// Every proxy goes from the older version to the newer one.
    Upgrade,
    /// Every proxy goes from the newer version to the older one.
    Rollback,
    /// Whatever comes.
    BackAndForth,
}

impl Course {
    fn drawn(random: &mut Pcg64Mcg) -> Course {
        [Course::Upgrade, Course::Rollback, Course::Rollback, Course::BackAndForth][random.random_range(0..4)]
    }

    fn begins_on(self, random: &mut Pcg64Mcg) -> Age {
        match self {
            Course::Upgrade => Age::Older,
            Course::Rollback => Age::Newer,
            Course::BackAndForth => either(random),
        }
    }

    fn ends_on(self, random: &mut Pcg64Mcg) -> Age {
        match self {
            Course::Upgrade => Age::Newer,
            Course::Rollback => Age::Older,
            Course::BackAndForth => either(random),
        }
    }
}

fn either(random: &mut Pcg64Mcg) -> Age {
    if random.random_bool(0.5) { Age::Newer } else { Age::Older }
}

/// Lets two versions that differ so run in a plan, unless its faults have none of it.
pub fn add_to(plan: &mut Plan, seed: u64, difference: &Difference) {
    if plan.faults.other_version == 0.0 {
        return;
    }
    let random = &mut stream_of(seed, "the plan's other_version");
    let configurations = plan.configurations.len();
    let of_newer: Vec<Json> = plan.configurations.iter().map(|one| as_newer_takes_it(one.clone())).collect();
    plan.configurations.extend(of_newer);
    let course = if difference.no_way_back { Course::Upgrade } else { Course::drawn(random) };
    let begins = plan.proxies.iter().map(|_| course.begins_on(random)).collect();
    let (ends_on, one_way) = (course.ends_on(random), course != Course::BackAndForth);
    let moments: Vec<Nanos> = plan.clients.iter().map(|client| client.at).collect();
    for proxy in 0..plan.proxies.len() {
        for _ in 0..2 {
            if !random.random_bool(plan.faults.other_version) {
                continue;
            }
            let asked = moments.choose(random).copied().unwrap_or_default();
            let at = match random.random_bool(0.6) {
                true => asked + random.random_range(0..SECOND),
                false => random.random_range(0..BEGINS_BEFORE),
            };
            let how = [Succession::NewVm, Succession::OldVmThrownAway].choose(random).copied();
            let drain_ns = [0, 20 * MS, 500 * MS, 5 * SECOND].choose(random).copied().unwrap_or_default();
            let how = how.unwrap_or(Succession::NewVm);
            plan.troubles.push((at, Trouble::OtherVersion { proxy, how, drain_ns }));
        }
    }
    plan.versions = Some(Versions { difference: difference.clone(), begins, ends_on, one_way, configurations });
}

/// An operator has changed by then what the newer module would refuse.
fn as_newer_takes_it(mut configuration: Json) -> Json {
    for saga in configuration["sagas"].as_array_mut().into_iter().flatten() {
        if saga["deadline"] == TOO_LONG {
            saga["deadline"] = LONGEST_DEADLINE.into();
        }
    }
    configuration
}
