//! Access that ends: lost devices and revoked buffers.

#[path = "../common/mod.rs"]
mod common;

mod after_loss;
mod lost;
mod removed;
mod revoke;
