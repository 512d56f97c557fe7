//! A device that leaves its engine: marked first, so that nothing new begins on it, and destroyed last.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::inner::DeviceInner;

/// In [`DeviceInner::removal`]: takes part.
const PRESENT: u8 = 0;
/// Nothing new begins on it.
const LEAVING: u8 = 1;
/// As [`LEAVING`]; the references to it are being counted. Who looks it up waits for the result.
const COUNTED: u8 = 2;
/// Destroyed, or about to be.
const REMOVED: u8 = 3;

/// How long a look-up waits for the end of a count, and how often it looks. A count waits for nothing, and runs no code
/// of the application; the bound is for a thread that is not scheduled.
const COUNT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_micros(50);

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

    /// Whether the references to the device are being counted: it has left or remains, which is not known yet.
    pub(crate) fn is_counted(&self) -> bool {
        self.removal.load(Ordering::SeqCst) == COUNTED
    }

    /// Waits until the references to the device are not being counted. Returns whether the device has not left.
    #[cold]
    pub(crate) fn wait_until_counted(&self) -> bool {
        let end = Instant::now() + COUNT;
        while self.is_counted() && Instant::now() < end {
            std::thread::sleep(PAUSE);
        }
        !self.is_counted() && !self.is_removed()
    }
}

impl Leaving {
    /// Begins a count of the references to the device. A thread that takes one from now on waits for
    /// [`Leaving::end_count`] or [`Leaving::complete`] without it.
    pub(crate) fn begin_count(&self) {
        self.set(COUNTED);
    }

    /// Ends a count that has found references.
    pub(crate) fn end_count(&self) {
        self.set(LEAVING);
    }

    /// Marks the device as removed, for good.
    pub(crate) fn complete(mut self) {
        self.set(REMOVED);
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
