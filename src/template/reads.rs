//! Which paths expressions read: of what comes in, only that much is kept.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

/// The paths that expressions read, rooted at `request`, `response`, `transaction`, `steps` or `saga`.
///
/// A path stands for everything below it. It ends where the names cease to be constant: `request.body.items[0].id`
/// reads all of `request.body.items`. Names of headers are lower-case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    paths: BTreeSet<Vec<String>>,
}

impl Reads {
    pub(super) fn insert(&mut self, path: Vec<String>) {
        self.paths.insert(path);
    }

    /// Adds what `other` reads.
    pub fn extend(&mut self, other: &Reads) {
        self.paths.extend(other.paths.iter().cloned());
    }

    /// Whether something at, below or above `prefix` is read.
    pub fn any_under(&self, prefix: &[&str]) -> bool {
        self.paths.iter().any(|path| path.iter().zip(prefix).all(|(name, other)| name == other))
    }

    /// What is read of `value`, which stands at `prefix`: the other fields of its objects are left out.
    ///
    /// Lists are kept whole, and so is what is no object. Nothing read: an empty object, or null for what is none.
    pub fn project(&self, prefix: &[&str], value: &Json) -> Json {
        let mut below = Vec::new();
        for path in &self.paths {
            if !path.iter().zip(prefix).all(|(name, other)| name == other) {
                continue;
            }
            match path.get(prefix.len()..) {
                Some(rest) => below.push(rest),
                // The path ends above the prefix, so it stands for all of the value.
                None => return value.clone(),
            }
        }
        if below.is_empty() {
            return if value.is_object() { Json::Object(Map::new()) } else { Json::Null };
        }
        keep(value, &below)
    }

    /// Whether it is one header of an answer, and one that holds a link.
    pub(super) fn is_link(&self) -> bool {
        let mut paths = self.paths.iter();
        let is_header = |path: &[String]| match path {
            [.., response, headers, name] => {
                response == "response"
                    && headers == "headers"
                    && matches!(name.as_str(), "location" | "content-location")
            }
            _ => false,
        };
        paths.next().is_some_and(|path| is_header(path)) && paths.next().is_none()
    }

    /// The paths, in order.
    pub fn paths(&self) -> impl Iterator<Item = &[String]> {
        self.paths.iter().map(Vec::as_slice)
    }
}

fn keep(value: &Json, paths: &[&[String]]) -> Json {
    let Json::Object(fields) = value else {
        return value.clone();
    };
    if paths.iter().any(|path| path.is_empty()) {
        return value.clone();
    }
    let mut kept = Map::new();
    for (name, value) in fields {
        let below: Vec<&[String]> = paths
            .iter()
            .filter_map(|path| path.split_first())
            .filter(|(first, _)| *first == name)
            .map(|(_, rest)| rest)
            .collect();
        if !below.is_empty() {
            kept.insert(name.clone(), keep(value, &below));
        }
    }
    Json::Object(kept)
}
