//! Submission to a device's queues, and waits for what was submitted.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ash::vk;
use smallvec::SmallVec;

use super::calls::StoppedQueues;
use super::inner::DeviceInner;
use super::queue::Queue;
use super::queues::QueueKind;
use super::quirks::Effect;
use super::semaphore::OwnedSemaphore;
use super::spare_semaphores::Once;
use super::submit::{Body, NOT_LOCKED, NOT_ONCE, NotSubmitted, Submit};
use super::timeline::Reading;
use super::wait_semaphores::Waits;
use crate::error::{Error, Result};

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
        self.submit_to(kind, Submit { body: Body::Record(&mut record), ..Submit::nothing(waits) })
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
        let given = self.queue(kind).submit(&self.raw, &self.calls, submit, (&self.lost, None));
        given.map_err(|failed| self.not_submitted(failed.code))
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

    /// Keeps a semaphore until the queue's timeline has reached `value`. Then it is used again if its signal
    /// `went_out` as a `SYNC_FD`, and otherwise destroyed.
    pub(crate) fn keep_until(
        &self,
        (kind, value): (QueueKind, u64),
        semaphore: OwnedSemaphore<'_>,
        went_out: bool,
    ) {
        self.keep_raw_until((kind, value), semaphore.into_raw(), went_out);
    }

    /// As [`DeviceInner::keep_until`], for a semaphore of this device that the caller owns.
    pub(super) fn keep_raw_until(
        &self,
        (kind, value): (QueueKind, u64),
        raw: vk::Semaphore,
        went_out: bool,
    ) {
        let once = if went_out { Once::exported(raw) } else { Once::last(raw) };
        self.queue(kind).keep_until(value, once);
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
        let completed = self.queue(kind).timeline().completed(&self.raw, &self.calls);
        completed.map_err(|code| self.error(CALL, code))
    }

    /// The value of the last submission to a queue, rejected ones included.
    pub(crate) fn submitted(&self, kind: QueueKind) -> u64 {
        self.queue(kind).submitted()
    }

    /// Whether everything that peerbuf submitted here has finished.
    pub(crate) fn is_idle(&self) -> Result<bool> {
        for kind in [QueueKind::Main, self.queue_for_moves()] {
            if self.completed(kind)? < self.queue(kind).attempted() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Submits the signal of a binary semaphore, behind everything submitted to the queue so far.
    ///
    /// Returns the semaphore and the value of the submission. `Ok(None)` if that is not possible now: earlier
    /// submissions may depend on a signal that is not submitted yet, or many binary semaphores are in flight.
    pub(crate) fn signal_once<'d>(
        &'d self,
        kind: QueueKind,
        semaphore: OwnedSemaphore<'d>,
    ) -> Result<Option<(OwnedSemaphore<'d>, u64)>> {
        if self.lost.load(Ordering::Acquire) {
            return Err(self.error("vkQueueSubmit", vk::Result::ERROR_DEVICE_LOST));
        }
        let nothing = Submit::nothing(Waits::default());
        let submit = Submit { signal: Some(semaphore.raw()), ..nothing };
        let other = self.queues.other(kind);
        match self.queue(kind).submit(&self.raw, &self.calls, submit, (&self.lost, other)) {
            Ok(value) => Ok(Some((semaphore, value))),
            Err(NotSubmitted { code: NOT_ONCE, .. }) => Ok(None),
            Err(NotSubmitted { code, rejected }) => {
                if rejected {
                    // The queue has it now.
                    semaphore.into_raw();
                }
                Err(self.not_submitted(code))
            }
        }
    }

    /// Whether the queue's timeline has reached `value`.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceLost`] if it has not and never will, whichever call reported the loss: drivers need not
    /// report it again.
    pub(crate) fn reached(&self, kind: QueueKind, value: u64) -> Result<bool> {
        self.has_reached(kind, value, self.read(kind))
    }

    /// Reads the queue's timeline, by one call of the driver, to compare many values with it.
    pub(crate) fn read(&self, kind: QueueKind) -> Reading {
        if self.is_stopped() && !self.is_lost() {
            return Reading { shown: Ok(0), lost: false };
        }
        let shown = self.queue(kind).timeline().completed(&self.raw, &self.calls);
        // After the value: a loss that is noted here may have caused it.
        Reading { shown, lost: self.lost.load(Ordering::Acquire) }
    }

    /// As [`DeviceInner::reached`], at the moment of `reading`, which is one of that queue.
    pub(crate) fn has_reached(
        &self,
        kind: QueueKind,
        value: u64,
        Reading { shown, lost }: Reading,
    ) -> Result<bool> {
        const CALL: &str = "vkGetSemaphoreCounterValue";
        let shown = shown.map_err(|code| self.error(CALL, code))?;
        // Some drivers release all waits on a lost device by a counter beyond the last submission.
        if shown >= value && !(lost && shown > self.queue(kind).attempted()) {
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
        let start = Instant::now();
        while self.is_stopped() {
            if start.elapsed() >= timeout {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1).min(timeout));
        }
        let reached = self
            .queue(kind)
            .timeline()
            .wait(&self.raw, &self.calls, value, timeout)
            .map_err(|code| self.error("vkWaitSemaphores", code))?;
        // Checked again, since the device may have been lost during the wait.
        if reached { self.reached(kind, value) } else { Ok(false) }
    }

    /// Waits until the queue's timeline reaches `value`, or `wake`, a timeline of this device, reaches its own value; for
    /// at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`DeviceInner::reached`].
    pub(crate) fn wait_beside(
        &self,
        kind: QueueKind,
        value: u64,
        wake: (vk::Semaphore, u64),
        timeout: Duration,
    ) -> Result<()> {
        /// A queue that a fault has stopped is looked at so often.
        const STOPPED: Duration = Duration::from_millis(20);
        if self.is_stopped() || self.lost.load(Ordering::Acquire) {
            return self.wait(kind, value, timeout.min(STOPPED)).map(drop);
        }
        self.queue(kind)
            .timeline()
            .wait_beside(&self.raw, &self.calls, value, Some(wake), timeout)
            .map_err(|code| self.error("vkWaitSemaphores", code))
            .map(drop)
    }

    /// Whether the submission with `value` uses no memory any more: the timeline has reached the value, or the
    /// device is lost and a wait has said that nothing of it is in use.
    ///
    /// A device that is lost may still execute what was submitted before the loss. So the loss itself says
    /// nothing about memory.
    pub(crate) fn is_unused_since(&self, kind: QueueKind, value: u64) -> bool {
        self.reached(kind, value).unwrap_or_else(|_| self.is_lost() && self.settle(Duration::ZERO))
    }

    /// Waits, for at most `timeout`, until a wait has said that nothing submitted here is in use any more;
    /// returns whether one has. For a lost device: a wait for the last submission succeeds, or reports the loss.
    ///
    /// Some drivers report the loss at once, whatever is still running. A lost device of theirs never settles: only
    /// its destruction ends its work.
    pub(crate) fn settle(&self, timeout: Duration) -> bool {
        if self.settled.load(Ordering::Acquire) {
            return true;
        }
        let (mut lost, mut settled);
        // Again if the loss was noted during the wait: from then on nothing is submitted.
        loop {
            lost = self.is_lost();
            settled = self.wait_until_unused(timeout);
            if lost == self.is_lost() {
                break;
            }
        }
        if settled && lost {
            if self.adapter.has_quirk(Effect::LostWaitsReturnAtOnce) {
                return false;
            }
            // Nothing is submitted to a lost device, so this stays true.
            self.settled.store(true, Ordering::Release);
        }
        settled
    }

    /// Waits, for at most `timeout`, until no submission is in use by the rules of Vulkan, so that the device and its
    /// objects may be destroyed; returns whether that is so.
    pub(crate) fn wait_until_unused(&self, timeout: Duration) -> bool {
        // A wait may fail for other reasons, so it is tried more than once.
        const TRIES: u32 = 3;
        if self.is_removed() {
            return true;
        }
        let end = Instant::now() + timeout;
        self.queues.iter().all(|queue| {
            let mut waited = (0..TRIES).map(|_| queue.wait_until_unused(&self.raw, end));
            waited.find_map(Result::ok).unwrap_or(false)
        })
    }

    /// As [`DeviceInner::wait_until_unused`], but goes on while the timelines make steps within `bound`.
    pub(crate) fn wait_while_in_progress(&self, bound: Duration) -> bool {
        let mut steps = self.steps();
        loop {
            if self.wait_until_unused(bound) {
                return true;
            }
            let now = self.steps();
            if now == steps {
                return false;
            }
            steps = now;
        }
    }

    /// Waits, for at most `timeout`, until every signal is submitted that the queue depends on for `value`:
    /// timelines that the host signals have reached what is awaited. Returns whether they have.
    pub(crate) fn wait_for_signals(
        &self,
        kind: QueueKind,
        value: u64,
        timeout: Duration,
    ) -> Result<bool> {
        const CALL: &str = "vkWaitSemaphores";
        let _mirrors_stay = self.begin_wait_for_signals();
        let own: SmallVec<[_; 2]> =
            self.queues.iter().map(|queue| queue.timeline().raw()).collect();
        let mut awaited = self.queue(kind).awaited(value, &own);
        if let Some(other) = self.queues.other(kind) {
            awaited.extend(other.awaited(u64::MAX, &own));
        }
        let (semaphores, values): (SmallVec<[_; 4]>, SmallVec<[_; 4]>) =
            awaited.into_iter().unzip();
        if semaphores.is_empty() {
            return Ok(true);
        }
        self.wait_for_timelines(&semaphores, &values, timeout)
            .map_err(|code| self.error(CALL, code))
    }

    /// How many steps the timelines of this device have made; grows with each finished submission.
    fn steps(&self) -> u64 {
        let completed =
            |queue: &Queue| queue.timeline().completed(&self.raw, &self.calls).unwrap_or(0);
        self.queues.iter().map(completed).sum()
    }

    /// The value of the queue's last submission, if the driver rejected it with `VK_ERROR_DEVICE_LOST`: it counts
    /// as submitted, and may use memory until [`DeviceInner::settle`] says otherwise.
    pub(crate) fn rejected(&self, kind: QueueKind) -> Option<u64> {
        self.queue(kind).rejected()
    }
}
