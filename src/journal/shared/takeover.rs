//! Which VMs are dead, and what becomes of their sagas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::retained::Counts;
use super::row::{Row, RowState, configuration_key, row_key, slot_key};
use super::slot::Slot;
use super::{MAX_ROWS, MAX_TRIES, Place, SharedJournal, index};
use crate::definition::Definition;
use crate::journal::replay::{self, NoDefinitions, Reader, Unreadable};
use crate::journal::{Journal, News, Orphan, SharedData, Version};
use crate::planted::{Planted, planted};
use crate::saga::SagaId;
use crate::saga::record::RECORD_VERSION;
use crate::saga::step_states::StepStates;

/// A VM is dead when its beat has not changed over so many of ours.
const DEAD_AFTER_BEATS: u32 = 6;
/// A VM that dies within so many beats after it has resumed a saga may have died of it: 5 s.
const SOON_BEATS: u64 = 10;
/// So many VMs in a row that died soon after they had resumed a saga are enough.
const MAX_SUSPICION: u32 = 3;

/// Of what is left alone so much is told, each once.
const MAX_TOLD: usize = 1_000;

/// What was last seen of another VM.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Watched {
    vm: String,
    beat: u64,
    /// For so many of our beats.
    unchanged: u32,
}

/// What is known of the VMs of this process.
struct Vms {
    /// Names of those that live.
    living: BTreeSet<String>,
    /// The last beat of each, by name.
    beats: BTreeMap<String, u64>,
}

/// A row whose sagas are ours now.
#[derive(Debug)]
pub(super) struct TakenRow {
    /// Slots that are still in use.
    open: BTreeSet<u32>,
}

impl SharedJournal {
    /// Looks at every other VM, and takes over the sagas of those that are dead.
    pub(super) fn take_over(&mut self, store: &mut impl SharedData, tick: &mut News) {
        let rows = self.rows(store, tick);
        let own = self.own.as_ref().map(|own| own.number);
        let dead: BTreeSet<u32> =
            rows.iter().filter(|(number, row, _)| self.is_dead(*number, row)).map(|row| row.0).collect();
        let serving = rows.iter().filter(|(number, row, _)| row.state == RowState::Serving && !dead.contains(number));
        let vms = Vms {
            living: serving.map(|(_, row, _)| row.vm.clone()).collect(),
            beats: rows.iter().map(|(_, row, _)| (row.vm.clone(), row.beat)).collect(),
        };
        let others = rows.iter().filter(|(number, row, _)| Some(*number) != own && vms.living.contains(&row.vm));
        let retained = others.clone().fold(Counts::default(), |sum, (_, row, _)| Counts {
            sagas: sum.sagas.saturating_add(row.retained.sagas),
            bytes: sum.bytes.saturating_add(row.retained.bytes),
        });
        self.retained.others_are(retained, others.count());
        for (number, row, version) in &rows {
            let abandoned = match &row.state {
                RowState::Serving => dead.contains(number),
                RowState::TakenBy(heir) => !vms.living.contains(heir),
                RowState::Left => true,
                RowState::Free => false,
            };
            if !abandoned || Some(*number) == own || planted(Planted::NeverTakenOver) {
                continue;
            }
            self.take_row(store, (*number, row.clone(), *version), &vms, tick);
        }
    }

    /// All rows that can be read.
    fn rows(&mut self, store: &mut impl SharedData, tick: &mut News) -> Vec<(u32, Row, Version)> {
        let all = (0..MAX_ROWS).map_while(|number| store.shared(&row_key(number)).map(|value| (number, value)));
        let mut rows = Vec::new();
        for (number, (bytes, version)) in all {
            match Row::parse(&bytes, self.reader) {
                Ok(row) => rows.push((number, row, version)),
                // It is for a VM that knows more. As long as whoever wrote it lives, it changes.
                Err(why) if why.is_for_others() => {
                    if self.is_unchanged(number, &String::from_utf8_lossy(&bytes), 0) {
                        self.leave_alone(&row_key(number), &why.to_string(), tick);
                    }
                }
                Err(_) => {}
            }
        }
        rows
    }

