//! Commands outside render passes, and what shaders use.

use std::collections::HashMap;
use std::sync::Arc;

use ash::vk;

use super::area::Rect;
use super::device::{Device, of_handle};
use super::lock;
use super::objects::Objects;
use super::part::{Barrier, Use};
use super::places::{Op, Parts};

/// A command buffer.
#[derive(Default)]
pub(super) struct Recording {
    ops: Arc<Vec<Op>>,
    sets: HashMap<(vk::PipelineBindPoint, u32), vk::DescriptorSet>,
    /// What happens at the end of the render pass.
    pub(super) at_end: Vec<Op>,
}

impl Recording {
    pub(super) fn ops(&self) -> Arc<Vec<Op>> {
        Arc::clone(&self.ops)
    }

    pub(super) fn add(&mut self, ops: impl IntoIterator<Item = Op>) {
        // Submissions that hold the list are of commands which are not recorded any more.
        Arc::make_mut(&mut self.ops).extend(ops);
    }
}

/// Adds what a command does. `list` says it of the objects of the device.
///
/// # Safety
/// `commands` is being recorded.
pub(super) unsafe fn record(
    commands: vk::CommandBuffer,
    list: impl FnOnce(&Objects) -> Vec<Op>,
) -> Arc<Device> {
    let device = of_handle(commands);
    let mut objects = lock(&device.objects);
    let ops = list(&objects);
    if !ops.is_empty() {
        objects.commands.entry(commands).or_default().add(ops);
    }
    drop(objects);
    device
}

/// The items of a list of Vulkan.
///
/// # Safety
/// `first` points at `count` items, or `count` is 0.
pub(super) unsafe fn list<'a, T>(first: *const T, count: u32) -> &'a [T] {
    if count == 0 { &[] } else { std::slice::from_raw_parts(first, count as usize) }
}

pub(super) unsafe extern "system" fn begin(
    commands: vk::CommandBuffer,
    info: *const vk::CommandBufferBeginInfo<'_>,
) -> vk::Result {
    let device = of_handle(commands);
    lock(&device.objects).commands.insert(commands, Recording::default());
    (device.fns.fp_v1_0().begin_command_buffer)(commands, info)
}

pub(super) unsafe extern "system" fn free(
    raw: vk::Device,
    pool: vk::CommandPool,
    count: u32,
    commands: *const vk::CommandBuffer,
) {
    let device = of_handle(raw);
    let mut objects = lock(&device.objects);
    for freed in list(commands, count) {
        objects.commands.remove(freed);
    }
    drop(objects);
    (device.fns.fp_v1_0().free_command_buffers)(raw, pool, count, commands);
}

// ---- barriers ----

pub(super) unsafe extern "system" fn barrier(
    commands: vk::CommandBuffer,
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
    let device = record(commands, |objects| {
        let images = list(images, image_count).iter().filter_map(|image| {
            let seen = Arc::clone(objects.image(image.image)?);
            Some(Op::Barrier {
                parts: Parts::of(&image.subresource_range, &seen),
                seen,
                barrier: Barrier {
                    old: image.old_layout,
                    new: image.new_layout,
                    src: image.src_queue_family_index,
                    dst: image.dst_queue_family_index,
                },
                command: "vkCmdPipelineBarrier",
            })
        });
        images.collect()
    });
    (device.fns.fp_v1_0().cmd_pipeline_barrier)(
        commands,
        from,
        to,
        flags,
        memory_count,
        memory,
        buffer_count,
        buffers,
        image_count,
        images,
    );
}

pub(super) unsafe extern "system" fn barrier2(
    commands: vk::CommandBuffer,
    info: *const vk::DependencyInfo<'_>,
) {
    let device = record(commands, |objects| {
        let info = &*info;
        let images = list(info.p_image_memory_barriers, info.image_memory_barrier_count);
        let barriers = images.iter().filter_map(|image| {
            let seen = Arc::clone(objects.image(image.image)?);
            Some(Op::Barrier {
                parts: Parts::of(&image.subresource_range, &seen),
                seen,
                barrier: Barrier {
                    old: image.old_layout,
                    new: image.new_layout,
                    src: image.src_queue_family_index,
                    dst: image.dst_queue_family_index,
                },
                command: "vkCmdPipelineBarrier2",
            })
        });
        barriers.collect()
    });
    if let Some(next) = device.next.barrier2 {
        next(commands, info);
    }
}

// ---- copies ----

/// Bytes that are used as those of a buffer, from `offset` on. How many there are does not matter for a copy of texels:
/// the state of an image is that of all of its bytes.
fn bytes(
    objects: &Objects,
    buffer: vk::Buffer,
    (offset, size): (u64, u64),
    writes: bool,
    command: &'static str,
) -> Option<Op> {
    let (store, at, all) = objects.buffer(buffer)?;
    let size = if size == vk::WHOLE_SIZE { all.saturating_sub(offset) } else { size };
    let from = at + offset;
    Some(Op::Bytes { store, range: from..from.saturating_add(size), writes, command })
}

