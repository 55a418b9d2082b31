//! What the VM holds: it has one allocator, whatever the memory is for and whichever root has it.
//!
//! What was asked for is counted. What the allocator adds is not: 4 to 15 bytes for each piece, and what lies between.

use std::alloc::System;
use std::cell::Cell;

use cap::Cap;

use crate::coordinator::Reserved;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Of the whole VM: its memory ends with it.
struct Vm {
    /// What configurations hold, in bytes, and what was held before the first.
    of_configurations: Cell<usize>,
    reserved: Reserved,
}

thread_local! {
    static VM: Vm = Vm { of_configurations: Cell::new(ALLOCATOR.allocated()), reserved: Reserved::default() };
}

/// Bytes that the VM holds beyond its configurations.
pub(super) fn allocated_bytes() -> usize {
    ALLOCATOR.allocated().saturating_sub(VM.with(|vm| vm.of_configurations.get()))
}

/// What the coordinators of the VM reserve.
pub(super) fn reserved() -> Reserved {
    VM.with(|vm| vm.reserved.clone())
}

/// What a configuration takes, as long as it is there: limits do not bound it.
#[derive(Debug, Default)]
pub(super) struct OfConfiguration(usize);

impl OfConfiguration {
    /// Gives what `load` makes, with what that has added to what is held.
    pub(super) fn measure<T>(load: impl FnOnce() -> T) -> (T, OfConfiguration) {
        // The first look is the one that sets what was held before.
        let before = allocated_bytes();
        let made = load();
        let added = allocated_bytes().saturating_sub(before);
        VM.with(|vm| vm.of_configurations.set(vm.of_configurations.get().saturating_add(added)));
        (made, OfConfiguration(added))
    }
}

impl Drop for OfConfiguration {
    fn drop(&mut self) {
        VM.with(|vm| vm.of_configurations.set(vm.of_configurations.get().saturating_sub(self.0)));
    }
}
