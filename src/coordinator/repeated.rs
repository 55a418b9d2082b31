//! Requests whose start key has begun a saga before: they get that saga's answer, and wait for it where there is none yet.

use std::collections::BTreeMap;

use super::{Client, Coordinator, Host};
use crate::definition::Definition;
use crate::journal::{Found, Journal, OpenSaga, StartKey};
use crate::saga::{CLIENT_GRACE_MS, Millis, Problem, Reply};

/// How often waiting clients' sagas are looked at: they may run in another VM, which cannot answer them.
const POLL_MS: Millis = 50;

/// Clients that wait for sagas which others have begun.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    clients: BTreeMap<Client, Wait>,
    poll_at: Option<Millis>,
}

/// A client that waits.
#[derive(Debug)]
pub(super) struct Wait {
    start: StartKey,
    until: Millis,
    /// What it is told where nothing has begun; none: it was refused for what had.
    refusal: Option<Reply>,
    /// The saga, and where it was when it was looked at last.
    seen: Option<OpenSaga>,
}

impl Wait {
    /// `until` is when the client has waited long enough.
    pub(super) fn of(start: &StartKey, until: Millis) -> Wait {
        Wait { start: start.clone(), until, refusal: None, seen: None }
    }
}

/// As long as the client of a saga that begins now.
fn waits_until(definition: &Definition, now: Millis) -> Millis {
    let deadline_ms = u64::try_from(definition.deadline.as_millis()).unwrap_or(u64::MAX);
    now.saturating_add(deadline_ms).saturating_add(CLIENT_GRACE_MS)
}

impl Waiting {
    pub(super) fn count(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn next_due(&self) -> Millis {
        self.poll_at.unwrap_or(Millis::MAX)
    }

    pub(super) fn gone(&mut self, client: Client) {
        self.clients.remove(&client);
        if self.clients.is_empty() {
            self.poll_at = None;
        }
    }
}

impl<J: Journal> Coordinator<J> {
    /// Answers a client whose start key has begun a saga before, or lets it wait. False: as far as is known at once there is
    /// none, and the request begins one.
    pub(super) fn repeats(
        &mut self,
        host: &mut impl Host,
        client: Client,
        definition: &Definition,
        start: &StartKey,
    ) -> bool {
        match self.journal.find(host, start) {
            Found::Nothing => return false,
            Found::OtherRequest => host.reply(client, &other_request()),
            Found::Ended(reply) => host.reply(client, &replayed(reply)),
            Found::Unreadable => host.reply(client, &unreadable()),
            Found::UnderWay(_) | Found::Asked => {
                self.wait(host, client, Wait::of(start, waits_until(definition, host.now())))
            }
        }
        true
    }

    /// A request that cannot begin a saga may ask for the end of one that has begun: what that is known by does not have
    /// all that a saga reads.
    pub(super) fn refuse_unless_begun_before(
        &mut self,
        host: &mut impl Host,
        client: Client,
        definition: &Definition,
        start: Option<&StartKey>,
        refusal: Reply,
    ) {
        let now = host.now();
        match start {
            Some(start) if self.journal.look(host, start, now) != Found::Nothing => {
                let wait = Wait::of(start, waits_until(definition, now));
                self.wait(host, client, Wait { refusal: Some(refusal), ..wait });
            }
            _ => host.reply(client, &refusal),
        }
    }

    /// Lets a client wait for the end of the saga that has begun under its start key.
    pub(super) fn wait(&mut self, host: &mut impl Host, client: Client, wait: Wait) {
        if self.waiting.count() >= self.limits.max_sagas {
            return host.reply(client, &Problem::fate_unknown("as many clients wait for sagas as this proxy takes"));
        }
        self.waiting.clients.insert(client, wait);
        self.waiting.poll_at.get_or_insert(host.now().saturating_add(POLL_MS));
    }

    /// Looks whether the sagas for which clients wait have ended.
    pub(super) fn answer_waiting(&mut self, host: &mut impl Host, now: Millis) {
        if self.waiting.next_due() > now {
            return;
        }
        for (client, mut wait) in std::mem::take(&mut self.waiting.clients) {
            let answer = match self.journal.look(host, &wait.start, now) {
                Found::Ended(reply) => replayed(reply),
                Found::OtherRequest => other_request(),
                Found::UnderWay(open) if now >= wait.until => still_working(&open),
                Found::Asked if now >= wait.until => match &wait.seen {
                    Some(open) => still_working(open),
                    None => Problem::fate_unknown("the journal does not answer"),
                },
                found @ (Found::UnderWay(_) | Found::Asked) => {
                    if let Found::UnderWay(open) = found {
                        wait.seen = Some(open);
                    }
                    self.waiting.clients.insert(client, wait);
                    continue;
                }
                Found::Unreadable => unreadable(),
                // It was never sent anything, or has been forgotten since it ended.
                Found::Nothing => {
                    let gone = || Problem::fate_unknown("the saga that was begun before is gone");
                    wait.refusal.unwrap_or_else(gone)
                }
            };
            host.reply(client, &answer);
        }
        let waits = !self.waiting.clients.is_empty();
        self.waiting.poll_at = waits.then(|| now.saturating_add(POLL_MS));
    }
}

/// What the client of the saga was told, to another that asks the same.
fn replayed(mut reply: Reply) -> Reply {
    reply.headers.push(("idempotency-replayed".to_owned(), "true".to_owned()));
    reply
}

/// As in an upgrade: a proxy of the newer kind can tell.
fn unreadable() -> Reply {
    Problem::fate_unknown("what has begun under this idempotency-key cannot be read by this proxy")
}

fn other_request() -> Reply {
    let detail = "a request with another method, path or body has begun a saga under this idempotency-key".to_owned();
    Problem::new(422, "idempotency-key-reused", "The idempotency-key belongs to another request", detail).into_reply()
}

fn still_working(OpenSaga { saga, state, is_set_aside }: &OpenSaga) -> Reply {
    let what_next = if *is_set_aside { "is set aside: it waits for an operator" } else { "goes on" };
    let detail = format!("the saga, which another request has begun, is still {}, and {what_next}", state.name());
    let mut problem = Problem::new(504, "still-working", "The saga has not ended in time", detail);
    problem.members.insert("saga_id".to_owned(), saga.as_str().into());
    problem.members.insert("saga_status".to_owned(), state.name().into());
    let mut reply = problem.into_reply();
    reply.headers.push(("saga-id".to_owned(), saga.clone()));
    reply.headers.push(("saga-status".to_owned(), state.name().to_owned()));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::SagaState;

    #[test]
    fn who_repeats_a_request_is_told_whether_anybody_goes_on_with_its_saga() {
        for (is_set_aside, what_next) in [(false, "goes on"), (true, "waits for an operator")] {
            let open = OpenSaga { saga: "s1".to_owned(), state: SagaState::Running, is_set_aside };
            let reply = still_working(&open);
            assert_eq!(reply.status, 504);
            assert!(reply.body.as_deref().unwrap().contains(what_next), "{reply:?}");
            assert!(reply.headers.contains(&("saga-id".to_owned(), "s1".to_owned())), "{reply:?}");
        }
    }
}
