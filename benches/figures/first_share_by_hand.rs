//! The first share in plain Vulkan, in a process of its own. What it makes ends with the process: nothing is destroyed.
#![expect(unsafe_code, reason = "raw Vulkan")]

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Instant;

use ash::{ext, khr, vk};
use peerbuf::HandleType;

use crate::Outcome;
use crate::first_share::{Pair, SIZE, WORD, print_time};

/// Loads Vulkan, opens two devices, shares a buffer, writes a word on the first one and reads it on the second one; prints
/// the seconds since `start`.
pub(crate) fn by_hand(pair: Pair, start: Instant) -> Outcome<()> {
    // SAFETY: loading the system's Vulkan loader runs its initialisers, which are sound.
    let entry = unsafe { ash::Entry::load() }?;
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let info = vk::InstanceCreateInfo::default().application_info(&application);
    // SAFETY: no layer and no extension is named.
    let instance = unsafe { entry.create_instance(&info, None) }?;
    // SAFETY: the instance is live.
    let adapters = unsafe { instance.enumerate_physical_devices() }?;
    let open = |index: usize| Opened::new(&instance, adapters[index], pair.handle);
    let (near, far) = (open(pair.near)?, open(pair.far)?);
    let (near_buffer, memory) = near.export()?;
    let far_buffer = far.import(near.fd(memory)?)?;
    let outside = match pair.handle {
        HandleType::OpaqueFd => vk::QUEUE_FAMILY_EXTERNAL,
        _ => vk::QUEUE_FAMILY_FOREIGN_EXT,
    };
    near.run(|device, commands| {
        // SAFETY: being recorded; the buffer has a word.
        unsafe { device.cmd_fill_buffer(commands, near_buffer, 0, 4, WORD) };
        near.transfer(commands, near_buffer, (near.family, outside));
    })?;
    let (found, mapped) = far.readback()?;
    far.run(|device, commands| {
        far.transfer(commands, far_buffer, (outside, far.family));
        let region = [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: 4 }];
        // SAFETY: being recorded; both buffers have a word.
        unsafe { device.cmd_copy_buffer(commands, far_buffer, found, &region) };
        let to_host = [vk::MemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .dst_access_mask(vk::AccessFlags::HOST_READ)];
        let stages = (vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::HOST);
        let flags = vk::DependencyFlags::empty();
        // SAFETY: being recorded.
        unsafe {
            device.cmd_pipeline_barrier(commands, stages.0, stages.1, flags, &to_host, &[], &[]);
        }
    })?;
    // SAFETY: mapped, a word long, and the device has finished with it.
    print_time(start, unsafe { mapped.read_volatile() })
}

/// A device with what is made on it.
struct Opened<'a> {
    instance: &'a ash::Instance,
    physical: vk::PhysicalDevice,
    device: ash::Device,
    fds: khr::external_memory_fd::Device,
    handle: HandleType,
    family: u32,
    queue: vk::Queue,
}

