//! Runs the cases of a file in the simulator.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;

use super::observed::{Answer, Booking, Received, SagaOrder, Seen, State};
use super::{Case, Observed, Role, Scenarios};
use crate::simulator::checker;
use crate::simulator::faults::Faults;
use crate::simulator::filter::Filter;
use crate::simulator::history::{CallId, Happening, Told};
use crate::simulator::host::Nanos;
use crate::simulator::model::Configuration;
use crate::simulator::plan::{ClientPlan, MS, Plan, ProxyPlan, SECOND, Trouble};
use crate::simulator::world::{Outcome, World};

/// When the clients ask.
const BEGIN: Nanos = 10 * MS;
/// Everything has ended by then.
const END: Nanos = 60 * SECOND;
/// The longest way from one to another: no case comes near a timeout by it.
const LATENCY: Nanos = 3 * MS;

/// What the cases came to, and whether the simulator's checker has looked at the run.
#[derive(Debug)]
pub struct Simulated {
    /// By the names of the cases.
    pub observed: BTreeMap<String, Observed>,
    /// The checker understands the configuration, and finds nothing wrong.
    pub checked: bool,
}

/// Runs all cases of a file at once, in the two body modes by turns. `seed` draws the latencies.
///
/// # Errors
/// The configuration cannot be read, the run does not come to an end, or the simulator's checker finds something wrong.
pub fn run(scenarios: &Scenarios, filter: &Filter, seed: u64) -> anyhow::Result<Simulated> {
    let plan = plan(scenarios)?;
    let outcome = World::run(&plan, filter, seed);
    let trace = || outcome.history.trace(true);
    ensure!(outcome.converged, "the simulation does not come to an end:\n{}", trace());
    ensure!(outcome.open_roots.is_empty(), "sagas are left in the end:\n{}", trace());
    ensure!(outcome.illegal_events == 0, "{} events did not fit their sagas:\n{}", outcome.illegal_events, trace());
    let configuration = Configuration::read(&plan.configurations[0])?;
    let checked = configuration.is_understood();
    if checked {
        let (violations, _) = checker::check(&plan, &outcome);
        ensure!(violations.is_empty(), "{}{violations:#?}", trace());
    }
    Ok(Simulated { observed: observe(scenarios, &plan, &configuration, &outcome), checked })
}

fn plan(scenarios: &Scenarios) -> anyhow::Result<Plan> {
    let index = |role: Role| Role::ALL.iter().position(|other| *other == role).unwrap_or_default();
    let no_endpoint = scenarios.no_endpoint.iter();
    let no_endpoint = no_endpoint.map(|role| (0, Trouble::NoEndpoint { participant: index(*role), for_ns: END }));
    let outage = scenarios.outage.iter().map(|outage| {
        (0, Trouble::ParticipantDown { participant: index(outage.participant), for_ns: BEGIN + outage.for_ms * MS })
    });
    let orders = scenarios.cases.iter().flat_map(Case::orders);
    Ok(Plan {
        checks_journal: true,
        etcd_orders: Vec::new(),
        configurations: vec![scenarios.plugin_configuration()?],
        proxies: [false, true].map(|gate_pair| ProxyPlan { workers: 1, gate_pair, holder_missing: false }).into(),
        participants: Role::ALL.map(|role| role.name().to_owned()).into(),
        clients: scenarios.cases.iter().enumerate().map(|(index, case)| client(case, index % 2)).collect(),
        troubles: no_endpoint.chain(outage).collect(),
        orders: orders.map(|(role, fault)| (role.name().to_owned(), fault)).collect(),
        faults: Faults::default(),
        versions: None,
        heal_at: END,
        latency: LATENCY,
    })
}

fn client(case: &Case, proxy: usize) -> ClientPlan {
    let line = |(name, value): (&str, &str)| (name.to_ascii_lowercase(), value.as_bytes().to_vec());
    let own = case.request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let body = case.body();
    ClientPlan {
        at: BEGIN,
        proxy,
        worker: 0,
        method: case.request.method.clone(),
        path: case.request.path.clone(),
        headers: [("content-type", "application/json")].into_iter().chain(own).map(line).collect(),
        pieces: usize::from(!body.is_empty()),
        body,
        trailers: false,
        leaves_after: None,
        repeats: 0,
        wanders: false,
        travels: false,
        front: None,
    }
}

fn observe(
    scenarios: &Scenarios,
    plan: &Plan,
    configuration: &Configuration,
    outcome: &Outcome,
) -> BTreeMap<String, Observed> {
    let history = &outcome.history;
    let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
    let mut dealt: BTreeSet<CallId> = BTreeSet::new();
    for (_, happening) in &history.happenings {
        match happening {
            Happening::Told(stream, told) => {
                answers.entry(history.streams[*stream].client).or_insert_with(|| answer(told));
            }
            Happening::Dealt { call, .. } => {
                dealt.insert(*call);
            }
            _ => {}
        }
    }
    let request_ids: BTreeMap<&str, usize> =
        history.streams.iter().map(|stream| (stream.request_id.as_str(), stream.client)).collect();
    // Sent and received in the same order: without random faults nothing overtakes what it depends on.
    let mut received: BTreeMap<(usize, Role), Vec<Received>> = BTreeMap::new();
    let mut sagas: BTreeMap<usize, String> = BTreeMap::new();
    for call in dealt {
        let record = &history.calls[call];
        let client = request_ids.get(record.header("x-request-id")).copied().unwrap_or(plan.clients.len());
        let Some(role) = Role::ALL.into_iter().find(|role| role.name() == record.callout.cluster) else { continue };
        let headers = record.callout.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let (method, path) = (record.header(":method"), record.header(":path"));
        let one = Received::new(method, path, record.header(":authority"), headers, &record.callout.body);
        sagas.entry(client).or_insert_with(|| record.header("saga-id").to_owned());
        received.entry((client, role)).or_default().push(one);
    }
    let names = scenarios.cases.iter().map(|case| case.name.clone());
    let mut observed = BTreeMap::new();
    for (client, name) in names.enumerate() {
        let at = Role::ALL.map(|role| {
            let saga = sagas.get(&client).map_or("", String::as_str);
            let bookings = outcome.participants.get(role.name()).map(|participant| participant.bookings_of(saga));
            let bookings = bookings.into_iter().flatten().map(|(id, step, stands)| Booking {
                id: id.to_owned(),
                step: step.to_owned(),
                state: if stands { State::Booked } else { State::Cancelled },
            });
            (role, (received.remove(&(client, role)).unwrap_or_default(), bookings.collect()))
        });
        let answer = answers.remove(&client).unwrap_or_else(|| Answer::None("no answer".to_owned()));
        let client = &plan.clients[client];
        let order = SagaOrder::of(configuration, &client.method, &client.path);
        let seen = Seen { answer, at: at.into() };
        observed.insert(name, seen.observed(&order, scenarios.attempts_vary()));
    }
    observed
}

fn answer(told: &Told) -> Answer {
    match told {
        Told::Answer { status, headers, body } => {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
            Answer::of_proxy(u16::try_from(*status).unwrap_or_default(), headers, body)
        }
        Told::Application => Answer::Application,
        Told::Cut(why) => Answer::None((*why).to_owned()),
    }
}
