//! Buffers that move while they are shared.

#[path = "../common/mod.rs"]
mod common;

mod batch;
mod lanes;
mod matrix;
mod move_callback;
mod mover;
mod pending;
mod pinning;
mod ranges;
mod torture;
mod ttm_bo;
