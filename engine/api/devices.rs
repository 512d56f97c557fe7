//! Devices: found, opened, adopted, unplugged.
#![expect(unsafe_code, reason = "adopting what only the caller can vouch for")]

use std::sync::Arc;

use super::engine::Engine;
use crate::buffer;
use crate::core::UnplugReport;
use crate::device::{Adapter, AdapterSelector, AdoptedDevice, Device, DeviceId, DeviceInner};
use crate::error::Result;
use crate::memory::DomainId;
use crate::transfer::CopySpeeds;

/// # Devices
///
/// Adapters are what the machine has. A device is opened on an adapter, or adopted from the application.
impl Engine {
    /// The adapters, in the loader's order.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// Finds the adapter that matches `selector`.
    ///
    /// # Errors
    ///
    /// [`crate::Error::UnknownDevice`].
    pub fn adapter(&self, selector: AdapterSelector) -> Result<&Adapter> {
        selector.find(&self.adapters)
    }

    /// Opens a device. Each call opens another one: an adapter that is opened twice is two devices.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Unsupported`] if the adapter lacks something, or the error of `vkCreateDevice`.
    pub fn open_device(&self, adapter: &Adapter) -> Result<Device> {
        let (calls, live) = (Arc::clone(&self.set.core.calls), Arc::clone(&self.set.core.live));
        let wanted = (self.transfer_queues, self.device_addresses);
        self.join(|id| DeviceInner::open(adapter, wanted, id, calls, live))
    }

    /// Adopts an application's own device.
    ///
    /// While routes from or to it are proved, peerbuf opens another device on `physical`, with those of the named
    /// extensions that it uses, and closes it again ([`Engine::route`]). Nothing is tried on the application's.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Unsupported`] if its queue cannot compute, if the queue for moves cannot copy, or for two
    /// locks around one queue; the error of a call.
    ///
    /// # Safety
    ///
    /// * `entry`, `instance`, `physical` and `device` belong together and are live; the instance was
    ///   created for Vulkan 1.2 or newer;
    /// * `device` was created with exactly the extensions named, with the feature `timelineSemaphore`, with
    ///   `bufferDeviceAddress` if that is named, and with the queues named, without `VkDeviceQueueCreateFlags`;
    /// * the further pipeline stages named are valid on the main queue's family with what was enabled;
    /// * nothing else uses those queues, except through [`Device::with_queue`] or under their locks;
    /// * `device` stays alive until [`Engine::remove_device`] has removed it, or until this engine, every buffer of it,
    ///   everything made from those, every fence (also one that was given to another engine), and every [`Device`]
    ///   handle is gone; `instance` as long as those.
    pub unsafe fn adopt_device(&self, adopted: AdoptedDevice) -> Result<Device> {
        let (entry, instance) = (adopted.entry.clone(), adopted.instance.clone());
        // SAFETY: the caller's contract.
        let adapter = unsafe { Adapter::of(entry, instance, adopted.physical) }?;
        let (calls, live) = (Arc::clone(&self.set.core.calls), Arc::clone(&self.set.core.live));
        self.join(|id| {
            // SAFETY: the caller's contract.
            unsafe { DeviceInner::adopt(adopted, &adapter, id, calls, live) }
        })
    }

    fn join(&self, open: impl FnOnce(DeviceId) -> Result<Arc<DeviceInner>>) -> Result<Device> {
        let core = &self.set.core;
        let system = &core.domain_state(DomainId::System).ledger;
        let device = core.devices.join(core.throttle.options(), system, open)?;
        core.providers.joined(&device);
        core.recall_routes(&device);
        self.set.core.tracer.device(device.id(), device.name());
        Ok(Device(device))
    }

    /// The devices that take part, in the order of their ids.
    pub fn devices(&self) -> Vec<Device> {
        self.set.core.devices.devices().map(Device).collect()
    }

