//! Compiles `shaders/*.wgsl` to SPIR-V, each behind the text of `pattern.wgsl`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};

const PASSES: [&str; 4] = ["fill", "verify", "checksum", "copy"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=shaders");
    let shaders = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?)
        .join("shaders");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    for pass in PASSES {
        let words = compile(&shaders, pass).map_err(|error| format!("{pass}.wgsl: {error}"))?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        fs::write(out.join(pass).with_extension("spv"), bytes)?;
    }
    Ok(())
}

fn compile(shaders: &Path, pass: &str) -> Result<Vec<u32>, Box<dyn Error>> {
    let shared = fs::read_to_string(shaders.join("pattern.wgsl"))?;
    let own = fs::read_to_string(shaders.join(pass).with_extension("wgsl"))?;
    let source = format!("{shared}\n{own}");
    let module = naga::front::wgsl::parse_str(&source)
        .map_err(|error| error.emit_to_string_with_path(&source, pass))?;
    let info =
        Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES).validate(&module)?;
    let options = spv::Options {
        // What Vulkan 1.2 promises to take.
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        // Every index is below `words`, and `words` below the size that was bound; a robust access
        // would ask for the length of the array at every step. Loops are bounded likewise.
        bounds_check_policies: naga::proc::BoundsCheckPolicies::default(),
        force_loop_bounding: false,
        ..spv::Options::default()
    };
    Ok(spv::write_vec(&module, &info, &options, None)?)
}
