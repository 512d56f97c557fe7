#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(unsafe_code, reason = "an application that calls Vulkan itself")]
//! An application lets peerbuf adopt its Vulkan device. It shares a buffer with another device, and writes
//! into the buffer with commands that it records itself.
//!
//! `cargo run --example adopt`
//!
//! `VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation` in the environment turns the validation layer on. It
//! reports errors on SwiftShader only, which imports host memory and reports that it cannot
//! (VUID-VkBufferCreateInfo-pNext-00920 and errors that follow from it).

use std::error::Error;
use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ash::vk;
use peerbuf::device::{QueueLock, instance_extensions};
use peerbuf::{
    Access, Adapter, AdoptedDevice, BufferDescriptor, CopyRegion, Device, Engine, EngineDescriptor,
    Fence, Mapping, Scope,
};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const SIZE: u64 = 1 << 20;
/// The value that the application's commands write into every word.
const WORD: u32 = 0xc0ff_ee00;
/// Timeout of the application's own wait.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    // The engine comes first: the application asks which extensions its device must enable.
    let engine = Engine::open(&EngineDescriptor::new())?;
    let adapter = engine.adapters().first().ok_or("no adapter")?;
    let app = Application::new(adapter)?;

    // The order of destruction: first everything that peerbuf created on the application's device. `share` drops
    // it when it returns, except for what the engine caches. Then the engine, then the device itself.
    let outcome = share(&engine, &app);
    drop(engine);
    app.destroy();
    outcome
}

fn share(engine: &Engine, app: &Application) -> Result<()> {
    // SAFETY: the handles belong together, and `main` destroys them after the engine. The device was
    // created with exactly these extensions, with timeline semaphores, and with this queue, which the
    // application uses under `app.lock` only.
    let ours = unsafe { engine.adopt_device(app.for_adoption()) }?;
    // Another adapter if there is one, otherwise a second device on the same adapter.
    let adapters = engine.adapters();
    let theirs = engine.open_device(adapters.get(1).unwrap_or(&adapters[0]))?;

    let buffer = engine.create_buffer(&ours, BufferDescriptor::new(SIZE).name("texture"))?;
    let our_attachment = buffer.attach(&ours)?;
    let _their_attachment = buffer.attach(&theirs)?;
    println!("{} shares {SIZE} bytes with {}", ours.name(), theirs.name());

    // The application writes with its own commands.
    let mapping = our_attachment.map(Access::Write)?;
    let written = app.fill(&ours, &mapping)?;
    println!("the application writes {WORD:#x} into every word");

    // The other device copies the bytes into a second buffer, which the host then reads.
    let copy = engine.create_buffer(&theirs, BufferDescriptor::new(SIZE).name("copy"))?;
    engine.copy(&buffer, &copy, CopyRegion::first(SIZE))?;
    let mut bytes = vec![0; usize::try_from(SIZE)?];
    let access = copy.host_access(Access::Read)?;
    access.read(0, &mut bytes)?;
    access.end()?;
    // The mapping and the application's command pool must live until the commands have finished.
    written.wait(TIMEOUT)?;
    drop(mapping);

    let words = bytes.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word));
    let wrong = words.filter(|word| *word != WORD).count();
    println!("{} read {} words, {wrong} wrong", theirs.name(), SIZE / 4);
    if wrong == 0 { Ok(()) } else { Err("the application's words did not arrive".into()) }
}

/// A program with Vulkan code of its own.
struct Application {
    entry: ash::Entry,
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    device: ash::Device,
    extensions: Vec<&'static CStr>,
    family: u32,
    queue: vk::Queue,
    lock: Arc<AppLock>,
    pool: vk::CommandPool,
}

/// The lock of the queue. Vulkan allows one thread at a time, so application and peerbuf share it.
#[derive(Default)]
struct AppLock(Mutex<()>);

impl QueueLock for AppLock {
    fn locked(&self, work: &mut dyn FnMut()) {
        let _guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work();
    }
}

impl Application {
    fn new(adapter: &Adapter) -> Result<Self> {
        // SAFETY: the system's Vulkan loader has sound initialisers.
        let entry = unsafe { ash::Entry::load() }?;
        let instance = create_instance(&entry)?;
        // SAFETY: the instance is live.
        let all = unsafe { instance.enumerate_physical_devices() }?;
        // Every instance of a process lists the same devices in the same order.
        let physical = *all.get(adapter.index()).ok_or("the adapter is no longer listed")?;
        let family = compute_family(&instance, physical).ok_or("no compute queue")?;
        // The extensions that peerbuf uses. A real application adds its own.
        let extensions = adapter.device_extensions().to_vec();
        let device = create_device(&instance, physical, family, &extensions)?;
        // SAFETY: the device was created with this queue.
        let queue = unsafe { device.get_device_queue(family, 0) };
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(family);
        // SAFETY: the device is live and has this family.
        let pool = unsafe { device.create_command_pool(&info, None) }?;
        let lock = Arc::default();
        Ok(Self { entry, instance, physical, device, extensions, family, queue, lock, pool })
    }

