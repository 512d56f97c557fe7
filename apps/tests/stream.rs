//! `stream` without a display: a tour over a map of three times the memory, every tile on the screen compared.

use std::process::{Command, Output};

use peerbuf::{Engine, EngineDescriptor};
use serde_json::Value;

/// Messages about SwiftShader, which imports host memory and reports that it cannot. The library's tests allow the same.
const KNOWN: [&str; 3] = [
    "VUID-VkBufferCreateInfo-pNext-00920",
    "VUID-VkImageCreateInfo-pNext-00990",
    "VUID-VkImportMemoryWin32HandleInfoKHR-handleType-09861",
];

/// Runs `stream` without a display.
fn stream(arguments: &[&str], validated: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stream"));
    if validated {
        command
            .env("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation")
            .env("VK_KHRONOS_VALIDATION_VALIDATE_SYNC", "1")
            .env("VK_KHRONOS_VALIDATION_DUPLICATE_MESSAGE_LIMIT", "2");
    }
    command.arg("--headless").args(arguments).output().expect("the program starts")
}

fn devices() -> Vec<String> {
    let engine = Engine::open(&EngineDescriptor::new()).expect("Vulkan");
    let usable = engine.adapters().iter().filter(|adapter| adapter.missing().is_empty());
    let devices: Vec<_> = usable.map(|adapter| adapter.index().to_string()).collect();
    assert!(devices.len() >= 2, "two devices are needed: `.ci/setup test` prepares them");
    devices
}

#[test]
fn every_tile_on_the_screen_is_what_it_must_be() {
    for device in devices() {
        let fixed = ["--frames", "200", "--levels", "4", "--size", "512x384", "--verify", "--json"];
        let output = stream(&[&fixed[..], &["--device", &device]].concat(), false);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{device}: {errors}");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(said["frames"], 200, "{said:#}");
        assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
        assert!(said["checked"].as_u64() >= Some(200), "{said:#}");
        // Something came, and went: the map is three times the memory.
        assert!(said["bytes"].as_u64() > said["budget"].as_u64(), "{said:#}");
        assert!(
            said["map"].as_u64() >= said["budget"].as_u64().map(|budget| budget * 2),
            "{said:#}"
        );
    }
}

#[test]
fn the_validation_layer_is_silent() {
    for device in devices() {
        let fixed = ["--frames", "60", "--levels", "3", "--size", "320x240", "--verify"];
        let output = stream(&[&fixed[..], &["--device", &device]].concat(), true);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{device}: {said}");
        let messages = said.lines().filter(|line| line.starts_with("Validation "));
        let unknown: Vec<_> =
            messages.filter(|line| !KNOWN.iter().any(|known| line.contains(known))).collect();
        assert!(unknown.is_empty(), "{device}: {unknown:?}");
    }
}

#[test]
fn bad_input_is_a_sentence() {
    for (arguments, sentence) in [
        (&["--budget", "0", "--frames", "1"][..], "holds no tiles"),
        (&["--levels", "0"], "1..=7"),
        (&["--size", "12"], "two numbers from 1 to 16384"),
        (&["--device", "99"], "99"),
    ] {
        let output = stream(arguments, false);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(errors.contains(sentence), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

#[test]
fn a_map_of_one_tile_and_a_screen_of_one_texel_are_shown() {
    for arguments in [["--levels", "1", "--size", "300x300"], ["--levels", "3", "--size", "1x1"]] {
        let fixed = ["--frames", "20", "--verify"];
        let output = stream(&[&fixed[..], &arguments[..]].concat(), false);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
