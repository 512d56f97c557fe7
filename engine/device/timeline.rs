//! The timeline semaphore that counts a queue's submissions.
#![expect(unsafe_code, reason = "timeline semaphores of a live device")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ash::vk;

use super::calls::{Call, Calls};
use super::external::SemaphoreHandle;

/// What a queue's timeline showed at one moment, and whether its device was lost by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(super) shown: Result<u64, vk::Result>,
    pub(super) lost: bool,
}

impl Reading {
    /// A value that the timeline has reached; 0 if that is not known.
    pub(crate) fn reached(self) -> u64 {
        match self {
            Self { shown: Ok(value), lost: false } => value,
            _ => 0,
        }
    }
}

/// A timeline semaphore that one queue signals.
///
/// # Invariants
///
/// `raw` is a live timeline of the device that every function is called with, until [`Timeline::destroy`].
#[derive(Debug)]
pub(super) struct Timeline {
    raw: vk::Semaphore,
    /// Whether it was made for export.
    exports: bool,
    /// The largest value that says what the device has done; larger ones were signalled from the host. Set once.
    /// Release/acquire: a thread that sees such a value sees this as well.
    trusted: AtomicU64,
}

impl Timeline {
    /// Creates a timeline at 0.
    ///
    /// # Safety
    ///
    /// `device` is live, has timeline semaphores on, and reports that it exports timelines as `export`, unless
    /// that is empty.
    pub(super) unsafe fn new(
        device: &ash::Device,
        export: SemaphoreHandle,
    ) -> Result<Self, vk::Result> {
        let mut kind = vk::SemaphoreTypeCreateInfo::default()
            .semaphore_type(vk::SemaphoreType::TIMELINE)
            .initial_value(0);
        let mut exported = vk::ExportSemaphoreCreateInfo::default().handle_types(export);
        let mut info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        let plain = info;
        if !export.is_empty() {
            info = info.push_next(&mut exported);
        }
        // SAFETY: timeline semaphores are on (VUID-VkSemaphoreTypeCreateInfo-timelineSemaphore-03252),
        // and, as the caller says, exportable as this (VUID-VkExportSemaphoreCreateInfo-handleTypes-01124).
        let (raw, exports) = match unsafe { device.create_semaphore(&info, None) } {
            Ok(raw) => (raw, !export.is_empty()),
            // Some drivers report that timelines can be exported, and fail to make one
            // (KhronosGroup/Vulkan-ValidationLayers#5947). The device is then waited for in other ways.
            Err(code) if !export.is_empty() && code != vk::Result::ERROR_DEVICE_LOST => {
                tracing::warn!(?code, "a timeline for export failed; made without export");
                // SAFETY: as above, without export.
                (unsafe { device.create_semaphore(&plain, None) }?, false)
            }
            Err(code) => return Err(code),
        };
        Ok(Self { raw, exports, trusted: AtomicU64::new(u64::MAX) })
    }

    pub(super) fn raw(&self) -> vk::Semaphore {
        self.raw
    }

    /// Whether it can be exported.
    pub(super) fn exports(&self) -> bool {
        self.exports
    }

    /// The largest value that the device has signalled.
    pub(super) fn completed(&self, device: &ash::Device, calls: &Calls) -> Result<u64, vk::Result> {
        calls.count(Call::GetSemaphoreCounterValue);
        // SAFETY: the semaphore is a live timeline of this device.
        let counter = unsafe { device.get_semaphore_counter_value(self.raw) }?;
        Ok(counter.min(self.trusted.load(Ordering::Acquire)))
    }

    /// From now on larger values of the timeline than the present one say nothing about the device: the host is
    /// about to signal them.
    pub(super) fn distrust(&self, device: &ash::Device, calls: &Calls) {
        // A driver that cannot say what it has done has done nothing that can be relied on.
        let value = self.completed(device, calls).unwrap_or(0);
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        // Only the first time: later values are the host's.
        let _ = self.trusted.compare_exchange(u64::MAX, value, order, failed);
    }

    /// Waits until `value` is signalled: polls, yields for a while, then blocks. `Ok(false)` if `timeout`
    /// passes first.
    ///
    /// Waking a sleeping thread costs 50 µs where halted processors are slow to wake; a few yields
    /// cost 10 µs (measured, BENCHMARKS.md). So short work is polled for.
    pub(super) fn wait(
        &self,
        device: &ash::Device,
        calls: &Calls,
        value: u64,
        timeout: Duration,
    ) -> Result<bool, vk::Result> {
        self.wait_beside(device, calls, value, None, timeout)
    }

    /// As [`Timeline::wait`]; ends early, also with `Ok(false)`, once another timeline of the device has reached its
    /// value.
    pub(super) fn wait_beside(
        &self,
        device: &ash::Device,
        calls: &Calls,
        value: u64,
        other: Option<(vk::Semaphore, u64)>,
        timeout: Duration,
    ) -> Result<bool, vk::Result> {
        // The cost of a wake-up, so that the wait never takes more than twice the time of the better way.
        const YIELD_FOR: Duration = Duration::from_micros(50);
        if self.completed(device, calls)? >= value {
            return Ok(true);
        }
        if timeout.is_zero() {
            return Ok(false);
        }
        let start = Instant::now();
        while start.elapsed() < YIELD_FOR.min(timeout) {
            std::thread::yield_now();
            if self.completed(device, calls)? >= value {
                return Ok(true);
            }
        }
        calls.enter(Call::WaitSemaphores)?;
        let left = timeout.saturating_sub(start.elapsed());
        let Some((other, other_value)) = other else { return self.wait_raw(device, value, left) };
        let (semaphores, values) = ([self.raw, other], [value, other_value]);
        let info = vk::SemaphoreWaitInfo::default()
            .flags(vk::SemaphoreWaitFlags::ANY)
            .semaphores(&semaphores)
            .values(&values);
        let nanos = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: both are live timelines of this device, the other one by the caller's contract.
        match unsafe { device.wait_semaphores(&info, nanos) } {
            Ok(()) => Ok(self.completed(device, calls)? >= value),
            Err(vk::Result::TIMEOUT) => Ok(false),
            Err(code) => Err(code),
        }
    }

    /// `vkWaitSemaphores` for `value`, until `end`. `Ok(false)` if the value is not reached, or was signalled from
    /// the host and so is no evidence.
    pub(super) fn wait_for_evidence(
        &self,
        device: &ash::Device,
        value: u64,
        end: Instant,
    ) -> Result<bool, vk::Result> {
        let reached =
            self.wait_raw(device, value, end.saturating_duration_since(Instant::now()))?;
        Ok(reached && value <= self.trusted.load(Ordering::Acquire))
    }

    /// `vkWaitSemaphores` for `value`; `Ok(false)` if `timeout` passes first.
    fn wait_raw(
        &self,
        device: &ash::Device,
        value: u64,
        timeout: Duration,
    ) -> Result<bool, vk::Result> {
        let (semaphores, values) = ([self.raw], [value]);
        let info = vk::SemaphoreWaitInfo::default().semaphores(&semaphores).values(&values);
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the semaphore is a live timeline of this device.
        match unsafe { device.wait_semaphores(&info, nanos) } {
            Ok(()) => Ok(true),
            Err(vk::Result::TIMEOUT) => Ok(false),
            Err(code) => Err(code),
        }
    }

    /// Destroys it.
    ///
    /// # Safety
    ///
    /// No submission uses it any more; called once.
    pub(super) unsafe fn destroy(&self, device: &ash::Device) {
        // SAFETY: the caller's contract.
        unsafe { device.destroy_semaphore(self.raw, None) };
    }
}
