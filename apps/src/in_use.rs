//! What work of a device uses is freed once that work has ended, or never.
#![expect(unsafe_code, reason = "a wait for a lost device, and a drop that may be left out")]

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use peerbuf::{Device, Error, Fence};

use crate::{Result, TIMEOUT};

/// Whether something was leaked. Relaxed: it orders nothing.
static LEAKED: AtomicBool = AtomicBool::new(false);

/// Whether something was leaked, because work that uses it has not ended. Its device must not be destroyed.
pub fn has_leaked() -> bool {
    LEAKED.load(Ordering::Relaxed)
}

/// Waits until work of a device has ended. `false`: it has not, and what it uses must be leaked.
///
/// A wait that reports the loss of the device says that nothing is in use there ("Lost Device" in the Vulkan
/// specification), and returns in finite time. A fence of a lost device says less: that it will not signal.
pub fn has_ended(device: &Device, work: &Fence) -> bool {
    // Once work has not ended, each further minute is lost as well.
    let timeout = if has_leaked() { Duration::ZERO } else { TIMEOUT };
    let ended = match work.wait(timeout) {
        // A submission that reports the loss may have begun, and has no fence.
        Ok(()) | Err(Error::WorkFailed { .. }) if !device.is_lost() => true,
        Err(Error::Timeout { .. }) if !device.is_lost() => false,
        _ => device.is_lost() && is_idle(device),
    };
    if !ended {
        LEAKED.store(true, Ordering::Relaxed);
    }
    ended
}

/// Waits until the queue has nothing to do, presents included.
pub(crate) fn is_idle(device: &Device) -> bool {
    device.with_queue(|queue| {
        // SAFETY: the queue's lock is held.
        let waited = unsafe { device.raw().queue_wait_idle(queue) };
        matches!(waited, Ok(()) | Err(ash::vk::Result::ERROR_DEVICE_LOST))
    })
}

/// Something that work of a device uses. Its drop waits until the last work has ended; if it does not end, the thing is
/// leaked.
///
/// # Invariants
///
/// `value` is dropped by `drop` alone.
#[derive(Debug)]
pub struct InUse<T> {
    value: ManuallyDrop<T>,
    device: Device,
    last: Fence,
}

impl<T> InUse<T> {
    /// Something that a device does not use yet.
    pub fn new(device: &Device, value: T) -> Self {
        let (value, device) = (ManuallyDrop::new(value), device.clone());
        Self { value, device, last: Fence::signalled() }
    }

    /// Notes the last work that uses it.
    pub fn used_by(&mut self, work: &Fence) {
        self.last = work.clone();
    }

    /// Whether no work uses it.
    pub fn is_free(&self) -> bool {
        matches!(self.last.is_signalled(), Ok(true) | Err(Error::WorkFailed { .. }))
    }

    /// Waits until no work uses it.
    ///
    /// # Errors
    ///
    /// The work fails, or has not ended for a minute.
    pub fn wait(&self) -> Result<()> {
        Ok(self.last.wait(TIMEOUT)?)
    }

    /// Drops it. Returns whether it was freed.
    pub fn end(self) -> bool {
        has_ended(&self.device, &self.last)
    }
}

impl<T> Deref for InUse<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for InUse<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for InUse<T> {
    fn drop(&mut self) {
        if has_ended(&self.device, &self.last) {
            // SAFETY: the type's invariant.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
