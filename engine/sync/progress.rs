//! How far the work behind a fence is: whether it makes steps, and whether it still uses memory.

use std::time::{Duration, Instant};

use super::dependencies::ReliedOn;
use super::fence::{Fence, Point};
use super::host_fence::end_of;
use super::primitive::Arc;
use super::readings::Readings;
use crate::error::{Error, Result};

/// Between two questions whether a lost device has settled.
const PAUSE: Duration = Duration::from_millis(5);

impl Fence {
    /// Whether there is nothing to wait for any more: it has signalled, with or without an error, or its device is
    /// lost. False if the query fails for another reason. Memory is another matter: [`Fence::is_released`].
    pub(crate) fn is_over(&self) -> bool {
        !self.pretends_busy() && self.is_signalled().unwrap_or_else(|error| error.ends_work())
    }

    /// Whether fault injection lets its finished work count as running.
    fn pretends_busy(&self) -> bool {
        self.point().is_some_and(|at| at.device.calls().pretends_busy())
    }

    /// The error that its work ended with, if it has ended with one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.is_signalled().err().filter(Error::ends_work)
    }

    /// Waits until it is over, failed or not: for callers that check the outcome separately.
    ///
    /// # Errors
    ///
    /// Those of [`Fence::wait`], if it is not over.
    pub(crate) fn wait_until_over(&self, timeout: Duration) -> Result<()> {
        self.wait(timeout).or_else(|error| if self.is_over() { Ok(()) } else { Err(error) })
    }

    /// Whether no work behind the fence uses memory any more, so that the memory may get another owner.
    ///
    /// Stronger than [`Fence::is_over`] for a lost device: its fences have failed, but what was submitted before
    /// the loss may still run (Vulkan, "Lost Device").
    pub(crate) fn is_released(&self) -> bool {
        match self.point() {
            Some(at) => at.device.is_unused_since(at.lane, at.value),
            None => self.is_over(),
        }
    }

    /// Whether, by the rules of Vulkan, the work behind the fence uses nothing any more, so that its device and what
    /// was made on it may be destroyed. Weaker than [`Fence::is_released`]: some drivers report the end of a lost
    /// device's work too early, and memory of such a device has another owner only after its destruction. Never waits.
    pub(crate) fn is_destroyable(&self) -> bool {
        match self.point() {
            Some(at) => {
                let is_unused = || self.is_over() && at.device.wait_until_unused(Duration::ZERO);
                self.is_released() || is_unused()
            }
            None => self.is_over(),
        }
    }

    /// Waits until [`Fence::is_released`].
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] after `timeout`, or the reason why the wait failed.
    pub(crate) fn wait_until_released(&self, timeout: Duration) -> Result<()> {
        let end = end_of(timeout);
        self.wait_until_over(timeout)?;
        let left = || end.saturating_duration_since(Instant::now());
        while !self.settles_within(left()) {
            if left().is_zero() {
                return Err(self.unsettled(timeout));
            }
            // Drivers of some lost devices answer at once. So do those whose timelines the host has signalled.
            std::thread::sleep(PAUSE.min(left()));
        }
        Ok(())
    }

    /// Asks once whether it is released, for a fence that is over. On a lost device that is a wait of at most `timeout`,
    /// which may end at once.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] if it is not.
    pub(super) fn check_released(&self, timeout: Duration) -> Result<()> {
        if self.settles_within(timeout) { Ok(()) } else { Err(self.unsettled(timeout)) }
    }

    fn settles_within(&self, timeout: Duration) -> bool {
        match self.point() {
            Some(at) => self.is_released() || at.device.settle(timeout),
            None => true,
        }
    }

    fn unsettled(&self, after: Duration) -> Error {
        Error::Timeout { what: format!("{self}, whose device is lost"), after }
    }

    /// Waits until it is over, failed or not, as long as there is progress: an error only if neither its timeline nor
    /// one that it depends on makes a step within `bound`.
    ///
    /// # Errors
    ///
    /// As [`Fence::wait_until_over`].
    pub(crate) fn wait_while_in_progress(&self, bound: Duration) -> Result<()> {
        let mut steps = self.steps();
        loop {
            match self.wait_until_over(bound) {
                Err(Error::Timeout { .. }) if self.steps() != steps => steps = self.steps(),
                ended => return ended,
            }
        }
    }

    /// How many steps the timelines that it depends on have made. Constant for a fence without a timeline.
    fn steps(&self) -> u64 {
        self.own_steps() + self.dependencies().map_or(0, |dependencies| dependencies.steps())
    }

    /// The steps of its own timeline alone, up to its own value: later ones bring it no nearer to its end.
    pub(super) fn own_steps(&self) -> u64 {
        let steps = |at: &Point| at.device.completed(at.lane).ok().map(|steps| steps.min(at.value));
        self.point().and_then(steps).unwrap_or(0)
    }
}

/// At the moment of readings.
impl Fence {
    /// As [`Fence::is_signalled`], at the moment of `readings`.
    fn is_signalled_at(&self, readings: &mut Readings) -> Result<bool> {
        let Some(at) = self.point() else { return self.is_signalled() };
        if !readings.reached(&at.device, at.lane, at.value)? {
            return Ok(false);
        }
        let failed = self.dependencies().and_then(|list| list.failure_at(readings));
        self.dependencies_succeeded(failed)
    }

    /// Whether it has succeeded, as far as `readings` say that at once. With `false` ask [`Fence::outcome_at`].
    #[inline]
    pub(super) fn has_plainly_succeeded_at(&self, readings: &Readings) -> bool {
        self.dependencies().is_none()
            && self.point().is_some_and(|at| readings.has_passed(&at.device, at.lane, at.value))
    }

    /// What the work ended with, at the moment of `readings`: `None` if it may still be running, as [`Fence::is_over`]
    /// says; otherwise the error, if there is one.
    pub(super) fn outcome_at(&self, readings: &mut Readings) -> Option<Option<Error>> {
        if self.pretends_busy() {
            return None;
        }
        match self.is_signalled_at(readings) {
            Ok(signalled) => signalled.then_some(None),
            Err(error) => error.ends_work().then_some(Some(error)),
        }
    }

    /// As [`Fence::failure`], at the moment of `readings`.
    pub(super) fn failure_at(&self, readings: &mut Readings) -> Option<Error> {
        self.is_signalled_at(readings).err().filter(Error::ends_work)
    }

    /// As [`Fence::is_over`], at the moment of `readings`.
    pub(crate) fn is_over_at(&self, readings: &mut Readings) -> bool {
        self.outcome_at(readings).is_some()
    }

    /// Makes this fence, which covers `old`, report the failures of what `old` depends on.
    pub(super) fn inherit(&mut self, old: &Self, readings: &mut Readings) {
        let Some(theirs) = old.dependencies() else { return };
        if !self.dependencies().is_some_and(|ours| Arc::ptr_eq(ours, theirs)) {
            let mut relied = ReliedOn::default();
            relied.add_dependencies(self, readings);
            relied.add_dependencies(old, readings);
            *self = self.without_dependencies().relies_on(relied);
        }
    }

    /// Whether it has failed, or may still fail, at the moment of `readings`.
    pub(super) fn may_fail_at(&self, readings: &mut Readings) -> bool {
        !matches!(self.is_signalled_at(readings), Ok(true))
    }
}
