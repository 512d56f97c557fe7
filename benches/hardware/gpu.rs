//! Vulkan by hand: devices of the steps' own, where the engine hides what is measured.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ash::{khr, vk};
use peerbuf::{Adapter, Device, Engine, EngineDescriptor};

pub(crate) type Result<T> = std::result::Result<T, vk::Result>;

/// `spin.wgsl`, compiled.
const SPIN: &[u8] = include_bytes!("spin.spv");

/// The adapters of this machine that can be opened, and an engine that keeps their instance alive.
pub(crate) struct Machine {
    pub(crate) engine: Engine,
    pub(crate) devices: Vec<Device>,
}

impl Machine {
    /// It is never dropped: the devices by hand use its instance until the process ends.
    pub(crate) fn open(descriptor: &EngineDescriptor) -> peerbuf::Result<&'static Self> {
        let engine = Engine::open(descriptor)?;
        let usable = engine.adapters().iter().filter(|adapter| adapter.why_unusable().is_none());
        let devices = usable.filter_map(|adapter| engine.open_device(adapter).ok()).collect();
        Ok(Box::leak(Box::new(Self { engine, devices })))
    }

    /// All ordered pairs of devices, by position; each device with itself, too.
    pub(crate) fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.devices.len();
        (0..count).flat_map(|from| (0..count).map(move |to| (from, to))).collect()
    }
}

/// What a device is called in the results.
pub(crate) fn label(index: usize, adapter: &Adapter) -> String {
    format!("{index} {}", adapter.name())
}

pub(crate) fn is_cpu(device: &Device) -> bool {
    device.adapter().kind() == peerbuf::device::AdapterKind::Cpu
}

/// A `VkDevice` of a step's own, on the adapter of an opened device. It is never destroyed: its process ends.
pub(crate) struct Gpu {
    pub(crate) raw: ash::Device,
    pub(crate) queue: vk::Queue,
    pub(crate) fds: khr::external_memory_fd::Device,
    pub(crate) semaphores: khr::external_semaphore_fd::Device,
    pub(crate) hosts: ash::ext::external_memory_host::Device,
    pub(crate) types: Vec<vk::MemoryType>,
    pub(crate) heaps: Vec<vk::MemoryHeap>,
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    pool: vk::CommandPool,
    has_budget: bool,
}

/// Memory and the buffer that is bound to it.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) buffer: vk::Buffer,
    pub(crate) memory: vk::DeviceMemory,
    pub(crate) size: u64,
}

/// Where memory comes from.
pub(crate) enum From<'a> {
    /// New memory, exportable as these types.
    New(vk::ExternalMemoryHandleTypeFlags),
    /// An fd, which the call consumes if it succeeds.
    Fd(vk::ExternalMemoryHandleTypeFlags, OwnedFd),
    Host(&'a [u8]),
}

