//! Submission to a device's queues, and waits for what was submitted.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ash::vk;

use super::calls::StoppedQueues;
use super::inner::DeviceInner;
use super::queues::QueueKind;
use super::semaphore::OwnedSemaphore;
use super::submit::{Body, NOT_LOCKED, NOT_ONCE, Submit};
use super::wait_semaphores::Waits;
use crate::error::{Error, Result};

/// How long the last drop of a device waits for what peerbuf submitted on it.
const LAST_WAIT: Duration = Duration::from_secs(10);

impl DeviceInner {
    /// Records and submits on the main queue, behind `waits`; returns the value that its timeline will reach.
    pub(crate) fn submit(
        &self,
        waits: Waits,
        record: impl FnMut(vk::CommandBuffer),
    ) -> Result<u64> {
        self.submit_on(QueueKind::Main, waits, record)
    }

    /// Records and submits on a given queue, behind `waits`; returns the value that its timeline will reach.
    pub(crate) fn submit_on(
        &self,
        kind: QueueKind,
        waits: Waits,
        mut record: impl FnMut(vk::CommandBuffer),
    ) -> Result<u64> {
        self.submit_to(kind, Submit { waits, body: Body::Record(&mut record), signal: None })
    }

    /// Makes any kind of submission, on the main queue.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], also if an earlier call reported the loss; what the call reports.
    pub(crate) fn submit_as(&self, submit: Submit<'_>) -> Result<u64> {
        self.submit_to(QueueKind::Main, submit)
    }

    fn submit_to(&self, kind: QueueKind, submit: Submit<'_>) -> Result<u64> {
        if self.lost.load(Ordering::Acquire) {
            self.discard(submit.waits);
            return Err(self.error("vkQueueSubmit", vk::Result::ERROR_DEVICE_LOST));
        }
        if let Some(code) = self.failing_import() {
            self.discard(submit.waits);
            return Err(self.not_submitted(code));
        }
        let given = self.queue(kind).submit(&self.raw, &self.calls, submit, None);
        given.map_err(|code| self.not_submitted(code))
    }

    /// The code with which fault injection fails each submission, because of an import that is alive.
    fn failing_import(&self) -> Option<vk::Result> {
        let (handle, code) = self.calls.device_faults()?.failing?;
        self.has_import(handle).then_some(code)
    }

    /// Whether fault injection makes the work of this device appear never to end.
    fn is_stopped(&self) -> bool {
        let stopped = self.calls.device_faults().and_then(|faults| faults.stopped);
        self.probe
            && stopped.is_some_and(|stopped| match stopped {
                StoppedQueues::OfProbes => true,
                StoppedQueues::WithImport(handle) => self.has_import(handle),
            })
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

    /// Destroys a semaphore when the queue's timeline has reached `value`.
    pub(crate) fn keep_until(&self, kind: QueueKind, value: u64, semaphore: OwnedSemaphore<'_>) {
        self.queue(kind).keep_until(value, semaphore.into_raw());
    }

    /// The largest value that the queue's timeline has reached.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`], also if an earlier call reported the loss.
    pub(crate) fn completed(&self, kind: QueueKind) -> Result<u64> {
        const CALL: &str = "vkGetSemaphoreCounterValue";
        if self.lost.load(Ordering::Acquire) {
            return Err(self.error(CALL, vk::Result::ERROR_DEVICE_LOST));
        }
        self.queue(kind).completed(&self.raw).map_err(|code| self.error(CALL, code))
    }

    /// Whether everything that peerbuf submitted here has finished.
    pub(crate) fn is_idle(&self) -> Result<bool> {
        for kind in [QueueKind::Main, self.queue_for_moves()] {
            if self.completed(kind)? < self.queue(kind).submitted() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Submits the signal of a binary semaphore, behind everything submitted to the queue so far.
    ///
    /// `Ok(None)` if that is not possible now: earlier submissions may depend on a signal that is not submitted
    /// yet, or many binary semaphores are in flight.
    pub(crate) fn signal_once(
        &self,
        kind: QueueKind,
        semaphore: vk::Semaphore,
    ) -> Result<Option<u64>> {
        if self.lost.load(Ordering::Acquire) {
            return Err(self.error("vkQueueSubmit", vk::Result::ERROR_DEVICE_LOST));
        }
        let waits = Waits::default();
        let submit = Submit { waits, body: Body::Nothing, signal: Some(semaphore) };
        let other = self.queues.other(kind);
        match self.queue(kind).submit(&self.raw, &self.calls, submit, other) {
            Ok(value) => Ok(Some(value)),
            Err(NOT_ONCE) => Ok(None),
            Err(code) => Err(self.not_submitted(code)),
        }
    }

    /// Whether the queue's timeline has reached `value`.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`] if it has not and never will, whichever call reported the loss: drivers need not
    /// report it again.
    pub(crate) fn reached(&self, kind: QueueKind, value: u64) -> Result<bool> {
        const CALL: &str = "vkGetSemaphoreCounterValue";
        if self.is_stopped() && !self.is_lost() {
            return Ok(false);
        }
        let queue = self.queue(kind);
        let completed = queue.completed(&self.raw).map_err(|code| self.error(CALL, code))?;
        let lost = self.lost.load(Ordering::Acquire);
        // Some drivers release all waits on a lost device by a counter beyond the last submission.
        if completed >= value && !(lost && completed > queue.submitted()) {
            return Ok(true);
        }
        if lost { Err(self.error(CALL, vk::Result::ERROR_DEVICE_LOST)) } else { Ok(false) }
    }

    /// Waits until the queue's timeline reaches `value`; `Ok(false)` if `timeout` passes first.
    ///
    /// # Errors
    ///
    /// As [`DeviceInner::reached`].
    pub(crate) fn wait(&self, kind: QueueKind, value: u64, timeout: Duration) -> Result<bool> {
        if timeout.is_zero() || self.lost.load(Ordering::Acquire) {
            return self.reached(kind, value);
        }
        let end = Instant::now() + timeout;
        while self.is_stopped() {
            if Instant::now() >= end {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1).min(timeout));
        }
        let reached = self
            .queue(kind)
            .wait(&self.raw, &self.calls, value, timeout)
            .map_err(|code| self.error("vkWaitSemaphores", code))?;
        // Checked again, since the device may have been lost during the wait.
        if reached { self.reached(kind, value) } else { Ok(false) }
    }

    /// Waits for at most `LAST_WAIT` until all submissions have finished; returns whether they have.
    pub(super) fn wait_until_idle(&self) -> bool {
        // A wait may fail for other reasons, so it is tried more than once. Only a signalled timeline, or a lost
        // device, proves that nothing is running.
        const TRIES: u32 = 3;
        let end = Instant::now() + LAST_WAIT;
        self.queues.iter().all(|queue| {
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
