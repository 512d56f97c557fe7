//! The heap that a device's domain is the ledger of.
#![expect(unsafe_code, reason = "the memory requirements of a buffer")]

use super::domain_id::DomainKind;
use super::memory_type::{self, Wanted};
use super::view_create::{create_buffer, exported_handle};
use crate::device::{DeviceInner, SHARED_BUFFER_USAGE};

/// The index of the heap from which shared buffers in the device's own memory are allocated.
///
/// It is the heap of the memory type that [`super::view::View::export`] chooses. Which types suit a buffer depends on
/// its usage and handle type only (Vulkan, `VkMemoryRequirements`), so one small buffer answers for all. If the
/// device exports nothing, the answer is the largest device-local heap.
pub(crate) fn vram_heap(device: &DeviceInner) -> usize {
    let adapter = device.adapter();
    let types = adapter.memory_types();
    let bits = exported_types(device).unwrap_or(u32::MAX);
    let wanted = Wanted::for_domain(DomainKind::Vram, adapter.shares_system_memory());
    memory_type::choose(types, adapter.heaps(), bits, wanted)
        .and_then(|index| types.get(index as usize))
        .map_or(0, |kind| kind.heap as usize)
}

/// The memory types that suit a shared buffer in exported memory; `None` if they cannot be found out.
fn exported_types(device: &DeviceInner) -> Option<u32> {
    const SIZE: u64 = 4096;
    let handle = exported_handle(device)?;
    let buffer = create_buffer(device, SIZE, handle, SHARED_BUFFER_USAGE).ok()?;
    // SAFETY: the buffer is live.
    let requirements = unsafe { device.raw().get_buffer_memory_requirements(buffer) };
    // SAFETY: created above, bound to nothing, and used by nothing.
    unsafe { device.raw().destroy_buffer(buffer, None) };
    Some(requirements.memory_type_bits)
}