fn texels(
    objects: &Objects,
    image: vk::Image,
    (layout, writes): (vk::ImageLayout, bool),
    (layers, rect): (&vk::ImageSubresourceLayers, Rect),
    command: &'static str,
) -> Option<Op> {
    let seen = Arc::clone(objects.image(image)?);
    let parts = Parts::of_layers(layers, &seen);
    let usage = Use { layout: Some(layout), reads: !writes, writes, rect };
    Some(Op::Use { seen, parts, usage, command })
}

pub(super) unsafe extern "system" fn copy_buffer(
    commands: vk::CommandBuffer,
    src: vk::Buffer,
    dst: vk::Buffer,
    count: u32,
    regions: *const vk::BufferCopy,
) {
    const COMMAND: &str = "vkCmdCopyBuffer";
    let device = record(commands, |objects| {
        let regions = list(regions, count).iter().flat_map(|region| {
            let (from, to) = ((region.src_offset, region.size), (region.dst_offset, region.size));
            let read = bytes(objects, src, from, false, COMMAND);
            read.into_iter().chain(bytes(objects, dst, to, true, COMMAND))
        });
        regions.collect()
    });
    (device.fns.fp_v1_0().cmd_copy_buffer)(commands, src, dst, count, regions);
}

pub(super) unsafe extern "system" fn copy_buffer2(
    commands: vk::CommandBuffer,
    info: *const vk::CopyBufferInfo2<'_>,
) {
    const COMMAND: &str = "vkCmdCopyBuffer2";
    let device = record(commands, |objects| {
        let info = &*info;
        let regions = list(info.p_regions, info.region_count).iter().flat_map(|region| {
            let (from, to) = ((region.src_offset, region.size), (region.dst_offset, region.size));
            let read = bytes(objects, info.src_buffer, from, false, COMMAND);
            read.into_iter().chain(bytes(objects, info.dst_buffer, to, true, COMMAND))
        });
        regions.collect()
    });
    if let Some(next) = device.next.copy_buffer2 {
        next(commands, info);
    }
}

pub(super) unsafe extern "system" fn fill_buffer(
    commands: vk::CommandBuffer,
    dst: vk::Buffer,
    offset: u64,
    size: u64,
    data: u32,
) {
    let device = record(commands, |objects| {
        bytes(objects, dst, (offset, size), true, "vkCmdFillBuffer").into_iter().collect()
    });
    (device.fns.fp_v1_0().cmd_fill_buffer)(commands, dst, offset, size, data);
}

pub(super) unsafe extern "system" fn update_buffer(
    commands: vk::CommandBuffer,
    dst: vk::Buffer,
    offset: u64,
    size: u64,
    data: *const std::ffi::c_void,
) {
    let device = record(commands, |objects| {
        bytes(objects, dst, (offset, size), true, "vkCmdUpdateBuffer").into_iter().collect()
    });
    (device.fns.fp_v1_0().cmd_update_buffer)(commands, dst, offset, size, data.cast());
}

/// What a copy from image to image does, whose regions have these names.
macro_rules! between_images {
    ($objects:expr, $regions:expr, $src:expr, $dst:expr, $command:expr, $rect:expr) => {{
        let regions = $regions.iter().flat_map(|region| {
            let [from, to] = $rect(region);
            let read = texels(
                $objects,
                $src.0,
                ($src.1, false),
                (&region.src_subresource, from),
                $command,
            );
            read.into_iter().chain(texels(
                $objects,
                $dst.0,
                ($dst.1, true),
                (&region.dst_subresource, to),
                $command,
            ))
        });
        regions.collect()
    }};
}

/// The texels of a copy without scaling.
macro_rules! rects {
    ($region:ty) => {
        |region: &$region| {
            [region.src_offset, region.dst_offset].map(|at| Rect::of_region(at, region.extent))
        }
    };
}

/// The texels of a blit.
macro_rules! corners {
    ($region:ty) => {
        |region: &$region| [region.src_offsets, region.dst_offsets].map(Rect::between)
    };
}

