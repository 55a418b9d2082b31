//! What journals keep, as modules of this version and of those before have written it.

mod before;
mod etcd;
mod others;
mod stories;
mod vm;
