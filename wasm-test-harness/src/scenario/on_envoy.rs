//! Runs the cases of a file on a real Envoy, with real participants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use futures::future::join_all;
use serde_json::Value as Json;
use serde_yaml_ng::Value as Yaml;

use super::observed::{Answer, Booking, Received, SagaOrder, Seen, State};
use super::{Case, Configuration, HOST, Observed, Outage, Role, Scenarios};
use crate::application::Application;
use crate::loopback::{self, Client, InFlight, Outgoing};
use crate::participant::{self, Attempt, AttemptFilter, BookingState};
use crate::simulator::model;
use crate::trip::{BodyMode, Trip};

/// How long a client waits: longer than the filter lets it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// When no participant has been asked for anything for so long, nothing more will come: longer than any interval
/// between two attempts for which no client waits any more.
const QUIET: Duration = Duration::from_millis(1_500);
/// Under what name requests are shown that belong to no case.
const NOBODY: &str = "(no case)";

/// Runs all cases of a file at once, in the two body modes by turns.
///
/// # Errors
/// Envoy or a participant does not start, the run does not come to an end, or the filter is not well afterwards.
pub async fn run(scenarios: &Scenarios) -> anyhow::Result<BTreeMap<String, Observed>> {
    let application = Application::start().await?;
    let configuration = scenarios.plugin_configuration()?;
    let inline = matches!(scenarios.configuration, Configuration::Inline(_)).then(|| configuration.clone());
    let no_endpoint = scenarios.no_endpoint.clone();
    let customise = |envoy: crate::envoy::Envoy| {
        let envoy = envoy.workers(1).upstream("application", application.address());
        let envoy = match inline {
            None => envoy,
            Some(configuration) => {
                let mut first = configuration.clone();
                first["gate"] = Json::Bool(true);
                envoy.plugin_configuration("trip", "sagabox", &configuration.to_string()).plugin_configuration(
                    "trip_gate",
                    "sagabox_gate_first",
                    &first.to_string(),
                )
            }
        };
        envoy.edit(move |yaml| remove_endpoints(yaml, &no_endpoint))
    };
    let mut trip = Trip::start_with(customise).await?;
    for (role, fault) in scenarios.cases.iter().flat_map(Case::orders) {
        trip.participant(role.name()).set_fault(fault)?;
    }
    if let Some(outage) = &scenarios.outage {
        trip.participant(outage.participant.name()).stop().await;
    }
    let modes = BodyMode::ALL.into_iter().cycle();
    let begun: anyhow::Result<Vec<InFlight>> =
        scenarios.cases.iter().zip(modes).map(|(case, mode)| begin(&trip, case, mode)).collect();
    if let Some(Outage { participant, for_ms }) = &scenarios.outage {
        tokio::time::sleep(Duration::from_millis(*for_ms)).await;
        trip.restart(participant.name()).await?;
    }
    let answers = join_all(begun?.into_iter().map(InFlight::answer)).await;
    trip.wait_until_quiet(QUIET, Duration::from_secs(20)).await?;
    trip.check_filter_is_well().await?;
    let answers = answers.into_iter().map(answer).collect();
    Everything::read(&trip)?.observe(scenarios, &model::Configuration::read(&configuration)?, answers)
}

fn remove_endpoints(yaml: &mut Yaml, roles: &BTreeSet<Role>) {
    let clusters = yaml["static_resources"]["clusters"].as_sequence_mut();
    for cluster in clusters.into_iter().flatten() {
        if roles.iter().any(|role| cluster["name"].as_str() == Some(role.name())) {
            cluster["load_assignment"]["endpoints"] = Yaml::Sequence(Vec::new());
        }
    }
}