    /// How fast the host and `device` copy, as set by [`crate::EngineDescriptor::copy_speeds`] or as measured.
    /// `None` before the measurement.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    pub fn copy_speeds(&self, device: &Device) -> Result<Option<CopySpeeds>> {
        self.set.core.check(&device.0)?;
        Ok(self.set.core.known_speeds(device.id()).cloned())
    }

    /// Unplugs a device that is lost ([`crate::Error::DeviceLost`]) or is about to be removed, for good.
    ///
    /// Of the buffers in its memory, those with a clean copy elsewhere continue as that copy. The others are
    /// poisoned until their content is accepted ([`crate::SharedBuffer::accept_content`]) and they are moved
    /// elsewhere. Importers are notified ([`crate::InvalidationCause::Evict`]). Other buffers and devices are not
    /// affected. From then on nothing moves into the device's memory, and a move into it, or a new buffer whose
    /// home it is, fails with [`crate::Error::DeviceLost`]. If a buffer would be lost while a move of it waits for
    /// work of the host, the call waits for that move, for at most the engine timeout.
    ///
    /// The engine does this by itself when a call has reported a loss: the next operation that creates or uses a
    /// buffer, on this device or another, begins with it.
    ///
    /// A device is unplugged once. Later calls return the same report; while another thread unplugs the device,
    /// what it has done so far.
    ///
    /// A buffer that devices may use only in that memory ([`crate::Placement::Vram`]), and that is kept elsewhere,
    /// keeps its content: the host reads it, [`Engine::copy`] copies it. A use by a device fails with
    /// [`crate::Error::DeviceLost`] until [`crate::SharedBuffer::migrate`] chooses another domain.
    ///
    /// To remove a device that still works, call [`Engine::evict_all`] first, which evicts buffers of any placement.
    /// What it reports as evicted is not lost. What stayed, for example pinned buffers, is lost.
    ///
    /// # Errors
    ///
    /// [`crate::Error::ForeignEngine`].
    ///
    /// # Panics
    ///
    /// If an importer panics, once all buffers are handled.
    ///
    /// Locks: each buffer's reservation, one at a time, but not while waiting.
    #[doc(alias = "abandon")]
    #[doc(alias = "drm_dev_unplug")]
    pub fn unplug(&self, device: &Device) -> Result<UnplugReport> {
        self.set.core.check(&device.0)?;
        Ok(buffer::unplug(&self.set, &device.0))
    }

    /// Removes a device from the engine. Afterwards an application may destroy the `VkDevice` that it has had adopted
    /// ([`Engine::adopt_device`]); one that the engine has opened is destroyed.
    ///
    /// Buffers in the device's memory move to system memory first; of those elsewhere it is no longer the home device.
    /// Then the device is unplugged ([`Engine::unplug`]), its submitted work ends, and what the engine has on it is
    /// destroyed: imports, staging memory, kernels, timelines. Other devices go on. The device's number is not used
    /// again, and every operation on its domain fails with [`crate::Error::DeviceRemoved`]; so do operations on the device
    /// during the call, and uses of a buffer that may be used in its memory alone ([`crate::Placement::Vram`]), until
    /// [`crate::SharedBuffer::migrate`] chooses another domain.
    ///
    /// `device` must be the last handle to it, and all its fences must have been dropped, also those of failed work that
    /// poisoned buffers keep ([`crate::SharedBuffer::accept_content`]). A device that is lost is removed in the same way
    /// once a wait has said that nothing is in use on it. Buffers whose content was lost with it are dropped first, or
    /// moved.
    ///
    /// Waits for the device's work while there is progress within the engine timeout, and a moment for other threads to
    /// end what they were doing.
    ///
    /// # Errors
    ///
    /// These change nothing:
    ///
    /// * [`crate::Error::DeviceInUse`] while the device has attachments or mappings;
    /// * [`crate::Error::DeviceRemoved`] if another thread removes it; [`crate::Error::ForeignEngine`].
    ///
    /// [`crate::Error::DeviceInUse`] if buffers cannot leave its memory, since they are pinned or exported, or there is no
    /// room. Other buffers may have moved to system memory by then.
    ///
    /// After the following the device is unplugged for good, and remains. [`Engine::devices`] has the handle for another
    /// call, which goes on with the removal:
    ///
    /// * [`crate::Error::DeviceInUse`] with the number of buffers that have no other home: there is no other working device,
    ///   they were imported by this device, or their content was lost with it;
    /// * [`crate::Error::DeviceInUse`] with the number of other handles, which are also fences, and operations of other
    ///   threads. If another engine waits for fences of the device, that engine watches the device, which stays in use
    ///   until that engine is dropped;
    /// * [`crate::Error::Timeout`] if its work makes no progress within the engine timeout;
    /// * [`crate::Error::DeviceLost`] if it is lost, and may still be at work.
    ///
    /// [`crate::Error::Timeout`] also if another thread handles the loss of a device for longer than the engine timeout; the
    /// device is not unplugged then.
    ///
    /// # Panics
    ///
    /// As [`Engine::unplug`].
    ///
    /// Locks: as [`Engine::unplug`].
    #[doc(alias = "drm_dev_unregister")]
    pub fn remove_device(&self, device: Device) -> Result<()> {
        self.set.core.check(&device.0)?;
        self.set.handle_lost_devices();
        buffer::remove(&self.set, device)
    }
}
