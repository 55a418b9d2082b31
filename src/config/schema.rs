//! The JSON Schema of the configuration, for editors and other tools.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::raw::RawConfiguration;

/// The JSON Schema (2020-12) of a configuration, generated from the types that it is read into.
///
/// What it accepts may still be refused: names, templates and the order of steps are checked only by
/// [`load`](super::load).
pub fn json_schema() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<RawConfiguration>().to_value()
}
