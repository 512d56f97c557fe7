//! How the tests run under the layer.

use std::path::PathBuf;

use driver_sim::Simulation;

/// A simulation whose report goes to a file of this test.
pub(crate) fn simulation(text: &str) -> Simulation {
    Simulation::new(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A simulation with a control file.
pub(crate) fn controlled(text: &str) -> Simulation {
    let file = scratch("control");
    let _ = std::fs::remove_file(&file);
    simulation(text).controlled_by(file)
}

/// A file that belongs to this test alone.
pub(crate) fn scratch(kind: &str) -> PathBuf {
    let name = std::thread::current().name().unwrap_or_default().replace("::", "-");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("{name}.{}.{kind}", std::process::id()))
}

/// Runs the body with the switches and once more without any; `body` is told which.
macro_rules! with_and_without {
    ($text:expr, $body:expr) => {{
        driver_sim::under(&$crate::harness::simulation($text), || $body(true));
        driver_sim::under(&$crate::harness::simulation(""), || $body(false));
    }};
}
pub(crate) use with_and_without;
