//! A wgpu program whose device peerbuf has adopted. Another device writes a buffer and an image, wgpu draws with both into
//! a second image, and the other device reads that. All three move while the program runs.

mod args;
mod draw;
mod other;
mod run;
mod shared;

use std::process::ExitCode;

use clap::Parser;

/// An error is a sentence for the person who started the program.
type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "the result of the program")]
fn main() -> ExitCode {
    let args = args::Args::parse();
    match run::run(&args) {
        Ok(report) => {
            println!("{}", if args.json { report.json().to_string() } else { report.to_string() });
            if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("guest: {error}");
            ExitCode::FAILURE
        }
    }
}
