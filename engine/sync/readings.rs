//! What timelines show at one moment, for one pass over the fences of many buffers.

use smallvec::SmallVec;

use super::primitive::Arc;
use crate::device::{DeviceInner, QueueKind, Reading};
use crate::error::Result;

/// The values of timelines, each read from its driver at most once, when a fence on it is asked for.
///
/// All fences of one pass are compared with the same values. A fence that ends during the pass counts as running
/// until the next one, which is what a query a moment earlier would have said.
#[derive(Default)]
pub(crate) struct Readings {
    all: SmallVec<[(Arc<DeviceInner>, QueueKind, Reading); 4]>,
    /// What the timeline has passed that was read last.
    passed: Option<Passed>,
}

/// A value that a timeline had reached while its device was not lost. So fences up to it have signalled, and their own work
/// has not failed.
struct Passed {
    /// The device's address, which `Readings::all` keeps from being reused.
    device: usize,
    lane: QueueKind,
    value: u64,
}

impl Readings {
    /// Whether a queue's timeline had reached `value`. Errors are those of [`DeviceInner::reached`].
    pub(super) fn reached(
        &mut self,
        device: &Arc<DeviceInner>,
        lane: QueueKind,
        value: u64,
    ) -> Result<bool> {
        let reading = self.of(device, lane);
        device.has_reached(lane, value, reading)
    }

    fn of(&mut self, device: &Arc<DeviceInner>, lane: QueueKind) -> Reading {
        if let Some(reading) = self.known(device, lane) {
            return reading;
        }
        let reading = device.read(lane);
        self.all.push((Arc::clone(device), lane, reading));
        let value = reading.reached();
        if value > 0 && !device.calls().pretends_busy() {
            self.passed = Some(Passed { device: Arc::as_ptr(device).addr(), lane, value });
        }
        reading
    }

    /// Whether it is known already that a queue's timeline had reached `value`, and that its device was not lost by then.
    /// Of one timeline at a time, that which was read last: a pass over many fences asks mostly for that.
    #[inline]
    pub(super) fn has_passed(&self, device: &DeviceInner, lane: QueueKind, value: u64) -> bool {
        self.passed.as_ref().is_some_and(|passed| {
            passed.device == std::ptr::from_ref(device).addr()
                && passed.lane == lane
                && value <= passed.value
        })
    }

    /// What a queue's timeline showed, if it was read.
    pub(crate) fn known(&self, device: &DeviceInner, lane: QueueKind) -> Option<Reading> {
        let is = |of: &&(Arc<DeviceInner>, QueueKind, Reading)| {
            std::ptr::eq(&*of.0, device) && of.1 == lane
        };
        self.all.iter().find(is).map(|(.., reading)| *reading)
    }
}
