//! The program and the examples, run as users run them.
#![cfg(feature = "cli")]

mod cli;
mod examples;
