//! A VM's thread stops at any access to shared data, while others live on: whatever comes in between, each saga that has
//! begun has one owner in the end, and no VM takes a saga for its own that another has.

use std::collections::BTreeMap;

use super::*;
use crate::journal::StartKey;

/// A VM, and the sagas that its coordinator drives, with what it needs to write their next record.
struct Driver {
    journal: SharedJournal,
    driven: BTreeMap<String, (u32, u64)>,
}

type Vms = [Rc<RefCell<Driver>>; 3];

impl Driver {
    fn new(name: &str) -> Rc<RefCell<Driver>> {
        Rc::new(RefCell::new(Driver { journal: vm(name), driven: BTreeMap::new() }))
    }

    fn ticks(&mut self, store: &mut impl SharedData) {
        self.ticks_at(store, self.journal.next_due());
    }

    fn ticks_at(&mut self, store: &mut impl SharedData, now: Millis) {
        let news = self.journal.tick(store, now);
        news.lost.iter().for_each(|saga| _ = self.driven.remove(saga));
        assert!(news.quarantined.is_empty() && news.left_alone.is_empty(), "{news:?}");
        for orphan in news.orphans {
            let saga = orphan.progress.begun.as_ref().unwrap().id.clone();
            self.driven.insert(saga, (orphan.epoch, orphan.sequence));
        }
    }

    fn begins(&mut self, store: &mut impl SharedData, saga: &str, start: Option<&StartKey>) {
        let record = begun(saga, "trip");
        if self.journal.write(store, Entry { saga, epoch: 1, record: &record, start, now: 1 })
            == Acknowledgement::Written
        {
            self.driven.insert(saga.to_owned(), (1, 1));
        }
    }

    fn writes(&mut self, store: &mut impl SharedData, saga: &str, record: impl Fn(u64) -> Record) {
        let Some((epoch, sequence)) = self.driven.get(saga).copied() else { return };
        let record = record(sequence + 1);
        let said = self.journal.write(store, Entry { saga, epoch, record: &record, start: None, now: 1 });
        if said == Acknowledgement::Written && !record.ends() {
            self.driven.insert(saga.to_owned(), (epoch, sequence + 1));
        } else {
            self.driven.remove(saga);
        }
    }

    /// What it would send for.
    fn takes_for_its_own(&mut self, store: &mut impl SharedData) -> Vec<String> {
        let driven: Vec<String> = self.driven.keys().cloned().collect();
        driven.into_iter().filter(|saga| self.journal.owns(store, saga, 1) == Ownership::Ours).collect()
    }
}

/// Shared data as a VM sees it whose thread stops before one of its accesses.
struct Stops {
    shared: Shared,
    accesses: Cell<usize>,
    stop_at: usize,
    meanwhile: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Stops {
    fn accessed(&self) {
        if self.accesses.replace(self.accesses.get() + 1) == self.stop_at
            && let Some(meanwhile) = self.meanwhile.take()
        {
            meanwhile();
        }
    }
}

impl SharedData for Stops {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        self.accessed();
        self.shared.shared(key)
    }

    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        self.accessed();
        self.shared.set_shared(key, value, read)
    }
}

fn start(name: &str) -> StartKey {
    StartKey { key: format!("{name:0>64}"), request: "r".to_owned() }
}

/// Each slot in use: which saga it holds, and whose it is.
fn owners(shared: &Shared) -> Vec<(String, String)> {
    let head = |key: &String| {
        let slot = Slot::parse(&shared.shared(key).unwrap().0, Reader::default()).unwrap();
        slot.head.ended.is_none().then_some((slot.head.saga, slot.head.owner))
    };
    shared.sagas().iter().filter_map(head).collect()
}

/// No VM sends for a saga that is another's.
fn agree(vms: &Vms, shared: &mut Shared, when: &str) {
    let owners = owners(shared);
    for vm in vms {
        let mut vm = vm.borrow_mut();
        for saga in vm.takes_for_its_own(shared) {
            let owner = owners.iter().find(|(other, _)| *other == saga).map(|(_, owner)| owner.as_str());
            assert_eq!(owner, Some(vm.journal.name().as_str()), "{when}: whose is {saga}?");
        }
    }
}

