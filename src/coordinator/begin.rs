//! How a request begins a saga, or gets the answer of one that has begun for it.
//!
//! A request with an idempotency key is told that no saga can be taken only once it is known that none has begun under
//! its key.

use std::sync::Arc;

use serde_json::Value as Json;

use super::breadcrumb::Crumb;
use super::forwarded::forwarded;
use super::repeated::{OfAnother, Wait, waits_until};
use super::room::NeverFits;
use super::{Client, Coordinator, Host, Key, MatchedRequest, depth, too_large, too_large_for_the_journal};
use crate::facts::{self, Weight};
use crate::journal::{self, Found, IdempotencyKey, Journal};
use crate::planted::{TRAP_HEADER, TRAP_IN_BEGIN, trap_where};
use crate::saga::{Begin, Millis, Problem, Reply, Saga};

impl<J: Journal> Coordinator<J> {
    /// Begins a saga, or answers at once why not: 400 if the request does not give what the first steps need, 413 and
    /// 503 past the limits. A request that has begun a saga before gets that one's answer.
    pub fn begin(&mut self, host: &mut impl Host, matched: MatchedRequest) {
        let client = matched.client;
        if matched.request.body.len() > self.limits.max_body {
            return host.reply(client, &too_large(self.limits.max_body));
        }
        let cost = match self.room.cost_of_begin(host, &matched) {
            Ok(cost) => cost,
            Err(never_fits) => return host.reply(client, &never_fits.reply()),
        };
        let facts = match matched.definition.start_key.is_some() {
            false => None,
            // What has begun for it is known by what is in it.
            true if !self.room.takes(host, cost) => return host.reply(client, &Problem::fate_unknown(NO_ROOM_TO_READ)),
            true => {
                self.leave_crumb_of_begin(host, &matched, "");
                Some(facts::request(&matched.request, &matched.params))
            }
        };
        let key = IdempotencyKey::of(&matched.definition, &matched.request, facts.as_ref().unwrap_or(&Json::Null));
        let key = match key {
            Ok(Some(key)) => key,
            Ok(None) => return self.begin_unless_full(host, matched, (facts, cost), None),
            Err(why) => return host.reply(client, &not_usable(format!("start_key: {why}"))),
        };
        let is_full = self.is_full(host, cost);
        // What is not known at once is known once the journal takes the first record, or does not.
        let found = match is_full {
            true => self.journal.look(host, key.looks_for(), host.now(), host.now()),
            false => self.journal.find(host, key.looks_for()),
        };
        let until = waits_until(&matched.definition, host.now());
        match found {
            Found::Nothing => self.begin_unless_full(host, matched, (facts, cost), Some(key)),
            // An equal request, which was no attempt of this one.
            Found::OtherRequest if matches!(key, IdempotencyKey::OfFirstAttempt(_)) => {
                self.begin_unless_full(host, matched, (facts, cost), None);
            }
            found => {
                let of_another = OfAnother::of(&key, None);
                let wait = Wait::of(key.looks_for(), host.now(), until, of_another);
                let wait = if is_full { wait.or_refused(full(), host.now()) } else { wait };
                self.answer_or_wait(host, client, wait, found);
            }
        }
    }

    /// Begins a saga without a key, for a request that was taken before: it has waited since.
    pub(super) fn begin_alone(&mut self, host: &mut impl Host, matched: MatchedRequest) {
        match self.room.cost_of_begin(host, &matched) {
            Ok(cost) => self.begin_unless_full(host, matched, (None, cost), None),
            Err(never_fits) => host.reply(matched.client, &never_fits.reply()),
        }
    }

