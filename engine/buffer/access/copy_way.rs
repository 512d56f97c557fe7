//! The ways to copy between two buffers, and a copy that was made by one of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::device::{Device, Timestamps};
use crate::error::{Error, Result};
use crate::sync::Fence;

/// What copies, for [`crate::Engine::copy_by`].
///
/// Of a copy from one device's memory to another's, the device that is named says who acts: the home device of the source
/// *pushes*, and that of the destination *pulls*. It needs a view of both buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyBy {
    /// A copy command on the main queue of a device.
    MainQueue(Device),
    /// A copy command on the queue that a device has for moves ([`Device::transfer_queue_family`]): on GPUs, a copy engine.
    TransferQueue(Device),
    /// A compute pass on the main queue of a device. Offsets of the region are multiples of 256 bytes, and its length is a
    /// multiple of 4.
    ComputePass(Device),
    /// The calling thread, through the processor's caches.
    Host,
    /// The calling thread, with stores that bypass the processor's caches. On memory that the processor does not cache they
    /// are those of [`CopyBy::Host`].
    HostPastCache,
    /// Both home devices, each between its buffer and staging memory of its own, and the calling thread between the two:
    /// in steps that overlap.
    Ring,
}

impl CopyBy {
    /// The short name used in reports and JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MainQueue(_) => "main_queue",
            Self::TransferQueue(_) => "transfer_queue",
            Self::ComputePass(_) => "compute_pass",
            Self::Host => "host",
            Self::HostPastCache => "host_past_cache",
            Self::Ring => "ring",
        }
    }

    /// The device that acts, if it is one.
    pub const fn device(&self) -> Option<&Device> {
        match self {
            Self::MainQueue(device) | Self::TransferQueue(device) | Self::ComputePass(device) => {
                Some(device)
            }
            Self::Host | Self::HostPastCache | Self::Ring => None,
        }
    }
}

impl fmt::Display for CopyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device() {
            Some(device) => write!(f, "{} of {}", self.name(), device.name()),
            None => f.write_str(self.name()),
        }
    }
}

/// A way to copy between two buffers, from [`crate::Engine::copy_ways`].
#[derive(Debug)]
#[non_exhaustive]
pub struct CopyWay {
    /// What would copy.
    pub by: CopyBy,
    /// Why it cannot: the error of such a copy. `None` if it can.
    pub missing: Option<Error>,
}

/// A copy that was begun by [`crate::Engine::copy_by`].
#[derive(Debug)]
pub struct CopyRun {
    pub(super) fence: Fence,
    pub(super) bytes: u64,
    pub(super) stamps: Option<Arc<Timestamps>>,
    /// By the device's clock, of a pass that has ended.
    pub(super) time: Option<Duration>,
}

impl CopyRun {
    /// A copy that is done, and of which no device has measured the time.
    pub(super) fn done(bytes: u64) -> Self {
        Self { fence: Fence::signalled(), bytes, stamps: None, time: None }
    }

    /// Signals when the bytes are in the destination.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// How many bytes it copies.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long the copy command took on its queue, by the device's own clock: from the moment at which all earlier commands
    /// of the queue had ended. Of a compute pass, the sum of its dispatches.
    ///
    /// `None` while it runs; for the host and the ring, which no timestamps measure; for
    /// queues without timestamps (`timestampValidBits`), devices without the feature `hostQueryReset`, and adopted ones.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], or another error of `vkGetQueryPoolResults`.
    pub fn device_time(&self) -> Result<Option<Duration>> {
        self.stamps.as_ref().map_or(Ok(self.time), |stamps| stamps.elapsed())
    }
}
