//! The baselines: the same operations in plain Vulkan, without a library.
//!
//! They are as fast as they can be: memory types and sizes are queried once, nothing is counted or checked.
#![expect(unsafe_code, reason = "raw Vulkan, on the devices that peerbuf has opened")]

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;

use ash::{khr, vk};
use peerbuf::{Device, HandleType};

use crate::Outcome;
use crate::queue_by_hand::Range;

/// Size and memory type of an allocation: the same for every buffer of one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    size: u64,
    memory_size: u64,
    memory_type: u32,
}

/// A device that allocates, exports and imports by hand.
pub(crate) struct Hand<'a> {
    device: &'a Device,
    fds: khr::external_memory_fd::Device,
    handle: HandleType,
}

/// Memory with a buffer bound to all of it.
///
/// # Invariants
///
/// Both are null or live objects of `device`, destroyed only by `drop`.
pub(crate) struct Block<'a> {
    device: &'a ash::Device,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
}

impl<'a> Hand<'a> {
    pub(crate) fn new(device: &'a Device, handle: HandleType) -> Self {
        let fds = khr::external_memory_fd::Device::new(device.raw_instance(), device.raw());
        Self { device, fds, handle }
    }

    pub(crate) fn handle(&self) -> HandleType {
        self.handle
    }

    /// Requirements of exportable memory for `size` bytes.
    pub(crate) fn needs(&self, size: u64) -> Outcome<Needs> {
        self.needs_among(size, u32::MAX)
    }

    /// Requirements of an import of `fd`, whose export has the requirements `exporter`.
    pub(crate) fn import_needs(&self, fd: &OwnedFd, exporter: Needs) -> Outcome<Needs> {
        if self.handle != HandleType::DmaBuf {
            return Ok(exporter);
        }
        let mut properties = vk::MemoryFdPropertiesKHR::default();
        let raw = std::os::fd::AsRawFd::as_raw_fd(fd);
        // SAFETY: the fd is an open dma-buf.
        unsafe { self.fds.get_memory_fd_properties(self.handle.vk(), raw, &mut properties) }?;
        let ours = self.needs_among(exporter.size, properties.memory_type_bits)?;
        Ok(Needs { memory_size: exporter.memory_size, ..ours })
    }

    fn needs_among(&self, size: u64, types: u32) -> Outcome<Needs> {
        let block = self.buffer(size)?;
        // SAFETY: the buffer is live.
        let needs = unsafe { block.device.get_buffer_memory_requirements(block.buffer) };
        let memory_type = choose(self.device, needs.memory_type_bits & types)?;
        Ok(Needs { size, memory_size: needs.size, memory_type })
    }

    /// Allocates exportable memory and binds a buffer to it.
    pub(crate) fn allocate(&self, needs: Needs) -> Outcome<Block<'a>> {
        let block = self.buffer(needs.size)?;
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(self.handle.vk());
        self.back(block, needs, &mut export)
    }

    /// Exports a block's memory as an fd.
    pub(crate) fn export(&self, block: &Block<'_>) -> Outcome<OwnedFd> {
        let info =
            vk::MemoryGetFdInfoKHR::default().memory(block.memory).handle_type(self.handle.vk());
        // SAFETY: the memory is live and was allocated for export as this handle type.
        let raw = unsafe { self.fds.get_memory_fd(&info) }?;
        if raw < 0 {
            return Err("vkGetMemoryFdKHR returned no fd".into());
        }
        // SAFETY: the driver returned a new fd, which is ours.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// Imports the memory of an fd and binds a buffer to it.
    pub(crate) fn import(&self, fd: OwnedFd, needs: Needs) -> Outcome<Block<'a>> {
        let block = self.buffer(needs.size)?;
        // The driver owns the fd from here on. If the import fails, the run ends anyway.
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(self.handle.vk()).fd(fd.into_raw_fd());
        self.back(block, needs, &mut import)
    }

    fn buffer(&self, size: u64) -> Outcome<Block<'a>> {
        let mut external =
            vk::ExternalMemoryBufferCreateInfo::default().handle_types(self.handle.vk());
        Block::new(self.device.raw(), size, Some(&mut external))
    }

    fn back(
        &self,
        mut block: Block<'a>,
        needs: Needs,
        extra: &mut impl vk::ExtendsMemoryAllocateInfo,
    ) -> Outcome<Block<'a>> {
        let mut dedicated = vk::MemoryDedicatedAllocateInfo::default().buffer(block.buffer);
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.memory_size)
            .memory_type_index(needs.memory_type)
            .push_next(extra);
        if self.device.adapter().external_buffer(self.handle).dedicated_only {
            info = info.push_next(&mut dedicated);
        }
        block.back(&info)?;
        Ok(block)
    }
}

