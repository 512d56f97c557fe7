//! What the layer did, one line each, in the file that `DRIVER_SIM_REPORT` names.
//!
//! A test reads it to see that a behaviour was really met. Faults of the description and of the application go to
//! standard error as well.

use std::fs::OpenOptions;
use std::io::Write;

/// Opens the file for each line: an fd that stays open is one that a program under test did not open.
fn write(line: &str) {
    let Some(path) = std::env::var_os("DRIVER_SIM_REPORT") else { return };
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
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
