//! Fences as semaphores, for applications that submit and present themselves.

use std::sync::Arc;
use std::time::Duration;

use ash::vk;

use super::bridge::Bridges;
use super::fence::{Fence, Point};
use super::queue_waits::timeline_of;
use crate::device::DeviceInner;
use crate::error::{Error, Result};

/// A timeline semaphore and the value that it has when a fence has signalled: for `VkTimelineSemaphoreSubmitInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FenceSemaphore {
    /// The semaphore. It belongs to peerbuf and lives as long as its device; nothing else may signal it.
    pub semaphore: vk::Semaphore,
    /// The value.
    pub value: u64,
}

impl Fence {
    /// The timeline semaphore of the fence's own device, and its value. `None` for work of the host, for external
    /// fences and for a fence that has signalled from the start.
    ///
    /// The signal is submitted, unless the device was lost with it. For a queue of another device see
    /// [`crate::Engine::fence_semaphore`].
    pub fn semaphore(&self) -> Option<FenceSemaphore> {
        let Point { device, lane, value } = self.point()?;
        Some(FenceSemaphore { semaphore: device.timeline(*lane), value: *value })
    }

    /// Waits until every signal is *submitted* that the fence's work depends on. The work itself may still run.
    ///
    /// Vulkan requires that of what a binary semaphore's signal depends on before anything waits for it, a present
    /// included (VUID-vkQueuePresentKHR-pWaitSemaphores-03268, VUID-vkQueueSubmit-pWaitSemaphores-03238). A queue of
    /// peerbuf may depend on a value that the host signals later ([`crate::WaitRoute::Bridge`]). So call this
    /// between a submission and a present behind it. A device that was adopted with
    /// [`crate::device::AdoptedDevice::presents`], and a submission that signals a binary semaphore
    /// ([`crate::Submission::signal_semaphore`]), do it themselves.
    ///
    /// A move of a buffer adds work to the queue as well. So present before other threads can move a buffer, or call
    /// this for [`crate::Device::submitted`], directly before the present.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`; [`Error::DeviceLost`]; for work of the host and external fences those of
    /// [`Fence::wait`], since they are waited for.
    ///
    /// Locks: none.
    pub fn wait_submitted(&self, timeout: Duration) -> Result<()> {
        let Some(Point { device, lane, value }) = self.point() else { return self.wait(timeout) };
        if device.wait_for_signals(*lane, *value, timeout)? {
            return Ok(());
        }
        let what = format!("the signals that {self} depends on");
        Err(Error::Timeout { what, after: timeout })
    }

    /// The semaphore of `device` that reaches the returned value when the fence has signalled. `None` if it has
    /// signalled already, or if no queue can wait for it.
    pub(crate) fn semaphore_on(
        &self,
        bridges: &Bridges,
        device: &Arc<DeviceInner>,
    ) -> Result<Option<FenceSemaphore>> {
        let Some(point) = self.point().filter(|_| !self.is_over()) else { return Ok(None) };
        let awaited = timeline_of(bridges, device, point)?;
        Ok(awaited.map(|(semaphore, value)| FenceSemaphore { semaphore, value }))
    }
}
