//! An opened or adopted `VkDevice`, as users hold it.

use std::fmt;
use std::sync::Arc;

use ash::vk;

use super::adapter::Adapter;
use super::inner::DeviceInner;
use super::lane::Lane;

/// Number of a device within its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub(crate) u16);

impl DeviceId {
    /// The number, from 0 in the order of opening.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// A device that takes part: opened by [`crate::Engine::open_device`] or adopted from an application
/// by [`crate::Engine::adopt_device`].
///
/// Cheap to clone. Two devices opened on one adapter are two devices, as different as two GPUs.
#[derive(Clone)]
pub struct Device(pub(crate) Arc<DeviceInner>);

impl Device {
    /// Its number within its engine.
    pub fn id(&self) -> DeviceId {
        self.0.id
    }

    /// The adapter it was opened on.
    pub fn adapter(&self) -> &Adapter {
        &self.0.adapter
    }

    /// The adapter's name and the device's number, as errors and reports show it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The raw device with its function table, for applications that record their own commands.
    ///
    /// Handles made from it must be gone, and work submitted through it be over, before the last
    /// [`Device`] and everything made on it is gone.
    pub fn raw(&self) -> &ash::Device {
        &self.0.raw
    }

    /// The raw instance, likewise.
    pub fn raw_instance(&self) -> &ash::Instance {
        self.0.adapter.instance().raw()
    }

    /// The family of its queue.
    pub fn queue_family(&self) -> u32 {
        self.0.queue_family(Lane::Main)
    }

    /// The family of the queue that moves go to beside that one; `None` if they go to the same one.
    pub fn transfer_queue_family(&self) -> Option<u32> {
        let lane = self.0.lane_for_moves();
        (lane != Lane::Main).then(|| self.0.queue_family(lane))
    }

    /// Calls `work` with the raw queue, while nobody else uses it. Moves may go to another one
    /// ([`Device::transfer_queue_family`]).
    ///
    /// # Panics
    ///
    /// If the application's own [`super::QueueLock`] does not call the work that it is given.
    ///
    /// Locks: the queue's. `work` must not submit through peerbuf on this device, nor do anything that
    /// takes a buffer's reservation, dropping mappings and ending accesses included: others hold a
    /// reservation while they wait for the queue.
    pub fn with_queue<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> R {
        let out = self.0.queue(Lane::Main).with_raw(work);
        out.expect("the application's QueueLock calls the work that it is given")
    }

    /// Whether a call has found the device to be lost.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost()
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("id", &self.0.id.0)
            .field("adapter", &self.0.adapter)
            .field("owned", &self.0.owned)
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Device>();
};
