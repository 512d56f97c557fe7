//! Queue-family ownership transfers between a device and everything outside it.
//!
//! Vulkan, "Queue Family Ownership Transfer" and "External Resource Sharing": for memory that several
//! devices see, ownership is transferred by a release on one and an acquire on the other. Between uses,
//! peerbuf's buffers are owned by an external family (`EXTERNAL` or `FOREIGN_EXT`). Every use acquires first
//! and releases last.
//!
//! Two devices may read a buffer at once. Then the second one acquires what the first has not released, for which
//! "External Resource Sharing" leaves the contents undefined. peerbuf relies on what drivers do for buffers: an acquire
//! from an external family makes caches of the acquiring device invalid, and a release writes back its own. Neither
//! changes bytes that no device writes. The alternative, reads without a transfer, lacks that invalidation.
#![expect(unsafe_code, reason = "recording pipeline barriers")]

use ash::vk;
use smallvec::SmallVec;

use super::scope::Scope;
use super::span::Span;
use crate::device::{DeviceInner, HandleType, QueueKind};
use crate::memory::View;

/// Records that this device's main queue acquires the spans, before `scope` uses them.
///
/// # Safety
///
/// `commands` is being recorded outside a render pass, for the queue family of the main lane of
/// `device`, which is the view's.
pub(crate) unsafe fn acquire(
    device: &DeviceInner,
    commands: vk::CommandBuffer,
    spans: &[Span<'_>],
    scope: Scope,
) {
    // SAFETY: the caller's contract.
    unsafe { acquire_on((device, QueueKind::Main), commands, spans, scope) };
}

/// As [`acquire`], for the queue of any lane. Between two lanes of one device ownership is transferred as
/// between two devices: an external family owns the bytes in between.
///
/// # Safety
///
/// As for [`acquire`], with that lane's family.
pub(super) unsafe fn acquire_on(
    (device, lane): (&DeviceInner, QueueKind),
    commands: vk::CommandBuffer,
    spans: &[Span<'_>],
    scope: Scope,
) {
    let scope = scope.matched();
    let family = device.queue_family(lane);
    let barriers = barriers(spans, |span| {
        barrier(span)
            .dst_access_mask(scope.access)
            .src_queue_family_index(outside_family(device, span.view))
            .dst_queue_family_index(family)
    });
    // ALL_COMMANDS, so that the barrier also waits for earlier work of this queue on the same bytes.
    // SAFETY: the caller's contract; the barriers name live buffers of this device and ranges within
    // them, and exactly one of the two families is an external one (VUID-VkBufferMemoryBarrier-buffer-09095).
    unsafe {
        device.raw().cmd_pipeline_barrier(
            commands,
            vk::PipelineStageFlags::ALL_COMMANDS,
            scope.stages,
            vk::DependencyFlags::empty(),
            &[],
            &barriers,
            &[],
        );
    }
}

/// Records that this device's main queue releases the spans, after `scope` used them.
///
/// # Safety
///
/// As for [`acquire`].
pub(crate) unsafe fn release(
    device: &DeviceInner,
    commands: vk::CommandBuffer,
    spans: &[Span<'_>],
    scope: Scope,
) {
    // SAFETY: the caller's contract.
    unsafe { release_on((device, QueueKind::Main), commands, spans, scope) };
}

/// As [`release`], for the queue of any lane.
///
/// # Safety
///
/// As for [`acquire_on`].
pub(super) unsafe fn release_on(
    (device, lane): (&DeviceInner, QueueKind),
    commands: vk::CommandBuffer,
    spans: &[Span<'_>],
    scope: Scope,
) {
    let scope = scope.matched();
    let family = device.queue_family(lane);
    let barriers = barriers(spans, |span| {
        barrier(span)
            .src_access_mask(scope.access)
            .src_queue_family_index(family)
            .dst_queue_family_index(outside_family(device, span.view))
    });
    // Host accesses to mapped memory wait for a fence, and also need the writes to be available to the host.
    let host = [vk::MemoryBarrier::default()
        .src_access_mask(scope.access)
        .dst_access_mask(vk::AccessFlags::HOST_READ | vk::AccessFlags::HOST_WRITE)];
    // SAFETY: as in `acquire`.
    unsafe {
        device.raw().cmd_pipeline_barrier(
            commands,
            scope.stages,
            vk::PipelineStageFlags::ALL_COMMANDS | vk::PipelineStageFlags::HOST,
            vk::DependencyFlags::empty(),
            &host,
            &barriers,
            &[],
        );
    }
}

/// Barriers of up to eight buffers without the heap.
type Barriers = SmallVec<[vk::BufferMemoryBarrier<'static>; 8]>;

/// A barrier for each span.
#[inline]
fn barriers(
    spans: &[Span<'_>],
    of: impl Fn(&Span<'_>) -> vk::BufferMemoryBarrier<'static>,
) -> Barriers {
    let each = spans.iter().map(of);
    if spans.len() <= Barriers::new().inline_size() {
        return each.collect();
    }
    // A `Vec` does not look at its length for each.
    Barriers::from_vec(each.collect())
}

fn barrier(span: &Span<'_>) -> vk::BufferMemoryBarrier<'static> {
    vk::BufferMemoryBarrier::default().buffer(span.view.buffer()).offset(span.offset).size(span.len)
}

/// The queue family that stands for everything outside the device. An `OPAQUE_FD` is shared with the same
/// driver only, so its family is `EXTERNAL`. Other handles may be shared with another driver; their family is
/// `FOREIGN_EXT` if the extension is enabled.
pub(crate) fn outside_family(device: &DeviceInner, view: &View) -> u32 {
    if view.handle() != HandleType::OpaqueFd && device.has_foreign_queue_family() {
        vk::QUEUE_FAMILY_FOREIGN_EXT
    } else {
        vk::QUEUE_FAMILY_EXTERNAL
    }
}
