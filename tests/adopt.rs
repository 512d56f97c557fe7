//! An application's own instance, device and queue take part like any other.
#![expect(unsafe_code, reason = "an application's raw Vulkan objects")]

mod common;

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ash::{ext, khr, vk};
use common::{Messages, Rig, assert_pattern, bytes, fill};
use peerbuf::device::{AdoptedDevice, Message, QueueLock};
use peerbuf::{
    Adapter, AdapterSelector, BufferDescriptor, CopyRegion, Device, Engine, EngineDescriptor,
    Error, Placement, Route,
};

/// An application that had Vulkan running before it heard of peerbuf.
struct App {
    entry: ash::Entry,
    instance: ash::Instance,
    physical: vk::PhysicalDevice,
    device: ash::Device,
    extensions: Vec<&'static CStr>,
    lock: Arc<AppLock>,
    messenger: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    _messages: Box<Messages>,
}

/// The lock that the application has around its queue, and how often it was taken.
#[derive(Default)]
struct AppLock {
    queue: Mutex<()>,
    taken: AtomicU64,
}

impl QueueLock for AppLock {
    fn locked(&self, work: &mut dyn FnMut()) {
        let _guard = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.taken.fetch_add(1, Ordering::Relaxed);
        work();
    }
}

/// The family that software devices have; it can do everything.
const FAMILY: u32 = 0;

impl App {
    /// Starts on the adapter that `adapter` is, with those of its extensions that `wanted` likes.
    fn new(rig: &Rig, adapter: &Adapter, wanted: impl Fn(&CStr) -> bool) -> Self {
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
        Self { entry, instance, physical, device, extensions, lock, messenger, _messages: messages }
    }

    fn facts(&self) -> AdoptedDevice {
        AdoptedDevice {
            entry: self.entry.clone(),
            instance: self.instance.clone(),
            physical: self.physical,
            device: self.device.clone(),
            extensions: self.extensions.clone(),
            queue_family: FAMILY,
            queue_index: 0,
            queue_lock: Some(Arc::clone(&self.lock) as Arc<dyn QueueLock>),
            transfer_queue: None,
        }
    }

    /// Lets the device take part. `self` outlives the engine: it is made before and dropped after.
    fn join(&self, rig: &Rig, engine: &Engine) -> Device {
        // SAFETY: all of it belongs together and is what was enabled; the queue is used under the lock
        // alone; the application goes last.
        let device = unsafe { engine.adopt_device(self.facts()) }.expect("it can compute");
        rig.know(&device);
        device
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // SAFETY: the engine and all that was made from it are gone.
        unsafe { self.device.destroy_device(None) };
        if let Some((ext, messenger)) = self.messenger.take() {
            // SAFETY: made on this instance, destroyed once.
            unsafe { ext.destroy_debug_utils_messenger(messenger, None) };
        }
        // SAFETY: its device and its messenger are gone.
        unsafe { self.instance.destroy_instance(None) };
    }
}

/// An instance under the validation layer, where that is installed.
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
    // SAFETY: everything that is pointed to outlives the call.
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
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&names)
        .push_next(&mut timeline);
    // SAFETY: the family exists, the adapter has these extensions and the feature.
    unsafe { instance.create_device(physical, &info, None) }.expect("a device")
}

/// Bytes go both ways between two devices of one engine.
fn check_sharing(engine: &Engine, home: &Device, peer: &Device) {
    let buffer = engine.create_buffer(home, BufferDescriptor::new(4096)).expect("a buffer");
    let (near, far) =
        (buffer.attach(home).expect("a seat"), buffer.attach(peer).expect("it reaches it"));
    fill(&near, 1);
    assert_pattern(&far, 1, "from home");
    fill(&far, 2);
    assert_pattern(&near, 2, "to home");
    bytes::write(&buffer, 3);
    bytes::assert_sequence(&buffer, 3, "the host");
}

#[test]
fn an_adopted_device_shares_with_opened_ones() {
    let rig = Rig::new();
    for adapter in rig.engine().adapters() {
        let app = App::new(&rig, adapter, |_| true);
        {
            let engine = rig.stranger();
            let adopted = app.join(&rig, &engine);
            assert_eq!(adopted.adapter().device_uuid(), adapter.device_uuid());
            assert_eq!(adopted.queue_family(), FAMILY);
            for selector in (0..engine.adapters().len()).map(AdapterSelector::Index) {
                let other = engine.adapter(selector).expect("the adapter");
                let opened = engine.open_device(other).expect("the adapter opens");
                rig.know(&opened);
                check_sharing(&engine, &adopted, &opened);
                check_sharing(&engine, &opened, &adopted);
            }
        }
        assert!(app.lock.taken.load(Ordering::Relaxed) > 0, "its queue was used under its lock");
    }
}

