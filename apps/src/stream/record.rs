//! The commands of a frame: parts of tiles are blitted into an image of the swapchain.
#![expect(unsafe_code, reason = "blits and copies on a live device")]

use crate::commands::{barrier, for_host, layers, range, region};
use ash::vk;
use peerbuf::Device;

use super::view::Rect;

/// What is blitted and copied.
#[derive(Clone, Debug)]
pub struct Commands {
    /// An image in the layout GENERAL, a part of it, and where that goes.
    pub blits: Vec<(vk::Image, Rect, Rect)>,
    /// An image of the swapchain.
    pub target: vk::Image,
    /// Its size.
    pub size: [u32; 2],
    /// Rows without gaps, and their size, for the upper left corner.
    pub overlay: Option<(vk::Buffer, [u32; 2])>,
    /// Where the picture is copied to before the overlay covers it.
    pub bare: Option<vk::Buffer>,
    /// Where the whole picture is copied to.
    pub picture: Option<vk::Buffer>,
}

/// Distance of the overlay from the corner.
const EDGE: u32 = 8;

fn corners([left, top, right, bottom]: Rect) -> [vk::Offset3D; 2] {
    [vk::Offset3D { x: left, y: top, z: 0 }, vk::Offset3D { x: right, y: bottom, z: 1 }]
}

impl Commands {
    /// Records them. The target, an image of the swapchain, is left as presents need it.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded for the device. All objects are live and as large as is said, parts are within them, and
    /// the target was acquired.
    pub unsafe fn record(&self, device: &Device, commands: vk::CommandBuffer) {
        let raw = device.raw();
        let written = vk::ImageLayout::TRANSFER_DST_OPTIMAL;
        // SAFETY: the caller's contract; the whole image is written.
        unsafe { barrier(device, commands, self.target, [vk::ImageLayout::UNDEFINED, written]) };
        let dark = vk::ClearColorValue { float32: [0.05, 0.06, 0.08, 1.0] };
        let all = [range()];
        // SAFETY: the caller's contract.
        unsafe { raw.cmd_clear_color_image(commands, self.target, written, &dark, &all) };
        // SAFETY: the caller's contract.
        unsafe { barrier(device, commands, self.target, [written, written]) };
        for (image, from, to) in &self.blits {
            let part = [vk::ImageBlit {
                src_subresource: layers(),
                src_offsets: corners(*from),
                dst_subresource: layers(),
                dst_offsets: corners(*to),
            }];
            let (general, nearest) = (vk::ImageLayout::GENERAL, vk::Filter::NEAREST);
            // SAFETY: the caller's contract.
            unsafe {
                raw.cmd_blit_image(commands, *image, general, self.target, written, &part, nearest);
            };
        }
        if let Some(bare) = self.bare {
            // SAFETY: the caller's contract.
            unsafe { self.read(device, commands, bare) };
        }
        if let Some((buffer, [width, height])) = self.overlay
            && EDGE + width <= self.size[0]
            && EDGE + height <= self.size[1]
        {
            // SAFETY: the caller's contract.
            unsafe { barrier(device, commands, self.target, [written, written]) };
            let part = [region(0, [EDGE, EDGE], [width, height])];
            // SAFETY: the caller's contract; the rectangle is within the image.
            unsafe { raw.cmd_copy_buffer_to_image(commands, buffer, self.target, written, &part) };
        }
        if let Some(picture) = self.picture {
            // SAFETY: the caller's contract.
            unsafe { self.read(device, commands, picture) };
        }
        // SAFETY: the caller's contract.
        unsafe {
            barrier(device, commands, self.target, [written, vk::ImageLayout::PRESENT_SRC_KHR]);
        };
    }

    /// Copies the target out, for the host, and leaves it to be written.
    ///
    /// # Safety
    ///
    /// As [`Commands::record`].
    unsafe fn read(&self, device: &Device, commands: vk::CommandBuffer, buffer: vk::Buffer) {
        let raw = device.raw();
        let (written, read) =
            (vk::ImageLayout::TRANSFER_DST_OPTIMAL, vk::ImageLayout::TRANSFER_SRC_OPTIMAL);
        // SAFETY: the caller's contract.
        unsafe { barrier(device, commands, self.target, [written, read]) };
        let all = [region(0, [0, 0], self.size)];
        // SAFETY: the caller's contract.
        unsafe { raw.cmd_copy_image_to_buffer(commands, self.target, read, buffer, &all) };
        // SAFETY: the caller's contract.
        unsafe { for_host(device, commands) };
        // SAFETY: the caller's contract.
        unsafe { barrier(device, commands, self.target, [read, written]) };
    }
}
