//! Compares images as shaders read them: the pipeline of one device, and what one comparison binds.
#![expect(
    unsafe_code,
    reason = "pipelines, image views, descriptors and dispatches on a live device"
)]

use std::sync::{Arc, Mutex, PoisonError};

use ash::vk;

use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::BoundImage;
use crate::transfer::compute_objects::{compute_pipeline, set_layout};

const SHADER: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/texels.spv"));

/// Invocations of a workgroup in each direction, as in the shader.
const GROUP: u32 = 8;
/// Bytes of the shader's `Findings`.
pub(super) const FINDINGS: u64 = 8;
/// Bytes from the findings of one plane to those of the next one: no device needs a larger alignment.
pub(super) const FINDINGS_STEP: u64 = 256;

/// The pipeline that compares the texels of two images.
///
/// # Invariants
///
/// Every handle is null or a live object of `device`, destroyed only by `drop`; once constructed none is null. No
/// dispatch is running when this is dropped: [`Bindings`] hold it.
#[derive(Debug)]
pub(in crate::transfer::prove) struct Sampler {
    device: Arc<DeviceInner>,
    set_layout: vk::DescriptorSetLayout,
    layout: vk::PipelineLayout,
    pipeline: vk::Pipeline,
}

impl Sampler {
    /// Makes the pipeline. Drivers compile for tens of milliseconds.
    pub(super) fn new(device: &Arc<DeviceInner>) -> Result<Self> {
        let mut this = Self {
            device: Arc::clone(device),
            set_layout: vk::DescriptorSetLayout::null(),
            layout: vk::PipelineLayout::null(),
            pipeline: vk::Pipeline::null(),
        };
        let failed = |call| move |code| device.error(call, code);
        this.create_layouts().map_err(failed("vkCreatePipelineLayout"))?;
        // SAFETY: the shader was validated when it was compiled, and uses what the layout has.
        this.pipeline = unsafe { compute_pipeline(device, this.layout, SHADER) }
            .map_err(failed("vkCreateComputePipelines"))?;
        Ok(this)
    }

    fn create_layouts(&mut self) -> Result<(), vk::Result> {
        let raw = self.device.raw();
        let kinds = [
            vk::DescriptorType::SAMPLED_IMAGE,
            vk::DescriptorType::SAMPLED_IMAGE,
            vk::DescriptorType::STORAGE_BUFFER,
        ];
        self.set_layout = set_layout(&self.device, &kinds)?;
        let sets = [self.set_layout];
        let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
        // SAFETY: `raw` and the set layout are live.
        self.layout = unsafe { raw.create_pipeline_layout(&info, None) }?;
        Ok(())
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        let raw = self.device.raw();
        // SAFETY: by the type invariant null or live, and idle.
        unsafe { raw.destroy_pipeline(self.pipeline, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_pipeline_layout(self.layout, None) };
        // SAFETY: as above.
        unsafe { raw.destroy_descriptor_set_layout(self.set_layout, None) };
    }
}

/// The sampler of a device, made at its first use.
#[derive(Debug, Default)]
pub(in crate::transfer::prove) struct LazySampler(Mutex<Option<Arc<Sampler>>>);

impl LazySampler {
    /// The sampler of `device`, which is the same in each call.
    ///
    /// Locks: its own, while the pipeline is made.
    pub(super) fn get(&self, device: &Arc<DeviceInner>) -> Result<Arc<Sampler>> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sampler) = &*made {
            return Ok(Arc::clone(sampler));
        }
        Ok(Arc::clone(made.insert(Arc::new(Sampler::new(device)?))))
    }
}

/// What is compared: a part of an image, and how a view shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) aspect: vk::ImageAspectFlags,
    pub(super) format: vk::Format,
    /// Texels of that part.
    pub(super) extent: [u32; 2],
}

/// The views and descriptor sets of one comparison.
///
/// # Invariants
///
/// Every handle is null or a live object of the sampler's device, destroyed only by `drop`, before the images. Its owner
/// waits for all dispatches before it drops this.
#[derive(Debug)]
pub(super) struct Bindings {
    sampler: Arc<Sampler>,
    shown: Vec<Shown>,
    views: Vec<vk::ImageView>,
    pool: vk::DescriptorPool,
    sets: Vec<vk::DescriptorSet>,
    #[expect(dead_code, reason = "held so that views are destroyed before their images")]
    images: [Arc<BoundImage>; 2],
}

impl Bindings {
    /// Binds each part of two images of the sampler's device that have the usage `SAMPLED`; the findings of the n-th part
    /// are at n times [`FINDINGS_STEP`] of a buffer.
    ///
    /// Both images have the format of the first view, or several planes whose formats are compatible with it and the
    /// flag for views in other formats.
    pub(super) fn new(
        sampler: &Arc<Sampler>,
        images: [&Arc<BoundImage>; 2],
        shown: Vec<Shown>,
        findings: vk::Buffer,
    ) -> Result<Self> {
        let device = &sampler.device;
        let mut this = Self {
            sampler: Arc::clone(sampler),
            shown,
            views: vec![],
            pool: vk::DescriptorPool::null(),
            sets: vec![],
            images: images.map(Arc::clone),
        };
        let failed = |call| move |code| device.error(call, code);
        for at in 0..this.shown.len() {
            for image in images {
                this.create_view(image, this.shown[at]).map_err(failed("vkCreateImageView"))?;
            }
        }
        this.create_sets().map_err(failed("vkAllocateDescriptorSets"))?;
        this.write_sets(findings);
        Ok(this)
    }

