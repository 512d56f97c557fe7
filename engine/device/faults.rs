//! Fault injection: failing calls, misreporting drivers and a stopped clock, for tests.
//!
//! Compiled for unit tests and with the feature `testing`. CI without a GPU exercises the faults of real drivers
//! with it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ash::vk;

use super::calls::{Call, Calls, Fault};
use super::heap_budget::HeapBudget;

/// With the feature `testing` alone.
impl Calls {
    /// Makes the `nth` call from now (1 is the next one) fail with `code`, without reaching the driver.
    ///
    /// Operating-system calls report `ENOMEM`, whatever `code` is.
    pub fn fail_nth(&self, call: Call, nth: u64, code: vk::Result) {
        self.lock().push(Fault { call, countdown: nth.max(1), code });
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Removes all faults that have not happened; returns whether there were any.
    pub fn clear_faults(&self) -> bool {
        let mut faults = self.lock();
        let pending = !faults.is_empty();
        faults.clear();
        self.armed.store(false, Ordering::Relaxed);
        pending
    }

    /// From now on every import *succeeds* and yields zeroed memory that is not the exporter's.
    ///
    /// The driver of NVIDIA/open-gpu-kernel-modules#1037 does this; it is why routes are proved with data.
    pub fn set_lying_imports(&self, lying: bool) {
        self.lying_imports.store(lying, Ordering::Relaxed);
    }

    /// From now on new device memory is treated as not mappable by the host, as most VRAM is.
    pub fn set_unmappable_device_memory(&self, unmappable: bool) {
        self.unmappable.store(unmappable, Ordering::Relaxed);
    }

    /// From now on finished work of devices counts as running when the engine chooses what a submission depends
    /// on. So the waits of a submission do not depend on how fast the machine is. Waits for a fence, and
    /// [`crate::Fence::is_signalled`], are not affected.
    pub fn set_pretend_busy(&self, busy: bool) {
        self.pretend_busy.store(busy, Ordering::Relaxed);
    }

    /// Replaces what every driver reports about its device's heap: a budget of `budget` bytes for this process,
    /// of which `usage` bytes are in use. `None` restores what the drivers report.
    pub fn set_heap_budget(&self, said: Option<(u64, u64)>) {
        let said = said.map(|(budget, usage)| HeapBudget { budget, usage });
        *self.heap_budget.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    /// Stops the engine's clock at `age`; `None` lets it show the time since the engine was opened again. By
    /// this clock use counts age, restores are throttled, and a driver's budget is asked for again.
    pub fn set_clock(&self, age: Option<Duration>) {
        // CAST: 2^64 ms are half a billion years.
        let shown = age.map_or(0, |age| age.as_millis() as u64 + 1);
        self.clock.store(shown, Ordering::Relaxed);
    }
}
