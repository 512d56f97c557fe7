//! A test that runs itself again in a child process, under the layer.

use std::cell::Cell;
use std::env;
use std::process::Command;

use crate::setup::Simulation;

const MARK: &str = "DRIVER_SIM_TEST";

thread_local! {
    /// How many calls this test has made. A child makes the same calls in the same order up to its own.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// Runs `body` in a child process under a simulation, as a part of the test that calls this.
///
/// The child is this program with the name of the test as its only filter. In the child the same call runs `body`;
/// a test that has several such calls runs each in a child of its own. Layers are chosen when a process creates
/// its instance, so what a process does before does not matter.
///
/// # Panics
/// If the child fails, with its output; if the layer was not built, with what to run.
pub fn under(simulation: &Simulation, body: impl FnOnce()) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let call = CALLS.replace(CALLS.get() + 1);
    let mark = format!("{name} {call}");
    match env::var(MARK) {
        Ok(here) if here == mark => return body(),
        // The child of another call in the same test.
        Ok(_) => return,
        Err(_) => {}
    }
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(MARK, &mark);
    let output = match simulation.apply(&mut command).output() {
        Ok(output) => output,
        Err(error) => panic!("{name}: the child does not start: {error}"),
    };
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success(),
        "{name} failed under the simulation ({}):\n{out}\n{err}",
        output.status
    );
    assert!(out.contains("1 passed"), "{name} did not run under the simulation:\n{out}\n{err}");
}
