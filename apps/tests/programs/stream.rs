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
        let [tiles, tile, budget, map] =
            ["tiles", "tile", "budget", "map"].map(|name| said[name].as_u64().expect("a number"));
        assert!(tiles * tile > 2 * budget && map >= 3 * budget - 2, "{said:#}");
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

/// The README's pictures are PNGs that are there.
fn picture(name: &str) -> String {
    format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_picture_is_a_map() {
    let file = picture("prime.png");
    // Its finest level has twelve tiles, each of half a MiB.
    let lavapipe = devices().into_iter().find(|one| one.name.contains("llvmpipe"));
    let lavapipe = lavapipe.expect("lavapipe: `.ci/setup test` prepares it").number;
    let arguments = ["--picture", &file, "--budget", "6", "--frames", "120", "--size", "400x300"];
    let device = ["--device", &lavapipe, "--verify"];
    let said = common::said(&mut common::stream(), &[&arguments[..], &device].concat());
    assert_eq!(said["frames"], 120, "{said:#}");
    assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
    assert!(said["bytes"].as_u64() > Some(0), "{said:#}");
}

#[test]
fn a_picture_that_cannot_be_read_is_a_sentence_that_names_it() {
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let whole = std::fs::read(picture("stream.png")).expect("the picture");
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        std::fs::write(&file, bytes).expect("written");
        file.to_str().expect("a path in UTF-8").to_owned()
    };
    let huge = {
        // Width and height are the first fields of the first chunk, whose checksum ends at byte 33.
        let mut bytes = whole[..33].to_vec();
        bytes[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
        let checksum = crc(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
        [bytes, whole[33..].to_vec()].concat()
    };
    for file in [
        "/nowhere/at/all.png".to_owned(),
        picture("../README.md"),
        write("empty.png", &[]),
        write("half.png", &whole[..whole.len() / 2]),
        write("huge.png", &huge),
    ] {
        let output = stream(&["--picture", &file, "--frames", "1"], false);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{file}: {errors}");
        assert!(errors.contains(&file), "{file}: {errors}");
        assert!(errors.contains("--picture takes a PNG of at most 8192x8192 texels"), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

/// The checksum of a PNG's chunks (CRC-32).
fn crc(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
