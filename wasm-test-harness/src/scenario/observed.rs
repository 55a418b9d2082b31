//! What could be seen of a case from outside, in a form in which two runs of it are equal.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value as Json;

use super::Role;
use crate::participant::Action;
use crate::simulator::model::{Configuration, SagaModel};

/// Headers of a request to a participant that are not compared by name: HTTP's and Envoy's own, and `host`, which has a
/// place of its own; and what depends on the time.
const NOT_THE_FILTERS: [&str; 9] = [
    "saga-deadline",
    "host",
    "x-request-id",
    "content-length",
    "transfer-encoding",
    "connection",
    "date",
    "server",
    "user-agent",
];
/// The same, by how they begin.
const NOT_THE_FILTERS_BEGIN: [&str; 3] = [":", "x-envoy-", "x-forwarded-"];

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Observed {
    /// What the client was told.
    pub answer: Answer,
    /// At each participant.
    pub at: BTreeMap<Role, AtParticipant>,
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// An answer of the filter, or of Envoy.
    Proxy {
        /// Its status.
        status: u16,
        /// Names in lower case; each with its lines.
        headers: BTreeMap<String, Vec<String>>,
        /// JSON where it is, else text; null where there is none.
        body: Json,
    },
    /// The application's answer.
    Application,
    /// There was none, for this reason.
    None(String),
}

/// What a participant saw and holds of a case.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AtParticipant {
    /// In order: see [`SagaOrder`].
    pub received: Vec<Received>,
    /// By step.
    pub bookings: BTreeMap<String, State>,
}

/// Whether a booking stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It stands.
    Booked,
    /// It was cancelled.
    Cancelled,
}

/// One request that a participant received.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Received {
    /// Such as `POST`.
    pub method: String,
    /// With its query.
    pub path: String,
    /// `host`, or `:authority`.
    pub host: String,
    /// Names in lower case; each with its lines.
    pub headers: BTreeMap<String, Vec<String>>,
    /// JSON where it is, else text; null where there is none.
    pub body: Json,
}

impl Received {
    /// From what was sent. `headers` may have those that are not compared.
    pub fn new<'a>(
        method: &str,
        path: &str,
        host: &str,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: &[u8],
    ) -> Received {
        Received {
            method: method.to_owned(),
            path: path.to_owned(),
            host: host.to_owned(),
            headers: compared(headers),
            body: body_of(body),
        }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|lines| lines.first()).map_or("", String::as_str)
    }

    /// The saga's step.
    pub fn step(&self) -> &str {
        self.header("saga-step")
    }

    /// Which half of the step; none where it does not say so.
    pub fn action(&self) -> Option<Action> {
        match self.header("saga-action") {
            "transaction" => Some(Action::Transaction),
            "compensation" => Some(Action::Compensation),
            _ => None,
        }
    }
}

impl Answer {
    /// Of the proxy. `headers` may have those that are not compared.
    pub fn of_proxy<'a>(status: u16, headers: impl Iterator<Item = (&'a str, &'a [u8])>, body: &[u8]) -> Answer {
        Answer::Proxy { status, headers: compared(headers), body: body_of(body) }
    }

    /// Its status; the application answers 200.
    pub fn status(&self) -> Option<u16> {
        match self {
            Answer::Proxy { status, .. } => Some(*status),
            Answer::Application => Some(200),
            Answer::None(_) => None,
        }
    }

    /// A header of an answer of the proxy.
    pub fn header(&self, name: &str) -> Option<&str> {
        let Answer::Proxy { headers, .. } = self else { return None };
        headers.get(name)?.first().map(String::as_str)
    }
}

fn compared<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> BTreeMap<String, Vec<String>> {
    let mut compared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        let others =
            NOT_THE_FILTERS.contains(&name) || NOT_THE_FILTERS_BEGIN.iter().any(|begin| name.starts_with(begin));
        if !others {
            compared.entry(name.to_owned()).or_default().push(String::from_utf8_lossy(value).into_owned());
        }
    }
    compared
}

fn body_of(bytes: &[u8]) -> Json {
    if bytes.is_empty() {
        return Json::Null;
    }
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into_owned().into())
}

