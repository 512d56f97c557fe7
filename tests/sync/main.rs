//! The order of work: submissions, fences, sync files, and failures that travel along them.

#[path = "../common/mod.rs"]
mod common;

mod failures_travel;
mod fences;
mod foreign_fences;
mod poison;
mod semaphores;
mod submit;
