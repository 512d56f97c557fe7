//! The program: on every pair of devices, while what it draws with moves, without and with the validation layer.

use std::path::Path;
use std::process::{Command, Output};

use driver_sim::Simulation;
use peerbuf::{Engine, EngineDescriptor};
use serde_json::Value;

fn guest(arguments: &[&str], validated: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest"));
    if validated {
        command
            .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
            .env("VK_KHRONOS_VALIDATION_VALIDATE_SYNC", "1")
            .env("VK_KHRONOS_VALIDATION_DUPLICATE_MESSAGE_LIMIT", "2");
    }
    command.args(arguments).output().expect("the program starts")
}

/// The JSON of a run that succeeds, and the lines before it.
fn said(arguments: &[&str], validated: bool) -> (Value, Vec<String>) {
    let output = guest(&[arguments, &["--json"]].concat(), validated);
    let errors = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {text} {errors}");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let json = lines.pop().expect("a line");
    (serde_json::from_str(&json).expect("JSON"), lines)
}

/// Numbers of the devices here that can be used. There are two software drivers on a machine that `.ci/setup` prepared.
fn devices() -> Vec<String> {
    let engine = Engine::open(&EngineDescriptor::new()).expect("Vulkan");
    let usable = engine.adapters().iter().filter(|adapter| adapter.missing().is_empty());
    let devices: Vec<_> = usable.map(|adapter| adapter.index().to_string()).collect();
    assert!(devices.len() >= 2, "two devices are needed: `.ci/setup test` prepares them");
    devices
}

fn assert_frames(said: &Value, frames: u32) {
    assert_eq!(said["frames"], frames, "{said:#}");
    assert_eq!(said["checked"], frames, "each frame is read back: {said:#}");
    assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
    assert_eq!(said["refused"], serde_json::json!([]), "{said:#}");
    assert_eq!(said["moves"], frames / 7, "{said:#}");
    assert!(said["notified"].as_u64() >= Some(u64::from(frames / 7)), "{said:#}");
}

/// KiB by which a half may end with more memory: what allocators keep of what was freed.
const SLACK: u64 = 1024;

#[test]
fn each_frame_is_right_on_every_pair_while_images_and_the_buffer_move() {
    for draw in devices() {
        for other in devices() {
            // Moves repeat every 56 frames, so that both halves end with everything in the same place.
            let (said, _) = said(&["--draw", &draw, "--other", &other, "--frames", "336"], false);
            assert_frames(&said, 336);
            let remade = said["remade"].as_u64().expect("a number");
            assert!(remade > 48, "textures and buffers follow: {said:#}");
            let [fds, objects, kib] = ["fds", "objects", "resident_kib"]
                .map(|name| [0, 1].map(|half| said[name][half].as_u64().expect("a number")));
            assert!(fds[0] > 0 && fds[1] <= fds[0], "the second half leaves fds: {said:#}");
            assert!(objects[1] <= objects[0], "the second half leaves objects: {said:#}");
            assert!(kib[1] <= kib[0] + SLACK, "the second half leaves memory: {said:#}");
        }
    }
}

#[test]
fn formats_and_sizes_that_drivers_lay_out_differently() {
    for draw in devices() {
        for other in devices() {
            for format in ["XR24", "AB24"] {
                for size in ["1", "64"] {
                    let pair = ["--draw", &draw, "--other", &other, "--frames", "21"];
                    let (said, _) =
                        said(&[&pair[..], &["--format", format, "--size", size]].concat(), false);
                    assert_frames(&said, 21);
                }
            }
        }
    }
}

/// Messages about SwiftShader, which imports host memory and reports that it cannot. The library's tests allow the same.
const KNOWN: [&str; 3] = [
    "VUID-VkBufferCreateInfo-pNext-00920",
    "VUID-VkImageCreateInfo-pNext-00990",
    "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-09861",
];

#[test]
fn the_validation_layer_is_silent_for_300_frames_on_every_pair() {
    let mut known = 0;
    for draw in devices() {
        for other in devices() {
            let (said, lines) =
                said(&["--draw", &draw, "--other", &other, "--frames", "300"], true);
            assert_frames(&said, 300);
            let messages = lines.iter().filter(|line| line.starts_with("Validation "));
            let (expected, unknown): (Vec<_>, Vec<_>) =
                messages.partition(|line| KNOWN.iter().any(|known| line.contains(known)));
            assert!(unknown.is_empty(), "{draw} → {other}: {unknown:#?}");
            known += expected.len();
        }
    }
    // SwiftShader is one of the devices. Without its messages the layer was not there.
    assert!(known > 0, "the validation layer said nothing: `.ci/setup test` unpacks it");
}

