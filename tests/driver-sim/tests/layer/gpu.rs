//! A device opened with plain `ash`, and the little that the tests do with it.
//!
//! `expect` is a test's failure.
#![expect(dead_code, reason = "each test uses its own part")]

use std::ffi::{CStr, c_char};

use ash::vk;

/// How long a wait that ends may take, in milliseconds. It is no measure of the work: the machine may be busy.
pub(crate) const PATIENT: u64 = 600_000;

/// An instance. It is not destroyed: its devices are not either, and drivers do not bear the one without the other.
pub(crate) struct World {
    pub(crate) entry: ash::Entry,
    pub(crate) instance: ash::Instance,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::try_new().expect("an instance")
    }

    pub(crate) fn try_new() -> Result<Self, vk::Result> {
        // SAFETY: the loader is a system library.
        let entry = unsafe { ash::Entry::load() }.expect("a Vulkan loader");
        let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&app);
        // SAFETY: the structures are complete.
        let instance = unsafe { entry.create_instance(&info, None) }?;
        Ok(Self { entry, instance })
    }

    pub(crate) fn devices(&self) -> Vec<vk::PhysicalDevice> {
        self.try_devices().expect("devices")
    }

    pub(crate) fn try_devices(&self) -> Result<Vec<vk::PhysicalDevice>, vk::Result> {
        // SAFETY: the instance is alive.
        unsafe { self.instance.enumerate_physical_devices() }
    }

    /// The first device whose name has this part.
    pub(crate) fn find(&self, part: &str) -> vk::PhysicalDevice {
        let all = self.devices();
        *all.iter()
            .find(|device| self.name(**device).contains(part))
            .unwrap_or_else(|| panic!("no {part}"))
    }

    pub(crate) fn name(&self, device: vk::PhysicalDevice) -> String {
        let name = self.properties(device).device_name;
        let bytes: Vec<u8> = name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
        String::from_utf8(bytes).expect("a name is text")
    }

    pub(crate) fn properties(&self, device: vk::PhysicalDevice) -> vk::PhysicalDeviceProperties {
        // SAFETY: a device of this instance.
        unsafe { self.instance.get_physical_device_properties(device) }
    }

    pub(crate) fn uuid(&self, device: vk::PhysicalDevice) -> [u8; 16] {
        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut id);
        // SAFETY: a device of this instance, of Vulkan 1.1.
        unsafe { self.instance.get_physical_device_properties2(device, &mut all) };
        id.device_uuid
    }

    pub(crate) fn memory(&self, device: vk::PhysicalDevice) -> vk::PhysicalDeviceMemoryProperties {
        // SAFETY: a device of this instance.
        unsafe { self.instance.get_physical_device_memory_properties(device) }
    }

    pub(crate) fn extensions(&self, device: vk::PhysicalDevice) -> Result<Vec<String>, vk::Result> {
        // SAFETY: a device of this instance.
        let all = unsafe { self.instance.enumerate_device_extension_properties(device) }?;
        let text = |e: &vk::ExtensionProperties| {
            e.extension_name_as_c_str().expect("a name").to_string_lossy().into_owned()
        };
        Ok(all.iter().map(text).collect())
    }

    pub(crate) fn open(&self, physical: vk::PhysicalDevice) -> Gpu<'_> {
        self.try_open(physical).expect("a device")
    }

    pub(crate) fn try_open(&self, physical: vk::PhysicalDevice) -> Result<Gpu<'_>, vk::Result> {
        let wanted: [&CStr; 5] = [
            vk::KHR_EXTERNAL_MEMORY_FD_NAME,
            vk::EXT_EXTERNAL_MEMORY_HOST_NAME,
            vk::KHR_EXTERNAL_SEMAPHORE_FD_NAME,
            vk::EXT_EXTERNAL_MEMORY_DMA_BUF_NAME,
            vk::EXT_IMAGE_DRM_FORMAT_MODIFIER_NAME,
        ];
        let there = self.extensions(physical)?;
        let names: Vec<*const c_char> = wanted
            .iter()
            .filter(|name| there.iter().any(|there| there.as_bytes() == name.to_bytes()))
            .map(|name| name.as_ptr())
            .collect();
        // SAFETY: a device of this instance.
        let families =
            unsafe { self.instance.get_physical_device_queue_family_properties(physical) };
        let priorities: Vec<Vec<f32>> =
            families.iter().map(|family| vec![1.0; family.queue_count as usize]).collect();
        let queues: Vec<_> = (0..)
            .zip(&priorities)
            .map(|(family, priorities)| {
                vk::DeviceQueueCreateInfo::default()
                    .queue_family_index(family)
                    .queue_priorities(priorities)
            })
            .collect();
        let mut timelines =
            vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .push_next(&mut timelines);
        // SAFETY: the structures are complete, and the extensions are there.
        let raw = unsafe { self.instance.create_device(physical, &info, None) }?;
        let find = |flags: vk::QueueFlags| {
            let fits =
                families.iter().zip(0..).find(|(family, _)| family.queue_flags.contains(flags));
            fits.map_or(0, |(_, family)| family)
        };
        Ok(Gpu { world: self, physical, raw, family: find(vk::QueueFlags::COMPUTE) })
    }
}

