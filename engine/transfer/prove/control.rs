//! The devices of one proof, and the control submissions on them: the proof that a failure is the route's.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::ends::{Hung, ProbeDevices, RouteEnd};
use super::memory::{Held, Memory};
use super::outcome::Until;
use crate::device::{DeviceInner, QueueKind, Waits};
use crate::error::{Error, Result};
use crate::sync::Fence;
use crate::transfer::pass::Side;
use crate::transfer::untried::Untried;

/// Whether two devices are opened at the same time. Objects of the model checker belong to its own threads.
const AT_ONCE: bool = !cfg!(peerbuf_shuttle);

/// A route is given up if less than this part of the limit is left.
const LEAST: u32 = 16;

/// The proof of one pair: its devices, and its deadline.
pub(super) struct Session<'a> {
    /// The application's devices, which are not used: only devices like them.
    like: [&'a Arc<DeviceInner>; 2],
    probes: &'a ProbeDevices,
    /// The second is unused if both sides are one device.
    ends: [Option<RouteEnd>; 2],
    limit: Duration,
    end: Instant,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        like: [&'a Arc<DeviceInner>; 2],
        probes: &'a ProbeDevices,
        limit: Duration,
    ) -> Self {
        probes.free_hung();
        Self { like, probes, ends: [None, None], limit, end: Instant::now() + limit }
    }

    /// The application's devices, for what they report.
    pub(super) fn devices(&self) -> [&'a Arc<DeviceInner>; 2] {
        self.like
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether both sides are one device.
    pub(super) fn is_same(&self) -> bool {
        Arc::ptr_eq(self.like[0], self.like[1])
    }

    pub(super) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Opens the devices, if they are not open and enough time is left for another route.
    ///
    /// # Errors
    ///
    /// The reason why no other route can be tried.
    pub(super) fn may_try(&mut self) -> Result<(), Untried> {
        if self.left() < self.limit / LEAST {
            return Err(Untried::OutOfTime { limit: self.limit });
        }
        self.open_at_once()?;
        self.open(Side::First)?;
        self.open(Side::Second).map(|_| ())
    }

    /// The two devices, once both have ended an empty submission.
    ///
    /// # Errors
    ///
    /// The reason why a device is not ready.
    pub(super) fn ready(&mut self) -> Result<[RouteEnd; 2], Untried> {
        let near = self.ready_on(Side::First)?;
        let far = if self.is_same() { near.clone() } else { self.ready_on(Side::Second)? };
        Ok([near, far])
    }

    fn ready_on(&mut self, side: Side) -> Result<RouteEnd, Untried> {
        // A device that was kept may have been lost meanwhile.
        for _ in 0..2 {
            let end = self.open(side)?;
            match self.control(side) {
                Err(Untried::ControlFailed { .. }) if end.device.is_lost() => {
                    self.close_lost();
                }
                other => return other.map(|_| end),
            }
        }
        let end = self.open(side)?;
        self.control(side).map(|_| end)
    }

    /// The device of a side, opened if it is not open.
    pub(super) fn open(&mut self, side: Side) -> Result<RouteEnd, Untried> {
        let at = self.index(side);
        if let Some(end) = &self.ends[at] {
            return Ok(end.clone());
        }
        let kept = self.probes.take(self.like[at]);
        let end = kept.map_or_else(|| RouteEnd::open(self.like[at]), Ok);
        Ok(self.ends[at].insert(end.map_err(no_device(side))?).clone())
    }

    /// Opens both devices at the same time, if neither is there: each takes a driver some ten milliseconds.
    ///
    /// # Errors
    ///
    /// The reason why one of them does not open.
    fn open_at_once(&mut self) -> Result<(), Untried> {
        if !AT_ONCE || self.is_same() {
            return Ok(());
        }
        for (end, like) in self.ends.iter_mut().zip(self.like) {
            *end = end.take().or_else(|| self.probes.take(like));
        }
        if self.ends.iter().any(Option::is_some) {
            return Ok(());
        }
        let [near, far] = self.like;
        let (near, far) = thread::scope(|scope| {
            let opening = thread::Builder::new().spawn_scoped(scope, || RouteEnd::open(far));
            let near = RouteEnd::open(near);
            let join = |opening: thread::ScopedJoinHandle<'_, _>| {
                opening.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            // Without a thread, the second one is opened after the first.
            (near, opening.map_or_else(|_| RouteEnd::open(far), join))
        });
        // One that has opened is closed, or kept, with the session.
        let opened = [near.map_err(no_device(Side::First)), far.map_err(no_device(Side::Second))];
        let mut failed = Ok(());
        for (end, opened) in self.ends.iter_mut().zip(opened) {
            match opened {
                Ok(opened) => *end = Some(opened),
                Err(why) => failed = failed.and(Err(why)),
            }
        }
        failed
    }

    /// Makes an empty submission to each queue of a device and waits for it: at most a quarter of the time that is
    /// left. Returns how long it took. A device that is not open is opened.
    ///
    /// # Errors
    ///
    /// The reason why the device is not ready.
    pub(super) fn control(&mut self, side: Side) -> Result<Duration, Untried> {
        const PART: u32 = 4;
        let device = self.open(side)?.device;
        if self.left() < self.limit / LEAST {
            return Err(Untried::OutOfTime { limit: self.limit });
        }
        let (start, waited) = (Instant::now(), self.left() / PART);
        let failed = |error: Error| Untried::ControlFailed { side, cause: error.to_string() };
        let mut fences = Vec::new();
        for queue in [QueueKind::Main, device.queue_for_moves()] {
            let value = device.submit_on(queue, Waits::default(), |_| {}).map_err(failed)?;
            fences.push(Fence::on(&device, queue, value));
        }
        for fence in &fences {
            match fence.wait(waited.saturating_sub(start.elapsed())) {
                Ok(()) => {}
                Err(Error::Timeout { .. }) => {
                    self.hang(fences.clone(), vec![]);
                    return Err(Untried::Busy { side, waited });
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(start.elapsed())
    }

    /// Frees memory of a trial that may run until `until`. If work on it may use it then, the memory stays, and
    /// the devices of that work are not used again.
    pub(super) fn close(&mut self, memory: impl IntoIterator<Item = Memory>, until: Until) {
        let (mut fences, mut kept) = (Vec::new(), Vec::new());
        for memory in memory {
            let (held, running) = memory.into_parts(until);
            fences.extend(running);
            kept.push(held);
        }
        if !fences.is_empty() {
            self.hang(fences, kept);
        }
    }

    /// Puts away the devices whose work behind a fence may still use memory.
    fn hang(&mut self, fences: Vec<Fence>, memory: Vec<Held>) {
        let fences: Vec<_> = fences.into_iter().filter(|fence| !fence.is_released()).collect();
        let lanes = [QueueKind::Main, QueueKind::Transfer];
        let is_on = |fence: &Fence, device: &DeviceInner| {
            lanes.iter().any(|lane| fence.is_on_lane(device, *lane))
        };
        let hangs = |end: &mut RouteEnd| fences.iter().any(|fence| is_on(fence, &end.device));
        let ends = self.ends.iter_mut().filter_map(|end| end.take_if(hangs)).collect();
        self.probes.keep_hung(Hung { fences, memory, ends });
    }

    /// Closes devices that are lost. Returns the side of one, if there is one.
    pub(super) fn close_lost(&mut self) -> Option<Side> {
        let mut lost = None;
        for (end, side) in self.ends.iter_mut().zip([Side::First, Side::Second]) {
            if end.take_if(|end| end.device.is_lost()).is_some() {
                lost = Some(side);
            }
        }
        lost
    }

    fn index(&self, side: Side) -> usize {
        usize::from(side == Side::Second && !self.is_same())
    }
}

fn no_device(side: Side) -> impl Fn(Error) -> Untried {
    move |error| Untried::NoProbeDevice { side, cause: error.to_string() }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        for end in self.ends.iter_mut().filter_map(Option::take) {
            if !end.device.is_lost() {
                self.probes.give_back(end);
            }
        }
    }
}
