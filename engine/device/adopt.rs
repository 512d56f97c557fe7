//! Taking part in an application's own device.

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::adapter::Adapter;
use super::instance::Instance;
use super::lane::{QueueChoice, QueueIndex, copies};
use super::queue_lock::QueueLock;
use crate::error::{Error, Result};

/// An application's Vulkan objects, for [`crate::Engine::adopt_device`].
///
/// Before it creates its device, the application asks [`crate::device::instance_extensions`] and
/// [`crate::Adapter::device_extensions`] what to enable; what it did enable it says here.
pub struct AdoptedDevice {
    /// What `instance` was loaded through.
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
    /// The lock that the application takes around its own uses of that queue; `None` if it uses the
    /// queue only through [`crate::Device::with_queue`], or not at all.
    pub queue_lock: Option<Arc<dyn QueueLock>>,
    /// A further queue, for moves, so that they run beside everything else; `None` if they are to go to the
    /// one above. It may be the same one.
    pub transfer_queue: Option<AdoptedQueue>,
}

/// A further queue of an application's device, for [`AdoptedDevice::transfer_queue`].
#[derive(Clone)]
pub struct AdoptedQueue {
    /// Its family: one that copies buffers.
    pub family: u32,
    /// Its index in the family.
    pub index: u32,
    /// The lock that the application takes around its own uses of it; `None` if nobody else uses it. For one
    /// queue there is one lock: if this is the main one, either names it, or both the same.
    pub lock: Option<Arc<dyn QueueLock>>,
}

impl AdoptedDevice {
    /// Its queues: the main one, and one for moves.
    pub(super) fn queues(self, adapter: &Adapter) -> Result<(QueueChoice, Option<QueueChoice>)> {
        let missing = |missing| Error::Unsupported { device: adapter.name().to_owned(), missing };
        let family = self.queue_family;
        if !adapter.queue_flags(family).contains(vk::QueueFlags::COMPUTE) {
            return Err(missing(format!("compute on queue family {family}")));
        }
        let at = QueueIndex { family, index: self.queue_index };
        let main = QueueChoice { at, lock: self.queue_lock };
        let Some(AdoptedQueue { family, index, lock }) = self.transfer_queue else {
            return Ok((main, None));
        };
        if !copies(adapter.queue_flags(family)) {
            return Err(missing(format!("copies on queue family {family}")));
        }
        let transfer = QueueChoice { at: QueueIndex { family, index }, lock };
        if transfer.at != at {
            return Ok((main, Some(transfer)));
        }
        let lock = match (main.lock, transfer.lock) {
            (Some(one), Some(other)) if !Arc::ptr_eq(&one, &other) => {
                return Err(missing("one lock for one queue".into()));
            }
            (one, other) => one.or(other),
        };
        let both = || QueueChoice { at, lock: lock.clone() };
        Ok((both(), Some(both())))
    }
}

impl Adapter {
    /// The facts of an application's physical device, before it creates its device:
    /// [`Adapter::device_extensions`] says what to enable.
    ///
    /// # Errors
    ///
    /// What the queries said.
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
