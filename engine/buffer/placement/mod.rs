//! Where a buffer may live, and memory there.
//!
//! Kernel counterparts: `ttm_bo_mem_space`, and the intersection of all attachments' abilities in
//! `amdgpu_dma_buf_pin` and `xe_dma_buf_pin`.
//!
//! An allocation may evict: it does so through `residency::World`, which `eviction/` implements. That is the one
//! recursion there is.

mod allocate;
mod create;
mod home;
mod import_matrix;
mod pressure;
mod reclaim;

pub(in crate::buffer) use home::{home_after_move, home_at, new_home};
pub(in crate::buffer) use import_matrix::ImportMatrix;
pub(in crate::buffer) use pressure::retry_on_oom;
pub(crate) use reclaim::drop_clean_copies;
