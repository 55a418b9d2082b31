//! Rules for requests that are refused before their saga begins.

use serde_json::Value as Json;

use super::calls::{DEEPEST, depth_of};
use super::view::View;
use super::{Check, Rule};
use crate::simulator::history::{StreamId, StreamRecord, Told};
use crate::simulator::journal_view::Durable;
use crate::simulator::plan::{ClientPlan, SECOND};

/// Whether an answer says that it is not known whether there is a saga.
pub(super) fn is_fate_unknown(told: &Told) -> bool {
    let Told::Answer { status: 503, body, .. } = told else { return false };
    let body: Json = serde_json::from_slice(body).unwrap_or_default();
    body["type"].as_str().is_some_and(|kind| kind.ends_with(":fate-unknown"))
}

impl View<'_> {
    /// Refused before it began: only where there is a reason.
    pub(super) fn check_refusal(&self, stream: StreamId, told: &Told) -> Check {
        let Told::Answer { status, headers, .. } = told else { return Ok(()) };
        let client = &self.plan.clients[self.history.streams[stream].client];
        let lacks = !String::from_utf8_lossy(&client.body).contains("\"guest\"");
        let version = self.history.streams[stream].version;
        let limits = &self.plan.configurations[version]["limits"];
        let too_large = limits["max_body"].as_u64().is_some_and(|max| client.body.len() as u64 > max);
        let scarce = limits["max_sagas"].as_u64().is_some_and(|max| max < self.plan.clients.len() as u64);
        let retry_after = headers.iter().any(|(name, _)| name == "retry-after");
        let asks_again = client.start_key().is_some() || client.front.is_some();
        if *status == 503 && !is_fate_unknown(told) && self.has_saga_under_key(client) {
            return Err((Rule::Told, "under its key a saga has begun".to_owned()));
        }
        if is_fate_unknown(told) && self.has_answer_for(client) {
            return Err((Rule::StartKey, "its saga has ended, with an answer that every version can read".to_owned()));
        }
        let deep = depth_of(client) >= DEEPEST;
        let somebody_is_away = !self.gone.is_empty() || !self.slow.is_empty();
        match status {
            508 if deep => Ok(()),
            503 if is_fate_unknown(told) && asks_again && somebody_is_away => Ok(()),
            503 if is_fate_unknown(told) && asks_again && self.has_newer(stream) => Ok(()),
            400 if lacks => Ok(()),
            413 if too_large => Ok(()),
            503 if scarce && retry_after => Ok(()),
            // What it waited for had ended, and was forgotten at once.
            503 if retry_after && !self.in_etcd && self.plan.max_retained().is_some() => Ok(()),
            503 if retry_after && (self.may_miss_etcd || !self.plan.etcd_orders.is_empty()) => Ok(()),
            422 if self.shares_key(client) => Ok(()),
            500 if self.is_held_by_nobody(stream) => Ok(()),
            _ => Err((Rule::Refusal, "there is no reason to refuse its request".to_owned())),
        }
    }

    /// There is a newer version than the one that serves a stream.
    fn has_newer(&self, stream: StreamId) -> bool {
        let is_older = |vm| !self.history.newer.contains(&vm);
        self.plan.versions.is_some() && self.history.streams[stream].vm.is_some_and(is_older)
    }

    /// A request whose body would come only after its headers have reached the application, or not at all.
    pub(super) fn is_held_by_nobody(&self, stream: StreamId) -> bool {
        let StreamRecord { client, vm, .. } = &self.history.streams[stream];
        let client = &self.plan.clients[*client];
        let has_more = client.trailers || !client.body.is_empty();
        has_more && vm.is_some_and(|vm| self.plan.proxies[vm.0].holder_missing)
    }

    /// A saga is known to have begun under the key of a client, for the same request.
    fn has_saga_under_key(&self, client: &ClientPlan) -> bool {
        let Some(key) = client.start_key().filter(|_| self.in_etcd) else { return false };
        let saga = self.keys.get(&(0, 0, client.path.as_str(), key)).and_then(|saga| self.sagas.get(saga));
        saga.is_some_and(|saga| self.plan.clients[saga.client].body == client.body)
    }

    /// Where two versions run: the answer for those who ask again under the key of a client has been in the journal for a while.
    fn has_answer_for(&self, client: &ClientPlan) -> bool {
        let Some(key) = client.start_key().filter(|_| self.plan.versions.is_some() && !self.may_miss_etcd) else {
            return false;
        };
        let of = if self.in_etcd { (0, 0) } else { (client.proxy, self.kills_of(client.proxy)) };
        let saga = self.keys.get(&(of.0, of.1, client.path.as_str(), key)).and_then(|saga| self.sagas.get(saga));
        let ended_at = saga.and_then(|saga| saga.durable.get(&Durable::Ended));
        ended_at.is_some_and(|at| at + 2 * SECOND < self.now) && self.plan.max_retained().is_none()
    }

    /// Another client asks for something else under the same key.
    fn shares_key(&self, client: &ClientPlan) -> bool {
        let others = self.plan.clients.iter().filter(|other| other.start_key() == client.start_key());
        client.start_key().is_some() && others.filter(|other| other.body != client.body).count() > 0
    }
}
