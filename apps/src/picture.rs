//! Pictures in files.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use crate::Result;

/// Writes texels, four bytes each in the order blue, green, red, as an opaque PNG.
///
/// # Errors
///
/// The file cannot be written; its path is named.
pub fn write_png(path: &Path, [width, height]: [u32; 2], bgra: &[u8]) -> Result<()> {
    let rgb: Vec<u8> =
        bgra.chunks_exact(4).flat_map(|texel| [texel[2], texel[1], texel[0]]).collect();
    let written = || -> Result<()> {
        let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        Ok(encoder.write_header()?.write_image_data(&rgb)?)
    };
    written().map_err(|error| format!("{}: {error}", path.display()).into())
}