impl Gpu {
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let adapter = device.adapter();
        let instance = device.raw_instance().clone();
        let physical = adapter.physical();
        let family = device.queue_family();
        let extensions: Vec<_> =
            adapter.device_extensions().iter().map(|name| name.as_ptr()).collect();
        let priorities = [1.0];
        let queues = [vk::DeviceQueueCreateInfo::default()
            .queue_family_index(family)
            .queue_priorities(&priorities)];
        let mut timeline =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .push_next(&mut timeline);
        // SAFETY: the extensions and the feature are those of the adapter, which the engine has opened so. The queue is
        // one of those that are made.
        let (raw, queue) = unsafe {
            let raw = instance.create_device(physical, &info, None)?;
            let queue = raw.get_device_queue(family, 0);
            (raw, queue)
        };
        Self::wrap(device, raw, queue)
    }

    /// The engine's own device. Submissions need its lock ([`Device::with_queue`]).
    pub(crate) fn of(device: &Device) -> Result<Self> {
        Self::wrap(device, device.raw().clone(), device.with_queue(|queue| queue))
    }

    fn wrap(device: &Device, raw: ash::Device, queue: vk::Queue) -> Result<Self> {
        let (instance, physical) = (device.raw_instance().clone(), device.adapter().physical());
        let pool = vk::CommandPoolCreateInfo::default().queue_family_index(device.queue_family());
        // SAFETY: device and adapter are live, and the family is that of the queue.
        let (pool, memory) = unsafe {
            let memory = instance.get_physical_device_memory_properties(physical);
            (raw.create_command_pool(&pool, None)?, memory)
        };
        Ok(Self {
            queue,
            pool,
            fds: khr::external_memory_fd::Device::new(&instance, &raw),
            semaphores: khr::external_semaphore_fd::Device::new(&instance, &raw),
            hosts: ash::ext::external_memory_host::Device::new(&instance, &raw),
            types: memory.memory_types_as_slice().to_vec(),
            heaps: memory.memory_heaps_as_slice().to_vec(),
            has_budget: device
                .adapter()
                .device_extensions()
                .contains(&ash::ext::memory_budget::NAME),
            raw,
            instance,
            physical,
        })
    }

    /// Budget and usage of each heap as the driver reports them.
    pub(crate) fn budget(&self) -> Vec<(u64, u64)> {
        if !self.has_budget {
            return vec![];
        }
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: the adapter has VK_EXT_memory_budget.
        unsafe { self.instance.get_physical_device_memory_properties2(self.physical, &mut all) };
        (0..self.heaps.len())
            .map(|heap| (budget.heap_budget[heap], budget.heap_usage[heap]))
            .collect()
    }

    /// A buffer with memory of the first type that has `wanted`, among those that buffer and source allow.
    pub(crate) fn piece(
        &self,
        size: u64,
        wanted: vk::MemoryPropertyFlags,
        from: From<'_>,
    ) -> Result<Piece> {
        type Kind = vk::ExternalMemoryHandleTypeFlags;
        let handle = match &from {
            From::New(kind) | From::Fd(kind, _) => *kind,
            From::Host(_) => Kind::HOST_ALLOCATION_EXT,
        };
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(handle);
        let mut info = vk::BufferCreateInfo::default().size(size).usage(
            vk::BufferUsageFlags::TRANSFER_SRC
                | vk::BufferUsageFlags::TRANSFER_DST
                | vk::BufferUsageFlags::STORAGE_BUFFER,
        );
        if !handle.is_empty() {
            info = info.push_next(&mut external);
        }
        // SAFETY: the structures are complete.
        let (buffer, needs) = unsafe {
            let buffer = self.raw.create_buffer(&info, None)?;
            (buffer, self.raw.get_buffer_memory_requirements(buffer))
        };
        let mut allowed = needs.memory_type_bits;
        let mut bytes = needs.size;
        match &from {
            From::Fd(kind, fd) if *kind == Kind::DMA_BUF_EXT => {
                let mut of = vk::MemoryFdPropertiesKHR::default();
                let raw = std::os::fd::AsRawFd::as_raw_fd(fd);
                // SAFETY: the fd is a live dma-buf.
                unsafe { self.fds.get_memory_fd_properties(*kind, raw, &mut of)? };
                allowed &= of.memory_type_bits;
            }
            From::Host(host) => {
                let mut of = vk::MemoryHostPointerPropertiesEXT::default();
                // SAFETY: the memory is mapped for as long as the process lives.
                unsafe {
                    let get = self.hosts.fp().get_memory_host_pointer_properties_ext;
                    get(self.raw.handle(), handle, host.as_ptr().cast(), &mut of).result()?;
                }
                allowed &= of.memory_type_bits;
                bytes = host.len() as u64;
            }
            _ => {}
        }
        let fits = |(at, kind): &(usize, &vk::MemoryType)| {
            allowed & (1 << at) != 0 && kind.property_flags.contains(wanted)
        };
        let index = self.types.iter().enumerate().find(fits).map(|(at, _)| at as u32);
        let index = index.ok_or(vk::Result::ERROR_FEATURE_NOT_PRESENT)?;
        let allocate =
            vk::MemoryAllocateInfo::default().allocation_size(bytes).memory_type_index(index);
        let memory = match from {
            From::New(kind) => {
                let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(kind);
                let info = if kind.is_empty() { allocate } else { allocate.push_next(&mut export) };
                // SAFETY: the chain is complete, the type is one that the buffer allows.
                unsafe { self.raw.allocate_memory(&info, None)? }
            }
            From::Fd(kind, fd) => {
                let raw = fd.into_raw_fd();
                let mut import = vk::ImportMemoryFdInfoKHR::default().handle_type(kind).fd(raw);
                // SAFETY: as above; the fd is the driver's if the call succeeds. If it fails it leaks, since
                // drivers differ about whose it is then.
                unsafe { self.raw.allocate_memory(&allocate.push_next(&mut import), None)? }
            }
            From::Host(host) => {
                let mut import = vk::ImportMemoryHostPointerInfoEXT::default()
                    .handle_type(handle)
                    .host_pointer(host.as_ptr().cast_mut().cast());
                // SAFETY: as above; pointer and size are those of a mapping of whole pages.
                unsafe { self.raw.allocate_memory(&allocate.push_next(&mut import), None)? }
            }
        };
        // SAFETY: buffer and memory are new, and the type fits.
        unsafe { self.raw.bind_buffer_memory(buffer, memory, 0)? };
        Ok(Piece { buffer, memory, size })
    }

    pub(crate) fn free(&self, piece: Piece) {
        // SAFETY: every submission of a step is waited for before it frees what that used.
        unsafe {
            self.raw.destroy_buffer(piece.buffer, None);
            self.raw.free_memory(piece.memory, None);
        }
    }

    pub(crate) fn export(
        &self,
        piece: &Piece,
        kind: vk::ExternalMemoryHandleTypeFlags,
    ) -> Result<OwnedFd> {
        let info = vk::MemoryGetFdInfoKHR::default().memory(piece.memory).handle_type(kind);
        // SAFETY: the memory was allocated for export as this type; the fd is ours.
        unsafe {
            let fd = self.fds.get_memory_fd(&info)?;
            if fd < 0 {
                return Err(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE);
            }
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }

    /// A host-visible buffer and the address of its bytes.
    pub(crate) fn visible(&self, size: u64) -> Result<(Piece, *mut u32)> {
        let flags = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let piece =
            self.piece(size, flags, From::New(vk::ExternalMemoryHandleTypeFlags::empty()))?;
        // SAFETY: the memory is host-visible and not mapped yet.
        let at = unsafe {
            self.raw.map_memory(piece.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())?
        };
        Ok((piece, at.cast()))
    }

    /// Records commands.
    pub(crate) fn record(
        &self,
        record: impl FnOnce(vk::CommandBuffer),
    ) -> Result<vk::CommandBuffer> {
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .command_buffer_count(1);
        // SAFETY: one thread uses the pool; `record` records commands of this device.
        unsafe {
            let commands = self.raw.allocate_command_buffers(&info)?[0];
            self.raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default())?;
            record(commands);
            self.raw.end_command_buffer(commands)?;
            Ok(commands)
        }
    }

    /// Submits, and returns the fence.
    pub(crate) fn submit(&self, info: vk::SubmitInfo<'_>) -> Result<vk::Fence> {
        // SAFETY: one thread uses the queue; the commands are recorded and not pending.
        unsafe {
            let fence = self.raw.create_fence(&vk::FenceCreateInfo::default(), None)?;
            self.raw.queue_submit(self.queue, &[info], fence)?;
            Ok(fence)
        }
    }

    pub(crate) fn wait(&self, fence: vk::Fence, bound: Duration) -> Result<()> {
        // SAFETY: the fence is live.
        unsafe { self.raw.wait_for_fences(&[fence], true, bound.as_nanos() as u64) }
    }

    /// Records, submits and waits; returns how long the last two took.
    pub(crate) fn run(&self, record: impl FnOnce(vk::CommandBuffer)) -> Result<Duration> {
        let commands = [self.record(record)?];
        let begin = Instant::now();
        let fence = self.submit(vk::SubmitInfo::default().command_buffers(&commands))?;
        self.wait(fence, Duration::from_secs(20))?;
        Ok(begin.elapsed())
    }

    pub(crate) fn fill(&self, piece: &Piece, word: u32) -> Result<Duration> {
        // SAFETY: the buffer is live until the wait in `run` has returned.
        self.run(|commands| unsafe {
            self.raw.cmd_fill_buffer(commands, piece.buffer, 0, vk::WHOLE_SIZE, word);
        })
    }

    pub(crate) fn copy(&self, from: &Piece, to: &Piece) -> Result<Duration> {
        let region = [vk::BufferCopy::default().size(from.size.min(to.size))];
        // SAFETY: as in `fill`.
        self.run(|commands| unsafe {
            self.raw.cmd_copy_buffer(commands, from.buffer, to.buffer, &region);
            // So that the host sees it.
            let barrier = [vk::MemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
                .dst_access_mask(vk::AccessFlags::HOST_READ)];
            self.raw.cmd_pipeline_barrier(
                commands,
                vk::PipelineStageFlags::TRANSFER,
                vk::PipelineStageFlags::HOST,
                vk::DependencyFlags::empty(),
                &barrier,
                &[],
                &[],
            );
        })
    }

    /// How many words of a buffer are not `word`, read through a copy to host memory.
    pub(crate) fn wrong_words(&self, piece: &Piece, word: u32) -> Result<u64> {
        let (seen, at) = self.visible(piece.size)?;
        self.copy(piece, &seen)?;
        // SAFETY: the mapping has so many words, and the copy has ended.
        let wrong = (0..piece.size as usize / 4)
            .filter(|&nth| unsafe { at.add(nth).read_volatile() } != word)
            .count();
        self.free(seen);
        Ok(wrong as u64)
    }

    /// Commands that dispatch `spin.wgsl` with a limit of rounds; 0 never ends.
    pub(crate) fn spin(&self, limit: u32) -> Result<vk::CommandBuffer> {
        let (control, at) = self.visible(256)?;
        // SAFETY: the mapping has 64 words.
        unsafe { at.write_volatile(limit) };
        let words: Vec<u32> =
            SPIN.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let binding = [vk::DescriptorSetLayoutBinding::default()
            .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(1)
            .stage_flags(vk::ShaderStageFlags::COMPUTE)];
        let sizes = [vk::DescriptorPoolSize::default()
            .ty(vk::DescriptorType::STORAGE_BUFFER)
            .descriptor_count(1)];
        let raw = &self.raw;
        // SAFETY: complete structures of live objects; what is made lives as long as the process.
        unsafe {
            let info = vk::ShaderModuleCreateInfo::default().code(&words);
            let module = raw.create_shader_module(&info, None)?;
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&binding);
            let layouts = [raw.create_descriptor_set_layout(&info, None)?];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&layouts);
            let layout = raw.create_pipeline_layout(&info, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let info = [vk::ComputePipelineCreateInfo::default().layout(layout).stage(stage)];
            let pipeline = raw
                .create_compute_pipelines(vk::PipelineCache::null(), &info, None)
                .map_err(|(_, code)| code)?[0];
            let info = vk::DescriptorPoolCreateInfo::default().max_sets(1).pool_sizes(&sizes);
            let pool = raw.create_descriptor_pool(&info, None)?;
            let info = vk::DescriptorSetAllocateInfo::default()
                .descriptor_pool(pool)
                .set_layouts(&layouts);
            let sets = raw.allocate_descriptor_sets(&info)?;
            let buffers =
                [vk::DescriptorBufferInfo::default().buffer(control.buffer).range(vk::WHOLE_SIZE)];
            let write = vk::WriteDescriptorSet::default()
                .dst_set(sets[0])
                .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                .buffer_info(&buffers);
            raw.update_descriptor_sets(&[write], &[]);
            self.record(|commands| {
                raw.cmd_bind_pipeline(commands, vk::PipelineBindPoint::COMPUTE, pipeline);
                let point = vk::PipelineBindPoint::COMPUTE;
                raw.cmd_bind_descriptor_sets(commands, point, layout, 0, &sets, &[]);
                raw.cmd_dispatch(commands, 1, 1, 1);
            })
        }
    }

    /// Rounds of the spin shader that take about `time`; measured with short ones.
    pub(crate) fn rounds(&self, time: Duration) -> Result<u32> {
        let mut rounds = 1 << 16;
        loop {
            let commands = [self.spin(rounds)?];
            let begin = Instant::now();
            let fence = self.submit(vk::SubmitInfo::default().command_buffers(&commands))?;
            self.wait(fence, Duration::from_secs(20))?;
            let took = begin.elapsed();
            if took > Duration::from_millis(200) || rounds >= 1 << 30 {
                let wanted = f64::from(rounds) * time.as_secs_f64() / took.as_secs_f64();
                return Ok(wanted.clamp(1.0, f64::from(u32::MAX)) as u32);
            }
            rounds *= 2;
        }
    }

    pub(crate) fn semaphore(
        &self,
        timeline: bool,
        export: vk::ExternalSemaphoreHandleTypeFlags,
    ) -> Result<vk::Semaphore> {
        let mut exported = vk::ExportSemaphoreCreateInfo::default().handle_types(export);
        let kind = if timeline { vk::SemaphoreType::TIMELINE } else { vk::SemaphoreType::BINARY };
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(kind);
        let mut info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        if !export.is_empty() {
            info = info.push_next(&mut exported);
        }
        // SAFETY: the structures are complete; the device has the extension if it is asked to export.
        unsafe { self.raw.create_semaphore(&info, None) }
    }
}
