//! Images in plain Vulkan: created, exported, imported, with a view, and copied through staging memory.
//!
//! As the other baselines they are as fast as they can be: what drivers say of an image is asked once.
#![expect(unsafe_code, reason = "raw Vulkan, on the devices that peerbuf has opened")]

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use ash::{khr, vk};
use peerbuf::{Device, HandleType};

use crate::Outcome;
use crate::hand::{Block, Recorded, choose};

/// The format of all images.
pub(crate) const FORMAT: vk::Format = vk::Format::B8G8R8A8_UNORM;

/// A device that creates images in rows by hand, all of one size.
pub(crate) struct ImageHand<'a> {
    pub(crate) device: &'a Device,
    fds: khr::external_memory_fd::Device,
    handle: HandleType,
    extent: vk::Extent2D,
    /// What one of its images needs.
    needs: vk::MemoryRequirements,
    memory_type: u32,
}

/// An image with its memory, and a view if it has one.
///
/// # Invariants
///
/// Each is null or a live object of `device`, destroyed only by `drop`.
pub(crate) struct HandImage<'a> {
    device: &'a ash::Device,
    pub(crate) image: vk::Image,
    memory: vk::DeviceMemory,
    view: vk::ImageView,
}

impl<'a> ImageHand<'a> {
    pub(crate) fn new(
        device: &'a Device,
        handle: HandleType,
        (width, height): (u32, u32),
    ) -> Outcome<Self> {
        if handle == HandleType::DmaBuf {
            return Err("images over dma-bufs are not made by hand here".into());
        }
        let fds = khr::external_memory_fd::Device::new(device.raw_instance(), device.raw());
        let extent = vk::Extent2D { width, height };
        let needs = vk::MemoryRequirements::default();
        let mut this = Self { device, fds, handle, extent, needs, memory_type: 0 };
        let image = this.image()?;
        // SAFETY: the image is live.
        this.needs = unsafe { device.raw().get_image_memory_requirements(image.image) };
        this.memory_type = choose(device, this.needs.memory_type_bits)?;
        Ok(this)
    }

    /// Creates an image in exportable memory.
    pub(crate) fn create(&self) -> Outcome<HandImage<'a>> {
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(self.handle.vk());
        self.back(self.image()?, &mut export)
    }

    /// Exports the memory of another device's image, and makes an image and a view over it.
    pub(crate) fn share(
        &self,
        exporter: &ImageHand<'_>,
        from: &HandImage<'_>,
    ) -> Outcome<HandImage<'a>> {
        let fd = exporter.export(from)?;
        let image = self.image()?;
        // The driver owns the fd from here on. If the import fails, the run ends anyway.
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(self.handle.vk()).fd(fd.into_raw_fd());
        let mut shared = self.back(image, &mut import)?;
        let info = vk::ImageViewCreateInfo::default()
            .image(shared.image)
            .view_type(vk::ImageViewType::TYPE_2D)
            .format(FORMAT)
            .subresource_range(whole());
        // SAFETY: the image is live, bound, and can be sampled.
        shared.view = unsafe { self.device.raw().create_image_view(&info, None) }?;
        Ok(shared)
    }

    fn export(&self, image: &HandImage<'_>) -> Outcome<OwnedFd> {
        let info =
            vk::MemoryGetFdInfoKHR::default().memory(image.memory).handle_type(self.handle.vk());
        // SAFETY: the memory is live and was allocated for export as this handle type.
        let raw = unsafe { self.fds.get_memory_fd(&info) }?;
        if raw < 0 {
            return Err("vkGetMemoryFdKHR returned no fd".into());
        }
        // SAFETY: the driver returned a new fd, which is ours.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    fn image(&self) -> Outcome<HandImage<'a>> {
        let mut external =
            vk::ExternalMemoryImageCreateInfo::default().handle_types(self.handle.vk());
        let info = image_info(self.extent, vk::ImageTiling::LINEAR).push_next(&mut external);
        HandImage::new(self.device.raw(), &info)
    }

    fn back(
        &self,
        mut image: HandImage<'a>,
        extra: &mut impl vk::ExtendsMemoryAllocateInfo,
    ) -> Outcome<HandImage<'a>> {
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(self.needs.size)
            .memory_type_index(self.memory_type)
            .push_next(extra);
        image.back(&info)?;
        Ok(image)
    }

    /// Asks the driver for what a negotiation needs: what images with either tiling can be, which modifiers there are, and
    /// where the rows of an image are.
    pub(crate) fn ask(&self) -> Outcome<u64> {
        let (instance, physical) = (self.device.raw_instance(), self.device.adapter().physical());
        let mut properties = vk::FormatProperties2::default();
        let mut list = vk::DrmFormatModifierPropertiesListEXT::default();
        properties = properties.push_next(&mut list);
        // SAFETY: the adapter is one of the instance.
        unsafe {
            instance.get_physical_device_format_properties2(physical, FORMAT, &mut properties);
        };
        for tiling in [vk::ImageTiling::LINEAR, vk::ImageTiling::OPTIMAL] {
            let mut external =
                vk::PhysicalDeviceExternalImageFormatInfo::default().handle_type(self.handle.vk());
            let info = vk::PhysicalDeviceImageFormatInfo2::default()
                .format(FORMAT)
                .ty(vk::ImageType::TYPE_2D)
                .tiling(tiling)
                .usage(USAGE)
                .push_next(&mut external);
            let mut shared = vk::ExternalImageFormatProperties::default();
            let mut found = vk::ImageFormatProperties2::default().push_next(&mut shared);
            // SAFETY: as above.
            unsafe {
                instance.get_physical_device_image_format_properties2(physical, &info, &mut found)
            }?;
        }
        let image = self.image()?;
        let part = vk::ImageSubresource {
            aspect_mask: vk::ImageAspectFlags::COLOR,
            mip_level: 0,
            array_layer: 0,
        };
        // SAFETY: the image is live and linear.
        let layout = unsafe { self.device.raw().get_image_subresource_layout(image.image, part) };
        Ok(layout.row_pitch)
    }
}