    /// Begins a saga, whatever has begun before. `facts` are the request's, if they are known; `cost` is what the saga may
    /// add, with them.
    fn begin_unless_full(
        &mut self,
        host: &mut impl Host,
        matched: MatchedRequest,
        (facts, cost): (Option<Json>, usize),
        key: Option<IdempotencyKey>,
    ) {
        let client = matched.client;
        if self.is_full(host, cost) {
            return host.reply(client, &full());
        }
        let Some(depth) = depth::of(&matched.request) else { return host.reply(client, &depth::too_deep()) };
        let now = host.now();
        let id = uuid::Builder::from_unix_timestamp_millis(now, &host.random()).into_uuid().to_string();
        self.leave_crumb_of_begin(host, &matched, &id);
        trap_where(|| {
            let asks = |(name, value): &(String, Vec<u8>)| name == TRAP_HEADER && value == TRAP_IN_BEGIN.as_bytes();
            matched.request.headers.iter().any(asks)
        });
        let begin = Begin {
            definition: Arc::clone(&matched.definition),
            id,
            epoch: 1,
            forwarded: forwarded(&matched.request, &self.forward_headers),
            request: facts.unwrap_or_else(|| facts::request(&matched.request, &matched.params)),
            depth,
            who: journal::who(&matched.definition, &matched.request),
            bounds: self.journal.bounds(),
        };
        match Saga::begin(begin, now) {
            Err(refused) => {
                let refusal = match refused.is_too_large {
                    true => too_large_for_the_journal(),
                    false => not_usable(refused.to_string()),
                };
                let until = waits_until(&matched.definition, now);
                self.refuse_unless_begun_before(host, client, key.as_ref(), until, refusal);
            }
            Ok((saga, actions)) => {
                let key = self.add(saga, Some(client), key);
                self.keep_request(key, matched);
                self.run(host, key, actions, now);
            }
        }
    }

    /// A first attempt may have to begin once more, without its key.
    fn keep_request(&mut self, key: Key, matched: MatchedRequest) {
        let Some(entry) = self.sagas.get_mut(&key) else { return };
        if matches!(entry.start, Some(IdempotencyKey::OfFirstAttempt(_))) {
            entry.request = Some(Box::new(matched));
        }
    }

    /// A request that can begin no saga may ask for the end of one that has begun: what that is known by does not have
    /// all that a saga reads.
    pub(super) fn refuse_unless_begun_before(
        &mut self,
        host: &mut impl Host,
        client: Client,
        key: Option<&IdempotencyKey>,
        until: Millis,
        refusal: Reply,
    ) {
        let now = host.now();
        let Some(key) = key else { return host.reply(client, &refusal) };
        let found = self.journal.look(host, key.looks_for(), now, now);
        let wait = Wait::of(key.looks_for(), now, until, OfAnother::of(key, None)).or_refused(refusal, now);
        self.answer_or_wait(host, client, wait, found);
    }

    /// Whether no saga can be taken that may add so much.
    fn is_full(&self, host: &impl Host, cost: usize) -> bool {
        self.sagas.len() >= self.limits.max_sagas || !self.room.takes(host, cost)
    }

    fn leave_crumb_of_begin(&mut self, host: &mut impl Host, matched: &MatchedRequest, saga: &str) {
        let (name, callback) = (matched.definition.name.clone(), "the begin".to_owned());
        let crumb = Crumb { saga: saga.to_owned(), name, step: String::new(), callback };
        self.breadcrumb.leave(host, &crumb);
    }
}

const NO_ROOM_TO_READ: &str = "the proxy has no memory left to read its key";

fn full() -> Reply {
    Problem::overload("as many sagas are under way as this proxy takes")
}

fn not_usable(detail: String) -> Reply {
    Problem::new(400, "request-not-usable", "The request does not give what the saga needs", detail).into_reply()
}

/// The answer to a request that never reached the coordinator.
pub fn not_handed_over(matched: &MatchedRequest) -> Reply {
    let what = "the proxy could not take the saga over";
    let is_read = matched.definition.start_key.is_some();
    if is_read && Weight::of(&matched.request.body, usize::MAX).has_too_many_values {
        return NeverFits::TooManyValues.reply();
    }
    let facts = if is_read { facts::request(&matched.request, &matched.params) } else { Json::Null };
    match IdempotencyKey::of(&matched.definition, &matched.request, &facts) {
        Ok(None) => Problem::overload(what),
        Ok(Some(_)) | Err(_) => Problem::fate_unknown(what),
    }
}
