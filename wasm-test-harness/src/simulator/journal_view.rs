//! What can be read of sagas in shared data and in etcd, by the documentation of its form and by nothing else.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use serde_json::Value as Json;

use super::etcd::{Entry, Etcd, Lease};
use super::host::Nanos;
use super::versions::Difference;

/// So many owners in a row have to die of a saga before it is set aside.
const OWNERS_OF_A_SUSPECT: u64 = 3;

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Sagas that have not ended, by id, that somebody works on.
    pub open: Vec<String>,
    /// Sagas that were set aside.
    pub set_aside: Vec<String>,
    /// Sagas that have ended, and are remembered for their keys.
    pub retained: usize,
    /// Rows of VMs.
    pub rows: usize,
    /// Keys: none of them can be deleted.
    pub keys: usize,
    /// What cannot be read, by its key.
    pub unreadable: Vec<String>,
}

/// Sorts out the keys and values of shared data.
pub fn kept<'a>(data: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Kept {
    let mut kept = Kept::default();
    for (key, value) in data {
        kept.keys += 1;
        let key = String::from_utf8_lossy(key).into_owned();
        let parts: Vec<&str> = key.split('/').collect();
        match parts.as_slice() {
            ["sagabox", "vm", _] => kept.rows += 1,
            ["sagabox", "vm", _, "saga", _] if !value.is_empty() => match head(value) {
                Some(head) if !head["ended"].is_null() => kept.retained += 1,
                Some(head) if is_suspected(&head) => kept.set_aside.push(id(&head)),
                Some(head) if !head["quarantined"].is_null() => kept.unreadable.push(set_aside_for(&id(&head), &head)),
                Some(head) => kept.open.push(id(&head)),
                None => kept.unreadable.push(key),
            },
            ["sagabox", "vm", _, "saga" | "configuration", ..]
            | ["sagabox", "key" | "crumb", _]
            | ["sagabox", "lookout", ..] => {}
            _ => kept.unreadable.push(key),
        }
    }
    kept
}

/// It was set aside because its owners have died of it, as far as anybody can know.
fn is_suspected(head: &Json) -> bool {
    !head["quarantined"].is_null() && head["suspicion"].as_u64() >= Some(OWNERS_OF_A_SUSPECT)
}

/// Nothing else is a reason: what the filter itself has written it can read.
fn set_aside_for(saga: &str, head: &Json) -> String {
    format!("saga {saga}, which was set aside ({}),", head["quarantined"])
}

/// The first line of a saga.
fn head(value: &[u8]) -> Option<Json> {
    let line = value.split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice(line).ok().filter(|head: &Json| head["saga"].is_string())
}

fn id(head: &Json) -> String {
    head["saga"].as_str().unwrap_or_default().to_owned()
}

/// Whose a saga is, as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InEtcd {
    /// Name of the VM.
    pub owner: String,
    /// The VM's key is there.
    pub owner_lives: bool,
}

/// What etcd keeps of sagas that have not ended, by id.
pub fn in_etcd(etcd: &Etcd) -> BTreeMap<String, InEtcd> {
    let living = living_in_etcd(etcd);
    let open = keys(etcd, "saga").filter_map(|(saga, entry)| {
        let head: Json = serde_json::from_slice(&entry.value).ok()?;
        let owner = head["owner"].as_str()?.to_owned();
        let ended = matches!(head["state"].as_str(), Some("completed" | "compensated"));
        let owner_lives = living.contains(&owner);
        (!ended && head["quarantined"].is_null()).then_some((saga, InEtcd { owner, owner_lives }))
    });
    open.collect()
}

/// What etcd has of a saga, in whatever state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Name of the owner, and the epoch.
    pub head: Option<(String, u64)>,
    /// Of the last record.
    pub sequence: u64,
    /// When the head and the records were written last, by key.
    written: BTreeMap<String, i64>,
}

/// What etcd has of sagas, by id.
pub fn held_in_etcd(etcd: &Etcd) -> BTreeMap<String, Held> {
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for (saga, entry) in keys(etcd, "saga") {
        let head: Json = serde_json::from_slice(&entry.value).unwrap_or_default();
        let of = held.entry(saga).or_default();
        of.written.insert(String::new(), entry.mod_revision);
        of.sequence = head["sequence"].as_u64().unwrap_or(0);
        of.head = head["owner"].as_str().map(|owner| (owner.to_owned(), head["epoch"].as_u64().unwrap_or(0)));
    }
    for (key, entry) in keys(etcd, "record") {
        let saga = key.split('/').next().unwrap_or_default().to_owned();
        held.entry(saga).or_default().written.insert(key, entry.mod_revision);
    }
    held
}