const USAGE: vk::ImageUsageFlags = vk::ImageUsageFlags::from_raw(
    vk::ImageUsageFlags::SAMPLED.as_raw()
        | vk::ImageUsageFlags::TRANSFER_SRC.as_raw()
        | vk::ImageUsageFlags::TRANSFER_DST.as_raw(),
);

fn image_info(extent: vk::Extent2D, tiling: vk::ImageTiling) -> vk::ImageCreateInfo<'static> {
    vk::ImageCreateInfo::default()
        .image_type(vk::ImageType::TYPE_2D)
        .format(FORMAT)
        .extent(vk::Extent3D { width: extent.width, height: extent.height, depth: 1 })
        .mip_levels(1)
        .array_layers(1)
        .samples(vk::SampleCountFlags::TYPE_1)
        .tiling(tiling)
        .usage(USAGE)
}

fn whole() -> vk::ImageSubresourceRange {
    vk::ImageSubresourceRange {
        aspect_mask: vk::ImageAspectFlags::COLOR,
        base_mip_level: 0,
        level_count: 1,
        base_array_layer: 0,
        layer_count: 1,
    }
}

impl<'a> HandImage<'a> {
    fn new(device: &'a ash::Device, info: &vk::ImageCreateInfo<'_>) -> Outcome<Self> {
        // SAFETY: the format and its usages are required ones; the handle type is one that the devices share by.
        let image = unsafe { device.create_image(info, None) }?;
        let (memory, view) = (vk::DeviceMemory::null(), vk::ImageView::null());
        // INVARIANT: the image was just created; the others are null.
        Ok(Self { device, image, memory, view })
    }

    fn back(&mut self, info: &vk::MemoryAllocateInfo<'_>) -> Outcome<()> {
        // SAFETY: size and type suit the image; an fd is of the handle type.
        self.memory = unsafe { self.device.allocate_memory(info, None) }?;
        // SAFETY: both were just created, one for the other.
        unsafe { self.device.bind_image_memory(self.image, self.memory, 0) }?;
        Ok(())
    }

    /// An image of the device's own, in its driver's tiling.
    pub(crate) fn private(device: &'a Device, (width, height): (u32, u32)) -> Outcome<Self> {
        let info = image_info(vk::Extent2D { width, height }, vk::ImageTiling::OPTIMAL);
        let mut image = Self::new(device.raw(), &info)?;
        // SAFETY: the image is live.
        let needs = unsafe { device.raw().get_image_memory_requirements(image.image) };
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(choose(device, needs.memory_type_bits)?);
        image.back(&info)?;
        Ok(image)
    }
}

