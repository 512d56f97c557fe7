//! Compute passes on one device: fill with a pattern, verify it, checksum, copy.
//!
//! They are how a route is proved, and what the demo, the tests and the benches use on every device.
//! The shaders are `shaders/*.wgsl`, compiled by the build script.
#![expect(unsafe_code, reason = "pipelines, descriptors and dispatches on a live device")]

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ash::vk;

use super::ownership::{Scope, acquire, release};
use super::span::Span;
use crate::device::{DeviceInner, Waits};
use crate::error::{Error, Result};
use crate::memory::staging::{Direction, Staging, StagingBuffer};
use crate::sync::Fence;
use crate::sync::primitive::Mutex;

/// What a verifying pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassReport {
    /// 32-bit words that were looked at.
    pub words: u64,
    /// How many of them were wrong.
    pub wrong: u64,
    /// Offset in bytes of the first wrong one.
    pub first_wrong: Option<u64>,
}

impl PassReport {
    /// Whether every word was right.
    pub fn is_clean(&self) -> bool {
        self.wrong == 0
    }

    fn and(self, other: Self) -> Self {
        Self {
            words: self.words + other.words,
            wrong: self.wrong + other.wrong,
            first_wrong: self.first_wrong.or(other.first_wrong),
        }
    }
}

/// Word `index` of the pattern of `seed`, as the shaders compute it.
pub fn pattern_word(seed: u32, index: u32) -> u32 {
    let mut x = index.wrapping_mul(0x9e37_79b9).wrapping_add(seed);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[derive(Clone, Copy)]
#[repr(usize)]
enum Pass {
    Fill,
    Verify,
    Checksum,
    Copy,
}

const SHADERS: [&[u8]; 4] = [
    include_bytes!(concat!(env!("OUT_DIR"), "/fill.spv")),
    include_bytes!(concat!(env!("OUT_DIR"), "/verify.spv")),
    include_bytes!(concat!(env!("OUT_DIR"), "/checksum.spv")),
    include_bytes!(concat!(env!("OUT_DIR"), "/copy.spv")),
];

/// Invocations of a workgroup, as in the shaders.
const GROUP: u32 = 64;
/// Workgroups of a dispatch; the rest is strides. Far below the 65,535 that every device takes.
const MAX_GROUPS: u32 = 1024;
/// Size of the shaders' `Parameters` and `Findings`.
const PARAMETERS: u32 = 16;
const FINDINGS: u64 = 8;
/// Index that means "none" in `Findings`.
const NONE: u32 = u32::MAX;

/// A submission.
pub(crate) type Work<'a> = &'a mut dyn FnMut() -> Result<Fence>;

/// How a pass is submitted, and how long it may take.
pub(crate) struct Watch<'a> {
    pub(crate) timeout: Duration,
    /// Calls the submission that it is given if the memory may be used now, and remembers its fence
    /// before anybody waits for it: the memory must outlive the pass even if that wait ends in an error.
    pub(crate) submit: &'a dyn Fn(Work<'_>) -> Result<Attempt>,
}

/// How an attempt to submit ended.
pub(crate) enum Attempt {
    Submitted(Fence),
    /// Nothing was submitted; these come first.
    Wait(Vec<Fence>),
}

/// The passes of one device.
///
/// # Invariants
///
/// Every handle is null or a live object of `device`, destroyed only by `drop`; once constructed none
/// is null.
pub(crate) struct Passes {
    device: Arc<DeviceInner>,
    set_layout: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pipelines: [vk::Pipeline; SHADERS.len()],
    pool: vk::DescriptorPool,
    /// One pass at a time: they share the set and the findings.
    kit: Mutex<Kit>,
}

struct Kit {
    set: vk::DescriptorSet,
    findings: Option<StagingBuffer>,
    /// The last pass. Not signalled only after a pass that timed out.
    last: Fence,
}

