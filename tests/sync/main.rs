//! The order of work: submissions, fences, sync files, and failures that propagate along them.

#[path = "../common/mod.rs"]
mod common;

mod failure_propagation;
mod fences;
mod foreign_fences;
mod poison;
mod semaphores;
mod submit;
mod waiting;
