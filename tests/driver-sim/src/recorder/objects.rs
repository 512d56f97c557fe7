//! Memory, buffers, images, and what names images: views and descriptors.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use ash::vk;

use super::area::Rect;
use super::bytes::{ADDRESSES, Origin, StoreId, file_of, mapped_at};
use super::commands::Recording;
use super::device::{Device, of_handle};
use super::order::World;
use super::part::Use;
use super::passes::Attachment;
use super::places::{Op, Parts, Seen};
use super::{lock, world};
use crate::layer::chain;

/// The objects of a device.
#[derive(Default)]
pub(super) struct Objects {
    memories: HashMap<vk::DeviceMemory, Origin>,
    buffers: HashMap<vk::Buffer, Buffer>,
    images: HashMap<vk::Image, Image>,
    views: HashMap<vk::ImageView, View>,
    sets: HashMap<vk::DescriptorSet, HashMap<(u32, u32), Descriptor>>,
    pub(super) passes: HashMap<vk::RenderPass, Vec<Attachment>>,
    pub(super) framebuffers: HashMap<vk::Framebuffer, Vec<vk::ImageView>>,
    pub(super) commands: HashMap<vk::CommandBuffer, Recording>,
}

struct Buffer {
    size: u64,
    bound: Option<(StoreId, u64)>,
}

struct Image {
    info: ImageInfo,
    seen: Option<Arc<Seen>>,
}

#[derive(Clone, Copy)]
struct ImageInfo {
    format: vk::Format,
    extent: [u32; 2],
    levels: u32,
    layers: u32,
    is_disjoint: bool,
    shares_families: bool,
}

/// What an image view shows.
#[derive(Clone)]
pub(super) struct View {
    pub(super) seen: Arc<Seen>,
    pub(super) parts: Parts,
}

/// An image in a descriptor.
#[derive(Clone, Copy)]
struct Descriptor {
    view: vk::ImageView,
    layout: vk::ImageLayout,
    is_storage: bool,
}

impl Objects {
    pub(super) fn image(&self, raw: vk::Image) -> Option<&Arc<Seen>> {
        self.images.get(&raw)?.seen.as_ref()
    }

    pub(super) fn view(&self, raw: vk::ImageView) -> Option<&View> {
        self.views.get(&raw)
    }

    /// Where a buffer's bytes are, and how many there are.
    pub(super) fn buffer(&self, raw: vk::Buffer) -> Option<(StoreId, u64, u64)> {
        let buffer = self.buffers.get(&raw)?;
        let (store, at) = buffer.bound?;
        Some((store, at, buffer.size))
    }

    /// How shaders use the images of a set. A storage image may be read and written.
    pub(super) fn uses_of_set(&self, set: vk::DescriptorSet, command: &'static str) -> Vec<Op> {
        let uses = self.sets.get(&set).into_iter().flat_map(HashMap::values).filter_map(|used| {
            let View { seen, parts } = self.views.get(&used.view)?.clone();
            let usage = Use {
                layout: Some(used.layout),
                reads: !used.is_storage,
                writes: used.is_storage,
                rect: Rect::ALL,
            };
            Some(Op::Use { seen, parts, usage, command })
        });
        uses.collect()
    }

    /// The device is destroyed.
    pub(super) fn forget(&mut self, world: &mut World) {
        for image in self.images.drain().filter_map(|(_, image)| image.seen) {
            world.places.unbind(image.place, &world.stores);
        }
        for (_, origin) in self.memories.drain() {
            if world.stores.freed(origin.store) {
                world.places.forget(origin.store);
            }
        }
    }
}

pub(super) unsafe extern "system" fn allocate_memory(
    raw: vk::Device,
    info: *const vk::MemoryAllocateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::DeviceMemory,
) -> vk::Result {
    let device = of_handle(raw);
    // The driver takes an fd over, so it is looked at before.
    let fd = chain::find::<vk::ImportMemoryFdInfoKHR<'_>>((*info).p_next);
    let file = fd.filter(|fd| !fd.handle_type.is_empty()).and_then(|fd| file_of(fd.fd));
    let host = chain::find::<vk::ImportMemoryHostPointerInfoEXT<'_>>((*info).p_next);
    let host = host.filter(|host| !host.handle_type.is_empty());
    let result = (device.fns.fp_v1_0().allocate_memory)(raw, info, allocator, out);
    if result == vk::Result::SUCCESS {
        let address = host.map(|host| host.p_host_pointer.addr() as u64);
        let mapped = address.and_then(mapped_at);
        let origin = world(|world| match (file, address, mapped) {
            (Some(file), ..) => world.stores.imported(file, 0),
            (None, Some(_), Some((file, at))) => world.stores.imported(file, at),
            (None, Some(at), None) => Origin { store: ADDRESSES, at },
            (None, None, _) => world.stores.allocated(),
        });
        lock(&device.objects).memories.insert(*out, origin);
    }
    device.noted(result)
}

