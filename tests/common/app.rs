//! An application that owns its Vulkan instance, device and queue.
#![expect(unsafe_code, reason = "an application's raw Vulkan objects")]

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ash::{ext, khr, vk};
use peerbuf::device::{AdoptedDevice, AdoptedQueue, Message, QueueLock};
use peerbuf::{Adapter, Device, Engine, Result};

use super::soft_memory::{Soft, SoftMemory};
use super::soft_queues::SoftQueues;
use super::{Messages, Rig};

/// An application that set up Vulkan itself, before it uses peerbuf.
pub(crate) struct App {
    entry: ash::Entry,
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    pub(crate) device: ash::Device,
    extensions: Vec<&'static CStr>,
    pub(crate) lock: Arc<AppLock>,
    /// Two emulated queues in place of the driver's single one, if requested.
    soft: Option<SoftQueues>,
    /// Emulated memory in place of the driver's, if requested.
    memory: Option<Arc<Soft>>,
    messenger: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    _messages: Box<Messages>,
}

/// The application's queue lock. It counts how often it was asked for, and taken.
#[derive(Default)]
pub(crate) struct AppLock {
    queue: Mutex<()>,
    pub(crate) asked: AtomicU64,
    pub(crate) taken: AtomicU64,
}

impl QueueLock for AppLock {
    fn locked(&self, work: &mut dyn FnMut()) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let _guard = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.taken.fetch_add(1, Ordering::Relaxed);
        work();
    }
}

/// The only queue family of software devices. It supports all operations.
pub(crate) const FAMILY: u32 = 0;

impl App {
    /// Creates a device on `adapter` with those of its extensions that `wanted` selects.
    pub(crate) fn new(rig: &Rig, adapter: &Adapter, wanted: impl Fn(&CStr) -> bool) -> Self {
        // SAFETY: the system's Vulkan loader is sound to load.
        let entry = unsafe { ash::Entry::load() }.expect("the loader that the rig has used");
        let messages = Box::new(Arc::clone(rig.messages()));
        let (instance, debug) = create_instance(&entry);
        let messenger = debug.then(|| create_messenger(&entry, &instance, &messages));
        let physical = find(&instance, adapter);
        let extensions: Vec<_> =
            adapter.device_extensions().iter().copied().filter(|name| wanted(name)).collect();
        let device = create_device(&instance, physical, &extensions);
        let lock = Arc::default();
        let soft = None;
        Self {
            entry,
            instance,
            physical,
            device,
            extensions,
            lock,
            soft,
            memory: None,
            messenger,
            _messages: messages,
        }
    }

    /// Creates a device with two emulated queues.
    ///
    /// It exports no semaphores: the driver would wait for the submission that signals one, and a held queue has
    /// not forwarded it.
    pub(crate) fn with_two_queues(rig: &Rig, adapter: &Adapter) -> Self {
        let mut app = Self::new(rig, adapter, |name| name != khr::external_semaphore_fd::NAME);
        app.soft = Some(SoftQueues::new(&app.device, FAMILY));
        app
    }

    /// Creates a device with emulated memory and those extensions that `wanted` selects.
    pub(crate) fn with_memory(
        rig: &Rig,
        adapter: &Adapter,
        memory: SoftMemory,
        wanted: impl Fn(&CStr) -> bool,
    ) -> Self {
        let mut app = Self::new(rig, adapter, wanted);
        app.memory = Some(Soft::new(memory, &app.instance, app.physical, &app.device));
        app
    }

    /// The emulated memory.
    pub(crate) fn memory(&self) -> &Soft {
        self.memory.as_ref().expect("made with emulated memory")
    }

    /// Reads the facts of its physical device, as its instance reports them.
    pub(crate) fn read(&self) -> Adapter {
        let instance = self.memory().instance();
        // SAFETY: they belong together, and the application outlives the adapter.
        unsafe { Adapter::of(self.entry.clone(), instance, self.physical) }.expect("its facts")
    }

    /// The two emulated queues.
    pub(crate) fn queues(&self) -> &SoftQueues {
        self.soft.as_ref().expect("made with two queues")
    }

    pub(crate) fn facts(&self) -> AdoptedDevice {
        let device = self.soft.as_ref().map_or(&self.device, SoftQueues::device).clone();
        let device = self.memory.as_ref().map_or(device, |memory| memory.device());
        let instance = self.memory.as_ref().map(|memory| memory.instance());
        AdoptedDevice::new(
            self.entry.clone(),
            instance.unwrap_or_else(|| self.instance.clone()),
            self.physical,
            device,
            self.extensions.clone(),
            FAMILY,
        )
        .queue_lock(Arc::clone(&self.lock) as Arc<dyn QueueLock>)
    }

    /// Adopts the device into `engine`. `self` outlives the engine: it is created before and dropped after it.
    pub(crate) fn join(&self, rig: &Rig, engine: &Engine) -> Device {
        self.try_join(rig, engine, |_| {}).expect("it can compute")
    }

    /// Adopts the device with a transfer queue for moves: the second queue if there are two, else the only one.
    pub(crate) fn join_with_transfer_queue(&self, rig: &Rig, engine: &Engine) -> Device {
        let index = u32::from(self.soft.is_some());
        // The application locks its main queue. It does not use the transfer queue, so that one needs no lock of it.
        let queue = AdoptedQueue::new(FAMILY, index);
        let joined = self.try_join(rig, engine, |facts| facts.transfer_queue = Some(queue));
        joined.expect("it can compute and copy")
    }