macro_rules! image_to_image {
    ($name:ident, $two:ident, $next:ident, $command:literal, $region:ty, $region2:ty, $info:ty, $rects:ident
     $(, $extra:ident: $kind:ty)?) => {
        pub(super) unsafe extern "system" fn $name(
            commands: vk::CommandBuffer,
            src: vk::Image,
            src_layout: vk::ImageLayout,
            dst: vk::Image,
            dst_layout: vk::ImageLayout,
            count: u32,
            regions: *const $region,
            $($extra: $kind,)?
        ) {
            let device = record(commands, |objects| {
                let (from, to) = ((src, src_layout), (dst, dst_layout));
                between_images!(objects, list(regions, count), from, to, $command, $rects!($region))
            });
            (device.fns.fp_v1_0().$next)(
                commands, src, src_layout, dst, dst_layout, count, regions, $($extra,)?
            );
        }

        pub(super) unsafe extern "system" fn $two(commands: vk::CommandBuffer, info: *const $info) {
            let device = record(commands, |objects| {
                let info = &*info;
                let from = (info.src_image, info.src_image_layout);
                let to = (info.dst_image, info.dst_image_layout);
                let regions = list(info.p_regions, info.region_count);
                between_images!(objects, regions, from, to, concat!($command, "2"), $rects!($region2))
            });
            if let Some(next) = device.next.$two {
                next(commands, info);
            }
        }
    };
}

image_to_image!(
    copy_image,
    copy_image2,
    cmd_copy_image,
    "vkCmdCopyImage",
    vk::ImageCopy,
    vk::ImageCopy2<'_>,
    vk::CopyImageInfo2<'_>,
    rects
);
image_to_image!(
    resolve,
    resolve2,
    cmd_resolve_image,
    "vkCmdResolveImage",
    vk::ImageResolve,
    vk::ImageResolve2<'_>,
    vk::ResolveImageInfo2<'_>,
    rects
);
image_to_image!(
    blit, blit2, cmd_blit_image, "vkCmdBlitImage",
    vk::ImageBlit, vk::ImageBlit2<'_>, vk::BlitImageInfo2<'_>, corners, filter: vk::Filter
);

/// What a copy between a buffer and an image does.
macro_rules! with_buffer {
    ($objects:expr, $regions:expr, $buffer:expr, $image:expr, $to_image:literal, $command:expr) => {{
        let regions = $regions.iter().flat_map(|region| {
            let rect = Rect::of_region(region.image_offset, region.image_extent);
            let at = (region.buffer_offset, 1);
            let parts = (&region.image_subresource, rect);
            let image = texels($objects, $image.0, ($image.1, $to_image), parts, $command);
            bytes($objects, $buffer, at, !$to_image, $command).into_iter().chain(image)
        });
        regions.collect()
    }};
}

pub(super) unsafe extern "system" fn to_image(
    commands: vk::CommandBuffer,
    src: vk::Buffer,
    dst: vk::Image,
    layout: vk::ImageLayout,
    count: u32,
    regions: *const vk::BufferImageCopy,
) {
    let device = record(commands, |objects| {
        let (regions, image) = (list(regions, count), (dst, layout));
        with_buffer!(objects, regions, src, image, true, "vkCmdCopyBufferToImage")
    });
    (device.fns.fp_v1_0().cmd_copy_buffer_to_image)(commands, src, dst, layout, count, regions);
}

pub(super) unsafe extern "system" fn to_image2(
    commands: vk::CommandBuffer,
    info: *const vk::CopyBufferToImageInfo2<'_>,
) {
    let device = record(commands, |objects| {
        let info = &*info;
        let regions = list(info.p_regions, info.region_count);
        let image = (info.dst_image, info.dst_image_layout);
        with_buffer!(objects, regions, info.src_buffer, image, true, "vkCmdCopyBufferToImage2")
    });
    if let Some(next) = device.next.to_image2 {
        next(commands, info);
    }
}

pub(super) unsafe extern "system" fn to_buffer(
    commands: vk::CommandBuffer,
    src: vk::Image,
    layout: vk::ImageLayout,
    dst: vk::Buffer,
    count: u32,
    regions: *const vk::BufferImageCopy,
) {
    let device = record(commands, |objects| {
        let (regions, image) = (list(regions, count), (src, layout));
        with_buffer!(objects, regions, dst, image, false, "vkCmdCopyImageToBuffer")
    });
    (device.fns.fp_v1_0().cmd_copy_image_to_buffer)(commands, src, layout, dst, count, regions);
}

pub(super) unsafe extern "system" fn to_buffer2(
    commands: vk::CommandBuffer,
    info: *const vk::CopyImageToBufferInfo2<'_>,
) {
    let device = record(commands, |objects| {
        let info = &*info;
        let regions = list(info.p_regions, info.region_count);
        let image = (info.src_image, info.src_image_layout);
        with_buffer!(objects, regions, info.dst_buffer, image, false, "vkCmdCopyImageToBuffer2")
    });
    if let Some(next) = device.next.to_buffer2 {
        next(commands, info);
    }
}

