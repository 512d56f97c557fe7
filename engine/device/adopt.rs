//! Adoption of an application's own device.

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::adapter::Adapter;
use super::instance::Instance;
use super::queue_lock::QueueLock;
use super::queues::{QueueChoice, QueueIndex, copies};
use crate::error::{Error, Result};

/// An application's Vulkan objects, for [`crate::Engine::adopt_device`].
///
/// [`crate::device::instance_extensions`] and [`crate::Adapter::device_extensions`] list what the application
/// should enable when it creates its instance and device. What it has enabled is stated here.
#[non_exhaustive]
pub struct AdoptedDevice {
    /// The entry points that `instance` was loaded through.
    pub entry: ash::Entry,
    /// The instance; `VkApplicationInfo::apiVersion` at least 1.2.
    pub instance: ash::Instance,
    /// The physical device that `device` was created on.
    pub physical: vk::PhysicalDevice,
    /// The device; feature `timelineSemaphore` on.
    pub device: ash::Device,
    /// The device extensions that were enabled.
    pub extensions: Vec<&'static CStr>,
    /// Family of the queue that peerbuf may use; compute and transfer.
    pub queue_family: u32,
    /// Index of that queue in its family.
    pub queue_index: u32,
    /// The lock that the application holds around its own uses of that queue; `None` if it uses the
    /// queue only through [`crate::Device::with_queue`], or not at all.
    pub queue_lock: Option<Arc<dyn QueueLock>>,
    /// A second queue, for moves, so that they run in parallel with other work; `None` to submit moves to the
    /// queue above. It may be the same queue.
    pub transfer_queue: Option<AdoptedQueue>,
    /// Pipeline stages that the enabled features and extensions allow on `queue_family`, beside those that every
    /// queue of its kind has: tessellation, geometry, task and mesh shaders, ray tracing and others. Scopes may name
    /// them ([`crate::Scope`]).
    pub stages: vk::PipelineStageFlags,
    /// Whether the application presents images behind peerbuf's submissions to the main queue. Then each submission
    /// returns only when every signal that it depends on is submitted, as `vkQueuePresentKHR` requires
    /// (VUID-vkQueuePresentKHR-pWaitSemaphores-03268). See [`crate::Fence::wait_submitted`].
    pub presents: bool,
    /// Whether no submission of the application to these queues waits for a timeline value whose signal is not
    /// submitted yet. Then other devices may wait for the queues by sync files and other binary semaphores, which
    /// forbid such waits (VUID-VkSemaphoreGetFdInfoKHR-handleType-03254). Without this promise a thread of the host
    /// makes them wait for a queue that the application uses itself.
    pub waits_are_submitted: bool,
    /// Whether the feature `bufferDeviceAddress` is enabled, and buffers of peerbuf have addresses on the device
    /// ([`crate::Mapping::device_address`]). All their memory then has `VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT`.
    pub device_addresses: bool,
}

/// A second queue of an application's device, for [`AdoptedDevice::transfer_queue`].
#[derive(Clone)]
#[non_exhaustive]
pub struct AdoptedQueue {
    /// Its family, which must support copies of buffers.
    pub family: u32,
    /// Its index in the family.
    pub index: u32,
    /// The lock that the application holds around its own uses of the queue; `None` if it does not use the
    /// queue. One queue has one lock: if this is the main queue, one of the two fields may name the lock, or
    /// both the same one.
    pub lock: Option<Arc<dyn QueueLock>>,
}

impl AdoptedQueue {
    /// A queue that the application does not use itself.
    pub fn new(family: u32, index: u32) -> Self {
        Self { family, index, lock: None }
    }

    /// Sets the lock that the application holds around its own uses of the queue.
    #[must_use]
    pub fn lock(mut self, lock: Arc<dyn QueueLock>) -> Self {
        self.lock = Some(lock);
        self
    }
}

impl AdoptedDevice {
    /// An application's device with one queue, the first of `queue_family`, which no lock protects. The fields
    /// have the conditions.
    pub fn new(
        entry: ash::Entry,
        instance: ash::Instance,
        physical: vk::PhysicalDevice,
        device: ash::Device,
        extensions: Vec<&'static CStr>,
        queue_family: u32,
    ) -> Self {
        Self {
            entry,
            instance,
            physical,
            device,
            extensions,
            queue_family,
            queue_index: 0,
            queue_lock: None,
            transfer_queue: None,
            stages: vk::PipelineStageFlags::empty(),
            presents: false,
            waits_are_submitted: false,
            device_addresses: false,
        }
    }

