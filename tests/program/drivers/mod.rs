//! Drivers and layers that fail, built with the C compiler that Rust links with.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// A folder of the test's own, empty.
pub(crate) fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("cargo made the folder above");
    folder
}

/// Builds `tests/program/drivers/NAME.c` in a folder; returns the library's file name.
fn build(folder: &std::path::Path, name: &str) -> String {
    let source = format!("{}/tests/program/drivers/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let library = format!("lib{name}.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .arg(folder.join(&library))
        .arg(source)
        .status()
        .expect("the compiler that Rust links with");
    assert!(status.success(), "{name}.c compiles");
    library
}

/// A manifest of a driver whose library is `library`.
pub(crate) fn manifest(folder: &std::path::Path, name: &str, library: &str) -> String {
    let file = folder.join(format!("{name}.json"));
    let text = format!(
        r#"{{"file_format_version": "1.0.0", "ICD": {{"library_path": "{library}", "api_version": "1.3.0"}}}}"#
    );
    fs::write(&file, text).expect("the folder is writable");
    file.to_str().expect("a path of text").to_owned()
}

/// Builds a driver, and returns its manifest.
pub(crate) fn driver(folder: &std::path::Path, name: &str) -> String {
    let library = build(folder, name);
    manifest(folder, name, &format!("./{library}"))
}

/// The layer of `unreadable.c`, active for `command`: the device whose name begins with `device` does not list its
/// extensions.
pub(crate) fn unreadable(command: &mut Command, folder: &std::path::Path, device: &str) {
    let library = build(folder, "unreadable");
    let text = format!(
        r#"{{"file_format_version": "1.0.0", "layer": {{"name": "VK_LAYER_PEERBUF_unreadable",
        "type": "GLOBAL", "library_path": "./{library}", "api_version": "1.3.0",
        "implementation_version": "1", "description": "for a test"}}}}"#
    );
    fs::write(folder.join("unreadable.json"), text).expect("the folder is writable");
    command
        .env("VK_LAYER_PATH", folder)
        .env("VK_INSTANCE_LAYERS", "VK_LAYER_PEERBUF_unreadable")
        .env("PEERBUF_TEST_UNREADABLE", device);
}
