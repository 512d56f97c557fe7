//! The command line.

use std::path::PathBuf;

use crate::program::Size;
use clap::Parser;
use peerbuf::AdapterSelector;

/// Draws a scene on one GPU and presents it on another. Images between the two are shared, and move while they are used.
///
/// Keys: S other way (shared, staged), M move an image, E evict all, B half or all of the memory, Q end.
#[derive(Clone, Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// The device that draws: index, UUID, PCI address, DRM node or kind (default: the first one)
    #[arg(long, value_name = "DEVICE")]
    pub render: Option<AdapterSelector>,
    /// The device that presents (default: another one that can)
    #[arg(long, value_name = "DEVICE")]
    pub present: Option<AdapterSelector>,
    /// Present nowhere (VK_EXT_headless_surface)
    #[arg(long)]
    pub headless: bool,
    /// Size of the picture in texels
    #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "1280x720")]
    pub size: Size,
    /// Images in the ring, 1 to 16
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub ring: u8,
    /// Begin with the way through the host
    #[arg(long)]
    pub staged: bool,
    /// Wait for the display
    #[arg(long)]
    pub vsync: bool,
    /// End after so many frames
    #[arg(long, value_name = "COUNT")]
    pub frames: Option<u32>,
    /// Change the way every so many frames
    #[arg(long, value_name = "COUNT")]
    pub switch_every: Option<u32>,
    /// Move an image every so many frames
    #[arg(long, value_name = "COUNT")]
    pub move_every: Option<u32>,
    /// Change the size every so many frames
    #[arg(long, value_name = "COUNT")]
    pub resize_every: Option<u32>,
    /// Unplug the drawing device before this frame; the other one goes on
    #[arg(long, value_name = "FRAME")]
    pub unplug_at: Option<u32>,
    /// Draw nothing but the number of the frame: what a frame costs beside its drawing
    #[arg(long)]
    pub bare: bool,
    /// Check the number in every presented frame: none torn, none out of order
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
