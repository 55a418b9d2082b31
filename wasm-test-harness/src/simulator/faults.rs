//! What goes wrong in a run, and how often.

use anyhow::{Context, bail};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

/// The rate of each fault, from 0 (never) to 1 (always). The first group is drawn for every call to a participant, the
/// second for every request of a client, the third as often in a run as its rate says, at random times of the first
/// phase; conflicts are for every write in shared data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// A call never reaches its participant: the proxy sees a reset, or nothing until the attempt times out.
    pub request_lost: f64,
    /// A call reaches its participant only after its attempt has timed out, up to a minute later.
    pub request_late: f64,
    /// A call reaches its participant twice, the second time up to a minute later.
    pub duplicate_delivery: f64,
    /// The participant does what it was asked, and no answer arrives.
    pub answer_lost: f64,
    /// The participant does what it was asked, and answers after the attempt has timed out.
    pub answer_late: f64,
    /// The participant's answer is cut short.
    pub answer_truncated: f64,
    /// The participant's answer is a success whose body is not what it should be: no JSON, or without the booking's id.
    pub answer_unreadable: f64,
    /// The participant answers 5xx, before or after it has done what it was asked.
    pub server_error: f64,
    /// The participant says "not now": 429, or 503 with `retry-after`.
    pub not_now: f64,
    /// The participant refuses a step for good. A compensation is refused this once.
    pub definite_refusal: f64,
    /// A compensation of what is known to have been done is answered 404, as by a mesh without a route for it.
    pub route_missing: f64,
    /// The participant takes up to three times as long as the attempt may take, then does what it was asked. Another
    /// attempt meanwhile is answered 409.
    pub slow_participant: f64,

    /// The client goes away before it is answered.
    pub client_gone: f64,
    /// The client sends its request again when it was not answered with an end.
    pub client_repeats: f64,
    /// The client's request lacks what the first steps need, or is larger than is allowed.
    pub bad_request: f64,

    /// A participant is down for a while: connections are refused.
    pub participant_down: f64,
    /// A cluster has no endpoint for a while: calls are refused before they are sent.
    pub dispatch_refused: f64,
    /// A VM traps at some host call.
    pub trap: f64,
    /// A new configuration comes: a new root in the same VM, beside the old one.
    pub reconfigured: f64,
    /// A new configuration comes with new VMs, and the old ones are let finish, or thrown away.
    pub vm_replaced: f64,
    /// A proxy's process is killed, and started again later.
    pub proxy_killed: f64,
    /// A proxy does nothing for a while, then all that it has missed.
    pub proxy_frozen: f64,
    /// A VM does nothing for a while, as if its thread were busy elsewhere, while the others of its process go on.
    pub vm_stalled: f64,
    /// The wall clock of a proxy jumps by up to an hour.
    pub clock_jump: f64,

    /// The sagas of a run are kept in etcd: 1 or 0.
    pub journal_in_etcd: f64,
    /// A call never reaches etcd, and the VM waits in vain.
    pub etcd_request_lost: f64,
    /// etcd does what it was asked, and no answer arrives.
    pub etcd_answer_lost: f64,
    /// A call reaches etcd late, perhaps after the VM has given it up.
    pub etcd_slow: f64,
    /// etcd cannot be reached for a while, and its leases live on when it is back.
    pub etcd_away: f64,
    /// A proxy does not reach etcd for a while, but everything else.
    pub etcd_cut_off: f64,
    /// A client that sends its request again does so at another proxy, where sagas are kept in etcd.
    pub client_travels: f64,
    /// A VM of a proxy's main thread traps, which looks for what others leave.
    pub trap_of_main: f64,
    /// Shared data retains hardly any of the sagas that have ended, for their start keys.
    pub few_retained: f64,
    /// etcd wants to know who asks, and forgets its tokens before this share of the calls.
    pub etcd_tokens: f64,
    /// etcd's database is full for a while. The first writes that it refuses for that it may have done all the same.
    pub etcd_full: f64,
    /// etcd answers that it is unavailable, after it has done what it was asked, or without.
    pub etcd_unsure: f64,

    /// A VM traps a few host calls after a client's request has come to it: in the middle of its saga.
    pub trap_in_saga: f64,
    /// A compare-and-swap in shared data fails, as if somebody had been quicker.
    pub cas_conflict: f64,

    /// For a while the path answers in a participant's place, to transactions and compensations: 401, 403, 404, 405, 413,
    /// 421 or 431. The participant gets nothing.
    pub path_answers: f64,
    /// A participant works for up to 15 s on a call, whether somebody still waits for it or not. Another attempt meanwhile is
    /// answered 409. Its work shows only when it is done: until the attempt has timed out, a compensation finds nothing.
    pub works_long: f64,
    /// Participants keep keys and tombstones for as long as the definition says, which is a few seconds, and then do
    /// what they have done before once more.
    pub keys_forgotten: f64,
    /// A compensation is done, or was done by hand, and is answered 410.
    pub compensation_gone: f64,
    /// A participant works on a compensation for up to 5 s longer than an attempt of it may take. Another attempt meanwhile
    /// is answered 409.
    pub compensation_busy: f64,
    /// In etcd: what is kept of the answers of a saga fits into a record one by one, but not all of it together.
    pub large_answers: f64,
    /// A client is behind a proxy that tries its request again, perhaps at another worker.
    pub front_retries: f64,
    /// A client's request says that it comes from a call of a saga, perhaps from one that is as deep as a saga may be.
    pub deep_requests: f64,
    /// A definition takes every answer from 400 on for a refusal. Only in runs in which each answer of a participant from
    /// 400 on is one.
    pub broad_refusals: f64,
    /// A proxy lacks what is to hold requests: the gate of its pair, or the option.
    pub holder_missing: f64,

    /// Only where a run is given a second version of the module: a proxy gets the other version, up to twice; so it does
    /// where its process is started again, or a new configuration brings new VMs, or one VM is made anew after a trap.
    pub other_version: f64,
}

