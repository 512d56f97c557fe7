//! The scene: lit cubes over a floor, and the number of the frame in cells at the top and the bottom.
#![expect(unsafe_code, reason = "pipelines, framebuffers and draws on a live device")]

use std::collections::HashMap;
use std::rc::Rc;

use crate::in_use::InUse;
use crate::{Result, shader, stamp};
use ash::vk;
use peerbuf::{Device, Fence};

const SHADER: &str = include_str!("scene.wgsl");
const DEPTH: vk::Format = vk::Format::D16_UNORM;
/// Cubes, and vertices of one; the floor is one more.
const INSTANCES: u32 = 26;
const VERTICES: u32 = 36;

/// What draws the scene on one device, into images of one format.
///
/// # Invariants
///
/// All handles are null or live objects of `device`. All work that uses them draws into a target, which is kept with the
/// fence of that work.
pub struct Scene {
    device: Device,
    pass: vk::RenderPass,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    /// Whether the number of the frame is all that is drawn; other texels are undefined.
    is_bare: bool,
    /// The depth of the present size.
    depth: Option<Rc<Depth>>,
    targets: HashMap<vk::Image, InUse<Rc<Target>>>,
    /// Of images that are not drawn into any more.
    retired: Vec<InUse<Rc<Target>>>,
}

/// A depth image; all frames of one queue share it.
struct Depth {
    device: Device,
    size: [u32; 2],
    image: vk::Image,
    memory: vk::DeviceMemory,
    view: vk::ImageView,
}

/// The framebuffer of one image.
pub struct Target {
    device: Device,
    view: vk::ImageView,
    framebuffer: vk::Framebuffer,
    depth: Rc<Depth>,
}

