//! Submissions that the driver rejected because the device is lost. They count as submitted.
//!
//! Vulkan, "Lost Device": to find out whether resources are in use, `VK_ERROR_DEVICE_LOST` is equivalent to
//! `VK_SUCCESS`. Drivers of Mesa report it when one submission fails, for want of memory too.

use std::sync::Arc;

use super::fence::Fence;
use crate::device::{DeviceInner, QueueKind};

/// Finds out, after a submission has failed, whether it may use memory all the same.
pub(crate) struct RejectionWatch<'d> {
    device: &'d Arc<DeviceInner>,
    lane: QueueKind,
    /// Nothing is submitted to a device that was lost before.
    was_lost: bool,
}

impl<'d> RejectionWatch<'d> {
    /// To be called before the submission to `lane`.
    pub(crate) fn new(device: &'d Arc<DeviceInner>, lane: QueueKind) -> Self {
        Self { device, lane, was_lost: device.is_lost() }
    }

    /// The watch of a submission to the main queue.
    pub(crate) fn main(device: &'d Arc<DeviceInner>) -> Self {
        Self::new(device, QueueKind::Main)
    }

    /// The fence of the submission, which has failed: that of a rejected submission, whose memory must not be
    /// used before [`Fence::is_released`]; otherwise [`Fence::signalled`].
    pub(crate) fn fence(&self) -> Fence {
        let rejected = if self.was_lost { None } else { self.device.rejected(self.lane) };
        rejected.map_or_else(Fence::signalled, |value| Fence::on(self.device, self.lane, value))
    }
}