/// Names of the VMs that live, to etcd's knowledge.
pub fn living_in_etcd(etcd: &Etcd) -> BTreeSet<String> {
    keys(etcd, "vm").map(|(vm, _)| vm).collect()
}

/// The owner, the epoch and the records of a saga, as etcd has them.
pub fn records_in_etcd(etcd: &Etcd, saga: &str) -> Option<Records> {
    let head = keys(etcd, "saga").find(|(id, _)| id == saga)?;
    let head: Json = serde_json::from_slice(&head.1.value).ok()?;
    let under = format!("{saga}/");
    let records = keys(etcd, "record").filter(|(key, _)| key.starts_with(&under));
    let records = records.filter_map(|(_, entry)| serde_json::from_slice(&entry.value).ok()).collect();
    Some((head["owner"].as_str()?.to_owned(), head["epoch"].as_u64()?, records))
}

/// Sagas in etcd that have not ended and that only the newer of two versions can read: they, a record of theirs, or the
/// definitions with which they began say so.
pub fn for_newer_in_etcd(etcd: &Etcd, difference: &Difference) -> BTreeSet<String> {
    let of_newer =
        |entry: &Entry| serde_json::from_slice(&entry.value).is_ok_and(|value: Json| difference.is_for_newer(&value));
    let definitions: BTreeSet<String> =
        keys(etcd, "definitions").filter(|(_, entry)| of_newer(entry)).map(|(hash, _)| hash).collect();
    let records = keys(etcd, "record").filter(|(_, entry)| of_newer(entry));
    let by_record: BTreeSet<String> = records.filter_map(|(key, _)| Some(key.split('/').next()?.to_owned())).collect();
    let open = keys(etcd, "saga").filter(|(saga, entry)| {
        let head: Json = serde_json::from_slice(&entry.value).unwrap_or_default();
        let ended = matches!(head["state"].as_str(), Some("completed" | "compensated"));
        let began_with = head["definitions"].as_str().is_some_and(|hash| definitions.contains(hash));
        !ended && (difference.is_for_newer(&head) || by_record.contains(saga) || began_with)
    });
    open.map(|(saga, _)| saga).collect()
}

/// What is kept of a saga whose client is told its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It has not ended.
    Open,
    /// It has ended, and is remembered with an answer of this status.
    Ended(u64),
    /// There is nothing.
    Gone,
}

/// What etcd keeps of a saga.
pub fn stand_in_etcd(etcd: &Etcd, saga: &str) -> Stand {
    let mut rows = keys(etcd, "start").filter_map(|(_, entry)| serde_json::from_slice::<Json>(&entry.value).ok());
    if let Some(row) = rows.find(|row| row["saga"] == saga) {
        return row["reply"]["status"].as_u64().map_or(Stand::Open, Stand::Ended);
    }
    let under = format!("{saga}/");
    let open = in_etcd(etcd).contains_key(saga) || keys(etcd, "record").any(|(key, _)| key.starts_with(&under));
    if open { Stand::Open } else { Stand::Gone }
}

/// What shared data keeps of a saga.
pub fn stand<'a>(data: impl Iterator<Item = (&'a [u8], &'a [u8])>, saga: &str) -> Stand {
    let mut heads = data.filter(|(key, _)| is_slot(key)).filter_map(|(_, value)| head(value));
    let Some(head) = heads.find(|head| head["saga"] == saga) else { return Stand::Gone };
    head["ended"]["reply"]["status"].as_u64().map_or(Stand::Open, Stand::Ended)
}

