//! Runs the programs: without a display, in windows, under simulated drivers.

mod common;
mod loss;
mod minimised;
mod pictures;
mod prime;
mod simulated;
mod stream;
mod windows;