impl<'a> Block<'a> {
    fn new(
        device: &'a ash::Device,
        size: u64,
        external: Option<&mut vk::ExternalMemoryBufferCreateInfo<'_>>,
    ) -> Outcome<Self> {
        let usage = vk::BufferUsageFlags::TRANSFER_SRC
            | vk::BufferUsageFlags::TRANSFER_DST
            | vk::BufferUsageFlags::STORAGE_BUFFER;
        let mut info = vk::BufferCreateInfo::default().size(size).usage(usage);
        if let Some(external) = external {
            info = info.push_next(external);
        }
        // SAFETY: the size is not zero; the handle type is one that this device shares by.
        let buffer = unsafe { device.create_buffer(&info, None) }?;
        // INVARIANT: the buffer was just created; the memory is null.
        Ok(Self { device, buffer, memory: vk::DeviceMemory::null() })
    }

    fn back(&mut self, info: &vk::MemoryAllocateInfo<'_>) -> Outcome<()> {
        // SAFETY: size and type suit the buffer; an fd is of the handle type.
        self.memory = unsafe { self.device.allocate_memory(info, None) }?;
        // SAFETY: both were just created, one for the other.
        unsafe { self.device.bind_buffer_memory(self.buffer, self.memory, 0) }?;
        Ok(())
    }

    /// Allocates host-visible memory that is not shared.
    pub(crate) fn staging(device: &'a Device, size: u64) -> Outcome<Self> {
        let mut block = Self::new(device.raw(), size, None)?;
        // SAFETY: the buffer is live.
        let needs = unsafe { device.raw().get_buffer_memory_requirements(block.buffer) };
        let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let types = device.adapter().memory_types();
        let index = (0..types.len()).find(|&index| {
            needs.memory_type_bits & (1 << index) != 0 && types[index].flags.contains(wanted)
        });
        let index = index.ok_or("no host-visible memory")?;
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            // CAST: at most 32 memory types.
            .memory_type_index(index as u32);
        block.back(&info)?;
        Ok(block)
    }

    /// The first `size` bytes.
    pub(crate) fn range(&self, size: u64) -> Range {
        Range { buffer: self.buffer, offset: 0, size }
    }

    /// Writes one word through the host's mapping.
    pub(crate) fn touch(&self, value: u64) -> Outcome<()> {
        let word = self.map()?.cast::<u64>();
        // SAFETY: mapped, page-aligned, and no device uses it now.
        unsafe { word.write_volatile(value) };
        self.unmap();
        Ok(())
    }

    /// Calls `work` with the first `size` bytes of the host's mapping.
    pub(crate) fn with_bytes<T>(
        &mut self,
        size: usize,
        work: impl FnOnce(&mut [u8]) -> T,
    ) -> Outcome<T> {
        let start = self.map()?;
        // SAFETY: mapped, `size` bytes long, private to this device, which has finished with it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), size) };
        let out = work(bytes);
        self.unmap();
        Ok(out)
    }

    fn map(&self) -> Outcome<NonNull<u8>> {
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: live and not mapped; for memory that is not host-visible the call returns an error.
        let start = unsafe { self.device.map_memory(self.memory, 0, vk::WHOLE_SIZE, flags) }?;
        NonNull::new(start.cast()).ok_or_else(|| "mapped at zero".into())
    }

    fn unmap(&self) {
        // SAFETY: mapped by the caller just before.
        unsafe { self.device.unmap_memory(self.memory) };
    }
}

impl Drop for Block<'_> {
    fn drop(&mut self) {
        // SAFETY: by the invariant null or live; no device uses it any more.
        unsafe { self.device.destroy_buffer(self.buffer, None) };
        // SAFETY: as above.
        unsafe { self.device.free_memory(self.memory, None) };
    }
}

/// Chooses a memory type: device-local if there is one, as an application would.
pub(crate) fn choose(device: &Device, bits: u32) -> Outcome<u32> {
    let types = device.adapter().memory_types();
    let allowed = |index: &usize| bits & (1 << index) != 0;
    let local = |index: &usize| types[*index].flags.contains(vk::MemoryPropertyFlags::DEVICE_LOCAL);
    let all = || (0..types.len()).filter(allowed);
    let index = all().find(local).or_else(|| all().next()).ok_or("no memory type is allowed")?;
    // CAST: at most 32 memory types.
    Ok(index as u32)
}

/// One copy, recorded beforehand, with its pool, fence and queue.
///
/// # Invariants
///
/// The pool and the fence are live objects of `device`; nothing is running between two calls.
pub(crate) struct Recorded<'a> {
    device: &'a Device,
    pool: vk::CommandPool,
    fence: vk::Fence,
    commands: vk::CommandBuffer,
}

