//! An opened or adopted `VkDevice`, as users hold it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ash::vk;

use super::adapter::Adapter;
use super::id::DeviceId;
use super::inner::DeviceInner;
use super::queues::QueueKind;

/// A device that shares buffers: opened by [`crate::Engine::open_device`] or adopted from an application
/// by [`crate::Engine::adopt_device`].
///
/// Cheap to clone. Two devices opened on one adapter are as separate as two GPUs.
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
    /// Handles made from it must be destroyed, and work submitted through it must have finished, before the
    /// last [`Device`] and everything made on it is dropped.
    pub fn raw(&self) -> &ash::Device {
        &self.0.raw
    }

    /// The raw instance, under the same conditions.
    pub fn raw_instance(&self) -> &ash::Instance {
        self.0.adapter.instance().raw()
    }

    /// The family of its queue.
    pub fn queue_family(&self) -> u32 {
        self.0.queue_family(QueueKind::Main)
    }

    /// The family of the queue that moves are submitted to; `None` if that is the main queue.
    pub fn transfer_queue_family(&self) -> Option<u32> {
        let kind = self.0.queue_for_moves();
        (kind != QueueKind::Main).then(|| self.0.queue_family(kind))
    }

    /// How many bits of a timestamp are valid on its queue (`timestampValidBits`); 0 if the queue has no timestamps.
    pub fn timestamp_bits(&self) -> u32 {
        self.0.adapter.timestamp_bits(self.queue_family())
    }

    /// Calls `work` with the raw queue, while nothing else uses it. Moves may be submitted to another queue
    /// ([`Device::transfer_queue_family`]).
    ///
    /// # Panics
    ///
    /// If the application's own [`super::QueueLock`] does not call the work that it is given.
    ///
    /// Locks: the queue's. `work` must not submit through peerbuf on this device, nor do anything else that takes a
    /// buffer's reservation: other threads hold a reservation while they wait for the queue. Dropping mappings,
    /// attachments, pins and open accesses is allowed: what has to wait is deferred.
    pub fn with_queue<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> R {
        let out = self.0.queue(QueueKind::Main).with_raw(work);
        out.expect("the application's QueueLock calls the work that it is given")
    }

    /// As [`Device::with_queue`], with the queue that moves are submitted to; `None` if that is the main queue.
    #[cfg(feature = "testing")]
    pub fn with_transfer_queue<R>(&self, work: impl FnOnce(vk::Queue) -> R) -> Option<R> {
        let kind = self.0.queue_for_moves();
        (kind != QueueKind::Main).then(|| self.0.queue(kind).with_raw(work)).flatten()
    }

    /// Waits, for at most `timeout`, until nothing that peerbuf submitted to any of its queues is in use; returns
    /// whether that is so.
    ///
    /// Locks: the queues', one at a time.
    #[cfg(feature = "testing")]
    pub fn wait_until_unused(&self, timeout: std::time::Duration) -> bool {
        self.0.wait_until_unused(timeout)
    }

    /// Whether a call has reported that the device is lost.
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

impl Hash for Device {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

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
