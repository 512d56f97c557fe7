//! What the other device does: it writes the buffer and the picture, and copies the frame to where the host reads it.
#![expect(unsafe_code, reason = "recording commands")]

use peerbuf::ash::vk;
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, Fence, Mapping, Placement, Scope,
    SharedBuffer,
};

use crate::Result;
use crate::shared::Shared;

/// Buffers in which the host reads frames, one after the other.
const READBACKS: u32 = 3;

pub(crate) struct Other {
    pub(crate) device: Device,
    size: u32,
    readbacks: Vec<Readback>,
}

struct Readback {
    buffer: SharedBuffer,
    _attachment: Attachment,
    mapping: Mapping,
    /// The frame in it.
    number: Option<u32>,
}

/// The first two channels of the picture of a frame.
pub(crate) fn colour(number: u32) -> [u8; 2] {
    [number, number / 251].map(|value| u8::try_from(value % 251).unwrap_or_default())
}

impl Other {
    pub(crate) fn new(engine: &Engine, device: Device, size: u32) -> Result<Self> {
        let bytes = u64::from(size) * u64::from(size) * 4;
        let readback = |_| {
            let described =
                BufferDescriptor::new(bytes).placement(Placement::System).name("readback");
            let buffer = engine.create_buffer(&device, described)?;
            let attachment = buffer.attach(&device)?;
            let mapping = attachment.map(Access::Write)?;
            Ok::<_, peerbuf::Error>(Readback {
                buffer,
                _attachment: attachment,
                mapping,
                number: None,
            })
        };
        let readbacks = (0..READBACKS).map(readback).collect::<Result<_, _>>()?;
        Ok(Self { device, size, readbacks })
    }

    /// Writes the number of a frame into each word, and its colour into the picture.
    pub(crate) fn write(&self, engine: &Engine, shared: &mut Shared, number: u32) -> Result<Fence> {
        let raw = self.device.raw().clone();
        let (picture, numbers) = (&mut shared.picture, &mut shared.numbers);
        let images = &mut [(&picture.other, &mut picture.mapping)];
        let buffers = &mut [(&numbers.other, &mut numbers.mapping)];
        let [red, green] = colour(number).map(|value| f32::from(value) / 255.0);
        let colour = vk::ClearColorValue { float32: [red, green, 0.5, 1.0] };
        let declare = |submission: &mut peerbuf::Submission<'_>,
                       images: &[&peerbuf::ImageMapping],
                       buffers: &[&Mapping]| {
            let image = images[0].overwrites(submission, Scope::TRANSFER)?;
            let view = submission.uses(buffers[0], Access::Write, Scope::TRANSFER)?;
            let raw = raw.clone();
            let record = move |commands| {
                // SAFETY: the buffer is declared, its offset and size are multiples of 4, and it may be copied to.
                unsafe {
                    raw.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, number);
                }
                let (image, layout) = (image.image, image.layout);
                // SAFETY: the image is declared, in this layout, and may be copied to.
                unsafe {
                    raw.cmd_clear_color_image(commands, image, layout, &colour, &[whole()]);
                }
            };
            // SAFETY: the commands use the buffer and the image as declared.
            unsafe { submission.record(record) };
            Ok(())
        };
        Ok(engine.submit_images_remapped(&self.device, images, buffers, declare)?)
    }

    /// Copies the frame to where the host reads it. Returns what was there: the frame of some time ago, and its texels.
    pub(crate) fn read(
        &mut self,
        engine: &Engine,
        shared: &mut Shared,
        number: Option<u32>,
    ) -> Result<Option<(u32, Vec<u8>)>> {
        let turn = self.readbacks.len();
        let mut readback = self.readbacks.remove(0);
        let before = readback.texels()?;
        readback.number = number;
        if number.is_some() {
            let raw = self.device.raw().clone();
            let images = &mut [(&shared.frame.other, &mut shared.frame.mapping)];
            let (size, into) = (self.size, &readback.mapping);
            let declare = |submission: &mut peerbuf::Submission<'_>,
                           images: &[&peerbuf::ImageMapping],
                           _: &[&Mapping]| {
                let image = images[0].uses(submission, Access::Read, Scope::TRANSFER)?;
                let view = submission.uses(into, Access::Write, Scope::TRANSFER)?;
                let raw = raw.clone();
                let record = move |commands| {
                    let region = vk::BufferImageCopy::default()
                        .buffer_offset(view.offset)
                        .image_subresource(layers())
                        .image_extent(vk::Extent3D { width: size, height: size, depth: 1 });
                    let (from, layout, to) = (image.image, image.layout, view.buffer);
                    // SAFETY: both are declared; the image is in this layout and may be copied from; its texels fill the
                    // bytes of the buffer.
                    unsafe { raw.cmd_copy_image_to_buffer(commands, from, layout, to, &[region]) };
                };
                // SAFETY: the commands use the buffer and the image as declared.
                unsafe { submission.record(record) };
                Ok(())
            };
            engine.submit_images_remapped(&self.device, images, &mut [], declare)?;
        }
        self.readbacks.push(readback);
        debug_assert_eq!(self.readbacks.len(), turn);
        Ok(before)
    }

    /// How many frames are read so much later.
    pub(crate) fn depth(&self) -> usize {
        self.readbacks.len()
    }
}

impl Readback {
    /// Waits for the copy, and returns its texels.
    fn texels(&self) -> Result<Option<(u32, Vec<u8>)>> {
        let Some(number) = self.number else { return Ok(None) };
        let mut texels = vec![0; usize::try_from(self.buffer.size())?];
        let access = self.buffer.host_access(Access::Read)?;
        access.read(0, &mut texels)?;
        access.end()?;
        Ok(Some((number, texels)))
    }
}

fn whole() -> vk::ImageSubresourceRange {
    vk::ImageSubresourceRange::default()
        .aspect_mask(vk::ImageAspectFlags::COLOR)
        .level_count(1)
        .layer_count(1)
}

fn layers() -> vk::ImageSubresourceLayers {
    vk::ImageSubresourceLayers::default().aspect_mask(vk::ImageAspectFlags::COLOR).layer_count(1)
}
