//! Taking part in an application's own device.

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::adapter::Adapter;
use super::instance::Instance;
use super::queue::QueueLock;
use crate::error::Result;

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
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}
