//! Fault injection: failing calls, misreporting drivers and a stopped clock, for tests.
//!
//! Compiled for unit tests and with the feature `testing`. CI without a GPU exercises the faults of real drivers
//! with it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier, PoisonError};
use std::time::Duration;

use ash::vk;

use super::calls::{Call, Calls, DeviceFaults, Fault, Outcome, StoppedQueues};
use super::handle_type::HandleType;
use super::heap_budget::HeapBudget;

/// With the feature `testing` alone.
impl Calls {
    /// Makes the `nth` call from now (1 is the next one) fail with `code`, without reaching the driver.
    ///
    /// Operating-system calls report `ENOMEM`, whatever `code` is.
    pub fn fail_nth(&self, call: Call, nth: u64, code: vk::Result) {
        let outcome = Outcome::Fail(code);
        self.lock().push(Fault { call, countdown: nth.max(1), outcome });
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Makes the next `call` wait for the barrier twice, as one of two threads: once it is made, and before it goes on.
    pub fn hold_next(&self, call: Call) -> Arc<Barrier> {
        let barrier = Arc::new(Barrier::new(2));
        let outcome = Outcome::Wait(Arc::clone(&barrier));
        self.lock().push(Fault { call, countdown: 1, outcome });
        self.armed.store(true, Ordering::Relaxed);
        barrier
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

    /// From now on every submission fails with `code` on a device that has imported memory as `handle`, without
    /// reaching the driver. `None` ends that.
    ///
    /// Drivers report an import whose pages they cannot get in this way, at the first submission
    /// (NVIDIA/open-gpu-kernel-modules#1037).
    pub fn fail_submissions_with_import(&self, fault: Option<(HandleType, vk::Result)>) {
        self.change_device_faults(|faults| faults.failing = fault);
    }

    /// From now on the work of these devices appears never to end: waits time out, and nothing counts as
    /// finished. `None` ends that.
    pub fn stop_queues(&self, stopped: Option<StoppedQueues>) {
        self.change_device_faults(|faults| faults.stopped = stopped);
    }

    /// From now on copies of the queue for moves write nothing, as those of a copy engine that sees other memory
    /// than the shaders.
    pub fn set_blind_moves(&self, blind: bool) {
        self.change_device_faults(|faults| faults.blind_moves = blind);
    }

    /// From now on what the host writes while a route is proved does not reach devices, as with caches that are
    /// not coherent.
    pub fn set_blind_host(&self, blind: bool) {
        self.change_device_faults(|faults| faults.blind_host = blind);
    }

    /// From now on a device reads its own memory 16 times as slowly once another device has imported it, as after
    /// a move of that memory to the host's.
    pub fn set_dragging_imports(&self, drags: bool) {
        self.change_device_faults(|faults| faults.dragging_imports = drags);
    }

    fn change_device_faults(&self, change: impl FnOnce(&mut DeviceFaults)) {
        change(&mut self.device_faults.lock().unwrap_or_else(PoisonError::into_inner));
        self.has_device_faults.store(true, Ordering::Relaxed);
    }

    /// From now on all system memory with an fd is treated as a dma-buf whose fences have not signalled: work that
    /// the engine does not know uses it.
    pub fn set_busy_host_memory(&self, busy: bool) {
        self.busy_host_memory.store(busy, Ordering::Relaxed);
    }

    /// Replaces what every driver reports about its device's heap: a budget of `budget` bytes for this process,
    /// of which `usage` bytes are in use. `None` restores what the drivers report.
    pub fn set_heap_budget(&self, said: Option<(u64, u64)>) {
        let said = said.map(|(budget, usage)| HeapBudget { budget, usage });
        *self.heap_budget.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    /// Replaces the bytes of system memory that each device may import ([`crate::Engine::imports`]). `None` restores the
    /// limit.
    pub fn set_import_limit(&self, limit: Option<u64>) {
        self.import_limit.store(limit.map_or(0, |limit| limit + 1), Ordering::Relaxed);
    }

    /// Stops the engine's clock at `age`; `None` lets it show the time since the engine was opened again. By
    /// this clock use counts age, restores are throttled, and a driver's budget is asked for again.
    pub fn set_clock(&self, age: Option<Duration>) {
        // CAST: 2^64 ms are half a billion years.
        let shown = age.map_or(0, |age| age.as_millis() as u64 + 1);
        self.clock.store(shown, Ordering::Relaxed);
    }
}
