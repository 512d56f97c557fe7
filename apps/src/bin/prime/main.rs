//! Draws on one GPU, presents on another. The images between the two are shared, and move while they are used.

mod args;
mod checks;
mod copies;
mod prime;
mod ring;
mod run;
mod scene;
mod staged;
mod stats;

use std::process::ExitCode;

use clap::Parser;
use peerbuf_apps::program;

#[expect(clippy::print_stderr, reason = "the error of the program")]
fn main() -> ExitCode {
    let args = args::Args::parse();
    let open = |place| run::open(&args, place);
    let done = if args.headless {
        program::without_display(open)
    } else {
        program::in_window("prime", args.size.0, open)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("prime: {error}");
            ExitCode::FAILURE
        }
    }
}
