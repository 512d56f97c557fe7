//! `prime`: the library has it, so that the figures measure the same frames.

use std::process::ExitCode;

use clap::Parser;
use peerbuf_apps::prime::{Args, run};

#[expect(clippy::print_stderr, reason = "the error of the program")]
fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prime: {error}");
            ExitCode::FAILURE
        }
    }
}
