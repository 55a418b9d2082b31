//! The module of tomorrow, for the simulation to run two versions of the module at once.
//!
//! It is this module with a feature more, as one that is to come will be. A build with planted faults is of tomorrow if the
//! environment of its VM sets `SAGABOX_OF_TOMORROW`; what ships never is, and has nothing of it. Tomorrow's module
//!
//! - knows the feature `tomorrow`, and says in its records, and in its definitions, where it is needed;
//! - keeps the changes of a record that needs it in another form, which today's module takes for damaged;
//! - refuses a definition that today's module takes.

#[cfg(not(feature = "planted-faults"))]
pub use self::never::*;
#[cfg(feature = "planted-faults")]
pub use self::where_chosen::*;

#[cfg(not(feature = "planted-faults"))]
mod never {
    use crate::definition::Definition;
    use crate::saga::record::{Change, FEATURES};

    /// Whether this module is of tomorrow.
    #[inline]
    pub const fn is_chosen() -> bool {
        false
    }

    /// What this module knows.
    #[inline]
    pub const fn features() -> &'static [&'static str] {
        FEATURES
    }

    /// The feature of tomorrow, if a change needs it.
    #[inline]
    pub const fn feature_of(_change: &Change) -> Option<&'static str> {
        None
    }

    /// The feature of tomorrow, if a definition needs it.
    #[inline]
    pub const fn feature_of_definition(_definition: &Definition) -> Option<&'static str> {
        None
    }

    /// Whether the check of tomorrow refuses a definition.
    #[inline]
    pub const fn refuses(_definition: &Definition) -> bool {
        false
    }
}

#[cfg(feature = "planted-faults")]
mod where_chosen {
    use std::sync::LazyLock;
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, SerializeMap, Serializer};
    use serde_json::Value as Json;

    use crate::definition::Definition;
    use crate::saga::record::{Change, FEATURES};

    const FEATURE: &str = "tomorrow";
    /// Sagas of so many steps or more need it, whichever definition of their configuration has them.
    const MANY_STEPS: usize = 10;
    /// Tomorrow's check refuses a longer one.
    const LONGEST_DEADLINE: Duration = Duration::from_secs(15);

    /// Whether this module is of tomorrow.
    pub fn is_chosen() -> bool {
        static CHOSEN: LazyLock<bool> = LazyLock::new(|| std::env::var_os("SAGABOX_OF_TOMORROW").is_some());
        *CHOSEN
    }

    /// What this module knows.
    pub fn features() -> &'static [&'static str] {
        static OF_TOMORROW: LazyLock<Vec<&str>> = LazyLock::new(|| [FEATURES, &[FEATURE]].concat());
        if is_chosen() { &OF_TOMORROW } else { FEATURES }
    }

    /// The feature of tomorrow, if a change needs it: a third of the sagas do from their begin on, others once they are being
    /// undone, or once a later step is sent.
    pub fn feature_of(change: &Change) -> Option<&'static str> {
        let needs = is_chosen()
            && match change {
                Change::Begun(begun) => begun.id.ends_with(['0', '3', '6', '9', 'c']),
                Change::Compensating(cause) => cause.failed_step.is_some_and(|step| step % 3 == 0),
                Change::InFlight { step, .. } => step % 5 == 3,
                _ => false,
            };
        needs.then_some(FEATURE)
    }

    /// The feature of tomorrow, if a definition needs it.
    pub fn feature_of_definition(definition: &Definition) -> Option<&'static str> {
        (is_chosen() && definition.steps.len() >= MANY_STEPS).then_some(FEATURE)
    }

    /// Whether the check of tomorrow refuses a definition.
    pub fn refuses(definition: &Definition) -> bool {
        is_chosen() && definition.deadline > LONGEST_DEADLINE
    }

    /// How the changes of a record are kept: tomorrow's module has another form for those that need more.
    pub mod changes {
        use super::{Change, Deserialize, Deserializer, Error, Json, Serialize, SerializeMap, Serializer};
        use super::{feature_of, is_chosen};

        const OTHER_FORM: &str = "of_tomorrow";

        /// For serde.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(changes: &Vec<Change>, serializer: S) -> Result<S::Ok, S::Error> {
            if !changes.iter().any(|change| feature_of(change).is_some()) {
                return changes.serialize(serializer);
            }
            let mut other_form = serializer.serialize_map(Some(1))?;
            other_form.serialize_entry(OTHER_FORM, changes)?;
            other_form.end()
        }

        /// For serde.
        ///
        /// # Errors
        /// Those of the deserializer.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Change>, D::Error> {
            let changes = match Json::deserialize(deserializer)? {
                Json::Object(mut other_form) if is_chosen() => other_form.remove(OTHER_FORM).unwrap_or_default(),
                changes => changes,
            };
            serde_json::from_value(changes).map_err(D::Error::custom)
        }
    }
}