/// What is left in etcd at the end that should not be.
pub fn left_in_etcd(etcd: &Etcd) -> Vec<String> {
    let mut left = Vec::new();
    for (saga, entry) in keys(etcd, "saga") {
        let head: Json = serde_json::from_slice(&entry.value).unwrap_or_default();
        if !head["quarantined"].is_null() && !is_suspected(&head) {
            left.push(set_aside_for(&saga, &head));
        }
    }
    let known = ["vm", "saga", "record", "ended", "start", "definitions"].map(|kind| format!("sagabox/{kind}/"));
    let strange = etcd
        .entries()
        .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
        .filter(|key| key != "sagabox/room" && !known.iter().any(|kind| key.starts_with(kind.as_str())));
    left.extend(strange.map(|key| format!("key {key}")));
    // A lease is one VM's, or that of what is retained.
    let is_retained = |key: &&Vec<u8>| key.starts_with(b"sagabox/start/") || key.starts_with(b"sagabox/ended/");
    for (id, lease) in etcd.leases() {
        let of_vm = lease.keys.len() == 1 && lease.keys.iter().all(|key| key.starts_with(b"sagabox/vm/"));
        if !of_vm && let Some(other) = lease.keys.iter().find(|key| !is_retained(key)) {
            left.push(format!("key {} on the lease {id}", String::from_utf8_lossy(other)));
        }
    }
    for (saga, owner) in in_etcd(etcd) {
        left.push(format!("saga {saga} of {}", owner.owner));
    }
    for (key, entry) in keys(etcd, "start").filter(|(_, entry)| entry.lease == 0) {
        left.push(format!("start key {key} on no lease: {}", String::from_utf8_lossy(&entry.value)));
    }
    left.extend(
        keys(etcd, "ended").filter(|(_, entry)| entry.lease == 0).map(|(key, _)| format!("end {key} on no lease")),
    );
    for (key, entry) in keys(etcd, "saga").filter(|(_, entry)| entry.lease == 0) {
        let head: Json = serde_json::from_slice(&entry.value).unwrap_or_default();
        if head["quarantined"].is_null() {
            left.push(format!("saga {key} on no lease"));
        }
    }
    let set_aside = set_aside_in_etcd(etcd);
    let of_nobody = |key: &str| !set_aside.iter().any(|saga| key.starts_with(saga.as_str()));
    left.extend(keys(etcd, "record").filter(|(key, _)| of_nobody(key)).map(|(key, _)| format!("record {key}")));
    left.extend(keys(etcd, "vm").filter(|(_, entry)| entry.lease == 0).map(|(key, _)| format!("VM {key} on no lease")));
    left
}

/// Definitions to which no VM and no saga refers.
pub fn unreferenced_in_etcd(etcd: &Etcd) -> BTreeSet<String> {
    let of =
        |entry: &Entry| Some(serde_json::from_slice::<Json>(&entry.value).ok()?["definitions"].as_str()?.to_owned());
    let users = keys(etcd, "vm").chain(keys(etcd, "saga"));
    let used: BTreeSet<String> = users.filter_map(|(_, entry)| of(entry)).collect();
    keys(etcd, "definitions").map(|(hash, _)| hash).filter(|hash| !used.contains(hash)).collect()
}

/// Leases of VMs: their ids, the names of those whose keys are on them, and since when nobody has kept them alive.
/// Whatever else is on a lease is retained, for much longer than a VM's lease lasts.
pub fn leases_of_vms(etcd: &Etcd, lease_s: i64) -> Vec<(i64, Vec<String>, Nanos)> {
    let of_vms = etcd.leases().filter(|(_, lease)| lease.granted_ttl_s <= lease_s);
    let names = |lease: &Lease| {
        let keys = lease.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned());
        keys.map(|key| key.strip_prefix("sagabox/vm/").unwrap_or(&key).to_owned()).collect()
    };
    of_vms.map(|(id, lease)| (id, names(lease), lease.idle_since())).collect()
}

/// Sagas that were set aside.
pub fn set_aside_in_etcd(etcd: &Etcd) -> Vec<String> {
    let heads = keys(etcd, "saga").map(|(saga, entry)| (saga, serde_json::from_slice::<Json>(&entry.value)));
    heads
        .filter(|(_, head)| head.as_ref().is_ok_and(|head| !head["quarantined"].is_null()))
        .map(|(saga, _)| saga)
        .collect()
}

/// What is under `sagabox/<kind>/`, without that.
fn keys<'a>(etcd: &'a Etcd, kind: &str) -> impl Iterator<Item = (String, &'a Entry)> {
    let prefix = format!("sagabox/{kind}/");
    etcd.entries().filter_map(move |(key, entry)| {
        let key = String::from_utf8_lossy(key);
        Some((key.strip_prefix(&prefix)?.to_owned(), entry))
    })
}

/// Whether records say of a step that it is so.
pub fn says(records: &[Json], change: &str, step: Option<usize>) -> bool {
    let mut of_step =
        changes(records).filter(|one| one[change]["step"].as_u64().and_then(|it| usize::try_from(it).ok()) == step);
    step.is_some() && of_step.next().is_some()
}

/// Whether records say of a step that its transaction has succeeded.
pub fn says_success(records: &[Json], step: Option<usize>) -> bool {
    let succeeded = |settled: &Json| {
        let of_step = settled["step"].as_u64().and_then(|it| usize::try_from(it).ok()) == step;
        of_step && !settled["settlement"]["succeeded"].is_null()
    };
    step.is_some() && changes(records).any(|change| succeeded(&change["settled"]))
}

/// Whether records say that the saga is being undone.
pub fn says_compensating(records: &[Json]) -> bool {
    changes(records).any(|change| !change["compensating"].is_null())
}

