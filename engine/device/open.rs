//! Creates devices: opened by peerbuf, or adopted from an application.
#![expect(unsafe_code, reason = "creating the device, loading its extensions")]

use std::ffi::CStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use ash::{ext, khr, vk};
use smallvec::{SmallVec, smallvec};

use super::adapter::Adapter;
use super::adopt::AdoptedDevice;
use super::calls::Calls;
use super::external::SemaphoreHandle;
use super::id::DeviceId;
use super::inner::DeviceInner;
use super::queues::{self, QueueChoice, QueueIndex, Queues};
use crate::error::{Error, Result};
use crate::observe::{Live, Object};

impl DeviceInner {
    /// Opens a device on `adapter`; with a queue for moves if `transfer_queue` is set and the adapter has one.
    pub(crate) fn open(
        adapter: &Adapter,
        transfer_queue: bool,
        id: DeviceId,
        calls: Arc<Calls>,
        live: Arc<Live>,
    ) -> Result<Arc<Self>> {
        adapter.check_openable()?;
        let family = adapter.compute_family()?;
        let main = QueueIndex { family, index: 0 };
        let transfer =
            queues::choose_transfer(adapter.queue_families(), family).filter(|_| transfer_queue);
        let raw = create_raw(adapter, main, transfer)?;
        let own = |at| QueueChoice { at, lock: None };
        let queues = (own(main), transfer.map(own));
        let parts = Parts { adapter, id, calls, live, raw, queues, owned: true };
        // SAFETY: `raw` was just created with these queues, these extensions and the feature.
        unsafe { Self::wrap(parts, adapter.device_extensions()) }
    }

    /// Adopts an application's device.
    ///
    /// # Safety
    ///
    /// The contract of [`crate::Engine::adopt_device`].
    pub(crate) unsafe fn adopt(
        adopted: AdoptedDevice,
        adapter: &Adapter,
        id: DeviceId,
        calls: Arc<Calls>,
        live: Arc<Live>,
    ) -> Result<Arc<Self>> {
        let (raw, extensions) = (adopted.device.clone(), adopted.extensions.clone());
        let queues = adopted.queues(adapter)?;
        let parts = Parts { adapter, id, calls, live, raw, queues, owned: false };
        // SAFETY: the caller's contract is that of `wrap`.
        unsafe { Self::wrap(parts, &extensions) }
    }

    /// # Safety
    ///
    /// `parts.raw` is live, of `parts.adapter`, with exactly `extensions`, timeline semaphores and the
    /// queues enabled; if `owned`, nothing else destroys it.
    unsafe fn wrap(parts: Parts<'_>, extensions: &[&CStr]) -> Result<Arc<Self>> {
        let Parts { adapter, id, calls, live, raw, queues: (main, transfer), owned } = parts;
        let has = |name: &CStr| extensions.contains(&name);
        // The application may not have enabled what a shared timeline needs.
        let export = if has(khr::external_semaphore_fd::NAME) {
            timeline_export(adapter)
        } else {
            SemaphoreHandle::empty()
        };
        // SAFETY: the caller's contract.
        let queues = match unsafe { Queues::new(&raw, main, transfer, export) } {
            Ok(queues) => queues,
            Err(code) => {
                if owned {
                    // SAFETY: just created, and nothing was made on it.
                    unsafe { raw.destroy_device(None) };
                }
                return Err(Error::vulkan("vkCreateSemaphore", adapter.name(), code));
            }
        };
        let instance = adapter.instance().raw();
        live.born(Object::Device);
        Ok(Arc::new(Self {
            id,
            name: format!("{} [{}]", adapter.name(), id.0),
            adapter: adapter.clone(),
            owned,
            queues,
            memory_fd: has(khr::external_memory_fd::NAME)
                .then(|| khr::external_memory_fd::Device::new(instance, &raw)),
            memory_host: has(ext::external_memory_host::NAME)
                .then(|| ext::external_memory_host::Device::new(instance, &raw)),
            semaphore_fd: has(khr::external_semaphore_fd::NAME)
                .then(|| khr::external_semaphore_fd::Device::new(instance, &raw)),
            dma_buf: has(ext::external_memory_dma_buf::NAME),
            foreign_queue_family: has(ext::queue_family_foreign::NAME),
            raw,
            calls,
            live,
            lost: AtomicBool::new(false),
            mirrors: Mutex::default(),
        }))
    }
}

struct Parts<'a> {
    adapter: &'a Adapter,
    id: DeviceId,
    calls: Arc<Calls>,
    live: Arc<Live>,
    raw: ash::Device,
    /// The main queue, and the one for moves.
    queues: (QueueChoice, Option<QueueChoice>),
    owned: bool,
}

/// The handle type as which timelines of `adapter` can be exported; empty if they cannot.
fn timeline_export(adapter: &Adapter) -> SemaphoreHandle {
    const HANDLE: SemaphoreHandle = SemaphoreHandle::OPAQUE_FD;
    let mut rows = adapter.external_semaphores().iter();
    let able = rows.any(|row| row.handle == HANDLE && row.timeline && row.exportable);
    if able { HANDLE } else { SemaphoreHandle::empty() }
}

fn create_raw(
    adapter: &Adapter,
    main: QueueIndex,
    transfer: Option<QueueIndex>,
) -> Result<ash::Device> {
    let priorities = [1.0; 2];
    let family = |family, count| {
        let info = vk::DeviceQueueCreateInfo::default().queue_family_index(family);
        info.queue_priorities(&priorities[..count])
    };
    // A family is named once (VUID-VkDeviceCreateInfo-queueFamilyIndex-02802).
    let queues: SmallVec<[_; 2]> = match transfer {
        None => smallvec![family(main.family, 1)],
        Some(at) if at.family == main.family => smallvec![family(main.family, 2)],
        Some(at) => smallvec![family(main.family, 1), family(at.family, 1)],
    };
    let extensions: Vec<_> = adapter.device_extensions().iter().map(|name| name.as_ptr()).collect();
    let mut timeline =
        vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
    let info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut timeline);
    // SAFETY: the families exist and have that many queues, the extensions were enumerated, and the feature was
    // found to be supported when the adapter was read; all pointers outlive the call.
    unsafe { adapter.instance().raw().create_device(adapter.physical(), &info, None) }
        .map_err(|code| Error::vulkan("vkCreateDevice", adapter.name(), code))
}
