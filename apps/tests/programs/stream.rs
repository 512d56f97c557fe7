//! `stream` without a display: a tour over a map of three times the memory, every tile on the screen compared.

use std::process::Output;

use crate::common::{self, assert_silent, devices, validated};
use serde_json::Value;

/// Runs `stream` without a display.
fn stream(arguments: &[&str], is_validated: bool) -> Output {
    let mut command = common::stream();
    if is_validated {
        validated(&mut command);
    }
    command.arg("--headless").args(arguments).output().expect("the program starts")
}

#[test]
fn every_tile_on_the_screen_is_what_it_must_be() {
    for device in devices() {
        let fixed = ["--frames", "200", "--levels", "4", "--size", "512x384", "--verify", "--json"];
        let output = stream(&[&fixed[..], &["--device", &device.number]].concat(), false);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{device:?}: {errors}");
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
        let output = stream(&[&fixed[..], &["--device", &device.number]].concat(), true);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{device:?}: {said}");
        assert_silent(&output, &device.name);
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
