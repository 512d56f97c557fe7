//! Copies on one device, between two spans that it sees. All copy commands are recorded here.
#![expect(unsafe_code, reason = "recording copy commands")]

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use ash::vk;

use super::ownership::{acquire_on, release_on};
use super::scope::Scope;
use super::span::Span;
use crate::device::{DeviceInner, QueueKind, Stamp, Timestamps, Waits};
use crate::error::Result;
use crate::sync::Fence;

/// Submits a copy of `from` to `to` on the device's main queue, behind `waits`. Does not wait.
///
/// Both spans are views of `device`, have the same length and do not overlap. The caller keeps both views
/// alive until the fence signals.
pub(crate) fn copy(
    device: &Arc<DeviceInner>,
    waits: Waits,
    from: Span<'_>,
    to: Span<'_>,
) -> Result<Fence> {
    copy_on((device, QueueKind::Main), waits, [from, to], None)
}

/// As [`copy`], on a given queue, between two timestamps. The caller keeps these alive until the fence signals.
pub(crate) fn copy_on(
    lane: (&Arc<DeviceInner>, QueueKind),
    waits: Waits,
    [from, to]: [Span<'_>; 2],
    stamps: Option<&Timestamps>,
) -> Result<Fence> {
    debug_assert_eq!(from.len, to.len);
    let device = lane.0;
    let region =
        [vk::BufferCopy { src_offset: from.offset, dst_offset: to.offset, size: from.len }];
    let stamp = |commands, which| {
        if let Some(stamps) = stamps {
            // SAFETY: they were made for this queue, and the caller keeps them alive. Of several recordings, which follow
            // each other if the driver is out of memory, one is executed.
            unsafe { stamps.write(commands, which) };
        }
    };
    submit(lane, waits, &[from, to], |commands| {
        stamp(commands, Stamp::Begin);
        // SAFETY: both buffers are live, of this device and bound, with transfer usages; the region
        // lies within both and, by the caller's contract, does not overlap itself
        // (VUID-vkCmdCopyBuffer-pRegions-00117).
        unsafe {
            let (from, to) = (from.view.buffer(), to.view.buffer());
            device.raw().cmd_copy_buffer(commands, from, to, &region);
        }
        stamp(commands, Stamp::End);
    })
}

/// Copies each first span to its second one, in one submission on the queue for moves. Otherwise as [`copy`]
/// for each pair; no two pairs overlap.
///
/// `tails` are filled with zeros before the copies. Their offsets and lengths are multiples of 4. A tail may
/// begin with the last bytes that a copy writes; the copied bytes stay.
pub(crate) fn copy_many(
    device: &Arc<DeviceInner>,
    waits: Waits,
    copies: &[[Span<'_>; 2]],
    tails: &[Span<'_>],
) -> Result<Fence> {
    debug_assert!(!copies.is_empty() && copies.iter().all(|[from, to]| from.len == to.len));
    // One command for each pair of buffers: the slots of a slab share one buffer.
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
    if device.calls().device_faults().is_some_and(|faults| faults.blind_moves) {
        commands_of.clear();
    }
    let lane = device.queue_for_moves();
    submit((device, lane), waits, &merged_spans(copies, tails), |commands| {
        for tail in tails {
            fill_with_zeros(device, commands, tail);
        }
        if !tails.is_empty() {
            barrier_between_writes(device, commands);
        }
        for ([from, to], regions) in &commands_of {
            // SAFETY: as in `copy`; there is a region, none is empty, and none overlaps another one
            // (VUID-vkCmdCopyBuffer-regionCount-arraylength, -pRegions-00117).
            unsafe { device.raw().cmd_copy_buffer(commands, *from, *to, regions) };
        }
    })
}

/// Copies parts of `from` to parts of `to`, in one submission on the queue for moves. Their offsets are counted from the
/// beginning of the spans. There is at least one part; none is empty, and no two overlap in `to`. Otherwise as [`copy`].
///
/// `zeros` of `to` are filled with zeros before the copies. Offset and length of `to` are then multiples of 4. Where they
/// are not whole words, bytes beside them are filled as well; what parts write there stays.
pub(crate) fn copy_parts(
    device: &Arc<DeviceInner>,
    waits: Waits,
    [from, to]: [Span<'_>; 2],
    parts: &[vk::BufferCopy],
    zeros: &[Range<u64>],
) -> Result<Fence> {
    let fits = |part: &vk::BufferCopy| {
        part.src_offset + part.size <= from.len && part.dst_offset + part.size <= to.len
    };
    debug_assert!(!parts.is_empty() && parts.iter().all(fits));
    let regions: Vec<_> = parts
        .iter()
        .map(|part| vk::BufferCopy {
            src_offset: from.offset + part.src_offset,
            dst_offset: to.offset + part.dst_offset,
            size: part.size,
        })
        .collect();
    submit((device, device.queue_for_moves()), waits, &[from, to], |commands| {
        for range in zeros {
            let (start, end) = (range.start & !3, range.end.next_multiple_of(4));
            fill_with_zeros(device, commands, &to.slice(start, end - start));
        }
        if !zeros.is_empty() {
            barrier_between_writes(device, commands);
        }
        let (from, to) = (from.view.buffer(), to.view.buffer());
        for regions in regions.chunks(MOST_REGIONS) {
            // SAFETY: as in `copy_many`.
            unsafe { device.raw().cmd_copy_buffer(commands, from, to, regions) };
        }
    })
}

/// Submits to the main queue, behind `waits`, what `record` records about two spans, which it finds acquired. With
/// `zero`, the second one is zero by then; its offset and length are multiples of 4.
pub(super) fn submit_zeroed(
    device: &Arc<DeviceInner>,
    waits: Waits,
    [from, to]: [Span<'_>; 2],
    zero: bool,
    mut record: impl FnMut(vk::CommandBuffer),
) -> Result<Fence> {
    submit((device, QueueKind::Main), waits, &[from, to], |commands| {
        if zero {
            fill_with_zeros(device, commands, &to);
            barrier_between_writes(device, commands);
        }
        record(commands);
    })
}

/// The most regions of one command: drivers keep a copy of them, some in one piece.
const MOST_REGIONS: usize = 1 << 12;

/// All spans that such a submission uses. A tail is merged with the copy that it follows, so that ownership of
/// no byte is transferred twice.
fn merged_spans<'a>(copies: &'a [[Span<'a>; 2]], tails: &[Span<'a>]) -> Cow<'a, [Span<'a>]> {
    let mut spans = Cow::Borrowed(copies.as_flattened());
    for tail in tails {
        let spans = spans.to_mut();
        let begins_in = |span: &&mut Span<'_>| {
            span.view.buffer() == tail.view.buffer()
                && (span.offset..=span.offset + span.len).contains(&tail.offset)
        };
        match spans.iter_mut().find(begins_in) {
            Some(span) => span.len = span.len.max(tail.offset + tail.len - span.offset),
            None => spans.push(*tail),
        }
    }
    spans
}

/// Records a barrier: every write so far completes before any copy that follows.
fn barrier_between_writes(device: &DeviceInner, commands: vk::CommandBuffer) {
    let written = [vk::MemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
        .dst_access_mask(vk::AccessFlags::TRANSFER_WRITE)];
    let stage = vk::PipelineStageFlags::TRANSFER;
    let flags = vk::DependencyFlags::empty();
    // SAFETY: `commands` is being recorded, for a queue that copies, outside a render pass; the accesses are
    // those of the stage (VUID-vkCmdPipelineBarrier-srcAccessMask-02815, -dstAccessMask-02816).
    unsafe {
        device.raw().cmd_pipeline_barrier(commands, stage, stage, flags, &written, &[], &[]);
    }
}

/// Copies `span` to the beginning of a staging buffer of the same device, behind `waits`. Otherwise as [`copy`].
pub(crate) fn to_staging(
    device: &Arc<DeviceInner>,
    waits: Waits,
    span: Span<'_>,
    staging: vk::Buffer,
) -> Result<Fence> {
    let region = [vk::BufferCopy { src_offset: span.offset, dst_offset: 0, size: span.len }];
    submit((device, QueueKind::Main), waits, &[span], |commands| {
        // SAFETY: both buffers are live, of this device and bound, with transfer usages; the region
        // lies within both.
        unsafe { device.raw().cmd_copy_buffer(commands, span.view.buffer(), staging, &region) };
    })
}

/// Copies the beginning of a staging buffer to `span`. Otherwise as [`to_staging`].
pub(crate) fn from_staging(
    device: &Arc<DeviceInner>,
    waits: Waits,
    staging: vk::Buffer,
    span: Span<'_>,
) -> Result<Fence> {
    from_staging_parts(device, waits, staging, span, std::slice::from_ref(&(0..span.len)))
}

/// Copies only some parts of a staging buffer to the same parts of `span`. There is at least one part; none is
/// empty, and no two overlap. Otherwise as [`from_staging`].
pub(crate) fn from_staging_parts(
    device: &Arc<DeviceInner>,
    waits: Waits,
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
    submit((device, QueueKind::Main), waits, &[span], |commands| {
        // SAFETY: as in `to_staging`; there is a region, and none is empty or overlaps another one
        // (VUID-vkCmdCopyBuffer-regionCount-arraylength, VUID-VkBufferCopy-size-01988).
        unsafe { device.raw().cmd_copy_buffer(commands, staging, span.view.buffer(), &regions) };
    })
}

/// Fills `span` with zeros. Its offset and length are multiples of 4. The caller has waited for all work of other
/// devices. Otherwise as [`copy`].
pub(crate) fn zero(device: &Arc<DeviceInner>, span: Span<'_>) -> Result<Fence> {
    submit((device, QueueKind::Main), Waits::default(), &[span], |commands| {
        fill_with_zeros(device, commands, &span);
    })
}

fn fill_with_zeros(device: &DeviceInner, commands: vk::CommandBuffer, span: &Span<'_>) {
    let buffer = span.view.buffer();
    // SAFETY: the buffer is live, of this device, with transfer usage; offset and length are multiples of 4
    // (VUID-vkCmdFillBuffer-dstOffset-00025, -size-00028), by the callers' contract. Transfer-only queues
    // support fills since Vulkan 1.1 (VUID-vkCmdFillBuffer-apiVersion-07894).
    unsafe { device.raw().cmd_fill_buffer(commands, buffer, span.offset, span.len, 0) };
}

fn submit(
    (device, lane): (&Arc<DeviceInner>, QueueKind),
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