#[test]
fn two_applications_share_without_any_device_of_ours() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let apps = [&lavapipe, &swiftshader].map(|d| App::new(&rig, d.adapter(), |_| true));
    let engine = Engine::without_instance(&EngineDescriptor::new());
    assert!(engine.adapters().is_empty());
    let [a, b] = [&apps[0], &apps[1]].map(|app| app.join(&rig, &engine));
    assert_eq!(engine.devices(), [a.clone(), b.clone()]);
    check_sharing(&engine, &a, &b);
    check_sharing(&engine, &b, &a);
    drop((a, b, engine));
    drop(apps);
}

#[test]
fn the_application_uses_its_queue_beside_us() {
    let rig = Rig::new();
    let device = &rig.all()[0];
    let app = App::new(&rig, device.adapter(), |_| true);
    {
        let engine = rig.stranger();
        let adopted = app.join(&rig, &engine);
        let before = app.lock.taken.load(Ordering::Relaxed);
        adopted.with_queue(|queue| {
            // SAFETY: the queue is the application's own, and locked by `with_queue`.
            unsafe { app.device.queue_wait_idle(queue) }.expect("the device is not lost");
        });
        assert_eq!(app.lock.taken.load(Ordering::Relaxed), before + 1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    // SAFETY: the family and the queue exist.
                    let queue = unsafe { app.device.get_device_queue(FAMILY, 0) };
                    app.lock.locked(&mut || {
                        // SAFETY: the queue is the application's own, and locked.
                        unsafe { app.device.queue_wait_idle(queue) }.expect("not lost");
                    });
                }
            });
            let buffer =
                engine.create_buffer(&adopted, BufferDescriptor::new(4096)).expect("a buffer");
            let seat = buffer.attach(&adopted).expect("a seat");
            for seed in 0..50 {
                fill(&seat, seed);
                assert_pattern(&seat, seed, "beside the application");
            }
        });
    }
}

#[test]
fn an_application_that_enabled_less_can_do_less_and_does_not_spoil_it_for_others() {
    let rig = Rig::new();
    let Some(device) = rig.lavapipe() else { return };
    // It can take memory by address, and not by fd.
    let app = App::new(&rig, device.adapter(), |name| name == ext::external_memory_host::NAME);
    let bare = App::new(&rig, device.adapter(), |_| false);
    for poor_first in [true, false] {
        let engine = rig.stranger();
        let opened = [1, 2].map(|_| rig.open_on(&engine, &device));
        let (poor, isolated) = (app.join(&rig, &engine), bare.join(&rig, &engine));
        let ask = |to: &Device| engine.route(&opened[0], to).expect("a verdict");
        let (to_poor, to_twin) = if poor_first {
            let first = ask(&poor);
            (first, ask(&opened[1]))
        } else {
            let twin = ask(&opened[1]);
            (ask(&poor), twin)
        };
        let works = |verdict: &peerbuf::Verdict, route| {
            verdict.working.iter().any(|working| working.route == route)
        };
        assert!(works(&to_twin, Route::OpaqueFd), "{to_twin:?}");
        assert!(!works(&to_poor, Route::OpaqueFd), "{to_poor:?}");
        assert!(to_poor.verified, "{to_poor:?}");
        check_sharing(&engine, &opened[0], &poor);
        check_sharing(&engine, &poor, &opened[0]);
        // And this one can do nothing but say so.
        let buffer =
            engine.create_buffer(&opened[0], BufferDescriptor::new(4096)).expect("a buffer");
        let error = buffer.attach(&isolated).expect_err("it cannot import anything");
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
        let error = engine.create_buffer(&isolated, BufferDescriptor::new(4096));
        assert!(matches!(error, Err(Error::Unsupported { .. })), "{error:?}");
    }
}

#[test]
fn an_adopted_device_takes_part_in_copies() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let app = App::new(&rig, lavapipe.adapter(), |name| name != khr::external_semaphore_fd::NAME);
    let engine = rig.stranger();
    let ours = rig.open_on(&engine, &swiftshader);
    let theirs = app.join(&rig, &engine);
    for (from, to) in [(&ours, &theirs), (&theirs, &ours)] {
        let [source, target] = [from, to].map(|device| {
            let vram = BufferDescriptor::new(5000).placement(Placement::Vram);
            engine.create_buffer(device, vram).expect("a buffer")
        });
        bytes::write(&source, 5);
        engine.copy(&source, &target, CopyRegion::first(5000)).expect("a copy");
        bytes::assert_sequence(&target, 5, "staged");
    }
    drop((ours, theirs, engine));
    drop(app);
}