/// The names of the fields, with access to each.
type Field = (&'static str, fn(&mut Faults) -> &mut f64);

impl Faults {
    const CALLS: [Field; 12] = [
        ("request_lost", |faults| &mut faults.request_lost),
        ("request_late", |faults| &mut faults.request_late),
        ("duplicate_delivery", |faults| &mut faults.duplicate_delivery),
        ("answer_lost", |faults| &mut faults.answer_lost),
        ("answer_late", |faults| &mut faults.answer_late),
        ("answer_truncated", |faults| &mut faults.answer_truncated),
        ("answer_unreadable", |faults| &mut faults.answer_unreadable),
        ("server_error", |faults| &mut faults.server_error),
        ("not_now", |faults| &mut faults.not_now),
        ("definite_refusal", |faults| &mut faults.definite_refusal),
        ("route_missing", |faults| &mut faults.route_missing),
        ("slow_participant", |faults| &mut faults.slow_participant),
    ];
    const CLIENTS: [Field; 3] = [
        ("client_gone", |faults| &mut faults.client_gone),
        ("client_repeats", |faults| &mut faults.client_repeats),
        ("bad_request", |faults| &mut faults.bad_request),
    ];
    const TROUBLES: [Field; 8] = [
        ("participant_down", |faults| &mut faults.participant_down),
        ("dispatch_refused", |faults| &mut faults.dispatch_refused),
        ("trap", |faults| &mut faults.trap),
        ("reconfigured", |faults| &mut faults.reconfigured),
        ("vm_replaced", |faults| &mut faults.vm_replaced),
        ("proxy_killed", |faults| &mut faults.proxy_killed),
        ("proxy_frozen", |faults| &mut faults.proxy_frozen),
        ("clock_jump", |faults| &mut faults.clock_jump),
    ];
    const OF_THE_JOURNAL: [Field; 2] =
        [("vm_stalled", |faults| &mut faults.vm_stalled), ("cas_conflict", |faults| &mut faults.cas_conflict)];

    const OF_ETCD: [Field; 6] = [
        ("journal_in_etcd", |faults| &mut faults.journal_in_etcd),
        ("etcd_request_lost", |faults| &mut faults.etcd_request_lost),
        ("etcd_answer_lost", |faults| &mut faults.etcd_answer_lost),
        ("etcd_slow", |faults| &mut faults.etcd_slow),
        ("etcd_away", |faults| &mut faults.etcd_away),
        ("etcd_full", |faults| &mut faults.etcd_full),
    ];

    const OF_ETCD_UNSURE: [Field; 1] = [("etcd_unsure", |faults| &mut faults.etcd_unsure)];

    /// Came last: each seed keeps what it had without them.
    const OF_REPLICAS: [Field; 5] = [
        ("few_retained", |faults| &mut faults.few_retained),
        ("trap_of_main", |faults| &mut faults.trap_of_main),
        ("etcd_cut_off", |faults| &mut faults.etcd_cut_off),
        ("client_travels", |faults| &mut faults.client_travels),
        ("etcd_tokens", |faults| &mut faults.etcd_tokens),
    ];

    const OF_OWNERS: [Field; 1] = [("trap_in_saga", |faults| &mut faults.trap_in_saga)];

    /// Each has streams of numbers of its own, by its name ([`stream_of`]): a seed keeps what it had without it.
    const ALONE: [(Field, [f64; 2]); 10] = [
        (("path_answers", |faults| &mut faults.path_answers), [0.5, 1.0]),
        (("works_long", |faults| &mut faults.works_long), [0.05, 0.3]),
        (("keys_forgotten", |faults| &mut faults.keys_forgotten), [1.0, 1.0]),
        (("compensation_gone", |faults| &mut faults.compensation_gone), [0.1, 0.5]),
        (("compensation_busy", |faults| &mut faults.compensation_busy), [0.1, 0.5]),
        (("large_answers", |faults| &mut faults.large_answers), [0.1, 0.1]),
        (("front_retries", |faults| &mut faults.front_retries), [0.3, 1.0]),
        (("deep_requests", |faults| &mut faults.deep_requests), [0.3, 0.3]),
        (("broad_refusals", |faults| &mut faults.broad_refusals), [0.5, 1.0]),
        (("holder_missing", |faults| &mut faults.holder_missing), [0.5, 1.0]),
    ];

    /// Nothing without a second version of the module, and drawn only where there is one.
    const OF_VERSIONS: [Field; 1] = [("other_version", |faults| &mut faults.other_version)];

    /// Some of the faults, each at a rate of its own: a few at a time find more than all at once, which leave no saga
    /// alive for long.
    pub fn random(random: &mut Pcg64Mcg) -> Faults {
        let mut faults = Faults::default();
        let mut calls = Self::CALLS;
        calls.shuffle(random);
        for (_, field) in &calls[..random.random_range(0..=4)] {
            *field(&mut faults) = [0.02, 0.05, 0.1, 0.3][random.random_range(0..4)];
        }
        for (_, field) in Self::CLIENTS {
            *field(&mut faults) = [0.0, 0.0, 0.1, 0.3][random.random_range(0..4)];
        }
        let mut troubles = Self::TROUBLES;
        troubles.shuffle(random);
        for (_, field) in &troubles[..random.random_range(0..=2)] {
            *field(&mut faults) = [0.3, 0.6, 1.0][random.random_range(0..3)];
        }
        faults
    }

    /// The same, with some faults of the journal and of owners. Each group is drawn for itself, so that a seed keeps what
    /// it had before there was the next.
    pub fn with_journal(mut self, random: &mut Pcg64Mcg, of_owners: &mut Pcg64Mcg) -> Faults {
        let mut draw = |fields: &[Field], random: &mut Pcg64Mcg| {
            for (_, field) in fields {
                if random.random_bool(0.15) {
                    *field(&mut self) = [0.05, 0.5, 1.0][random.random_range(0..3)];
                }
            }
        };
        draw(&Self::OF_THE_JOURNAL, random);
        draw(&Self::OF_OWNERS, of_owners);
        // With certainty no write would ever come through.
        self.cas_conflict = self.cas_conflict.min(0.7);
        self
    }

    /// The same, with etcd for some runs, and its faults; the last groups are drawn for themselves here, too.
    pub fn with_etcd(mut self, random: &mut Pcg64Mcg, of_unsure: &mut Pcg64Mcg, of_replicas: &mut Pcg64Mcg) -> Faults {
        let [(_, in_etcd), of_etcd @ ..] = Self::OF_ETCD;
        *in_etcd(&mut self) = if random.random_bool(0.5) { 1.0 } else { 0.0 };
        for (name, field) in of_etcd {
            if random.random_bool(0.3) {
                let rates = if ["etcd_away", "etcd_full"].contains(&name) { [0.5, 1.0] } else { [0.05, 0.2] };
                *field(&mut self) = rates[random.random_range(0..2)];
            }
        }
        for (_, field) in Self::OF_ETCD_UNSURE {
            if of_unsure.random_bool(0.2) {
                *field(&mut self) = [0.05, 0.2][of_unsure.random_range(0..2)];
            }
        }
        for (name, field) in Self::OF_REPLICAS {
            if of_replicas.random_bool(0.25) {
                let rates = if name == "etcd_tokens" { [0.02, 0.1] } else { [0.5, 1.0] };
                *field(&mut self) = rates[of_replicas.random_range(0..2)];
            }
        }
        self
    }

    /// The same, with some of the faults that are each drawn for themselves.
    pub fn with_each_alone(mut self, seed: u64) -> Faults {
        for ((name, field), rates) in Self::ALONE {
            let mut random = stream_of(seed, name);
            if random.random_bool(0.15) {
                *field(&mut self) = rates[random.random_range(0..2)];
            }
        }
        self
    }

    /// The same, in a run that has two versions of the module.
    pub fn with_versions(mut self, seed: u64) -> Faults {
        for (name, field) in Self::OF_VERSIONS {
            *field(&mut self) = [0.3, 0.6, 1.0][stream_of(seed, name).random_range(0..3)];
        }
        self
    }

    /// Reads `name=rate,name=rate`; what is not named is as in `self`. `all=rate` stands for every fault.
    ///
    /// # Errors
    /// An unknown name, or a rate that is none.
    pub fn with(&self, text: &str) -> anyhow::Result<Faults> {
        let mut faults = self.clone();
        for setting in text.split(',').filter(|setting| !setting.trim().is_empty()) {
            let (name, rate) = setting.split_once('=').with_context(|| format!("{setting:?}: expected name=rate"))?;
            let value: f64 = rate.trim().parse().with_context(|| format!("{setting:?}: {rate:?} is no number"))?;
            if !(0.0..=1.0).contains(&value) {
                bail!("{setting:?}: expected a rate from 0 to 1");
            }
            let fields = Self::fields().filter(|(other, _)| name.trim() == *other || name.trim() == "all");
            let mut found = false;
            for (_, field) in fields {
                *field(&mut faults) = value;
                found = true;
            }
            if !found {
                let names: Vec<&str> = Self::fields().map(|(name, _)| name).collect();
                bail!("{setting:?}: expected one of all, {}", names.join(", "));
            }
        }
        Ok(faults)
    }

    fn fields() -> impl Iterator<Item = Field> {
        Self::CALLS
            .into_iter()
            .chain(Self::CLIENTS)
            .chain(Self::TROUBLES)
            .chain(Self::OF_THE_JOURNAL)
            .chain(Self::OF_OWNERS)
            .chain(Self::OF_ETCD)
            .chain(Self::OF_ETCD_UNSURE)
            .chain(Self::OF_REPLICAS)
            .chain(Self::ALONE.into_iter().map(|(field, _)| field))
            .chain(Self::OF_VERSIONS)
    }
}

/// Random numbers for one purpose: other purposes draw none of them.
pub fn stream_of(seed: u64, purpose: &str) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed ^ xxhash_rust::xxh3::xxh3_64(purpose.as_bytes()))
}

