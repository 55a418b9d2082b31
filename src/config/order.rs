//! The order of steps: what `after` says, transitively, and that it is no circle.

use std::collections::{BTreeSet, VecDeque};

use super::error::{Errors, quote, word};
use super::located::{At, Located, optional};
use crate::definition::StepIndex;

/// What comes before one step.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// As configured.
    pub(super) after: Vec<StepIndex>,
    /// `after`, transitively: ascending, without this step.
    pub(super) predecessors: Vec<StepIndex>,
    /// Names in `after` that are no step. Expressions may read them, so that one wrong name is one error.
    unresolved: Vec<String>,
}

/// The order of all steps of a saga.
#[derive(Debug)]
pub(super) struct Order {
    names: Vec<Option<String>>,
    before: Vec<Before>,
}

/// An `after` as it is written.
pub(super) type RawAfter = Option<Located<Vec<Located<String>>>>;

impl Order {
    /// Reads the `after` of every step. `names` and `afters` are of the same steps, in their order; a name that cannot
    /// be read is none.
    pub(super) fn new(names: Vec<Option<String>>, afters: Vec<RawAfter>, errors: &mut Errors) -> Self {
        let mut paths = Vec::new();
        let mut before = Vec::new();
        for after in afters {
            let after = optional(after, errors);
            paths.push(after.as_ref().map(|after| after.path.clone()).unwrap_or_default());
            before.push(after.map(|after| resolve(after, &names, errors)).unwrap_or_default());
        }
        let mut order = Self { names, before };
        let reached: Vec<_> = (0..order.before.len()).map(|step| order.reach(step)).collect();
        order.refuse_circles(&reached, &paths, errors);
        for (step, (before, reached)) in order.before.iter_mut().zip(reached).enumerate() {
            before.predecessors = reached.into_iter().filter(|other| *other != step).collect();
        }
        order
    }

    /// The steps that come before `step`, by name.
    pub(super) fn names_before(&self, step: StepIndex) -> Vec<&str> {
        let Some(before) = self.before.get(step) else {
            return Vec::new();
        };
        let resolved = before.predecessors.iter().filter_map(|other| self.name(*other));
        resolved.chain(before.unresolved.iter().map(String::as_str)).collect()
    }

    /// All steps, by name.
    pub(super) fn names(&self) -> Vec<&str> {
        self.names.iter().flatten().map(String::as_str).collect()
    }

    /// What comes before `step`, handed over.
    pub(super) fn take(&mut self, step: StepIndex) -> Before {
        self.before.get_mut(step).map(std::mem::take).unwrap_or_default()
    }

    fn name(&self, step: StepIndex) -> Option<&str> {
        self.names.get(step)?.as_deref()
    }

    fn after(&self, step: StepIndex) -> &[StepIndex] {
        self.before.get(step).map(|before| before.after.as_slice()).unwrap_or_default()
    }

    /// All steps that come before `step`, itself included if it stands on a circle.
    fn reach(&self, step: StepIndex) -> BTreeSet<StepIndex> {
        let mut reached = BTreeSet::new();
        let mut open = self.after(step).to_vec();
        while let Some(other) = open.pop() {
            if reached.insert(other) {
                open.extend_from_slice(self.after(other));
            }
        }
        reached
    }

    /// Names one circle of every group of steps that wait for each other.
    fn refuse_circles(&self, reached: &[BTreeSet<StepIndex>], paths: &[String], errors: &mut Errors) {
        let comes_before = |a: StepIndex, b: StepIndex| reached.get(b).is_some_and(|before| before.contains(&a));
        for (step, path) in paths.iter().enumerate() {
            let told = (0..step).any(|other| comes_before(other, step) && comes_before(step, other));
            if comes_before(step, step) && !told {
                // A name that is refused elsewhere stands on the circle all the same.
                let names = self.circle(step).into_iter().map(|step| word(self.name(step).unwrap_or_default()));
                let names: Vec<_> = names.collect();
                let found = format!("{} (each after the next)", names.join(" -> "));
                errors.push(path, found, "steps that do not wait for themselves");
            }
        }
    }

    /// A shortest way from `step` back to itself, both ends included.
    fn circle(&self, step: StepIndex) -> Vec<StepIndex> {
        let mut open = VecDeque::from([vec![step]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = open.pop_front() {
            for next in way.last().map(|last| self.after(*last)).unwrap_or_default() {
                let mut longer = way.clone();
                longer.push(*next);
                if *next == step {
                    return longer;
                }
                if seen.insert(*next) {
                    open.push_back(longer);
                }
            }
        }
        vec![step]
    }
}

fn resolve(after: At<Vec<Located<String>>>, names: &[Option<String>], errors: &mut Errors) -> Before {
    let mut before = Before::default();
    for name in after.value {
        let Some(At { path, value: name }) = name.open(errors) else {
            continue;
        };
        match names.iter().position(|other| other.as_ref() == Some(&name)) {
            Some(step) if before.after.contains(&step) => errors.add(&path, &name, "each step once"),
            Some(step) => before.after.push(step),
            None => {
                let known: Vec<_> = names.iter().flatten().map(|name| quote(name)).collect();
                errors.add(&path, &name, format!("a step of this saga: {}", known.join(", ")));
                before.unresolved.push(name);
            }
        }
    }
    before
}
