//! One saga: its match, its steps in their order, its replies.

use std::collections::BTreeSet;
use std::time::Duration;

use super::call::{Inherited, Part, call, duration_or, expression};
use super::error::Errors;
use super::located::{At, Located, optional, required, unless_faulty};
use super::matching;
use super::names::{fault_of_step_name, is_saga_name};
use super::order::Order;
use super::raw::{RawCall, RawSaga, RawStep};
use super::reply::replies;
use crate::definition::{Definition, Step};
use crate::planted::tomorrow;
use crate::template::{Reads, Scope};

const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
/// Most steps of a saga.
const MAX_STEPS: usize = 64;

/// Reads all sagas.
pub(super) fn definitions(
    sagas: Option<Located<Vec<Located<RawSaga>>>>,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Vec<Definition> {
    let mut names = BTreeSet::new();
    let sagas = optional(sagas, errors).map(|sagas| sagas.value).unwrap_or_default();
    let mut definitions = Vec::new();
    for saga in sagas {
        let definition = saga.open(errors).and_then(|saga| definition(saga, &mut names, errors, warnings));
        definitions.extend(definition);
    }
    definitions
}

fn definition(
    raw: At<RawSaga>,
    names: &mut BTreeSet<String>,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Definition> {
    let At { path: here, value: RawSaga { name, matching, deadline, start_key, steps, reply } } = raw;
    let name = required(name, &here, "name", "a name like [a-z0-9-]{1,63}", errors).map(|name| {
        if !is_saga_name(&name.value) {
            errors.add(&name.path, &name.value, "a name like [a-z0-9-]{1,63}");
        }
        if !names.insert(name.value.clone()) {
            errors.add(&name.path, &name.value, "a name that no other saga has");
        }
        name.value
    });
    let matcher = required(matching, &here, "match", "which requests begin this saga", errors)
        .and_then(|matching| matching::matcher(matching, errors));
    let deadline = duration_or(deadline, DEFAULT_DEADLINE, errors);
    let start_key = unless_faulty(start_key, errors, |key, errors| expression(&key, &Scope::condition(&[]), errors));
    let steps = required(steps, &here, "steps", "1 to 64 steps", errors);
    if let Some(At { path, value }) = &steps
        && !(1..=MAX_STEPS).contains(&value.len())
    {
        errors.push(path, format!("{} steps", value.len()), "1 to 64 steps");
    }
    let (steps, all_names) = read_steps(steps.map(|steps| steps.value).unwrap_or_default(), errors, warnings);
    let all_names: Vec<&str> = all_names.iter().map(String::as_str).collect();
    let replies = replies(reply, &Scope::reply(&all_names), errors);
    let (steps, (completed, compensated)) = (steps?, replies?);
    let mut definition = Definition {
        name: name?,
        matcher: matcher?,
        deadline,
        start_key: start_key?,
        steps,
        completed,
        compensated,
        reads: Reads::default(),
    };
    definition.reads = definition.all_reads();
    if tomorrow::refuses(&definition) {
        errors.push(&here, "a definition that this module takes", "one that tomorrow's takes, too");
    }
    Some(definition)
}

/// Reads all steps; gives them, if none is faulty, and their names.
fn read_steps(
    raw: Vec<Located<RawStep>>,
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> (Option<Vec<Step>>, Vec<String>) {
    let opened: Vec<_> = raw.into_iter().map(|step| step.open(errors)).collect();
    let mut names = Vec::new();
    let mut afters = Vec::new();
    let mut rest = Vec::new();
    for step in opened {
        let Some(At { path, value: RawStep { name, after, when, transaction, compensation } }) = step else {
            names.push(None);
            afters.push(None);
            rest.push(None);
            continue;
        };
        let name = step_name(name, &path, &names, errors);
        names.push(name);
        afters.push(after);
        rest.push(Some(StepParts { path, when, transaction, compensation }));
    }
    let mut order = Order::new(names.clone(), afters, errors);
    let mut steps = Vec::new();
    for (index, (name, parts)) in names.into_iter().zip(rest).enumerate() {
        let step = parts.and_then(|parts| step(name, parts, &order.names_before(index), errors, warnings));
        steps.push(step);
    }
    let all_names = order.names().into_iter().map(str::to_owned).collect();
    let steps: Option<Vec<Step>> = steps.into_iter().collect();
    (steps.map(|steps| in_order(steps, &mut order)), all_names)
}

struct StepParts {
    path: String,
    when: Option<Located<String>>,
    transaction: Option<Located<RawCall>>,
    compensation: Option<Located<RawCall>>,
}

fn step_name(
    name: Option<Located<String>>,
    here: &str,
    earlier: &[Option<String>],
    errors: &mut Errors,
) -> Option<String> {
    let name = required(name, here, "name", "a name like [a-z][a-z0-9_]{0,62}", errors)?;
    if let Some(expected) = fault_of_step_name(&name.value) {
        errors.add(&name.path, &name.value, expected);
    }
    if earlier.iter().flatten().any(|other| *other == name.value) {
        errors.add(&name.path, &name.value, "a name that no other step of this saga has");
    }
    Some(name.value)
}

fn step(
    name: Option<String>,
    parts: StepParts,
    before: &[&str],
    errors: &mut Errors,
    warnings: &mut Vec<String>,
) -> Option<Step> {
    let StepParts { path: here, when, transaction, compensation } = parts;
    let when = unless_faulty(when, errors, |when, errors| expression(&when, &Scope::condition(before), errors));
    let transaction = required(transaction, &here, "transaction", "a call", errors);
    let (transaction, inherited) = match transaction {
        Some(raw) => call(raw, &Part::Transaction, &Scope::transaction(before), errors, warnings),
        None => (None, Inherited::default()),
    };
    let compensation = unless_faulty(compensation, errors, |raw, errors| {
        let part = Part::Compensation(&inherited);
        call(raw, &part, &Scope::compensation(before), errors, warnings).0
    });
    Some(Step {
        name: name?,
        after: Vec::new(),
        predecessors: Vec::new(),
        successors: Vec::new(),
        when: when?,
        transaction: transaction?,
        compensation: compensation?,
    })
}

fn in_order(mut steps: Vec<Step>, order: &mut Order) -> Vec<Step> {
    let mut pairs = Vec::new();
    for (index, step) in steps.iter_mut().enumerate() {
        let before = order.take(index);
        pairs.extend(before.predecessors.iter().map(|predecessor| (*predecessor, index)));
        step.after = before.after;
        step.predecessors = before.predecessors;
    }
    // Ascending, because the pairs come in the order of their second.
    for (predecessor, successor) in pairs {
        if let Some(step) = steps.get_mut(predecessor) {
            step.successors.push(successor);
        }
    }
    steps
}
