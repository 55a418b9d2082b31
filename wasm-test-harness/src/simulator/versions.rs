//! Two versions of the module in one run, as in a rolling upgrade or after a rollback.

use std::collections::BTreeSet;

use serde_json::Value as Json;

/// Which of two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// The one that does not know the other's features.
    Older,
    /// The one that knows all that the other does.
    Newer,
}

impl Age {
    /// The other of the two.
    pub fn other(self) -> Age {
        match self {
            Age::Older => Age::Newer,
            Age::Newer => Age::Older,
        }
    }
}

/// How two versions differ in what they read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The newest version of a value that the older one reads; none: both write the same.
    pub older_reads: Option<u64>,
    /// The features that only the newer one knows.
    pub only_newer_knows: BTreeSet<String>,
    /// The older one cannot read what the newer one writes: there is no way back.
    pub no_way_back: bool,
}

impl Difference {
    /// Whether only the newer one can read a value, by what the value says of itself.
    pub fn is_for_newer(&self, value: &Json) -> bool {
        let needs = value["needs"].as_array().into_iter().flatten().filter_map(Json::as_str);
        let is_newer = self.older_reads.is_some_and(|reads| value["version"].as_u64() > Some(reads));
        is_newer || needs.into_iter().any(|feature| self.only_newer_knows.contains(feature))
    }
}

/// Which version runs where in a run.
#[derive(Debug, Clone)]
pub struct Versions {
    /// How they differ.
    pub difference: Difference,
    /// What each proxy begins with.
    pub begins: Vec<Age>,
    /// What every proxy has in the end.
    pub ends_on: Age,
    /// A proxy that has what it is to have in the end keeps it.
    pub one_way: bool,
    /// So many configurations there are, and as many once more after them: what the newer one takes of each.
    pub configurations: usize,
}

impl Versions {
    /// The configuration that a module of this age gets in the place of one.
    pub fn configuration_for(&self, age: Age, configuration: usize) -> usize {
        match age {
            Age::Older => configuration % self.configurations.max(1),
            Age::Newer => configuration % self.configurations.max(1) + self.configurations,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_for_the_newer_one_where_its_version_or_a_need_says_so() {
        let only_newer_knows = ["tomorrow".to_owned()].into();
        let difference = Difference { older_reads: Some(2), only_newer_knows, no_way_back: false };
        for (value, expected) in [
            (json!({"version": 2}), false),
            (json!({"version": 1, "needs": ["pivot"]}), false),
            (json!({"version": 2, "needs": ["pivot", "tomorrow"]}), true),
            (json!({"version": 3}), true),
            (Json::Null, false),
        ] {
            assert_eq!(difference.is_for_newer(&value), expected, "{value}");
        }
    }
}
