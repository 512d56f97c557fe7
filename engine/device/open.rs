//! Creates devices: opened by peerbuf, or adopted from an application.
#![expect(unsafe_code, reason = "creating the device, loading its extensions")]

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex};

use ash::{ext, khr, vk};
use smallvec::{SmallVec, smallvec};

use super::adapter::Adapter;
use super::adopt::AdoptedDevice;
use super::calls::{Call, Calls};
use super::export_thread::ExportThread;
use super::external::SemaphoreHandle;
use super::id::DeviceId;
use super::inner::DeviceInner;
use super::queues::{self, QueueChoice, QueueIndex, QueueKind, Queues};
use crate::error::{Error, Result};
use crate::observe::{Live, Object};

impl DeviceInner {
    /// Opens a device on `adapter`; with a queue for moves, and with buffer device addresses, if they are wanted and
    /// the adapter has them.
    pub(crate) fn open(
        adapter: &Adapter,
        (transfer_queue, device_addresses): (bool, bool),
        id: DeviceId,
        calls: Arc<Calls>,
        live: Arc<Live>,
    ) -> Result<Arc<Self>> {
        adapter.check_openable()?;
        let family = adapter.compute_family()?;
        let main = QueueIndex { family, index: 0 };
        let transfer =
            queues::choose_transfer(adapter.queue_families(), family).filter(|_| transfer_queue);
        let extensions = adapter.device_extensions();
        let device_addresses = device_addresses && adapter.has_device_addresses();
        let raw = create_raw(adapter, (main, transfer), extensions, device_addresses)
            .map_err(|code| Error::vulkan("vkCreateDevice", adapter.name(), code))?;
        let queues = own_queues(main, transfer);
        let uses = Uses { device_addresses, ..Uses::default() };
        let parts =
            Parts { adapter, id, calls, live, raw, queues, uses, owned: true, probe: false };
        // SAFETY: `raw` was just created with these queues, these extensions and the feature.
        unsafe { Self::wrap(parts, extensions) }
    }

    /// Opens another device on the adapter of `like`, to prove routes on: with those extensions for sharing that
    /// `like` has, and with queues of the same families. It has the number of `like` and is in no table.
    ///
    /// # Errors
    ///
    /// The error of `vkCreateDevice` or `vkCreateSemaphore`. Some adapters allow few devices at once.
    pub(crate) fn open_probe(like: &Self) -> Result<Arc<Self>> {
        let adapter = &like.adapter;
        let family = like.queue_family(QueueKind::Main);
        let main = QueueIndex { family, index: 0 };
        let transfer = like.transfer_beside(main);
        let extensions = like.sharing_extensions();
        let raw = like
            .calls
            .enter(Call::CreateDevice)
            .and_then(|()| {
                create_raw(adapter, (main, transfer), &extensions, like.device_addresses)
            })
            .map_err(|code| Error::vulkan(Call::CreateDevice.name(), &like.name, code))?;
        let (calls, live) = (Arc::clone(&like.calls), Arc::clone(&like.live));
        let queues = own_queues(main, transfer);
        let uses = Uses {
            stages: like.stages,
            presents: like.presents,
            device_addresses: like.device_addresses,
        };
        let parts = Parts {
            adapter,
            id: like.id,
            calls,
            live,
            raw,
            queues,
            uses,
            owned: true,
            probe: true,
        };
        // SAFETY: as in `open`.
        unsafe { Self::wrap(parts, &extensions) }
    }

    /// The queue for moves of another device that has `main` and the same families; `None` if this one has none.
    fn transfer_beside(&self, main: QueueIndex) -> Option<QueueIndex> {
        let moves = self.queue_for_moves();
        let family = (moves != QueueKind::Main).then(|| self.queue_family(moves))?;
        let index = u32::from(family == main.family);
        // An application may have named one queue twice.
        let queues = self.adapter.queue_families().get(family as usize)?.queue_count;
        (index < queues).then_some(QueueIndex { family, index })
    }

    /// The extensions for sharing that are enabled.
    fn sharing_extensions(&self) -> SmallVec<[&'static CStr; 6]> {
        let enabled = [
            (self.memory_fd.is_some(), khr::external_memory_fd::NAME),
            (self.dma_buf, ext::external_memory_dma_buf::NAME),
            (self.memory_host.is_some(), ext::external_memory_host::NAME),
            (self.semaphore_fd.is_some(), khr::external_semaphore_fd::NAME),
            (self.foreign_queue_family, ext::queue_family_foreign::NAME),
            (self.image_modifiers, ext::image_drm_format_modifier::NAME),
        ];
        enabled.into_iter().filter_map(|(enabled, name)| enabled.then_some(name)).collect()
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
        let AdoptedDevice { stages, presents, device_addresses, .. } = adopted;
        if device_addresses && !adapter.has_device_addresses() {
            let (device, missing) = (adapter.name().to_owned(), "bufferDeviceAddress".into());
            return Err(Error::Unsupported { device, missing });
        }
        let queues = adopted.queues(adapter)?;
        let uses = Uses { stages, presents, device_addresses };
        let parts =
            Parts { adapter, id, calls, live, raw, queues, uses, owned: false, probe: false };
        // SAFETY: the caller's contract is that of `wrap`.
        unsafe { Self::wrap(parts, &extensions) }
    }

