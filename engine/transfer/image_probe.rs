//! Proofs of images, one at a time with those of routes, and on the same devices.
//!
//! They are made in this process, also where a program proves routes ([`crate::EngineDescriptor::probe_program`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::prove::{self, Ended, ImageMemory, ImageOutcome, ImageProbe};
use super::routes::Routes;
use super::untried::Untried;
use crate::device::DeviceInner;
use crate::memory::PlaneStart;

impl Routes {
    /// Writes an image on the first device of a pair and reads it on the second one. Of several probes, the first one of
    /// which both devices place the planes alike is made. All of it takes at most about `limit`.
    ///
    /// Locks: none may be held; this waits for devices, and for another thread that proves.
    pub(crate) fn prove_image(
        &self,
        pair: (&Arc<DeviceInner>, &Arc<DeviceInner>),
        tried: &[ImageProbe<'_>],
        memory: ImageMemory<'_>,
        limit: Duration,
    ) -> ImageOutcome {
        let end = Instant::now() + limit;
        let Some(_turn) = self.turn(end) else {
            return ImageOutcome::Untried(Untried::OutOfTime { limit });
        };
        let left = end.saturating_duration_since(Instant::now());
        prove::prove_image(pair, tried, memory, &self.probes, left)
    }

    /// Where the two devices put the planes of an image over common memory.
    ///
    /// # Errors
    ///
    /// Why no image could be asked.
    ///
    /// Locks: as [`Routes::prove_image`].
    pub(crate) fn linear_places(
        &self,
        pair: (&Arc<DeviceInner>, &Arc<DeviceInner>),
        probe: &ImageProbe<'_>,
        memory: ImageMemory<'_>,
        limit: Duration,
    ) -> Result<[Vec<PlaneStart>; 2], Ended> {
        let end = Instant::now() + limit;
        let Some(_turn) = self.turn(end) else {
            return Err(Ended::Untried(Untried::OutOfTime { limit }));
        };
        let left = end.saturating_duration_since(Instant::now());
        prove::linear_places(pair, probe, memory, &self.probes, left)
    }
}
