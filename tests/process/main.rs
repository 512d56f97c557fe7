//! Tests that need their own process or concern the whole process: environment, limits, file descriptors, and drop
//! order.

#[path = "../common/mod.rs"]
mod common;

mod allocation_failures;
mod devices;
mod faults;
mod fd_hygiene;
mod one_uuid;
mod probe_program;
mod standard_streams;
mod teardown_order;