/// What is durable of a saga, as far as it matters when it became so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durable {
    /// It is being undone.
    Compensating,
    /// What has become of the transaction of a step, and that is known.
    Settled(usize),
    /// The transaction of a step may have been done. What becomes of it later is durable when [`Durable::Settled`] is.
    SettledAsUnknown(usize),
    /// It goes on, but somebody should look at it.
    Stuck,
    /// It has ended.
    Ended,
}

/// What records say.
pub fn durable(records: &[Json]) -> BTreeSet<Durable> {
    let of_change = |change: &Json| {
        let settled = &change["settled"];
        let is_unknown = !settled["settlement"]["unknown"].is_null();
        let of_step = if is_unknown { Durable::SettledAsUnknown } else { Durable::Settled };
        let settled = settled["step"].as_u64().and_then(|step| usize::try_from(step).ok()).map(of_step);
        let compensating = (!change["compensating"].is_null()).then_some(Durable::Compensating);
        let stuck = (!change["stuck"].is_null()).then_some(Durable::Stuck);
        [settled, compensating, stuck]
    };
    changes(records).flat_map(of_change).flatten().collect()
}

/// The saga in a slot of shared data, if it has not ended and only the newer of two versions can read it. `definitions` are
/// those of its row.
pub fn for_newer_in_slot(slot: &[u8], definitions: &[u8], difference: &Difference) -> Option<String> {
    let head = head(slot).filter(|head| head["ended"].is_null())?;
    let lines = slot.split(|byte| *byte == b'\n').chain([definitions]);
    let values = lines.filter_map(|line| serde_json::from_slice::<Json>(line).ok());
    values.into_iter().any(|value| difference.is_for_newer(&value)).then(|| id(&head))
}

/// Where the definitions are kept with which the saga in a slot of shared data began.
pub fn definitions_of_slot(slot: &[u8]) -> Vec<u8> {
    let key = String::from_utf8_lossy(slot);
    let row = key.split('/').nth(2).unwrap_or_default();
    format!("sagabox/vm/{row}/configuration").into_bytes()
}

/// The saga in a slot of shared data and its records; none: it is empty, or of one that has ended.
pub fn in_slot(value: &[u8]) -> Option<(String, Vec<Json>)> {
    let head = head(value).filter(|head| head["ended"].is_null())?;
    let lines = value.split(|byte| *byte == b'\n').skip(1);
    Some((id(&head), lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()))
}

fn changes(records: &[Json]) -> impl Iterator<Item = &Json> {
    records.iter().filter_map(|record| listed(&record["changes"])).flatten()
}

/// Another version may have put the list into something else.
fn listed(changes: &Json) -> Option<&Vec<Json>> {
    match changes {
        Json::Object(form) => form.values().next().and_then(Json::as_array),
        changes => changes.as_array(),
    }
}

/// A key as it stands in a request.
pub fn decoded(base64: &str) -> String {
    let bytes = base64::engine::general_purpose::STANDARD.decode(base64).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a journal has of a saga: its owner, its epoch and its records.
pub type Records = (String, u64, Vec<Json>);

/// The owner, the epoch and the records of a saga, as shared data has them.
pub fn records<'a>(data: impl Iterator<Item = (&'a [u8], &'a [u8])>, saga: &str) -> Option<Records> {
    let mut slots = data.filter(|(key, _)| is_slot(key)).map(|(_, value)| value);
    slots.find_map(|value| {
        let head = head(value).filter(|head| head["saga"] == saga)?;
        let lines = value.split(|byte| *byte == b'\n').skip(1);
        let records = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Some((head["owner"].as_str()?.to_owned(), head["epoch"].as_u64()?, records))
    })
}

/// Whether a key of shared data is that of a saga.
pub fn is_slot(key: &[u8]) -> bool {
    let key = String::from_utf8_lossy(key);
    let parts: Vec<&str> = key.split('/').collect();
    matches!(parts.as_slice(), ["sagabox", "vm", _, "saga", _])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_that_is_known_to_have_succeeded_may_have_settled_as_unknown_before() {
        let settled = |settlement: Json| json!({"changes": [{"settled": {"step": 1, "settlement": settlement}}]});
        let unknown = settled(json!({"unknown": {"reason": "no answer"}}));
        let resolved = settled(json!({"succeeded": {"kept": {}}}));
        assert_eq!(durable(std::slice::from_ref(&unknown)), [Durable::SettledAsUnknown(1)].into());
        assert_eq!(durable(&[unknown, resolved]), [Durable::Settled(1), Durable::SettledAsUnknown(1)].into());
        let rejected = settled(json!({"rejected": {"reason": "no room"}}));
        assert_eq!(durable(&[rejected]), [Durable::Settled(1)].into());
    }
}
