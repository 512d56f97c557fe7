//! The kernel's own tests of locks, fences and reservations. Each file is named after its upstream file, and
//! names the upstream test of each of its tests.

mod dma_fence;
mod dma_fence_unwrap;
mod dma_resv;
mod drm_exec;
mod ttm_bo;
mod ww_mutex;
