//! The other tests under the validation layer, with synchronisation validation, and under the recorder of `driver-sim`.
//! That of a lost device has processes of its own.

use std::path::Path;
use std::process::Command;

use driver_sim::Simulation;

/// What the layer says of SwiftShader, which imports host memory and reports that it cannot; and of the allocation that
/// such an import makes. The tests of the library allow the same.
const KNOWN: [&str; 3] = [
    "VUID-VkBufferCreateInfo-pNext-00920",
    "VUID-VkImageCreateInfo-pNext-00990",
    "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-09861",
];

#[test]
fn the_validation_layer_is_silent() {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
        .env("VK_KHRONOS_VALIDATION_VALIDATE_SYNC", "1")
        .env("VK_KHRONOS_VALIDATION_DUPLICATE_MESSAGE_LIMIT", "2")
        .args(["--nocapture", "--skip", "silent::", "--skip", "loss::"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let unknown = unknown_messages(&said);
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// The messages of the validation layer that are not known.
pub(crate) fn unknown_messages(said: &str) -> Vec<&str> {
    // A message may follow the name of a test on its line.
    let messages = said.lines().filter(|line| line.contains("Validation ") && line.contains('['));
    let (known, unknown): (Vec<_>, Vec<_>) =
        messages.partition(|line| KNOWN.iter().any(|known| line.contains(known)));
    // SwiftShader is one of the devices. Without its messages the layer was not there.
    assert!(!known.is_empty(), "the layer said nothing: `.ci/setup test` unpacks it\n{said}");
    unknown
}

#[test]
fn the_recorder_finds_no_image_in_another_layout_or_without_its_owner() {
    let findings = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests.findings");
    let _ = std::fs::remove_file(&findings);
    let recorded = Simulation::new("").expect("the layer is built").recorded_to(&findings);
    let output = recorded
        .apply(&mut Command::new(std::env::current_exe().expect("this program")))
        .args(["--nocapture", "--skip", "silent::", "--skip", "loss::"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let found = std::fs::read_to_string(&findings).unwrap_or_default();
    assert!(found.is_empty(), "{found}");
}
