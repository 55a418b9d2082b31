//! What the fuzz targets share.
//!
//! Inputs are JSON, so that seeds can be read, and are changed as JSON: [`mutate`] changes one node of the tree. The
//! bytes themselves are changed as well, now and then.

mod forms;
mod mutation;
mod room;
mod world;

pub use forms::to_struct;
pub use mutation::{Forms, mutate};
pub use room::{Room, remember};
pub use world::World;
