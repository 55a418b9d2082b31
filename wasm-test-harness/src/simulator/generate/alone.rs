//! What is added to a plan for the faults that are each drawn for themselves.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_pcg::Pcg64Mcg;
use serde_json::Value as Json;

use super::BEGINS_BEFORE;
use crate::simulator::faults::stream_of;
use crate::simulator::host::Nanos;
use crate::simulator::plan::{Front, MS, Plan, SECOND, Trouble};

/// What a proxy on the path says by itself, without its participant.
pub const PATH_STATUSES: [u16; 7] = [401, 403, 404, 405, 413, 421, 431];
/// The depth at which no saga begins any more.
const DEEPEST: u32 = 8;
/// Steps of a saga, and clients of a run, with large answers: few, as they take long.
const FEW_STEPS: usize = 3;
const FEW_CLIENTS: usize = 2;
/// `limits.max_body` with large answers, in bytes.
const LARGE_BODY: usize = 2 << 20;

/// Adds what the plan's faults want. Each draws only from streams of its own.
pub fn add_to(plan: &mut Plan, seed: u64) {
    path_answers(plan, &mut plan_stream(seed, "path_answers"));
    works_long(plan, &mut plan_stream(seed, "works_long"));
    keys_forgotten(plan, &mut plan_stream(seed, "keys_forgotten"));
    front_retries(plan, &mut plan_stream(seed, "front_retries"));
    deep_requests(plan, &mut plan_stream(seed, "deep_requests"));
    broad_refusals(plan, &mut plan_stream(seed, "broad_refusals"));
    large_answers(plan, &mut plan_stream(seed, "large_answers"));
}

fn plan_stream(seed: u64, fault: &str) -> Pcg64Mcg {
    stream_of(seed, &format!("the plan's {fault}"))
}

fn path_answers(plan: &mut Plan, random: &mut Pcg64Mcg) {
    for _ in 0..2 {
        if !random.random_bool(plan.faults.path_answers) {
            continue;
        }
        // Most soon after a client has asked, when most is under way.
        let asked = plan.clients.choose(random).map_or(0, |client| client.at);
        let at = match random.random_bool(0.7) {
            true => asked + random.random_range(0..3 * SECOND),
            false => random.random_range(0..BEGINS_BEFORE),
        };
        let for_ns = random.random_range(100 * MS..20 * SECOND);
        let participant = random.random_range(0..plan.participants.len());
        let status = if random.random_bool(0.5) { PATH_STATUSES.choose(random).copied() } else { None };
        plan.troubles.push((at, Trouble::PathAnswers { participant, for_ns, status }));
    }
}

/// An attempt may take longer than its client is kept after the deadline.
fn works_long(plan: &mut Plan, random: &mut Pcg64Mcg) {
    if plan.faults.works_long == 0.0 || random.random_bool(0.5) {
        return;
    }
    for_each_step(plan, |step| {
        if random.random_bool(0.3) {
            step["transaction"]["per_try_timeout"] = "8000ms".into();
        }
    });
}

fn keys_forgotten(plan: &mut Plan, random: &mut Pcg64Mcg) {
    // Another owner counts by its wall clock: one that is off by an hour is no matter only where keys are kept for a day.
    if random.random_bool(plan.faults.keys_forgotten) && plan.faults.clock_jump == 0.0 {
        let lifetime_ms = random.random_range(2_000..=8_000);
        for_each_step(plan, |step| step["transaction"]["key_lifetime"] = format!("{lifetime_ms}ms").into());
    }
}

fn front_retries(plan: &mut Plan, random: &mut Pcg64Mcg) {
    let (rate, in_etcd, proxies) = (plan.faults.front_retries, plan.in_etcd(), plan.proxies.len());
    for client in &mut plan.clients {
        if !random.random_bool(rate) {
            continue;
        }
        let timeout: Nanos = [300 * MS, SECOND, 3 * SECOND, 8 * SECOND].choose(random).copied().unwrap_or(SECOND);
        client.front = Some(Front { timeout, attempts: random.random_range(2..=3) });
        client.leaves_after = None;
        client.wanders = random.random_bool(0.5);
        // Only in a common journal another proxy can find what the first has begun.
        client.travels = in_etcd && proxies > 1 && random.random_bool(0.5);
    }
}

fn deep_requests(plan: &mut Plan, random: &mut Pcg64Mcg) {
    let rate = plan.faults.deep_requests;
    for client in &mut plan.clients {
        if random.random_bool(rate) {
            let depth = if random.random_bool(0.3) { DEEPEST } else { random.random_range(1..DEEPEST) };
            client.headers.push(("saga-depth".to_owned(), depth.to_string().into_bytes()));
        }
    }
}

fn broad_refusals(plan: &mut Plan, random: &mut Pcg64Mcg) {
    let faults = &plan.faults;
    // In these an answer from 400 on is no refusal.
    let others = [faults.path_answers, faults.not_now, faults.server_error];
    if others.iter().any(|rate| *rate > 0.0) || !random.random_bool(faults.broad_refusals) {
        return;
    }
    for_each_step(plan, |step| {
        if random.random_bool(0.7) {
            step["transaction"]["rejected"] = "response.code >= 400".into();
        }
    });
}

/// The reply returns what each step was answered.
fn large_answers(plan: &mut Plan, random: &mut Pcg64Mcg) {
    if !plan.in_etcd() || !random.random_bool(plan.faults.large_answers) {
        plan.faults.large_answers = 0.0;
        return;
    }
    plan.clients.truncate(FEW_CLIENTS);
    for configuration in &mut plan.configurations {
        configuration["limits"]["max_body"] = LARGE_BODY.into();
        for saga in configuration["sagas"].as_array_mut().into_iter().flatten() {
            let Some(steps) = saga["steps"].as_array_mut() else { continue };
            steps.truncate(FEW_STEPS);
            let names: Vec<String> = steps
                .iter()
                .filter(|step| step["when"].is_null())
                .filter_map(|step| step["name"].as_str().map(str::to_owned))
                .collect();
            let body = &mut saga["reply"]["completed"]["body"];
            if let Some(body) = body.as_object_mut() {
                body.retain(|name, _| !name.starts_with("step") || names.contains(name));
            }
            for name in names {
                body[format!("note_of_{name}")] = format!("${{steps.{name}.response.body.note}}").into();
            }
        }
    }
}

fn for_each_step(plan: &mut Plan, mut change: impl FnMut(&mut Json)) {
    for configuration in &mut plan.configurations {
        let sagas = configuration["sagas"].as_array_mut().into_iter().flatten();
        sagas.filter_map(|saga| saga["steps"].as_array_mut()).flatten().for_each(&mut change);
    }
}