    /// Describes the device to peerbuf.
    fn for_adoption(&self) -> AdoptedDevice {
        AdoptedDevice::new(
            self.entry.clone(),
            self.instance.clone(),
            self.physical,
            self.device.clone(),
            self.extensions.clone(),
            self.family,
        )
        .queue_lock(self.lock.clone())
    }

    /// Fills the shared buffer with [`WORD`] and returns the fence of the commands. Does not wait: peerbuf adds
    /// the fence to the buffer, and the next reader waits for it.
    fn fill(&self, ours: &Device, mapping: &Mapping) -> Result<Fence> {
        // From here on no other work runs on the buffer, and it cannot move.
        let open = mapping.begin_access(Access::Write)?;
        let commands = self.record_fill(mapping)?;
        self.submit(commands)?;
        // From `end` on it may move again, behind these commands.
        let done = ours.submitted()?;
        open.end(done.clone());
        Ok(done)
    }

    fn record_fill(&self, mapping: &Mapping) -> Result<vk::CommandBuffer> {
        let device = &self.device;
        let info = vk::CommandBufferAllocateInfo::default()
            .command_pool(self.pool)
            .command_buffer_count(1);
        // SAFETY: the pool is live and used by this thread only.
        let commands = unsafe { device.allocate_command_buffers(&info) }?[0];
        let begin = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: the command buffer is new.
        unsafe { device.begin_command_buffer(commands, &begin) }?;

        // Between uses no queue family owns a shared buffer: acquire it, use it, release it.
        let scope = Scope {
            stages: vk::PipelineStageFlags::TRANSFER,
            access: vk::AccessFlags::TRANSFER_WRITE,
        };
        // SAFETY: the commands are being recorded for this device's family, and no earlier command in them
        // uses the buffer.
        unsafe { mapping.acquire(commands, scope) }?;
        let view = mapping.view()?;
        // SAFETY: the buffer is live while the mapping is, and has transfer usage; its offset is a
        // multiple of 256, its size of 4 (VUID-vkCmdFillBuffer-dstOffset-00025, -size-00028).
        unsafe { device.cmd_fill_buffer(commands, view.buffer, view.offset, view.size, WORD) };
        // SAFETY: as for `acquire`, which was recorded above.
        unsafe { mapping.release(commands, scope) };

        // SAFETY: the command buffer is being recorded.
        unsafe { device.end_command_buffer(commands) }?;
        Ok(commands)
    }

    fn submit(&self, commands: vk::CommandBuffer) -> Result<()> {
        let commands = [commands];
        let submit = [vk::SubmitInfo::default().command_buffers(&commands)];
        let mut submitted = Ok(());
        self.lock.locked(&mut || {
            // SAFETY: the lock is held, and the commands are complete.
            submitted = unsafe { self.device.queue_submit(self.queue, &submit, vk::Fence::null()) };
        });
        Ok(submitted?)
    }

    /// Destroys the device. No other object uses it any more.
    fn destroy(self) {
        // SAFETY: every submission has been waited for; the command buffers are freed with their pool.
        unsafe { self.device.destroy_command_pool(self.pool, None) };
        // SAFETY: every object that was created on the device is destroyed.
        unsafe { self.device.destroy_device(None) };
        // SAFETY: as above.
        unsafe { self.instance.destroy_instance(None) };
    }
}

fn create_instance(entry: &ash::Entry) -> Result<ash::Instance> {
    let application = vk::ApplicationInfo::default()
        .application_name(c"an application")
        .api_version(vk::API_VERSION_1_2);
    let extensions: Vec<_> = instance_extensions().iter().map(|name| name.as_ptr()).collect();
    let info = vk::InstanceCreateInfo::default()
        .application_info(&application)
        .enabled_extension_names(&extensions);
    // SAFETY: everything that `info` points to outlives the call.
    Ok(unsafe { entry.create_instance(&info, None) }?)
}

fn compute_family(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Option<u32> {
    // SAFETY: `physical` was enumerated from this instance.
    let families = unsafe { instance.get_physical_device_queue_family_properties(physical) };
    let found = families.iter().position(|f| f.queue_flags.contains(vk::QueueFlags::COMPUTE))?;
    u32::try_from(found).ok()
}

fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    family: u32,
    extensions: &[&CStr],
) -> Result<ash::Device> {
    let priorities = [1.0];
    let queues = [vk::DeviceQueueCreateInfo::default()
        .queue_family_index(family)
        .queue_priorities(&priorities)];
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    // The one feature that peerbuf needs.
    let mut vulkan12 = vk::PhysicalDeviceVulkan12Features::default().timeline_semaphore(true);
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut vulkan12);
    // SAFETY: the adapter has these extensions and the feature, since it can be opened; everything that
    // `info` points to outlives the call.
    Ok(unsafe { instance.create_device(physical, &info, None) }?)
}
