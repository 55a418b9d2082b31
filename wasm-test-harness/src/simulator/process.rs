//! What the VMs of one Envoy process share: shared data, queues, metrics, and what Envoy knows of its clusters.
//!
//! It dies with the process. Everything is in maps with an order, so that a run can be repeated.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::host::Status;
use super::journal_view::{self, Kept, Records, Stand};
use super::versions::Difference;

/// Which VM of a process: an index that is never used again.
pub type VmIndex = usize;
/// A context of a VM: a root or a stream.
pub type ContextId = u32;

/// A value of shared data with its compare-and-swap number, which is never 0.
#[derive(Debug, Clone)]
struct SharedValue {
    bytes: Vec<u8>,
    cas: u32,
}

/// A queue belongs to the VM that registered its name last.
#[derive(Debug)]
struct Queue {
    name: String,
    owner: (VmIndex, ContextId),
    items: VecDeque<Vec<u8>>,
}

/// Whether Envoy can send to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// It has an endpoint, be it up or not.
    HasEndpoint,
    /// Its endpoints have all gone, as for a moment in a rolling restart.
    NoEndpoint,
}

/// Compare-and-swaps that fail although nobody has written in between, as if somebody had.
#[derive(Debug)]
struct Conflicts {
    rate: f64,
    random: Pcg64Mcg,
    met: u64,
}

