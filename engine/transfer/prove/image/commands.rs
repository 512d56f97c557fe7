//! The commands of a probe: copies between an image and a buffer, and the barriers around them.
//!
//! Between two devices an image is in the layout `GENERAL`, and an external queue family owns it (`transfer/ownership`).
#![expect(unsafe_code, reason = "recording copies and barriers of images")]

use ash::vk;

use super::texels::{ProbePlane, spans};
use crate::device::{DeviceInner, QueueKind};
use crate::transfer::scope::Scope;

/// An image of one side.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) device: &'a DeviceInner,
    pub(super) image: vk::Image,
    /// The family that owns the image between two devices.
    pub(super) outside: u32,
}

/// The aspect of a plane of a format with so many planes.
pub(super) fn aspect(plane: usize, planes: usize) -> vk::ImageAspectFlags {
    match (planes, plane) {
        (0 | 1, _) => vk::ImageAspectFlags::COLOR,
        (_, 0) => vk::ImageAspectFlags::PLANE_0,
        (_, 1) => vk::ImageAspectFlags::PLANE_1,
        _ => vk::ImageAspectFlags::PLANE_2,
    }
}

impl Seen<'_> {
    fn own(&self) -> u32 {
        self.device.queue_family(QueueKind::Main)
    }

    /// Records that nothing of the image is kept, before copies write it.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded for the main queue of the device, whose live image this is.
    pub(super) unsafe fn begin(&self, commands: vk::CommandBuffer) {
        let ignored = [vk::QUEUE_FAMILY_IGNORED; 2];
        let layouts = [vk::ImageLayout::UNDEFINED, vk::ImageLayout::GENERAL];
        // SAFETY: the caller's contract.
        unsafe { self.barrier(commands, layouts, ignored, [Scope::NONE, Scope::TRANSFER]) };
    }

    /// Records that this device acquires the image before a use.
    ///
    /// # Safety
    ///
    /// As for [`Seen::begin`]. Another device has released the image.
    pub(super) unsafe fn acquire(&self, commands: vk::CommandBuffer, to: Scope) {
        let families = [self.outside, self.own()];
        // SAFETY: the caller's contract.
        unsafe { self.barrier(commands, STAYS, families, [Scope::NONE, to]) };
    }

    /// Records that this device releases the image after a use.
    ///
    /// # Safety
    ///
    /// As for [`Seen::begin`]. This device owns the image.
    pub(super) unsafe fn release(&self, commands: vk::CommandBuffer, from: Scope) {
        let families = [self.own(), self.outside];
        // SAFETY: the caller's contract.
        unsafe { self.barrier(commands, STAYS, families, [from, Scope::NONE]) };
    }

    /// Records that copies into the image are over before shaders read it.
    ///
    /// # Safety
    ///
    /// As for [`Seen::begin`].
    pub(super) unsafe fn to_shaders(&self, commands: vk::CommandBuffer) {
        let ignored = [vk::QUEUE_FAMILY_IGNORED; 2];
        // SAFETY: the caller's contract.
        unsafe { self.barrier(commands, STAYS, ignored, [Scope::TRANSFER, Scope::COMPUTE]) };
    }

    /// Records a copy of all planes from a buffer in which they are as `texels::spans` says.
    ///
    /// # Safety
    ///
    /// As for [`Seen::begin`]. The image has these planes, is in the layout `GENERAL` and has the usage `TRANSFER_DST`; the
    /// buffer is of the device, large enough, and has the usage `TRANSFER_SRC`.
    pub(super) unsafe fn write(
        &self,
        commands: vk::CommandBuffer,
        planes: &[ProbePlane],
        buffer: vk::Buffer,
    ) {
        let (raw, layout) = (self.device.raw(), vk::ImageLayout::GENERAL);
        let regions = regions(planes);
        // SAFETY: the caller's contract; regions begin at multiples of 16 bytes.
        unsafe { raw.cmd_copy_buffer_to_image(commands, buffer, self.image, layout, &regions) };
    }

    /// Records a copy of all planes into such a buffer.
    ///
    /// # Safety
    ///
    /// As for [`Seen::write`], with the usages `TRANSFER_SRC` and `TRANSFER_DST`.
    pub(super) unsafe fn read(
        &self,
        commands: vk::CommandBuffer,
        planes: &[ProbePlane],
        buffer: vk::Buffer,
    ) {
        let (raw, layout) = (self.device.raw(), vk::ImageLayout::GENERAL);
        let regions = regions(planes);
        // SAFETY: the caller's contract; regions begin at multiples of 16 bytes.
        unsafe { raw.cmd_copy_image_to_buffer(commands, self.image, layout, buffer, &regions) };
    }

    /// # Safety
    ///
    /// As for [`Seen::begin`]; the layouts and families are those of the image.
    unsafe fn barrier(
        &self,
        commands: vk::CommandBuffer,
        [old, new]: [vk::ImageLayout; 2],
        [from_family, to_family]: [u32; 2],
        [from, to]: [Scope; 2],
    ) {
        // The whole image, which is not disjoint (VUID-VkImageMemoryBarrier-image-09241).
        let range = vk::ImageSubresourceRange::default()
            .aspect_mask(vk::ImageAspectFlags::COLOR)
            .level_count(1)
            .layer_count(1);
        let barriers = [vk::ImageMemoryBarrier::default()
            .image(self.image)
            .subresource_range(range)
            .old_layout(old)
            .new_layout(new)
            .src_access_mask(from.access)
            .dst_access_mask(to.access)
            .src_queue_family_index(from_family)
            .dst_queue_family_index(to_family)];
        // Without stages of its own, a side waits for, or is waited for by, all.
        let stages = |scope: Scope| {
            if scope.stages.is_empty() {
                vk::PipelineStageFlags::ALL_COMMANDS
            } else {
                scope.stages
            }
        };
        // SAFETY: the caller's contract.
        unsafe {
            self.device.raw().cmd_pipeline_barrier(
                commands,
                stages(from),
                stages(to),
                vk::DependencyFlags::empty(),
                &[],
                &[],
                &barriers,
            );
        }
    }
}