/// A command that writes all texels of some levels and layers.
fn clears(
    objects: &Objects,
    image: vk::Image,
    layout: vk::ImageLayout,
    ranges: &[vk::ImageSubresourceRange],
    command: &'static str,
) -> Vec<Op> {
    let Some(seen) = objects.image(image) else { return Vec::new() };
    let usage = Use { layout: Some(layout), reads: false, writes: true, rect: Rect::ALL };
    let op =
        |range| Op::Use { seen: Arc::clone(seen), parts: Parts::of(range, seen), usage, command };
    ranges.iter().map(op).collect()
}

pub(super) unsafe extern "system" fn clear_color(
    commands: vk::CommandBuffer,
    image: vk::Image,
    layout: vk::ImageLayout,
    color: *const vk::ClearColorValue,
    count: u32,
    ranges: *const vk::ImageSubresourceRange,
) {
    let device = record(commands, |objects| {
        clears(objects, image, layout, list(ranges, count), "vkCmdClearColorImage")
    });
    (device.fns.fp_v1_0().cmd_clear_color_image)(commands, image, layout, color, count, ranges);
}

pub(super) unsafe extern "system" fn clear_depth(
    commands: vk::CommandBuffer,
    image: vk::Image,
    layout: vk::ImageLayout,
    value: *const vk::ClearDepthStencilValue,
    count: u32,
    ranges: *const vk::ImageSubresourceRange,
) {
    let device = record(commands, |objects| {
        clears(objects, image, layout, list(ranges, count), "vkCmdClearDepthStencilImage")
    });
    (device.fns.fp_v1_0().cmd_clear_depth_stencil_image)(
        commands, image, layout, value, count, ranges,
    );
}

// ---- shaders ----

pub(super) unsafe extern "system" fn bind_sets(
    commands: vk::CommandBuffer,
    point: vk::PipelineBindPoint,
    layout: vk::PipelineLayout,
    first: u32,
    count: u32,
    sets: *const vk::DescriptorSet,
    offset_count: u32,
    offsets: *const u32,
) {
    let device = of_handle(commands);
    let mut objects = lock(&device.objects);
    let recording = objects.commands.entry(commands).or_default();
    for (number, set) in (first..).zip(list(sets, count)) {
        recording.sets.insert((point, number), *set);
    }
    drop(objects);
    (device.fns.fp_v1_0().cmd_bind_descriptor_sets)(
        commands,
        point,
        layout,
        first,
        count,
        sets,
        offset_count,
        offsets,
    );
}

/// Shaders run that may use every image of the bound sets.
unsafe fn shade(
    commands: vk::CommandBuffer,
    point: vk::PipelineBindPoint,
    command: &'static str,
) -> Arc<Device> {
    record(commands, |objects| {
        let bound = objects.commands.get(&commands).into_iter().flat_map(|known| &known.sets);
        let sets = bound.filter(|((at, _), _)| *at == point);
        sets.flat_map(|(_, set)| objects.uses_of_set(*set, command)).collect()
    })
}

macro_rules! shaders {
    ($($name:ident $point:ident $next:ident $command:literal ($($argument:ident: $kind:ty),*);)*) => {
        $(pub(super) unsafe extern "system" fn $name(
            commands: vk::CommandBuffer,
            $($argument: $kind),*
        ) {
            let device = shade(commands, vk::PipelineBindPoint::$point, $command);
            (device.fns.fp_v1_0().$next)(commands, $($argument),*);
        })*
    };
}

shaders! {
    dispatch COMPUTE cmd_dispatch "vkCmdDispatch" (x: u32, y: u32, z: u32);
    dispatch_indirect COMPUTE cmd_dispatch_indirect "vkCmdDispatchIndirect"
        (buffer: vk::Buffer, offset: u64);
    draw GRAPHICS cmd_draw "vkCmdDraw" (vertices: u32, instances: u32, first: u32, instance: u32);
    draw_indexed GRAPHICS cmd_draw_indexed "vkCmdDrawIndexed"
        (indices: u32, instances: u32, first: u32, offset: i32, instance: u32);
    draw_indirect GRAPHICS cmd_draw_indirect "vkCmdDrawIndirect"
        (buffer: vk::Buffer, offset: u64, count: u32, stride: u32);
    draw_indexed_indirect GRAPHICS cmd_draw_indexed_indirect "vkCmdDrawIndexedIndirect"
        (buffer: vk::Buffer, offset: u64, count: u32, stride: u32);
}

pub(super) unsafe extern "system" fn execute(
    commands: vk::CommandBuffer,
    count: u32,
    secondaries: *const vk::CommandBuffer,
) {
    let device = record(commands, |objects| {
        let known = list(secondaries, count).iter().filter_map(|one| objects.commands.get(one));
        known.flat_map(|recording| recording.ops.iter().cloned()).collect()
    });
    (device.fns.fp_v1_0().cmd_execute_commands)(commands, count, secondaries);
}
