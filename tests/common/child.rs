//! Runs a test a second time in a child process, with another environment.

use std::process::{Command, Output};

use super::turn::turn;
use super::watchdog::test_name;

const MARK: &str = "PEERBUF_TEST_CHILD";

/// Whether this is the second run, in the child process.
pub(crate) fn is_child() -> bool {
    std::env::var_os(MARK).is_some_and(|name| name == *test_name())
}

/// Runs only this test in a child process whose environment `prepare` has set.
///
/// If the child fails, this panics with the child's output. The child's own watchdog ends it if it hangs.
pub(crate) fn run(prepare: impl FnOnce(&mut Command) -> &mut Command) {
    // This very program, also if another build has replaced its file.
    run_this(Command::new("/proc/self/exe"), prepare);
}

/// As [`run`], by a command that takes the program and its arguments, and becomes it.
pub(crate) fn run_by(mut command: Command, prepare: impl FnOnce(&mut Command) -> &mut Command) {
    command.arg(std::env::current_exe().expect("this program has a path"));
    run_this(command, prepare);
}

fn run_this(mut command: Command, prepare: impl FnOnce(&mut Command) -> &mut Command) {
    // Tests that count file descriptors would count the child's pipes.
    let _turn = turn();
    let name = test_name();
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
