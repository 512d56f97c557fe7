//! The Vulkan objects behind the kernels: layouts, pipelines and the descriptor set.
#![expect(unsafe_code, reason = "pipelines, descriptors and dispatches on a live device")]

use std::sync::{Arc, OnceLock};

use ash::vk;

use super::super::compute_objects::{compute_pipeline, set_layout};
use super::super::ownership::{acquire, release};
use super::super::scope::Scope;
use super::super::span::Span;
use crate::device::{DeviceInner, Stamp, Timestamps, Waits};
use crate::error::Result;
use crate::sync::Fence;

/// A compute kernel; its number is its index in [`SHADERS`].
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Kernel {
    Fill,
    Verify,
    Checksum,
    Copy,
}

const SHADERS: [&[u8]; 4] = [
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/fill.spv")),
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/verify.spv")),
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/checksum.spv")),
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/copy.spv")),
];

/// Invocations of a workgroup, as in the shaders.
const GROUP: u32 = 64;
/// Workgroups of a dispatch; invocations stride over the rest. Every device allows at least 65,535.
const MAX_GROUPS: u32 = 1024;
/// Size in bytes of the shaders' `Parameters`.
const PARAMETERS: u32 = 16;
/// Size in bytes of the shaders' `Findings`.
pub(super) const FINDINGS: u64 = 8;

/// The kernels' pipelines on one device, and their descriptor set.
///
/// # Invariants
///
/// Every handle is null or a live object of `device`, destroyed only by `drop`; once constructed none
/// is null, and a pipeline that was made is live. No dispatch is running when this is dropped, unless it was told to leak ([`Pipelines::leak`]).
pub(super) struct Pipelines {
    device: Arc<DeviceInner>,
    set_layout: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    /// Each is made at its first dispatch: drivers compile for tens of milliseconds.
    pipelines: [OnceLock<vk::Pipeline>; SHADERS.len()],
    pool: vk::DescriptorPool,
    set: vk::DescriptorSet,
    /// Whether `drop` destroys nothing, because a dispatch may still be running.
    leaked: bool,
}

impl Pipelines {
    pub(super) fn new(device: &Arc<DeviceInner>) -> Result<Self> {
        let mut this = Self {
            device: Arc::clone(device),
            set_layout: vk::DescriptorSetLayout::null(),
            layout: vk::PipelineLayout::null(),
            pipelines: [const { OnceLock::new() }; SHADERS.len()],
            pool: vk::DescriptorPool::null(),
            set: vk::DescriptorSet::null(),
            leaked: false,
        };
        let failed = |call| move |code| device.error(call, code);
        this.create_layouts().map_err(failed("vkCreatePipelineLayout"))?;
        this.create_set().map_err(failed("vkAllocateDescriptorSets"))?;
        Ok(this)
    }

    pub(super) fn device(&self) -> &Arc<DeviceInner> {
        &self.device
    }

    /// Makes `drop` leak all objects.
    pub(super) fn leak(&mut self) {
        self.leaked = true;
    }

