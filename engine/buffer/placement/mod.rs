//! Where a buffer may live, and the allocation of its memory there.
//!
//! Kernel counterparts: `ttm_bo_mem_space`, and the intersection of all attachments' abilities in
//! `amdgpu_dma_buf_pin` and `xe_dma_buf_pin`.
//!
//! An allocation may evict other buffers. It does so through `residency::World`, which `eviction/`
//! implements. This is the only recursion between rooms.

mod allocate;
mod create;
mod home;
mod import_matrix;
mod pressure;
mod reclaim;

pub(in crate::buffer) use home::{home_after_move, home_at, new_home};
pub(in crate::buffer) use import_matrix::{Extent, ImportMatrix};
pub(in crate::buffer) use pressure::retry_on_oom;
pub(crate) use reclaim::drop_clean_copies;
