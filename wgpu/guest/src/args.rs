//! The command line.

use clap::Parser;
use peerbuf::AdapterSelector;

/// Draws with wgpu, using a buffer and images of peerbuf that another device shares, while these move. Checks each frame.
#[derive(Clone, Debug, Parser)]
#[command(version, about)]
pub(crate) struct Args {
    /// The device that draws with wgpu: index, UUID, PCI address, DRM node or kind (default: the first one)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) draw: Option<AdapterSelector>,
    /// The device that writes and reads; it may be the same one, opened twice (default: another one)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) other: Option<AdapterSelector>,
    /// Frames
    #[arg(long, value_name = "COUNT", default_value_t = 300)]
    pub(crate) frames: u32,
    /// Width and height of the images in texels, 1 to 4096
    #[arg(long, value_name = "TEXELS", default_value_t = 250, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) size: u32,
    /// Format of the images that wgpu draws with and into, as a fourcc
    #[arg(long, value_name = "FOURCC", default_value = "AR24")]
    pub(crate) format: String,
    /// Move something every so many frames; 0 for never
    #[arg(long, value_name = "COUNT", default_value_t = 7)]
    pub(crate) move_every: u32,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