impl Passes {
    pub(crate) fn new(device: &Arc<DeviceInner>, staging: &Arc<Staging>) -> Result<Self> {
        let mut this = Self {
            device: Arc::clone(device),
            set_layout: vk::DescriptorSetLayout::null(),
            layout: vk::PipelineLayout::null(),
            pipelines: [vk::Pipeline::null(); SHADERS.len()],
            pool: vk::DescriptorPool::null(),
            kit: Mutex::new(Kit {
                set: vk::DescriptorSet::null(),
                findings: None,
                last: Fence::signalled(),
            }),
        };
        let failed = |call| move |code| device.error(call, code);
        this.create_layouts().map_err(failed("vkCreatePipelineLayout"))?;
        this.create_pipelines().map_err(failed("vkCreateComputePipelines"))?;
        let set = this.create_set().map_err(failed("vkAllocateDescriptorSets"))?;
        let findings = staging.buffer(FINDINGS, Direction::Readback)?;
        let kit = this.kit.get_mut().unwrap_or_else(PoisonError::into_inner);
        kit.set = set;
        kit.findings = Some(findings);
        Ok(this)
    }

    /// Writes the pattern of `seed`; its word 0 is the span's first.
    pub(crate) fn fill(&self, span: Span<'_>, seed: u32, watch: &Watch<'_>) -> Result<()> {
        self.run(Pass::Fill, [span, span], seed, watch).map(|_| ())
    }

    /// Compares with the pattern of `seed`.
    pub(crate) fn verify(
        &self,
        span: Span<'_>,
        seed: u32,
        watch: &Watch<'_>,
    ) -> Result<PassReport> {
        let mut report = PassReport::default();
        for (words, count, first) in self.run(Pass::Verify, [span, span], seed, watch)? {
            report = report.and(PassReport {
                words: u64::from(words),
                wrong: u64::from(count),
                first_wrong: (first != NONE).then_some(u64::from(first) * 4),
            });
        }
        Ok(report)
    }

    /// A sum over all words that depends on their positions.
    pub(crate) fn checksum(&self, span: Span<'_>, watch: &Watch<'_>) -> Result<u32> {
        let pieces = self.run(Pass::Checksum, [span, span], 0, watch)?;
        Ok(pieces.into_iter().fold(0, |sum, (_, piece, _)| sum.wrapping_add(piece)))
    }

    /// Copies on the compute units.
    pub(crate) fn copy(&self, from: Span<'_>, to: Span<'_>, watch: &Watch<'_>) -> Result<()> {
        debug_assert_eq!(from.len, to.len);
        self.run(Pass::Copy, [from, to], 0, watch).map(|_| ())
    }