/// A logical device. Objects are not destroyed one by one: the child process ends.
pub(crate) struct Gpu<'w> {
    pub(crate) world: &'w World,
    pub(crate) physical: vk::PhysicalDevice,
    pub(crate) raw: ash::Device,
    /// A family that computes.
    pub(crate) family: u32,
}

/// Memory with a buffer on all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) memory: vk::DeviceMemory,
    pub(crate) buffer: vk::Buffer,
    pub(crate) size: u64,
}

const OPAQUE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::OPAQUE_FD;

impl Gpu<'_> {
    pub(crate) fn queue(&self) -> vk::Queue {
        // SAFETY: the device was made with all queues.
        unsafe { self.raw.get_device_queue(self.family, 0) }
    }

    /// A memory type that has the flags.
    pub(crate) fn kind(&self, flags: vk::MemoryPropertyFlags) -> u32 {
        let memory = self.world.memory(self.physical);
        let fits = memory
            .memory_types_as_slice()
            .iter()
            .zip(0..)
            .find(|(kind, _)| kind.property_flags.contains(flags));
        fits.unwrap_or_else(|| panic!("no type with {flags:?}")).1
    }

    pub(crate) fn allocate(&self, size: u64, kind: u32) -> Result<vk::DeviceMemory, vk::Result> {
        let info = vk::MemoryAllocateInfo::default().allocation_size(size).memory_type_index(kind);
        // SAFETY: the structure is complete.
        unsafe { self.raw.allocate_memory(&info, None) }
    }

    pub(crate) fn free(&self, memory: vk::DeviceMemory) {
        // SAFETY: the memory is in no use.
        unsafe { self.raw.free_memory(memory, None) };
    }

    fn buffer(&self, size: u64, handle: Option<vk::ExternalMemoryHandleTypeFlags>) -> vk::Buffer {
        let mut external = vk::ExternalMemoryBufferCreateInfo::default();
        let mut info = vk::BufferCreateInfo::default()
            .size(size)
            .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST);
        if let Some(handle) = handle {
            external.handle_types = handle;
            info = info.push_next(&mut external);
        }
        // SAFETY: the structures are complete.
        unsafe { self.raw.create_buffer(&info, None) }.expect("a buffer")
    }

    fn bind(&self, buffer: vk::Buffer, memory: vk::DeviceMemory, size: u64) -> Block {
        // SAFETY: memory of the buffer's size.
        unsafe { self.raw.bind_buffer_memory(buffer, memory, 0) }.expect("memory is bound");
        Block { memory, buffer, size }
    }

    pub(crate) fn block(&self, size: u64) -> Block {
        let kind = self.kind(vk::MemoryPropertyFlags::HOST_VISIBLE);
        self.bind(self.buffer(size, None), self.allocate(size, kind).expect("memory"), size)
    }

    /// A block that can be exported as `OPAQUE_FD`, and its fd.
    pub(crate) fn exported(&self, size: u64) -> (Block, i32) {
        let buffer = self.buffer(size, Some(OPAQUE));
        let mut export = vk::ExportMemoryAllocateInfo::default().handle_types(OPAQUE);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(self.kind(vk::MemoryPropertyFlags::HOST_VISIBLE))
            .push_next(&mut export);
        // SAFETY: the structures are complete.
        let memory = unsafe { self.raw.allocate_memory(&info, None) }.expect("exportable memory");
        let fds = ash::khr::external_memory_fd::Device::new(&self.world.instance, &self.raw);
        let get = vk::MemoryGetFdInfoKHR::default().memory(memory).handle_type(OPAQUE);
        // SAFETY: the memory is exportable.
        let fd = unsafe { fds.get_memory_fd(&get) }.expect("an fd");
        (self.bind(buffer, memory, size), fd)
    }

    /// Imports an `OPAQUE_FD` of the same driver.
    pub(crate) fn import(&self, fd: i32, size: u64) -> Result<Block, vk::Result> {
        let buffer = self.buffer(size, Some(OPAQUE));
        let mut import = vk::ImportMemoryFdInfoKHR::default().handle_type(OPAQUE).fd(fd);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(self.kind(vk::MemoryPropertyFlags::HOST_VISIBLE))
            .push_next(&mut import);
        // SAFETY: an fd of the same driver.
        let memory = unsafe { self.raw.allocate_memory(&info, None) }?;
        Ok(self.bind(buffer, memory, size))
    }

    pub(crate) fn import_host(
        &self,
        pointer: *mut std::ffi::c_void,
        size: u64,
    ) -> Result<vk::DeviceMemory, vk::Result> {
        let handle = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
        let mut import =
            vk::ImportMemoryHostPointerInfoEXT::default().handle_type(handle).host_pointer(pointer);
        let info = vk::MemoryAllocateInfo::default()
            .allocation_size(size)
            .memory_type_index(self.kind(vk::MemoryPropertyFlags::HOST_VISIBLE))
            .push_next(&mut import);
        // SAFETY: the pages outlive the child's use of them.
        unsafe { self.raw.allocate_memory(&info, None) }
    }

    pub(crate) fn map(&self, block: Block) -> Result<*mut u32, vk::Result> {
        let flags = vk::MemoryMapFlags::empty();
        // SAFETY: host-visible memory that is not mapped.
        let at = unsafe { self.raw.map_memory(block.memory, 0, vk::WHOLE_SIZE, flags) }?;
        Ok(at.cast())
    }

    pub(crate) fn unmap(&self, block: Block) {
        // SAFETY: mapped before.
        unsafe { self.raw.unmap_memory(block.memory) };
    }

    /// The first word, as the host sees it in a fresh mapping.
    pub(crate) fn first_word(&self, block: Block) -> u32 {
        let at = self.map(block).expect("a mapping");
        // SAFETY: mapped memory of at least a word.
        let word = unsafe { at.read_volatile() };
        self.unmap(block);
        word
    }

    pub(crate) fn timeline(&self) -> vk::Semaphore {
        self.try_timeline(false).expect("a timeline")
    }

    pub(crate) fn try_timeline(&self, exportable: bool) -> Result<vk::Semaphore, vk::Result> {
        let handle = vk::ExternalSemaphoreHandleTypeFlags::OPAQUE_FD;
        let mut export = vk::ExportSemaphoreCreateInfo::default().handle_types(handle);
        let mut kind =
            vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let mut info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        if exportable {
            info = info.push_next(&mut export);
        }
        // SAFETY: the structures are complete.
        unsafe { self.raw.create_semaphore(&info, None) }
    }

    pub(crate) fn wait(
        &self,
        timeline: vk::Semaphore,
        value: u64,
        milliseconds: u64,
    ) -> Result<(), vk::Result> {
        let (semaphores, values) = ([timeline], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        // SAFETY: a timeline of this device.
        unsafe { self.raw.wait_semaphores(&info, milliseconds * 1_000_000) }
    }

    /// Records commands for a family.
    pub(crate) fn record(
        &self,
        family: u32,
        record: impl FnOnce(vk::CommandBuffer),
    ) -> vk::CommandBuffer {
        let pool = vk::CommandPoolCreateInfo::default().queue_family_index(family);
        // SAFETY: the structures are complete, and the buffer is used once.
        unsafe {
            let pool = self.raw.create_command_pool(&pool, None).expect("a pool");
            let info =
                vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
            let commands = self.raw.allocate_command_buffers(&info).expect("a command buffer")[0];
            self.raw
                .begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default())
                .expect("begun");
            record(commands);
            self.raw.end_command_buffer(commands).expect("recorded");
            commands
        }
    }

    pub(crate) fn filling(&self, block: Block, word: u32) -> vk::CommandBuffer {
        self.record(self.family, |commands| {
            // SAFETY: the buffer is alive while the commands run.
            unsafe { self.raw.cmd_fill_buffer(commands, block.buffer, 0, block.size, word) };
        })
    }

    /// Submits commands that wait for and signal points of timelines.
    pub(crate) fn submit(
        &self,
        queue: vk::Queue,
        commands: &[vk::CommandBuffer],
        wait: Option<(vk::Semaphore, u64)>,
        signal: Option<(vk::Semaphore, u64)>,
    ) -> Result<(), vk::Result> {
        let split =
            |point: Option<(vk::Semaphore, u64)>| -> (Vec<_>, Vec<_>) { point.into_iter().unzip() };
        let ((waits, wait_values), (signals, signal_values)) = (split(wait), split(signal));
        let mut timelines = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&wait_values)
            .signal_semaphore_values(&signal_values);
        let stages = [vk::PipelineStageFlags::ALL_COMMANDS];
        let info = vk::SubmitInfo::default()
            .command_buffers(commands)
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages[..waits.len()])
            .signal_semaphores(&signals)
            .push_next(&mut timelines);
        // SAFETY: the objects are alive until the child ends.
        unsafe { self.raw.queue_submit(queue, &[info], vk::Fence::null()) }
    }

    /// An empty submission, waited for.
    pub(crate) fn ping(&self) -> Result<(), vk::Result> {
        let timeline = self.timeline();
        self.submit(self.queue(), &[], None, Some((timeline, 1)))?;
        self.wait(timeline, 1, PATIENT)
    }

    /// Fills the block with the device, and waits.
    pub(crate) fn fill(&self, block: Block, word: u32) -> Result<(), vk::Result> {
        let timeline = self.timeline();
        self.submit(self.queue(), &[self.filling(block, word)], None, Some((timeline, 1)))?;
        self.wait(timeline, 1, PATIENT)
    }

    /// Copies a block with a family's queue, and waits.
    pub(crate) fn copy(&self, family: u32, from: Block, to: Block) {
        let commands = self.record(family, |commands| {
            let region = vk::BufferCopy::default().size(from.size.min(to.size));
            // SAFETY: the buffers are alive while the commands run.
            unsafe { self.raw.cmd_copy_buffer(commands, from.buffer, to.buffer, &[region]) };
        });
        // SAFETY: the device was made with all queues.
        let queue = unsafe { self.raw.get_device_queue(family, 0) };
        let timeline = self.timeline();
        self.submit(queue, &[commands], None, Some((timeline, 1))).expect("the copy is submitted");
        self.wait(timeline, 1, PATIENT).expect("the copy ends");
    }
}