    fn create_view(&mut self, image: &BoundImage, shown: Shown) -> Result<(), vk::Result> {
        let range = vk::ImageSubresourceRange::default()
            .aspect_mask(shown.aspect)
            .level_count(1)
            .layer_count(1);
        let info = vk::ImageViewCreateInfo::default()
            .image(image.raw())
            .view_type(vk::ImageViewType::TYPE_2D)
            .format(shown.format)
            .subresource_range(range);
        // SAFETY: the image is live, bound, sampled, and has this part; the format is its own, or one that its plane is
        // compatible with (VUID-VkImageViewCreateInfo-image-01761, -01586), by the contract of `new`.
        self.views.push(unsafe { self.sampler.device.raw().create_image_view(&info, None) }?);
        Ok(())
    }

    fn create_sets(&mut self) -> Result<(), vk::Result> {
        let raw = self.sampler.device.raw();
        // CAST: at most three planes.
        let count = self.shown.len() as u32;
        let size = |ty, descriptor_count| vk::DescriptorPoolSize { ty, descriptor_count };
        let sizes = [
            size(vk::DescriptorType::SAMPLED_IMAGE, 2 * count),
            size(vk::DescriptorType::STORAGE_BUFFER, count),
        ];
        let info = vk::DescriptorPoolCreateInfo::default().max_sets(count).pool_sizes(&sizes);
        // SAFETY: `raw` is live; there is a part, so no number is 0.
        self.pool = unsafe { raw.create_descriptor_pool(&info, None) }?;
        let layouts = vec![self.sampler.set_layout; self.shown.len()];
        let info = vk::DescriptorSetAllocateInfo::default()
            .descriptor_pool(self.pool)
            .set_layouts(&layouts);
        // SAFETY: the pool holds exactly these sets.
        self.sets = unsafe { raw.allocate_descriptor_sets(&info) }?;
        Ok(())
    }

    fn write_sets(&self, findings: vk::Buffer) {
        let image = |view| {
            let image_layout = vk::ImageLayout::GENERAL;
            [vk::DescriptorImageInfo {
                sampler: vk::Sampler::null(),
                image_view: view,
                image_layout,
            }]
        };
        let mut offset = 0;
        for (set, views) in self.sets.iter().zip(self.views.as_chunks::<2>().0) {
            let [subject, reference] = views.map(image);
            let buffer = [vk::DescriptorBufferInfo { buffer: findings, offset, range: FINDINGS }];
            offset += FINDINGS_STEP;
            let write = |binding, kind| {
                let write = vk::WriteDescriptorSet::default().dst_set(*set).dst_binding(binding);
                write.descriptor_type(kind)
            };
            let writes = [
                write(0, vk::DescriptorType::SAMPLED_IMAGE).image_info(&subject),
                write(1, vk::DescriptorType::SAMPLED_IMAGE).image_info(&reference),
                write(2, vk::DescriptorType::STORAGE_BUFFER).buffer_info(&buffer),
            ];
            // SAFETY: the set is new and not in use; views and buffer are live, and the buffer's owner has made it large
            // enough for all parts.
            unsafe { self.sampler.device.raw().update_descriptor_sets(&writes, &[]) };
        }
    }

    /// Records the comparison of all parts.
    ///
    /// # Safety
    ///
    /// `commands` is being recorded for the main queue of the sampler's device. Both images are in the layout `GENERAL`,
    /// and their texels are visible to compute shaders. The caller waits for the work before it drops this.
    pub(super) unsafe fn record(&self, commands: vk::CommandBuffer) {
        let (raw, point) = (self.sampler.device.raw(), vk::PipelineBindPoint::COMPUTE);
        // SAFETY: the pipeline is live by the type invariant.
        unsafe { raw.cmd_bind_pipeline(commands, point, self.sampler.pipeline) };
        for (set, Shown { extent: [width, height], .. }) in self.sets.iter().zip(&self.shown) {
            let sets = [*set];
            let layout = self.sampler.layout;
            // SAFETY: the set was allocated with the layout's only set layout, and is written.
            unsafe { raw.cmd_bind_descriptor_sets(commands, point, layout, 0, &sets, &[]) };
            let [x, y] = [width.div_ceil(GROUP), height.div_ceil(GROUP)];
            // SAFETY: a probe has a few hundred texels in each direction, so no more groups than every device allows.
            unsafe { raw.cmd_dispatch(commands, x, y, 1) };
        }
    }
}

impl Drop for Bindings {
    fn drop(&mut self) {
        let raw = self.sampler.device.raw();
        for view in &self.views {
            // SAFETY: by the type invariant live, ours, and idle.
            unsafe { raw.destroy_image_view(*view, None) };
        }
        // SAFETY: as above; the sets are freed with their pool.
        unsafe { raw.destroy_descriptor_pool(self.pool, None) };
    }
}