/// A key of a saga that was written.
#[derive(Debug)]
pub struct Written {
    /// Which.
    pub key: Vec<u8>,
    /// What was there before.
    pub before: Vec<u8>,
    /// What is there.
    pub value: Vec<u8>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Process {
    conflicts: Option<Conflicts>,
    data: BTreeMap<Vec<u8>, SharedValue>,
    next_cas: u32,
    queues: Vec<Queue>,
    metrics: Vec<(String, i64)>,
    clusters: BTreeMap<String, ClusterState>,
    next_token: u32,
    live_vms: BTreeSet<VmIndex>,
    /// Keys of sagas that were written and nobody has looked at since, with what was there before.
    written: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Process {
    /// A process that knows these clusters.
    pub fn new<'a>(clusters: impl IntoIterator<Item = &'a str>) -> Process {
        let clusters = clusters.into_iter().map(|name| (name.to_owned(), ClusterState::HasEndpoint)).collect();
        Process { clusters, ..Process::default() }
    }

    /// A VM has started.
    pub fn add_vm(&mut self, vm: VmIndex) {
        self.live_vms.insert(vm);
    }

    /// A VM has gone. Shared data is erased with the last one.
    pub fn remove_vm(&mut self, vm: VmIndex) {
        self.live_vms.remove(&vm);
        if self.live_vms.is_empty() {
            self.data.clear();
            self.queues.clear();
        }
    }

    /// The value of a key, and its compare-and-swap number.
    pub fn shared(&self, key: &[u8]) -> Option<(&[u8], u32)> {
        self.data.get(key).map(|value| (value.bytes.as_slice(), value.cas))
    }

    /// Writes a key. `cas` 0: whatever is there; else only where that is its number, so `u32::MAX` inserts where there
    /// is nothing and fails otherwise.
    ///
    /// # Errors
    /// [`Status::CasMismatch`].
    pub fn set_shared(&mut self, key: &[u8], bytes: &[u8], cas: u32) -> Result<(), Status> {
        if let Some(value) = self.data.get(key)
            && cas != 0
            && cas != value.cas
        {
            return Err(Status::CasMismatch);
        }
        if let Some(conflicts) = self.conflicts.as_mut().filter(|_| cas != 0)
            && conflicts.random.random_bool(conflicts.rate)
        {
            conflicts.met += 1;
            return Err(Status::CasMismatch);
        }
        self.next_cas = self.next_cas.wrapping_add(1).max(1);
        if journal_view::is_slot(key) {
            let before = self.data.get(key).map(|value| value.bytes.clone()).unwrap_or_default();
            self.written.entry(key.to_vec()).or_insert(before);
        }
        self.data.insert(key.to_vec(), SharedValue { bytes: bytes.to_vec(), cas: self.next_cas });
        Ok(())
    }

    /// Keys of sagas that were written since the last look at them.
    pub fn take_written(&mut self) -> Vec<Written> {
        let written = std::mem::take(&mut self.written);
        let value = |key: &Vec<u8>| self.data.get(key).map(|value| value.bytes.clone()).unwrap_or_default();
        written.into_iter().map(|(key, before)| Written { value: value(&key), key, before }).collect()
    }

    /// From now on compare-and-swaps meet a conflict at this rate.
    pub fn set_conflicts(&mut self, rate: f64, seed: u64) {
        self.conflicts = (rate > 0.0).then(|| Conflicts { rate, random: Pcg64Mcg::seed_from_u64(seed), met: 0 });
    }

    /// No compare-and-swap meets a conflict any more. Gives how many have.
    pub fn end_conflicts(&mut self) -> u64 {
        self.conflicts.take().map_or(0, |conflicts| conflicts.met)
    }

    /// What is kept in shared data.
    pub fn kept(&self) -> Kept {
        journal_view::kept(self.data.iter().map(|(key, value)| (key.as_slice(), value.bytes.as_slice())))
    }

    /// What is kept of a saga that may have ended.
    pub fn stand(&self, saga: &str) -> Stand {
        journal_view::stand(self.data.iter().map(|(key, value)| (key.as_slice(), value.bytes.as_slice())), saga)
    }

    /// What is kept of a saga that has not ended.
    pub fn records(&self, saga: &str) -> Option<Records> {
        journal_view::records(self.data.iter().map(|(key, value)| (key.as_slice(), value.bytes.as_slice())), saga)
    }

    /// Sagas that have not ended and that only the newer of two versions can read.
    pub fn for_newer(&self, difference: &Difference) -> BTreeSet<String> {
        let slots = self.data.iter().filter(|(key, _)| journal_view::is_slot(key));
        slots.filter_map(|(key, value)| self.slot_for_newer(key, &value.bytes, difference)).collect()
    }

    /// The saga of a slot that holds these bytes, if it has not ended and only the newer of two versions can read it.
    pub fn slot_for_newer(&self, slot: &[u8], bytes: &[u8], difference: &Difference) -> Option<String> {
        let definitions = self.shared(&journal_view::definitions_of_slot(slot)).map(|(definitions, _)| definitions);
        journal_view::for_newer_in_slot(bytes, definitions.unwrap_or_default(), difference)
    }

    /// Registers a queue for a root of a VM, which takes it over from whoever had it. Gives its id.
    pub fn register_queue(&mut self, name: &str, owner: (VmIndex, ContextId)) -> u32 {
        let index = self.queues.iter().position(|queue| queue.name == name).unwrap_or(self.queues.len());
        match self.queues.get_mut(index) {
            Some(queue) => queue.owner = owner,
            None => self.queues.push(Queue { name: name.to_owned(), owner, items: VecDeque::new() }),
        }
        queue_id(index)
    }

    /// The id of a queue.
    pub fn resolve_queue(&self, name: &str) -> Option<u32> {
        self.queues.iter().position(|queue| queue.name == name).map(queue_id)
    }

    /// Adds an item. Gives the root that is to be told.
    pub fn enqueue(&mut self, id: u32, item: &[u8]) -> Option<(VmIndex, ContextId)> {
        let queue = self.queues.get_mut(queue_index(id)?)?;
        queue.items.push_back(item.to_vec());
        Some(queue.owner)
    }

    /// Takes an item.
    ///
    /// # Errors
    /// [`Status::NotFound`], [`Status::Empty`].
    pub fn dequeue(&mut self, id: u32) -> Result<Vec<u8>, Status> {
        let queue = queue_index(id).and_then(|index| self.queues.get_mut(index)).ok_or(Status::NotFound)?;
        queue.items.pop_front().ok_or(Status::Empty)
    }

    /// The id of a metric of that name.
    pub fn define_metric(&mut self, name: &str) -> u32 {
        let index = self.metrics.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
            self.metrics.push((name.to_owned(), 0));
            self.metrics.len() - 1
        });
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// Counts.
    ///
    /// # Errors
    /// [`Status::NotFound`]; [`Status::BadArgument`] where the offset is 0.
    pub fn increment_metric(&mut self, id: u32, offset: i64) -> Result<(), Status> {
        if offset == 0 {
            return Err(Status::BadArgument);
        }
        let metric = usize::try_from(id).ok().and_then(|index| self.metrics.get_mut(index));
        metric.ok_or(Status::NotFound)?.1 += offset;
        Ok(())
    }

    /// The value of a metric; 0 where nobody has defined it.
    pub fn metric(&self, name: &str) -> i64 {
        self.metrics.iter().find(|(other, _)| other == name).map_or(0, |(_, value)| *value)
    }

    /// Endpoints of a cluster come or go.
    pub fn set_cluster(&mut self, name: &str, state: ClusterState) {
        self.clusters.insert(name.to_owned(), state);
    }

    /// Takes a callout on for a cluster, and gives its token.
    ///
    /// # Errors
    /// [`Status::BadArgument`]: the cluster is unknown. [`Status::InternalFailure`]: it has no endpoint.
    pub fn admit_callout(&mut self, cluster: &str) -> Result<u32, Status> {
        match self.clusters.get(cluster) {
            None => Err(Status::BadArgument),
            Some(ClusterState::NoEndpoint) => Err(Status::InternalFailure),
            Some(ClusterState::HasEndpoint) => {
                self.next_token += 1;
                Ok(self.next_token)
            }
        }
    }
}

/// Envoy counts them from 1.
fn queue_id(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

fn queue_index(id: u32) -> Option<usize> {
    usize::try_from(id).ok()?.checked_sub(1)
}