/// The image keeps its layout.
const STAYS: [vk::ImageLayout; 2] = [vk::ImageLayout::GENERAL; 2];

/// Records that the host may read what copies and shaders wrote to buffers.
///
/// # Safety
///
/// `commands` is being recorded for the main queue of the device.
pub(super) unsafe fn to_host(device: &DeviceInner, commands: vk::CommandBuffer) {
    let written = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::TRANSFER_WRITE | vk::AccessFlags::SHADER_WRITE)
        .dst_access_mask(vk::AccessFlags::HOST_READ)];
    let stages = vk::PipelineStageFlags::TRANSFER | vk::PipelineStageFlags::COMPUTE_SHADER;
    // SAFETY: the caller's contract; the stages make these accesses.
    unsafe {
        device.raw().cmd_pipeline_barrier(
            commands,
            stages,
            vk::PipelineStageFlags::HOST,
            vk::DependencyFlags::empty(),
            &written,
            &[],
            &[],
        );
    }
}

fn regions(planes: &[ProbePlane]) -> Vec<vk::BufferImageCopy> {
    let region = |(at, (plane, span)): (usize, (&ProbePlane, std::ops::Range<u64>))| {
        let part = vk::ImageSubresourceLayers::default()
            .aspect_mask(aspect(at, planes.len()))
            .layer_count(1);
        vk::BufferImageCopy::default()
            .buffer_offset(span.start)
            .image_subresource(part)
            .image_extent(vk::Extent3D { width: plane.width, height: plane.height, depth: 1 })
    };
    planes.iter().zip(spans(planes)).enumerate().map(region).collect()
}
