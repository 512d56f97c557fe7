//! Writing to the two streams. `println!` panics when the reader has gone (`peerbuf devices | head`).

use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Prints text. A reader that has seen enough is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

/// Prints one JSON object, ended by a newline.
pub(crate) fn print_json(report: &impl Serialize) -> Result<(), Failure> {
    let mut text =
        serde_json::to_string_pretty(report).map_err(|error| Failure::Output(error.into()))?;
    text.push('\n');
    print(&text)
}

/// Tells on standard error what went wrong and what may help.
pub(crate) fn complain(failure: &Failure) {
    let mut err = io::stderr().lock();
    // If nobody can hear it, the exit status still says it.
    let _ = err.write_all(failure.story().as_bytes());
}