    /// What only another module can read is told once.
    fn leave_alone(&mut self, what: &str, why: &str, tick: &mut News) {
        if self.left_alone.len() < MAX_TOLD && self.left_alone.insert(what.to_owned()) {
            log::warn!("{what} is left to a module that knows it: {why}");
            tick.left_alone.push((what.to_owned(), why.to_owned()));
        }
    }

    /// Also remembers what was seen.
    fn is_dead(&mut self, number: u32, row: &Row) -> bool {
        if row.state != RowState::Serving || self.own.as_ref().is_some_and(|own| own.number == number) {
            self.watched.remove(&number);
            return false;
        }
        self.is_unchanged(number, &row.vm, row.beat)
    }

    /// Whether a row has been like this for so long that its VM is dead. Also remembers what was seen.
    fn is_unchanged(&mut self, number: u32, vm: &str, beat: u64) -> bool {
        let seen = self.watched.get(&number).filter(|seen| seen.vm == vm && seen.beat == beat);
        let unchanged = seen.map_or(0, |seen| seen.unchanged.saturating_add(1));
        self.watched.insert(number, Watched { vm: vm.to_owned(), beat, unchanged });
        unchanged >= if planted(Planted::TakenOverTooSoon) { 1 } else { DEAD_AFTER_BEATS }
    }

    /// Takes over the sagas of a row whose VM is dead, and the row, unless something in it is for others: what this VM holds
    /// a newer one could not take over.
    fn take_row(
        &mut self,
        store: &mut impl SharedData,
        (number, mut row, version): (u32, Row, Version),
        vms: &Vms,
        tick: &mut News,
    ) {
        if self.own_row(store).is_none() {
            return;
        }
        let own = self.own.as_ref().map_or(number, |own| own.number);
        let row_of = if planted(Planted::ResumedUnderOwnDefinition) { own } else { number };
        let definitions = definitions(store, row_of, self.reader);
        let unused = store.shared(&slot_key(number, 0)).is_none();
        if let Err(NoDefinitions::ForOthers(why)) = &definitions {
            let open = open_sagas(store, number, self.reader);
            if !open.is_empty() {
                open.iter().for_each(|saga| self.leave_alone(saga, why, tick));
                return;
            }
        }
        let is_shared = has_what_is_of_others(store, number, vms, self.reader);
        let state = match (is_shared, unused) {
            (true, _) => RowState::Left,
            (false, true) => RowState::Free,
            (false, false) => RowState::TakenBy(self.name()),
        };
        // Also where the row stays for all: its VM, should it live after all, has lost it by that.
        if row.state != state {
            row.state = state;
            // Somebody else was quicker, or the VM lives after all.
            if store.set_shared(&row_key(number), &row.encode(), Some(version)).is_err() || row.state == RowState::Free
            {
                return;
            }
            log::warn!("the VM {} is dead: its sagas are taken over", row.vm);
        }
        let mut taken = TakenRow { open: BTreeSet::new() };
        for slot in 0.. {
            let place = Place { row: number, slot };
            if store.shared(&slot_key(number, slot)).is_none() {
                break;
            }
            match self.take_slot(store, place, vms, tick) {
                Taken::Empty => {}
                Taken::Kept => {
                    taken.open.insert(slot);
                }
                Taken::Ended(slot_text) => {
                    taken.open.insert(slot);
                    self.adopt(*slot_text, place);
                }
                Taken::Ours(slot_text) => {
                    taken.open.insert(slot);
                    self.revive(store, place, *slot_text, &definitions, tick);
                }
            }
        }
        if is_shared {
            return;
        }
        let nothing = taken.open.is_empty();
        self.taken.insert(number, taken);
        if nothing {
            self.free_row(store, number);
        }
    }

