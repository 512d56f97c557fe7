//! Images of one device over memory that has views: created, then bound, then asked where their planes are.
//!
//! Vulkan: `VkImage`, `VkExternalMemoryImageCreateInfo`, `VkImageDrmFormatModifierExplicitCreateInfoEXT`.
#![expect(unsafe_code, reason = "Vulkan images, owned from the line after their creation")]

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::image_spec::{ImageSpec, PlaneStart, Tiling};
use super::view::View;
use crate::device::{Call, DeviceInner, HandleType};
use crate::error::{Error, Result};
use crate::observe::Object;

/// An image without memory. It can be asked how much it needs, and where its planes are only if it has a modifier.
#[derive(Debug)]
pub(crate) struct UnboundImage(RawImage);

/// An image that is bound to memory.
///
/// It does not keep that memory. Vulkan allows to free memory before the images that are bound to it are destroyed; no
/// command may use them from then on.
#[derive(Debug)]
pub(crate) struct BoundImage(RawImage);

/// # Invariants
///
/// `raw` is a live image of `device`. It is destroyed only by `drop`.
struct RawImage {
    device: Arc<DeviceInner>,
    raw: vk::Image,
    aspects: Aspects,
    /// The type of memory handle that it was created for; `None` for memory of its device alone.
    handle: Option<HandleType>,
    mips: u32,
    layers: u32,
}

/// The aspects of an image that have subresource layouts.
#[derive(Clone, Copy, Debug)]
enum Aspects {
    /// The driver alone knows where texels are.
    None,
    Color,
    /// So many format planes.
    Planes(u32),
    /// So many memory planes of a modifier. They tell of level 0 of layer 0 alone.
    MemoryPlanes(u32),
}

impl Aspects {
    fn of(spec: &ImageSpec<'_>) -> Self {
        // CAST: formats have at most three planes, modifiers four.
        match spec.tiling {
            Tiling::Optimal => Self::None,
            Tiling::Linear if spec.plane_formats.is_empty() => Self::Color,
            Tiling::Linear => Self::Planes(spec.plane_formats.len() as u32),
            Tiling::Modifier { planes, .. } => Self::MemoryPlanes(planes.len() as u32),
            Tiling::Listed { planes, .. } => Self::MemoryPlanes(planes),
        }
    }

    /// The aspect of a plane; `None` if there is no such plane.
    fn of_plane(self, plane: u32) -> Option<vk::ImageAspectFlags> {
        use vk::ImageAspectFlags as Aspect;
        let of_memory = [
            Aspect::MEMORY_PLANE_0_EXT,
            Aspect::MEMORY_PLANE_1_EXT,
            Aspect::MEMORY_PLANE_2_EXT,
            Aspect::MEMORY_PLANE_3_EXT,
        ];
        let (aspects, count): (&[Aspect], u32) = match self {
            Self::None => (&[], 0),
            Self::Color => (&[Aspect::COLOR], 1),
            Self::Planes(count) => (&[Aspect::PLANE_0, Aspect::PLANE_1, Aspect::PLANE_2], count),
            Self::MemoryPlanes(count) => (&of_memory, count),
        };
        aspects.get(plane as usize).copied().filter(|_| plane < count)
    }
}

impl UnboundImage {
    /// Creates an image over memory that is shared as `handle`, or over memory of the device alone.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the driver says that it has no such images; or the error of `vkCreateImage`.
    pub(crate) fn new(
        device: &Arc<DeviceInner>,
        spec: &ImageSpec<'_>,
        handle: Option<HandleType>,
    ) -> Result<Self> {
        const CALL: Call = Call::CreateImage;
        let usage = spec.check(device, handle)?;
        let raw = device.calls().enter(CALL).and_then(|()| create(device, spec, usage, handle));
        let raw = raw.map_err(|code| device.error(CALL.name(), code))?;
        device.live().born(Object::Image);
        // INVARIANT: just created.
        Ok(Self(RawImage {
            device: Arc::clone(device),
            raw,
            aspects: Aspects::of(spec),
            handle,
            mips: spec.mips,
            layers: spec.layers,
        }))
    }

