//! Calls of VMs to etcd, where a run keeps its sagas there: on their way, what goes wrong, and what must hold of every
//! one of them.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::Value as Json;

use super::network::UPSTREAM_TIME;
use super::{Event, World};
use crate::simulator::etcd::{Etcd, Refusal, Tokens};
use crate::simulator::history::{Happening, VmId};
use crate::simulator::host::{Callout, CalloutAnswer, Headers, Nanos, text};
use crate::simulator::journal_view::{self, Held};
use crate::simulator::plan::{EtcdFate, EtcdOrder, MS, Plan, SECOND};
use crate::simulator::process::{ClusterState, ContextId};

/// The cluster of etcd, in every generated configuration.
pub const ETCD: &str = "etcd";
/// How late a request may reach etcd whose sender does not wait for its answer any more.
pub(super) const LATEST: Nanos = 3 * SECOND;

/// Which call to etcd: an index that is never used again.
pub(super) type AskId = usize;

/// etcd, and what is on its way there.
pub(super) struct EtcdJournal {
    pub(super) etcd: Etcd,
    /// For which VMs ask for their leases.
    lease_s: i64,
    /// Whose the names of VMs are, in etcd.
    names: BTreeMap<String, (VmId, ContextId)>,
    asked: Vec<Asked>,
    /// Where it wants to know who asks.
    tokens: Option<Tokens>,
    /// So many troubles keep single proxies from it.
    cut_off: BTreeMap<usize, u32>,
    /// So many troubles keep it away, and full.
    away: u32,
    full: u32,
    random: Pcg64Mcg,
    /// For what came later: seeds keep what they have.
    of_unsure: Pcg64Mcg,
    of_tokens: Pcg64Mcg,
    /// Those of the plan that are still to come.
    orders: Vec<EtcdOrder>,
}

impl EtcdJournal {
    pub(super) fn new(plan: &Plan, seed: u64) -> EtcdJournal {
        EtcdJournal {
            etcd: Etcd::new(),
            lease_s: plan.etcd_lease_s(),
            names: BTreeMap::new(),
            asked: Vec::new(),
            tokens: plan.etcd_user().map(|(name, password)| Tokens::of_user(name, password)),
            cut_off: BTreeMap::new(),
            away: 0,
            full: 0,
            random: Pcg64Mcg::seed_from_u64(seed ^ 0x0e7c_d0e7),
            of_unsure: Pcg64Mcg::seed_from_u64(seed ^ 0x0e7c_d0f6),
            of_tokens: Pcg64Mcg::seed_from_u64(seed ^ 0x0e7c_70ce),
            orders: plan.etcd_orders.clone(),
        }
    }

    pub(super) fn vm_of(&self, ask: AskId) -> VmId {
        self.asked[ask].vm
    }

    /// A VM makes the key of its name itself.
    fn learn_names(&mut self, asker: (VmId, ContextId), body: &[u8]) {
        let mut keys = Vec::new();
        written_keys(&serde_json::from_slice(body).unwrap_or_default(), &mut keys);
        for name in keys.iter().filter_map(|key| key.strip_prefix("+sagabox/vm/")) {
            self.names.entry(name.to_owned()).or_insert(asker);
        }
    }

    pub(super) fn has_no_open_saga_but(&self, left: &BTreeSet<String>) -> bool {
        journal_view::in_etcd(&self.etcd).keys().all(|saga| left.contains(saga))
    }

    pub(super) fn left(&self) -> Vec<String> {
        journal_view::left_in_etcd(&self.etcd)
    }

    /// Their ids, the names of the VMs, and since when nobody has kept them alive.
    pub(super) fn leases_of_vms(&self) -> Vec<(i64, Vec<String>, Nanos)> {
        journal_view::leases_of_vms(&self.etcd, self.lease_s)
    }

    pub(super) fn root_named(&self, name: &str) -> Option<(VmId, ContextId)> {
        self.names.get(name).copied()
    }

    /// Whether a call has been made that writes something of it.
    pub(super) fn was_asked_for(&self, saga: &str) -> bool {
        self.asked.iter().any(|asked| writes(&serde_json::from_slice(&asked.callout.body).unwrap_or_default(), saga))
    }