impl Scene {
    /// The scene on a device, for images of one format. `is_bare`: the number of the frame alone.
    ///
    /// # Errors
    ///
    /// The error of a call.
    pub fn new(device: &Device, format: vk::Format, is_bare: bool) -> Result<Self> {
        let mut this = Self {
            device: device.clone(),
            pass: vk::RenderPass::null(),
            layout: vk::PipelineLayout::null(),
            pipeline: vk::Pipeline::null(),
            is_bare,
            depth: None,
            targets: HashMap::new(),
            retired: vec![],
        };
        this.pass = render_pass(device, format, is_bare)?;
        let constants = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::VERTEX | vk::ShaderStageFlags::FRAGMENT)
            .size(16)];
        let info = vk::PipelineLayoutCreateInfo::default().push_constant_ranges(&constants);
        // SAFETY: the device is live; 16 bytes are within every limit.
        this.layout = unsafe { device.raw().create_pipeline_layout(&info, None) }?;
        this.pipeline = this.create_pipeline()?;
        Ok(this)
    }

    fn create_pipeline(&self) -> Result<vk::Pipeline> {
        let raw = self.device.raw();
        let module = shader::module(raw, SHADER)?;
        let stage = |stage, name| {
            vk::PipelineShaderStageCreateInfo::default().stage(stage).module(module).name(name)
        };
        let stages = [
            stage(vk::ShaderStageFlags::VERTEX, c"vertex"),
            stage(vk::ShaderStageFlags::FRAGMENT, c"fragment"),
        ];
        let input = vk::PipelineVertexInputStateCreateInfo::default();
        let assembly = vk::PipelineInputAssemblyStateCreateInfo::default()
            .topology(vk::PrimitiveTopology::TRIANGLE_LIST);
        let viewport =
            vk::PipelineViewportStateCreateInfo::default().viewport_count(1).scissor_count(1);
        let raster = vk::PipelineRasterizationStateCreateInfo::default()
            .polygon_mode(vk::PolygonMode::FILL)
            .cull_mode(vk::CullModeFlags::NONE)
            .line_width(1.0);
        let samples = vk::PipelineMultisampleStateCreateInfo::default()
            .rasterization_samples(vk::SampleCountFlags::TYPE_1);
        let depth = vk::PipelineDepthStencilStateCreateInfo::default()
            .depth_test_enable(true)
            .depth_write_enable(true)
            .depth_compare_op(vk::CompareOp::LESS);
        let attachments = [vk::PipelineColorBlendAttachmentState::default()
            .color_write_mask(vk::ColorComponentFlags::RGBA)];
        let blend = vk::PipelineColorBlendStateCreateInfo::default().attachments(&attachments);
        let states = [vk::DynamicState::VIEWPORT, vk::DynamicState::SCISSOR];
        let dynamic = vk::PipelineDynamicStateCreateInfo::default().dynamic_states(&states);
        let info = [vk::GraphicsPipelineCreateInfo::default()
            .stages(&stages)
            .vertex_input_state(&input)
            .input_assembly_state(&assembly)
            .viewport_state(&viewport)
            .rasterization_state(&raster)
            .multisample_state(&samples)
            .depth_stencil_state(&depth)
            .color_blend_state(&blend)
            .dynamic_state(&dynamic)
            .layout(self.layout)
            .render_pass(self.pass)];
        let cache = vk::PipelineCache::null();
        // SAFETY: all that `info` names is live and fits together; the shader uses the 16 bytes of the layout.
        let made = unsafe { raw.create_graphics_pipelines(cache, &info, None) };
        // SAFETY: pipelines do not need their module once they are made.
        unsafe { raw.destroy_shader_module(module, None) };
        Ok(made.map(|made| made[0]).map_err(|(_, code)| code)?)
    }

    /// The target of an image, which is made at its first use.
    ///
    /// # Errors
    ///
    /// The error of a call.
    pub fn target(
        &mut self,
        image: vk::Image,
        format: vk::Format,
        size: [u32; 2],
    ) -> Result<Rc<Target>> {
        self.sweep();
        if self.depth.as_ref().is_none_or(|depth| depth.size != size) {
            self.depth = Some(Rc::new(Depth::new(&self.device, size)?));
            self.retired.extend(self.targets.drain().map(|(_, used)| used));
        }
        let depth = self.depth.clone().ok_or("no depth image")?;
        if let Some(target) = self.targets.get(&image) {
            return Ok(Rc::clone(target));
        }
        let target = Rc::new(Target::new(&self.device, self.pass, (image, format), depth)?);
        self.targets.insert(image, InUse::new(&self.device, Rc::clone(&target)));
        Ok(target)
    }

    /// Notes the work that draws into a target last.
    pub(crate) fn submitted(&mut self, image: vk::Image, fence: &Fence) {
        if let Some(target) = self.targets.get_mut(&image) {
            target.used_by(fence);
        }
    }

    /// Forgets the target of an image that is not drawn into any more. The image lives until the fence has signalled.
    pub(crate) fn forget(&mut self, image: vk::Image) {
        self.retired.extend(self.targets.remove(&image));
    }

    /// Drops the targets that were forgotten and that no work uses.
    pub(crate) fn sweep(&mut self) {
        self.retired.retain(|target| !target.is_free());
    }

    /// Records the scene of a frame. The image is in the layout GENERAL.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded for the device. The target and its image live until the work has finished.
    pub unsafe fn record(&self, commands: vk::CommandBuffer, target: &Target, frame: u32) {
        let (raw, size) = (self.device.raw(), target.depth.size);
        let extent = vk::Extent2D { width: size[0], height: size[1] };
        let area = vk::Rect2D { offset: vk::Offset2D::default(), extent };
        let sky = vk::ClearColorValue { float32: [0.45, 0.62, 0.80, 1.0] };
        let far = vk::ClearDepthStencilValue { depth: 1.0, stencil: 0 };
        let clears = [vk::ClearValue { color: sky }, vk::ClearValue { depth_stencil: far }];
        let begin = vk::RenderPassBeginInfo::default()
            .render_pass(self.pass)
            .framebuffer(target.framebuffer)
            .render_area(area)
            .clear_values(&clears);
        // SAFETY: the caller's contract; pass and framebuffer are live and fit together.
        unsafe { raw.cmd_begin_render_pass(commands, &begin, vk::SubpassContents::INLINE) };
        if !self.is_bare {
            // SAFETY: the caller's contract.
            unsafe { self.draw(commands, area, frame) };
        }
        for (bit, value) in [(true, 1.0), (false, 0.0)] {
            let cells = stamp::cells(size, frame, bit);
            if cells.is_empty() {
                continue;
            }
            let color = vk::ClearColorValue { float32: [value, value, value, 1.0] };
            let clear = [vk::ClearAttachment {
                aspect_mask: vk::ImageAspectFlags::COLOR,
                color_attachment: 0,
                clear_value: vk::ClearValue { color },
            }];
            // SAFETY: within a pass; the rectangles are within the image.
            unsafe { raw.cmd_clear_attachments(commands, &clear, &cells) };
        }
        // SAFETY: as above.
        unsafe { raw.cmd_end_render_pass(commands) };
    }

    /// Records the cubes and the floor, over the whole image.
    ///
    /// # Safety
    ///
    /// As [`Scene::record`], within the pass.
    unsafe fn draw(&self, commands: vk::CommandBuffer, area: vk::Rect2D, frame: u32) {
        let raw = self.device.raw();
        let point = vk::PipelineBindPoint::GRAPHICS;
        // SAFETY: the pipeline is live, and was made for this pass.
        unsafe { raw.cmd_bind_pipeline(commands, point, self.pipeline) };
        // CAST: sizes are far below 2^24.
        let [width, height] = [area.extent.width, area.extent.height].map(|texels| texels as f32);
        let viewport = [vk::Viewport { width, height, max_depth: 1.0, ..Default::default() }];
        // SAFETY: the size of the image, which is within every limit for viewports.
        unsafe { raw.cmd_set_viewport(commands, 0, &viewport) };
        // SAFETY: as above.
        unsafe { raw.cmd_set_scissor(commands, 0, &[area]) };
        // CAST: a number of frames, of which the animation needs the low bits.
        let constants = [frame as f32 / 60.0, width / height, 0.0, 0.0];
        let bytes: Vec<u8> = constants.iter().flat_map(|value| value.to_ne_bytes()).collect();
        let stages = vk::ShaderStageFlags::VERTEX | vk::ShaderStageFlags::FRAGMENT;
        // SAFETY: the layout has these 16 bytes for these stages.
        unsafe { raw.cmd_push_constants(commands, self.layout, stages, 0, &bytes) };
        // SAFETY: within a pass, all dynamic state is set.
        unsafe { raw.cmd_draw(commands, VERTICES, INSTANCES, 0, 0) };
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let targets = self.targets.drain().map(|(_, target)| target);
        let leaked = targets.chain(self.retired.drain(..)).map(InUse::end).filter(|freed| !freed);
        if leaked.count() > 0 {
            // Work that has not ended uses the pipeline, too.
            return;
        }
        let raw = self.device.raw();
        // SAFETY: null or live; the work that uses it has finished.
        unsafe { raw.destroy_pipeline(self.pipeline, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_pipeline_layout(self.layout, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_render_pass(self.pass, None) };
    }
}

fn render_pass(device: &Device, format: vk::Format, is_bare: bool) -> Result<vk::RenderPass> {
    let load = if is_bare { vk::AttachmentLoadOp::DONT_CARE } else { vk::AttachmentLoadOp::CLEAR };
    let attachment = |format, store| {
        vk::AttachmentDescription::default()
            .format(format)
            .samples(vk::SampleCountFlags::TYPE_1)
            .load_op(load)
            .store_op(store)
            .stencil_load_op(vk::AttachmentLoadOp::DONT_CARE)
            .stencil_store_op(vk::AttachmentStoreOp::DONT_CARE)
    };
    let (general, depth_layout) =
        (vk::ImageLayout::GENERAL, vk::ImageLayout::DEPTH_STENCIL_ATTACHMENT_OPTIMAL);
    let attachments = [
        // peerbuf hands images out in GENERAL, and takes them back in it.
        attachment(format, vk::AttachmentStoreOp::STORE)
            .initial_layout(general)
            .final_layout(general),
        attachment(DEPTH, vk::AttachmentStoreOp::DONT_CARE).final_layout(depth_layout),
    ];
    let colors = [vk::AttachmentReference { attachment: 0, layout: general }];
    let depth = vk::AttachmentReference { attachment: 1, layout: depth_layout };
    let subpasses = [vk::SubpassDescription::default()
        .pipeline_bind_point(vk::PipelineBindPoint::GRAPHICS)
        .color_attachments(&colors)
        .depth_stencil_attachment(&depth)];
    // All frames share the depth image.
    let tests =
        vk::PipelineStageFlags::EARLY_FRAGMENT_TESTS | vk::PipelineStageFlags::LATE_FRAGMENT_TESTS;
    let output = vk::PipelineStageFlags::COLOR_ATTACHMENT_OUTPUT;
    let dependencies = [vk::SubpassDependency::default()
        .src_subpass(vk::SUBPASS_EXTERNAL)
        .src_stage_mask(tests | output)
        .src_access_mask(vk::AccessFlags::DEPTH_STENCIL_ATTACHMENT_WRITE)
        .dst_stage_mask(tests | output)
        .dst_access_mask(
            vk::AccessFlags::DEPTH_STENCIL_ATTACHMENT_READ
                | vk::AccessFlags::DEPTH_STENCIL_ATTACHMENT_WRITE
                | vk::AccessFlags::COLOR_ATTACHMENT_WRITE,
        )];
    let info = vk::RenderPassCreateInfo::default()
        .attachments(&attachments)
        .subpasses(&subpasses)
        .dependencies(&dependencies);
    // SAFETY: the device is live; every device draws with this format for depth.
    Ok(unsafe { device.raw().create_render_pass(&info, None) }?)
}

fn view(
    device: &Device,
    image: vk::Image,
    format: vk::Format,
    aspect_mask: vk::ImageAspectFlags,
) -> Result<vk::ImageView> {
    let range = vk::ImageSubresourceRange {
        aspect_mask,
        level_count: 1,
        layer_count: 1,
        ..Default::default()
    };
    let info = vk::ImageViewCreateInfo::default()
        .image(image)
        .view_type(vk::ImageViewType::TYPE_2D)
        .format(format)
        .subresource_range(range);
    // SAFETY: the image is live, bound, and of this format.
    Ok(unsafe { device.raw().create_image_view(&info, None) }?)
}

impl Depth {
    fn new(device: &Device, size: [u32; 2]) -> Result<Self> {
        let raw = device.raw();
        let mut this = Self {
            device: device.clone(),
            size,
            image: vk::Image::null(),
            memory: vk::DeviceMemory::null(),
            view: vk::ImageView::null(),
        };
        let info = vk::ImageCreateInfo::default()
            .image_type(vk::ImageType::TYPE_2D)
            .format(DEPTH)
            .extent(vk::Extent3D { width: size[0], height: size[1], depth: 1 })
            .mip_levels(1)
            .array_layers(1)
            .samples(vk::SampleCountFlags::TYPE_1)
            .usage(vk::ImageUsageFlags::DEPTH_STENCIL_ATTACHMENT);
        // SAFETY: the device is live; the size is that of a colour image of it.
        this.image = unsafe { raw.create_image(&info, None) }?;
        // SAFETY: the image is live.
        let needs = unsafe { raw.get_image_memory_requirements(this.image) };
        let kind = needs.memory_type_bits.trailing_zeros();
        let info =
            vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(kind);
        // SAFETY: the type is one that the image may have.
        this.memory = unsafe { raw.allocate_memory(&info, None) }?;
        // SAFETY: the image has no memory yet, and this is large enough.
        unsafe { raw.bind_image_memory(this.image, this.memory, 0) }?;
        this.view = view(device, this.image, DEPTH, vk::ImageAspectFlags::DEPTH)?;
        Ok(this)
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        let raw = self.device.raw();
        // SAFETY: null or live; targets hold the depth image until their work has finished.
        unsafe { raw.destroy_image_view(self.view, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_image(self.image, None) };
        // SAFETY: as above.
        unsafe { raw.free_memory(self.memory, None) };
    }
}

impl Target {
    fn new(
        device: &Device,
        pass: vk::RenderPass,
        (image, format): (vk::Image, vk::Format),
        depth: Rc<Depth>,
    ) -> Result<Self> {
        let mut this = Self {
            device: device.clone(),
            view: vk::ImageView::null(),
            framebuffer: vk::Framebuffer::null(),
            depth,
        };
        this.view = view(device, image, format, vk::ImageAspectFlags::COLOR)?;
        let views = [this.view, this.depth.view];
        let info = vk::FramebufferCreateInfo::default()
            .render_pass(pass)
            .attachments(&views)
            .width(this.depth.size[0])
            .height(this.depth.size[1])
            .layers(1);
        // SAFETY: views and pass are live, and have the same formats.
        this.framebuffer = unsafe { device.raw().create_framebuffer(&info, None) }?;
        Ok(this)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let raw = self.device.raw();
        // SAFETY: null or live; the scene keeps a target until its work has finished.
        unsafe { raw.destroy_framebuffer(self.framebuffer, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_image_view(self.view, None) };
    }
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene").field("is_bare", &self.is_bare).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("framebuffer", &self.framebuffer).finish_non_exhaustive()
    }
}
