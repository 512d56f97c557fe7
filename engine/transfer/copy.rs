//! Copies on one device, between two spans that it sees: the one place that records them.
#![expect(unsafe_code, reason = "recording copy commands")]

use std::ops::Range;
use std::sync::Arc;

use ash::vk;

use super::ownership::{Scope, acquire_on, release_on};
use super::span::Span;
use crate::device::{DeviceInner, Lane, Waits};
use crate::error::Result;
use crate::sync::Fence;

/// Copies `from` to `to`, which have the same length and do not overlap; both are views of `device`,
/// whose main queue waits for `waits` first.
///
/// The caller keeps both views alive until the fence signals. Does not wait.
pub(crate) fn copy(
    device: &Arc<DeviceInner>,
    waits: Waits,
    from: Span<'_>,
    to: Span<'_>,
) -> Result<Fence> {
    debug_assert_eq!(from.len, to.len);
    let region =
        [vk::BufferCopy { src_offset: from.offset, dst_offset: to.offset, size: from.len }];
    submit((device, Lane::Main), waits, &[from, to], |commands| {
        // SAFETY: both buffers are live, of this device and bound, with transfer usages; the region
        // lies within both and, as the caller says, does not overlap itself
        // (VUID-vkCmdCopyBuffer-pRegions-00117).
        unsafe {
            let (from, to) = (from.view.buffer(), to.view.buffer());
            device.raw().cmd_copy_buffer(commands, from, to, &region);
        }
    })
}

/// Copies each first span to its second one, in one submission, on the queue that moves go to. As [`copy`] for
/// each of them otherwise; no two overlap.
pub(crate) fn copy_many(
    device: &Arc<DeviceInner>,
    waits: Waits,
    copies: &[[Span<'_>; 2]],
) -> Result<Fence> {
    debug_assert!(!copies.is_empty() && copies.iter().all(|[from, to]| from.len == to.len));
    // One command for each pair of buffers: slots of a slab share theirs.
    let mut commands_of: Vec<([vk::Buffer; 2], Vec<vk::BufferCopy>)> = Vec::new();
    for [from, to] in copies {
        let pair = [from.view.buffer(), to.view.buffer()];
        let region =
            vk::BufferCopy { src_offset: from.offset, dst_offset: to.offset, size: from.len };
        match commands_of.iter_mut().find(|(of, _)| *of == pair) {
            Some((_, regions)) => regions.push(region),
            None => commands_of.push((pair, vec![region])),
        }
    }
    let lane = device.lane_for_moves();
    submit((device, lane), waits, copies.as_flattened(), |commands| {
        for ([from, to], regions) in &commands_of {
            // SAFETY: as in `copy`; there is a region, none is empty, and none overlaps another one
            // (VUID-vkCmdCopyBuffer-regionCount-arraylength, -pRegions-00117).
            unsafe { device.raw().cmd_copy_buffer(commands, *from, *to, regions) };
        }
    })
}

/// Copies `span` to the beginning of a staging buffer of the same device. The caller has waited for
/// whatever runs on other devices. As [`copy`] otherwise.
pub(crate) fn to_staging(
    device: &Arc<DeviceInner>,
    span: Span<'_>,
    staging: vk::Buffer,
) -> Result<Fence> {
    let region = [vk::BufferCopy { src_offset: span.offset, dst_offset: 0, size: span.len }];
    submit((device, Lane::Main), Waits::default(), &[span], |commands| {
        // SAFETY: both buffers are live, of this device and bound, with transfer usages; the region
        // lies within both.
        unsafe { device.raw().cmd_copy_buffer(commands, span.view.buffer(), staging, &region) };
    })
}

/// The other way round.
pub(crate) fn from_staging(
    device: &Arc<DeviceInner>,
    staging: vk::Buffer,
    span: Span<'_>,
) -> Result<Fence> {
    from_staging_parts(device, staging, span, std::slice::from_ref(&(0..span.len)))
}

/// The same for some parts of `span` alone, of which there is at least one; none is empty, and no two
/// overlap.
pub(crate) fn from_staging_parts(
    device: &Arc<DeviceInner>,
    staging: vk::Buffer,
    span: Span<'_>,
    parts: &[Range<u64>],
) -> Result<Fence> {
    debug_assert!(parts.iter().all(|part| part.start < part.end && part.end <= span.len));
    let region = |part: &Range<u64>| vk::BufferCopy {
        src_offset: part.start,
        dst_offset: span.offset + part.start,
        size: part.end - part.start,
    };
    let regions: Vec<_> = parts.iter().map(region).collect();
    submit((device, Lane::Main), Waits::default(), &[span], |commands| {
        // SAFETY: as in `to_staging`; there is a region, and none is empty or overlaps another one
        // (VUID-vkCmdCopyBuffer-regionCount-arraylength, VUID-VkBufferCopy-size-01988).
        unsafe { device.raw().cmd_copy_buffer(commands, staging, span.view.buffer(), &regions) };
    })
}

/// Fills `span` with zeros. As [`to_staging`] in everything else. Offset and length are multiples of 4.
pub(crate) fn zero(device: &Arc<DeviceInner>, span: Span<'_>) -> Result<Fence> {
    zero_on((device, Lane::Main), span)
}

/// The same on the queue that moves go to, and so ahead of the next [`copy_many`].
pub(crate) fn zero_ahead(device: &Arc<DeviceInner>, span: Span<'_>) -> Result<Fence> {
    zero_on((device, device.lane_for_moves()), span)
}

fn zero_on(at: (&Arc<DeviceInner>, Lane), span: Span<'_>) -> Result<Fence> {
    submit(at, Waits::default(), &[span], |commands| {
        // SAFETY: the buffer is live, of this device, with transfer usage; offset and length are
        // multiples of 4 (VUID-vkCmdFillBuffer-dstOffset-00025, -size-00028): slots are multiples of
        // 256 bytes and are scrubbed as a whole. A queue that only copies fills as well, since Vulkan 1.1
        // (VUID-vkCmdFillBuffer-apiVersion-07894).
        unsafe {
            let (raw, buffer) = (at.0.raw(), span.view.buffer());
            raw.cmd_fill_buffer(commands, buffer, span.offset, span.len, 0);
        }
    })
}

fn submit(
    (device, lane): (&Arc<DeviceInner>, Lane),
    waits: Waits,
    spans: &[Span<'_>],
    mut record: impl FnMut(vk::CommandBuffer),
) -> Result<Fence> {
    debug_assert!(spans.iter().all(|span| Arc::ptr_eq(span.view.device(), device)));
    let value = device.submit_on(lane, waits, |commands| {
        // SAFETY: the queue began `commands` for this lane's family.
        unsafe { acquire_on((device, lane), commands, spans, Scope::TRANSFER) };
        record(commands);
        // SAFETY: as above.
        unsafe { release_on((device, lane), commands, spans, Scope::TRANSFER) };
    })?;
    Ok(Fence::on(device, lane, value))
}
