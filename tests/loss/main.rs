//! Access that ends: lost devices and revoked buffers.

#[path = "../common/mod.rs"]
mod common;

mod after_loss;
mod lost;
mod removal_races;
mod removed;
mod revoke;
