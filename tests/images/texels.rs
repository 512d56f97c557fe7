//! The oracle: texels of every format as bytes, how a device writes them, and how it reads them back.
#![expect(unsafe_code, reason = "raw commands of the test")]

use ash::vk;
use peerbuf::image::{Extent, FormatPlane, Fourcc};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, Fence, ImageAttachment, ImageDescriptor,
    ImageMapping, ImagePart, Mapping, Placement, RawImage, Result, Scope, SharedImage, Submission,
};

use crate::common::bytes::{assert_same, sequence};
use crate::common::{LONG, in_vm};

/// Whether a driver can be told where rows are, wherever that is: lavapipe can, where memory comes as dma-bufs. Between two
/// devices that is proved with stated planes on both, so not with SwiftShader, which has none.
pub(crate) fn takes_stated_planes(device: &Device) -> bool {
    in_vm() && device.adapter().driver_id() == vk::DriverId::MESA_LLVMPIPE
}

/// A fourcc.
pub(crate) fn code(name: &str) -> Fourcc {
    Fourcc::new(name.as_bytes().try_into().expect("four characters"))
}

/// An image of a format and size, that can be sampled and copied.
pub(crate) fn image(name: &str, (width, height): (u32, u32), mips: u32) -> ImageDescriptor {
    ImageDescriptor::new(code(name), width, height).mips(mips).name(name)
}

/// Every part of an image.
pub(crate) fn parts(image: &SharedImage) -> Vec<ImagePart> {
    let shape = image.shape();
    let mut parts = vec![];
    for plane in 0..image.format().planes().len() as u32 {
        for level in 0..shape.mips {
            parts.extend((0..shape.layers).map(|layer| ImagePart { plane, level, layer }));
        }
    }
    parts
}

/// The texels of a part that is written with a seed: bytes without a pattern, except that 16-bit floats are finite.
pub(crate) fn texels(image: &SharedImage, part: ImagePart, seed: u64) -> Vec<u8> {
    let bytes = image.texel_bytes(part).expect("the image has the part");
    let seed = seed << 24
        | u64::from(part.plane) << 16
        | u64::from(part.level) << 8
        | u64::from(part.layer);
    let mut texels = sequence(seed, bytes);
    let name = image.fourcc().to_string();
    if name.ends_with("4H") {
        texels.iter_mut().skip(1).step_by(2).for_each(|high| *high = *high & 0xbb | 0x20);
    }
    texels
}

/// A buffer of a device through which texels pass, with its mapping.
pub(crate) struct Passage {
    engine: Engine,
    pub(crate) device: Device,
    attachment: Attachment,
}

impl Passage {
    pub(crate) fn new(engine: &Engine, device: &Device, bytes: u64) -> Self {
        let descriptor = BufferDescriptor::new(bytes).placement(Placement::System).name("passage");
        let buffer = engine.create_buffer(device, descriptor).expect("a buffer");
        let attachment = buffer.attach(device).expect("a device reaches its own buffer");
        Self { engine: engine.clone(), device: device.clone(), attachment }
    }

    /// Where each part begins in the buffer, and the copy of it.
    fn regions(image: &SharedImage) -> Vec<(ImagePart, u64, vk::BufferImageCopy)> {
        let mut end = 0_u64;
        let mut regions = vec![];
        for part in parts(image) {
            let plane = image.format().planes()[part.plane as usize];
            let extent = plane_extent(plane, image.shape().extent.at_level(part.level));
            let region = vk::BufferImageCopy::default()
                .buffer_offset(end)
                .image_subresource(vk::ImageSubresourceLayers {
                    aspect_mask: aspect(image, part.plane),
                    mip_level: part.level,
                    base_array_layer: part.layer,
                    layer_count: 1,
                })
                .image_extent(vk::Extent3D {
                    width: extent.width,
                    height: extent.height,
                    depth: 1,
                });
            regions.push((part, end, region));
            let bytes = image.texel_bytes(part).expect("the image has the part");
            end = (end + bytes).next_multiple_of(16);
        }
        regions
    }

    /// Writes all texels of a seed with the device: from the buffer into the image.
    pub(crate) fn upload(&self, mapping: &ImageMapping, seed: u64) {
        self.try_upload(mapping, seed).expect("the device copies");
    }

    /// Does that, or fails as the submission does.
    pub(crate) fn try_upload(&self, mapping: &ImageMapping, seed: u64) -> Result<()> {
        let image = mapping.image();
        let regions = Self::regions(image);
        let access = self.attachment.buffer().host_access(Access::Write)?;
        for (part, offset, _) in &regions {
            access.write(*offset, &texels(image, *part, seed))?;
        }
        access.end()?;
        let source = self.attachment.map(Access::Read)?;
        let submitted = self.engine.submit(&self.device, |submission| {
            let target = mapping.uses(submission, Access::Write, Scope::TRANSFER)?;
            self.record(submission, &source, target, &regions, true)
        });
        submitted.map(drop)
    }