impl Drop for HandImage<'_> {
    fn drop(&mut self) {
        // SAFETY: by the invariant null or live; no device uses it any more.
        unsafe { self.device.destroy_image_view(self.view, None) };
        // SAFETY: as above.
        unsafe { self.device.destroy_image(self.image, None) };
        // SAFETY: as above.
        unsafe { self.device.free_memory(self.memory, None) };
    }
}

/// A frame that goes to another device through host memory: read back, copied, uploaded. All is recorded beforehand.
pub(crate) struct Staged<'a> {
    bytes: usize,
    back: Recorded<'a>,
    up: Recorded<'a>,
    buffers: [Block<'a>; 2],
    _images: [HandImage<'a>; 2],
}

impl<'a> Staged<'a> {
    pub(crate) fn new(near: &'a Device, far: &'a Device, size: (u32, u32)) -> Outcome<Self> {
        let bytes = 4 * u64::from(size.0) * u64::from(size.1);
        let images = [HandImage::private(near, size)?, HandImage::private(far, size)?];
        let buffers = [Block::staging(near, bytes)?, Block::staging(far, bytes)?];
        let region = [vk::BufferImageCopy::default()
            .image_subresource(vk::ImageSubresourceLayers {
                aspect_mask: vk::ImageAspectFlags::COLOR,
                layer_count: 1,
                ..Default::default()
            })
            .image_extent(vk::Extent3D { width: size.0, height: size.1, depth: 1 })];
        let (undefined, general) = (vk::ImageLayout::UNDEFINED, vk::ImageLayout::GENERAL);
        let (back, up) = (Recorded::new(near)?, Recorded::new(far)?);
        for (recorded, HandImage { image, .. }) in [&back, &up].into_iter().zip(&images) {
            recorded.record_commands(|raw, commands| {
                to_general(raw, commands, (*image, undefined), vk::AccessFlags::TRANSFER_WRITE);
            })?;
            recorded.run()?;
        }
        back.record_commands(|raw, commands| {
            let (image, to) = (images[0].image, buffers[0].range(bytes).buffer);
            to_general(raw, commands, (image, general), vk::AccessFlags::TRANSFER_READ);
            // SAFETY: being recorded; live objects of the device, and a region within both.
            unsafe { raw.cmd_copy_image_to_buffer(commands, image, general, to, &region) };
            let barrier = [vk::MemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
                .dst_access_mask(vk::AccessFlags::HOST_READ)];
            let (from, to) = (vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::HOST);
            let flags = vk::DependencyFlags::empty();
            // SAFETY: as above.
            unsafe { raw.cmd_pipeline_barrier(commands, from, to, flags, &barrier, &[], &[]) };
        })?;
        up.record_commands(|raw, commands| {
            let (image, from) = (images[1].image, buffers[1].range(bytes).buffer);
            to_general(raw, commands, (image, general), vk::AccessFlags::TRANSFER_WRITE);
            // SAFETY: as above.
            unsafe { raw.cmd_copy_buffer_to_image(commands, from, image, general, &region) };
        })?;
        let bytes = usize::try_from(bytes)?;
        Ok(Self { bytes, back, up, buffers, _images: images })
    }

    pub(crate) fn hand_over(&mut self) -> Outcome<()> {
        self.back.run()?;
        let [from, to] = &mut self.buffers;
        let bytes = self.bytes;
        from.with_bytes(bytes, |from| to.with_bytes(bytes, |to| to.copy_from_slice(from)))??;
        self.up.run()
    }
}

/// Ahead of a transfer of an image that is in the old layout.
fn to_general(
    raw: &ash::Device,
    commands: vk::CommandBuffer,
    (image, old): (vk::Image, vk::ImageLayout),
    access: vk::AccessFlags,
) {
    let barrier = [vk::ImageMemoryBarrier::default()
        .image(image)
        .old_layout(old)
        .new_layout(vk::ImageLayout::GENERAL)
        .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .dst_access_mask(access)
        .subresource_range(whole())];
    let (from, to) = (vk::PipelineStageFlags::TOP_OF_PIPE, vk::PipelineStageFlags::TRANSFER);
    let flags = vk::DependencyFlags::empty();
    // SAFETY: being recorded; a live image of the device.
    unsafe { raw.cmd_pipeline_barrier(commands, from, to, flags, &[], &[], &barrier) };
}