    /// The memory that it needs. For explicit modifiers, drivers may leave out what lies before the first plane.
    pub(crate) fn requirements(&self) -> vk::MemoryRequirements {
        // SAFETY: the image is live, and not disjoint (VUID-vkGetImageMemoryRequirements-image-01588).
        unsafe { self.0.device.raw().get_image_memory_requirements(self.0.raw) }
    }

    /// Where the driver places the memory planes of a modifier; none if it has none.
    pub(crate) fn memory_planes(&self) -> Vec<PlaneStart> {
        match self.0.aspects {
            Aspects::MemoryPlanes(planes) => {
                (0..planes).filter_map(|plane| self.0.placed(plane, 0, 0)).collect()
            }
            _ => vec![],
        }
    }

    /// Binds it to the memory of a view of its device, from byte `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the memory is dedicated to its buffer, has another handle type or memory type, or is
    /// too small; [`Error::Misaligned`]; or the error of `vkBindImageMemory`.
    pub(crate) fn bind(self, view: &View, offset: u64) -> Result<BoundImage> {
        const CALL: Call = Call::BindImageMemory;
        let device = &self.0.device;
        let refuse = |missing| Error::Unsupported { device: device.name().to_owned(), missing };
        let suits = self.0.handle.map_or(view.is_private(), |handle| handle == view.handle());
        if !suits || !Arc::ptr_eq(device, view.device()) {
            return Err(refuse(format!("an image for {:?} over {view:?}", self.0.handle)));
        }
        if view.is_dedicated() {
            // VUID-vkBindImageMemory-memory-02628.
            return Err(refuse(format!(
                "an image on its {} memory, which has a buffer",
                view.handle()
            )));
        }
        let needs = self.requirements();
        if !offset.is_multiple_of(needs.alignment) {
            let (what, align) = ("the offset of the image in its memory", needs.alignment);
            return Err(Error::Misaligned { what, value: offset, align });
        }
        view.check_fits(offset, needs)?;
        let bound = device.calls().enter(CALL).and_then(|()| {
            // SAFETY: the image is unbound, since `self` is consumed, and of the view's device; memory type, offset and
            // size were checked (VUID-vkBindImageMemory-memory-01047, -memoryOffset-01048, -size-01049); memory that is
            // shared has the image's handle type (-memory-02728, -memory-02989), which private memory need not have.
            unsafe { device.raw().bind_image_memory(self.0.raw, view.memory(), offset) }
        });
        bound.map_err(|code| device.error(CALL.name(), code))?;
        Ok(BoundImage(self.0))
    }
}

impl BoundImage {
    /// The raw handle, which is valid while this object lives.
    pub(crate) fn raw(&self) -> vk::Image {
        self.0.raw
    }

    pub(crate) fn device(&self) -> &Arc<DeviceInner> {
        &self.0.device
    }

    /// Where a plane of a level of a layer is, as the driver says; counted from where the image is bound. `None` if
    /// there is no such part, or if the tiling is the driver's secret.
    ///
    /// For a modifier, a plane is a memory plane, and only level 0 of layer 0 is known. lavapipe reports offset 0 for
    /// those, wherever they are.
    pub(crate) fn placed(&self, plane: u32, level: u32, layer: u32) -> Option<PlaneStart> {
        self.0.placed(plane, level, layer)
    }
}