/// A booking of a case, as a participant has it.
#[derive(Debug, Clone)]
pub struct Booking {
    /// Such as `hotel-3`.
    pub id: String,
    /// The saga's step.
    pub step: String,
    /// Whether it stands.
    pub state: State,
}

/// What one executor has seen of a case: with ids, in order of arrival.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What the client was told.
    pub answer: Answer,
    /// What each participant received, and what it has booked.
    pub at: BTreeMap<Role, (Vec<Received>, Vec<Booking>)>,
}

impl Seen {
    /// Puts in place of ids what they stand for, and brings the requests of each participant into the order in which
    /// they can be compared. With `attempts_vary`, repeated attempts of a call become one, without its number.
    pub fn observed(self, order: &SagaOrder, attempts_vary: bool) -> Observed {
        let names = Names::of(&self);
        let mut at = BTreeMap::new();
        for (role, (received, bookings)) in self.at {
            let mut received: Vec<Received> = received.into_iter().map(|one| names.received(one)).collect();
            received = order.canonical(received);
            if attempts_vary {
                for one in &mut received {
                    one.headers.remove("saga-attempt");
                }
                received.dedup();
            }
            let bookings = bookings.into_iter().map(|booking| (booking.step, booking.state)).collect();
            at.insert(role, AtParticipant { received, bookings });
        }
        Observed { answer: names.answer(self.answer), at }
    }
}

/// Ids, and what they stand for.
struct Names(Vec<(String, String)>);

impl Names {
    fn of(seen: &Seen) -> Names {
        let mut names = Vec::new();
        if let Some(id) = seen.answer.header("saga-id") {
            names.push((id.to_owned(), "<saga>".to_owned()));
        }
        for (role, (_, bookings)) in &seen.at {
            let of_booking = |booking: &Booking| (booking.id.clone(), format!("<{role} booking of {}>", booking.step));
            names.extend(bookings.iter().map(of_booking));
        }
        Names(names)
    }

    /// `hotel-1` in `hotel-12` is another id.
    fn text(&self, text: &str) -> String {
        let mut named = text.to_owned();
        for (id, name) in &self.0 {
            let mut rest = std::mem::take(&mut named);
            while let Some(at) = rest.find(id.as_str()) {
                let after = rest.split_off(at + id.len());
                let goes_on = after.starts_with(|next: char| next.is_ascii_digit());
                named += if goes_on { &rest } else { &rest[..at] };
                named += if goes_on { "" } else { name };
                rest = after;
            }
            named += &rest;
        }
        named
    }

    fn json(&self, json: Json) -> Json {
        match json {
            Json::String(text) => self.text(&text).into(),
            Json::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Json::Object(members) => members.into_iter().map(|(name, value)| (name, self.json(value))).collect(),
            other => other,
        }
    }

    fn headers(&self, headers: BTreeMap<String, Vec<String>>) -> BTreeMap<String, Vec<String>> {
        let lines = |lines: Vec<String>| lines.iter().map(|line| self.text(line)).collect();
        headers.into_iter().map(|(name, values)| (name, lines(values))).collect()
    }

    fn received(&self, one: Received) -> Received {
        let (path, host) = (self.text(&one.path), self.text(&one.host));
        Received { path, host, headers: self.headers(one.headers), body: self.json(one.body), method: one.method }
    }

    fn answer(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Proxy { status, headers, body } => {
                Answer::Proxy { status, headers: self.headers(headers), body: self.json(body) }
            }
            other => other,
        }
    }
}

/// Which requests of a saga have an order: those of one step, and those of two steps of which one comes after the other.
/// All others are sent at the same time, and may arrive in any order; they are sorted by their steps' names, as far as
/// the order of the others allows.
#[derive(Debug, Clone, Default)]
pub struct SagaOrder {
    /// Pairs of steps, both ways.
    dependent: BTreeSet<(String, String)>,
}

impl SagaOrder {
    /// Of the saga that a request begins; of one that begins none, nothing has an order.
    pub fn of(configuration: &Configuration, method: &str, path: &str) -> SagaOrder {
        configuration.matching(method, path).map(SagaOrder::of_saga).unwrap_or_default()
    }

