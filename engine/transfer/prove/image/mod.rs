//! Proves ways to share images: texels are written on one side, and read on the other by a copy and by a shader.
//!
//! A driver takes an image over another one's memory and shows garbage, where the two place rows at different distances:
//! lavapipe pads rows to 64 bytes, SwiftShader does not. So an image of the same format and layout, of an odd size, is
//! written and read before a layout counts, on the devices on which routes are proved, with the same deadline, control
//! submissions and judgement (`prove`).
//!
//! Formats and layouts are numbers of Vulkan here; [`crate::image`] translates.

mod bound;
mod commands;
mod outcome;
mod passes;
mod sampler;
mod texels;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::outcome::{
    Ended, ImageFault, ImageMemory, ImageOutcome, ImagePasses, ImageProbe, ImageRead,
};
pub(super) use self::sampler::LazySampler;
pub(crate) use self::texels::ProbePlane;

use self::bound::each_way;
use self::passes::Shared;
use super::control::Session;
use super::ends::ProbeDevices;
use super::trial::Way;
use crate::device::DeviceInner;
use crate::memory::PlaneStart;

/// Writes an image on `from` and reads it on `to`. Of several probes, the first one of which both devices place the
/// planes alike is made. All of it ends within about `limit`.
///
/// Locks: none may be held; this waits for devices.
pub(crate) fn prove_image(
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    tried: &[ImageProbe<'_>],
    memory: ImageMemory<'_>,
    probes: &ProbeDevices,
    limit: Duration,
) -> ImageOutcome {
    let mut session = Session::new([from, to], probes, limit);
    let mut first = None;
    for (index, probe) in tried.iter().enumerate() {
        let passes = |way: Way, shared: &Shared<'_>| {
            shared.check_places()?;
            let (copied, sampled) = shared.prove()?;
            let texels = texels::texels(probe.planes);
            Ok(ImagePasses { route: way.route, probe: index, texels, copied, sampled })
        };
        match each_way(probe, memory, &mut session, passes) {
            Ok(passes) => return ImageOutcome::Works(passes),
            Err(Ended::Refused(fault @ ImageFault::OtherPlace { .. })) => {
                first.get_or_insert(fault);
            }
            Err(Ended::Refused(fault)) => return ImageOutcome::Refused(fault),
            Err(Ended::Untried(why)) => return ImageOutcome::Untried(why),
            Err(Ended::Stop(error)) => return ImageOutcome::Stop(error),
        }
    }
    ImageOutcome::Refused(first.unwrap_or(ImageFault::NoMemory))
}

/// Where the two devices put the planes of an image over common memory.
///
/// Locks: none may be held; this waits for devices.
pub(crate) fn linear_places(
    (from, to): (&Arc<DeviceInner>, &Arc<DeviceInner>),
    probe: &ImageProbe<'_>,
    memory: ImageMemory<'_>,
    probes: &ProbeDevices,
    limit: Duration,
) -> Result<[Vec<PlaneStart>; 2], Ended> {
    let mut session = Session::new([from, to], probes, limit);
    each_way(probe, memory, &mut session, |_, shared| Ok(shared.places()))
}
