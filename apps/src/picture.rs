//! Pictures in files.
#![expect(unsafe_code, reason = "memory that devices write and the host reads")]

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use ash::vk;
use peerbuf::{Device, Fence};

use crate::Result;
use crate::host_buffer::HostBuffer;
use crate::in_use::InUse;

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
        encoder.set_compression(png::Compression::High);
        Ok(encoder.write_header()?.write_image_data(&rgb)?)
    };
    written().map_err(|error| format!("{}: {error}", path.display()).into())
}

/// A picture that is being copied.
#[derive(Debug)]
pub struct Shot {
    buffer: InUse<HostBuffer>,
    size: [u32; 2],
}

impl Shot {
    /// Memory for a picture of a size.
    ///
    /// # Errors
    ///
    /// The error of a call.
    pub fn new(device: &Device, size: [u32; 2]) -> Result<Self> {
        let bytes = size[0] as usize * size[1] as usize * 4;
        let buffer = InUse::new(device, HostBuffer::new(device, bytes, true)?);
        Ok(Self { buffer, size })
    }

    /// Where it is copied to: rows without gaps.
    pub fn raw(&self) -> vk::Buffer {
        self.buffer.raw()
    }

    /// Notes the work that copies it.
    pub fn submitted(&mut self, copied: &Fence) {
        self.buffer.used_by(copied);
    }

    /// Its texels, once the work that copies it has finished.
    ///
    /// # Errors
    ///
    /// The work fails, or does not end.
    pub fn texels(&self) -> Result<Vec<u8>> {
        self.buffer.wait()?;
        // SAFETY: the work that wrote it has finished.
        Ok(unsafe { self.buffer.bytes() }.to_vec())
    }

    /// Writes it, once the work that copies it has finished. `is_rgba` if red and blue are exchanged.
    ///
    /// # Errors
    ///
    /// As [`Shot::texels`] and [`write_png`].
    pub fn write(self, path: &Path, is_rgba: bool) -> Result<()> {
        let mut texels = self.texels()?;
        if is_rgba {
            texels.as_chunks_mut::<4>().0.iter_mut().for_each(|texel| texel.swap(0, 2));
        }
        write_png(path, self.size, &texels)
    }
}
