//! Switches on the layer that follows images across all devices (`tests/driver-sim`, "The recorder").
//!
//! Layers are chosen by variables of the environment. They are set before `main`, while the process has one thread, for
//! every test program, and for the programs that it starts. `RECORDER=off` leaves them as they are.
#![expect(unsafe_code, reason = "a function that runs before `main`, and sets variables")]

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

const LAYER: &str = "VK_LAYER_PEERBUF_recorder";

#[used]
// The C runtime calls each pointer of this section before `main`.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = switch_on;

extern "C" fn switch_on() {
    if env::var_os("RECORDER").is_some_and(|value| value == "off") || is_on() {
        return;
    }
    let Some(folder) = library().and_then(|library| manifest(&library)) else { return };
    prepend("VK_ADD_LAYER_PATH", folder.as_os_str());
    // Above all others. The layer that simulates drivers waits and submits on threads of its own: below it the recorder
    // would take those waits for the program's, and not know the order of submissions.
    prepend("VK_INSTANCE_LAYERS", OsStr::new(LAYER));
}

/// Whether the recorder watches this process. Where the layer was not built it does not: in a package without
/// `tests/driver-sim`.
pub(crate) fn is_on() -> bool {
    let layers = env::var("VK_INSTANCE_LAYERS").unwrap_or_default();
    layers.split(':').any(|layer| layer == LAYER)
}

fn prepend(name: &str, item: &OsStr) {
    let mut list = item.to_owned();
    if let Some(rest) = env::var_os(name).filter(|rest| !rest.is_empty()) {
        list.push(":");
        list.push(rest);
    }
    // SAFETY: no other thread exists before `main`.
    unsafe { env::set_var(name, list) };
}

/// The layer lies beside the test programs, since it is a dependency of theirs.
fn library() -> Option<PathBuf> {
    let beside = || Some(env::current_exe().ok()?.parent()?.join("libdriver_sim.so"));
    let path = env::var_os("DRIVER_SIM_LIBRARY").map(PathBuf::from).or_else(beside)?;
    path.is_file().then_some(path)
}

/// Writes the manifest, and returns its folder.
fn manifest(library: &Path) -> Option<PathBuf> {
    let folder = library.with_extension("recorder");
    std::fs::create_dir_all(&folder).ok()?;
    let text = format!(
        r#"{{
    "file_format_version": "1.1.2",
    "layer": {{
        "name": "{LAYER}",
        "type": "GLOBAL",
        "library_path": "{}",
        "api_version": "1.3.0",
        "implementation_version": "1",
        "functions": {{ "vkNegotiateLoaderLayerInterfaceVersion": "recorder_negotiate" }},
        "description": "Finds wrong uses of shared images"
    }}
}}
"#,
        library.display()
    );
    let file = folder.join("recorder.json");
    if !std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
        // Programs that start meanwhile see the old file or the new one, never a part.
        let mut fresh = OsString::from(&file);
        fresh.push(format!(".{}", std::process::id()));
        std::fs::write(&fresh, text).ok()?;
        std::fs::rename(&fresh, &file).ok()?;
    }
    Some(folder)
}
