//! The device as every object made on it holds it: its handles and function tables, and its destruction.
#![expect(unsafe_code, reason = "destroying the device")]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ash::{ext, khr, vk};

use super::adapter::Adapter;
use super::calls::Calls;
use super::export_thread::ExportThread;
use super::handle_type::HandleType;
use super::id::DeviceId;
use super::queue::Queue;
use super::queues::{QueueKind, Queues};
use crate::error::{Error, Result};
use crate::observe::{Live, Object};

/// A `VkDevice` with its queues. Every object made on it holds an `Arc` of it.
///
/// # Invariants
///
/// `raw` is live until the end of `drop`, and was created on `adapter` with timeline semaphores. The
/// extension tables are there exactly if the extension was enabled.
pub(crate) struct DeviceInner {
    // Constant after creation.
    pub(super) id: DeviceId,
    pub(super) name: String,
    pub(super) adapter: Adapter,
    pub(super) raw: ash::Device,
    pub(super) owned: bool,
    /// Pipeline stages that an application has enabled, beside the usual ones.
    pub(super) stages: vk::PipelineStageFlags,
    /// Whether the application presents behind peerbuf's submissions.
    pub(super) presents: bool,
    /// Whether the feature `bufferDeviceAddress` is on.
    pub(super) device_addresses: bool,
    /// Whether the feature `hostQueryReset` is on.
    pub(super) host_query_reset: bool,
    pub(super) queues: Queues,
    pub(super) memory_fd: Option<khr::external_memory_fd::Device>,
    pub(super) memory_host: Option<ext::external_memory_host::Device>,
    pub(super) semaphore_fd: Option<khr::external_semaphore_fd::Device>,
    pub(super) dma_buf: bool,
    pub(super) foreign_queue_family: bool,
    pub(super) image_modifiers: bool,
    pub(super) memory_priority: bool,
    /// Whether routes are proved on it, and nothing else is done.
    pub(super) probe: bool,
    /// How many imports of each handle type are alive. Relaxed: only fault injection reads it.
    pub(super) imports: [AtomicU32; HandleType::ALL.len()],
    pub(super) calls: Arc<Calls>,
    pub(super) live: Arc<Live>,
    /// Set once, never cleared. Sequentially consistent, as are the values of the queues (`queue_progress`).
    pub(super) lost: AtomicBool,
    /// Whether the device is lost and a wait has said that nothing submitted to it is in use. Set once.
    /// Release/acquire: as above.
    pub(super) settled: AtomicBool,
    /// Whether the device is leaving the engine or has left it (`leaving`). Sequentially consistent, since references
    /// are counted after it is set.
    pub(super) removal: AtomicU8,
    // Devices are told apart by their addresses, since their numbers repeat from engine to engine. The weak references
    // keep an address from being reused. Each list is protected by its mutex, which is taken alone.
    /// Timelines on this device that mirror those of other devices; kept until one of the two has left, and
    /// until this one ends if the application knows them.
    pub(super) mirrors: Mutex<Mirrors>,
    /// Devices whose queues wait for this device's timelines themselves.
    pub(super) importers: Mutex<Importers>,
    pub(super) exports: ExportThread,
}

/// Timelines on one device that mirror those of others.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    pub(super) all: Vec<(Weak<DeviceInner>, QueueKind, TimelineMirror)>,
    /// Those that the application knows, and may wait for in work of its own.
    pub(super) given: Vec<vk::Semaphore>,
    /// How many threads wait for timelines that unfinished submissions wait for, which may be some of these.
    pub(super) waits: usize,
}

/// Devices whose queues wait for the timelines of another one themselves.
#[derive(Debug, Default)]
pub(super) struct Importers {
    pub(super) all: Vec<Weak<DeviceInner>>,
    /// Whether the waits of those devices were ended, since the other one is lost. Set once.
    pub(super) ended: bool,
}

/// A timeline on one device that mirrors the progress of another device's timeline.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TimelineMirror {
    /// The other device's timeline, imported.
    Shared(vk::Semaphore),
    /// A timeline that the host signals.
    HostSignalled(vk::Semaphore),
}

