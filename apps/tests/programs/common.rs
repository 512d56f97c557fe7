//! What the tests of both programs share.

use std::path::PathBuf;
use std::process::{Command, Output};

use driver_sim::Simulation;
use peerbuf::{Engine, EngineDescriptor};
use serde_json::Value;

/// Messages about SwiftShader, which imports host memory and reports that it cannot. The library's tests allow the same.
const KNOWN: [&str; 3] = [
    "VUID-VkBufferCreateInfo-pNext-00920",
    "VUID-VkImageCreateInfo-pNext-00990",
    "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-09861",
];

/// A device here that can be used.
#[derive(Clone, Debug)]
pub struct Usable {
    pub number: String,
    pub name: String,
}

/// The devices here that can be used. There are two software drivers on a machine that `.ci/setup` prepared.
pub fn devices() -> Vec<Usable> {
    let engine = Engine::open(&EngineDescriptor::new()).expect("Vulkan");
    let usable = engine.adapters().iter().filter(|adapter| adapter.missing().is_empty());
    let devices: Vec<_> = usable
        .map(|adapter| Usable {
            number: adapter.index().to_string(),
            name: adapter.name().to_owned(),
        })
        .collect();
    assert!(devices.len() >= 2, "two devices are needed: `.ci/setup test` prepares them");
    devices
}

pub fn prime() -> Command {
    Command::new(env!("CARGO_BIN_EXE_prime"))
}

pub fn stream() -> Command {
    Command::new(env!("CARGO_BIN_EXE_stream"))
}

/// Puts the validation layer, with its checks of synchronisation, under a program.
pub fn validated(command: &mut Command) {
    command
        .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
        .env("VK_KHRONOS_VALIDATION_VALIDATE_SYNC", "1")
        .env("VK_KHRONOS_VALIDATION_DUPLICATE_MESSAGE_LIMIT", "2");
}

/// The messages of the validation layer that a program printed: unknown ones fail. Returns how many were known.
pub fn assert_silent(output: &Output, what: &str) -> usize {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = said.lines().filter(|line| line.starts_with("Validation "));
    let (expected, unknown): (Vec<_>, Vec<_>) =
        messages.partition(|line| KNOWN.iter().any(|known| line.contains(known)));
    assert!(unknown.is_empty(), "{what}: {unknown:?}");
    expected.len()
}

/// Runs a program that is to succeed without a display, and returns the JSON that it prints.
pub fn said(command: &mut Command, arguments: &[&str]) -> Value {
    command.arg("--headless").args(arguments).arg("--json");
    json(&command.output().expect("the program starts"), &format!("{arguments:?}"))
}

/// The JSON that a program printed, if it succeeded. Messages of the validation layer may precede it.
pub fn json(output: &Output, what: &str) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}: {}: {errors}{text}", output.status);
    let begin = text.lines().position(|line| line == "{").expect("JSON");
    let lines: Vec<_> = text.lines().skip(begin).collect();
    let end = lines.iter().position(|line| *line == "}").expect("the end of the JSON");
    serde_json::from_str(&lines[..=end].join("\n")).expect("JSON")
}

/// The sentence of a program that is to fail.
pub fn sentence(command: &mut Command, arguments: &[&str]) -> String {
    let output = command.args(arguments).output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} succeeds");
    assert!(output.status.code().is_some(), "{arguments:?}: {}: {errors}", output.status);
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    errors
}

/// A simulation of drivers, and the file that it reports to.
pub fn simulation(text: &str, name: &str) -> (Simulation, PathBuf) {
    let file = format!("{name}.{}.report", std::process::id());
    let report = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
    let _ = std::fs::remove_file(&report);
    let simulation = Simulation::new(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    (simulation.report_to(&report), report)
}

/// Bytes by which a run may end with more memory than after its second third: what allocators keep of what was freed.
const SLACK: u64 = 1 << 20;

/// After the last third of a run no more is held than before it: fds, live objects of peerbuf, memory.
pub fn assert_steady(said: &Value, what: &str) {
    let held = |part: &str, kind: &str| said["held"][part][kind].as_u64().expect("a number");
    let [before, after] = ["second_third", "last_third"].map(|part| move |kind| held(part, kind));
    assert!(before("fds") > 0, "{what}");
    assert!(after("fds") <= before("fds"), "{what}");
    assert!(after("objects") <= before("objects"), "{what}");
    assert!(after("resident_bytes") <= before("resident_bytes") + SLACK, "{what}");
}
