//! Images of a tiled modifier, which no software driver has: `tiled_modifier`.
//!
//! Such an image is an image of the driver's own, in memory of its own; and a buffer over the memory that the
//! application binds, whose bytes are tiles. Texels are copied out of the tiles where the image is acquired from a
//! queue family outside of the device, and back into them where it is released to one ([`super::tiled_barriers`]).
//!
//! A tile has 4 × 4 texels, row by row, one row behind the other. Tiles follow one another along a row of tiles; in
//! every second row of tiles each pair of neighbours is exchanged. Without this layout a reader finds texels elsewhere.

use ash::vk;

use super::chain::{find, find_mut};
use super::device::{self, Device};
use super::{cname, lock, report};

/// Texels in a row of a tile, and rows of a tile.
const TILE: u32 = 4;
/// Bytes that an offset is a multiple of.
const OFFSET_ALIGN: u64 = 64;

/// One image. Its handle is that of the driver's image with the texels.
pub(super) struct Tiled {
    pub(super) image: vk::Image,
    /// Of the driver's image.
    memory: vk::DeviceMemory,
    /// Over the memory that the application binds.
    pub(super) bytes: vk::Buffer,
    extent: vk::Extent2D,
    /// Bytes of a texel.
    texel: u64,
    place: Place,
    /// What a column of tiles is exchanged with in every second row of tiles: the next one, or none.
    exchanged: u32,
}

/// Where the tiles are in the memory.
#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    /// Bytes of a row of tiles, divided by the rows of a tile.
    pitch: u64,
}

/// Bytes of a texel, if the format is one that tiled images have.
pub(super) fn texel_bytes(format: vk::Format) -> Option<u64> {
    match format.as_raw() {
        // R8
        9..=15 => Some(1),
        // Packed in 16 bits, R8G8, R16
        2..=8 | 16..=22 | 70..=76 => Some(2),
        // R8G8B8A8, B8G8R8A8, packed in 32 bits, R16G16
        37..=69 | 77..=83 => Some(4),
        // R16G16B16A16
        91..=97 => Some(8),
        _ => None,
    }
}

/// The smallest pitch: pairs of whole tiles.
fn least_pitch(width: u32, texel: u64) -> u64 {
    u64::from(width).next_multiple_of(2 * u64::from(TILE)) * texel
}

/// Where the tiles of a new image are; `None` for an image of another kind.
unsafe fn place_of(
    device: &Device,
    info: &vk::ImageCreateInfo<'_>,
) -> Option<Result<Place, vk::Result>> {
    let modifier = device.physical.fixed.tiled_modifier?;
    if info.tiling != vk::ImageTiling::DRM_FORMAT_MODIFIER_EXT {
        return None;
    }
    let Some(texel) = texel_bytes(info.format) else {
        return Some(Err(vk::Result::ERROR_FORMAT_NOT_SUPPORTED));
    };
    let least = least_pitch(info.extent.width, texel);
    type Explicit<'a> = vk::ImageDrmFormatModifierExplicitCreateInfoEXT<'a>;
    if let Some(explicit) = find::<Explicit<'_>>(info.p_next) {
        if explicit.drm_format_modifier != modifier {
            return None;
        }
        let count = explicit.drm_format_modifier_plane_count as usize;
        let planes = std::slice::from_raw_parts(explicit.p_plane_layouts, count);
        let step = 2 * u64::from(TILE) * texel;
        return Some(match planes {
            [plane]
                if plane.row_pitch >= least
                    && plane.row_pitch.is_multiple_of(step)
                    && plane.offset.is_multiple_of(OFFSET_ALIGN) =>
            {
                Ok(Place { offset: plane.offset, pitch: plane.row_pitch })
            }
            _ => {
                report::event("tiled_modifier", format_args!("{}: no such planes", device.label()));
                Err(vk::Result::ERROR_INVALID_DRM_FORMAT_MODIFIER_PLANE_LAYOUT_EXT)
            }
        });
    }
    let list = find::<vk::ImageDrmFormatModifierListCreateInfoEXT<'_>>(info.p_next)?;
    let count = list.drm_format_modifier_count as usize;
    let listed = std::slice::from_raw_parts(list.p_drm_format_modifiers, count);
    listed.contains(&modifier).then_some(Ok(Place { offset: 0, pitch: least }))
}