    /// Sets whether buffers have addresses, for which the feature `bufferDeviceAddress` is enabled.
    #[must_use]
    pub fn device_addresses(mut self, enabled: bool) -> Self {
        self.device_addresses = enabled;
        self
    }

    /// Promises that no submission of the application waits for a signal that is not submitted yet.
    #[must_use]
    pub fn waits_are_submitted(mut self, promised: bool) -> Self {
        self.waits_are_submitted = promised;
        self
    }

    /// Sets whether the application presents behind peerbuf's submissions.
    #[must_use]
    pub fn presents(mut self, presents: bool) -> Self {
        self.presents = presents;
        self
    }

    /// Sets the further pipeline stages that are enabled.
    #[must_use]
    pub fn stages(mut self, stages: vk::PipelineStageFlags) -> Self {
        self.stages = stages;
        self
    }

    /// Sets the index of the queue in its family.
    #[must_use]
    pub fn queue_index(mut self, index: u32) -> Self {
        self.queue_index = index;
        self
    }

    /// Sets the lock that the application holds around its own uses of the queue.
    #[must_use]
    pub fn queue_lock(mut self, lock: Arc<dyn QueueLock>) -> Self {
        self.queue_lock = Some(lock);
        self
    }

    /// Sets a second queue, for moves.
    #[must_use]
    pub fn transfer_queue(mut self, queue: AdoptedQueue) -> Self {
        self.transfer_queue = Some(queue);
        self
    }

    /// The main queue, and the one for moves.
    pub(super) fn queues(self, adapter: &Adapter) -> Result<(QueueChoice, Option<QueueChoice>)> {
        let missing = |missing| Error::Unsupported { device: adapter.name().to_owned(), missing };
        let family = self.queue_family;
        if !adapter.queue_flags(family).contains(vk::QueueFlags::COMPUTE) {
            return Err(missing(format!("compute on queue family {family}")));
        }
        let at = QueueIndex { family, index: self.queue_index };
        let waits_are_submitted = self.waits_are_submitted;
        let main = QueueChoice { at, lock: self.queue_lock, waits_are_submitted };
        let Some(AdoptedQueue { family, index, lock }) = self.transfer_queue else {
            return Ok((main, None));
        };
        if !copies(adapter.queue_flags(family)) {
            return Err(missing(format!("copies on queue family {family}")));
        }
        let at_transfer = QueueIndex { family, index };
        let transfer = QueueChoice { at: at_transfer, lock, waits_are_submitted };
        if transfer.at != at {
            return Ok((main, Some(transfer)));
        }
        let lock = match (main.lock, transfer.lock) {
            (Some(one), Some(other)) if !Arc::ptr_eq(&one, &other) => {
                return Err(missing("one lock for one queue".into()));
            }
            (one, other) => one.or(other),
        };
        let both = || QueueChoice { at, lock: lock.clone(), waits_are_submitted };
        Ok((both(), Some(both())))
    }
}

impl Adapter {
    /// Reads the facts of an application's physical device, before the application creates its device:
    /// [`Adapter::device_extensions`] lists what to enable.
    ///
    /// # Errors
    ///
    /// [`Error::Vulkan`] if a query fails.
    ///
    /// # Safety
    ///
    /// `physical` belongs to `instance`, which was loaded through `entry`, was created for Vulkan 1.2 or
    /// newer, and outlives the result and every clone of it.
    #[expect(unsafe_code, reason = "only the caller knows its instance")]
    pub unsafe fn of(
        entry: ash::Entry,
        instance: ash::Instance,
        physical: vk::PhysicalDevice,
    ) -> Result<Self> {
        // SAFETY: the caller's contract.
        let instance = unsafe { Instance::adopt(entry, instance) };
        let list = instance.physical_devices()?;
        let index = list.iter().position(|&listed| listed == physical);
        Self::read(&instance, physical, index.unwrap_or(0))
    }
}

impl fmt::Debug for AdoptedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptedDevice")
            .field("physical", &self.physical)
            .field("queue_family", &self.queue_family)
            .field("queue_index", &self.queue_index)
            .field("transfer_queue", &self.transfer_queue)
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AdoptedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdoptedQueue")
            .field("family", &self.family)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
