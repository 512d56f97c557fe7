//! Frames: drawn on one device, and compared texel by texel by a shader of another one.
//!
//! An application uses images of peerbuf so: views and framebuffers over the `VkImage` of a mapping, and commands that are
//! recorded in a submission.
#![expect(unsafe_code, reason = "views, framebuffers and commands on live devices")]

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::time::Duration;

use ash::vk;
use peerbuf::image::{Extent, Fourcc};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, ImageMapping, Placement, RawImage, Scope,
    Submission,
};

use crate::failure::{Failure, Result};
use crate::pipelines::{Checking, Drawing, PARAMETERS, Pipelines, failed};

/// The format: every driver draws into it and samples it (Vulkan, "Required Format Support").
pub(crate) const FOURCC: Fourcc = Fourcc::new(*b"AR24");

/// Invocations of a workgroup in each direction, as in the shader.
const GROUP: u32 = 8;
/// Bytes of the shader's `Findings`.
const FINDINGS: u64 = 8;

/// The texels of a frame as bytes: what the host reads of an image in which it was drawn.
pub(crate) fn texels(extent: Extent, seed: u32) -> impl Iterator<Item = [u8; 4]> {
    let texel = move |at: u32| {
        let mut x = at.wrapping_mul(0x9e37_79b9).wrapping_add(seed);
        x = (x ^ x >> 16).wrapping_mul(0x7feb_352d);
        x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
        let [red, green, blue, alpha] = (x ^ x >> 16).to_le_bytes();
        [blue, green, red, alpha]
    };
    (0..extent.width * extent.height).map(texel)
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Texels that were compared.
    pub(crate) texels: u64,
    pub(crate) wrong: u64,
    /// Column and row of the first wrong one.
    pub(crate) first: Option<[u32; 2]>,
}

/// Draws and compares frames on a device.
///
/// # Invariants
///
/// Unless `busy` is set, no work of this type is running.
pub(crate) struct Painter {
    engine: Engine,
    device: Device,
    /// The longest wait for a frame.
    timeout: Duration,
    /// Set from a submission until it has ended. If a wait fails, it stays set, and nothing is destroyed.
    busy: Cell<bool>,
    findings: Attachment,
    /// Taken by `drop` alone.
    pipelines: ManuallyDrop<Pipelines>,
}

impl Painter {
    /// Makes the pipelines.
    pub(crate) fn new(engine: &Engine, device: &Device, timeout: Duration) -> Result<Self> {
        let descriptor = BufferDescriptor::new(FINDINGS).placement(Placement::System);
        let findings = engine.create_buffer(device, descriptor.name("findings"))?;
        Ok(Self {
            engine: engine.clone(),
            device: device.clone(),
            timeout,
            busy: Cell::new(false),
            findings: findings.attach(device)?,
            pipelines: ManuallyDrop::new(Pipelines::new(device)?),
        })
    }

    /// Whether the device's queue draws.
    pub(crate) fn draws(&self) -> bool {
        self.pipelines.draws().is_some()
    }

