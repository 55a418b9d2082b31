//! How much an input may take: an allocator that counts, and a record of the last input.

use std::alloc::System;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;

use cap::Cap;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// While it lives, no more than so much may be allocated besides what is already: past it the process aborts, which
/// the fuzzer records like a panic.
pub struct Room(());

impl Room {
    /// Room for `bytes` more.
    pub fn of(bytes: usize) -> Room {
        set_limit(ALLOCATOR.allocated().saturating_add(bytes));
        Room(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        set_limit(usize::MAX);
    }
}

fn set_limit(bytes: usize) {
    if ALLOCATOR.set_limit(bytes).is_err() {
        std::process::abort();
    }
}

thread_local! {
    static LAST: RefCell<Option<File>> =
        RefCell::new(std::env::var_os("SAGABOX_FUZZ_LAST").and_then(|path| File::create(path).ok()));
}

/// Writes `input` to the file that the environment's `SAGABOX_FUZZ_LAST` names. When the stack overflows, libFuzzer has
/// none left to save the input on, and the process just dies.
pub fn remember(input: &[u8]) {
    LAST.with_borrow(|file| {
        if let Some(file) = file {
            let saved = file.write_all_at(input, 0).and_then(|()| file.set_len(input.len() as u64));
            saved.expect("room for one input on the disk");
        }
    });
}
