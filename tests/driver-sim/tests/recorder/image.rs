//! A small image that two devices share, and commands on it.

use std::ffi::c_void;
use std::ptr::null_mut;

use ash::vk::{self, ImageLayout as Layout};
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::gpu::{Block, Gpu};

const BYTES: u64 = 1 << 16;
const EXTENT: vk::Extent3D = vk::Extent3D { width: 64, height: 16, depth: 1 };
const OUTSIDE: u32 = vk::QUEUE_FAMILY_EXTERNAL;

/// How two devices share memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The first one exports an fd.
    OpaqueFd,
    /// A file that is mapped twice.
    Mappings,
    /// Pages of the process without a file.
    Pages,
}

/// What a submission does to the image.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Do {
    Acquire(Layout, Layout),
    Release(Layout, Layout),
    Change(Layout, Layout),
    /// Writes all texels.
    Clear,
    /// Writes the texels of the upper half, or of the lower one.
    Upper,
    Lower,
    /// Copies all texels to a buffer.
    Read,
}

/// The image of one device.
pub(crate) struct Seen<'g> {
    pub(crate) gpu: &'g Gpu<'g>,
    image: vk::Image,
    staging: Block,
}

/// A new image on two devices.
pub(crate) fn share<'g>(way: Way, gpus: [&'g Gpu<'g>; 2]) -> [Seen<'g>; 2] {
    let host = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
    match way {
        Way::OpaqueFd => {
            let handle = vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD;
            let (block, fd) = gpus[0].exported(BYTES);
            let first = Seen::new(gpus[0], handle, block.memory);
            let import = gpus[1].import(fd, BYTES).expect("the same driver imports it");
            [first, Seen::new(gpus[1], handle, import.memory)]
        }
        Way::Mappings => {
            let file = rustix::fs::memfd_create("shared", MemfdFlags::CLOEXEC).expect("a memfd");
            rustix::fs::ftruncate(&file, BYTES).expect("it has a size");
            gpus.map(|gpu| {
                // SAFETY: a new mapping, which stays until the process ends.
                let at = unsafe {
                    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
                    rustix::mm::mmap(null_mut(), BYTES as usize, prot, flags, &file, 0)
                };
                Seen::new(gpu, host, import(gpu, at.expect("a mapping")))
            })
        }
        Way::Pages => {
            // SAFETY: a new mapping, which stays until the process ends.
            let at = unsafe {
                let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
                rustix::mm::mmap_anonymous(null_mut(), BYTES as usize, prot, flags)
            };
            let at = at.expect("pages");
            gpus.map(|gpu| Seen::new(gpu, host, import(gpu, at)))
        }
    }
}

fn import(gpu: &Gpu<'_>, at: *mut c_void) -> vk::DeviceMemory {
    gpu.import_host(at, BYTES).expect("the driver imports pages")
}

impl<'g> Seen<'g> {
    fn new(
        gpu: &'g Gpu<'g>,
        handle: vk::ExternalMemoryHandleTypeFlags,
        memory: vk::DeviceMemory,
    ) -> Self {
        let mut external = vk::ExternalMemoryImageCreateInfo::default().handle_types(handle);
        let info = vk::ImageCreateInfo::default()
            .image_type(vk::ImageType::TYPE_2D)
            .format(vk::Format::R8G8B8A8_UNORM)
            .extent(EXTENT)
            .mip_levels(1)
            .array_layers(1)
            .samples(vk::SampleCountFlags::TYPE_1)
            .tiling(vk::ImageTiling::LINEAR)
            .usage(vk::ImageUsageFlags::TRANSFER_SRC | vk::ImageUsageFlags::TRANSFER_DST)
            .push_next(&mut external);
        // SAFETY: the structures are complete.
        let image = unsafe { gpu.raw.create_image(&info, None) }.expect("an image");
        // SAFETY: the memory is large enough, and of all of the device's types.
        unsafe { gpu.raw.bind_image_memory(image, memory, 0) }.expect("it is bound");
        Self { gpu, image, staging: gpu.block(BYTES) }
    }

