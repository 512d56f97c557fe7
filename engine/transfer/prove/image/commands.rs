//! Copies between the image of a probe and a buffer in which its planes are without padding.
#![expect(unsafe_code, reason = "recording copies of images")]

use std::ops::Range;

use ash::vk;

use super::texels::{ProbePlane, spans};
use crate::transfer::image_commands::ImageUse;

/// The aspect of a plane of a format with so many planes.
pub(super) fn aspect(plane: usize, planes: usize) -> vk::ImageAspectFlags {
    match (planes, plane) {
        (0 | 1, _) => vk::ImageAspectFlags::COLOR,
        (_, 0) => vk::ImageAspectFlags::PLANE_0,
        (_, 1) => vk::ImageAspectFlags::PLANE_1,
        _ => vk::ImageAspectFlags::PLANE_2,
    }
}

/// Each plane, as a region of a copy. It begins at a multiple of 16 bytes of the buffer.
pub(super) fn regions(planes: &[ProbePlane]) -> Vec<vk::BufferImageCopy> {
    let region = |(at, (plane, span)): (usize, (&ProbePlane, Range<u64>))| {
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

/// Records a copy of all planes of an image that stays in the layout `GENERAL`.
///
/// # Safety
///
/// `commands` is being recorded for the main queue of the image's device, which has acquired the image for transfers. The
/// image has these planes and the usage `TRANSFER_SRC`; the buffer is of the device, large enough, and has the usage
/// `TRANSFER_DST`.
pub(super) unsafe fn read(
    image: &ImageUse<'_>,
    commands: vk::CommandBuffer,
    planes: &[ProbePlane],
    buffer: vk::Buffer,
) {
    let (raw, layout) = (image.device.raw(), vk::ImageLayout::GENERAL);
    // SAFETY: the caller's contract (VUID-vkCmdCopyImageToBuffer-srcImageLayout-00189).
    unsafe {
        raw.cmd_copy_image_to_buffer(commands, image.image, layout, buffer, &regions(planes));
    }
}
