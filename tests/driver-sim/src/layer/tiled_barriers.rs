//! Where texels of tiled images are copied out of the tiles, and back: the two halves of an ownership transfer with a
//! queue family outside of the device.
//!
//! Vulkan, "Queue Family Ownership Transfer": a driver may do then what another user of the memory needs, and only
//! then. A use without the transfer reads and writes the driver's image alone.

use std::sync::Arc;

use ash::vk;

use super::device::{self, Device};
use super::tiling::Tiled;
use super::{cname, lock};

/// An ownership transfer of a tiled image.
struct Crossing {
    tiled: Arc<Tiled>,
    old: vk::ImageLayout,
    new: vk::ImageLayout,
    /// Whether the image is acquired; otherwise it is released.
    acquired: bool,
}

/// Whether a family is that of another device or instance.
fn is_outside(family: u32) -> bool {
    family == vk::QUEUE_FAMILY_EXTERNAL || family == vk::QUEUE_FAMILY_FOREIGN_EXT
}

impl Crossing {
    fn of(
        device: &Device,
        image: vk::Image,
        (from, to): (u32, u32),
        (old, new): (vk::ImageLayout, vk::ImageLayout),
    ) -> Option<Self> {
        let acquired = is_outside(from);
        if acquired == is_outside(to) {
            return None;
        }
        Some(Self { tiled: device.tiled(image)?, old, new, acquired })
    }

    /// Records the transfer.
    unsafe fn record(&self, device: &Device, commands: vk::CommandBuffer) {
        use vk::ImageLayout as Layout;
        let (image, bytes) = (self.tiled.image, self.tiled.bytes);
        if self.acquired && self.old == Layout::UNDEFINED {
            barrier(device, commands, image, (Layout::UNDEFINED, self.new));
            return;
        }
        let regions = self.tiled.regions();
        if self.acquired {
            let target = Layout::TRANSFER_DST_OPTIMAL;
            barrier(device, commands, image, (Layout::UNDEFINED, target));
            device.fns.cmd_copy_buffer_to_image(commands, bytes, image, target, &regions);
            barrier(device, commands, image, (target, self.new));
        } else {
            let source = Layout::TRANSFER_SRC_OPTIMAL;
            barrier(device, commands, image, (self.old, source));
            device.fns.cmd_copy_image_to_buffer(commands, image, source, bytes, &regions);
            barrier(device, commands, image, (source, self.new));
        }
    }
}

/// Records a barrier between all that comes before and all that comes after it.
unsafe fn barrier(
    device: &Device,
    commands: vk::CommandBuffer,
    image: vk::Image,
    (old, new): (vk::ImageLayout, vk::ImageLayout),
) {
    let all = vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE;
    let stages = vk::PipelineStageFlags::ALL_COMMANDS | vk::PipelineStageFlags::HOST;
    let memory = vk::MemoryBarrier::default().src_access_mask(all).dst_access_mask(all);
    let image = vk::ImageMemoryBarrier::default()
        .image(image)
        .old_layout(old)
        .new_layout(new)
        .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .src_access_mask(all)
        .dst_access_mask(all)
        .subresource_range(vk::ImageSubresourceRange {
            aspect_mask: vk::ImageAspectFlags::COLOR,
            base_mip_level: 0,
            level_count: 1,
            base_array_layer: 0,
            layer_count: 1,
        });
    let flags = vk::DependencyFlags::empty();
    device.fns.cmd_pipeline_barrier(commands, stages, stages, flags, &[memory], &[], &[image]);
}

/// Splits barriers into transfers of tiled images and all others; `None` if there is no such transfer.
fn split<T: Copy>(
    device: &Device,
    barriers: &[T],
    crossing: impl Fn(&T) -> Option<Crossing>,
) -> Option<(Vec<Crossing>, Vec<T>)> {
    if device.physical.fixed.tiled_modifier.is_none() || lock(&device.tiled).is_empty() {
        return None;
    }
    let (mut crossings, mut others) = (Vec::new(), Vec::new());
    for barrier in barriers {
        match crossing(barrier) {
            Some(crossing) => crossings.push(crossing),
            None => others.push(*barrier),
        }
    }
    (!crossings.is_empty()).then_some((crossings, others))
}

/// Records the releases, the other barriers, and the acquires.
unsafe fn around(
    device: &Device,
    commands: vk::CommandBuffer,
    crossings: &[Crossing],
    others: impl FnOnce(),
) {
    for crossing in crossings.iter().filter(|crossing| !crossing.acquired) {
        crossing.record(device, commands);
    }
    others();
    for crossing in crossings.iter().filter(|crossing| crossing.acquired) {
        crossing.record(device, commands);
    }
}

/// A list of a command; its pointer may be null if it is empty.
unsafe fn list<'a, T>(items: *const T, count: u32) -> &'a [T] {
    if count == 0 { &[] } else { std::slice::from_raw_parts(items, count as usize) }
}

pub(super) unsafe extern "system" fn pipeline_barrier(
    raw: vk::CommandBuffer,
    from: vk::PipelineStageFlags,
    to: vk::PipelineStageFlags,
    flags: vk::DependencyFlags,
    memory_count: u32,
    memory: *const vk::MemoryBarrier<'_>,
    buffer_count: u32,
    buffers: *const vk::BufferMemoryBarrier<'_>,
    image_count: u32,
    images: *const vk::ImageMemoryBarrier<'_>,
) {
    let device = device::of_commands(raw);
    let crossing = |one: &vk::ImageMemoryBarrier<'_>| {
        let families = (one.src_queue_family_index, one.dst_queue_family_index);
        Crossing::of(&device, one.image, families, (one.old_layout, one.new_layout))
    };
    let next = device.fns.fp_v1_0().cmd_pipeline_barrier;
    let pass_on = |count: u32, images: *const vk::ImageMemoryBarrier<'_>| {
        next(
            raw,
            from,
            to,
            flags,
            memory_count,
            memory.cast(),
            buffer_count,
            buffers.cast(),
            count,
            images.cast(),
        );
    };
    match split(&device, list(images, image_count), crossing) {
        None => pass_on(image_count, images),
        Some((crossings, others)) => around(&device, raw, &crossings, || {
            // CAST: no more than `image_count`.
            pass_on(others.len() as u32, others.as_ptr());
        }),
    }
}

pub(super) unsafe extern "system" fn pipeline_barrier2(
    raw: vk::CommandBuffer,
    info: *const vk::DependencyInfo<'_>,
) {
    let device = device::of_commands(raw);
    let next = device
        .next::<vk::PFN_vkCmdPipelineBarrier2>(cname!("vkCmdPipelineBarrier2").as_ptr())
        .or_else(|| device.next(cname!("vkCmdPipelineBarrier2KHR").as_ptr()));
    let Some(next) = next else { return };
    let images = list((*info).p_image_memory_barriers, (*info).image_memory_barrier_count);
    let crossing = |one: &vk::ImageMemoryBarrier2<'_>| {
        let families = (one.src_queue_family_index, one.dst_queue_family_index);
        Crossing::of(&device, one.image, families, (one.old_layout, one.new_layout))
    };
    match split(&device, images, crossing) {
        None => next(raw, info.cast()),
        Some((crossings, others)) => around(&device, raw, &crossings, || {
            let mut own = *info;
            own.p_image_memory_barriers = others.as_ptr();
            // CAST: no more than there were.
            own.image_memory_barrier_count = others.len() as u32;
            next(raw, (&raw const own).cast());
        }),
    }
}
