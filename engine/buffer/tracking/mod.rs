//! What is noted as a buffer is used and moved: its entry in an eviction list, its group, its clean copy.
//!
//! Kernel counterparts: `ttm_bo_move_to_lru_tail`, `ttm_bo_set_bulk_move`.
//!
//! Not here: the lists themselves ([`crate::residency`]), and what is done when a domain is full
//! (`eviction/`).

mod age_group;
mod clean_copies;
mod eviction_list;
mod usage;

pub use age_group::AgeGroup;
pub(in crate::buffer) use age_group::age_elsewhere;
pub(crate) use eviction_list::start_tracking;
pub(in crate::buffer) use eviction_list::{enlist, unlist};
