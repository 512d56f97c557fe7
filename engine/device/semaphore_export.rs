//! Exports of sync files, with a bound.
//!
//! `vkGetSemaphoreFdKHR` of a sync file needs a fence of the kernel's. Mesa waits for it without a bound while the thread
//! that makes a device's submissions has not reached the signal (`vulkan/runtime/vk_semaphore.c`), and that thread waits
//! for as long as the kernel accepts nothing. Callers hold reservations, so a thread of peerbuf's makes the call.
//!
//! That thread keeps the device for the time of a call only. A call that never returns keeps it for ever, as work that
//! makes no progress does.
#![expect(unsafe_code, reason = "exporting a semaphore of a live device")]

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::external::SemaphoreHandle;
use super::inner::DeviceInner;
use super::queues::QueueKind;
use super::semaphore::OwnedSemaphore;
use crate::error::{Error, Result};

/// How long a caller waits for the call, at most. It holds reservations, and there is another way.
const BOUND: Duration = Duration::from_millis(250);

impl DeviceInner {
    /// Whether an export of a sync file is not worth a try: an earlier one has not returned.
    pub(crate) fn exports_are_stuck(&self) -> bool {
        self.exports.is_stuck()
    }

    /// Exports the payload of a semaphore as a sync file, and keeps the semaphore until the queue's timeline has reached
    /// the value. `Ok(None)` if the driver says that it has signalled already.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after 250 ms: the file is closed once the call returns. What the call or the start of the thread
    /// reports.
    ///
    /// # Safety
    ///
    /// `semaphore` is one of this device, created for export as a `SYNC_FD`. Its signal has been submitted to the queue
    /// `at` with that value, as has everything that it depends on, and nothing waits for it.
    ///
    /// Locks: the queue's, on the other thread.
    pub(crate) unsafe fn export_sync_file(
        self: &Arc<Self>,
        at: (QueueKind, u64),
        semaphore: OwnedSemaphore<'_>,
    ) -> Result<Option<OwnedFd>> {
        let (reply, answer) = mpsc::sync_channel(1);
        let (device, raw) = (Arc::clone(self), semaphore.raw());
        let export = move || {
            // SAFETY: the caller's contract.
            let fd = unsafe { device.export_semaphore(raw, SemaphoreHandle::SYNC_FD) };
            device.keep_raw_until(at, raw, matches!(fd, Ok(Some(_))));
            // Before the answer: the caller's device must not end on this thread.
            drop(device);
            // Nothing waits for it after the bound; the file is closed then.
            let _ = reply.send(fd);
        };
        let number = match self.exports.give(self.id(), Box::new(export)) {
            Ok(number) => number,
            Err(error) => {
                self.keep_until(at, semaphore, false);
                return Err(error);
            }
        };
        // It is the thread's now.
        semaphore.into_raw();
        answer.recv_timeout(BOUND).unwrap_or_else(|_| {
            self.exports.give_up(number);
            let what = format!("vkGetSemaphoreFdKHR of {}", self.name());
            Err(Error::Timeout { what, after: BOUND })
        })
    }
}
