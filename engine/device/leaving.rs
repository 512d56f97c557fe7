//! A device that leaves its engine: marked first, so that nothing new begins on it, and destroyed last.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inner::DeviceInner;

/// In [`DeviceInner::removal`]: takes part.
const PRESENT: u8 = 0;
/// Nothing new begins on it.
const LEAVING: u8 = 1;
/// Destroyed, or about to be.
const REMOVED: u8 = 2;

/// The mark of a device that is being removed. Its drop clears the mark, unless the removal is complete.
#[derive(Debug)]
pub(crate) struct Leaving(Option<Arc<DeviceInner>>);

impl DeviceInner {
    /// Marks the device as leaving. `None` if it is leaving already, or has left.
    pub(crate) fn leave(self: &Arc<Self>) -> Option<Leaving> {
        let (order, failed) = (Ordering::SeqCst, Ordering::SeqCst);
        self.removal.compare_exchange(PRESENT, LEAVING, order, failed).ok()?;
        Some(Leaving(Some(Arc::clone(self))))
    }

    /// Whether the device is leaving the engine, or has left it: nothing new may begin on it.
    pub(crate) fn is_leaving(&self) -> bool {
        self.removal.load(Ordering::SeqCst) != PRESENT
    }

    /// Whether the device has left the engine. Its Vulkan objects do not exist any more.
    pub(crate) fn is_removed(&self) -> bool {
        self.removal.load(Ordering::SeqCst) == REMOVED
    }
}

impl Leaving {
    pub(crate) fn mark_removed(&self) {
        self.set(REMOVED);
    }

    pub(crate) fn unmark_removed(&self) {
        self.set(LEAVING);
    }

    /// Keeps the mark for good.
    pub(crate) fn complete(mut self) {
        self.0 = None;
    }

    fn set(&self, mark: u8) {
        if let Some(device) = &self.0 {
            device.removal.store(mark, Ordering::SeqCst);
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.set(PRESENT);
    }
}