    /// Runs a pass over the spans, in pieces no larger than a binding may be; returns for each piece
    /// its words, the count and the first index.
    fn run(
        &self,
        pass: Pass,
        [subject, destination]: [Span<'_>; 2],
        seed: u32,
        watch: &Watch<'_>,
    ) -> Result<Vec<(u32, u32, u32)>> {
        subject.words()?;
        let piece = self.device.adapter().storage_range() & !(crate::memory::SLOT_ALIGN - 1);
        let end = Instant::now() + watch.timeout;
        let mut out = Vec::new();
        let mut offset = 0;
        while offset < subject.len {
            let len = piece.min(subject.len - offset);
            let spans = [subject.slice(offset, len), destination.slice(offset, len)];
            // CAST: the whole span's words fit, so this piece's do.
            let words = (len / 4) as u32;
            let parameters = [seed, (offset / 4) as u32, words, threads(words)];
            match self.try_piece(pass, spans, parameters, watch)? {
                Ok([count, first]) => out.push((words, count, first)),
                Err(waits) => {
                    // Well or not: the next try finds what of it concerns the bytes.
                    let left = || end.saturating_duration_since(Instant::now());
                    waits.iter().try_for_each(|fence| fence.wait_until_over(left()))?;
                    continue;
                }
            }
            offset += len;
        }
        Ok(out)
    }

    /// Runs one piece; or tells what has to be waited for first, so that nobody waits for somebody else's
    /// work with this device's passes locked.
    fn try_piece(
        &self,
        pass: Pass,
        spans: [Span<'_>; 2],
        parameters: [u32; 4],
        watch: &Watch<'_>,
    ) -> Result<Result<[u32; 2], Vec<Fence>>> {
        let mut kit = self.kit.lock().unwrap_or_else(PoisonError::into_inner);
        // How it ended is for whoever ran it.
        kit.last
            .wait(watch.timeout)
            .or_else(|error| kit.last.is_over().then_some(()).ok_or(error))?;
        let findings = kit.findings()?;
        write_findings(findings, [0, NONE])?;
        let set = kit.set;
        self.bind(set, spans, findings.raw());
        match (watch.submit)(&mut || self.dispatch(pass, set, spans, parameters))? {
            Attempt::Wait(waits) => return Ok(Err(waits)),
            Attempt::Submitted(fence) => kit.last = fence,
        }
        kit.last.wait(watch.timeout)?;
        read_findings(kit.findings()?).map(Ok)
    }

    fn bind(&self, set: vk::DescriptorSet, spans: [Span<'_>; 2], findings: vk::Buffer) {
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
                .dst_set(set)
                .dst_binding(binding)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
        };
        let writes = [
            write(0).buffer_info(&subject),
            write(1).buffer_info(&destination),
            write(2).buffer_info(&findings),
        ];
        // SAFETY: the set is not in use, because the last pass has signalled; offsets are multiples
        // of 256 and ranges no larger than the limit (VUID-VkWriteDescriptorSet-descriptorType-00328,
        // -00333).
        unsafe { self.device.raw().update_descriptor_sets(&writes, &[]) };
    }

    fn dispatch(
        &self,
        pass: Pass,
        set: vk::DescriptorSet,
        spans: [Span<'_>; 2],
        parameters: [u32; 4],
    ) -> Result<Fence> {
        let raw = self.device.raw();
        // The same span twice would be handed over twice.
        let spans = if matches!(pass, Pass::Copy) { &spans[..] } else { &spans[..1] };
        let bytes: Vec<u8> = parameters.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let value = self.device.submit(Waits::default(), |commands| {
            // SAFETY: the queue began `commands` for this device's family.
            unsafe { acquire(&self.device, commands, spans, Scope::COMPUTE) };
            let (point, layout) = (vk::PipelineBindPoint::COMPUTE, self.layout);
            // SAFETY: the pipeline is live by the type invariant.
            unsafe { raw.cmd_bind_pipeline(commands, point, self.pipelines[pass as usize]) };
            // SAFETY: the set was allocated with the layout's only set layout, and is bound.
            unsafe { raw.cmd_bind_descriptor_sets(commands, point, layout, 0, &[set], &[]) };
            let stage = vk::ShaderStageFlags::COMPUTE;
            // SAFETY: the layout has these 16 bytes for this stage.
            unsafe { raw.cmd_push_constants(commands, layout, stage, 0, &bytes) };
            // SAFETY: no more groups than every device takes.
            unsafe { raw.cmd_dispatch(commands, parameters[3] / GROUP, 1, 1) };
            // SAFETY: as for `acquire`.
            unsafe { release(&self.device, commands, spans, Scope::COMPUTE) };
        })?;
        Ok(Fence::new(&self.device, value))
    }

    // ---- the steps of making them ----

    fn create_layouts(&mut self) -> Result<(), vk::Result> {
        let raw = self.device.raw();
        let bindings = [0, 1, 2].map(|binding| {
            vk::DescriptorSetLayoutBinding::default()
                .binding(binding)
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .descriptor_count(1)
                .stage_flags(vk::ShaderStageFlags::COMPUTE)
        });
        let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // SAFETY: `raw` is live; the bindings are distinct.
        self.set_layout = unsafe { raw.create_descriptor_set_layout(&info, None) }?;
        let sets = [self.set_layout];
        let constants = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(PARAMETERS)];
        let info = vk::PipelineLayoutCreateInfo::default()
            .set_layouts(&sets)
            .push_constant_ranges(&constants);
        // SAFETY: as above; 16 bytes of push constants are within every limit.
        self.layout = unsafe { raw.create_pipeline_layout(&info, None) }?;
        Ok(())
    }

    fn create_pipelines(&mut self) -> Result<(), vk::Result> {
        for (slot, bytes) in SHADERS.into_iter().enumerate() {
            let raw = self.device.raw();
            let words: Vec<u32> =
                bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
            let info = vk::ShaderModuleCreateInfo::default().code(&words);
            // SAFETY: the code was validated when it was compiled.
            let module = unsafe { raw.create_shader_module(&info, None) }?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let info = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(self.layout)];
            let cache = vk::PipelineCache::null();
            // SAFETY: the module is live and its entry point is `main`; the layout fits the shader.
            let made = unsafe { raw.create_compute_pipelines(cache, &info, None) };
            // SAFETY: pipelines do not need their module once they are made.
            unsafe { raw.destroy_shader_module(module, None) };
            match made {
                Ok(made) => self.pipelines[slot] = made[0],
                Err((_, code)) => return Err(code),
            }
        }
        Ok(())
    }

    fn create_set(&mut self) -> Result<vk::DescriptorSet, vk::Result> {
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
        unsafe { raw.allocate_descriptor_sets(&info) }.map(|sets| sets[0])
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        let kit = self.kit.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !kit.last.is_over() {
            // A pass that timed out still uses everything here, and nobody waits in a drop.
            tracing::warn!(
                device = self.device.name(),
                "a pass never ended; its objects are leaked"
            );
            std::mem::forget(kit.findings.take());
            return;
        }
        let raw = self.device.raw();
        for pipeline in self.pipelines {
            // SAFETY: by the type invariant null or live, and idle.
            unsafe { raw.destroy_pipeline(pipeline, None) };
        }
        // SAFETY: as above; the set goes with its pool.
        unsafe { raw.destroy_descriptor_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_pipeline_layout(self.layout, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_descriptor_set_layout(self.set_layout, None) };
    }
}

impl fmt::Debug for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passes").field("device", &self.device.name()).finish_non_exhaustive()
    }
}

