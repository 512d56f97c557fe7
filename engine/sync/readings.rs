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
pub(crate) struct Readings(SmallVec<[(Arc<DeviceInner>, QueueKind, Reading); 4]>);

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
        self.0.push((Arc::clone(device), lane, reading));
        reading
    }

    /// What a queue's timeline showed, if it was read.
    pub(crate) fn known(&self, device: &DeviceInner, lane: QueueKind) -> Option<Reading> {
        let is = |of: &&(Arc<DeviceInner>, QueueKind, Reading)| {
            std::ptr::eq(&*of.0, device) && of.1 == lane
        };
        self.0.iter().find(is).map(|(.., reading)| *reading)
    }
}
