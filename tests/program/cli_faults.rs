//! The commands on a machine where something is wrong: what the messages say.

use std::process::{Command, Output};

use crate::drivers::{folder, unreadable};
use crate::patient;

fn peerbuf(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peerbuf"));
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> Output {
    patient::output(command)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("the program prints UTF-8")
}

/// The names of the devices, in the loader's order.
fn names() -> Vec<String> {
    let output = run(&mut peerbuf(&["devices", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let devices = report["devices"].as_array().expect("a list");
    devices.iter().map(|device| device["name"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_device_that_cannot_be_read_is_listed_with_its_error_and_hides_no_other() {
    const CALL: &str = "vkEnumerateDeviceExtensionProperties";
    let names = names();
    let [bad, good] = [0, names.len() - 1].map(|at| names[at].as_str());
    let folder = folder("cli-unreadable");
    if bad != good {
        let mut command = peerbuf(&["devices", "--json"]);
        unreadable(&mut command, &folder, bad);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["devices"][0]["name"], good);
        let unusable = &report["unusable"][0];
        assert_eq!(unusable["name"], bad);
        let reason = unusable["reason"].as_str().expect("text");
        assert!(
            reason.contains(CALL) && reason.contains("ERROR_INITIALIZATION_FAILED"),
            "{reason}"
        );
        assert!(!reason.contains(bad), "the name is beside it already: {reason}");
        // A kind names the first one that works.
        let kind = report["devices"][0]["type"].as_str().expect("text");
        let mut command = peerbuf(&["devices", "--json", "--devices", kind]);
        unreadable(&mut command, &folder, bad);
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    // Chosen by the user, it is an error that names the call.
    let mut command = peerbuf(&["devices", "--devices", "0"]);
    unreadable(&mut command, &folder, bad);
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(message.contains(bad) && message.contains(CALL), "{message}");
    // If it is so with every device, each has a line.
    let mut command = peerbuf(&["devices"]);
    unreadable(&mut command, &folder, "");
    let output = run(&mut command);
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    let lines = message.lines().filter(|line| line.contains(CALL)).count();
    assert!(lines >= 1 && message.lines().all(|line| line.matches(CALL).count() <= 1), "{message}");
    assert!(message.contains("peerbuf doctor"), "{message}");
}

#[test]
fn a_trace_on_a_full_disk_is_an_error_that_names_it() {
    let arguments = ["demo", "--devices", "0,0", "--size", "64K", "--vram", "256K"];
    let output = run(&mut peerbuf(&[&arguments[..], &["--trace", "/dev/full"]].concat()));
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert_eq!(text(&output.stdout), "", "no success is claimed");
    let message = text(&output.stderr);
    for part in ["cannot write the trace to /dev/full", "because: No space left on device"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

#[test]
fn each_name_is_printed_once() {
    let output = run(&mut peerbuf(&["devices", "--devices", "999"]));
    let message = text(&output.stderr);
    let mut names = names();
    names.sort();
    names.dedup();
    for name in names {
        let lines: Vec<_> = message.lines().filter(|line| line.contains(&name)).collect();
        assert!(lines.iter().all(|line| line.matches(&name).count() == 1), "{message}");
        assert!(!message.lines().next().unwrap_or_default().contains(&name), "{message}");
    }
}

#[test]
fn what_a_driver_does_not_allocate_at_once_has_a_hint() {
    let names = names();
    let Some(at) = names.iter().position(|name| name.contains("SwiftShader")) else {
        // Nothing to ask: SwiftShader alone is known to allocate 2 GiB at most.
        return;
    };
    let devices = format!("{at},{at}");
    let output = run(&mut peerbuf(&["demo", "--size", "3G", "--devices", &devices]));
    assert_eq!(output.status.code(), Some(2));
    let message = text(&output.stderr);
    assert!(message.contains("hint: a smaller --size"), "{message}");
}
