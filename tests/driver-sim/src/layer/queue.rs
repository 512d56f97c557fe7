//! Queues. The application's handle is a pointer to [`Queue`]; several may stand before one of the driver's.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, Weak};

use ash::vk::{self, Handle};

use super::device::{self, Device};
use super::forward::unwrap_object;
use super::worker::Worker;
use super::{cname, lock};

/// A queue of the driver's.
pub(super) struct RealQueue {
    pub(super) raw: vk::Queue,
    /// Held during each call that needs the queue for itself.
    pub(super) turn: Mutex<()>,
}

/// A queue as the application sees it.
#[repr(C)]
pub(super) struct Queue {
    /// The loader's table, which the loader itself writes.
    _loader: usize,
    device: Weak<Device>,
    pub(super) real: Arc<RealQueue>,
    worker: Option<Worker>,
}

impl Queue {
    /// The queue of a handle.
    ///
    /// # Safety
    /// The handle is one that [`get`] gave, and its device is alive.
    pub(super) unsafe fn of<'a>(raw: vk::Queue) -> &'a Self {
        &*(raw.as_raw() as *const Self)
    }

    pub(super) fn device(&self) -> Arc<Device> {
        match self.device.upgrade() {
            Some(device) => device,
            // The application used a queue of a destroyed device.
            None => std::process::abort(),
        }
    }

    pub(super) fn worker(&self) -> Option<&Worker> {
        self.worker.as_ref()
    }

    /// Ends the queue's thread.
    pub(super) fn end(&self) {
        if let Some(worker) = &self.worker {
            worker.end();
        }
    }
}

pub(super) unsafe extern "system" fn get(
    raw: vk::Device,
    family: u32,
    index: u32,
    out: *mut vk::Queue,
) {
    let device = device::of(raw);
    let (real_family, real_index) = device.families.queue(family, index);
    *out = wrap(&device, (family, index), || device.fns.get_device_queue(real_family, real_index));
}

pub(super) unsafe extern "system" fn get2(
    raw: vk::Device,
    info: *const vk::DeviceQueueInfo2<'_>,
    out: *mut vk::Queue,
) {
    let device = device::of(raw);
    let info = &*info;
    let (real_family, real_index) =
        device.families.queue(info.queue_family_index, info.queue_index);
    let mut own = *info;
    (own.queue_family_index, own.queue_index) = (real_family, real_index);
    let next = device.next::<vk::PFN_vkGetDeviceQueue2>(cname!("vkGetDeviceQueue2").as_ptr());
    *out = wrap(&device, (info.queue_family_index, info.queue_index), || {
        let mut real = vk::Queue::null();
        if let Some(next) = next {
            next(raw, (&raw const own).cast(), &raw mut real);
        }
        real
    });
}

unsafe fn wrap(
    device: &Arc<Device>,
    key: (u32, u32),
    real: impl FnOnce() -> vk::Queue,
) -> vk::Queue {
    let mut queues = lock(&device.queues);
    if let Some(known) = queues.get(&key) {
        return vk::Queue::from_raw(Arc::as_ptr(known) as u64);
    }
    let raw = real();
    if raw == vk::Queue::null() {
        return raw;
    }
    let real = Arc::clone(lock(&device.real_queues).entry(raw).or_insert_with(|| {
        tell_loader(device, raw);
        Arc::new(RealQueue { raw, turn: Mutex::default() })
    }));
    let worker = device.has_threads.then(|| Worker::start(device, Arc::clone(&real)));
    let queue = Arc::new(Queue { _loader: 0, device: Arc::downgrade(device), real, worker });
    let handle = vk::Queue::from_raw(Arc::as_ptr(&queue) as u64);
    tell_loader(device, handle);
    queues.insert(key, queue);
    handle
}

/// Has the loader write its table into a handle that it does not see being made.
unsafe fn tell_loader(device: &Device, queue: vk::Queue) {
    let object = queue.as_raw() as *mut c_void;
    match device.set_loader_data {
        Some(set) => {
            let _ = set(device.raw, object);
        }
        // The loader's table is the first word of each handle of a device.
        None => *object.cast::<usize>() = *(device.raw.as_raw() as *const usize),
    }
}

pub(super) unsafe extern "system" fn bind_sparse(
    raw: vk::Queue,
    count: u32,
    infos: *const vk::BindSparseInfo<'_>,
    fence: vk::Fence,
) -> vk::Result {
    let queue = Queue::of(raw);
    let device = queue.device();
    if device.is_lost() {
        return vk::Result::ERROR_DEVICE_LOST;
    }
    let _turn = lock(&queue.real.turn);
    (device.fns.fp_v1_0().queue_bind_sparse)(queue.real.raw, count, infos.cast(), fence)
}