impl TimelineMirror {
    pub(super) fn raw(self) -> vk::Semaphore {
        let (Self::Shared(raw) | Self::HostSignalled(raw)) = self;
        raw
    }
}

impl DeviceInner {
    pub(crate) fn id(&self) -> DeviceId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    pub(crate) fn raw(&self) -> &ash::Device {
        &self.raw
    }

    pub(super) fn queue(&self, kind: QueueKind) -> &Queue {
        self.queues.get(kind)
    }

    /// The queue that moves are submitted to: the transfer queue if the device has one.
    pub(crate) fn queue_for_moves(&self) -> QueueKind {
        self.queues.for_moves()
    }

    pub(crate) fn queue_family(&self, kind: QueueKind) -> u32 {
        self.queue(kind).family()
    }

    pub(crate) fn calls(&self) -> &Arc<Calls> {
        &self.calls
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// `VK_KHR_external_memory_fd`, if enabled.
    pub(crate) fn memory_fd(&self) -> Option<&khr::external_memory_fd::Device> {
        self.memory_fd.as_ref()
    }

    /// `VK_EXT_external_memory_host`, if enabled.
    pub(crate) fn memory_host(&self) -> Option<&ext::external_memory_host::Device> {
        self.memory_host.as_ref()
    }

    /// Whether `VK_EXT_external_memory_dma_buf` is enabled.
    pub(crate) fn has_dma_buf(&self) -> bool {
        self.dma_buf
    }

    /// Whether `VK_EXT_memory_priority` is enabled.
    pub(crate) fn has_memory_priority(&self) -> bool {
        self.memory_priority
    }

    /// Whether `VK_EXT_queue_family_foreign` is enabled.
    pub(crate) fn has_foreign_queue_family(&self) -> bool {
        self.foreign_queue_family
    }

    /// Whether `VK_EXT_image_drm_format_modifier` is enabled.
    pub(crate) fn has_image_modifiers(&self) -> bool {
        self.image_modifiers
    }

    /// Counts an import of that type, until [`DeviceInner::forget_import`].
    pub(crate) fn note_import(&self, handle: HandleType) {
        self.imports[handle as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the count of an import.
    pub(crate) fn forget_import(&self, handle: HandleType) {
        self.imports[handle as usize].fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn has_import(&self, handle: HandleType) -> bool {
        self.imports[handle as usize].load(Ordering::Relaxed) > 0
    }

    /// `VK_KHR_external_semaphore_fd`, if enabled.
    pub(crate) fn semaphore_fd(&self) -> Option<&khr::external_semaphore_fd::Device> {
        self.semaphore_fd.as_ref()
    }

    /// Checks that the main queue's family supports the stages (VUID-vkCmdPipelineBarrier-srcStageMask-06461).
    pub(crate) fn check_stages(&self, stages: vk::PipelineStageFlags) -> Result<()> {
        use vk::PipelineStageFlags as Stages;
        let everywhere =
            Stages::TOP_OF_PIPE | Stages::BOTTOM_OF_PIPE | Stages::ALL_COMMANDS | Stages::HOST;
        let compute = Stages::TRANSFER | Stages::COMPUTE_SHADER | Stages::DRAW_INDIRECT;
        let graphics = Stages::ALL_GRAPHICS
            | Stages::VERTEX_INPUT
            | Stages::VERTEX_SHADER
            | Stages::FRAGMENT_SHADER
            | Stages::EARLY_FRAGMENT_TESTS
            | Stages::LATE_FRAGMENT_TESTS
            | Stages::COLOR_ATTACHMENT_OUTPUT;
        let family = self.queue_family(QueueKind::Main);
        let flags = self.adapter.queue_flags(family);
        let mut has = everywhere | compute | self.stages;
        if flags.contains(vk::QueueFlags::GRAPHICS) {
            has |= graphics;
        }
        let missing = stages & !has;
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Unsupported {
            device: self.name.clone(),
            missing: format!("{missing:?} on queue family {family}"),
        })
    }

    /// Whether the application presents behind peerbuf's submissions.
    pub(crate) fn presents(&self) -> bool {
        self.presents
    }

    /// Whether the feature `bufferDeviceAddress` is on: then every view has an address.
    pub(crate) fn has_device_addresses(&self) -> bool {
        self.device_addresses
    }

    /// The timeline that counts a queue's submissions.
    pub(crate) fn timeline(&self, kind: QueueKind) -> vk::Semaphore {
        self.queue(kind).timeline().raw()
    }

    /// The error of a call on a device that is lost.
    pub(crate) fn lost_in(&self, call: &'static str) -> Error {
        self.error(call, vk::Result::ERROR_DEVICE_LOST)
    }

    /// Translates a code, and marks the device as lost if the code is `VK_ERROR_DEVICE_LOST`.
    pub(crate) fn error(&self, call: &'static str, code: vk::Result) -> Error {
        if code == vk::Result::ERROR_DEVICE_LOST && !self.lost.swap(true, Ordering::SeqCst) {
            self.calls.note_lost_device();
            tracing::error!(device = self.name, call, "device lost");
        }
        Error::vulkan(call, &self.name, code)
    }
}

impl DeviceInner {
    /// Destroys what was made here with the device, and the device if peerbuf has opened it.
    ///
    /// # Safety
    ///
    /// Nothing that was submitted here is running. All objects of others on the device are destroyed. From here on
    /// nothing uses the device. Called once.
    pub(crate) unsafe fn close(&self) {
        self.live.died(Object::Device);
        if self.owned && self.is_lost() {
            // SAFETY: the device is live, and no other handle to its queues is left that could be in use. An
            // error says that the device is lost, which is known.
            let _ = unsafe { self.raw.device_wait_idle() };
        }
        let mut mirrors = self.mirrors.lock().unwrap_or_else(PoisonError::into_inner);
        for (.., mirror) in mirrors.all.drain(..) {
            // SAFETY: nothing submitted here is running; a bridge that signals it from the host holds the
            // device.
            unsafe { self.raw.destroy_semaphore(mirror.raw(), None) };
        }
        for queue in self.queues.iter() {
            // SAFETY: the caller's contract.
            unsafe { queue.destroy(&self.raw) };
        }
        // SAFETY: the caller's contract.
        unsafe { self.queues.destroy_spare(&self.raw) };
        if self.owned {
            // SAFETY: the caller's contract; what an application made or submitted itself is gone by the contract of
            // `Device::raw`.
            unsafe { self.raw.destroy_device(None) };
        }
    }
}

impl Drop for DeviceInner {
    /// Waits until the device is idle, then destroys it.
    ///
    /// This is the only wait for a GPU in the drop of an object. Every object made on the device keeps it
    /// alive, so at its last drop only our own finished or abandoned work can be left on it. The wait is
    /// bounded: a device that does not become idle is leaked.
    ///
    /// A lost device is waited for as well, by `vkWaitSemaphores` first, which is bounded. If that says that
    /// nothing is in use, `vkDeviceWaitIdle` follows, since Vulkan requires it before the device is destroyed
    /// ("Lost Device"). That call has no timeout, but returns in finite time on a lost device.
    fn drop(&mut self) {
        if self.is_removed() {
            return;
        }
        if !self.wait_while_in_progress(self.calls.end_timeout()) {
            self.live.died(Object::Device);
            tracing::error!(
                device = self.name,
                "device not idle after the timeout; handles leaked"
            );
            // The instance must not be destroyed before the device.
            std::mem::forget(self.adapter.clone());
            return;
        }
        // SAFETY: the wait says that nothing submitted here is running. Everything made on the device holds an `Arc` of
        // it, so all of it is destroyed, and nothing uses the device any more.
        unsafe { self.close() };
    }
}

impl fmt::Debug for DeviceInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceInner").field("name", &self.name).finish_non_exhaustive()
    }
}