    /// Adopts the device with facts modified by `change`.
    pub(crate) fn try_join(
        &self,
        rig: &Rig,
        engine: &Engine,
        change: impl FnOnce(&mut AdoptedDevice),
    ) -> Result<Device> {
        let mut facts = self.facts();
        change(&mut facts);
        // SAFETY: the handles belong together and the extensions are the enabled ones; queues are used under
        // their locks only; the application is dropped last.
        let device = unsafe { engine.adopt_device(facts) }?;
        rig.know(&device);
        Ok(device)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.soft = None;
        if let Some(memory) = self.memory.take() {
            memory.forget();
        }
        // SAFETY: the engine and all objects made from it are destroyed.
        unsafe { self.device.destroy_device(None) };
        if let Some((ext, messenger)) = self.messenger.take() {
            // SAFETY: created on this instance, destroyed once.
            unsafe { ext.destroy_debug_utils_messenger(messenger, None) };
        }
        // SAFETY: its device and its messenger are destroyed.
        unsafe { self.instance.destroy_instance(None) };
    }
}

/// Creates an instance, with the validation layer if it is installed.
fn create_instance(entry: &ash::Entry) -> (ash::Instance, bool) {
    const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";
    // SAFETY: the entry is loaded.
    let present = unsafe { entry.enumerate_instance_layer_properties() }.expect("a list");
    let debug = present.iter().any(|layer| layer.layer_name_as_c_str() == Ok(LAYER));
    let (layers, extensions) = ([LAYER.as_ptr()], [ext::debug_utils::NAME.as_ptr()]);
    let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
    let mut info = vk::InstanceCreateInfo::default().application_info(&application);
    if debug {
        info = info.enabled_layer_names(&layers).enabled_extension_names(&extensions);
    }
    // SAFETY: all pointers outlive the call.
    let instance = unsafe { entry.create_instance(&info, None) }.expect("an instance");
    (instance, debug)
}

fn create_messenger(
    entry: &ash::Entry,
    instance: &ash::Instance,
    messages: &Messages,
) -> (ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT) {
    use vk::{
        DebugUtilsMessageSeverityFlagsEXT as Severity, DebugUtilsMessageTypeFlagsEXT as Type,
    };
    let ext = ext::debug_utils::Instance::new(entry, instance);
    let info = vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(Severity::ERROR | Severity::WARNING)
        .message_type(Type::VALIDATION)
        .pfn_user_callback(Some(on_message))
        .user_data((&raw const *messages).cast_mut().cast());
    // SAFETY: the extension is on; the user data is boxed in the application, which destroys the
    // messenger before it.
    let messenger = unsafe { ext.create_debug_utils_messenger(&info, None) }.expect("a messenger");
    (ext, messenger)
}

/// # Safety
///
/// Called by the loader, with valid data and the user data of `create_messenger`.
unsafe extern "system" fn on_message(
    severity: vk::DebugUtilsMessageSeverityFlagsEXT,
    _kind: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    user: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the loader's data is valid during the call.
    let data = unsafe { &*data };
    // SAFETY: the user data points to the application's messages.
    let messages = unsafe { &*user.cast::<Messages>() };
    // SAFETY: null, or text that ends.
    let id = unsafe { data.message_id_name_as_c_str() };
    // SAFETY: as above.
    let text = unsafe { data.message_as_c_str() };
    let owned = |text: Option<&CStr>| text.unwrap_or_default().to_string_lossy().into_owned();
    messages.lock().unwrap_or_else(PoisonError::into_inner).push(Message {
        error: severity.contains(vk::DebugUtilsMessageSeverityFlagsEXT::ERROR),
        id: owned(id),
        text: owned(text),
    });
    vk::FALSE
}

fn find(instance: &ash::Instance, adapter: &Adapter) -> vk::PhysicalDevice {
    // SAFETY: the instance is live.
    let all = unsafe { instance.enumerate_physical_devices() }.expect("a list");
    let uuid = |physical| {
        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut id);
        // SAFETY: enumerated from the live instance, which is of version 1.2.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        id.device_uuid
    };
    let found = all.into_iter().find(|&physical| uuid(physical) == adapter.device_uuid().0);
    found.expect("the same adapters for every instance")
}

fn create_device(
    instance: &ash::Instance,
    physical: vk::PhysicalDevice,
    extensions: &[&CStr],
) -> ash::Device {
    let priorities = [1.0];
    let queues = [vk::DeviceQueueCreateInfo::default()
        .queue_family_index(FAMILY)
        .queue_priorities(&priorities)];
    let names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    let mut timeline =
        vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
    // What the driver has of these is on.
    let mut addresses = vk::PhysicalDeviceBufferDeviceAddressFeatures::default();
    let mut features = vk::PhysicalDeviceFeatures2::default().push_next(&mut addresses);
    // SAFETY: enumerated from the live instance, which is of version 1.2.
    unsafe { instance.get_physical_device_features2(physical, &mut features) };
    addresses.p_next = std::ptr::null_mut();
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut timeline)
        .push_next(&mut addresses);
    // SAFETY: the family exists, the adapter has these extensions and the features.
    unsafe { instance.create_device(physical, &info, None) }.expect("a device")
}
