//! What the layer did, one line each, in the file that `DRIVER_SIM_REPORT` names.
//!
//! A test reads it to see that a behaviour was really met. Faults of the description and of the application go to
//! standard error as well.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

static FILE: OnceLock<Option<File>> = OnceLock::new();

fn write(line: &str) {
    let file = FILE.get_or_init(|| {
        let path = std::env::var_os("DRIVER_SIM_REPORT")?;
        OpenOptions::new().append(true).create(true).open(path).ok()
    });
    if let Some(mut file) = file.as_ref() {
        // One write, so that lines of threads and processes do not mix. A full disk loses the report alone.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// A simulated behaviour took place.
pub(super) fn event(switch: &str, what: std::fmt::Arguments<'_>) {
    write(&format!("{switch}: {what}"));
}

/// The application broke a rule that the simulated device has.
pub(super) fn violation(switch: &str, what: std::fmt::Arguments<'_>) {
    let line = format!("violation: {switch}: {what}");
    write(&line);
    let _ = writeln!(std::io::stderr(), "driver-sim: {line}");
}

/// The description of the simulation cannot be carried out.
pub(super) fn fault(what: std::fmt::Arguments<'_>) {
    write(&format!("fault: {what}"));
    let _ = writeln!(std::io::stderr(), "driver-sim: {what}");
}
