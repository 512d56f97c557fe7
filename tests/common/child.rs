//! A test that runs once more in a process of its own, with another environment.

use std::process::{Command, Output};

use super::turn;
use super::watchdog::test_name;

const MARK: &str = "PEERBUF_TEST_CHILD";

/// Whether this is the second run, in the child.
pub(crate) fn is_child() -> bool {
    std::env::var_os(MARK).is_some_and(|name| name == *test_name())
}

/// Runs this test, and no other, in a child that `prepare` has changed the environment of. Fails
/// with what the child printed if the child failed. A child that hangs is ended by its own watchdog.
pub(crate) fn run(prepare: impl FnOnce(&mut Command) -> &mut Command) {
    // Its pipes would be found by tests that count descriptors.
    let _turn = turn();
    let name = test_name();
    // This very program, also if another build has replaced its file.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(MARK, &name);
    let output = prepare(&mut command).output().expect("the child starts");
    check(&name, &output);
}

fn check(name: &str, output: &Output) {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} failed in its child:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{name} did not run in its child:\n{out}\n{err}");
}
