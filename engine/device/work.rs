//! A device's work: giving it some, and waiting for its end.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ash::vk;

use super::inner::DeviceInner;
use super::lane::Lane;
use super::queue::{Body, NOT_LOCKED, NOT_ONCE, SignalOnce, Submit};
use super::semaphore::{OwnedSemaphore, Waits};
use crate::error::{Error, Result};

/// How long the last drop of a device waits for what peerbuf submitted on it.
const LAST_WAIT: Duration = Duration::from_secs(10);

impl DeviceInner {
    /// Records and submits behind `waits`; returns the value that the main lane's timeline will reach.
    pub(crate) fn submit(
        &self,
        waits: Waits,
        record: impl FnMut(vk::CommandBuffer),
    ) -> Result<u64> {
        self.submit_on(Lane::Main, waits, record)
    }

    /// The same on any lane.
    pub(crate) fn submit_on(
        &self,
        lane: Lane,
        waits: Waits,
        mut record: impl FnMut(vk::CommandBuffer),
    ) -> Result<u64> {
        self.give(lane, Submit { waits, body: Body::Record(&mut record), signal: None })
    }

    /// The same for any kind of submission, on the main lane.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], also if it was another call that said so; what the call said.
    pub(crate) fn submit_as(&self, submit: Submit<'_>) -> Result<u64> {
        self.give(Lane::Main, submit)
    }

    fn give(&self, lane: Lane, submit: Submit<'_>) -> Result<u64> {
        if self.lost.load(Ordering::Acquire) {
            self.discard(submit.waits);
            return Err(self.error("vkQueueSubmit", vk::Result::ERROR_DEVICE_LOST));
        }
        let given = self.queue(lane).submit(&self.raw, &self.calls, submit);
        given.map_err(|code| self.not_submitted(code))
    }

    fn not_submitted(&self, code: vk::Result) -> Error {
        if code == NOT_LOCKED {
            return Error::Unsupported {
                device: self.name.clone(),
                missing: "a QueueLock that calls the work that it is given".into(),
            };
        }
        self.error("vkQueueSubmit", code)
    }

    /// Destroys a semaphore when the lane's timeline has reached `value`.
    pub(crate) fn keep_until(&self, lane: Lane, value: u64, semaphore: OwnedSemaphore<'_>) {
        self.queue(lane).keep_until(value, semaphore.into_raw());
    }

    /// The largest value that the lane's timeline has reached.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], also if it was another call that said so.
    pub(crate) fn completed(&self, lane: Lane) -> Result<u64> {
        const CALL: &str = "vkGetSemaphoreCounterValue";
        if self.lost.load(Ordering::Acquire) {
            return Err(self.error(CALL, vk::Result::ERROR_DEVICE_LOST));
        }
        self.queue(lane).completed(&self.raw).map_err(|code| self.error(CALL, code))
    }

    /// Whether everything that was submitted here has finished, as far as peerbuf knows.
    pub(crate) fn is_idle(&self) -> Result<bool> {
        for lane in [Lane::Main, self.lane_for_moves()] {
            if self.completed(lane)? < self.queue(lane).submitted() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Submits nothing but the signal of a binary semaphore, behind everything that the lane was given so
    /// far; `Ok(None)` if that cannot be now, because something there may depend on a signal that nobody has
    /// submitted yet, or many are under way.
    pub(crate) fn signal_once(&self, lane: Lane, semaphore: vk::Semaphore) -> Result<Option<u64>> {
        if self.lost.load(Ordering::Acquire) {
            return Err(self.error("vkQueueSubmit", vk::Result::ERROR_DEVICE_LOST));
        }
        let waits = Waits::default();
        let signal = Some(SignalOnce { semaphore, beside: self.lanes.beside(lane) });
        let submit = Submit { waits, body: Body::Nothing, signal };
        match self.queue(lane).submit(&self.raw, &self.calls, submit) {
            Ok(value) => Ok(Some(value)),
            Err(NOT_ONCE) => Ok(None),
            Err(code) => Err(self.not_submitted(code)),
        }
    }

    /// Whether the lane's timeline has reached `value`.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`] if it has not and never will, whichever call said so: drivers need not say it
    /// again.
    pub(crate) fn reached(&self, lane: Lane, value: u64) -> Result<bool> {
        const CALL: &str = "vkGetSemaphoreCounterValue";
        let queue = self.queue(lane);
        let completed = queue.completed(&self.raw).map_err(|code| self.error(CALL, code))?;
        let lost = self.lost.load(Ordering::Acquire);
        // A counter beyond the last submission is how some drivers let everybody go.
        if completed >= value && !(lost && completed > queue.submitted()) {
            return Ok(true);
        }
        if lost { Err(self.error(CALL, vk::Result::ERROR_DEVICE_LOST)) } else { Ok(false) }
    }

    /// Waits until the lane's timeline reaches `value`; `Ok(false)` if `timeout` came first.
    ///
    /// # Errors
    ///
    /// As [`DeviceInner::reached`].
    pub(crate) fn wait(&self, lane: Lane, value: u64, timeout: Duration) -> Result<bool> {
        if timeout.is_zero() || self.lost.load(Ordering::Acquire) {
            return self.reached(lane, value);
        }
        let reached = self
            .queue(lane)
            .wait(&self.raw, &self.calls, value, timeout)
            .map_err(|code| self.error("vkWaitSemaphores", code))?;
        // Looked at again, for what the driver says of a device that was lost meanwhile.
        if reached { self.reached(lane, value) } else { Ok(false) }
    }

    /// Waits, in bounds, for everything that the lanes were given. Whether it is over.
    pub(super) fn comes_to_its_end(&self) -> bool {
        // A wait may fail for reasons of its own, so it is tried more than once; only a signalled timeline,
        // or a lost device, says that nothing is running.
        const TRIES: u32 = 3;
        let end = Instant::now() + LAST_WAIT;
        self.lanes.iter().all(|queue| {
            let last = queue.submitted();
            let left = |_| end.saturating_duration_since(Instant::now());
            let waited =
                (0..TRIES).map(|nth| queue.wait(&self.raw, &self.calls, last, left(nth))).find(
                    |waited| waited.is_ok() || matches!(waited, Err(vk::Result::ERROR_DEVICE_LOST)),
                );
            waited.is_some_and(|waited| waited.unwrap_or(true))
        })
    }
}