impl<'a> Opened<'a> {
    fn new(
        instance: &'a ash::Instance,
        physical: vk::PhysicalDevice,
        handle: HandleType,
    ) -> Outcome<Self> {
        // SAFETY: enumerated from this instance.
        let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
        let is_able =
            |of: &vk::QueueFamilyProperties| of.queue_flags.contains(vk::QueueFlags::COMPUTE);
        let family = families.iter().position(is_able).ok_or("no queue family")?;
        // CAST: a few families.
        let family = family as u32;
        let mut names = vec![khr::external_memory_fd::NAME.as_ptr()];
        if handle == HandleType::DmaBuf {
            names.push(ext::external_memory_dma_buf::NAME.as_ptr());
            names.push(ext::queue_family_foreign::NAME.as_ptr());
        }
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&[1.0])];
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names);
        // SAFETY: peerbuf shares by this handle type between these adapters, so the extensions are there.
        let device = unsafe { instance.create_device(physical, &info, None) }?;
        let fds = khr::external_memory_fd::Device::new(instance, &device);
        // SAFETY: the family has a queue.
        let queue = unsafe { device.get_device_queue(family, 0) };
        Ok(Self { instance, physical, device, fds, handle, family, queue })
    }

    fn export(&self) -> Outcome<(vk::Buffer, vk::DeviceMemory)> {
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(self.handle.vk());
        self.bound(SIZE, (u32::MAX, vk::MemoryPropertyFlags::DEVICE_LOCAL), true, &mut export)
    }

    fn fd(&self, memory: vk::DeviceMemory) -> Outcome<OwnedFd> {
        let info = vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(self.handle.vk());
        // SAFETY: allocated for export as this handle type.
        let fd = unsafe { self.fds.get_memory_fd(&info) }?;
        // SAFETY: a new fd, which is ours.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn import(&self, fd: OwnedFd) -> Outcome<vk::Buffer> {
        let mut types = u32::MAX;
        if self.handle == HandleType::DmaBuf {
            let mut found = vk::MemoryFdPropertiesKHR::default();
            let (handle, raw) = (self.handle.vk(), fd.as_raw_fd());
            // SAFETY: the fd is an open dma-buf.
            unsafe { self.fds.get_memory_fd_properties(handle, raw, &mut found) }?;
            types = found.memory_type_bits;
        }
        let mut import =
            vk::ImportMemoryFdInfoKHR::default().handle_type(self.handle.vk()).fd(fd.into_raw_fd());
        let wanted = (types, vk::MemoryPropertyFlags::DEVICE_LOCAL);
        Ok(self.bound(SIZE, wanted, true, &mut import)?.0)
    }

    /// A word that the host reads.
    fn readback(&self) -> Outcome<(vk::Buffer, *const u32)> {
        let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let mut nothing = vk::MemoryAllocateFlagsInfo::default();
        let (buffer, memory) = self.bound(4, (u32::MAX, wanted), false, &mut nothing)?;
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: host-visible, and not mapped.
        let mapped = unsafe { self.device.map_memory(memory, 0, vk::WHOLE_SIZE, flags) }?;
        Ok((buffer, mapped.cast::<u32>().cast_const()))
    }

    /// A buffer with memory of one of the types, if possible with these properties.
    fn bound(
        &self,
        size: u64,
        (types, wanted): (u32, vk::MemoryPropertyFlags),
        external: bool,
        extra: &mut impl vk::ExtendsMemoryAllocateInfo,
    ) -> Outcome<(vk::Buffer, vk::DeviceMemory)> {
        let usage = vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST;
        let mut handles =
            vk::ExternalMemoryBufferCreateInfo::default().handle_types(self.handle.vk());
        let mut info = vk::BufferCreateInfo::default().size(size).usage(usage);
        if external {
            info = info.push_next(&mut handles);
        }
        // SAFETY: the size is not zero, and the handle type one that this device shares by.
        let buffer = unsafe { self.device.create_buffer(&info, None) }?;
        // SAFETY: the buffer is live.
        let needs = unsafe { self.device.get_buffer_memory_requirements(buffer) };
        // SAFETY: enumerated from this instance.
        let memory = unsafe { self.instance.get_physical_device_memory_properties(self.physical) };
        let of = memory.memory_types_as_slice().iter().zip(0..);
        let allowed = of.filter(|(_, index)| needs.memory_type_bits & types & (1 << index) != 0);
        let allowed: Vec<_> = allowed.collect();
        let best = allowed.iter().find(|(of, _)| of.property_flags.contains(wanted));
        let &(_, index) = best.or(allowed.first()).ok_or("no memory type")?;
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(index)
            .push_next(extra);
        // SAFETY: size and type suit the buffer.
        let memory = unsafe { self.device.allocate_memory(&info, None) }?;
        // SAFETY: both were just created, one for the other.
        unsafe { self.device.bind_buffer_memory(buffer, memory, 0) }?;
        Ok((buffer, memory))
    }

    /// Records a transfer of the buffer from one queue family to another.
    fn transfer(&self, commands: vk::CommandBuffer, buffer: vk::Buffer, (from, to): (u32, u32)) {
        let all = vk::AccessFlags::TRANSFER_READ | vk::AccessFlags::TRANSFER_WRITE;
        let barrier = [vk::BufferMemoryBarrier::default()
            .buffer(buffer)
            .size(vk::WHOLE_SIZE)
            .src_access_mask(all)
            .dst_access_mask(all)
            .src_queue_family_index(from)
            .dst_queue_family_index(to)];
        let stage = vk::PipelineStageFlags::TRANSFER;
        let flags = vk::DependencyFlags::empty();
        // SAFETY: being recorded; the buffer is live.
        unsafe {
            self.device.cmd_pipeline_barrier(commands, stage, stage, flags, &[], &barrier, &[]);
        }
    }

    /// Records commands, submits them and waits for them.
    fn run(&self, record: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Outcome<()> {
        let raw = &self.device;
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(self.family);
        // SAFETY: the family exists.
        let pool = unsafe { raw.create_command_pool(&info, None) }?;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(pool)
            .level(vk::CommandBufferLevel::PRIMARY)
            .command_buffer_count(1);
        // SAFETY: the pool is live.
        let commands = unsafe { raw.allocate_command_buffers(&info) }?;
        // SAFETY: new.
        unsafe { raw.begin_command_buffer(commands[0], &vk::CommandBufferBeginInfo::default()) }?;
        record(raw, commands[0]);
        // SAFETY: begun above.
        unsafe { raw.end_command_buffer(commands[0]) }?;
        // SAFETY: nothing is required.
        let fence = unsafe { raw.create_fence(&vk::FenceCreateInfo::default(), None) }?;
        let info = [vk::SubmitInfo::default().command_buffers(&commands)];
        // SAFETY: the command buffer is executable; the queue is this thread's alone.
        unsafe { raw.queue_submit(self.queue, &info, fence) }?;
        // SAFETY: the fence is live.
        Ok(unsafe { raw.wait_for_fences(&[fence], true, 10_000_000_000) }?)
    }
}