    /// Draws the frame of a seed over all of an image. The mapping's device draws into it.
    pub(crate) fn draw(&self, mapping: &ImageMapping, seed: u32) -> Result<()> {
        let (raw, Extent { width, height }) = (self.device.raw(), mapping.image().shape().extent);
        let Some(Drawing { pass, layout, pipeline }) = self.pipelines.draws() else {
            return Err(Failure::NothingDraws);
        };
        let mut target = self.target(mapping.view()?)?;
        let views = [target.view];
        let info = vk::FramebufferCreateInfo::default()
            .render_pass(pass)
            .attachments(&views)
            .width(width)
            .height(height)
            .layers(1);
        // SAFETY: a view of the pass's format, of an image of this size that is drawn into.
        let frame = unsafe { raw.create_framebuffer(&info, None) };
        target.frame = frame.map_err(failed(&self.device, "vkCreateFramebuffer"))?;
        let area = vk::Rect2D::default().extent(vk::Extent2D { width, height });
        // CAST: at most 4096.
        let viewport =
            vk::Viewport::default().width(width as f32).height(height as f32).max_depth(1.0);
        let (at, stages) = (vk::PipelineBindPoint::GRAPHICS, vk::ShaderStageFlags::FRAGMENT);
        let parameters = parameters(seed, width);
        let begin = vk::RenderPassBeginInfo::default()
            .render_pass(pass)
            .framebuffer(target.frame)
            .render_area(area);
        let record = move |commands| {
            // SAFETY: pass and framebuffer are live, and fit each other.
            unsafe { raw.cmd_begin_render_pass(commands, &begin, vk::SubpassContents::INLINE) };
            // SAFETY: a live pipeline for this pass.
            unsafe { raw.cmd_bind_pipeline(commands, at, pipeline) };
            // SAFETY: it is a dynamic state of the pipeline.
            unsafe { raw.cmd_set_viewport(commands, 0, &[viewport]) };
            // SAFETY: as above.
            unsafe { raw.cmd_set_scissor(commands, 0, &[area]) };
            // SAFETY: the layout has this range.
            unsafe { raw.cmd_push_constants(commands, layout, stages, 0, &parameters) };
            // SAFETY: all that the pipeline needs is bound.
            unsafe { raw.cmd_draw(commands, 3, 1, 0, 0) };
            // SAFETY: begun above.
            unsafe { raw.cmd_end_render_pass(commands) };
        };
        let drawing = Scope::new(
            vk::PipelineStageFlags::COLOR_ATTACHMENT_OUTPUT,
            vk::AccessFlags::COLOR_ATTACHMENT_WRITE,
        );
        self.run(|submission| {
            mapping.overwrites(submission, drawing)?;
            // SAFETY: it records valid commands on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        })
    }

    /// Compares every texel of an image, as a shader samples it, with the frame of a seed.
    pub(crate) fn check(&self, mapping: &ImageMapping, seed: u32) -> Result<Found> {
        let (raw, Extent { width, height }) = (self.device.raw(), mapping.image().shape().extent);
        let access = self.findings.buffer().host_access(Access::Write)?;
        access.write(0, &u64::to_le_bytes(u64::from(u32::MAX) << 32))?;
        access.end()?;
        let findings = self.findings.map(Access::Write)?;
        let bytes = findings.view()?;
        let source = self.target(mapping.view()?)?;
        let images = [vk::DescriptorImageInfo::default()
            .image_view(source.view)
            .image_layout(vk::ImageLayout::GENERAL)];
        let buffers = [vk::DescriptorBufferInfo {
            buffer: bytes.buffer,
            offset: bytes.offset,
            range: FINDINGS,
        }];
        let Checking { layout, pipeline, set } = self.pipelines.checks();
        let write = |at, kind| {
            let write = vk::WriteDescriptorSet::default().dst_set(set).dst_binding(at);
            write.descriptor_type(kind)
        };
        let writes = [
            write(0, vk::DescriptorType::SAMPLED_IMAGE).image_info(&images),
            write(1, vk::DescriptorType::STORAGE_BUFFER).buffer_info(&buffers),
        ];
        // SAFETY: view and buffer are live, and no work uses the set.
        unsafe { raw.update_descriptor_sets(&writes, &[]) };
        let (at, stages) = (vk::PipelineBindPoint::COMPUTE, vk::ShaderStageFlags::COMPUTE);
        let parameters = parameters(seed, width);
        let record = move |commands| {
            // SAFETY: a live pipeline.
            unsafe { raw.cmd_bind_pipeline(commands, at, pipeline) };
            // SAFETY: a live set of the pipeline's layout.
            unsafe { raw.cmd_bind_descriptor_sets(commands, at, layout, 0, &[set], &[]) };
            // SAFETY: the layout has this range.
            unsafe { raw.cmd_push_constants(commands, layout, stages, 0, &parameters) };
            let (x, y) = (width.div_ceil(GROUP), height.div_ceil(GROUP));
            // SAFETY: all is bound, and there are no more groups than every device allows.
            unsafe { raw.cmd_dispatch(commands, x, y, 1) };
        };
        self.run(|submission| {
            mapping.uses(submission, Access::Read, Scope::COMPUTE)?;
            submission.uses(&findings, Access::Write, Scope::COMPUTE)?;
            // SAFETY: it records valid commands on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        })?;
        let (mut count, mut first) = ([0; 4], [0; 4]);
        let access = self.findings.buffer().host_access(Access::Read)?;
        access.read(0, &mut count)?;
        access.read(4, &mut first)?;
        access.end()?;
        let (count, first) = (u32::from_le_bytes(count), u32::from_le_bytes(first));
        Ok(Found {
            texels: u64::from(width) * u64::from(height),
            wrong: count.into(),
            first: (count > 0).then_some([first % width, first / width]),
        })
    }

    /// A view of an image, which is used and then dropped.
    fn target(&self, image: RawImage) -> Result<Target<'_>> {
        let info = vk::ImageViewCreateInfo::default()
            .image(image.image)
            .view_type(vk::ImageViewType::TYPE_2D)
            .format(image.format)
            .subresource_range(vk::ImageSubresourceRange {
                aspect_mask: vk::ImageAspectFlags::COLOR,
                base_mip_level: 0,
                level_count: 1,
                base_array_layer: 0,
                layer_count: 1,
            });
        // SAFETY: the mapping keeps the image alive; it has one level and one layer.
        let view = unsafe { self.device.raw().create_image_view(&info, None) };
        let view = view.map_err(failed(&self.device, "vkCreateImageView"))?;
        Ok(Target { painter: self, view, frame: vk::Framebuffer::null() })
    }

    /// Submits work, and waits until it has ended.
    fn run<'a>(
        &'a self,
        declare: impl FnOnce(&mut Submission<'a>) -> peerbuf::Result<()>,
    ) -> Result<()> {
        let fence = match self.engine.submit(&self.device, declare) {
            Ok(fence) => fence,
            Err(error) => {
                // Work that a lost device was given may run all the same.
                self.busy.set(error.is_device_lost());
                return Err(error.into());
            }
        };
        self.busy.set(true);
        fence.wait(self.timeout)?;
        self.busy.set(false);
        Ok(())
    }
}

/// A view of an image, and a framebuffer with it if there is one.
struct Target<'a> {
    painter: &'a Painter,
    view: vk::ImageView,
    frame: vk::Framebuffer,
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        if self.painter.busy.get() {
            return;
        }
        let raw = self.painter.device.raw();
        // SAFETY: ours or null, and no work is running.
        unsafe { raw.destroy_framebuffer(self.frame, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_image_view(self.view, None) };
    }
}

fn parameters(seed: u32, width: u32) -> [u8; PARAMETERS] {
    let [seed, width] = [seed, width].map(u32::to_le_bytes);
    std::array::from_fn(|at| if at < 4 { seed[at] } else { width[at - 4] })
}

impl Drop for Painter {
    fn drop(&mut self) {
        if !self.busy.get() {
            // SAFETY: dropped here alone; no work is running.
            unsafe { ManuallyDrop::drop(&mut self.pipelines) };
        }
    }
}

#[cfg(test)]
mod tests {
    use peerbuf::image::Format;

    use super::*;
    use crate::pipelines;

    #[test]
    fn a_frame_has_the_format_that_devices_draw() {
        let format = Format::of(FOURCC).expect("in the table");
        assert_eq!(format.vulkan().format, pipelines::FORMAT);
        let texels: Vec<_> = texels(Extent::new(3, 2), 7).collect();
        assert_eq!(texels.len(), 6);
        assert_ne!(texels[0], texels[1]);
    }
}