fn begin(trip: &Trip, case: &Case, mode: BodyMode) -> anyhow::Result<InFlight> {
    let url = format!("http://{}{}", trip.address(mode), case.request.path);
    let own = case.request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let headers: Vec<(&str, &str)> =
        [("host", HOST), ("content-type", "application/json")].into_iter().chain(own).collect();
    let method = case.request.method.parse().with_context(|| case.name.clone())?;
    let request = loopback::request(method, &url, &headers, Outgoing::whole(case.body()))?;
    Ok(Client::http1().timeout(ANSWER_TIMEOUT).begin(request))
}

fn answer(answer: anyhow::Result<loopback::Answer>) -> Answer {
    match answer {
        Err(error) => Answer::None(format!("{error:#}")),
        Ok(answer) if answer.header("x-application").is_some() => Answer::Application,
        Ok(answer) => {
            let headers = answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            Answer::of_proxy(answer.status.as_u16(), headers, &answer.body)
        }
    }
}

/// What the participants have seen and hold, of all cases together.
struct Everything {
    attempts: Vec<(Role, Attempt)>,
    bookings: Vec<(Role, participant::Booking)>,
}

impl Everything {
    fn read(trip: &Trip) -> anyhow::Result<Everything> {
        let mut everything = Everything { attempts: Vec::new(), bookings: Vec::new() };
        for role in Role::ALL {
            let participant = trip.participant(role.name());
            let attempts = participant.attempts(&AttemptFilter::default())?;
            everything.attempts.extend(attempts.into_iter().map(|attempt| (role, attempt)));
            everything.bookings.extend(participant.bookings()?.into_iter().map(|booking| (role, booking)));
        }
        Ok(everything)
    }

    /// Deals everything out to the cases: by the saga that the client was told, else by the guest.
    fn observe(
        mut self,
        scenarios: &Scenarios,
        configuration: &model::Configuration,
        answers: Vec<Answer>,
    ) -> anyhow::Result<BTreeMap<String, Observed>> {
        let mut observed = BTreeMap::new();
        for (case, answer) in scenarios.cases.iter().zip(answers) {
            let order = SagaOrder::of(configuration, &case.request.method, &case.request.path);
            let saga = answer.header("saga-id").map(str::to_owned);
            let seen = self.take(answer, |id, guest| match (id, &saga) {
                (Some(id), Some(saga)) => id == saga,
                _ => guest == Some(case.name.as_str()),
            });
            observed.insert(case.name.clone(), seen.observed(&order, scenarios.attempts_vary()));
        }
        let rest = self.take(Answer::None(String::new()), |_, _| true);
        if rest.at.values().any(|(received, _)| !received.is_empty()) {
            observed.insert(NOBODY.to_owned(), rest.observed(&SagaOrder::default(), false));
        }
        Ok(observed)
    }

    /// Takes out what is of one saga or guest.
    fn take(&mut self, answer: Answer, is_of: impl Fn(Option<&str>, Option<&str>) -> bool) -> Seen {
        let mut at: BTreeMap<Role, (Vec<Received>, Vec<Booking>)> =
            Role::ALL.map(|role| (role, Default::default())).into();
        let of_attempt = |one: &mut (Role, Attempt)| is_of(one.1.saga_id.as_deref(), one.1.guest.as_deref());
        for (role, attempt) in self.attempts.extract_if(.., of_attempt) {
            at.entry(role).or_default().0.push(received(&attempt));
        }
        let of_booking = |one: &mut (Role, participant::Booking)| is_of(one.1.saga_id.as_deref(), Some(&one.1.guest));
        for (role, booking) in self.bookings.extract_if(.., of_booking) {
            let state = match booking.state {
                BookingState::Booked => State::Booked,
                BookingState::Cancelled => State::Cancelled,
            };
            let step = booking.saga_step.unwrap_or_default();
            at.entry(role).or_default().1.push(Booking { id: booking.id, step, state });
        }
        Seen { answer, at }
    }
}

fn received(attempt: &Attempt) -> Received {
    let headers = attempt.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let host = attempt.header("host").unwrap_or_default();
    Received::new(&attempt.method, &attempt.path, host, headers, attempt.body.as_bytes())
}
