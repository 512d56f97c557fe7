//! What a test can show only in a process of its own, or of the process as a whole: its environment,
//! its limits, its file descriptors, and the order of its end.

#[path = "../common/mod.rs"]
mod common;

mod allocation_failures;
mod devices;
mod faults;
mod fd_hygiene;
mod teardown_order;
