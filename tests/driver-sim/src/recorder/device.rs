//! One logical device: the next layer's functions, and its objects.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};

use ash::vk::{self, Handle};

use super::abi::{Instance, instance_of, key};
use super::clock::QueueId;
use super::objects::Objects;
use super::places::Finding;
use super::{lock, world};
use crate::layer::abi::take_device_link;

/// One logical device.
pub(super) struct Device {
    /// Its number among those of the process.
    pub(super) id: u32,
    pub(super) get: vk::PFN_vkGetDeviceProcAddr,
    pub(super) fns: ash::Device,
    pub(super) next: Next,
    pub(super) objects: Mutex<Objects>,
    instance: Arc<Instance>,
    /// Whether it knows `FOREIGN_EXT`.
    foreign: bool,
    queues: Mutex<HashMap<vk::Queue, QueueId>>,
}

macro_rules! next {
    ($($field:ident: $kind:ident = $($name:literal)|+,)*) => {
        /// The next layer's functions that have two names, or that not every device has.
        #[derive(Clone, Copy)]
        pub(super) struct Next {
            $(pub(super) $field: Option<vk::$kind>,)*
        }

        impl Next {
            unsafe fn new(raw: vk::Device, get: vk::PFN_vkGetDeviceProcAddr) -> Self {
                let find = |names: &[&CStr]| {
                    // SAFETY: the next layer's function, for its own device.
                    names.iter().find_map(|name| unsafe { get(raw, name.as_ptr()) })
                };
                Self {
                    // SAFETY: the function of this name.
                    $($field: unsafe {
                        std::mem::transmute::<vk::PFN_vkVoidFunction, Option<vk::$kind>>(find(&[$($name),+]))
                    },)*
                }
            }
        }
    };
}

next! {
    get_queue2: PFN_vkGetDeviceQueue2 = c"vkGetDeviceQueue2",
    get_memory_fd: PFN_vkGetMemoryFdKHR = c"vkGetMemoryFdKHR",
    get_semaphore_fd: PFN_vkGetSemaphoreFdKHR = c"vkGetSemaphoreFdKHR",
    import_semaphore_fd: PFN_vkImportSemaphoreFdKHR = c"vkImportSemaphoreFdKHR",
    signal_semaphore: PFN_vkSignalSemaphore = c"vkSignalSemaphore" | c"vkSignalSemaphoreKHR",
    wait_semaphores: PFN_vkWaitSemaphores = c"vkWaitSemaphores" | c"vkWaitSemaphoresKHR",
    get_counter: PFN_vkGetSemaphoreCounterValue =
        c"vkGetSemaphoreCounterValue" | c"vkGetSemaphoreCounterValueKHR",
    bind_buffer2: PFN_vkBindBufferMemory2 = c"vkBindBufferMemory2" | c"vkBindBufferMemory2KHR",
    bind_image2: PFN_vkBindImageMemory2 = c"vkBindImageMemory2" | c"vkBindImageMemory2KHR",
    submit2: PFN_vkQueueSubmit2 = c"vkQueueSubmit2" | c"vkQueueSubmit2KHR",
    barrier2: PFN_vkCmdPipelineBarrier2 = c"vkCmdPipelineBarrier2" | c"vkCmdPipelineBarrier2KHR",
    copy_buffer2: PFN_vkCmdCopyBuffer2 = c"vkCmdCopyBuffer2" | c"vkCmdCopyBuffer2KHR",
    copy_image2: PFN_vkCmdCopyImage2 = c"vkCmdCopyImage2" | c"vkCmdCopyImage2KHR",
    blit2: PFN_vkCmdBlitImage2 = c"vkCmdBlitImage2" | c"vkCmdBlitImage2KHR",
    resolve2: PFN_vkCmdResolveImage2 = c"vkCmdResolveImage2" | c"vkCmdResolveImage2KHR",
    to_image2: PFN_vkCmdCopyBufferToImage2 =
        c"vkCmdCopyBufferToImage2" | c"vkCmdCopyBufferToImage2KHR",
    to_buffer2: PFN_vkCmdCopyImageToBuffer2 =
        c"vkCmdCopyImageToBuffer2" | c"vkCmdCopyImageToBuffer2KHR",
    create_pass2: PFN_vkCreateRenderPass2 = c"vkCreateRenderPass2" | c"vkCreateRenderPass2KHR",
    begin_pass2: PFN_vkCmdBeginRenderPass2 = c"vkCmdBeginRenderPass2" | c"vkCmdBeginRenderPass2KHR",
    end_pass2: PFN_vkCmdEndRenderPass2 = c"vkCmdEndRenderPass2" | c"vkCmdEndRenderPass2KHR",
    begin_rendering: PFN_vkCmdBeginRendering = c"vkCmdBeginRendering" | c"vkCmdBeginRenderingKHR",
}

static DEVICES: LazyLock<RwLock<HashMap<usize, Arc<Device>>>> = LazyLock::new(RwLock::default);

fn find(key: usize) -> Option<Arc<Device>> {
    DEVICES.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
}

/// The device of a handle.
pub(super) unsafe fn of(raw: vk::Device) -> Option<Arc<Device>> {
    find(key(raw.as_raw()))
}