    pub(super) fn set_aside(&self) -> Vec<String> {
        journal_view::set_aside_in_etcd(&self.etcd)
    }
}

/// A call to etcd.
struct Asked {
    vm: VmId,
    callout: Callout,
    open: bool,
    /// As was ordered.
    fate: Option<EtcdFate>,
}

impl World<'_> {
    /// A call to etcd leaves its proxy.
    pub(super) fn ask_etcd(&mut self, vm: VmId, callout: Callout) {
        let path = text(&callout.headers, ":path").unwrap_or_default().to_owned();
        let what = format!("asks etcd: {}", asked_for(&path, &callout.body));
        let timeout = Nanos::from(callout.timeout_ms) * MS;
        let ask = self.journal.asked.len();
        let ordered = self.journal.orders.iter().position(|order| what.contains(&order.writes));
        let fate = ordered.map(|index| self.journal.orders.remove(index).fate);
        self.journal.asked.push(Asked { vm, callout, open: true, fate });
        self.tell_of(vm_name(vm), format!("{what} ({ask})"));
        self.schedule(timeout, Event::EtcdTimesOut(ask));
        let latency = self.etcd_latency();
        let faults = self.plan.faults.clone();
        if self.etcd_strikes(faults.etcd_request_lost) || fate == Some(EtcdFate::RequestLost) {
            return;
        }
        if let Some(EtcdFate::RequestLate(late)) = fate {
            return self.schedule(late, Event::EtcdAsked(ask));
        }
        let late = if self.etcd_strikes(faults.etcd_slow) { self.journal.random.random_range(0..LATEST) } else { 0 };
        self.schedule(latency + late, Event::EtcdAsked(ask));
    }

    fn etcd_latency(&mut self) -> Nanos {
        // Well within the shortest timeout.
        let most = self.plan.latency.clamp(MS, 40 * MS);
        self.journal.random.random_range(MS / 5..=most)
    }

    fn etcd_strikes(&mut self, rate: f64) -> bool {
        let strikes = rate > 0.0 && !self.healed && self.journal.random.random_bool(rate);
        self.faults += u64::from(strikes);
        strikes
    }

    /// What etcd says where it cannot say what becomes of a call, and whether it does it all the same.
    fn etcd_is_unsure(&mut self) -> Option<(Refusal, bool)> {
        let (rate, random) = (self.plan.faults.etcd_unsure, &mut self.journal.of_unsure);
        let strikes = rate > 0.0 && !self.healed && random.random_bool(rate);
        self.faults += u64::from(strikes);
        let says = |late: bool| if late { Refusal::TIMED_OUT } else { Refusal::LEADER_CHANGED };
        strikes.then(|| (says(random.random_bool(0.5)), random.random_bool(0.5)))
    }

    /// A call has reached etcd.
    pub(super) fn etcd_asked(&mut self, ask: AskId) {
        let latency = self.etcd_latency();
        if self.journal.cut_off.contains_key(&self.journal.vm_of(ask).0) {
            return;
        }
        if self.journal.away > 0 {
            return self.schedule(latency, Event::EtcdAnswers(ask, refused_connection()));
        }
        let callout = self.journal.asked[ask].callout.clone();
        let path = text(&callout.headers, ":path").unwrap_or_default().to_owned();
        let now = self.now();
        self.journal.etcd.expire(now);
        let asker = (self.journal.asked[ask].vm, callout.context);
        self.journal.learn_names(asker, &callout.body);
        if let Some((status, body)) = self.etcd_wants_a_token(&path, &callout) {
            self.tell_of(ETCD, format!("answers {status} to ({ask}), of which it does not know who asks"));
            return self.schedule(latency, Event::EtcdAnswers(ask, with_json(status, body)));
        }
        let living = journal_view::living_in_etcd(&self.journal.etcd);
        let before = journal_view::held_in_etcd(&self.journal.etcd);
        let for_newer = self.only_for_newer_in_etcd(asker.0);
        let unsure = self.etcd_is_unsure();
        let done = unsure.as_ref().is_none_or(|(_, done)| *done);
        let answer = done.then(|| self.journal.etcd.answer(&path, &callout.body, now));
        let answer = unsure.map(|(says, _)| says.answer()).or(answer);
        let (status, body) = answer.unwrap_or_default();
        let after = journal_view::held_in_etcd(&self.journal.etcd);
        let sagas: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let changed = sagas.iter().copied().filter(|saga| before.get(*saga) != after.get(*saga));
        self.check_leaves_alone(asker.0, changed, &for_newer);
        for saga in sagas.iter().filter(|saga| before.get(**saga) != after.get(**saga)) {
            self.look_at_etcd(saga);
        }
        for saga in sagas {
            let (was, is) =
                (before.get(saga).cloned().unwrap_or_default(), after.get(saga).cloned().unwrap_or_default());
            let is_asker = |name: &str| self.journal.names.get(name) == Some(&asker);
            if let Some(what) = wrong_change(&was, &is, &living, is_asker) {
                self.tell(Happening::Unowned(format!("saga {saga} {what}, by {}", vm_name(asker.0))));
            }
        }
        self.tell_of(ETCD, format!("answers {status} to ({ask})"));
        if self.journal.asked[ask].fate == Some(EtcdFate::AnswerLost) {
            return;
        }
        if self.etcd_strikes(self.plan.faults.etcd_answer_lost) {
            if self.journal.random.random_bool(0.5) {
                self.schedule(latency, Event::EtcdAnswers(ask, cut_connection()));
            }
            return;
        }
        self.schedule(latency, Event::EtcdAnswers(ask, with_json(status, body)));
    }

    /// What etcd says to a call for a token, or without a valid one.
    fn etcd_wants_a_token(&mut self, path: &str, callout: &Callout) -> Option<(u16, Vec<u8>)> {
        let rate = self.plan.faults.etcd_tokens;
        let tokens = self.journal.tokens.as_mut()?;
        if rate > 0.0 && !self.healed && self.journal.of_tokens.random_bool(rate) {
            tokens.forget();
            self.faults += 1;
        }
        tokens.answer(path, &callout.body, text(&callout.headers, "authorization"))
    }

    pub(super) fn etcd_times_out(&mut self, ask: AskId) {
        let headers = vec![line(":status", "504")];
        self.etcd_answers(ask, CalloutAnswer::Whole { headers, body: b"upstream request timeout".to_vec() });
    }

    /// The first end of a call is told to the root that made it, if that is still there.
    pub(super) fn etcd_answers(&mut self, ask: AskId, answer: CalloutAnswer) {
        let asked = &mut self.journal.asked[ask];
        if !std::mem::replace(&mut asked.open, false) {
            return;
        }
        let (vm, context, token) = (asked.vm, asked.callout.context, asked.callout.token);
        if self.has_root(vm, context) {
            self.callback(vm, |vm| vm.callout_ended(context, token, answer));
        }
    }

    pub(super) fn etcd_goes_away(&mut self, for_ns: Nanos) {
        self.journal.away += 1;
        self.tell_of(ETCD, format!("is away for {} ms", for_ns / MS));
        self.schedule(for_ns, Event::EtcdIsBack);
    }

    pub(super) fn etcd_is_back(&mut self) {
        self.journal.away -= 1;
        if self.journal.away == 0 {
            // Its leases get their whole time again.
            let now = self.now();
            self.journal.etcd.restart(now);
            self.tell_of(ETCD, "is back");
        }
    }

    /// Its leases there end meanwhile, if that is long enough, and nobody has told it.
    pub(super) fn cut_off_from_etcd(&mut self, proxy: usize, for_ns: Nanos, without_endpoint: bool) {
        if without_endpoint {
            self.proxies[proxy].process.borrow_mut().set_cluster(ETCD, ClusterState::NoEndpoint);
        }
        *self.journal.cut_off.entry(proxy).or_default() += 1;
        self.tell_of(format!("proxy{proxy}"), format!("is cut off from etcd for {} ms", for_ns / MS));
        self.schedule(for_ns, Event::ReachesEtcd(proxy));
    }

    pub(super) fn reaches_etcd(&mut self, proxy: usize) {
        let Some(troubles) = self.journal.cut_off.get_mut(&proxy) else { return };
        *troubles -= 1;
        if *troubles == 0 {
            self.journal.cut_off.remove(&proxy);
            self.proxies[proxy].process.borrow_mut().set_cluster(ETCD, ClusterState::HasEndpoint);
            self.tell_of(format!("proxy{proxy}"), "reaches etcd again");
        }
    }

    pub(super) fn etcd_is_full(&mut self, for_ns: Nanos) {
        self.journal.full += 1;
        let proposed = self.journal.of_unsure.random_range(0..=2);
        self.journal.etcd.fill_up(proposed);
        self.tell_of(ETCD, format!("is full for {} ms", for_ns / MS));
        self.schedule(for_ns, Event::EtcdHasRoom);
    }

    pub(super) fn etcd_has_room(&mut self) {
        self.journal.full -= 1;
        if self.journal.full == 0 {
            self.journal.etcd.set_full(false);
        }
    }
}