    /// Writes ourselves into a slot.
    fn take_slot(&mut self, store: &mut impl SharedData, place: Place, vms: &Vms, tick: &mut News) -> Taken {
        let key = slot_key(place.row, place.slot);
        let Some(beat) = self.own.as_ref().map(|own| own.row.beat) else { return Taken::Kept };
        for _ in 0..MAX_TRIES {
            let Some((bytes, version)) = store.shared(&key).filter(|(bytes, _)| !bytes.is_empty()) else {
                return Taken::Empty;
            };
            let mut slot = match Slot::parse(&bytes, self.reader) {
                Ok(slot) => slot,
                Err(why) if why.is_for_others() => {
                    self.leave_alone(&saga_of(&bytes).unwrap_or(key), &why.to_string(), tick);
                    return Taken::Kept;
                }
                Err(why) => {
                    log::error!("{key}: {why}; it stays as it is");
                    return Taken::Kept;
                }
            };
            if slot.head.quarantined.is_some() || vms.living.contains(&slot.head.owner) {
                return Taken::Kept;
            }
            match slot.records(self.reader) {
                Ok(records) if slot.head.version < RECORD_VERSION => slot.head.steps = StepStates::of(&records),
                Err(why) if why.is_for_others() && slot.head.ended.is_none() => {
                    self.leave_alone(&slot.head.saga, &why.to_string(), tick);
                    return Taken::Kept;
                }
                _ => {}
            }
            slot.head.version = RECORD_VERSION;
            let head = &mut slot.head;
            // It never began: its VM died before anything was sent.
            let nameless =
                head.start.as_ref().is_some_and(|start| !index::names(store, start, &head.saga, place, self.reader));
            if nameless {
                match store.set_shared(&key, &[], Some(version)) {
                    Ok(()) => return Taken::Empty,
                    Err(_) => continue,
                }
            }
            if let Some(resumed) = head.resumed {
                let died_at = vms.beats.get(&head.owner);
                let soon = died_at.is_some_and(|died_at| died_at.wrapping_sub(resumed) < SOON_BEATS);
                head.suspicion = if soon { head.suspicion.saturating_add(1) } else { 0 };
            }
            head.owner = self.name();
            let raise = u32::from(!planted(Planted::EpochNotRaised));
            head.epoch = head.epoch.saturating_add(raise);
            head.resumed = (head.suspicion == 0).then_some(beat);
            if store.set_shared(&key, &slot.encode(), Some(version)).is_ok() {
                let ended = slot.head.ended.is_some();
                return if ended { Taken::Ended(Box::new(slot)) } else { Taken::Ours(Box::new(slot)) };
            }
        }
        Taken::Kept
    }

    fn adopt(&mut self, slot: Slot, place: Place) {
        let bytes = slot.encode().len();
        if let (Some(start), Some(ended)) = (slot.head.start, slot.head.ended) {
            self.retained.add(ended.at, slot.head.saga, start, place, bytes);
        }
    }

    /// Makes a saga of a slot that is ours now.
    fn revive(
        &mut self,
        store: &mut impl SharedData,
        place: Place,
        slot: Slot,
        definitions: &Definitions,
        tick: &mut News,
    ) {
        let saga = slot.head.saga.clone();
        self.places.insert(saga.clone(), place);
        let orphan = if slot.head.suspicion >= MAX_SUSPICION {
            Err(format!("{MAX_SUSPICION} VMs in a row have died soon after they had resumed it"))
        } else {
            orphan(&slot, definitions, self.reader)
        };
        match orphan {
            Err(why) => {
                self.quarantine(store, &saga, &why);
                tick.quarantined.push((saga, why));
            }
            Ok(orphan) if slot.head.suspicion > 0 => self.suspects.push_back(orphan),
            Ok(orphan) => tick.orphans.push(orphan),
        }
    }

