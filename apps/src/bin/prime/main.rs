//! Draws on one GPU, presents on another. The images between the two are shared, and move while they are used.

mod args;
mod checks;
mod choose;
mod copies;
mod overlay;
mod prime;
mod ring;
mod run;
mod scene;
mod staged;
mod stats;
mod window;

use std::process::ExitCode;

use clap::Parser;

#[expect(clippy::print_stderr, reason = "the error of the program")]
fn main() -> ExitCode {
    let args = args::Args::parse();
    let done = if args.headless { run::headless(&args) } else { window::run(&args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prime: {error}");
            ExitCode::FAILURE
        }
    }
}
