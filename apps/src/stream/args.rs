//! The command line.

use std::path::PathBuf;

use crate::program::Size;
use clap::Parser;
use peerbuf::AdapterSelector;

/// Flies over a map that is several times as large as the memory that it may use.
///
/// Tiles are shared images. Those on the screen are brought into the device's memory, those out of sight leave it; where a tile
/// is missing, a coarser one is shown. Keys: arrows move, I and O zoom in and out, T goes on with the tour, Q ends.
#[derive(Clone, Debug, Parser)]
#[command(name = "stream", version, about)]
pub struct Args {
    /// The device: index, UUID, PCI address, DRM node or kind (default: the first one that can present)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<AdapterSelector>,
    /// Present nowhere (VK_EXT_headless_surface)
    #[arg(long)]
    pub headless: bool,
    /// Size of the picture in texels
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "1280x720")]
    pub size: Size,
    /// Levels of the map: 5 are 341 tiles of 256 KiB
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub levels: u8,
    /// Show a PNG instead of terrain; it has as many levels as it needs
    #[arg(long, value_name = "FILE", conflicts_with = "levels")]
    pub picture: Option<PathBuf>,
    /// Memory for tiles, in MiB (default: a third of what all tiles take)
    #[arg(long, value_name = "MIB")]
    pub budget: Option<u32>,
    /// Bytes that may be brought in for each frame, in KiB
    #[arg(long, value_name = "KIB", default_value_t = 2048)]
    pub per_frame: u32,
    /// Frames of the tour, and the end after them
    #[arg(long, value_name = "COUNT")]
    pub frames: Option<u32>,
    /// Wait for the display
    #[arg(long)]
    pub vsync: bool,
    /// Compare every tile on the screen with what it must be
    #[arg(long)]
    pub verify: bool,
    /// Without the overlay
    #[arg(long)]
    pub plain: bool,
    /// Write the last frame as a PNG
    #[arg(long, value_name = "FILE")]
    pub screenshot: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}