#[test]
fn the_recorder_finds_no_image_in_another_layout_or_without_its_owner() {
    for draw in devices() {
        for other in devices() {
            let findings = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest.findings");
            let _ = std::fs::remove_file(&findings);
            let recorded = Simulation::new("").expect("the layer is built").recorded_to(&findings);
            let output = recorded
                .apply(&mut Command::new(env!("CARGO_BIN_EXE_guest")))
                .args(["--draw", &draw, "--other", &other, "--frames", "60"])
                .output()
                .expect("the program starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let found = std::fs::read_to_string(&findings).unwrap_or_default();
            assert!(found.is_empty(), "{draw} → {other}: {found}");
        }
    }
}

/// Profiles that differ most: RADV refuses host pointers to files, NVIDIA's exports fail at importers, ANV has a small BAR.
const PROFILES: [&str; 3] = ["radv", "nvidia", "anv"];

#[test]
fn frames_are_right_on_every_pair_of_simulated_drivers() {
    for profile in PROFILES {
        let simulation = Simulation::new(profile).expect("the layer is built");
        for draw in devices() {
            for other in devices() {
                let output = simulation
                    .apply(&mut Command::new(env!("CARGO_BIN_EXE_guest")))
                    .args(["--draw", &draw, "--other", &other, "--frames", "56", "--json"])
                    .output()
                    .expect("the program starts");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                let what = format!("{profile}: {draw} → {other}: {text}{errors}");
                assert!(output.status.success(), "{what}");
                let said: Value =
                    serde_json::from_str(text.lines().last().unwrap_or_default()).expect(&what);
                assert_eq!([&said["frames"], &said["checked"]], [&serde_json::json!(56); 2]);
                assert_eq!(said["wrong"], serde_json::json!([]), "{what}");
            }
        }
    }
}

#[test]
fn a_lost_device_is_a_sentence_that_names_it() {
    for [lost, other] in [["0", "1"], ["1", "0"]] {
        for manner in ["lost_at_submit=60", "lost_in_thread=60"] {
            for pair in [[lost, other], [other, lost]] {
                let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-loss.report");
                let _ = std::fs::remove_file(&report);
                let simulation = Simulation::new(&format!("{lost}=+{manner}"));
                let output = simulation
                    .expect("the layer is built")
                    .report_to(&report)
                    .apply(&mut Command::new(env!("CARGO_BIN_EXE_guest")))
                    .args(["--draw", pair[0], "--other", pair[1]])
                    .output()
                    .expect("the program starts");
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                let what = format!("{lost} of {pair:?}, {manner}: {}: {errors}", output.status);
                let report = std::fs::read_to_string(&report).unwrap_or_default();
                assert!(report.contains("lost_"), "it has not happened: {report}{what}");
                assert_eq!(output.status.code(), Some(1), "{what}");
                assert!(errors.starts_with("guest: ") && errors.contains("lost"), "{what}");
                assert!(!errors.contains("panicked"), "{what}");
            }
        }
    }
}

#[test]
fn bad_input_is_a_sentence() {
    let devices = devices();
    let only = |file: &str| Some(("VK_DRIVER_FILES", file.to_owned()));
    for (arguments, sentence, variable) in [
        (&["--draw", "77"][..], "77", None),
        (&["--size", "0"], "1..=4096", None),
        (&["--format", "AR2"], "four letters", None),
        (&["--format", "NV12"], "wgpu has no texture format for NV12", None),
        (&["--format", "QQQQ"], "QQQQ", None),
        (&["--format", "R8  "], "checks AR24", None),
        (&[], "no usable Vulkan device", only("/nowhere.json")),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guest"));
        if let Some((name, value)) = variable {
            command.env(name, value).env_remove("VK_ADD_DRIVER_FILES");
        }
        let output = command.args(arguments).output().expect("the program starts");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(errors.contains(sentence), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    assert!(devices.len() >= 2);
}

#[test]
fn with_one_device_the_program_says_how_to_open_it_twice() {
    // SwiftShader alone.
    let drivers = std::env::var("VK_ADD_DRIVER_FILES").expect("`.cargo/config.toml` sets it");
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_guest"))
            .env("VK_DRIVER_FILES", &drivers)
            .env_remove("VK_ADD_DRIVER_FILES")
            .args(arguments)
            .output()
            .expect("the program starts")
    };
    let refused = run(&[]);
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(errors.contains("one device only") && errors.contains("--other 0"), "{errors}");
    let done = run(&["--other", "0", "--frames", "10"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
