//! What can be read in shared data of the sagas of a process, by the documentation of its form and by nothing else.

use serde_json::Value as Json;

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
                Some(head) if !head["quarantined"].is_null() => kept.set_aside.push(id(&head)),
                Some(head) => kept.open.push(id(&head)),
                None => kept.unreadable.push(key),
            },
            ["sagabox", "vm", _, "saga" | "configuration", ..] | ["sagabox", "key", _] => {}
            _ => kept.unreadable.push(key),
        }
    }
    kept
}

/// The first line of a saga.
fn head(value: &[u8]) -> Option<Json> {
    let line = value.split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice(line).ok().filter(|head: &Json| head["saga"].is_string())
}

fn id(head: &Json) -> String {
    head["saga"].as_str().unwrap_or_default().to_owned()
}
