//! `prime` without a display: every pair of devices, while images move, ways are switched, and the size changes.

use std::path::PathBuf;
use std::process::Output;

use crate::common::{self, assert_silent, assert_steady, devices, sentence, simulation, validated};
use serde_json::{Value, json};

/// Runs `prime` without a display.
fn prime(arguments: &[&str]) -> Output {
    common::prime().arg("--headless").args(arguments).output().expect("the program starts")
}

/// The JSON that a run prints, if it succeeds.
fn said(arguments: &[&str]) -> Value {
    common::said(&mut common::prime(), arguments)
}

/// Numbers of the devices here.
fn numbers() -> Vec<String> {
    devices().into_iter().map(|device| device.number).collect()
}

#[test]
fn frames_are_whole_and_in_order_on_every_pair_while_images_move() {
    let devices = numbers();
    for render in &devices {
        for present in &devices {
            let said = said(&[
                "--render",
                render,
                "--present",
                present,
                "--frames",
                "276",
                "--size",
                "400x300",
                "--move-every",
                "7",
                "--switch-every",
                "11",
                "--resize-every",
                "23",
                "--verify",
            ]);
            let pair = format!("{render} → {present}: {said:#}");
            assert_eq!(said["frames"], 276, "{pair}");
            assert_eq!(said["wrong"], serde_json::json!([]), "{pair}");
            // A frame that met another size of the surface is not shown.
            assert!(said["checked"].as_u64() >= Some(250), "{pair}");
            // Two drivers here have no memory in common but the host's, so their images stay there, and that is said.
            let stay = said["events"].to_string().contains("images stay in system memory");
            assert_eq!(said["moves"], if stay { 0 } else { 39 }, "{pair}");
            assert!(render != present || !stay, "{pair}");
            assert!(stay || said["notified"].as_u64() >= Some(39), "{pair}");
            assert!(said["ways"]["staged"]["median_ms"].is_number(), "{pair}");
            assert_steady(&said, &pair);
        }
    }
}

#[test]
fn the_presenting_device_goes_on_alone_when_the_other_one_is_unplugged() {
    let devices = numbers();
    let said = said(&[
        "--render",
        &devices[0],
        "--present",
        &devices[1],
        "--frames",
        "60",
        "--size",
        "400x300",
        "--unplug-at",
        "30",
        "--verify",
    ]);
    assert_eq!(said["frames"], 60, "{said:#}");
    assert_eq!(said["render"], said["present"], "{said:#}");
    assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
    assert_eq!(said["events"].as_array().map(Vec::len), Some(1), "{said:#}");
}

