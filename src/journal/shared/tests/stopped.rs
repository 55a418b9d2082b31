//! A VM that stops between the two writes of a begin, for so long that another takes it for dead.

use std::cell::RefCell;

use super::*;
use crate::journal::{Found, StartKey};

/// The store as A sees it: A's thread stops just before it reads the bucket, and B lives on.
struct Stops {
    shared: Shared,
    other: RefCell<Option<SharedJournal>>,
}

impl SharedData for Stops {
    fn shared(&self, key: &str) -> Option<(Vec<u8>, Version)> {
        if key.starts_with("sagabox/key/")
            && let Some(mut b) = self.other.borrow_mut().take()
        {
            let mut shared = self.shared.clone();
            live(&mut [&mut b], &mut shared, 10);
        }
        self.shared.shared(key)
    }

    fn set_shared(&mut self, key: &str, value: &[u8], read: Option<Version>) -> Result<(), Conflict> {
        self.shared.set_shared(key, value, read)
    }
}

#[test]
fn a_begin_whose_slot_was_emptied_meanwhile_is_not_acknowledged() {
    let (mut shared, mut a, b) = (Shared::default(), vm("a"), vm("b"));
    begin(&mut a, &mut shared, "s0");
    let mut stops = Stops { shared: shared.clone(), other: RefCell::new(Some(b)) };
    let start = StartKey { key: format!("{:0>64}", "k"), request: "r".to_owned() };
    let record = begun("s1", "trip");
    let said = a.write(&mut stops, Entry { saga: "s1", epoch: 1, record: &record, start: Some(&start), now: 1 });
    let found = a.find(&shared, &start);
    let owns = a.owns(&mut shared, "s1", 1);
    assert!(
        said != Acknowledgement::Written || found != Found::Nothing,
        "told {said:?}, but there is {found:?} under the key, and the saga is {owns:?}; slots: {:?}",
        shared.sagas()
    );
}
