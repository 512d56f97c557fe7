//! What a device needs to draw and to compare frames: a render pass, pipelines, and a descriptor set.
#![expect(unsafe_code, reason = "pipelines on live devices")]

use ash::vk;
use peerbuf::Device;

use crate::failure::{Failure, Result};

/// The format of frames.
pub(crate) const FORMAT: vk::Format = vk::Format::B8G8R8A8_UNORM;

const SHADER: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/frame.spv"));
/// Bytes of the shader's `Parameters`.
pub(crate) const PARAMETERS: usize = 8;

/// The objects of one device.
///
/// # Invariants
///
/// Every handle is null or a live object of `device`, destroyed only by `drop`, when no work uses it. Once constructed, those
/// of `checks` are not null, and those of `draws` if the device's queue draws.
pub(crate) struct Pipelines {
    device: Device,
    draws: Drawing,
    checks: Checking,
    sets: vk::DescriptorSetLayout,
    pool: vk::DescriptorPool,
}

/// What draws a frame.
#[derive(Clone, Copy, Default)]
pub(crate) struct Drawing {
    pub(crate) pass: vk::RenderPass,
    pub(crate) layout: vk::PipelineLayout,
    pub(crate) pipeline: vk::Pipeline,
}

/// What compares one: the sampled image is binding 0, the findings are binding 1.
#[derive(Clone, Copy, Default)]
pub(crate) struct Checking {
    pub(crate) layout: vk::PipelineLayout,
    pub(crate) pipeline: vk::Pipeline,
    pub(crate) set: vk::DescriptorSet,
}

/// The failure of a call on a device.
pub(crate) fn failed(
    device: &Device,
    call: &'static str,
) -> impl Fn(vk::Result) -> Failure + use<> {
    let device = device.name().to_owned();
    move |code| Failure::Vulkan { device: device.clone(), call, code }
}

