//! Writing to standard output and standard error.
//!
//! `println!` is not used: it panics when the reader has closed the pipe (`peerbuf devices | head`).

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Prints text. A closed pipe is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Prints one JSON object and a newline.
pub(crate) fn print_json(report: &impl Serialize) -> Result<(), Failure> {
    let mut text =
        serde_json::to_string_pretty(report).map_err(|error| Failure::Output(error.into()))?;
    text.push('\n');
    print(&text)
}

/// Prints text on standard error.
pub(crate) fn print_error(text: &str) -> Result<(), Failure> {
    // If standard error is closed, the exit status still says what there is to say.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    Ok(())
}

/// Prints a failure and its hint on standard error.
pub(crate) fn print_failure(failure: &Failure) {
    let mut err = io::stderr().lock();
    // If standard error is closed, the exit status still reports the failure.
    let _ = err.write_all(failure.message().as_bytes());
}