impl std::fmt::Display for Faults {
    /// As [`Faults::with`] reads it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut faults = self.clone();
        let rates = Self::fields().map(|(name, field)| (name, *field(&mut faults))).filter(|(_, rate)| *rate > 0.0);
        let rates: Vec<String> = rates.map(|(name, rate)| format!("{name}={rate}")).collect();
        f.write_str(&rates.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_as_they_are_shown() {
        let faults = Faults { request_lost: 0.25, trap: 1.0, ..Faults::default() };
        assert_eq!(faults.to_string(), "request_lost=0.25,trap=1");
        assert_eq!(Faults::default().with(&faults.to_string()).unwrap(), faults);
        assert_eq!(Faults::default().with("all=0.5").unwrap().clock_jump, 0.5);
    }

    #[test]
    fn what_is_no_fault_is_refused_by_name() {
        for (text, expected) in [("requst_lost=1", "expected one of"), ("trap", "name=rate"), ("trap=2", "from 0 to 1")]
        {
            let error = Faults::default().with(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn every_field_has_a_name() {
        let fields = serde_json::to_value(Faults::default()).unwrap();
        let named: Vec<&str> = Faults::fields().map(|(name, _)| name).collect();
        let fields: Vec<&String> = fields.as_object().unwrap().keys().collect();
        assert_eq!(fields.len(), named.len());
        assert!(fields.iter().all(|field| named.contains(&field.as_str())));
    }
}