impl Pipelines {
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let mut this = Self {
            device: device.clone(),
            draws: Drawing::default(),
            checks: Checking::default(),
            sets: vk::DescriptorSetLayout::null(),
            pool: vk::DescriptorPool::null(),
        };
        this.create_set()?;
        this.checks.layout = this.layout(&[this.sets], vk::ShaderStageFlags::COMPUTE)?;
        if has_graphics(device) {
            this.create_pass()?;
            this.draws.layout = this.layout(&[], vk::ShaderStageFlags::FRAGMENT)?;
        }
        let words: Vec<u32> =
            SHADER.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let info = vk::ShaderModuleCreateInfo::default().code(&words);
        // SAFETY: the code was validated when it was compiled.
        let module = unsafe { device.raw().create_shader_module(&info, None) };
        let module = module.map_err(failed(device, "vkCreateShaderModule"))?;
        let made = this.create_pipelines(module);
        // SAFETY: pipelines do not need their module once they are made.
        unsafe { device.raw().destroy_shader_module(module, None) };
        made.map(|()| this)
    }

    /// `None` if the device's queue does not draw.
    pub(crate) fn draws(&self) -> Option<Drawing> {
        (self.draws.pipeline != vk::Pipeline::null()).then_some(self.draws)
    }

    pub(crate) fn checks(&self) -> Checking {
        self.checks
    }

    fn create_pass(&mut self) -> Result<()> {
        // The image is in GENERAL before and after each use.
        let general = vk::ImageLayout::GENERAL;
        let attachments = [vk::AttachmentDescription::default()
            .format(FORMAT)
            .samples(vk::SampleCountFlags::TYPE_1)
            .load_op(vk::AttachmentLoadOp::DONT_CARE)
            .store_op(vk::AttachmentStoreOp::STORE)
            .initial_layout(general)
            .final_layout(general)];
        let colours = [vk::AttachmentReference { attachment: 0, layout: general }];
        let subpasses = [vk::SubpassDescription::default()
            .pipeline_bind_point(vk::PipelineBindPoint::GRAPHICS)
            .color_attachments(&colours)];
        let info =
            vk::RenderPassCreateInfo::default().attachments(&attachments).subpasses(&subpasses);
        // SAFETY: one subpass, which draws into the one attachment.
        let pass = unsafe { self.device.raw().create_render_pass(&info, None) };
        self.draws.pass = pass.map_err(failed(&self.device, "vkCreateRenderPass"))?;
        Ok(())
    }

    fn create_set(&mut self) -> Result<()> {
        let raw = self.device.raw();
        let kinds = [vk::DescriptorType::SAMPLED_IMAGE, vk::DescriptorType::STORAGE_BUFFER];
        let binding = |(at, kind)| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(at)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = (0..).zip(kinds).map(binding).collect();
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: two bindings of core types.
        let sets = unsafe { raw.create_descriptor_set_layout(&info, None) };
        self.sets = sets.map_err(failed(&self.device, "vkCreateDescriptorSetLayout"))?;
        let sizes = kinds.map(|ty| vk::DescriptorPoolSize { ty, descriptor_count: 1 });
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
        // SAFETY: no number is 0.
        let pool = unsafe { raw.create_descriptor_pool(&info, None) };
        self.pool = pool.map_err(failed(&self.device, "vkCreateDescriptorPool"))?;
        let layouts = [self.sets];
        let info = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(self.pool)
            .set_layouts(&layouts);
        // SAFETY: the pool holds exactly this set.
        let made = unsafe { raw.allocate_descriptor_sets(&info) };
        self.checks.set = made.map_err(failed(&self.device, "vkAllocateDescriptorSets"))?[0];
        Ok(())
    }

    fn layout(
        &self,
        sets: &[vk::DescriptorSetLayout],
        stages: vk::ShaderStageFlags,
    ) -> Result<vk::PipelineLayout> {
        let ranges =
            [vk::PushConstantRange { stage_flags: stages, offset: 0, size: PARAMETERS as u32 }];
        let info =
            vk::PipelineLayoutCreateInfo::default().set_layouts(sets).push_constant_ranges(&ranges);
        // SAFETY: the set layouts are live.
        let layout = unsafe { self.device.raw().create_pipeline_layout(&info, None) };
        layout.map_err(failed(&self.device, "vkCreatePipelineLayout"))
    }

    fn create_pipelines(&mut self, module: vk::ShaderModule) -> Result<()> {
        let (raw, none) = (self.device.raw(), vk::PipelineCache::null());
        let stage = |stage, name| {
            vk::PipelineShaderStageCreateInfo::default().stage(stage).module(module).name(name)
        };
        let check = stage(vk::ShaderStageFlags::COMPUTE, c"check");
        let info =
            [vk::ComputePipelineCreateInfo::default().stage(check).layout(self.checks.layout)];
        // SAFETY: the module has this entry point, and the layout fits it.
        let made = unsafe { raw.create_compute_pipelines(none, &info, None) };
        let error = failed(&self.device, "vkCreateComputePipelines");
        self.checks.pipeline = made.map_err(|(_, code)| error(code))?[0];
        match self.draws.pass == vk::RenderPass::null() {
            true => Ok(()),
            false => self.create_drawing(module),
        }
    }

    fn create_drawing(&mut self, module: vk::ShaderModule) -> Result<()> {
        let stage = |stage, name| {
            vk::PipelineShaderStageCreateInfo::default().stage(stage).module(module).name(name)
        };
        let stages = [
            stage(vk::ShaderStageFlags::VERTEX, c"corner"),
            stage(vk::ShaderStageFlags::FRAGMENT, c"draw"),
        ];
        let vertices = vk::PipelineVertexInputStateCreateInfo::default();
        let assembly = vk::PipelineInputAssemblyStateCreateInfo::default()
            .topology(vk::PrimitiveTopology::TRIANGLE_LIST);
        let viewport =
            vk::PipelineViewportStateCreateInfo::default().viewport_count(1).scissor_count(1);
        let raster = vk::PipelineRasterizationStateCreateInfo::default().line_width(1.0);
        let samples = vk::PipelineMultisampleStateCreateInfo::default()
            .rasterization_samples(vk::SampleCountFlags::TYPE_1);
        let blends = [vk::PipelineColorBlendAttachmentState::default()
            .color_write_mask(vk::ColorComponentFlags::RGBA)];
        let blend = vk::PipelineColorBlendStateCreateInfo::default().attachments(&blends);
        let states = [vk::DynamicState::VIEWPORT, vk::DynamicState::SCISSOR];
        let dynamic = vk::PipelineDynamicStateCreateInfo::default().dynamic_states(&states);
        let info = [vk::GraphicsPipelineCreateInfo::default()
            .stages(&stages)
            .vertex_input_state(&vertices)
            .input_assembly_state(&assembly)
            .viewport_state(&viewport)
            .rasterization_state(&raster)
            .multisample_state(&samples)
            .color_blend_state(&blend)
            .dynamic_state(&dynamic)
            .layout(self.draws.layout)
            .render_pass(self.draws.pass)];
        // SAFETY: the module has these entry points, and the layout fits them; the pass has one attachment, and the shader
        // one output.
        let made = unsafe {
            self.device.raw().create_graphics_pipelines(vk::PipelineCache::null(), &info, None)
        };
        let error = failed(&self.device, "vkCreateGraphicsPipelines");
        self.draws.pipeline = made.map_err(|(_, code)| error(code))?[0];
        Ok(())
    }
}

/// Whether the device's queue draws.
fn has_graphics(device: &Device) -> bool {
    // SAFETY: the adapter is one of the instance.
    let families = unsafe {
        device
            .raw_instance()
            .get_physical_device_queue_family_properties(device.adapter().physical())
    };
    // CAST: an index of a list.
    let family = families.get(device.queue_family() as usize);
    family.is_some_and(|family| family.queue_flags.contains(vk::QueueFlags::GRAPHICS))
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        let raw = self.device.raw();
        let (draws, checks) = (self.draws, self.checks);
        let layouts = [(draws.layout, draws.pipeline), (checks.layout, checks.pipeline)];
        for (layout, pipeline) in layouts {
            // SAFETY: by the type invariant null or live, and idle.
            unsafe { raw.destroy_pipeline(pipeline, None) };
            // SAFETY: as above.
            unsafe { raw.destroy_pipeline_layout(layout, None) };
        }
        // SAFETY: as above; the set is freed with its pool.
        unsafe { raw.destroy_descriptor_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_descriptor_set_layout(self.sets, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_render_pass(draws.pass, None) };
    }
}