/// A saga is changed by its owner, or taken over from one whose key is gone, which raises its epoch by one.
fn wrong_change(was: &Held, is: &Held, living: &BTreeSet<String>, is_asker: impl Fn(&str) -> bool) -> Option<String> {
    match (&was.head, &is.head) {
        _ if was == is => None,
        (None, None) => Some("was changed, which is nobody's".to_owned()),
        (None, Some((owner, _))) => (!is_asker(owner)).then(|| format!("was begun for {owner}")),
        (Some((owner, epoch)), Some((new_owner, new_epoch))) if (owner, epoch) != (new_owner, new_epoch) => {
            let rightly = !living.contains(owner) && is_asker(new_owner) && *new_epoch == epoch + 1;
            let lives = if living.contains(owner) { ", which lives," } else { "" };
            let what =
                || format!("was taken from {owner} in epoch {epoch}{lives} for {new_owner} in epoch {new_epoch}");
            (!rightly).then(what)
        }
        (Some(_), Some(_)) if was.sequence > is.sequence => {
            Some(format!("went back from record {} to {}", was.sequence, is.sequence))
        }
        (Some((owner, _)), _) => (!is_asker(owner)).then(|| format!("was changed, which is {owner}'s")),
    }
}

fn vm_name(vm: VmId) -> String {
    crate::simulator::history::vm_name(vm)
}