    /// Points the descriptor set at the two spans and at the buffer of the findings.
    ///
    /// # Safety
    ///
    /// No dispatch of these pipelines is running. Offsets of the spans are multiples of 256, and their lengths are
    /// at most the adapter's storage range.
    pub(super) unsafe fn bind(&self, spans: [Span<'_>; 2], findings: vk::Buffer) {
        let [subject, destination] = spans.map(|span| {
            [vk::DescriptorBufferInfo {
                buffer: span.view.buffer(),
                offset: span.offset,
                range: span.len,
            }]
        });
        let findings = [vk::DescriptorBufferInfo { buffer: findings, offset: 0, range: FINDINGS }];
        let write = |binding| {
            vk::WriteDescriptorSet::default()
                .dst_set(self.set)
                .dst_binding(binding)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
        };
        let writes = [
            write(0).buffer_info(&subject),
            write(1).buffer_info(&destination),
            write(2).buffer_info(&findings),
        ];
        // SAFETY: by the caller's contract the set is not in use, offsets are multiples of 256 and ranges no
        // larger than the limit (VUID-VkWriteDescriptorSet-descriptorType-00328, -00333).
        unsafe { self.device.raw().update_descriptor_sets(&writes, &[]) };
    }

    /// Submits a dispatch over what [`Self::bind`] has bound. `parameters` are the shaders' `Parameters`; the
    /// last of them is the number of [`threads`].
    ///
    /// # Safety
    ///
    /// `spans` are those of the last [`Self::bind`]. The caller waits for the fence before it binds, dispatches or
    /// drops these pipelines again, or leaks them. The timestamps are of the device's main queue, and live until then.
    pub(super) unsafe fn dispatch(
        &self,
        kernel: Kernel,
        spans: [Span<'_>; 2],
        parameters: [u32; 4],
        stamps: Option<&Timestamps>,
    ) -> Result<Fence> {
        let raw = self.device.raw();
        let pipeline = self.pipeline(kernel)?;
        // Only a copy has two different spans; one span may not be acquired twice.
        let spans = if matches!(kernel, Kernel::Copy) { &spans[..] } else { &spans[..1] };
        let bytes: Vec<u8> = parameters.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let stamp = |commands, which| {
            if let Some(stamps) = stamps {
                // SAFETY: the caller's contract; of several recordings one is executed.
                unsafe { stamps.write(commands, which) };
            }
        };
        let value = self.device.submit(Waits::default(), |commands| {
            // SAFETY: the queue began `commands` for this device's family.
            unsafe { acquire(&self.device, commands, spans, Scope::COMPUTE) };
            let (point, layout) = (vk::PipelineBindPoint::COMPUTE, self.layout);
            // SAFETY: the pipeline is live by the type invariant.
            unsafe { raw.cmd_bind_pipeline(commands, point, pipeline) };
            // SAFETY: the set was allocated with the layout's only set layout, and is bound.
            unsafe { raw.cmd_bind_descriptor_sets(commands, point, layout, 0, &[self.set], &[]) };
            let stage = vk::ShaderStageFlags::COMPUTE;
            // SAFETY: the layout has these 16 bytes for this stage.
            unsafe { raw.cmd_push_constants(commands, layout, stage, 0, &bytes) };
            stamp(commands, Stamp::Begin);
            // SAFETY: no more groups than every device allows.
            unsafe { raw.cmd_dispatch(commands, parameters[3] / GROUP, 1, 1) };
            stamp(commands, Stamp::End);
            // SAFETY: as for `acquire`.
            unsafe { release(&self.device, commands, spans, Scope::COMPUTE) };
        })?;
        Ok(Fence::new(&self.device, value))
    }

    fn create_layouts(&mut self) -> Result<(), vk::Result> {
        let raw = self.device.raw();
        self.set_layout = set_layout(&self.device, &[vk::DescriptorType::STORAGE_BUFFER; 3])?;
        let sets = [self.set_layout];
        let constants = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(PARAMETERS)];
        let info = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(&sets)
            .push_constant_ranges(&constants);
        // SAFETY: `raw` and the set layout are live; 16 bytes of push constants are within every limit.
        self.layout = unsafe { raw.create_pipeline_layout(&info, None) }?;
        Ok(())
    }

    /// Makes the pipeline of a kernel before its first use. The caller holds the lock of the kernels.
    pub(super) fn prepare(&self, kernel: Kernel) -> Result<()> {
        self.pipeline(kernel).map(|_| ())
    }

    /// The pipeline of a kernel, made on first use. The caller holds the lock of the kernels.
    fn pipeline(&self, kernel: Kernel) -> Result<vk::Pipeline> {
        let slot = &self.pipelines[kernel as usize];
        if let Some(&made) = slot.get() {
            return Ok(made);
        }
        // SAFETY: the shaders were validated when they were compiled, and use what the layout has.
        let made = unsafe { compute_pipeline(&self.device, self.layout, SHADERS[kernel as usize]) }
            .map_err(|code| self.device.error("vkCreateComputePipelines", code))?;
        // No other thread is here, so what was made is what is kept.
        Ok(*slot.get_or_init(|| made))
    }

    fn create_set(&mut self) -> Result<(), vk::Result> {
        let raw = self.device.raw();
        let sizes = [vk::DescriptorPoolSize {
            ty: vk::DescriptorType::STORAGE_BUFFER,
            descriptor_count: 3,
        }];
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
        // SAFETY: `raw` is live.
        self.pool = unsafe { raw.create_descriptor_pool(&info, None) }?;
        let layouts = [self.set_layout];
        let info = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(self.pool)
            .set_layouts(&layouts);
        // SAFETY: the pool holds exactly one such set.
        self.set = unsafe { raw.allocate_descriptor_sets(&info) }.map(|sets| sets[0])?;
        Ok(())
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        let raw = self.device.raw();
        for pipeline in self.pipelines.iter().filter_map(OnceLock::get) {
            // SAFETY: by the type invariant live, and idle.
            unsafe { raw.destroy_pipeline(*pipeline, None) };
        }
        // SAFETY: as above; the set is freed with its pool.
        unsafe { raw.destroy_descriptor_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_pipeline_layout(self.layout, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_descriptor_set_layout(self.set_layout, None) };
    }
}

/// Invocations for a number of words: whole groups, at most [`MAX_GROUPS`] of them.
pub(super) fn threads(words: u32) -> u32 {
    words.div_ceil(GROUP).clamp(1, MAX_GROUPS) * GROUP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_whole_groups_and_bounded() {
        assert_eq!(threads(0), 64);
        assert_eq!(threads(65), 128);
        assert_eq!(threads(u32::MAX), 65_536);
    }
}
