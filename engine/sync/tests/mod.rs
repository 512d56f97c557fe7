//! The kernel's own tests of locks, fences and reservations, as model tests, with their upstream names.

mod dma_fence;
mod dma_fence_unwrap;
mod dma_resv;
mod drm_exec;
mod ttm_bo;
mod ww_mutex;