pub(super) unsafe extern "system" fn present(
    raw: vk::Queue,
    info: *const vk::PresentInfoKHR<'_>,
) -> vk::Result {
    let queue = Queue::of(raw);
    let device = queue.device();
    let count = (*info).wait_semaphore_count as usize;
    if count > 0 {
        device.wait_until_forwarded(std::slice::from_raw_parts((*info).p_wait_semaphores, count));
    }
    if device.is_lost() {
        return vk::Result::ERROR_DEVICE_LOST;
    }
    let _turn = lock(&queue.real.turn);
    let next = device.next::<vk::PFN_vkQueuePresentKHR>(cname!("vkQueuePresentKHR").as_ptr());
    next.map_or(vk::Result::ERROR_DEVICE_LOST, |next| next(queue.real.raw, info.cast()))
}

pub(super) unsafe extern "system" fn begin_label(
    raw: vk::Queue,
    info: *const vk::DebugUtilsLabelEXT<'_>,
) {
    let (queue, name) = (Queue::of(raw), cname!("vkQueueBeginDebugUtilsLabelEXT"));
    if let Some(next) = queue.device().next::<vk::PFN_vkQueueBeginDebugUtilsLabelEXT>(name.as_ptr())
    {
        next(queue.real.raw, info.cast());
    }
}

pub(super) unsafe extern "system" fn end_label(raw: vk::Queue) {
    let (queue, name) = (Queue::of(raw), cname!("vkQueueEndDebugUtilsLabelEXT"));
    if let Some(next) = queue.device().next::<vk::PFN_vkQueueEndDebugUtilsLabelEXT>(name.as_ptr()) {
        next(queue.real.raw);
    }
}

pub(super) unsafe extern "system" fn insert_label(
    raw: vk::Queue,
    info: *const vk::DebugUtilsLabelEXT<'_>,
) {
    let (queue, name) = (Queue::of(raw), cname!("vkQueueInsertDebugUtilsLabelEXT"));
    if let Some(next) =
        queue.device().next::<vk::PFN_vkQueueInsertDebugUtilsLabelEXT>(name.as_ptr())
    {
        next(queue.real.raw, info.cast());
    }
}

pub(super) unsafe extern "system" fn set_object_name(
    raw: vk::Device,
    info: *const vk::DebugUtilsObjectNameInfoEXT<'_>,
) -> vk::Result {
    let mut own = *info;
    own.object_handle = unwrap_object(own.object_type, own.object_handle);
    let name = cname!("vkSetDebugUtilsObjectNameEXT");
    let next = device::of(raw).next::<vk::PFN_vkSetDebugUtilsObjectNameEXT>(name.as_ptr());
    next.map_or(vk::Result::SUCCESS, |next| next(raw, (&raw const own).cast()))
}

pub(super) unsafe extern "system" fn set_object_tag(
    raw: vk::Device,
    info: *const vk::DebugUtilsObjectTagInfoEXT<'_>,
) -> vk::Result {
    let mut own = *info;
    own.object_handle = unwrap_object(own.object_type, own.object_handle);
    let name = cname!("vkSetDebugUtilsObjectTagEXT");
    let next = device::of(raw).next::<vk::PFN_vkSetDebugUtilsObjectTagEXT>(name.as_ptr());
    next.map_or(vk::Result::SUCCESS, |next| next(raw, (&raw const own).cast()))
}

pub(super) unsafe extern "system" fn set_private_data(
    raw: vk::Device,
    kind: vk::ObjectType,
    handle: u64,
    slot: vk::PrivateDataSlot,
    data: u64,
) -> vk::Result {
    let device = device::of(raw);
    let next = device
        .next::<vk::PFN_vkSetPrivateData>(cname!("vkSetPrivateData").as_ptr())
        .or_else(|| device.next(cname!("vkSetPrivateDataEXT").as_ptr()));
    let own = unwrap_object(kind, handle);
    next.map_or(vk::Result::ERROR_OUT_OF_HOST_MEMORY, |next| next(raw, kind, own, slot, data))
}

pub(super) unsafe extern "system" fn get_private_data(
    raw: vk::Device,
    kind: vk::ObjectType,
    handle: u64,
    slot: vk::PrivateDataSlot,
    out: *mut u64,
) {
    let device = device::of(raw);
    let next = device
        .next::<vk::PFN_vkGetPrivateData>(cname!("vkGetPrivateData").as_ptr())
        .or_else(|| device.next(cname!("vkGetPrivateDataEXT").as_ptr()));
    if let Some(next) = next {
        next(raw, kind, unwrap_object(kind, handle), slot, out);
    }
}
