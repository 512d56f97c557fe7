//! The SPIR-V files in `shaders/` are what naga makes of the WGSL files beside them.
//!
//! The library includes the compiled files, so that no build of it needs a shader compiler. After a change to
//! a WGSL file, `make shaders` (`WRITE_SHADERS=1 cargo test --test shaders`) compiles all of them anew.

use std::path::Path;
use std::{env, fs};

use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};

/// The text that precedes each shader.
const SHARED: &str = include_str!("../shaders/pattern.wgsl");

/// Name, source and compiled file of a shader.
macro_rules! shader {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../shaders/", $name, ".wgsl")),
            include_bytes!(concat!("../shaders/", $name, ".spv")).as_slice(),
        )
    };
}

const SHADERS: [(&str, &str, &[u8]); 4] =
    [shader!("fill"), shader!("verify"), shader!("checksum"), shader!("copy")];

/// Those that do without that text: they have bindings of their own.
const ALONE: [(&str, &str, &[u8]); 2] = [shader!("texels"), shader!("frame")];

#[test]
fn compiled_shaders_match_their_sources() {
    let write = env::var_os("WRITE_SHADERS").is_some();
    let shared =
        SHADERS.map(|(name, source, committed)| (name, format!("{SHARED}\n{source}"), committed));
    let alone = ALONE.map(|(name, source, committed)| (name, source.to_owned(), committed));
    for (name, source, committed) in shared.into_iter().chain(alone) {
        let compiled = compile(name, &source);
        if write {
            let file = format!("shaders/{name}.spv");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            fs::write(path, compiled).expect("the file can be written");
        } else {
            let hint = "`make shaders` compiles it anew";
            assert!(compiled == committed, "{name}.spv does not match {name}.wgsl; {hint}");
        }
    }
}

fn compile(name: &str, source: &str) -> Vec<u8> {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(source, name)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{name}.wgsl: {error:?}"));
    let options = spv::Options {
        // The newest version that every Vulkan 1.2 driver accepts without an extension.
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        // Every index is below `words`, and `words` is at most the size of the bound range. A robust access
        // would read the array's length at every step. Loops are bounded in the same way.
        bounds_check_policies: naga::proc::BoundsCheckPolicies::default(),
        force_loop_bounding: false,
        ..spv::Options::default()
    };
    let words = spv::write_vec(&module, &info, &options, None)
        .unwrap_or_else(|error| panic!("{name}.wgsl: {error}"));
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
