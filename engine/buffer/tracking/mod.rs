//! What is recorded when a buffer is used or moved: its entry in an eviction list, its age group, its clean
//! copy.
//!
//! Kernel counterparts: `ttm_bo_move_to_lru_tail`, `ttm_bo_set_bulk_move`.
//!
//! What is not here: the lists themselves ([`crate::residency`]), and evictions when a domain is full
//! (`eviction/`).

mod age_group;
mod clean_copies;
mod enlist;
mod record_use;

pub use age_group::AgeGroup;
pub(in crate::buffer) use age_group::mark_groups_used;
pub(crate) use enlist::start_tracking;
pub(in crate::buffer) use enlist::{enlist, unlist};
