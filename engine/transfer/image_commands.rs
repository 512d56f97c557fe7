//! Commands on images: ownership transfers with layouts, and copies between an image and the bytes of a buffer.
//!
//! Vulkan, "Queue Family Ownership Transfer" and "Memory Aliasing". Between uses, an image over shared memory is in the
//! layout `GENERAL`, and an external family owns it. In that layout the rows of a linear image are where the driver
//! says, so its texels are those bytes for every other device, for buffers over the same memory, and for the host.
#![expect(unsafe_code, reason = "recording pipeline barriers and copies")]

use ash::vk;

use super::scope::Scope;
use crate::device::{DeviceInner, QueueKind};

/// All levels and layers of an image, in a command buffer of a device's main queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageUse<'a> {
    pub(crate) device: &'a DeviceInner,
    pub(crate) image: vk::Image,
    /// The family that owns it between uses; `None` if the device alone uses it.
    pub(crate) outside: Option<u32>,
}

impl ImageUse<'_> {
    /// A barrier for all of the image, without ownership transfer.
    fn barrier(
        &self,
        (old, new): (vk::ImageLayout, vk::ImageLayout),
    ) -> vk::ImageMemoryBarrier<'static> {
        vk::ImageMemoryBarrier::default()
            .image(self.image)
            .old_layout(old)
            .new_layout(new)
            .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
            .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
            // Of images that are not disjoint, a barrier names all planes as COLOR
            // (VUID-VkImageMemoryBarrier-image-09241).
            .subresource_range(vk::ImageSubresourceRange {
                aspect_mask: vk::ImageAspectFlags::COLOR,
                base_mip_level: 0,
                level_count: vk::REMAINING_MIP_LEVELS,
                base_array_layer: 0,
                layer_count: vk::REMAINING_ARRAY_LAYERS,
            })
    }

    fn family(&self) -> u32 {
        self.device.queue_family(QueueKind::Main)
    }

    /// # Safety
    ///
    /// As [`acquire_image`], and the barrier is one of this image in its present layout.
    unsafe fn record(
        &self,
        commands: vk::CommandBuffer,
        (from, to): (vk::PipelineStageFlags, vk::PipelineStageFlags),
        memory: &[vk::MemoryBarrier<'_>],
        barrier: vk::ImageMemoryBarrier<'_>,
    ) {
        // SAFETY: the caller's contract; stages and accesses match (VUID-vkCmdPipelineBarrier-srcAccessMask-02815,
        // -dstAccessMask-02816), and of two families one is external (VUID-VkImageMemoryBarrier-image-09118).
        unsafe {
            self.device.raw().cmd_pipeline_barrier(
                commands,
                from,
                to,
                vk::DependencyFlags::empty(),
                memory,
                &[],
                &[barrier],
            );
        }
    }
}

/// Records that the device acquires an image in the layout `GENERAL`, before `scope` uses it. If content is not `kept`,
/// it is undefined from here on.
///
/// # Safety
///
/// `commands` is being recorded outside a render pass, for the main queue's family of the device. The image is live and
/// of that device. If content is kept, its last user has released it in the layout `GENERAL`, or its bytes were written
/// as those of a buffer.
pub(crate) unsafe fn acquire_image(
    image: &ImageUse<'_>,
    commands: vk::CommandBuffer,
    kept: bool,
    scope: Scope,
) {
    let scope = scope.matched();
    let old = if kept { vk::ImageLayout::GENERAL } else { vk::ImageLayout::UNDEFINED };
    let mut barrier = image.barrier((old, vk::ImageLayout::GENERAL)).dst_access_mask(scope.access);
    if let Some(outside) = image.outside {
        barrier = barrier.src_queue_family_index(outside).dst_queue_family_index(image.family());
    }
    // ALL_COMMANDS, so that the barrier also waits for earlier work of this queue on the same bytes.
    let stages = (vk::PipelineStageFlags::ALL_COMMANDS, scope.stages);
    // SAFETY: the caller's contract.
    unsafe { image.record(commands, stages, &[], barrier) };
}