fn line(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

fn with_json(status: u16, body: Vec<u8>) -> CalloutAnswer {
    let headers =
        vec![line(":status", &status.to_string()), line("content-type", "application/json"), line(UPSTREAM_TIME, "3")];
    CalloutAnswer::Whole { headers, body }
}

fn local_reply(body: &str) -> CalloutAnswer {
    let headers: Headers = vec![line(":status", "503"), line("content-type", "text/plain")];
    CalloutAnswer::Whole { headers, body: body.as_bytes().to_vec() }
}

/// As Envoy says it where nothing listens.
fn refused_connection() -> CalloutAnswer {
    local_reply(
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport \
         failure reason: delayed connect error: Connection refused",
    )
}

/// As Envoy says it where the connection ends before the answer.
fn cut_connection() -> CalloutAnswer {
    local_reply("upstream connect error or disconnect/reset before headers. reset reason: connection termination")
}

/// What a request is about, in few words: the keys that it writes.
fn asked_for(path: &str, body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Json>(body) else { return path.to_owned() };
    let mut keys = Vec::new();
    written_keys(&body, &mut keys);
    if keys.is_empty() { path.to_owned() } else { format!("{path} {}", keys.join(" ")) }
}

/// Whether a transaction writes keys or values in which there is this.
fn writes(txn: &Json, what: &str) -> bool {
    txn["success"].as_array().into_iter().flatten().any(|request| {
        let put = &request["request_put"];
        let mut texts = [&put["key"], &put["value"]].into_iter().filter_map(Json::as_str);
        texts.any(|text| journal_view::decoded(text).contains(what)) || writes(&request["request_txn"], what)
    })
}

fn written_keys(value: &Json, keys: &mut Vec<String>) {
    let Some(success) = value["success"].as_array() else { return };
    for request in success {
        written_keys(&request["request_txn"], keys);
        for (kind, sign) in [("request_put", "+"), ("request_delete_range", "-")] {
            if let Some(key) = request[kind]["key"].as_str() {
                keys.push(format!("{sign}{}", journal_view::decoded(key)));
            }
        }
    }
}
