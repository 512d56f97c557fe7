//! Moves of shared buffers: notifications, copy paths, fences, pins and written ranges.

#[path = "../common/mod.rs"]
mod common;

mod batch;
mod copy_path;
mod matrix;
mod move_callback;
mod pending;
mod pinning;
mod ranges;
mod remapped;
mod torture;
mod transfer_queue;
mod ttm_bo;