    /// Records commands. They find the image in `layout`, or in the one that the last barrier left.
    fn record(&self, layout: Layout, all: &[Do]) -> vk::CommandBuffer {
        let mut layout = layout;
        self.gpu.record(self.gpu.family, |commands| {
            for one in all {
                match *one {
                    Do::Acquire(old, new) => {
                        self.barrier(commands, [old, new], [OUTSIDE, self.gpu.family]);
                        layout = new;
                    }
                    Do::Release(old, new) => {
                        self.barrier(commands, [old, new], [self.gpu.family, OUTSIDE]);
                    }
                    Do::Change(old, new) => {
                        self.barrier(commands, [old, new], [vk::QUEUE_FAMILY_IGNORED; 2]);
                        layout = new;
                    }
                    Do::Clear => self.clear(commands, layout),
                    Do::Upper => self.write(commands, layout, 0),
                    Do::Lower => self.write(commands, layout, EXTENT.height / 2),
                    Do::Read => self.read(commands, layout),
                }
            }
        })
    }

    /// Submits commands, and does not wait for them.
    pub(crate) fn submit(&self, all: &[Do]) {
        self.submit_between(None, all, None);
    }

    /// Submits commands between points of timelines.
    pub(crate) fn submit_between(
        &self,
        wait: Option<(vk::Semaphore, u64)>,
        all: &[Do],
        signal: Option<(vk::Semaphore, u64)>,
    ) {
        let commands = self.record(Layout::GENERAL, all);
        let submitted = self.gpu.submit(self.gpu.queue(), &[commands], wait, signal);
        submitted.expect("it is submitted");
    }

    /// Waits until all of the device's work has ended.
    pub(crate) fn finish(&self) {
        // SAFETY: no other thread uses the queue.
        unsafe { self.gpu.raw.queue_wait_idle(self.gpu.queue()) }.expect("the work ends");
    }

    fn barrier(&self, commands: vk::CommandBuffer, [old, new]: [Layout; 2], [src, dst]: [u32; 2]) {
        let any = vk::AccessFlags::MEMORY_READ | vk::AccessFlags::MEMORY_WRITE;
        let barrier = vk::ImageMemoryBarrier::default()
            .image(self.image)
            .old_layout(old)
            .new_layout(new)
            .src_queue_family_index(src)
            .dst_queue_family_index(dst)
            .src_access_mask(any)
            .dst_access_mask(any)
            .subresource_range(WHOLE);
        let (all, flags) = (vk::PipelineStageFlags::ALL_COMMANDS, vk::DependencyFlags::empty());
        // SAFETY: a live image of the device.
        unsafe {
            self.gpu.raw.cmd_pipeline_barrier(commands, all, all, flags, &[], &[], &[barrier]);
        }
    }

    fn clear(&self, commands: vk::CommandBuffer, layout: Layout) {
        let color = vk::ClearColorValue { float32: [1.0; 4] };
        // SAFETY: a live image of the device.
        unsafe {
            self.gpu.raw.cmd_clear_color_image(commands, self.image, layout, &color, &[WHOLE]);
        }
    }

    fn write(&self, commands: vk::CommandBuffer, layout: Layout, row: u32) {
        let region = vk::BufferImageCopy::default()
            .image_subresource(LAYERS)
            // CAST: a row of a small image.
            .image_offset(vk::Offset3D { x: 0, y: row as i32, z: 0 })
            .image_extent(vk::Extent3D { height: EXTENT.height / 2, ..EXTENT });
        let from = self.staging.buffer;
        // SAFETY: live objects of the device, and a region within both.
        unsafe {
            self.gpu.raw.cmd_copy_buffer_to_image(commands, from, self.image, layout, &[region]);
        }
    }

    fn read(&self, commands: vk::CommandBuffer, layout: Layout) {
        let region = vk::BufferImageCopy::default().image_subresource(LAYERS).image_extent(EXTENT);
        let to = self.staging.buffer;
        // SAFETY: live objects of the device, and a region within both.
        unsafe {
            self.gpu.raw.cmd_copy_image_to_buffer(commands, self.image, layout, to, &[region]);
        }
    }
}

const WHOLE: vk::ImageSubresourceRange = vk::ImageSubresourceRange {
    aspect_mask: vk::ImageAspectFlags::COLOR,
    base_mip_level: 0,
    level_count: 1,
    base_array_layer: 0,
    layer_count: 1,
};

const LAYERS: vk::ImageSubresourceLayers = vk::ImageSubresourceLayers {
    aspect_mask: vk::ImageAspectFlags::COLOR,
    mip_level: 0,
    base_array_layer: 0,
    layer_count: 1,
};
