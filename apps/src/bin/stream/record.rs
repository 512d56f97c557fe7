//! The commands of a frame: parts of tiles are blitted into an image of the swapchain.
#![expect(unsafe_code, reason = "blits and copies on a live device")]

use ash::vk;
use peerbuf::Device;

use crate::view::Rect;

/// What is blitted and copied.
#[derive(Clone)]
pub(crate) struct Commands {
    /// An image in the layout GENERAL, a part of it, and where that goes.
    pub(crate) blits: Vec<(vk::Image, Rect, Rect)>,
    pub(crate) target: vk::Image,
    pub(crate) size: [u32; 2],
    /// Rows without gaps, and their size, for the upper left corner.
    pub(crate) overlay: Option<(vk::Buffer, [u32; 2])>,
    /// Where the picture is copied to before the overlay covers it.
    pub(crate) bare: Option<vk::Buffer>,
    /// Where the whole picture is copied to.
    pub(crate) picture: Option<vk::Buffer>,
}

/// Distance of the overlay from the corner.
const EDGE: u32 = 8;

fn layers() -> vk::ImageSubresourceLayers {
    vk::ImageSubresourceLayers {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        mip_level: 0,
        base_array_layer: 0,
        layer_count: 1,
    }
}

fn corners([left, top, right, bottom]: Rect) -> [vk::Offset3D; 2] {
    [vk::Offset3D { x: left, y: top, z: 0 }, vk::Offset3D { x: right, y: bottom, z: 1 }]
}

fn region([x, y]: [u32; 2], [width, height]: [u32; 2]) -> vk::BufferImageCopy {
    vk::BufferImageCopy {
        image_subresource: layers(),
        // CAST: far below 2^31.
        image_offset: vk::Offset3D { x: x as i32, y: y as i32, z: 0 },
        image_extent: vk::Extent3D { width, height, depth: 1 },
        ..Default::default()
    }
}

impl Commands {
    /// Records them. The target, an image of the swapchain, is left as presents need it.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded for the device. All objects are live and as large as is said, parts are within them, and
    /// the target was acquired.
    pub(crate) unsafe fn record(&self, device: &Device, commands: vk::CommandBuffer) {
        let raw = device.raw();
        let written = vk::ImageLayout::TRANSFER_DST_OPTIMAL;
        // SAFETY: the caller's contract; the whole image is written.
        unsafe { self.barrier(device, commands, [vk::ImageLayout::UNDEFINED, written]) };
        let dark = vk::ClearColorValue { float32: [0.05, 0.06, 0.08, 1.0] };
        let all = [self.range()];
        // SAFETY: the caller's contract.
        unsafe { raw.cmd_clear_color_image(commands, self.target, written, &dark, &all) };
        // SAFETY: the caller's contract.
        unsafe { self.barrier(device, commands, [written, written]) };
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
            unsafe { self.barrier(device, commands, [written, written]) };
            let part = [region([EDGE, EDGE], [width, height])];
            // SAFETY: the caller's contract; the rectangle is within the image.
            unsafe { raw.cmd_copy_buffer_to_image(commands, buffer, self.target, written, &part) };
        }
        if let Some(picture) = self.picture {
            // SAFETY: the caller's contract.
            unsafe { self.read(device, commands, picture) };
        }
        // SAFETY: the caller's contract.
        unsafe { self.barrier(device, commands, [written, vk::ImageLayout::PRESENT_SRC_KHR]) };
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
        unsafe { self.barrier(device, commands, [written, read]) };
        let all = [region([0, 0], self.size)];
        // SAFETY: the caller's contract.
        unsafe { raw.cmd_copy_image_to_buffer(commands, self.target, read, buffer, &all) };
        let copied = [vk::MemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .dst_access_mask(vk::AccessFlags::HOST_READ)];
        let (copy, host) = (vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::HOST);
        let none = vk::DependencyFlags::empty();
        // SAFETY: the caller's contract.
        unsafe { raw.cmd_pipeline_barrier(commands, copy, host, none, &copied, &[], &[]) };
        // SAFETY: the caller's contract.
        unsafe { self.barrier(device, commands, [read, written]) };
    }

    fn range(&self) -> vk::ImageSubresourceRange {
        vk::ImageSubresourceRange {
            aspect_mask: vk::ImageAspectFlags::COLOR,
            base_mip_level: 0,
            level_count: 1,
            base_array_layer: 0,
            layer_count: 1,
        }
    }

    /// # Safety
    ///
    /// As [`Commands::record`]; the target is in the first layout.
    unsafe fn barrier(
        &self,
        device: &Device,
        commands: vk::CommandBuffer,
        [old, new]: [vk::ImageLayout; 2],
    ) {
        let access = vk::AccessFlags::TRANSFER_READ | vk::AccessFlags::TRANSFER_WRITE;
        let all = [vk::ImageMemoryBarrier::default()
            .src_access_mask(access)
            .dst_access_mask(access)
            .old_layout(old)
            .new_layout(new)
            .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
            .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
            .image(self.target)
            .subresource_range(self.range())];
        let (copy, none) = (vk::PipelineStageFlags::TRANSFER, vk::DependencyFlags::empty());
        // SAFETY: the caller's contract.
        unsafe { device.raw().cmd_pipeline_barrier(commands, copy, copy, none, &[], &[], &all) };
    }
}
