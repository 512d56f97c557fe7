//! The program and the examples, run as users run them.
#![cfg(feature = "cli")]

mod bench_saved;
// It plants faults.
#[cfg(feature = "testing")]
mod bench_link;
mod cli;
mod cli_faults;
// It sets folders and bounds of the command, which only the feature `testing` allows.
#[cfg(feature = "testing")]
mod doctor;
mod drivers;
mod examples;
mod image_demo;
mod images;
mod patient;
