//! Which VMs are dead, and what becomes of their sagas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::row::{Counts, Row, RowState, configuration_key, row_key, slot_key};
use super::slot::Slot;
use super::{MAX_ROWS, MAX_TRIES, Place, SharedJournal, index};
use crate::definition::Definition;
use crate::facts::Weight;
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

/// A row whose sagas are ours now, or some of them.
#[derive(Debug)]
pub(super) struct TakenRow {
    /// The row, as it is in shared data if it is still ours: who takes it from us writes that into it first of all.
    written: Vec<u8>,
    hold: Hold,
    /// Slots that are still in use, of those that were looked at.
    open: BTreeSet<u32>,
    /// The next slot to be looked at; none: all were. There was no room for more sagas.
    next: Option<u32>,
}

/// What a VM has of a row of the dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// The row, with all that is in it.
    Whole,
    /// Single slots, each by its owner's name: something in the row is for a newer module, or is one's already that lives.
    /// The row is nobody's.
    Slots,
}

impl TakenRow {
    /// Nothing is left in it.
    fn is_over(&self) -> bool {
        self.open.is_empty() && self.next.is_none()
    }
}

impl SharedJournal {
    /// Looks at every other VM, and takes over the sagas of those that are dead.
    pub(super) fn take_over(&mut self, store: &mut impl SharedData, tick: &mut News) {
        let rows = self.rows(store, tick);
        let own = self.own.as_ref().map(|own| own.number);
        let dead: BTreeSet<u32> =
            rows.iter().filter(|(number, row, _)| self.watch_vm(*number, row)).map(|row| row.0).collect();
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
        let unfinished = self.taken.iter().filter(|(_, taken)| taken.next.is_some()).map(|(number, _)| *number);
        for number in unfinished.collect::<Vec<_>>() {
            self.take_slots(store, number, &vms, tick);
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
                    if self.watch_row(number, &String::from_utf8_lossy(&bytes), 0) {
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

    /// Looks at a VM's row once more: true if the VM is dead. Remembers what was seen.
    fn watch_vm(&mut self, number: u32, row: &Row) -> bool {
        if row.state != RowState::Serving || self.own.as_ref().is_some_and(|own| own.number == number) {
            self.watched.remove(&number);
            return false;
        }
        self.watch_row(number, &row.vm, row.beat)
    }

    /// Whether a row has been like this for so long that its VM is dead. Also remembers what was seen.
    fn watch_row(&mut self, number: u32, vm: &str, beat: u64) -> bool {
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
        let unused = store.shared(&slot_key(number, 0)).is_none();
        if let Err(NoDefinitions::ForOthers(why)) = &self.definitions_of(store, number) {
            let open = open_sagas(store, number, self.reader);
            if !open.is_empty() {
                open.iter().for_each(|saga| self.leave_alone(saga, why, tick));
                return;
            }
        }
        let hold = if has_what_is_of_others(store, number, vms, self.reader) { Hold::Slots } else { Hold::Whole };
        let state = match hold {
            Hold::Slots => RowState::Left,
            Hold::Whole if unused => RowState::Free,
            Hold::Whole => RowState::TakenBy(self.name()),
        };
        let written = if row.state == state {
            match store.shared(&row_key(number)) {
                Some((bytes, unchanged)) if unchanged == version => bytes,
                _ => return,
            }
        } else {
            // Also of single slots: the row's VM, should it live after all, has lost it by that.
            row.state = state;
            let written = row.encode();
            // Somebody else was quicker, or the VM lives after all.
            if store.set_shared(&row_key(number), &written, Some(version)).is_err() || row.state == RowState::Free {
                return;
            }
            log::warn!("the VM {} is dead: its sagas are taken over", row.vm);
            written
        };
        // Of single slots this VM may have some, from the last time it looked.
        let open = self.places.values().filter(|place| place.row == number).map(|place| place.slot).collect();
        self.taken.insert(number, TakenRow { written, hold, open, next: Some(0) });
    }

    /// Takes the sagas of a row that is ours now, as many as there is room for: the others stay as they are until there is.
    fn take_slots(&mut self, store: &mut impl SharedData, number: u32, vms: &Vms, tick: &mut News) {
        let Some(mut next) = self.taken.get(&number).and_then(|row| row.next) else { return };
        let definitions = self.definitions_of(store, number);
        let is_all = loop {
            let place = Place { row: number, slot: next };
            let Some((bytes, _)) = store.shared(&slot_key(number, next)) else { break true };
            if !self.take_room(&bytes) {
                log::debug!("there is no room for more sagas of a VM that is dead: they wait");
                break false;
            }
            let taken = self.take_slot(store, place, vms, tick);
            match self.taken.get_mut(&number) {
                // Others have taken this VM for dead meanwhile.
                None => return,
                Some(_) if matches!(taken, Taken::Empty) => {}
                Some(row) => _ = row.open.insert(next),
            }
            match taken {
                Taken::Empty | Taken::Kept => {}
                Taken::Ended(slot) => self.adopt(*slot, place),
                Taken::Ours(slot) => self.revive(store, place, *slot, &definitions, tick),
            }
            next = next.saturating_add(1);
        };
        let Some(taken) = self.taken.get_mut(&number) else { return };
        taken.next = (!is_all).then_some(next);
        if taken.is_over() {
            self.free_row(store, number);
        }
    }

    /// Whether nobody has taken this row from this VM, which has it for its own or has taken it over itself.
    pub(super) fn confirm_row(&mut self, store: &impl SharedData, number: u32) -> bool {
        let Some(row) = self.taken.get(&number) else {
            return self.own.as_ref().is_some_and(|own| own.number == number) && self.confirm_own_row(store);
        };
        let (hold, is_as_left) =
            (row.hold, store.shared(&row_key(number)).is_some_and(|(bytes, _)| bytes == row.written));
        // Who takes this VM for dead writes its own row first of all.
        let has = is_as_left && (hold == Hold::Whole || self.confirm_own_row(store));
        if !has {
            self.taken.remove(&number);
            self.lost.extend(self.places.extract_if(|_, place| place.row == number).map(|(saga, _)| saga));
        }
        has
    }

    /// A row that was taken over may be another's by now, though this VM was not taken for dead: it was so nearly.
    pub(super) fn look_at_taken_rows(&mut self, store: &impl SharedData) {
        for number in self.taken.keys().copied().collect::<Vec<_>>() {
            self.confirm_row(store, number);
        }
    }

    /// Takes from the room that is left what a slot becomes. False: it is too little. A VM that has no saga takes one in
    /// any case: nobody else can.
    fn take_room(&mut self, slot: &[u8]) -> bool {
        let bytes: usize = slot.split(|byte| *byte == b'\n').map(|line| Weight::exactly_of(line).bytes).sum();
        let is_first = self.places.is_empty();
        // As it is read, its records and what comes of them are there at once.
        let fits = bytes.saturating_mul(2) <= self.room || planted(Planted::TakenOverWithoutRoom);
        self.room = self.room.saturating_sub(bytes);
        fits || is_first
    }

    fn definitions_of(&self, store: &impl SharedData, number: u32) -> Definitions {
        let own = self.own.as_ref().map_or(number, |own| own.number);
        let row_of = if planted(Planted::ResumedUnderOwnDefinition) { own } else { number };
        definitions(store, row_of, self.reader)
    }

    /// Writes ourselves into a slot.
    fn take_slot(&mut self, store: &mut impl SharedData, place: Place, vms: &Vms, tick: &mut News) -> Taken {
        let key = slot_key(place.row, place.slot);
        let Some(beat) = self.own.as_ref().map(|own| own.row.beat) else { return Taken::Kept };
        for _ in 0..MAX_TRIES {
            let Some((bytes, version)) = store.shared(&key).filter(|(bytes, _)| !bytes.is_empty()) else {
                return Taken::Empty;
            };
            // After the slot was read: who takes the row from us first writes the row, then the slot.
            if !self.confirm_row(store, place.row) {
                return Taken::Kept;
            }
            let mut slot = match Slot::parse(&bytes, self.reader) {
                Ok(slot) => slot,
                Err(why) if why.is_for_others() => {
                    self.leave_alone(&saga_of(&bytes).unwrap_or(key), &why.to_string(), tick);
                    return Taken::Kept;
                }
                Err(why) => {
                    tick.quarantined.push((saga_of(&bytes).unwrap_or(key), format!("{why}; it stays as it is")));
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
        if taken.is_over() {
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