impl Tiled {
    unsafe fn new(
        device: &Device,
        info: &vk::ImageCreateInfo<'_>,
        place: Place,
    ) -> Result<Self, vk::Result> {
        let vk::Extent3D { width, height, .. } = info.extent;
        let fits = (info.mip_levels, info.array_layers) == (1, 1);
        let texel = texel_bytes(info.format).filter(|_| fits);
        let texel = texel.ok_or(vk::Result::ERROR_FORMAT_NOT_SUPPORTED)?;
        let mut own = *info;
        own.p_next = std::ptr::null();
        own.tiling = vk::ImageTiling::OPTIMAL;
        own.usage |= vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST;
        own.initial_layout = vk::ImageLayout::UNDEFINED;
        let mut tiled = Self {
            image: device.fns.create_image(&own, None)?,
            memory: vk::DeviceMemory::null(),
            bytes: vk::Buffer::null(),
            extent: vk::Extent2D { width, height },
            texel,
            place,
            exchanged: u32::from(!device.physical.fixed.tiles_in_other_order),
        };
        match tiled.bind(device, info) {
            Ok(()) => Ok(tiled),
            Err(code) => {
                tiled.destroy(device);
                Err(code)
            }
        }
    }

    /// Gives the driver's image its memory, and makes the buffer for the tiles.
    unsafe fn bind(
        &mut self,
        device: &Device,
        info: &vk::ImageCreateInfo<'_>,
    ) -> Result<(), vk::Result> {
        let needs = device.fns.get_image_memory_requirements(self.image);
        let memory = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(needs.memory_type_bits.trailing_zeros());
        self.memory = device.fns.allocate_memory(&memory, None)?;
        device.fns.bind_image_memory(self.image, self.memory, 0)?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default();
        let mut bytes = vk::BufferCreateInfo::default()
            .size(self.size())
            .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST);
        if let Some(asked) = find::<vk::ExternalMemoryImageCreateInfo<'_>>(info.p_next) {
            external = external.handle_types(asked.handle_types);
            bytes = bytes.push_next(&mut external);
        }
        self.bytes = device.fns.create_buffer(&bytes, None)?;
        Ok(())
    }

    unsafe fn destroy(&self, device: &Device) {
        device.fns.destroy_image(self.image, None);
        device.fns.destroy_buffer(self.bytes, None);
        device.fns.free_memory(self.memory, None);
    }

    /// Bytes up to the end of the last tile.
    fn size(&self) -> u64 {
        self.place.offset + self.place.pitch * u64::from(self.extent.height.next_multiple_of(TILE))
    }

    /// The copy of each tile.
    pub(super) fn regions(&self) -> Vec<vk::BufferImageCopy> {
        let (columns, rows) = (self.extent.width.div_ceil(TILE), self.extent.height.div_ceil(TILE));
        let of_tile = |row: u32, column: u32| {
            let (x, y) = (column * TILE, row * TILE);
            let slot = u64::from(column ^ (row & self.exchanged));
            let offset = self.place.offset
                + u64::from(y) * self.place.pitch
                + slot * u64::from(TILE * TILE) * self.texel;
            vk::BufferImageCopy::default()
                .buffer_offset(offset)
                .buffer_row_length(TILE)
                .buffer_image_height(TILE)
                .image_subresource(vk::ImageSubresourceLayers {
                    aspect_mask: vk::ImageAspectFlags::COLOR,
                    mip_level: 0,
                    base_array_layer: 0,
                    layer_count: 1,
                })
                // CAST: extents of images are below 2^31.
                .image_offset(vk::Offset3D { x: x as i32, y: y as i32, z: 0 })
                .image_extent(vk::Extent3D {
                    width: TILE.min(self.extent.width - x),
                    height: TILE.min(self.extent.height - y),
                    depth: 1,
                })
        };
        let of_row = |row| (0..columns).map(move |column| of_tile(row, column));
        (0..rows).flat_map(of_row).collect()
    }
}

impl Device {
    /// The tiled image of a handle.
    pub(super) fn tiled(&self, image: vk::Image) -> Option<std::sync::Arc<Tiled>> {
        self.physical.fixed.tiled_modifier?;
        lock(&self.tiled).get(&image).cloned()
    }

    /// What a tiled image needs of the memory that the application binds.
    unsafe fn needs_of_tiled(&self, image: vk::Image) -> Option<vk::MemoryRequirements> {
        let tiled = self.tiled(image)?;
        Some(self.fns.get_buffer_memory_requirements(tiled.bytes))
    }
}

pub(super) unsafe extern "system" fn create_image(
    raw: vk::Device,
    info: *const vk::ImageCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Image,
) -> vk::Result {
    let device = device::of(raw);
    let tiled = match place_of(&device, &*info) {
        None => {
            let next = device.fns.fp_v1_0().create_image;
            return next(raw, info.cast(), allocator.cast(), out);
        }
        Some(place) => place.and_then(|place| Tiled::new(&device, &*info, place)),
    };
    match tiled {
        Ok(tiled) => {
            *out = tiled.image;
            lock(&device.tiled).insert(tiled.image, std::sync::Arc::new(tiled));
            report::event("tiled_modifier", format_args!("{}: an image", device.label()));
            vk::Result::SUCCESS
        }
        Err(code) => code,
    }
}

