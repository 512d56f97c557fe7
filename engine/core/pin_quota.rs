//! The pin quota: the bytes that a device may keep pinned.

use crate::sync::primitive::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// The bytes that a device has pinned, and the limit. They are counted only once there is a limit, because a
/// counter that all threads share would cost a pin more than everything else it does.
#[derive(Debug)]
pub(crate) struct PinQuota {
    limited: AtomicBool,
    /// Pinned bytes. Briefly below zero when pins from before the limit end while they are being counted.
    /// Relaxed: charging is one read-modify-write.
    pinned: AtomicI64,
    limit: AtomicU64,
}

impl PinQuota {
    /// Sets the limit. Pins are counted from now on. The caller must count the live ones
    /// ([`PinQuota::charge_earlier`]).
    pub(crate) fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
        self.limited.store(true, Ordering::Release);
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }

    /// Charges pinned bytes.
    ///
    /// # Errors
    ///
    /// If that exceeds the limit: the bytes that are pinned, and the limit.
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

    /// Charges bytes that were pinned before there was a limit. They stay pinned, whatever the limit.
    pub(crate) fn charge_earlier(&self, bytes: u64) {
        // CAST: pinned bytes are memory, so their number fits.
        self.pinned.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// Ends the charge of pinned bytes.
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
