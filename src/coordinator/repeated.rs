//! Requests for which a saga has begun before: they get that saga's answer, and wait for it if there is none yet.

use std::collections::BTreeMap;

use super::{Client, Coordinator, Host, MatchedRequest};
use crate::definition::Definition;
use crate::journal::{Found, IdempotencyKey, Journal, OpenSaga, StartKey};
use crate::saga::{CLIENT_GRACE_MS, Millis, Problem, Reply};

/// How often waiting clients' sagas are looked at: they may run in another VM, which cannot answer them.
const POLL_MS: Millis = 50;
/// How long a request that can begin no saga waits for the journal to say whether one has begun for it.
const LOOK_MS: Millis = 1_000;

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
    /// When it began to wait.
    since: Millis,
    until: Millis,
    /// What it is told if nothing has begun, and when it has waited long enough to know; none: it was refused for what had.
    refusal: Option<(Reply, Millis)>,
    /// The saga, and where it was when it was looked at last.
    seen: Option<OpenSaga>,
    of_another: OfAnother,
}

/// What becomes of a client if the saga under its key turns out to be another request's.
#[derive(Debug)]
pub(super) enum OfAnother {
    /// Its key belongs to that request.
    Refused,
    /// It is the same request, in another attempt, and waits for that saga.
    Joined(StartKey),
    /// It is no attempt of that request: it begins a saga of its own.
    BeginsAlone(Box<MatchedRequest>),
    /// Nor is this, and it can begin none.
    BeginsNothing,
}

impl OfAnother {
    /// A first attempt begins a saga of its own only with its `request`.
    pub(super) fn of(key: &IdempotencyKey, request: Option<Box<MatchedRequest>>) -> OfAnother {
        match (key, request) {
            (IdempotencyKey::OfClient(_), _) => OfAnother::Refused,
            (IdempotencyKey::OfRetry(keys), _) => OfAnother::Joined(keys.first.clone()),
            (IdempotencyKey::OfFirstAttempt(_), Some(request)) => OfAnother::BeginsAlone(request),
            (IdempotencyKey::OfFirstAttempt(_), None) => OfAnother::BeginsNothing,
        }
    }
}

/// What follows from a look.
#[derive(Debug)]
enum Verdict {
    Answered(Reply),
    Waits,
    BeginsAlone(Box<MatchedRequest>),
}

impl Wait {
    /// `until` is when the client has waited long enough.
    pub(super) fn of(start: &StartKey, since: Millis, until: Millis, of_another: OfAnother) -> Wait {
        Wait { start: start.clone(), since, until, refusal: None, seen: None, of_another }
    }

    /// The client is refused so if nothing has begun.
    pub(super) fn or_refused(mut self, refusal: Reply, now: Millis) -> Wait {
        self.refusal = Some((refusal, self.until.min(now.saturating_add(LOOK_MS))));
        self
    }

    /// When it has to be known what has begun.
    fn known_by(&self) -> Millis {
        self.refusal.as_ref().map_or(self.until, |(_, known_by)| *known_by)
    }

    fn verdict(&mut self, found: Found, now: Millis) -> Verdict {
        let answer = match found {
            Found::Ended(reply) => replayed(reply),
            Found::Unreadable => unreadable(),
            Found::UnderWay(open) if now >= self.until => still_working(&open),
            Found::UnderWay(open) => {
                self.seen = Some(open);
                return Verdict::Waits;
            }
            Found::OtherRequest => return self.found_another(now),
            Found::Asked => match &self.seen {
                Some(open) if now >= self.until => still_working(open),
                None if now >= self.known_by() => Problem::fate_unknown("the journal does not answer"),
                Some(_) | None => return Verdict::Waits,
            },
            // A saga that was seen was never sent anything, or has been forgotten since it ended.
            Found::Nothing => match (self.refusal.take(), &self.seen) {
                (Some((refusal, _)), None) => refusal,
                _ => gone(),
            },
        };
        Verdict::Answered(answer)
    }

    fn found_another(&mut self, now: Millis) -> Verdict {
        match std::mem::replace(&mut self.of_another, OfAnother::Refused) {
            OfAnother::Refused => Verdict::Answered(other_request()),
            OfAnother::BeginsAlone(matched) => Verdict::BeginsAlone(matched),
            OfAnother::BeginsNothing => Verdict::Answered(match self.refusal.take() {
                Some((refusal, _)) => refusal,
                None => gone(),
            }),
            OfAnother::Joined(_) if now >= self.until => Verdict::Answered(gone()),
            OfAnother::Joined(other) => {
                // It may have changed in between: then this one is right again.
                self.of_another = OfAnother::Joined(std::mem::replace(&mut self.start, other));
                Verdict::Waits
            }
        }
    }
}

/// As long as the client of a saga that begins now.
pub(super) fn waits_until(definition: &Definition, now: Millis) -> Millis {
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
    /// Answers a client as what was found says, or lets it wait.
    pub(super) fn answer_or_wait(&mut self, host: &mut impl Host, client: Client, mut wait: Wait, found: Found) {
        let now = host.now();
        match wait.verdict(found, now) {
            Verdict::Answered(reply) => host.reply(client, &reply),
            Verdict::Waits => self.wait(host, client, wait),
            Verdict::BeginsAlone(matched) => self.begin_alone(host, *matched),
        }
    }

    /// Lets a client wait for the end of the saga that has begun under its key. As many may wait as sagas may be under
    /// way.
    pub(super) fn wait(&mut self, host: &mut impl Host, client: Client, wait: Wait) {
        if self.waiting.count() >= self.limits.max_sagas || self.room.free(host) == 0 {
            let detail = "as many requests wait for sagas that were begun before as this proxy lets wait";
            return host.reply(client, &Problem::fate_unknown(detail));
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
            let found = self.journal.look(host, &wait.start, wait.since, now);
            match wait.verdict(found, now) {
                Verdict::Answered(reply) => host.reply(client, &reply),
                Verdict::BeginsAlone(matched) => self.begin_alone(host, *matched),
                Verdict::Waits => {
                    self.waiting.clients.insert(client, wait);
                }
            }
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

fn gone() -> Reply {
    Problem::fate_unknown("the saga that was begun before is gone")
}

/// A proxy with the newer module can tell, as in an upgrade.
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