impl RawImage {
    /// As [`BoundImage::placed`]. An image without memory is asked about memory planes alone.
    fn placed(&self, plane: u32, level: u32, layer: u32) -> Option<PlaneStart> {
        let aspect = self.aspects.of_plane(plane)?;
        let (mips, layers) = match self.aspects {
            Aspects::MemoryPlanes(_) => (1, 1),
            _ => (self.mips, self.layers),
        };
        if level >= mips || layer >= layers {
            return None;
        }
        let part =
            vk::ImageSubresource { aspect_mask: aspect, mip_level: level, array_layer: layer };
        // SAFETY: the image is live, linear or of a modifier, and the subresource is one of it
        // (VUID-vkGetImageSubresourceLayout-image-07790, -mipLevel-01716, -arrayLayer-01717, -tiling-08717,
        // -tiling-09433).
        let layout = unsafe { self.device.raw().get_image_subresource_layout(self.raw, part) };
        Some(PlaneStart { offset: layout.offset, pitch: layout.row_pitch })
    }
}

/// Creates an image; the caller owns it. The device can have it, as [`ImageSpec::check`] has found.
fn create(
    device: &DeviceInner,
    spec: &ImageSpec<'_>,
    usage: vk::ImageUsageFlags,
    handle: Option<HandleType>,
) -> Result<vk::Image, vk::Result> {
    let (mut external, mut explicit, mut names);
    let modifiers;
    let view_formats = spec.views();
    let mut list = vk::ImageFormatListCreateInfo::default().view_formats(&view_formats);
    let mut info = vk::ImageCreateInfo::default()
        .flags(spec.flags())
        .image_type(vk::ImageType::TYPE_2D)
        .format(spec.format)
        .extent(vk::Extent3D { width: spec.extent.width, height: spec.extent.height, depth: 1 })
        .mip_levels(spec.mips)
        .array_layers(spec.layers)
        .samples(vk::SampleCountFlags::TYPE_1)
        .tiling(spec.vulkan_tiling())
        .usage(usage)
        .sharing_mode(vk::SharingMode::EXCLUSIVE)
        .initial_layout(vk::ImageLayout::UNDEFINED);
    if !spec.plane_formats.is_empty() {
        info = info.push_next(&mut list);
    }
    if let Some(handle) = handle {
        external = vk::ExternalMemoryImageCreateInfo::default().handle_types(handle.vk());
        info = info.push_next(&mut external);
    }
    // Size and the distances of layers and of slices are zero
    // (VUID-VkImageDrmFormatModifierExplicitCreateInfoEXT-size-02267,
    // -arrayPitch-02268, -depthPitch-02269).
    let mut planes: Vec<vk::SubresourceLayout> = vec![];
    if let Tiling::Modifier { modifier, planes: starts } = spec.tiling {
        let plane = |&PlaneStart { offset, pitch }: &PlaneStart| vk::SubresourceLayout {
            offset,
            row_pitch: pitch,
            ..Default::default()
        };
        planes.extend(starts.iter().map(plane));
        explicit = vk::ImageDrmFormatModifierExplicitCreateInfoEXT::default()
            .drm_format_modifier(modifier)
            .plane_layouts(&planes);
        info = info.push_next(&mut explicit);
    }
    if let Tiling::Listed { modifier, .. } = spec.tiling {
        modifiers = [modifier];
        names =
            vk::ImageDrmFormatModifierListCreateInfoEXT::default().drm_format_modifiers(&modifiers);
        info = info.push_next(&mut names);
    }
    // SAFETY: the driver's limits were asked for and hold; an image that views see in other formats names them
    // (VUID-VkImageCreateInfo-tiling-02353), external memory begins UNDEFINED (-pNext-01443), a modifier's planes are
    // given exactly with its tiling, or its name (-tiling-02261); all pointers outlive the call.
    unsafe { device.raw().create_image(&info, None) }
}

impl Drop for RawImage {
    fn drop(&mut self) {
        // SAFETY: by the type invariant live and ours. No work uses it any more: owners of a bound image wait for that,
        // or hand it to the retire list; an unbound one cannot be used.
        unsafe { self.device.raw().destroy_image(self.raw, None) };
        self.device.live().died(Object::Image);
    }
}

impl fmt::Debug for RawImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawImage")
            .field("device", &self.device.name())
            .field("aspects", &self.aspects)
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
