//! Flies over a map of shared images that is several times as large as the memory that it may use.

mod args;
mod checks;
mod record;
mod run;
mod stream;
mod tiles;
mod view;
mod world;

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
        program::in_window("stream", args.size.0, open)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stream: {error}");
            ExitCode::FAILURE
        }
    }
}
