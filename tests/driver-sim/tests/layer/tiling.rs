//! Images of a tiled modifier.

use ash::vk;

use crate::gpu::{Block, Gpu, World};
use crate::harness::with_and_without;

const MODIFIER: u64 = 0x7e00_0000_0000_0001;
const WITH: &str = "llvmpipe=+tiled_modifier=0x7e00000000000001";
/// Some tiles are cut off.
const EXTENT: [u32; 2] = [10, 6];
/// Bytes of a row of tiles, divided by the rows of a tile: four tiles.
const PITCH: u64 = 16 * 4;

fn lists_modifiers(world: &World, physical: vk::PhysicalDevice) -> bool {
    let name = vk::EXT_IMAGE_DRM_FORMAT_MODIFIER_NAME.to_string_lossy();
    world.extensions(physical).expect("extensions").iter().any(|one| *one == name)
}

/// An image of the modifier over a block that comes by an opaque fd, its tiles at a place, or where the driver likes.
fn image(gpu: &Gpu<'_>, block: Block, place: Option<vk::SubresourceLayout>) -> vk::Image {
    let modifiers = [MODIFIER];
    let planes: Vec<_> = place.into_iter().collect();
    let mut list =
        vk::ImageDrmFormatModifierListCreateInfoEXT::default().drm_format_modifiers(&modifiers);
    let mut explicit = vk::ImageDrmFormatModifierExplicitCreateInfoEXT::default()
        .drm_format_modifier(MODIFIER)
        .plane_layouts(&planes);
    let mut external = vk::ExternalMemoryImageCreateInfo::default()
        .handle_types(vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD);
    let info = vk::ImageCreateInfo::default()
        .image_type(vk::ImageType::TYPE_2D)
        .format(vk::Format::R8G8B8A8_UNORM)
        .extent(vk::Extent3D { width: EXTENT[0], height: EXTENT[1], depth: 1 })
        .mip_levels(1)
        .array_layers(1)
        .samples(vk::SampleCountFlags::TYPE_1)
        .tiling(vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT)
        .usage(vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST)
        .push_next(&mut external);
    let info =
        if planes.is_empty() { info.push_next(&mut list) } else { info.push_next(&mut explicit) };
    // SAFETY: the structures are complete, and the device lists the modifier; the block has enough memory.
    unsafe {
        let image = gpu.raw.create_image(&info, None).expect("an image");
        let needs = gpu.raw.get_image_memory_requirements(image);
        assert!(needs.size <= block.size, "{needs:?}");
        gpu.raw.bind_image_memory(image, block.memory, 0).expect("memory is bound");
        image
    }
}

fn place(gpu: &Gpu<'_>, image: vk::Image) -> vk::SubresourceLayout {
    let aspect_mask = vk::ImageAspectFlags::MEMORY_PLANE_0_EXT;
    let part = vk::ImageSubresource { aspect_mask, mip_level: 0, array_layer: 0 };
    // SAFETY: a live image of the modifier.
    unsafe { gpu.raw.get_image_subresource_layout(image, part) }
}

/// Acquires the image from outside, copies all texels between it and a block of rows, and releases it.
fn copy(gpu: &Gpu<'_>, image: vk::Image, rows: Block, into_image: bool) {
    let general = vk::ImageLayout::GENERAL;
    let barrier = |old, from, to| {
        vk::ImageMemoryBarrier::default()
            .image(image)
            .old_layout(old)
            .new_layout(general)
            .src_queue_family_index(from)
            .dst_queue_family_index(to)
            .src_access_mask(vk::AccessFlags::MEMORY_WRITE)
            .dst_access_mask(vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE)
            .subresource_range(vk::ImageSubresourceRange {
                aspect_mask: vk::ImageAspectFlags::COLOR,
                level_count: 1,
                layer_count: 1,
                ..Default::default()
            })
    };
    let old = if into_image { vk::ImageLayout::UNDEFINED } else { general };
    let outside = vk::QUEUE_FAMILY_EXTERNAL;
    let acquire = barrier(old, outside, gpu.family);
    let release = barrier(general, gpu.family, outside);
    let region = vk::BufferImageCopy::default()
        .image_subresource(vk::ImageSubresourceLayers {
            aspect_mask: vk::ImageAspectFlags::COLOR,
            layer_count: 1,
            ..Default::default()
        })
        .image_extent(vk::Extent3D { width: EXTENT[0], height: EXTENT[1], depth: 1 });
    let all = vk::PipelineStageFlags::ALL_COMMANDS;
    let none = vk::DependencyFlags::empty();
    let commands = gpu.record(gpu.family, |commands| {
        // SAFETY: live objects of the device, in the layouts that the barriers say.
        unsafe {
            gpu.raw.cmd_pipeline_barrier(commands, all, all, none, &[], &[], &[acquire]);
            if into_image {
                let regions = [region];
                gpu.raw.cmd_copy_buffer_to_image(commands, rows.buffer, image, general, &regions);
            } else {
                let regions = [region];
                gpu.raw.cmd_copy_image_to_buffer(commands, image, general, rows.buffer, &regions);
            }
            gpu.raw.cmd_pipeline_barrier(commands, all, all, none, &[], &[], &[release]);
        }
    });
    let timeline = gpu.timeline();
    gpu.submit(gpu.queue(), &[commands], None, Some((timeline, 1))).expect("submitted");
    gpu.wait(timeline, 1, crate::gpu::PATIENT).expect("it ends");
}

