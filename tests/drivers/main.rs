//! What other drivers do to a program, done by a layer to the drivers that are here (`tests/driver-sim`).
//!
//! A test is named after the behaviour, or after the row of `docs/drivers.md` that it is for. Its body runs in
//! a child process: [`under`].

#[path = "../common/mod.rs"]
mod common;
#[expect(dead_code, reason = "the tests of images use the rest")]
#[path = "../images/texels.rs"]
mod texels;

mod budgets;
mod identity;
mod images;
mod imports;
mod loss;
mod profiles;
mod semaphores;
mod slabs;
mod tiling;

use driver_sim::Simulation;

/// Runs a part of a test in a child process whose drivers behave as `text` says.
///
/// `text` is a profile (`"radv"`), one for each device (`"llvmpipe=nvidia swiftshader=radv"`), switches
/// (`"+max_allocation_count=24"`), or TOML. The validation layer is above the simulation: it sees what peerbuf
/// calls, and believes what the simulated device reports.
pub(crate) fn under(text: &str, body: impl FnOnce()) {
    driver_sim::under(&simulation(text), body);
}

/// As [`under`], with a control file: `driver_sim::Control::of_this_process()` changes switches from inside.
pub(crate) fn under_control(text: &str, body: impl FnOnce()) {
    let name = common::watchdog::test_name().replace("::", "-");
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.control"));
    // A child of an earlier run may have left it; the child that reads it must keep it.
    if driver_sim::Control::of_this_process().is_none() {
        let _ = std::fs::remove_file(&file);
    }
    driver_sim::under(&simulation(text).controlled_by(file), body);
}

fn simulation(text: &str) -> Simulation {
    Simulation::new(text).unwrap_or_else(|missing| panic!("{missing}")).below_validation()
}
