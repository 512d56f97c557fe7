//! More buffers than fit: which of them leave, which return, and who is told.

#[path = "../common/mod.rs"]
mod common;

mod attraction;
mod groups;
mod overcommit;
mod purge;
mod relief;
mod returns;
mod room;
mod working_sets;