    /// # Safety
    ///
    /// `parts.raw` is live, of `parts.adapter`, with exactly `extensions`, timeline semaphores and the
    /// queues enabled; if `owned`, nothing else destroys it.
    unsafe fn wrap(parts: Parts<'_>, extensions: &[&CStr]) -> Result<Arc<Self>> {
        let Parts { adapter, id, calls, live, raw, queues: (main, transfer), uses, owned, probe } =
            parts;
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
            name: format!("{} [{}{}]", adapter.name(), id.0, if probe { ", probe" } else { "" }),
            adapter: adapter.clone(),
            owned,
            stages: uses.stages,
            presents: uses.presents,
            device_addresses: uses.device_addresses,
            // An application does not say whether it is on for its own device.
            host_query_reset: owned && adapter.has_host_query_reset(),
            queues,
            memory_fd: has(khr::external_memory_fd::NAME)
                .then(|| khr::external_memory_fd::Device::new(instance, &raw)),
            memory_host: has(ext::external_memory_host::NAME)
                .then(|| ext::external_memory_host::Device::new(instance, &raw)),
            semaphore_fd: has(khr::external_semaphore_fd::NAME)
                .then(|| khr::external_semaphore_fd::Device::new(instance, &raw)),
            dma_buf: has(ext::external_memory_dma_buf::NAME),
            foreign_queue_family: has(ext::queue_family_foreign::NAME),
            image_modifiers: has(ext::image_drm_format_modifier::NAME),
            memory_priority: has(ext::memory_priority::NAME),
            probe,
            imports: Default::default(),
            raw,
            calls,
            live,
            lost: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            removal: AtomicU8::default(),
            mirrors: Mutex::default(),
            importers: Mutex::default(),
            exports: ExportThread::default(),
        }))
    }
}

/// What an application says about its own uses of a device.
#[derive(Default)]
struct Uses {
    /// Further pipeline stages that are enabled.
    stages: vk::PipelineStageFlags,
    presents: bool,
    /// Whether the feature `bufferDeviceAddress` is on.
    device_addresses: bool,
}

struct Parts<'a> {
    adapter: &'a Adapter,
    id: DeviceId,
    calls: Arc<Calls>,
    live: Arc<Live>,
    raw: ash::Device,
    /// The main queue, and the one for moves.
    queues: (QueueChoice, Option<QueueChoice>),
    uses: Uses,
    owned: bool,
    probe: bool,
}

fn own_queues(
    main: QueueIndex,
    transfer: Option<QueueIndex>,
) -> (QueueChoice, Option<QueueChoice>) {
    let own = |at| QueueChoice { at, lock: None, waits_are_submitted: false };
    (own(main), transfer.map(own))
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
    (main, transfer): (QueueIndex, Option<QueueIndex>),
    extensions: &[&CStr],
    device_addresses: bool,
) -> Result<ash::Device, vk::Result> {
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
    let has_priority = extensions.contains(&ext::memory_priority::NAME);
    let extensions: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    // A driver that has the extension has the feature (Vulkan, "Feature Requirements").
    let mut priority = vk::PhysicalDeviceMemoryPriorityFeaturesEXT::default().memory_priority(true);
    let mut timeline =
        vk::PhysicalDeviceTimelineSemaphoreFeatures::default().timeline_semaphore(true);
    let mut addresses =
        vk::PhysicalDeviceBufferDeviceAddressFeatures::default().buffer_device_address(true);
    let mut queries = vk::PhysicalDeviceHostQueryResetFeatures::default().host_query_reset(true);
    let mut info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_extension_names(&extensions)
        .push_next(&mut timeline);
    if has_priority {
        info = info.push_next(&mut priority);
    }
    if device_addresses {
        info = info.push_next(&mut addresses);
    }
    if adapter.has_host_query_reset() {
        info = info.push_next(&mut queries);
    }
    // SAFETY: the families exist and have that many queues, the extensions were enumerated, and the features were
    // found to be supported when the adapter was read; all pointers outlive the call.
    unsafe { adapter.instance().raw().create_device(adapter.physical(), &info, None) }
}