impl Kit {
    fn findings(&self) -> Result<&StagingBuffer> {
        self.findings.as_ref().ok_or_else(|| Error::Unsupported {
            device: "a device".into(),
            missing: "staging memory for passes".into(),
        })
    }
}

/// Invocations for so many words: whole groups, at most [`MAX_GROUPS`] of them.
fn threads(words: u32) -> u32 {
    words.div_ceil(GROUP).clamp(1, MAX_GROUPS) * GROUP
}

fn write_findings(buffer: &StagingBuffer, values: [u32; 2]) -> Result<()> {
    let mut bytes = [0; FINDINGS as usize];
    bytes[..4].copy_from_slice(&values[0].to_ne_bytes());
    bytes[4..].copy_from_slice(&values[1].to_ne_bytes());
    let host = buffer.host()?;
    // SAFETY: the buffer holds `FINDINGS` bytes, and no pass is running.
    unsafe { host.write(&bytes) };
    Ok(())
}

fn read_findings(buffer: &StagingBuffer) -> Result<[u32; 2]> {
    let host = buffer.host()?;
    let mut bytes = [0; FINDINGS as usize];
    // SAFETY: as in `write_findings`.
    unsafe { host.read(&mut bytes) };
    let (words, _) = bytes.as_chunks();
    Ok([u32::from_ne_bytes(words[0]), u32::from_ne_bytes(words[1])])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_depends_on_position_and_seed() {
        let words: Vec<_> = (0..1000).map(|index| pattern_word(7, index)).collect();
        let distinct: std::collections::HashSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), words.len());
        assert!((0..1000).all(|index| pattern_word(8, index) != words[index as usize]));
        assert_ne!(words[0], 0, "zeroed memory is wrong at once");
    }

    #[test]
    fn threads_are_whole_groups_and_bounded() {
        assert_eq!(threads(0), 64);
        assert_eq!(threads(65), 128);
        assert_eq!(threads(u32::MAX), 65_536);
    }

    #[test]
    fn reports_add_up_and_keep_the_first() {
        let clean = PassReport { words: 10, wrong: 0, first_wrong: None };
        let wrong = PassReport { words: 10, wrong: 3, first_wrong: Some(44) };
        assert_eq!(clean.and(wrong), PassReport { words: 20, wrong: 3, first_wrong: Some(44) });
        assert!(clean.is_clean() && !clean.and(wrong).is_clean());
    }
}
