//! The order of work: submissions, fences, sync files, and failures that propagate along them.

#[path = "../common/mod.rs"]
mod common;

#[global_allocator]
static HEAP: common::heap::Counted = common::heap::Counted;

mod bounds;
mod drops;
mod failure_propagation;
mod fence_semaphores;
mod fences;
mod foreign_fences;
mod panics;
mod poison;
mod semaphores;
mod submission_costs;
mod submit;
mod validity;
mod waiting;