pub(super) unsafe extern "system" fn free_memory(
    raw: vk::Device,
    memory: vk::DeviceMemory,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    let origin = lock(&device.objects).memories.remove(&memory);
    if let Some(origin) = origin {
        world(|world| {
            if world.stores.freed(origin.store) {
                world.places.forget(origin.store);
            }
        });
    }
    (device.fns.fp_v1_0().free_memory)(raw, memory, allocator);
}

pub(super) unsafe extern "system" fn get_memory_fd(
    raw: vk::Device,
    info: *const vk::MemoryGetFdInfoKHR<'_>,
    out: *mut c_int,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.get_memory_fd else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let result = next(raw, info, out);
    if result == vk::Result::SUCCESS
        && let Some(file) = file_of(*out)
        && let Some(origin) = lock(&device.objects).memories.get(&(*info).memory).copied()
    {
        world(|world| world.stores.exported(origin.store, file));
    }
    device.noted(result)
}

// ---- buffers ----

pub(super) unsafe extern "system" fn create_buffer(
    raw: vk::Device,
    info: *const vk::BufferCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Buffer,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().create_buffer)(raw, info, allocator, out);
    if result == vk::Result::SUCCESS {
        let buffer = Buffer { size: (*info).size, bound: None };
        lock(&device.objects).buffers.insert(*out, buffer);
    }
    result
}

pub(super) unsafe extern "system" fn destroy_buffer(
    raw: vk::Device,
    buffer: vk::Buffer,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    lock(&device.objects).buffers.remove(&buffer);
    (device.fns.fp_v1_0().destroy_buffer)(raw, buffer, allocator);
}

fn buffer_is_bound(device: &Device, raw: vk::Buffer, memory: vk::DeviceMemory, offset: u64) {
    let mut objects = lock(&device.objects);
    let Some(origin) = objects.memories.get(&memory).copied() else { return };
    if let Some(buffer) = objects.buffers.get_mut(&raw) {
        buffer.bound = Some((origin.store, origin.at + offset));
    }
}

pub(super) unsafe extern "system" fn bind_buffer(
    raw: vk::Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    offset: u64,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().bind_buffer_memory)(raw, buffer, memory, offset);
    if result == vk::Result::SUCCESS {
        buffer_is_bound(&device, buffer, memory, offset);
    }
    result
}

pub(super) unsafe extern "system" fn bind_buffer2(
    raw: vk::Device,
    count: u32,
    infos: *const vk::BindBufferMemoryInfo<'_>,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.bind_buffer2 else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let result = next(raw, count, infos);
    if result == vk::Result::SUCCESS {
        for info in std::slice::from_raw_parts(infos, count as usize) {
            buffer_is_bound(&device, info.buffer, info.memory, info.memory_offset);
        }
    }
    result
}

// ---- images ----

pub(super) unsafe extern "system" fn create_image(
    raw: vk::Device,
    info: *const vk::ImageCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Image,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().create_image)(raw, info, allocator, out);
    if result == vk::Result::SUCCESS {
        let info = &*info;
        let info = ImageInfo {
            format: info.format,
            extent: [info.extent.width, info.extent.height],
            levels: info.mip_levels,
            layers: info.array_layers,
            is_disjoint: info.flags.contains(vk::ImageCreateFlags::DISJOINT),
            shares_families: info.sharing_mode == vk::SharingMode::CONCURRENT,
        };
        lock(&device.objects).images.insert(*out, Image { info, seen: None });
    }
    result
}

pub(super) unsafe extern "system" fn destroy_image(
    raw: vk::Device,
    image: vk::Image,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    let known = lock(&device.objects).images.remove(&image);
    if let Some(seen) = known.and_then(|known| known.seen) {
        world(|world| world.places.unbind(seen.place, &world.stores));
    }
    (device.fns.fp_v1_0().destroy_image)(raw, image, allocator);
}

unsafe fn image_is_bound(device: &Device, raw: vk::Image, memory: vk::DeviceMemory, offset: u64) {
    let objects = lock(&device.objects);
    let (Some(origin), Some(image)) = (objects.memories.get(&memory), objects.images.get(&raw))
    else {
        return;
    };
    let (info, mut origin) = (image.info, *origin);
    drop(objects);
    origin.at += offset;
    // A disjoint image is known by its first plane.
    let bytes = match info.is_disjoint {
        true => 1,
        false => device.fns.get_image_memory_requirements(raw).size,
    };
    let place = world(|world| world.places.bind(origin, bytes, (info.levels, info.layers)));
    let seen = Seen {
        place,
        extent: info.extent,
        levels: info.levels,
        layers: info.layers,
        format: info.format,
        has_planes: has_planes(info.format),
        shares_families: info.shares_families,
    };
    if let Some(image) = lock(&device.objects).images.get_mut(&raw) {
        image.seen.get_or_insert_with(|| Arc::new(seen));
    }
}

