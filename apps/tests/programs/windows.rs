//! `prime` in windows: under Xvfb, and under Weston without an output. `.ci/setup apps` installs both.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{self, assert_silent, assert_steady, json, validated};

/// How long a display server may take to start. It is reached only if it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A display server that ends with the test.
pub struct Display {
    server: Child,
    variables: Vec<(&'static str, String)>,
}

impl Display {
    /// What clients call it.
    pub fn name(&self) -> &str {
        &self.variables[0].1
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Whether a program is installed. Without it the test says so; under `CI=true` it fails.
fn has(program: &str) -> bool {
    let has = Command::new("which").arg(program).output().is_ok_and(|found| found.status.success());
    if !has {
        let what = format!("{program} is not installed: `.ci/setup apps` installs it");
        assert!(std::env::var_os("CI").is_none(), "{what}");
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("NOT TESTED: {what}");
        }
    }
    has
}

/// An X server, which chooses its number itself.
pub fn xvfb() -> Option<Display> {
    has("Xvfb").then(|| {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1400x900x24"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb starts");
        let mut number = vec![];
        let mut out = server.stdout.take().expect("its output");
        let mut byte = [0];
        while out.read(&mut byte).is_ok_and(|read| read == 1) && byte != *b"\n" {
            number.push(byte[0]);
        }
        let number = String::from_utf8(number).expect("a number");
        assert!(!number.is_empty(), "Xvfb has not started");
        Display { server, variables: vec![("DISPLAY", format!(":{number}"))] }
    })
}

/// A Wayland compositor without an output.
fn weston(folder: &Path) -> Option<Display> {
    has("weston").then(|| {
        let socket = format!("prime-{}", std::process::id());
        let server = Command::new("weston")
            .args([
                "--backend=headless-backend.so",
                "--width=1400",
                "--height=900",
                "--idle-time=0",
            ])
            .arg(format!("--socket={socket}"))
            .env("XDG_RUNTIME_DIR", folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Weston starts");
        let begun = Instant::now();
        while !folder.join(&socket).exists() {
            assert!(begun.elapsed() < PATIENCE, "Weston has not made its socket");
            std::thread::sleep(Duration::from_millis(20));
        }
        let folder = folder.to_str().expect("a path in UTF-8").to_owned();
        let variables = vec![("WAYLAND_DISPLAY", socket), ("XDG_RUNTIME_DIR", folder)];
        Display { server, variables }
    })
}

/// Runs a program in a window of a display.
fn run(command: Command, display: &Display, arguments: &[&str]) -> Output {
    start(command, display, arguments).wait_with_output().expect("the program ends")
}

/// Starts a program in a window of a display.
pub fn start(mut command: Command, display: &Display, arguments: &[&str]) -> Child {
    command.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY").args(arguments);
    command.envs(display.variables.iter().map(|(name, value)| (*name, value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Frames while images move, ways are switched and the window is resized. At the end of each third the size and the age of the
/// images are the same.
fn assert_frames(display: &Display, pair: &[&str]) {
    let fixed = [
        "--frames",
        "276",
        "--size",
        "640x400",
        "--move-every",
        "7",
        "--switch-every",
        "11",
        "--resize-every",
        "23",
        "--verify",
        "--json",
    ];
    let mut command = common::prime();
    validated(&mut command);
    let output = run(command, display, &[&fixed, pair].concat());
    let what = format!("{pair:?}");
    assert_silent(&output, &what);
    let said = json(&output, &what);
    assert_steady(&said, &format!("{what}: {said:#}"));
    assert_eq!(said["frames"], 276, "{said:#}");
    assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
    assert!(said["checked"].as_u64() >= Some(250), "{said:#}");
}

/// The numbers of SwiftShader and another driver.
pub fn drivers() -> [String; 2] {
    let engine = peerbuf::Engine::open(&peerbuf::EngineDescriptor::new()).expect("Vulkan");
    let number = |wanted: bool| {
        let of = engine.adapters().iter().find(|adapter| {
            (adapter.driver_id() == ash::vk::DriverId::GOOGLE_SWIFTSHADER) == wanted
        });
        of.expect("two drivers: `.ci/setup test` prepares them").index().to_string()
    };
    [number(true), number(false)]
}

#[test]
fn frames_are_whole_and_in_order_under_x11() {
    let Some(display) = xvfb() else { return };
    let [swiftshader, other] = drivers();
    for render in [&swiftshader, &other] {
        assert_frames(&display, &["--render", render, "--present", &other]);
    }
    // It claims that it can present there, and crashes.
    let output = run(common::prime(), &display, &["--present", &swiftshader, "--frames", "1"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("SwiftShader crashes with windows of Xlib"), "{errors}");
    assert_map(&display, &other);
    assert_one_texel(&display);
}

/// The tour, in a window.
fn assert_map(display: &Display, device: &str) {
    let fixed = ["--frames", "120", "--levels", "3", "--size", "512x384", "--verify", "--json"];
    let output = run(common::stream(), display, &[&fixed[..], &["--device", device]].concat());
    let said = json(&output, device);
    assert_eq!(said["frames"], 120, "{said:#}");
    assert_eq!(said["wrong"], serde_json::json!([]), "{said:#}");
    assert!(said["checked"].as_u64() >= Some(120), "{said:#}");
}

/// The smallest window. A display server may make it larger.
fn assert_one_texel(display: &Display) {
    for command in [common::prime(), common::stream()] {
        let output = run(command, display, &["--frames", "20", "--size", "1x1", "--json"]);
        assert_eq!(json(&output, "1x1")["frames"], 20);
    }
}

#[test]
fn frames_are_whole_and_in_order_under_wayland() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let Some(display) = weston(&folder) else { return };
    let [swiftshader, other] = drivers();
    for render in [&swiftshader, &other] {
        for present in [&swiftshader, &other] {
            assert_frames(&display, &["--render", render, "--present", present]);
        }
    }
    assert_map(&display, &swiftshader);
    assert_map(&display, &other);
    assert_one_texel(&display);
}