/// The texels at the beginning of a block, as the host reads them.
fn words(gpu: &Gpu<'_>, block: Block, count: usize) -> Vec<u32> {
    let at = gpu.map(block).expect("a mapping");
    // SAFETY: mapped memory of so many words, which no device uses.
    let words = unsafe { std::slice::from_raw_parts(at, count) }.to_vec();
    gpu.unmap(block);
    words
}

fn texel(x: u32, y: u32) -> u32 {
    1 + x + y * 100
}

/// Writes all texels on the first device, and reads them on the second one.
fn passed_on(first: &Gpu<'_>, second: &Gpu<'_>) -> Vec<u32> {
    let [width, height] = EXTENT;
    let (block, fd) = first.exported(1 << 16);
    let (tiled, rows) = (image(first, block, None), first.block(1 << 12));
    let at = first.map(rows).expect("a mapping");
    for (index, (x, y)) in all().enumerate() {
        // SAFETY: mapped memory, which no device uses.
        unsafe { at.add(index).write(texel(x, y)) };
    }
    first.unmap(rows);
    copy(first, tiled, rows, true);
    check_tiles(&words(first, block, (PITCH / 4 * 8) as usize));
    let told = place(first, tiled);
    assert_eq!((told.offset, told.row_pitch), (0, PITCH));
    // The other one is told where the tiles are.
    let imported = second.import(fd, 1 << 16).expect("it is imported");
    let seen = image(second, imported, Some(vk::SubresourceLayout { size: 0, ..told }));
    let read = second.block(1 << 12);
    copy(second, seen, read, false);
    words(second, read, (width * height) as usize)
}

/// Every column and row.
fn all() -> impl Iterator<Item = (u32, u32)> {
    let [width, height] = EXTENT;
    (0..height).flat_map(move |y| (0..width).map(move |x| (x, y)))
}

/// Row by row the texels are elsewhere; tile by tile they are where the layout says.
fn check_tiles(bytes: &[u32]) {
    for (x, y) in all() {
        let (column, row) = (x / 4, y / 4);
        let slot = column ^ (row & 1);
        let index = row * 4 * (PITCH / 4) as u32 + slot * 16 + y % 4 * 4 + x % 4;
        assert_eq!(bytes[index as usize], texel(x, y), "{x}, {y}");
    }
    let as_rows = all().filter(|(x, y)| bytes[(y * 16 + x) as usize] == texel(*x, *y)).count();
    // Those of the diagonal of the first tiles.
    assert_eq!(as_rows, 10, "texels are where rows have them");
}

#[test]
fn texels_are_in_tiles_which_another_device_with_the_modifier_reads() {
    with_and_without!(WITH, |is: bool| {
        let world = World::new();
        let physical = world.find("llvmpipe");
        assert_eq!(lists_modifiers(&world, physical), is);
        if !is {
            return;
        }
        let [first, second] = [world.open(physical), world.open(physical)];
        let expected: Vec<_> = all().map(|(x, y)| texel(x, y)).collect();
        assert_eq!(passed_on(&first, &second), expected);
    });
}

#[test]
fn a_device_that_has_the_modifier_for_other_tiles_reads_other_texels() {
    let twins = "[[duplicate]]\ndriver = 'llvmpipe'\n[[device]]\ndriver = 'llvmpipe'\n\
        switches.tiled_modifier = 0x7e00000000000001\n[[device]]\nindex = 2\nswitches.tiles_in_other_order = true\n";
    with_and_without!(twins, |is: bool| {
        if !is {
            return;
        }
        let world = World::new();
        let found = world.devices().into_iter().filter(|one| world.name(*one).contains("llvmpipe"));
        let [first, .., last] = found.collect::<Vec<_>>()[..] else { panic!("one lavapipe") };
        let read = passed_on(&world.open(first), &world.open(last));
        let right = all().zip(&read).filter(|((x, y), read)| texel(*x, *y) == **read).count();
        // Of the first row of tiles.
        assert_eq!(right, 40);
    });
}