    fn of_saga(saga: &SagaModel) -> SagaOrder {
        let mut dependent = BTreeSet::new();
        for step in &saga.steps {
            for after in saga.successors(&step.name) {
                dependent.insert((step.name.clone(), after.to_owned()));
                dependent.insert((after.to_owned(), step.name.clone()));
            }
        }
        SagaOrder { dependent }
    }

    fn ordered(&self, one: &Received, other: &Received) -> bool {
        one.step() == other.step() || self.dependent.contains(&(one.step().to_owned(), other.step().to_owned()))
    }

    /// The first, by the names of the steps, of all orders in which these requests could as well have come.
    fn canonical(&self, mut received: Vec<Received>) -> Vec<Received> {
        let mut sorted = Vec::new();
        while !received.is_empty() {
            let is_next =
                |index: &usize| !received[..*index].iter().any(|before| self.ordered(before, &received[*index]));
            let next = (0..received.len()).filter(is_next).min_by_key(|index| received[*index].step().to_owned());
            sorted.push(received.remove(next.unwrap_or(0)));
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn received(step: &str, action: &str, path: &str) -> Received {
        let headers = [("saga-step", step.as_bytes()), ("saga-action", action.as_bytes()), ("x-request-id", b"1")];
        Received::new("POST", path, "hotel", headers.into_iter(), b"")
    }

    #[test]
    fn ids_become_what_they_stand_for() {
        let booking = |id: &str, step: &str| Booking { id: id.to_owned(), step: step.to_owned(), state: State::Booked };
        let headers = [("saga-id", b"0198-x".as_slice()), ("location", b"/trips/0198-x")];
        let body = br#"{"a": ["hotel-1", "hotel-12", "hotel-13"]}"#;
        let seen = Seen {
            answer: Answer::of_proxy(201, headers.into_iter(), body),
            at: [(Role::Hotel, (Vec::new(), vec![booking("hotel-1", "one"), booking("hotel-12", "two")]))].into(),
        };
        let observed = seen.observed(&SagaOrder::default(), false);
        assert_eq!(observed.answer.header("location"), Some("/trips/<saga>"));
        let Answer::Proxy { body, .. } = observed.answer else { panic!() };
        // Somebody else's booking keeps its id.
        assert_eq!(body, json!({"a": ["<hotel booking of one>", "<hotel booking of two>", "hotel-13"]}));
    }

    #[test]
    fn only_requests_without_an_order_are_sorted() {
        let configuration = json!({"sagas": [{"name": "s", "match": {"method": "POST", "path": "/"}, "steps": [
            {"name": "a", "after": ["c"], "transaction": {"path": "/"}},
            {"name": "b", "transaction": {"path": "/"}},
            {"name": "c", "transaction": {"path": "/"}},
        ]}]});
        let order = SagaOrder::of(&Configuration::read(&configuration).unwrap(), "POST", "/");
        let arrived = vec![
            received("c", "transaction", "/1"),
            received("b", "transaction", "/2"),
            received("a", "transaction", "/3"),
        ];
        let sorted = order.canonical(arrived);
        let paths: Vec<&str> = sorted.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(paths, ["/2", "/1", "/3"]);
        assert!(sorted[0].headers.contains_key("saga-step") && !sorted[0].headers.contains_key("x-request-id"));
    }

    #[test]
    fn where_attempts_vary_repeated_ones_count_once() {
        let attempt = |number: &str| {
            let mut one = received("a", "transaction", "/bookings");
            one.headers.insert("saga-attempt".to_owned(), vec![number.to_owned()]);
            one
        };
        let undone = received("a", "compensation", "/bookings/1");
        let all = vec![attempt("1"), attempt("4"), attempt("7"), undone];
        let at = BTreeMap::from([(Role::Car, (all, Vec::new()))]);
        let seen = Seen { answer: Answer::Application, at };
        let count = |vary| seen.clone().observed(&SagaOrder::default(), vary).at[&Role::Car].received.len();
        assert_eq!((count(false), count(true)), (4, 2));
    }
}
