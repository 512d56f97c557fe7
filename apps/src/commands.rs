//! Commands that copies into images of a swapchain have in common.
#![expect(unsafe_code, reason = "barriers on a live device")]

use ash::vk;
use peerbuf::Device;

/// The only level and layer of an image.
pub fn layers() -> vk::ImageSubresourceLayers {
    vk::ImageSubresourceLayers {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        mip_level: 0,
        base_array_layer: 0,
        layer_count: 1,
    }
}

/// The same, for barriers and clears.
pub fn range() -> vk::ImageSubresourceRange {
    vk::ImageSubresourceRange {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        base_mip_level: 0,
        level_count: 1,
        base_array_layer: 0,
        layer_count: 1,
    }
}

/// A rectangle of an image, and rows without gaps in a buffer.
pub fn region(
    buffer_offset: u64,
    [x, y]: [u32; 2],
    [width, height]: [u32; 2],
) -> vk::BufferImageCopy {
    vk::BufferImageCopy {
        buffer_offset,
        image_subresource: layers(),
        // CAST: far below 2^31.
        image_offset: vk::Offset3D { x: x as i32, y: y as i32, z: 0 },
        image_extent: vk::Extent3D { width, height, depth: 1 },
        ..Default::default()
    }
}

/// Orders copies of an image, and changes its layout.
///
/// # Safety
///
/// `commands` is being recorded for the device, and the image is in the first layout. If it was acquired from a swapchain,
/// the submission waits for its semaphore before any stage.
pub unsafe fn barrier(
    device: &Device,
    commands: vk::CommandBuffer,
    image: vk::Image,
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
        .image(image)
        .subresource_range(range())];
    let (copy, none) = (vk::PipelineStageFlags::TRANSFER, vk::DependencyFlags::empty());
    // SAFETY: the caller's contract.
    unsafe { device.raw().cmd_pipeline_barrier(commands, copy, copy, none, &[], &[], &all) };
}

/// Makes what was copied visible to the host.
///
/// # Safety
///
/// `commands` is being recorded for the device.
pub unsafe fn for_host(device: &Device, commands: vk::CommandBuffer) {
    let copied = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
        .dst_access_mask(vk::AccessFlags::HOST_READ)];
    let (copy, host) = (vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::HOST);
    let none = vk::DependencyFlags::empty();
    // SAFETY: the caller's contract.
    unsafe { device.raw().cmd_pipeline_barrier(commands, copy, host, none, &copied, &[], &[]) };
}