impl<'a> Recorded<'a> {
    /// Records a copy of the first `size` bytes.
    pub(crate) fn copy(
        device: &'a Device,
        from: &Block<'_>,
        to: &Block<'_>,
        size: u64,
    ) -> Outcome<Self> {
        let this = Self::new(device)?;
        this.record(from, to, size)?;
        Ok(this)
    }

    /// Creates it with nothing recorded.
    pub(crate) fn new(device: &'a Device) -> Outcome<Self> {
        let raw = device.raw();
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER)
            .queue_family_index(device.queue_family());
        // SAFETY: the family exists.
        let pool = unsafe { raw.create_command_pool(&info, None) }?;
        // SAFETY: nothing is required.
        let fence = unsafe { raw.create_fence(&vk::FenceCreateInfo::default(), None) }?;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is live and used by this thread alone.
        let commands = unsafe { raw.allocate_command_buffers(&info) }?[0];
        // INVARIANT: created above.
        Ok(Self { device, pool, fence, commands })
    }

    /// Records a copy of the first `size` bytes and discards the former recording. The commands release ownership
    /// of the destination, which Vulkan requires if another device shares it.
    pub(crate) fn record(&self, from: &Block<'_>, to: &Block<'_>, size: u64) -> Outcome<()> {
        self.record_parts(from, to, size, size)
    }

    /// As [`Recorded::record`], with one command for each `part` bytes.
    pub(crate) fn record_parts(
        &self,
        from: &Block<'_>,
        to: &Block<'_>,
        size: u64,
        part: u64,
    ) -> Outcome<()> {
        let (raw, commands) = (self.device.raw(), self.commands);
        // SAFETY: the command buffer is new, or has run and may be reset.
        unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }?;
        for offset in (0..size / part).map(|index| index * part) {
            let region = [vk::BufferCopy { src_offset: offset, dst_offset: offset, size: part }];
            // SAFETY: being recorded; both buffers are live, of this device, and `size` bytes long.
            unsafe { raw.cmd_copy_buffer(commands, from.buffer, to.buffer, &region) };
        }
        let release = vk::BufferMemoryBarrier::default()
            .buffer(to.buffer)
            .size(size)
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .src_queue_family_index(self.device.queue_family())
            .dst_queue_family_index(vk::QUEUE_FAMILY_EXTERNAL);
        // SAFETY: as above.
        unsafe {
            raw.cmd_pipeline_barrier(
                commands,
                vk::PipelineStageFlags::TRANSFER,
                vk::PipelineStageFlags::BOTTOM_OF_PIPE,
                vk::DependencyFlags::empty(),
                &[],
                &[release],
                &[],
            );
        }
        // SAFETY: the recording was begun above.
        unsafe { raw.end_command_buffer(commands) }?;
        Ok(())
    }

    /// Records copies of so many regions by one command, and discards the former recording.
    pub(crate) fn record_regions(
        &self,
        from: &Block<'_>,
        to: &Block<'_>,
        regions: &[vk::BufferCopy],
    ) -> Outcome<()> {
        self.record_commands(|raw, commands| {
            // SAFETY: being recorded; both buffers are live, of this device, and have all regions.
            unsafe { raw.cmd_copy_buffer(commands, from.buffer, to.buffer, regions) };
        })
    }

    /// Records commands, and discards the former recording.
    pub(crate) fn record_commands(
        &self,
        record: impl FnOnce(&ash::Device, vk::CommandBuffer),
    ) -> Outcome<()> {
        let (raw, commands) = (self.device.raw(), self.commands);
        // SAFETY: the command buffer is new, or has run and may be reset.
        unsafe { raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()) }?;
        record(raw, commands);
        // SAFETY: the recording was begun above.
        unsafe { raw.end_command_buffer(commands) }?;
        Ok(())
    }

    /// Submits the copy, waits for it, and resets the fence.
    pub(crate) fn run(&self) -> Outcome<()> {
        let raw = self.device.raw();
        let commands = [self.commands];
        let info = [vk::SubmitInfo::default().command_buffers(&commands)];
        self.device.with_queue(|queue| {
            // SAFETY: the queue is locked; the command buffer is executable and not pending.
            unsafe { raw.queue_submit(queue, &info, self.fence) }
        })?;
        // SAFETY: the fence is live.
        unsafe { raw.wait_for_fences(&[self.fence], true, 10_000_000_000) }?;
        // SAFETY: the fence has signalled, so no pending work uses it.
        unsafe { raw.reset_fences(&[self.fence]) }?;
        Ok(())
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        // SAFETY: nothing is running; the command buffer is freed with its pool.
        unsafe { self.device.raw().destroy_command_pool(self.pool, None) };
        // SAFETY: as above.
        unsafe { self.device.raw().destroy_fence(self.fence, None) };
    }
}
