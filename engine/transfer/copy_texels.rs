//! Copies of all texels between an image over the one span and rows in the other one.
#![expect(unsafe_code, reason = "recording copies between images and buffers")]

use std::sync::Arc;

use ash::vk;

use super::copy::submit_zeroed;
use super::image_commands::{
    ImageUse, acquire_image, copy_buffer_to_image, copy_image_to_buffer, release_image,
};
use super::ownership::outside_family;
use super::scope::Scope;
use super::span::Span;
use crate::device::{DeviceInner, Waits};
use crate::error::Result;
use crate::sync::Fence;

/// A copy of all texels of an image, on the image's device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TexelCopy<'a> {
    /// The image, over the bytes of one of the two spans. It may be copied from and to, and belongs to no queue family.
    pub(crate) image: vk::Image,
    /// Whether the image is over the second span, and the rows are in the first one.
    pub(crate) into_image: bool,
    /// Where rows are in the buffer of the other span: within the span, at multiples of a texel. They are all texels of
    /// the image.
    pub(crate) regions: &'a [vk::BufferImageCopy],
}

/// Copies texels in a submission on the main queue, behind `waits`, and does not wait. With `zero`, all other bytes of
/// `to` become zero; its offset and length are then multiples of 4.
///
/// Both spans are views of `device`. The caller keeps both views and the image alive until the fence signals.
pub(crate) fn copy_texels(
    device: &Arc<DeviceInner>,
    waits: Waits,
    [from, to]: [Span<'_>; 2],
    TexelCopy { image, into_image, regions }: TexelCopy<'_>,
    zero: bool,
) -> Result<Fence> {
    let view = if into_image { to.view } else { from.view };
    let rows = if into_image { from.view } else { to.view }.buffer();
    let image = ImageUse { device, image, outside: Some(outside_family(device, view)) };
    let scope = Scope::TRANSFER;
    submit_zeroed(device, waits, [from, to], zero, |commands| {
        if into_image {
            // SAFETY: the queue began `commands` for the main family. The image is live and may be copied to, and the
            // regions are such, by the caller's contract; the bytes below both were acquired.
            unsafe { copy_buffer_to_image(&image, commands, rows, regions, scope) };
            // SAFETY: as above; the image is in `GENERAL` now.
            unsafe { release_image(&image, commands, scope) };
        } else {
            // SAFETY: as above; the last user has released the image in `GENERAL`.
            unsafe { acquire_image(&image, commands, true, scope) };
            // SAFETY: as above; it also releases the image.
            unsafe { copy_image_to_buffer(&image, commands, rows, regions, scope) };
        }
    })
}