    /// Copies the image into the buffer with the device, and asserts that all texels are those of a seed.
    pub(crate) fn assert_copied(&self, mapping: &ImageMapping, seed: u64, what: &str) {
        self.try_copied(mapping, seed, what).expect("the device copies");
    }

    /// Does that, or fails as the submission does.
    pub(crate) fn try_copied(&self, mapping: &ImageMapping, seed: u64, what: &str) -> Result<()> {
        let regions = Self::regions(mapping.image());
        let target = self.attachment.map(Access::Write)?;
        let fence = self.engine.submit(&self.device, |submission| {
            let source = mapping.uses(submission, Access::Read, Scope::TRANSFER)?;
            self.record(submission, &target, source, &regions, false)
        })?;
        self.assert_texels(&fence, mapping.image(), seed, what)
    }

    /// Copies as [`Passage::assert_copied`] does, with a mapping that is replaced if the image has moved.
    pub(crate) fn remapped_copied(
        &self,
        (attachment, mapping): (&ImageAttachment, &mut ImageMapping),
        seed: u64,
        what: &str,
    ) -> Result<()> {
        let regions = Self::regions(attachment.image());
        let target = self.attachment.map(Access::Write)?;
        let fence = self.engine.submit_images_remapped(
            &self.device,
            &mut [(attachment, mapping)],
            &mut [],
            |submission, images, _| {
                let source = images[0].uses(submission, Access::Read, Scope::TRANSFER)?;
                self.record(submission, &target, source, &regions, false)
            },
        )?;
        self.assert_texels(&fence, attachment.image(), seed, what)
    }

    /// Asserts that the buffer has the texels of a seed once a copy has ended.
    fn assert_texels(
        &self,
        copied: &Fence,
        image: &SharedImage,
        seed: u64,
        what: &str,
    ) -> Result<()> {
        copied.wait(LONG)?;
        let access = self.attachment.buffer().host_access(Access::Read)?;
        for (part, offset, _) in Self::regions(image) {
            let expected = texels(image, part, seed);
            let mut actual = vec![0; expected.len()];
            access.read(offset, &mut actual)?;
            assert_same(&actual, &expected, &format!("{what}: {part:?} copied"));
        }
        Ok(())
    }

    /// Declares a use of the buffer, and records the copies.
    fn record<'a>(
        &'a self,
        submission: &mut Submission<'a>,
        buffer: &Mapping,
        image: RawImage,
        regions: &[(ImagePart, u64, vk::BufferImageCopy)],
        into_image: bool,
    ) -> Result<()> {
        let access = if into_image { Access::Read } else { Access::Write };
        let view = submission.uses(buffer, access, Scope::TRANSFER)?;
        let moved =
            |region: &vk::BufferImageCopy| region.buffer_offset(view.offset + region.buffer_offset);
        let regions: Vec<_> = regions.iter().map(|(.., region)| moved(region)).collect();
        let raw = self.device.raw();
        let record = move |commands| {
            let (image, layout) = (image.image, image.layout);
            if into_image {
                // SAFETY: live objects of the device, in the layout that the declaration says; regions within both.
                unsafe {
                    raw.cmd_copy_buffer_to_image(commands, view.buffer, image, layout, &regions);
                }
            } else {
                // SAFETY: as above.
                unsafe {
                    raw.cmd_copy_image_to_buffer(commands, image, layout, view.buffer, &regions);
                }
            }
        };
        // SAFETY: it records valid commands on what was declared.
        unsafe { submission.record(record) };
        Ok(())
    }
}

/// The bytes that an image has in its domain.
pub(crate) fn footprint(engine: &Engine, image: &SharedImage) -> u64 {
    let report = engine.report();
    let listed = report.buffers.iter().find(|buffer| buffer.id == image.id());
    listed.expect("it is alive").footprint
}

/// The host writes all texels of a seed.
pub(crate) fn write_by_host(image: &SharedImage, seed: u64) {
    for part in parts(image) {
        image.write_texels(part, &texels(image, part, seed)).expect("the host writes");
    }
}

/// Asserts that the host reads the texels of a seed everywhere.
pub(crate) fn assert_host_reads(image: &SharedImage, seed: u64, what: &str) {
    for part in parts(image) {
        let read = image.read_texels(part).expect("the host reads");
        assert_same(&read, &texels(image, part, seed), &format!("{what}: {part:?} by the host"));
    }
}

/// The texels of a plane.
pub(crate) fn plane_extent(plane: FormatPlane, extent: Extent) -> Extent {
    Extent::new(
        extent.width.div_ceil(plane.divide_x.into()),
        extent.height.div_ceil(plane.divide_y.into()),
    )
}

/// The aspect of a plane.
pub(crate) fn aspect(image: &SharedImage, plane: u32) -> vk::ImageAspectFlags {
    match (image.format().planes().len(), plane) {
        (1, _) => vk::ImageAspectFlags::COLOR,
        (_, 0) => vk::ImageAspectFlags::PLANE_0,
        (_, 1) => vk::ImageAspectFlags::PLANE_1,
        _ => vk::ImageAspectFlags::PLANE_2,
    }
}