/// The VM `actor` does something, and stops before access `stop_at`, while these others live for some beats. Gives whether
/// it came so far.
fn run(actor: usize, act: &str, stop_at: usize, others: &'static [(usize, u32)]) -> bool {
    let what = format!("{actor} {act}, stopped at {stop_at} for {others:?}");
    let mut shared = Shared::default();
    let vms: Vms = [Driver::new("a"), Driver::new("b"), Driver::new("c")];
    let dead = Driver::new("z");
    dead.borrow_mut().begins(&mut shared, "z1", None);
    dead.borrow_mut().begins(&mut shared, "z2", Some(&start("z2")));
    for (vm, saga) in vms.iter().zip(["a1", "b1", "c1"]) {
        vm.borrow_mut().begins(&mut shared, saga, Some(&start(saga)));
    }
    // A inherits from Z, unless that is what happens next.
    let before = if act == "takes over" { 6 } else { 7 };
    for _ in 0..before {
        vms.iter().for_each(|vm| vm.borrow_mut().ticks(&mut shared));
    }
    if act == "takes over from an heir" {
        assert!(vms[0].borrow().driven.contains_key("z1"), "{what}");
        // A stops for a while, so C takes it for dead unless it goes on at once.
        for _ in 0..6 {
            (1..3).for_each(|vm| vms[vm].borrow_mut().ticks(&mut shared));
        }
    }
    let mut begun: Vec<&str> = vec!["z1", "z2", "a1", "b1", "c1"];
    let (living, mut of_others) = (vms.clone(), shared.clone());
    let meanwhile = move || {
        for (vm, beats) in others {
            (0..*beats).for_each(|_| living[*vm].borrow_mut().ticks(&mut of_others));
        }
    };
    let meanwhile: RefCell<Option<Box<dyn FnOnce()>>> = RefCell::new(Some(Box::new(meanwhile)));
    let mut store = Stops { shared: shared.clone(), accesses: Cell::new(0), stop_at, meanwhile };
    {
        let mut vm = vms[actor].borrow_mut();
        match act {
            "begins" => vm.begins(&mut store, "new", None),
            "begins under a key" => vm.begins(&mut store, "new", Some(&start("new"))),
            "writes" => vm.writes(&mut store, "a1", compensating),
            "writes of an inherited one" => vm.writes(&mut store, "z1", compensating),
            "ends" => vm.writes(&mut store, "a1", ended),
            "ends inherited ones" => ["z1", "z2"].iter().for_each(|saga| vm.writes(&mut store, saga, ended)),
            "forgets" => {
                vm.writes(&mut shared, "a1", ended);
                vm.ticks_at(&mut store, 4_000_000);
            }
            "leaves" => {
                ["a1", "z1", "z2"].iter().for_each(|saga| vm.writes(&mut shared, saga, ended));
                vm.journal.leave(&mut store);
            }
            "takes over" | "takes over from an heir" => vm.ticks(&mut store),
            _ => panic!("{act}"),
        }
        if vm.driven.contains_key("new") {
            begun.push("new");
        }
        if act.starts_with("ends") || ["forgets", "leaves"].contains(&act) {
            begun.retain(|saga| owners(&shared).iter().any(|(other, _)| other == saga));
        }
    }
    agree(&vms, &mut shared, &what);
    let lives = |vm: &usize| act != "leaves" || *vm != actor;
    for _ in 0..60 {
        (0..3).filter(lives).for_each(|vm| vms[vm].borrow_mut().ticks(&mut shared));
        agree(&vms, &mut shared, &what);
    }
    // One that is taken over in the middle of its begin goes on elsewhere.
    let left = owners(&shared);
    begun.extend(left.iter().map(|(saga, _)| saga.as_str()));
    for saga in &begun {
        let drivers =
            vms.iter().filter(|vm| vm.borrow_mut().takes_for_its_own(&mut shared).iter().any(|own| own == saga));
        assert_eq!(drivers.count(), 1, "{what}: who drives {saga}? {:?}", owners(&shared));
    }
    // Nothing is left of what has ended.
    for beat in 0..10 {
        (0..3).filter(lives).for_each(|vm| vms[vm].borrow_mut().ticks_at(&mut shared, 40_000_000 + beat * BEAT_MS));
    }
    assert_eq!(shared.sagas().len(), owners(&shared).len(), "{what}: {:?}", shared.sagas());
    store.meanwhile.into_inner().is_none()
}

#[test]
fn wherever_a_vm_stops_each_saga_has_one_owner_in_the_end() {
    let acts = [
        (0, "begins"),
        (0, "begins under a key"),
        (0, "writes"),
        (0, "writes of an inherited one"),
        (0, "ends"),
        (0, "ends inherited ones"),
        (0, "forgets"),
        (0, "leaves"),
        (0, "takes over"),
        (1, "takes over from an heir"),
    ];
    let meanwhile: [&'static [(usize, u32)]; 6] =
        [&[(1, 10)], &[(2, 10)], &[(1, 10), (2, 10)], &[(0, 1)], &[(0, 1), (2, 10)], &[(2, 10), (0, 1)]];
    let mut failures = Vec::new();
    for (actor, act) in acts {
        for others in meanwhile.into_iter().filter(|others| others.iter().all(|(vm, _)| *vm != actor)) {
            for stop_at in 0.. {
                match std::panic::catch_unwind(|| run(actor, act, stop_at, others)) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(why) => failures.push(why.downcast_ref::<String>().cloned().unwrap_or_default()),
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of them:\n{}", failures.len(), failures.join("\n"));
}