#[test]
fn a_picture_shows_what_was_drawn_whichever_way_it_came() {
    let devices = numbers();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let shot = |name: &str, more: &[&str]| {
        let file = folder.join(name);
        let path = file.to_str().expect("a path in UTF-8");
        let fixed = ["--frames", "20", "--size", "320x200", "--plain", "--screenshot", path];
        let output = prime(&[&fixed, more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        decoded(&file)
    };
    for device in &devices {
        for other in &devices {
            let pair = ["--render", device.as_str(), "--present", other.as_str()];
            let shared = shot("shared.png", &pair);
            let staged = shot("staged.png", &[&pair[..], &["--staged"]].concat());
            assert!(shared == staged, "{device} → {other}: both ways carry the same texels");
            let colours: std::collections::HashSet<_> = shared.chunks(3).collect();
            assert!(colours.len() > 50, "{device} → {other}: a lit scene has many colours");
        }
    }
}

fn decoded(file: &std::path::Path) -> Vec<u8> {
    let file = std::io::BufReader::new(std::fs::File::open(file).expect("the picture"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
    let mut texels = vec![0; reader.output_buffer_size().expect("a size")];
    reader.next_frame(&mut texels).expect("its texels");
    texels
}

/// What peerbuf does in frames without an event: nothing but the two submissions, and the copy that a device needs which
/// does not draw into rows (SwiftShader). At this size both drivers place rows alike.
#[test]
fn a_steady_frame_allocates_imports_creates_and_copies_nothing() {
    let devices = devices();
    for render in &devices {
        for present in &devices {
            let pair = ["--render", &render.number, "--present", &present.number];
            let fixed = ["--frames", "60", "--size", "640x400", "--plain"];
            let said = said(&[&fixed[..], &pair].concat());
            let what = format!("{} → {}: {said:#}", render.name, present.name);
            let steady = &said["steady"];
            let frames = steady["frames"].as_u64().expect("a number");
            // Behind the second third everything is given back, so the frame after it is none of them.
            assert_eq!(frames, 39, "{what}");
            // A host thread passes signals on, and a present must not be submitted before them
            // (VUID-vkQueuePresentKHR-pWaitSemaphores-03268). Elsewhere queues wait for each other.
            let is_bridged = said["waits_by"] == "bridge";
            for (call, made) in steady["calls"].as_object().expect("calls") {
                let made = made.as_u64().expect("a number");
                match call.as_str() {
                    "vkQueueSubmit" | "vkBeginCommandBuffer" => {
                        assert_eq!(made, 2 * frames, "{call}: {what}");
                    }
                    "vkGetSemaphoreCounterValue" => {}
                    "vkWaitSemaphores" if is_bridged => {}
                    _ => assert_eq!(made, 0, "{call}: {what}"),
                }
            }
            assert_eq!([&steady["stalls"], &steady["host_copied_bytes"]], [&json!(0); 2], "{what}");
            let copies = if render.name.starts_with("SwiftShader") { frames } else { 0 };
            assert_eq!(steady["own_copies"], json!(copies), "{what}");
        }
    }
}

#[test]
fn one_texel_is_a_picture() {
    let said = said(&["--frames", "10", "--size", "1x1", "--move-every", "3", "--verify"]);
    assert_eq!(said["frames"], 10, "{said:#}");
}

#[test]
fn bad_input_is_a_sentence() {
    for (arguments, sentence) in [
        (&["--render", "77"][..], "77"),
        (&["--size", "0x5"], "two numbers from 1 to 16384"),
        (&["--ring", "0"], "1..=16"),
        (&["--frames", "1", "--screenshot", "/nowhere/at/all.png"], "/nowhere/at/all.png"),
    ] {
        let output = prime(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(errors.contains(sentence), "{arguments:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}

#[test]
fn without_a_display_the_error_says_what_to_do() {
    let output = common::prime()
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .env_remove("WAYLAND_SOCKET")
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(errors.contains("--headless"), "{errors}");
}

#[test]
fn the_validation_layer_is_silent_on_every_pair() {
    let devices = numbers();
    let mut known = 0;
    for render in &devices {
        for present in &devices {
            let mut command = common::prime();
            validated(&mut command);
            let output = command
                .args(["--headless", "--render", render, "--present", present])
                .args(["--frames", "60", "--size", "400x300", "--move-every", "7"])
                .args(["--switch-every", "11", "--resize-every", "23", "--verify"])
                .output()
                .expect("the program starts");
            let what = format!("{render} → {present}");
            assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stdout));
            known += assert_silent(&output, &what);
        }
    }
    // SwiftShader is one of the devices. Without its messages the layer was not there.
    assert!(known > 0, "the validation layer said nothing: `.ci/setup test` unpacks it");
}

#[test]
fn each_device_that_cannot_present_is_named_with_the_reason() {
    let (simulation, _) = simulation("+hide_extensions=[\"VK_KHR_swapchain\"]", "no-swapchain");
    for mut program in [common::prime(), common::stream()] {
        let errors = sentence(simulation.apply(&mut program), &["--headless", "--frames", "1"]);
        assert!(errors.contains("no device can present here"), "{errors}");
        for device in devices() {
            let reason = format!("{}: it lacks VK_KHR_swapchain", device.name);
            assert!(errors.contains(&reason), "{errors}");
        }
    }
}

#[test]
fn one_device_draws_and_presents_and_that_is_said() {
    let mut program = common::prime();
    program.env("VK_LOADER_DRIVERS_SELECT", "*lvp*");
    let said = common::said(&mut program, &["--frames", "30", "--size", "300x200", "--verify"]);
    assert_eq!(said["frames"], 30, "{said:#}");
    assert_eq!(said["wrong"], json!([]), "{said:#}");
    let events = said["events"].to_string();
    assert!(events.contains("draws and presents: no other device here presents"), "{events}");
}

#[test]
fn without_a_driver_a_sentence_says_what_to_do() {
    for mut program in [common::prime(), common::stream()] {
        program.env("VK_LOADER_DRIVERS_SELECT", "nothing");
        let errors = sentence(&mut program, &["--headless", "--frames", "1"]);
        assert!(errors.contains("driver"), "{errors}");
    }
}
