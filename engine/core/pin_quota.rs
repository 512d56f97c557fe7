//! The quota of pins: bytes that a device may keep pinned.

use crate::sync::primitive::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Bytes pinned by a device, and how many it may. Counted only from the moment when there is a limit:
/// a counter that all threads share would cost each pin more than all the rest of it.
#[derive(Debug)]
pub(crate) struct PinQuota {
    limited: AtomicBool,
    /// Below zero for a moment, when pins of before the limit end while they are being counted.
    /// Relaxed: charging is one read-modify-write.
    pinned: AtomicI64,
    limit: AtomicU64,
}

impl PinQuota {
    /// Sets how many bytes the device may keep pinned. Pins are counted from now on; those of before
    /// are for the caller to count ([`PinQuota::charge_earlier`]).
    pub(crate) fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        self.limited.store(true, Ordering::Release);
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }

    /// Counts bytes as pinned; `Err` with what is pinned and what may be, if that is too much.
    pub(crate) fn charge(&self, bytes: u64) -> Result<(), (u64, u64)> {
        let limit = self.limit.load(Ordering::Relaxed);
        let used = |pinned: i64| pinned.max(0) as u64; // CAST: not negative.
        self.pinned
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |pinned| {
                used(pinned).checked_add(bytes).filter(|&sum| sum <= limit)?;
                pinned.checked_add_unsigned(bytes)
            })
            .map(|_| ())
            .map_err(|pinned| (used(pinned), limit))
    }

    /// Counts what was pinned before there was a limit: it stays pinned, whatever the limit.
    pub(crate) fn charge_earlier(&self, bytes: u64) {
        // CAST: what is pinned is memory, so it fits.
        self.pinned.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    pub(crate) fn credit(&self, bytes: u64) {
        // CAST: as above.
        self.pinned.fetch_sub(bytes as i64, Ordering::Relaxed);
    }
}

impl Default for PinQuota {
    fn default() -> Self {
        Self {
            limited: AtomicBool::new(false),
            pinned: AtomicI64::new(0),
            limit: AtomicU64::new(u64::MAX),
        }
    }
}
