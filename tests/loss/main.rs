//! What is taken away: devices that are lost, buffers that are revoked.

#[path = "../common/mod.rs"]
mod common;

mod lost;
mod lost_elsewhere;
mod revoke;
