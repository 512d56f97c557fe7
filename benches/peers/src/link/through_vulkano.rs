//! vulkano: memory that its API exports and imports, and a command buffer that it tracks.
#![expect(unsafe_code, reason = "an import of what another device has exported")]

use std::sync::Arc;

use vulkano::VulkanLibrary;
use vulkano::buffer::{Buffer, BufferCreateInfo, BufferUsage, RawBuffer, Subbuffer};
use vulkano::command_buffer::allocator::StandardCommandBufferAllocator;
use vulkano::command_buffer::{
    AutoCommandBufferBuilder, CommandBufferUsage, CopyBufferInfo, PrimaryAutoCommandBuffer,
    PrimaryCommandBufferAbstract,
};
use vulkano::device::{Device, DeviceCreateInfo, DeviceExtensions, Queue, QueueCreateInfo};
use vulkano::instance::{Instance, InstanceCreateInfo};
use vulkano::memory::allocator::{AllocationCreateInfo, MemoryTypeFilter, StandardMemoryAllocator};
use vulkano::memory::{
    DeviceMemory, ExternalMemoryHandleType, MemoryAllocateInfo, MemoryImportInfo,
    MemoryPropertyFlags, ResourceMemory,
};
use vulkano::sync::GpuFuture;

use super::{Pair, Peer, fill, verify};
use crate::Outcome;

pub(super) struct Vulkano {
    far: Side,
    commands: Arc<PrimaryAutoCommandBuffer>,
    size: u64,
    target: Subbuffer<[u8]>,
    _source: Subbuffer<[u8]>,
}

struct Side {
    device: Arc<Device>,
    queue: Arc<Queue>,
    commands: Arc<StandardCommandBufferAllocator>,
}

impl Vulkano {
    pub(super) fn new(pair: &Pair, size: u64) -> Outcome<Self> {
        let handle = match pair.handle {
            peerbuf::HandleType::DmaBuf => ExternalMemoryHandleType::DmaBuf,
            _ => ExternalMemoryHandleType::OpaqueFd,
        };
        let (near, far) = (Side::open(pair.near.adapter())?, Side::open(pair.far.adapter())?);
        let exported = near.memory(size, handle, None)?;
        let file = exported.export_fd(handle)?;
        let source = near.bind(size, handle, exported)?;
        let seen = far.memory(size, handle, Some(file))?;
        let seen = far.bind(size, handle, seen)?;
        let target = far.memory(size, handle, None)?;
        let target = far.bind(size, handle, target)?;
        let staging = near.staging(size)?;
        fill(&mut staging.write()?);
        near.run(near.copy(&staging, &source)?)?;
        let commands = far.copy(&seen, &target)?;
        Ok(Self { far, commands, size, target, _source: source })
    }
}

impl Peer for Vulkano {
    fn copy(&mut self) -> Outcome<()> {
        self.far.run(Arc::clone(&self.commands))
    }

    fn check(&mut self) -> Outcome<()> {
        let staging = self.far.staging(self.size)?;
        self.far.run(self.far.copy(&self.target, &staging)?)?;
        let bytes = staging.read()?;
        verify(&bytes)
    }
}

impl Side {
    /// Opens the adapter that peerbuf calls by this name.
    fn open(adapter: &peerbuf::Adapter) -> Outcome<Self> {
        let library = VulkanLibrary::new()?;
        let instance = Instance::new(library, InstanceCreateInfo::default())?;
        let mut all = instance.enumerate_physical_devices()?;
        let found = all.find(|it| it.properties().device_name == adapter.name());
        let found = found.ok_or_else(|| format!("vulkano has no adapter {}", adapter.name()))?;
        let enabled_extensions = DeviceExtensions {
            khr_external_memory_fd: true,
            ext_external_memory_dma_buf: found.supported_extensions().ext_external_memory_dma_buf,
            ..DeviceExtensions::empty()
        };
        let info = DeviceCreateInfo {
            queue_create_infos: vec![QueueCreateInfo::default()],
            enabled_extensions,
            ..DeviceCreateInfo::default()
        };
        let (device, mut queues) = Device::new(found, info)?;
        let queue = queues.next().ok_or("no queue")?;
        let commands =
            Arc::new(StandardCommandBufferAllocator::new(device.clone(), Default::default()));
        Ok(Self { device, queue, commands })
    }