/// The multi-planar formats of the core and of `VK_EXT_ycbcr_2plane_444_formats`.
fn has_planes(format: vk::Format) -> bool {
    let all = [
        vk::Format::G8_B8_R8_3PLANE_420_UNORM..=vk::Format::G8_B8_R8_3PLANE_444_UNORM,
        vk::Format::G10X6_B10X6_R10X6_3PLANE_420_UNORM_3PACK16
            ..=vk::Format::G10X6_B10X6_R10X6_3PLANE_444_UNORM_3PACK16,
        vk::Format::G12X4_B12X4_R12X4_3PLANE_420_UNORM_3PACK16
            ..=vk::Format::G12X4_B12X4_R12X4_3PLANE_444_UNORM_3PACK16,
        vk::Format::G16_B16_R16_3PLANE_420_UNORM..=vk::Format::G16_B16_R16_3PLANE_444_UNORM,
        vk::Format::G8_B8R8_2PLANE_444_UNORM..=vk::Format::G16_B16R16_2PLANE_444_UNORM,
    ];
    all.iter().any(|some| some.contains(&format))
}

pub(super) unsafe extern "system" fn bind_image(
    raw: vk::Device,
    image: vk::Image,
    memory: vk::DeviceMemory,
    offset: u64,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().bind_image_memory)(raw, image, memory, offset);
    if result == vk::Result::SUCCESS {
        image_is_bound(&device, image, memory, offset);
    }
    result
}

pub(super) unsafe extern "system" fn bind_image2(
    raw: vk::Device,
    count: u32,
    infos: *const vk::BindImageMemoryInfo<'_>,
) -> vk::Result {
    let device = of_handle(raw);
    let Some(next) = device.next.bind_image2 else {
        return vk::Result::ERROR_EXTENSION_NOT_PRESENT;
    };
    let result = next(raw, count, infos);
    if result == vk::Result::SUCCESS {
        for info in std::slice::from_raw_parts(infos, count as usize) {
            let plane = chain::find::<vk::BindImagePlaneMemoryInfo<'_>>(info.p_next);
            let first = vk::ImageAspectFlags::PLANE_0 | vk::ImageAspectFlags::MEMORY_PLANE_0_EXT;
            if plane.is_none_or(|plane| first.contains(plane.plane_aspect)) {
                image_is_bound(&device, info.image, info.memory, info.memory_offset);
            }
        }
    }
    result
}

pub(super) unsafe extern "system" fn create_view(
    raw: vk::Device,
    info: *const vk::ImageViewCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::ImageView,
) -> vk::Result {
    let device = of_handle(raw);
    let result = (device.fns.fp_v1_0().create_image_view)(raw, info, allocator, out);
    if result == vk::Result::SUCCESS {
        let mut objects = lock(&device.objects);
        if let Some(seen) = objects.image((*info).image).cloned() {
            let parts = Parts::of(&(*info).subresource_range, &seen);
            objects.views.insert(*out, View { seen, parts });
        }
    }
    result
}

pub(super) unsafe extern "system" fn destroy_view(
    raw: vk::Device,
    view: vk::ImageView,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = of_handle(raw);
    lock(&device.objects).views.remove(&view);
    (device.fns.fp_v1_0().destroy_image_view)(raw, view, allocator);
}

pub(super) unsafe extern "system" fn update_sets(
    raw: vk::Device,
    writes_count: u32,
    writes: *const vk::WriteDescriptorSet<'_>,
    copies_count: u32,
    copies: *const c_void,
) {
    use vk::DescriptorType as Kind;
    let device = of_handle(raw);
    (device.fns.fp_v1_0().update_descriptor_sets)(
        raw,
        writes_count,
        writes,
        copies_count,
        copies.cast(),
    );
    let mut objects = lock(&device.objects);
    for at in 0..writes_count as usize {
        let write = &*writes.add(at);
        let is_image = matches!(
            write.descriptor_type,
            Kind::SAMPLED_IMAGE
                | Kind::COMBINED_IMAGE_SAMPLER
                | Kind::STORAGE_IMAGE
                | Kind::INPUT_ATTACHMENT
        );
        if !is_image {
            // The set may be one whose handle an earlier set had.
            if let Some(set) = objects.sets.get_mut(&write.dst_set) {
                set.remove(&(write.dst_binding, write.dst_array_element));
            }
            continue;
        }
        for (element, number) in (0..write.descriptor_count as usize).zip(write.dst_array_element..)
        {
            let info = &*write.p_image_info.add(element);
            let used = Descriptor {
                view: info.image_view,
                layout: info.image_layout,
                is_storage: write.descriptor_type == Kind::STORAGE_IMAGE,
            };
            let set = objects.sets.entry(write.dst_set).or_default();
            set.insert((write.dst_binding, number), used);
        }
    }
}
