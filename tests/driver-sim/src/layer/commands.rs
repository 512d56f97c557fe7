//! Command pools and copies.

use ash::vk;

use super::device::{self, Device};
use super::{cname, lock, report};
use crate::config::CopyEngine;

pub(super) unsafe extern "system" fn create_pool(
    raw: vk::Device,
    info: *const vk::CommandPoolCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::CommandPool,
) -> vk::Result {
    let device = device::of(raw);
    let mut own = *info;
    own.queue_family_index = device.families.family(own.queue_family_index);
    let result = (device.fns.fp_v1_0().create_command_pool)(
        raw,
        (&raw const own).cast(),
        allocator.cast(),
        out,
    );
    if result == vk::Result::SUCCESS {
        lock(&device.pools).insert(*out, (*info).queue_family_index);
    }
    result
}

pub(super) unsafe extern "system" fn destroy_pool(
    raw: vk::Device,
    pool: vk::CommandPool,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = device::of(raw);
    lock(&device.pools).remove(&pool);
    device.fns.destroy_command_pool(pool, allocator.as_ref());
}

pub(super) unsafe extern "system" fn allocate(
    raw: vk::Device,
    info: *const vk::CommandBufferAllocateInfo<'_>,
    out: *mut vk::CommandBuffer,
) -> vk::Result {
    let device = device::of(raw);
    let result = (device.fns.fp_v1_0().allocate_command_buffers)(raw, info.cast(), out);
    if result == vk::Result::SUCCESS {
        let family = lock(&device.pools).get(&(*info).command_pool).copied().unwrap_or(0);
        let mut commands = lock(&device.commands);
        for at in 0..(*info).command_buffer_count as usize {
            // A buffer that was freed leaves its entry; the next one at its address takes it.
            commands.insert(*out.add(at), family);
        }
    }
    result
}

pub(super) unsafe extern "system" fn copy_buffer(
    raw: vk::CommandBuffer,
    from: vk::Buffer,
    to: vk::Buffer,
    count: u32,
    regions: *const vk::BufferCopy,
) {
    let device = device::of_commands(raw);
    if !lies(&device, raw, from, to, || {
        std::slice::from_raw_parts(regions, count as usize)
            .iter()
            .map(|r| (r.dst_offset, r.size))
            .collect()
    }) {
        (device.fns.fp_v1_0().cmd_copy_buffer)(raw, from, to, count, regions);
    }
}

pub(super) unsafe extern "system" fn copy_buffer2(
    raw: vk::CommandBuffer,
    info: *const vk::CopyBufferInfo2<'_>,
) {
    let device = device::of_commands(raw);
    let info = &*info;
    if lies(&device, raw, info.src_buffer, info.dst_buffer, || {
        let regions = std::slice::from_raw_parts(info.p_regions, info.region_count as usize);
        regions.iter().map(|region| (region.dst_offset, region.size)).collect()
    }) {
        return;
    }
    let next = device
        .next::<vk::PFN_vkCmdCopyBuffer2>(cname!("vkCmdCopyBuffer2").as_ptr())
        .or_else(|| device.next(cname!("vkCmdCopyBuffer2KHR").as_ptr()));
    if let Some(next) = next {
        next(raw, std::ptr::from_ref(info).cast());
    }
}

/// Records what a copy engine does that sees other bytes than shaders: a copy out of imported memory delivers
/// a pattern, a copy into it does not arrive. `false` if the copy is as recorded.
unsafe fn lies(
    device: &Device,
    commands: vk::CommandBuffer,
    from: vk::Buffer,
    to: vk::Buffer,
    regions: impl FnOnce() -> Vec<(u64, u64)>,
) -> bool {
    const PATTERN: u32 = 0x5a5a_5a5a;
    let Some(whose) = device.switches().copy_engine_lies else {
        return false;
    };
    if whose == CopyEngine::Transfer && !device.is_transfer_only(commands) {
        return false;
    }
    let (reads, writes) = (device.is_import(from), device.is_import(to));
    if !reads && !writes {
        return false;
    }
    report::event("copy_engine_lies", format_args!("{}", device.label()));
    if !writes {
        for (offset, size) in regions() {
            let begin = offset.next_multiple_of(4);
            let end = (offset + size) / 4 * 4;
            if end > begin {
                device.fns.cmd_fill_buffer(commands, to, begin, end - begin, PATTERN);
            }
        }
    }
    true
}

impl Device {
    fn is_transfer_only(&self, commands: vk::CommandBuffer) -> bool {
        let family = lock(&self.commands).get(&commands).copied().unwrap_or(0);
        let families = self.physical.families();
        let others = vk::QueueFlags::GRAPHICS | vk::QueueFlags::COMPUTE;
        families.get(family as usize).is_some_and(|family| !family.queue_flags.intersects(others))
    }
}
