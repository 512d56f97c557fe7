//! Allocators of other projects: neither copies, so what they leave to their users is done by hand.
#![expect(unsafe_code, reason = "raw Vulkan, on the devices that peerbuf has opened")]

use std::sync::Arc;

use ash::{khr, vk};
use gpu_allocator::MemoryLocation;
use gpu_allocator::vulkan::{
    Allocation, AllocationCreateDesc, AllocationScheme, Allocator, AllocatorCreateDesc,
};
use peerbuf::Device;
use vk_mem::Alloc;

use super::raw::{buffer_info, check, recorded, write};
use super::{Pair, Peer};
use crate::Outcome;
use crate::hand::Recorded;

/// The Vulkan Memory Allocator: it allocates what is exported, and by a second pool what is imported.
pub(super) struct Vma<'a> {
    recorded: Recorded<'a>,
    size: u64,
    target: Pooled<'a>,
    _seen: Pooled<'a>,
    _source: Pooled<'a>,
}

/// A buffer with a pool of its own, since what is chained to an allocation is a pool's.
///
/// # Invariants
///
/// The buffer and its allocation are live and of this pool, until `drop`; the pool goes before what its allocations are
/// chained to, and before its allocator.
struct Pooled<'a> {
    buffer: vk::Buffer,
    allocation: vk_mem::Allocation,
    _pool: vk_mem::AllocatorPool,
    allocator: Arc<vk_mem::Allocator>,
    device: &'a Device,
    _export: Box<vk::ExportMemoryAllocateInfo<'static>>,
    _import: Box<vk::ImportMemoryFdInfoKHR<'static>>,
}

impl<'a> Vma<'a> {
    pub(super) fn new(pair: &'a Pair, size: u64) -> Outcome<Self> {
        let source = Pooled::new(pair, &pair.near, size, None)?;
        let target = Pooled::new(pair, &pair.far, size, None)?;
        let fds = khr::external_memory_fd::Device::new(pair.near.raw_instance(), pair.near.raw());
        let memory = source.allocator.get_allocation_info(&source.allocation).device_memory;
        let info = vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(pair.handle.vk());
        // SAFETY: the memory is live, and was allocated to be exported as this handle type.
        let fd = unsafe { fds.get_memory_fd(&info) }?;
        let seen = Pooled::new(pair, &pair.far, size, Some(fd))?;
        write(&pair.near, source.buffer, size)?;
        let recorded = recorded(&pair.far, seen.buffer, target.buffer, size)?;
        Ok(Self { recorded, size, target, _seen: seen, _source: source })
    }
}

impl<'a> Pooled<'a> {
    /// A buffer in memory that can be exported, or in that of an fd.
    fn new(pair: &Pair, device: &'a Device, size: u64, fd: Option<i32>) -> Outcome<Self> {
        let physical = device.adapter().physical();
        let info = vk_mem::AllocatorCreateInfo::new(device.raw_instance(), device.raw(), physical);
        // SAFETY: instance, device and adapter belong together, and the pair keeps the device.
        let allocator = Arc::new(unsafe { vk_mem::Allocator::new(info) }?);
        let handle = pair.handle.vk();
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(handle);
        let info = buffer_info(size).push_next(&mut external);
        // SAFETY: a plain buffer of a size that is not zero.
        let probe = unsafe { device.raw().create_buffer(&info, None) }?;
        // SAFETY: the buffer is live.
        let needs = unsafe { device.raw().get_buffer_memory_requirements(probe) };
        // SAFETY: created above, and not used by anything.
        unsafe { device.raw().destroy_buffer(probe, None) };
        let memory_type_index = crate::hand::choose(device, needs.memory_type_bits)?;
        let mut export = Box::new(vk::ExportMemoryAllocateInfo::default().handle_types(handle));
        let mut import =
            Box::new(vk::ImportMemoryFdInfoKHR::default().handle_type(handle).fd(fd.unwrap_or(-1)));
        let mut info = vk_mem::PoolCreateInfo {
            memory_type_index,
            // An import is of the size of what was exported.
            block_size: needs.size,
            max_block_count: 1,
            ..Default::default()
        };
        match fd {
            // The driver owns the fd from the allocation on. If that fails, the run ends.
            Some(_) => info.push_next(&mut *import),
            None => info.push_next(&mut *export),
        }
        let pool = allocator.create_pool(&info)?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(handle);
        let info = buffer_info(size).push_next(&mut external);
        let wanted = vk_mem::AllocationCreateInfo::default();
        // SAFETY: a plain buffer of a size that is not zero, in memory of its type.
        let (buffer, allocation) = unsafe { pool.create_buffer(&info, &wanted) }?;
        // INVARIANT: created above.
        Ok(Self {
            buffer,
            allocation,
            _pool: pool,
            allocator,
            device,
            _export: export,
            _import: import,
        })
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        // SAFETY: by the invariant live, and no work uses it: each copy was waited for.
        unsafe { self.allocator.destroy_buffer(self.buffer, &mut self.allocation) };
    }
}

