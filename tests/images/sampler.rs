//! A compute shader that reads every texel of an image as shaders see it, and what it should see.
#![expect(unsafe_code, reason = "raw objects and commands of the test")]

use ash::vk;
use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, Engine, ImageMapping, ImagePart, Placement,
    Result, Scope, SharedImage,
};

use crate::common::LONG;
use crate::texels::{aspect, parts, plane_extent, texels};

const SHADER: &str = "
@group(0) @binding(0) var image: texture_2d<f32>;
@group(0) @binding(1) var<storage, read_write> seen: array<vec4<f32>>;

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let size = textureDimensions(image);
    if id.x < size.x && id.y < size.y {
        seen[id.y * size.x + id.x] = textureLoad(image, id.xy, 0);
    }
}
";

/// Reads texels on one device.
pub(crate) struct Sampler {
    engine: Engine,
    device: Device,
    seen: Attachment,
    sets: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
    pool: vk::DescriptorPool,
}

impl Sampler {
    /// A sampler of parts of up to so many texels.
    pub(crate) fn new(engine: &Engine, device: &Device, most: u64) -> Self {
        let descriptor = BufferDescriptor::new(most * 16).placement(Placement::System).name("seen");
        let buffer = engine.create_buffer(device, descriptor).expect("a buffer");
        let seen = buffer.attach(device).expect("a device reaches its own buffer");
        let raw = device.raw();
        let binding = |at, kind| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(at)
                .descriptor_type(kind)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings = [
            binding(0, vk::DescriptorType::SAMPLED_IMAGE),
            binding(1, vk::DescriptorType::STORAGE_BUFFER),
        ];
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: two bindings of core types.
        let sets = unsafe { raw.create_descriptor_set_layout(&info, None) }.expect("a layout");
        let all_sets = [sets];
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&all_sets);
        // SAFETY: the set layout is live.
        let layout = unsafe { raw.create_pipeline_layout(&info, None) }.expect("a layout");
        let code = compile();
        let info = vk::ShaderModuleCreateInfo::default().code(&code);
        // SAFETY: naga has validated the shader.
        let module = unsafe { raw.create_shader_module(&info, None) }.expect("a shader");
        let stage = vk::PipelineShaderStageCreateInfo::default()
            .stage(vk::ShaderStageFlags::COMPUTE)
            .module(module)
            .name(c"main");
        let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout)];
        let cache = vk::PipelineCache::null();
        // SAFETY: module and layout are live and match each other.
        let made = unsafe { raw.create_compute_pipelines(cache, &info, None) };
        let pipeline = made.expect("a pipeline")[0];
        // SAFETY: the pipeline is made.
        unsafe { raw.destroy_shader_module(module, None) };
        let size = |kind| vk::DescriptorPoolSize::default().ty(kind).descriptor_count(1);
        let sizes =
            [size(vk::DescriptorType::SAMPLED_IMAGE), size(vk::DescriptorType::STORAGE_BUFFER)];
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
        // SAFETY: sizes are not zero.
        let pool = unsafe { raw.create_descriptor_pool(&info, None) }.expect("a pool");
        let (engine, device) = (engine.clone(), device.clone());
        Self { engine, device, seen, sets, layout, pipeline, pool }
    }

    /// Asserts that shaders see the texels of a seed in every part of an image.
    pub(crate) fn assert_sampled(&self, mapping: &ImageMapping, seed: u64, what: &str) {
        self.try_sampled(mapping, seed, what).expect("the device samples");
    }

    /// Does that, or fails as the submission does.
    pub(crate) fn try_sampled(&self, mapping: &ImageMapping, seed: u64, what: &str) -> Result<()> {
        let image = mapping.image();
        for part in parts(image) {
            let expected = decoded(image, part, &texels(image, part, seed));
            let seen = self.sample(mapping, part, expected.len())?;
            let alpha = image.format().alpha() != peerbuf::image::Alpha::Ignored;
            let differs = |(seen, expected): (&[f32; 4], &[f32; 4])| {
                let mut both = seen.iter().zip(expected).take(if alpha { 4 } else { 3 });
                both.any(|(a, b)| (a - b).abs() > 1e-5 * b.abs().max(1.0))
            };
            let wrong = seen.iter().zip(&expected).filter(|both| differs(*both)).count();
            let first = seen.iter().zip(&expected).position(differs);
            if let Some(at) = first {
                panic!(
                    "{what}: {part:?} sampled: {wrong} of {} texels wrong, the first at {at}: {:?}, not {:?}",
                    expected.len(),
                    seen[at],
                    expected[at]
                );
            }
        }
        Ok(())
    }

    fn sample(
        &self,
        mapping: &ImageMapping,
        part: ImagePart,
        count: usize,
    ) -> Result<Vec<[f32; 4]>> {
        let (raw, image) = (self.device.raw(), mapping.image());
        let handle = mapping.view()?;
        let format = match image.format().plane_views() {
            [] => handle.format,
            planes => planes[part.plane as usize],
        };
        let range = vk::ImageSubresourceRange {
            aspect_mask: aspect(image, part.plane),
            base_mip_level: part.level,
            level_count: 1,
            base_array_layer: part.layer,
            layer_count: 1,
        };
        let info = vk::ImageViewCreateInfo::default()
            .image(handle.image)
            .view_type(vk::ImageViewType::TYPE_2D)
            .format(format)
            .subresource_range(range);
        // SAFETY: the image is live and can be sampled; a part of it.
        let view = unsafe { raw.create_image_view(&info, None) }.expect("a view");
        let sets = [self.sets];
        let info =
            vk::DescriptorSetAllocateInfo::default().descriptor_pool(self.pool).set_layouts(&sets);
        // SAFETY: the pool has room for one set, and was reset after the last one.
        let set = unsafe { raw.allocate_descriptor_sets(&info) }.expect("a set")[0];
        let target = self.seen.map(Access::Write).expect("the device maps its buffer");
        let bytes = target.view().expect("the mapping is current");
        let images = [vk::DescriptorImageInfo::default()
            .image_view(view)
            .image_layout(vk::ImageLayout::GENERAL)];
        let buffers = [vk::DescriptorBufferInfo::default()
            .buffer(bytes.buffer)
            .offset(bytes.offset)
            .range(bytes.size)];
        let write = vk::WriteDescriptorSet::default().dst_set(set);
        let writes = [
            write
                .dst_binding(0)
                .descriptor_type(vk::DescriptorType::SAMPLED_IMAGE)
                .image_info(&images),
            write
                .dst_binding(1)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .buffer_info(&buffers),
        ];
        // SAFETY: all objects are live, and no work uses the set yet.
        unsafe { raw.update_descriptor_sets(&writes, &[]) };
        let plane = image.format().planes()[part.plane as usize];
        let extent = plane_extent(plane, image.shape().extent.at_level(part.level));
        let fence = self.engine.submit(&self.device, |submission| {
            mapping.uses(submission, Access::Read, Scope::COMPUTE)?;
            submission.uses(&target, Access::Write, Scope::COMPUTE)?;
            let record = move |commands| {
                let (layout, at) = (self.layout, vk::PipelineBindPoint::COMPUTE);
                // SAFETY: a live pipeline.
                unsafe { raw.cmd_bind_pipeline(commands, at, self.pipeline) };
                // SAFETY: a live set of the pipeline's layout.
                unsafe { raw.cmd_bind_descriptor_sets(commands, at, layout, 0, &[set], &[]) };
                let (x, y) = (extent.width.div_ceil(8), extent.height.div_ceil(8));
                // SAFETY: all is bound, and the buffer holds all texels of the part.
                unsafe { raw.cmd_dispatch(commands, x, y, 1) };
            };
            // SAFETY: it records valid commands on what was declared.
            unsafe { submission.record(record) };
            Ok(())
        });
        let ended = fence.map(|fence| fence.wait(LONG).expect("the pass ends"));
        // SAFETY: the work has ended, or was not submitted.
        unsafe { raw.destroy_image_view(view, None) };
        let flags = vk::DescriptorPoolResetFlags::empty();
        // SAFETY: as above.
        unsafe { raw.reset_descriptor_pool(self.pool, flags) }.expect("the pool is reset");
        ended?;
        let mut words = vec![0; count * 16];
        let access = target.buffer().host_access(Access::Read).expect("host access");
        access.read(0, &mut words).expect("the buffer is large enough");
        let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let texel = |bytes: &[u8]| std::array::from_fn(|at| float(&bytes[4 * at..4 * at + 4]));
        Ok(words.chunks_exact(16).map(texel).collect())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let raw = self.device.raw();
        // SAFETY: every pass was waited for.
        unsafe { raw.destroy_descriptor_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_pipeline(self.pipeline, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_pipeline_layout(self.layout, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_descriptor_set_layout(self.sets, None) };
    }
}

fn compile() -> Vec<u32> {
    let module = naga::front::wgsl::parse_str(SHADER).expect("it is WGSL");
    let info = Validator::new(ValidationFlags::all(), Capabilities::empty())
        .validate(&module)
        .expect("it is valid");
    let options = spv::Options {
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        ..spv::Options::default()
    };
    spv::write_vec(&module, &info, &options, None).expect("it compiles")
}

/// What shaders see of the texels of a part.
fn decoded(image: &SharedImage, part: ImagePart, texels: &[u8]) -> Vec<[f32; 4]> {
    let name = image.fourcc().to_string();
    let bytes = image.format().planes()[part.plane as usize].block_bytes;
    let texel: fn(&[u8]) -> [f32; 4] = match (&*name, bytes) {
        ("AR24" | "XR24", _) => |t| [t[2], t[1], t[0], t[3]].map(unorm8),
        ("AB24" | "XB24", _) => |t| [t[0], t[1], t[2], t[3]].map(unorm8),
        ("RG16", _) => |t| {
            let all = word(t);
            [unorm(all >> 11, 5), unorm(all >> 5, 6), unorm(all, 5), 1.0]
        },
        ("AR30", _) => |t| {
            let all = double(t);
            [unorm(all >> 20, 10), unorm(all >> 10, 10), unorm(all, 10), unorm(all >> 30, 2)]
        },
        ("AB30", _) => |t| {
            let all = double(t);
            [unorm(all, 10), unorm(all >> 10, 10), unorm(all >> 20, 10), unorm(all >> 30, 2)]
        },
        ("AB4H", _) => |t| std::array::from_fn(|at| half(word(&t[2 * at..]))),
        ("P010", 2) => |t| [unorm(word(t), 16), 0.0, 0.0, 1.0],
        ("P010", _) => |t| [unorm(word(t), 16), unorm(word(&t[2..]), 16), 0.0, 1.0],
        (_, 1) => |t| [unorm8(t[0]), 0.0, 0.0, 1.0],
        (_, 2) => |t| [unorm8(t[0]), unorm8(t[1]), 0.0, 1.0],
        other => panic!("no oracle for {other:?}"),
    };
    texels.chunks_exact(bytes.into()).map(texel).collect()
}

fn word(bytes: &[u8]) -> u32 {
    u16::from_le_bytes([bytes[0], bytes[1]]).into()
}

fn double(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The lowest bits as a number from 0 to 1.
fn unorm(all: u32, bits: u32) -> f32 {
    let most = (1_u32 << bits) - 1;
    // CAST: at most 16 bits, which a float holds.
    (all & most) as f32 / most as f32
}

fn unorm8(byte: u8) -> f32 {
    unorm(byte.into(), 8)
}

/// A normal 16-bit float, which is the same number as a 32-bit one.
fn half(bits: u32) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, bits & 1023);
    f32::from_bits(sign << 31 | (exponent + 112) << 23 | fraction << 13)
}
