//! What is allocated in a domain, whether buffers have it or not.

use std::sync::atomic::Ordering;

use super::Domain;

impl Domain {
    /// Whether the driver's budget allows `bytes` more to be allocated; `Err` with what is allocated already if not. Some
    /// drivers do not refuse what is beyond their budget: they move it to system memory, and say nothing.
    pub(in crate::memory) fn check_driver_budget(&self, bytes: u64) -> Result<(), u64> {
        let held = self.held.load(Ordering::Relaxed);
        if held.saturating_add(bytes) <= self.driver_budget() { Ok(()) } else { Err(held) }
    }

    /// Counts an allocation of `bytes`; `Err` with what is allocated already if the heap has no more.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), u64> {
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|&sum| sum <= self.physical)
        })?;
        let beneath = self.beneath.as_ref().map_or(Ok(()), |system| system.hold(bytes));
        if beneath.is_err() {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        beneath
    }

    /// Counts an allocation as freed.
    pub(crate) fn release(&self, bytes: u64) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{}: {bytes} released, {before} held", self.id);
        if let Some(system) = &self.beneath {
            system.release(bytes);
        }
    }
}