pub(super) unsafe extern "system" fn destroy_image(
    raw: vk::Device,
    image: vk::Image,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    let device = device::of(raw);
    let tiled = lock(&device.tiled).remove(&image);
    match tiled {
        Some(tiled) => tiled.destroy(&device),
        None => device.fns.destroy_image(image, allocator.as_ref()),
    }
}

pub(super) unsafe extern "system" fn bind_image(
    raw: vk::Device,
    image: vk::Image,
    memory: vk::DeviceMemory,
    offset: vk::DeviceSize,
) -> vk::Result {
    let device = device::of(raw);
    match device.tiled(image) {
        Some(tiled) => {
            let bind = device.fns.fp_v1_0().bind_buffer_memory;
            bind(raw, tiled.bytes, memory, offset)
        }
        None => (device.fns.fp_v1_0().bind_image_memory)(raw, image, memory, offset),
    }
}

pub(super) unsafe extern "system" fn bind_image2(
    raw: vk::Device,
    count: u32,
    infos: *const vk::BindImageMemoryInfo<'_>,
) -> vk::Result {
    let device = device::of(raw);
    let infos = std::slice::from_raw_parts(infos, count as usize);
    let mut others = Vec::new();
    for info in infos {
        match device.tiled(info.image) {
            Some(_) => match bind_image(raw, info.image, info.memory, info.memory_offset) {
                vk::Result::SUCCESS => {}
                code => return code,
            },
            None => others.push(*info),
        }
    }
    if others.is_empty() {
        return vk::Result::SUCCESS;
    }
    let next = device
        .next::<vk::PFN_vkBindImageMemory2>(cname!("vkBindImageMemory2").as_ptr())
        .or_else(|| device.next(cname!("vkBindImageMemory2KHR").as_ptr()));
    // CAST: no more than `count`.
    let count = others.len() as u32;
    next.map_or(vk::Result::ERROR_OUT_OF_HOST_MEMORY, |next| {
        next(raw, count, others.as_ptr().cast())
    })
}

pub(super) unsafe extern "system" fn requirements(
    raw: vk::Device,
    image: vk::Image,
    out: *mut vk::MemoryRequirements,
) {
    let device = device::of(raw);
    let needs = device.needs_of_tiled(image);
    *out = needs.unwrap_or_else(|| device.fns.get_image_memory_requirements(image));
    (*out).memory_type_bits = device.physical.layout.bits((*out).memory_type_bits);
}

pub(super) unsafe extern "system" fn requirements2(
    raw: vk::Device,
    info: *const vk::ImageMemoryRequirementsInfo2<'_>,
    out: *mut vk::MemoryRequirements2<'_>,
) {
    let device = device::of(raw);
    if let Some(needs) = device.needs_of_tiled((*info).image) {
        (*out).memory_requirements = needs;
        if let Some(dedicated) = find_mut::<vk::MemoryDedicatedRequirements<'_>>((*out).p_next) {
            dedicated.prefers_dedicated_allocation = vk::FALSE;
            dedicated.requires_dedicated_allocation = vk::FALSE;
        }
    } else {
        let next = device
            .next::<vk::PFN_vkGetImageMemoryRequirements2>(
                cname!("vkGetImageMemoryRequirements2").as_ptr(),
            )
            .or_else(|| device.next(cname!("vkGetImageMemoryRequirements2KHR").as_ptr()));
        let Some(next) = next else { return };
        next(raw, info.cast(), out.cast());
    }
    let bits = &mut (*out).memory_requirements.memory_type_bits;
    *bits = device.physical.layout.bits(*bits);
}

pub(super) unsafe extern "system" fn subresource_layout(
    raw: vk::Device,
    image: vk::Image,
    part: *const vk::ImageSubresource,
    out: *mut vk::SubresourceLayout,
) {
    let device = device::of(raw);
    match device.tiled(image) {
        Some(tiled) => {
            let Place { offset, pitch } = tiled.place;
            let size = tiled.size() - offset;
            *out = vk::SubresourceLayout { offset, size, row_pitch: pitch, ..Default::default() };
        }
        None => *out = device.fns.get_image_subresource_layout(image, *part),
    }
}

pub(super) unsafe extern "system" fn modifier(
    raw: vk::Device,
    image: vk::Image,
    out: *mut vk::ImageDrmFormatModifierPropertiesEXT<'_>,
) -> vk::Result {
    type Next = vk::PFN_vkGetImageDrmFormatModifierPropertiesEXT;
    let device = device::of(raw);
    if let (Some(_), Some(modifier)) = (device.tiled(image), device.physical.fixed.tiled_modifier) {
        (*out).drm_format_modifier = modifier;
        return vk::Result::SUCCESS;
    }
    let name = cname!("vkGetImageDrmFormatModifierPropertiesEXT");
    let next = device.next::<Next>(name.as_ptr());
    next.map_or(vk::Result::ERROR_OUT_OF_HOST_MEMORY, |next| next(raw, image, out.cast()))
}