/// The device of a device's, queue's or command buffer's handle.
///
/// # Safety
/// `raw` is such a handle, and alive.
pub(super) unsafe fn of_handle(raw: impl Handle) -> Arc<Device> {
    match find(key(raw.as_raw())) {
        Some(device) => device,
        // A handle that no call gave: the application broke a rule, and nothing can be answered.
        None => std::process::abort(),
    }
}

pub(super) unsafe extern "system" fn create(
    physical: vk::PhysicalDevice,
    info: *const vk::DeviceCreateInfo<'_>,
    allocator: *const vk::AllocationCallbacks<'_>,
    out: *mut vk::Device,
) -> vk::Result {
    let (Some(instance), Some(get)) = (instance_of(physical), take_device_link((*info).p_next))
    else {
        return vk::Result::ERROR_INITIALIZATION_FAILED;
    };
    let create = instance.fns.fp_v1_0().create_device;
    let result = create(physical, info, allocator, out);
    if result != vk::Result::SUCCESS {
        return result;
    }
    let raw = *out;
    let load =
        |name: &CStr| get(raw, name.as_ptr()).map_or(std::ptr::null(), |found| found as *const _);
    let extensions = match (*info).enabled_extension_count {
        0 => &[],
        count => std::slice::from_raw_parts((*info).pp_enabled_extension_names, count as usize),
    };
    let foreign =
        extensions.iter().any(|name| CStr::from_ptr(*name) == vk::EXT_QUEUE_FAMILY_FOREIGN_NAME);
    let properties = instance.fns.get_physical_device_properties(physical);
    let name = properties.device_name_as_c_str().unwrap_or_default().to_string_lossy();
    let device = Device {
        id: world(|world| world.add_device(&name)),
        get,
        fns: ash::Device::load_with(load, raw),
        next: Next::new(raw, get),
        objects: Mutex::default(),
        instance,
        foreign,
        queues: Mutex::default(),
    };
    let mut devices = DEVICES.write().unwrap_or_else(PoisonError::into_inner);
    devices.insert(key(raw.as_raw()), Arc::new(device));
    result
}

pub(super) unsafe extern "system" fn destroy(
    raw: vk::Device,
    allocator: *const vk::AllocationCallbacks<'_>,
) {
    if raw == vk::Device::null() {
        return;
    }
    let mut devices = DEVICES.write().unwrap_or_else(PoisonError::into_inner);
    let device = devices.remove(&key(raw.as_raw()));
    drop(devices);
    let Some(device) = device else { return };
    device.fns.destroy_device(allocator.as_ref());
    world(|world| {
        world.remove_device(device.id);
        lock(&device.objects).forget(world);
    });
}

pub(super) unsafe extern "system" fn get_queue(
    raw: vk::Device,
    family: u32,
    index: u32,
    out: *mut vk::Queue,
) {
    let device = of_handle(raw);
    (device.fns.fp_v1_0().get_device_queue)(raw, family, index, out);
    device.know_queue(*out, family);
}

pub(super) unsafe extern "system" fn get_queue2(
    raw: vk::Device,
    info: *const vk::DeviceQueueInfo2<'_>,
    out: *mut vk::Queue,
) {
    let device = of_handle(raw);
    if let Some(next) = device.next.get_queue2 {
        next(raw, info, out);
        device.know_queue(*out, (*info).queue_family_index);
    }
}

impl Device {
    fn know_queue(&self, raw: vk::Queue, family: u32) {
        if raw != vk::Queue::null() {
            let add = || world(|world| world.add_queue(self.id, family, self.foreign));
            lock(&self.queues).entry(raw).or_insert_with(add);
        }
    }

    pub(super) fn queue(&self, raw: vk::Queue) -> Option<QueueId> {
        lock(&self.queues).get(&raw).copied()
    }

    /// Passes a result on, and notes a lost device.
    pub(super) fn noted(&self, result: vk::Result) -> vk::Result {
        if result == vk::Result::ERROR_DEVICE_LOST {
            world(|world| world.lose(self.id));
        }
        result
    }
}

/// Tells the application what was found, as the validation layer does.
pub(super) fn report(finding: &Finding) {
    let devices = DEVICES.read().unwrap_or_else(PoisonError::into_inner);
    let instance = devices
        .values()
        .find(|device| device.id == finding.device)
        .map(|device| Arc::clone(&device.instance));
    drop(devices);
    let text = format!("{}: {}", finding.rule.id().to_string_lossy(), finding.text);
    if let Some(file) = std::env::var_os("RECORDER_REPORT") {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(file);
        // A finding that cannot be written is still a message.
        let _ = file.and_then(|mut file| writeln!(file, "{text}"));
    }
    let message = instance.and_then(|instance| Some((instance.raw, instance.message?)));
    let (Some((instance, send)), Ok(text)) = (message, CString::new(text.clone())) else {
        eprintln!("{text}");
        return;
    };
    let data = vk::DebugUtilsMessengerCallbackDataEXT::default()
        .message_id_name(finding.rule.id())
        .message(&text);
    let severity = vk::DebugUtilsMessageSeverityFlagsEXT::ERROR;
    let kind = vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION;
    // SAFETY: the next layer's function, for its own instance, which outlives its devices; the structure is complete.
    unsafe { send(instance, severity, kind, &raw const data) };
}
