//! The copies into an image of the swapchain, and out of it.
#![expect(unsafe_code, reason = "copies on a live device")]

use crate::commands::{barrier, for_host, layers, region};
use crate::stamp;
use ash::vk;
use peerbuf::Device;

/// Where a frame comes from, in the presenting device's hands.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// An image, in the layout GENERAL.
    Image(vk::Image),
    /// Rows without gaps.
    Buffer(vk::Buffer),
}

/// What is copied for one frame. All sizes are in texels of four bytes.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// Where the frame is.
    pub source: Source,
    /// An image of the swapchain.
    pub target: vk::Image,
    /// The size of all.
    pub size: [u32; 2],
    /// Rows without gaps, and their size, for the upper left corner below the cells.
    pub overlay: Option<(vk::Buffer, [u32; 2])>,
    /// Where the two lines of cells are copied to, one behind the other.
    pub lines: Option<vk::Buffer>,
    /// Where the whole picture is copied to.
    pub picture: Option<vk::Buffer>,
}

/// Records the copy of a drawn image, in the layout GENERAL, into a buffer that the host then reads.
///
/// # Safety
///
/// `commands` is being recorded for the device; image and buffer are live, and as large as `size`.
pub unsafe fn read_back(
    device: &Device,
    commands: vk::CommandBuffer,
    image: vk::Image,
    buffer: vk::Buffer,
    size: [u32; 2],
) {
    let raw = device.raw();
    let drawn = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::COLOR_ATTACHMENT_WRITE)
        .dst_access_mask(vk::AccessFlags::TRANSFER_READ)];
    let (output, copy) =
        (vk::PipelineStageFlags::COLOR_ATTACHMENT_OUTPUT, vk::PipelineStageFlags::TRANSFER);
    let none = vk::DependencyFlags::empty();
    // SAFETY: the caller's contract.
    unsafe { raw.cmd_pipeline_barrier(commands, output, copy, none, &drawn, &[], &[]) };
    let (general, all) = (vk::ImageLayout::GENERAL, [region(0, [0, 0], size)]);
    // SAFETY: the caller's contract.
    unsafe { raw.cmd_copy_image_to_buffer(commands, image, general, buffer, &all) };
    // SAFETY: the caller's contract.
    unsafe { for_host(device, commands) };
}

impl Copies {
    /// Records them. The target, an image of the swapchain, is left as presents need it.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded for the device. All objects are live and as large as is said, and the target was
    /// acquired.
    pub unsafe fn record(&self, device: &Device, commands: vk::CommandBuffer) {
        let raw = device.raw();
        let (general, written) = (vk::ImageLayout::GENERAL, vk::ImageLayout::TRANSFER_DST_OPTIMAL);
        // SAFETY: the caller's contract; the whole image is written.
        unsafe { barrier(device, commands, self.target, [vk::ImageLayout::UNDEFINED, written]) };
        match self.source {
            Source::Image(image) => {
                let [width, height] = self.size;
                let all = [vk::ImageCopy::default()
                    .src_subresource(layers())
                    .dst_subresource(layers())
                    .extent(vk::Extent3D { width, height, depth: 1 })];
                // SAFETY: the caller's contract; both have four bytes in a texel, in the same order.
                unsafe { raw.cmd_copy_image(commands, image, general, self.target, written, &all) };
            }
            Source::Buffer(buffer) => {
                let all = [region(0, [0, 0], self.size)];
                // SAFETY: the caller's contract.
                unsafe {
                    raw.cmd_copy_buffer_to_image(commands, buffer, self.target, written, &all);
                };
            }
        }
        if let Some((buffer, [width, height])) = self.overlay {
            let at = [stamp::CELL, 2 * stamp::CELL];
            let fits =
                at[0] + width <= self.size[0] && at[1] + height + stamp::CELL <= self.size[1];
            if fits {
                // SAFETY: the caller's contract.
                unsafe { barrier(device, commands, self.target, [written, written]) };
                let part = [region(0, at, [width, height])];
                // SAFETY: the caller's contract; the rectangle is within the image.
                unsafe {
                    raw.cmd_copy_buffer_to_image(commands, buffer, self.target, written, &part);
                }
            }
        }
        let read = vk::ImageLayout::TRANSFER_SRC_OPTIMAL;
        let mut now = written;
        for (buffer, regions) in
            [(self.lines, self.line_regions()), (self.picture, vec![region(0, [0, 0], self.size)])]
        {
            let Some(buffer) = buffer.filter(|_| !regions.is_empty()) else { continue };
            if now != read {
                // SAFETY: the caller's contract.
                unsafe { barrier(device, commands, self.target, [now, read]) };
                now = read;
            }
            // SAFETY: the caller's contract; the rectangles are within the image.
            unsafe { raw.cmd_copy_image_to_buffer(commands, self.target, read, buffer, &regions) };
        }
        if now == read {
            // SAFETY: the caller's contract.
            unsafe { for_host(device, commands) };
        }
        // SAFETY: the caller's contract.
        unsafe { barrier(device, commands, self.target, [now, vk::ImageLayout::PRESENT_SRC_KHR]) };
    }

    fn line_regions(&self) -> Vec<vk::BufferImageCopy> {
        if !stamp::fits(self.size) {
            return vec![];
        }
        let bytes = u64::from(stamp::CELL * stamp::CELLS * 4);
        let line = |(at, y): (u64, u32)| {
            region(at * bytes, [0, y + stamp::CELL / 2], [stamp::CELL * stamp::CELLS, 1])
        };
        (0..).zip(stamp::rows(self.size)).map(line).collect()
    }
}
