//! Carries out what residency decides: victims are evicted, displaced buffers are restored, contents are
//! purged.
//!
//! Kernel counterparts: `ttm_bo_evict`, `ttm_bo_swapout`, `amdgpu_cs_bo_validate`, access-counter migration.
//!
//! Not here: which buffers are the victims ([`crate::residency`]).

mod auto_migrate;
mod compact;
mod fit;
mod on_request;
mod purge;
mod required_restore;
mod restore;
mod victims;
mod world_impl;

pub(in crate::buffer) use auto_migrate::learn_access_costs;
pub use compact::Compaction;
pub(crate) use compact::{COMPACTED_AT_ONCE, Compacted, compact};
pub(crate) use fit::{Eviction, fit};
pub(crate) use on_request::restore;
pub(in crate::buffer) use required_restore::restore_all_for_use;
pub(in crate::buffer) use restore::restore_together;
