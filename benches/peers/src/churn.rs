//! The contenders: each creates and drops buffers in a set of 10,000.

use ash::vk;
use gpu_allocator::MemoryLocation;
use gpu_allocator::vulkan::{
    Allocation, AllocationCreateDesc, AllocationScheme, Allocator, AllocatorCreateDesc,
};
use peerbuf::{BufferDescriptor, Device, Engine, SharedBuffer};
use vk_mem::Alloc;

use crate::Outcome;
use crate::measure::Random;

/// Buffers that live at any time.
const LIVE: usize = 10_000;

/// Sizes between two powers of two, as likely per doubling.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    least: u32,
    most: u32,
}

impl Sizes {
    /// 256 B to 64 KiB.
    pub(crate) const SMALL: Self = Self { least: 8, most: 16 };
    /// 4 KiB to 1 MiB.
    pub(crate) const LARGE: Self = Self { least: 12, most: 20 };

    fn draw(self, random: &mut Random) -> u64 {
        // CAST: less than a dozen.
        let doubling = self.least + random.below((self.most - self.least) as usize) as u32;
        // CAST: at most a mebibyte.
        (1 << doubling) + random.below(1 << doubling) as u64
    }
}

/// What creates and drops buffers.
pub(crate) trait Contender {
    type Buffer;

    fn create(&mut self, size: u64) -> Outcome<Self::Buffer>;

    /// Ends a buffer that [`Contender::create`] has made.
    fn end(&mut self, buffer: Self::Buffer);
}

/// A contender with its live buffers.
pub(crate) struct Churn<T: Contender> {
    live: Vec<T::Buffer>,
    contender: T,
    sizes: Sizes,
    random: Random,
}

impl<T: Contender> Churn<T> {
    pub(crate) fn new(mut contender: T, sizes: Sizes) -> Outcome<Self> {
        // The same for all contenders.
        let mut random = Random::new(5);
        let live = (0..LIVE)
            .map(|_| contender.create(sizes.draw(&mut random)))
            .collect::<Outcome<_>>()?;
        let mut this = Self { live, contender, sizes, random };
        // A set that was only filled has no holes yet.
        (0..2 * LIVE).try_for_each(|_| this.step())?;
        Ok(this)
    }

    /// Ends one of the buffers, and creates another one.
    pub(crate) fn step(&mut self) -> Outcome<()> {
        let at = self.random.below(LIVE);
        let size = self.sizes.draw(&mut self.random);
        let ended = self.live.swap_remove(at);
        self.contender.end(ended);
        self.live.push(self.contender.create(size)?);
        Ok(())
    }
}

impl<T: Contender> Drop for Churn<T> {
    fn drop(&mut self) {
        for buffer in self.live.drain(..) {
            self.contender.end(buffer);
        }
    }
}

pub(crate) struct Ours<'a> {
    engine: &'a Engine,
    device: &'a Device,
}

impl<'a> Ours<'a> {
    pub(crate) fn new(engine: &'a Engine, device: &'a Device) -> Self {
        Self { engine, device }
    }
}

impl Contender for Ours<'_> {
    type Buffer = SharedBuffer;

    fn create(&mut self, size: u64) -> Outcome<SharedBuffer> {
        Ok(self.engine.create_buffer(self.device, BufferDescriptor::new(size))?)
    }

    fn end(&mut self, buffer: SharedBuffer) {
        drop(buffer);
    }
}

/// What peerbuf's buffers can be used for.
fn buffer_info(size: u64) -> vk::BufferCreateInfo<'static> {
    let usage = vk::BufferUsageFlags::TRANSFER_SRC
        | vk::BufferUsageFlags::TRANSFER_DST
        | vk::BufferUsageFlags::STORAGE_BUFFER;
    vk::BufferCreateInfo::default().size(size).usage(usage)
}

/// The Vulkan Memory Allocator.
pub(crate) struct Vma {
    allocator: vk_mem::Allocator,
}

impl Vma {
    pub(crate) fn new(device: &Device) -> Outcome<Self> {
        let physical = device.adapter().physical();
        let info =
            vk_mem::AllocatorCreateInfo::new(device.raw_instance(), device.raw(), physical);
        // SAFETY: instance, device and adapter belong together, and the caller keeps the device.
        let allocator = unsafe { vk_mem::Allocator::new(info) }?;
        Ok(Self { allocator })
    }
}

impl Contender for Vma {
    type Buffer = (vk::Buffer, vk_mem::Allocation);

    fn create(&mut self, size: u64) -> Outcome<Self::Buffer> {
        let wanted = vk_mem::AllocationCreateInfo {
            usage: vk_mem::MemoryUsage::AutoPreferDevice,
            ..Default::default()
        };
        // SAFETY: a plain buffer of a size that is not zero.
        Ok(unsafe { self.allocator.create_buffer(&buffer_info(size), &wanted) }?)
    }

    fn end(&mut self, (buffer, mut allocation): Self::Buffer) {
        // SAFETY: made by `create`, not used by any work, and ended once.
        unsafe { self.allocator.destroy_buffer(buffer, &mut allocation) };
    }
}

pub(crate) struct GpuAllocator<'a> {
    device: &'a ash::Device,
    allocator: Allocator,
}

impl<'a> GpuAllocator<'a> {
    pub(crate) fn new(device: &'a Device) -> Outcome<Self> {
        let allocator = Allocator::new(&AllocatorCreateDesc {
            instance: device.raw_instance().clone(),
            device: device.raw().clone(),
            physical_device: device.adapter().physical(),
            debug_settings: Default::default(),
            buffer_device_address: false,
            allocation_sizes: Default::default(),
        })?;
        Ok(Self { device: device.raw(), allocator })
    }
}

impl Contender for GpuAllocator<'_> {
    type Buffer = (vk::Buffer, Allocation);

    fn create(&mut self, size: u64) -> Outcome<Self::Buffer> {
        // SAFETY: a plain buffer of a size that is not zero.
        let buffer = unsafe { self.device.create_buffer(&buffer_info(size), None) }?;
        // SAFETY: the buffer is live.
        let requirements = unsafe { self.device.get_buffer_memory_requirements(buffer) };
        let allocation = self.allocator.allocate(&AllocationCreateDesc {
            name: "churn",
            requirements,
            location: MemoryLocation::GpuOnly,
            linear: true,
            allocation_scheme: AllocationScheme::GpuAllocatorManaged,
        })?;
        // SAFETY: the allocation is live, and its memory is the allocator's.
        let memory = unsafe { allocation.memory() };
        // SAFETY: the range was allocated for this buffer's requirements.
        unsafe { self.device.bind_buffer_memory(buffer, memory, allocation.offset()) }?;
        Ok((buffer, allocation))
    }

    fn end(&mut self, (buffer, allocation): Self::Buffer) {
        // SAFETY: made by `create`, not used by any work, and ended once.
        unsafe { self.device.destroy_buffer(buffer, None) };
        // An error is one of the allocator's own lists, and ends with the process.
        let _ = self.allocator.free(allocation);
    }
}