    fn raw_buffer(&self, size: u64, handle: ExternalMemoryHandleType) -> Outcome<RawBuffer> {
        let info = BufferCreateInfo {
            size,
            usage: BufferUsage::TRANSFER_SRC | BufferUsage::TRANSFER_DST,
            external_memory_handle_types: handle.into(),
            ..BufferCreateInfo::default()
        };
        Ok(RawBuffer::new(self.device.clone(), info)?)
    }

    /// Memory for such a buffer, that can be exported, or that of a file.
    fn memory(
        &self,
        size: u64,
        handle: ExternalMemoryHandleType,
        file: Option<std::fs::File>,
    ) -> Outcome<DeviceMemory> {
        let needs = *self.raw_buffer(size, handle)?.memory_requirements();
        let types = &self.device.physical_device().memory_properties().memory_types;
        let is_local = |index: &u32| {
            let flags = types[*index as usize].property_flags;
            flags.contains(MemoryPropertyFlags::DEVICE_LOCAL)
        };
        let mut allowed = (0..32).filter(|index| needs.memory_type_bits & (1 << index) != 0);
        let memory_type_index = allowed.find(is_local).ok_or("no memory of the device")?;
        let info = MemoryAllocateInfo {
            allocation_size: needs.layout.size(),
            memory_type_index,
            export_handle_types: if file.is_none() { handle.into() } else { Default::default() },
            ..MemoryAllocateInfo::default()
        };
        Ok(match file {
            // SAFETY: the file is of memory of the same size and type, which another device of this driver has exported
            // as this handle type.
            Some(file) => unsafe {
                let import = MemoryImportInfo::Fd { handle_type: handle, file };
                DeviceMemory::import(self.device.clone(), info, import)
            }?,
            None => DeviceMemory::allocate(self.device.clone(), info)?,
        })
    }

    fn bind(
        &self,
        size: u64,
        handle: ExternalMemoryHandleType,
        memory: DeviceMemory,
    ) -> Outcome<Subbuffer<[u8]>> {
        let buffer = self.raw_buffer(size, handle)?;
        let bound = buffer.bind_memory(ResourceMemory::new_dedicated(memory));
        Ok(Subbuffer::new(Arc::new(bound.map_err(|(error, ..)| error)?)))
    }

    /// Memory that the host maps.
    fn staging(&self, size: u64) -> Outcome<Subbuffer<[u8]>> {
        let allocator = Arc::new(StandardMemoryAllocator::new_default(self.device.clone()));
        let info = BufferCreateInfo {
            usage: BufferUsage::TRANSFER_SRC | BufferUsage::TRANSFER_DST,
            ..BufferCreateInfo::default()
        };
        let wanted = AllocationCreateInfo {
            memory_type_filter: MemoryTypeFilter::HOST_RANDOM_ACCESS,
            ..AllocationCreateInfo::default()
        };
        Ok(Buffer::new_slice(allocator, info, wanted, size)?)
    }

    /// Records a copy.
    fn copy(
        &self,
        from: &Subbuffer<[u8]>,
        to: &Subbuffer<[u8]>,
    ) -> Outcome<Arc<PrimaryAutoCommandBuffer>> {
        let mut builder = AutoCommandBufferBuilder::primary(
            self.commands.clone(),
            self.queue.queue_family_index(),
            CommandBufferUsage::MultipleSubmit,
        )?;
        builder.copy_buffer(CopyBufferInfo::buffers(from.clone(), to.clone()))?;
        Ok(builder.build()?)
    }

    /// Submits, and waits.
    fn run(&self, commands: Arc<PrimaryAutoCommandBuffer>) -> Outcome<()> {
        let done = commands.execute(self.queue.clone())?.then_signal_fence_and_flush()?;
        Ok(done.wait(Some(super::TIMEOUT))?)
    }
}