impl Peer for Vma<'_> {
    fn copy(&mut self) -> Outcome<()> {
        self.recorded.run()
    }

    fn check(&mut self) -> Outcome<()> {
        check(self.target.device, self.target.buffer, self.size)
    }
}

/// gpu-allocator, which neither exports nor imports: through staging memory of both devices, mapped all the time.
pub(super) struct Staged<'a> {
    out: Recorded<'a>,
    into: Recorded<'a>,
    pair: &'a Pair,
    size: u64,
    /// Source, read-back, upload, destination.
    buffers: [(vk::Buffer, Option<Allocation>); 4],
    allocators: [Allocator; 2],
}

impl<'a> Staged<'a> {
    pub(super) fn new(pair: &'a Pair, size: u64) -> Outcome<Self> {
        let mut allocators = [allocator(&pair.near)?, allocator(&pair.far)?];
        let kinds = [
            (0, MemoryLocation::GpuOnly),
            (0, MemoryLocation::GpuToCpu),
            (1, MemoryLocation::CpuToGpu),
            (1, MemoryLocation::GpuOnly),
        ];
        let mut buffers = [(); 4].map(|()| (vk::Buffer::null(), None));
        for (at, (device, location)) in buffers.iter_mut().zip(kinds) {
            let raw = [&pair.near, &pair.far][device];
            let (buffer, allocation) = create(raw, &mut allocators[device], size, location)?;
            *at = (buffer, Some(allocation));
        }
        let [source, read_back, upload, target] = [0, 1, 2, 3].map(|at: usize| buffers[at].0);
        write(&pair.near, source, size)?;
        let out = recorded(&pair.near, source, read_back, size)?;
        let into = recorded(&pair.far, upload, target, size)?;
        Ok(Self { out, into, pair, size, buffers, allocators })
    }
}

fn allocator(device: &Device) -> Outcome<Allocator> {
    Ok(Allocator::new(&AllocatorCreateDesc {
        instance: device.raw_instance().clone(),
        device: device.raw().clone(),
        physical_device: device.adapter().physical(),
        debug_settings: Default::default(),
        buffer_device_address: false,
        allocation_sizes: Default::default(),
    })?)
}

fn create(
    device: &Device,
    allocator: &mut Allocator,
    size: u64,
    location: MemoryLocation,
) -> Outcome<(vk::Buffer, Allocation)> {
    // SAFETY: a plain buffer of a size that is not zero.
    let buffer = unsafe { device.raw().create_buffer(&buffer_info(size), None) }?;
    // SAFETY: the buffer is live.
    let requirements = unsafe { device.raw().get_buffer_memory_requirements(buffer) };
    let allocation = allocator.allocate(&AllocationCreateDesc {
        name: "link",
        requirements,
        location,
        linear: true,
        allocation_scheme: AllocationScheme::GpuAllocatorManaged,
    })?;
    // SAFETY: the allocation is live, and its memory is the allocator's.
    let memory = unsafe { allocation.memory() };
    // SAFETY: the range was allocated for this buffer's requirements.
    unsafe { device.raw().bind_buffer_memory(buffer, memory, allocation.offset()) }?;
    Ok((buffer, allocation))
}

impl Peer for Staged<'_> {
    fn copy(&mut self) -> Outcome<()> {
        self.out.run()?;
        let size = usize::try_from(self.size)?;
        let [_, (_, read_back), (_, upload), _] = &mut self.buffers;
        let from = read_back.as_ref().and_then(Allocation::mapped_slice);
        let to = upload.as_mut().and_then(Allocation::mapped_slice_mut);
        let (from, to) = from.zip(to).ok_or("staging memory is not mapped")?;
        to[..size].copy_from_slice(&from[..size]);
        self.into.run()
    }

    fn check(&mut self) -> Outcome<()> {
        check(&self.pair.far, self.buffers[3].0, self.size)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        for (at, (buffer, allocation)) in self.buffers.iter_mut().enumerate() {
            let device = [&self.pair.near, &self.pair.far][at / 2];
            // SAFETY: created by `new`, and no work uses it: each copy was waited for.
            unsafe { device.raw().destroy_buffer(*buffer, None) };
            if let Some(allocation) = allocation.take() {
                // An error is one of the allocator's own lists, and ends with the process.
                let _ = self.allocators[at / 2].free(allocation);
            }
        }
    }
}