    /// One at a time: of those that were resumed together nobody knows which one it was.
    pub(super) fn resume_a_suspect(&mut self, store: &mut impl SharedData, tick: &mut News) {
        let Some(beat) = self.own.as_ref().map(|own| own.row.beat) else { return };
        if let Some((saga, until)) = &self.on_probation
            && self.places.contains_key(saga)
            && beat < *until
        {
            return;
        }
        self.on_probation = None;
        let Some(orphan) = self.suspects.pop_front() else { return };
        let Some(saga) = orphan.progress.begun.as_ref().map(|begun| begun.id.clone()) else { return };
        let Some(place) = self.places.get(&saga).copied() else { return };
        let resumed = self.update(store, place, |slot| {
            slot.head.resumed = Some(beat);
            Some(slot.encode())
        });
        if resumed.is_some() {
            self.on_probation = Some((saga, beat.wrapping_add(SOON_BEATS)));
            tick.orphans.push(orphan);
        }
    }

    /// A slot of a row that was taken over is empty again.
    pub(super) fn release_taken(&mut self, store: &mut impl SharedData, place: Place) {
        let Some(taken) = self.taken.get_mut(&place.row) else { return };
        taken.open.remove(&place.slot);
        if taken.open.is_empty() {
            self.free_row(store, place.row);
        }
    }

    /// Nothing is left in a row that was taken over: another VM can have it.
    fn free_row(&mut self, store: &mut impl SharedData, number: u32) {
        self.taken.remove(&number);
        let Some((bytes, version)) = store.shared(&row_key(number)) else { return };
        let Some(mut row) =
            Row::parse(&bytes, self.reader).ok().filter(|row| row.state == RowState::TakenBy(self.name()))
        else {
            return;
        };
        row.state = RowState::Free;
        // Whoever has written it in between has taken it from us.
        let _ = store.set_shared(&row_key(number), &row.encode(), Some(version));
    }
}

/// What came of taking a slot over.
enum Taken {
    Empty,
    /// There is something in it that is not for us to touch.
    Kept,
    Ours(Box<Slot>),
    /// It is retained, by us now.
    Ended(Box<Slot>),
}

/// Whether a row has a saga that only another module can read, or one that a living VM has taken out of it.
fn has_what_is_of_others(store: &impl SharedData, row: u32, vms: &Vms, reader: Reader) -> bool {
    let mut slots = (0..).map_while(|slot| store.shared(&slot_key(row, slot))).filter(|(bytes, _)| !bytes.is_empty());
    slots.any(|(bytes, _)| match Slot::parse(&bytes, reader) {
        Ok(slot) => vms.living.contains(&slot.head.owner),
        Err(why) => why.is_for_others(),
    })
}

/// The sagas of a row that somebody has to go on with.
fn open_sagas(store: &impl SharedData, row: u32, reader: Reader) -> Vec<SagaId> {
    let slots = (0..).map_while(|slot| store.shared(&slot_key(row, slot)));
    let heads = slots.filter_map(|(bytes, _)| Slot::parse(&bytes, reader).ok()).map(|slot| slot.head);
    heads.filter(|head| head.ended.is_none() && head.quarantined.is_none()).map(|head| head.saga).collect()
}

/// The id of a saga whose slot cannot be read otherwise.
fn saga_of(slot: &[u8]) -> Option<SagaId> {
    #[derive(Deserialize)]
    struct Named {
        saga: SagaId,
    }
    let head = slot.split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice(head).ok().map(|Named { saga }| saga)
}

/// Definitions, or why they cannot be read.
type Definitions = Result<Vec<Arc<Definition>>, NoDefinitions>;

/// With which the sagas of a row began.
fn definitions(store: &impl SharedData, row: u32, reader: Reader) -> Definitions {
    let (bytes, _) = store.shared(&configuration_key(row)).unwrap_or_default();
    replay::definitions(&bytes, reader)
}

fn orphan(slot: &Slot, definitions: &Definitions, reader: Reader) -> Result<Orphan, String> {
    let records = slot.records(reader).map_err(|why: Unreadable| why.to_string())?;
    replay::orphan(&records, definitions, slot.head.epoch)
}