/// Records that the device releases an image, which is in the layout `GENERAL`, after `scope` used it.
///
/// # Safety
///
/// As [`acquire_image`], which was recorded before; the image is in the layout `GENERAL`, and `outside` is set.
pub(crate) unsafe fn release_image(
    image: &ImageUse<'_>,
    commands: vk::CommandBuffer,
    scope: Scope,
) {
    let scope = scope.matched();
    let general = vk::ImageLayout::GENERAL;
    let mut barrier = image.barrier((general, general)).src_access_mask(scope.access);
    if let Some(outside) = image.outside {
        barrier = barrier.src_queue_family_index(image.family()).dst_queue_family_index(outside);
    }
    // As for buffers, the host too may read what was written.
    let host = [vk::MemoryBarrier::default()
        .src_access_mask(scope.access)
        .dst_access_mask(vk::AccessFlags::HOST_READ | vk::AccessFlags::HOST_WRITE)];
    let after = vk::PipelineStageFlags::ALL_COMMANDS | vk::PipelineStageFlags::HOST;
    // SAFETY: the caller's contract.
    unsafe { image.record(commands, (scope.stages, after), &host, barrier) };
}

/// Records a copy of all texels from a buffer to an image, which is then in the layout `GENERAL`, for `scope` to use. What
/// was in it before is undefined. If it is not the device's own, the device acquires it.
///
/// # Safety
///
/// As [`acquire_image`]. The buffer is live, of the same device, acquired for transfers, and has the bytes of each
/// region; the regions are those of the image, in copies that its format allows, and it may be copied to.
pub(crate) unsafe fn copy_buffer_to_image(
    image: &ImageUse<'_>,
    commands: vk::CommandBuffer,
    buffer: vk::Buffer,
    regions: &[vk::BufferImageCopy],
    scope: Scope,
) {
    use vk::{AccessFlags as Access, ImageLayout as Layout, PipelineStageFlags as Stage};
    let mut barrier = image
        .barrier((Layout::UNDEFINED, Layout::TRANSFER_DST_OPTIMAL))
        .dst_access_mask(Access::TRANSFER_WRITE);
    if let Some(outside) = image.outside {
        barrier = barrier.src_queue_family_index(outside).dst_queue_family_index(image.family());
    }
    // SAFETY: the caller's contract.
    unsafe { image.record(commands, (Stage::ALL_COMMANDS, Stage::TRANSFER), &[], barrier) };
    // SAFETY: the caller's contract; the layout is the one that was just set
    // (VUID-vkCmdCopyBufferToImage-dstImageLayout-00180).
    unsafe {
        image.device.raw().cmd_copy_buffer_to_image(
            commands,
            buffer,
            image.image,
            Layout::TRANSFER_DST_OPTIMAL,
            regions,
        );
    }
    let scope = scope.matched();
    let barrier = image
        .barrier((Layout::TRANSFER_DST_OPTIMAL, Layout::GENERAL))
        .src_access_mask(Access::TRANSFER_WRITE)
        .dst_access_mask(scope.access);
    // SAFETY: the caller's contract.
    unsafe { image.record(commands, (Stage::TRANSFER, scope.stages), &[], barrier) };
}

/// Records a copy of all texels from an image, which is in the layout `GENERAL`, to a buffer, after `scope` used the image.
/// If it is not the device's own, the device releases it in `GENERAL`.
///
/// # Safety
///
/// As [`copy_buffer_to_image`], in the other direction.
pub(crate) unsafe fn copy_image_to_buffer(
    image: &ImageUse<'_>,
    commands: vk::CommandBuffer,
    buffer: vk::Buffer,
    regions: &[vk::BufferImageCopy],
    scope: Scope,
) {
    use vk::{AccessFlags as Access, ImageLayout as Layout, PipelineStageFlags as Stage};
    let scope = scope.matched();
    let barrier = image
        .barrier((Layout::GENERAL, Layout::TRANSFER_SRC_OPTIMAL))
        .src_access_mask(scope.access)
        .dst_access_mask(Access::TRANSFER_READ);
    // The copies into the image have read the buffer that is written now.
    let stages = (scope.stages | Stage::TRANSFER, Stage::TRANSFER);
    // SAFETY: the caller's contract.
    unsafe { image.record(commands, stages, &[], barrier) };
    // SAFETY: as in `copy_buffer_to_image` (VUID-vkCmdCopyImageToBuffer-srcImageLayout-00189).
    unsafe {
        image.device.raw().cmd_copy_image_to_buffer(
            commands,
            image.image,
            Layout::TRANSFER_SRC_OPTIMAL,
            buffer,
            regions,
        );
    }
    if let Some(outside) = image.outside {
        let barrier = image
            .barrier((Layout::TRANSFER_SRC_OPTIMAL, Layout::GENERAL))
            .src_access_mask(Access::TRANSFER_READ)
            .src_queue_family_index(image.family())
            .dst_queue_family_index(outside);
        // SAFETY: the caller's contract.
        unsafe { image.record(commands, (Stage::TRANSFER, Stage::ALL_COMMANDS), &[], barrier) };
    }
}
