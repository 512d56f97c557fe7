//! More buffers than fit: which are evicted, which are restored, and which importers are notified.

#[path = "../common/mod.rs"]
mod common;

mod auto_migration;
mod groups;
mod out_of_memory_retry;
mod overcommit;
mod placement;
mod protection;
mod purge;
mod restores;
mod room;
mod working_sets;
