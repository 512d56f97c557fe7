//! Lays images of both sides over the same memory, in each way that a route has, until one works.

use std::sync::Arc;
use std::time::Instant;

use super::outcome::{Ended, Failed, ImageFault, ImageMemory, ImageProbe};
use super::passes::Shared;
use crate::device::HandleType;
use crate::memory::{
    Allocation, BoundImage, ImageSpec, ImportKind, Provider, Tiling, UnboundImage, View,
};
use crate::transfer::pass::Side;
use crate::transfer::prove::control::Session;
use crate::transfer::prove::ends::RouteEnd;
use crate::transfer::prove::judge::{Judgement, Stage, Tried, at};
use crate::transfer::prove::memory::{Memory, origin};
use crate::transfer::prove::outcome::{Outcome, Until};
use crate::transfer::prove::trial::{Way, ways};

/// Bytes that memory of a probe is a multiple of: the largest page of the kernels that have such drivers.
const GRANULE: u64 = 64 << 10;

/// Does `work` on images that are laid over common memory, in the first way in which it succeeds.
pub(super) fn each_way<T>(
    probe: &ImageProbe<'_>,
    memory: ImageMemory<'_>,
    session: &mut Session<'_>,
    work: impl Fn(Way, &Shared<'_>) -> Result<T, Failed>,
) -> Result<T, Ended> {
    let devices = session.devices();
    let by_fd = |way: &Way| {
        let fd = ImportKind::Fd(HandleType::DmaBuf);
        way.imports == (fd, fd)
    };
    let all = memory.routes.iter().flat_map(|route| ways(*route, devices));
    let mut last = Ended::Refused(ImageFault::NoMemory);
    for way in all.filter(|way| !memory.dma_bufs || by_fd(way)) {
        session.may_try().map_err(Ended::Untried)?;
        match one_way(way, probe, session, &work) {
            Ok(done) => return Ok(done),
            // Drivers place planes alike whatever the memory is.
            Err(end @ (Ended::Stop(_) | Ended::Refused(ImageFault::OtherPlace { .. }))) => {
                return Err(end);
            }
            // A way that was not tried leaves it open.
            Err(Ended::Refused(_)) if matches!(last, Ended::Untried(_)) => {}
            // What texels say is no fault of the memory, as later ways may report.
            Err(Ended::Refused(_))
                if matches!(last, Ended::Refused(ImageFault::WrongTexels { .. })) => {}
            Err(ended) => last = ended,
        }
    }
    Err(last)
}

fn one_way<T>(
    way: Way,
    probe: &ImageProbe<'_>,
    session: &mut Session<'_>,
    work: &impl Fn(Way, &Shared<'_>) -> Result<T, Failed>,
) -> Result<T, Ended> {
    let mut repeated = false;
    loop {
        let ends = session.ready().map_err(Ended::Untried)?;
        let share = session.left() / 2;
        let until = Until { end: Instant::now() + share };
        // Until the images have said what they need.
        let mut bytes = probe.bytes.max(GRANULE);
        let failure = match attempt(way, probe, &ends, (session, until), &mut bytes, work) {
            Ok(done) => return Ok(done),
            Err(Failed::Fault(fault)) => return Err(Ended::Refused(fault)),
            Err(Failed::Call(failure)) => failure,
        };
        drop(ends);
        match session.judge(failure, Tried { provider: way.provider, bytes, share }) {
            Judgement::RefusedIfRepeated(_) if !repeated => repeated = true,
            Judgement::Refused(reason) | Judgement::RefusedIfRepeated(reason) => {
                return Err(Ended::Refused(ImageFault::Refused(reason)));
            }
            Judgement::Other(Outcome::Stop(error)) => return Err(Ended::Stop(error)),
            Judgement::Other(Outcome::Untried(why) | Outcome::NotReady(why)) => {
                return Err(Ended::Untried(why));
            }
            Judgement::Other(Outcome::Refused(reason, _)) => {
                return Err(Ended::Refused(ImageFault::Refused(reason)));
            }
            // A failure is never judged so.
            Judgement::Other(Outcome::Works(..)) => {
                return Err(Ended::Refused(ImageFault::NoMemory));
            }
        }
    }
}

/// Creates the images and their memory, does the work, and frees all of it.
fn attempt<T>(
    way: Way,
    probe: &ImageProbe<'_>,
    ends: &[RouteEnd; 2],
    (session, until): (&mut Session<'_>, Until),
    bytes: &mut u64,
    work: &impl Fn(Way, &Shared<'_>) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let [near, far] = ends;
    let near_handle = match way.provider {
        Provider::Device { handle, .. } => handle,
        _ => way.imports.0.handle(),
    };
    let image = |end: &RouteEnd, handle, side: Side, tiling: Tiling<'_>| {
        let spec = ImageSpec { usage: probe.usages[side as usize], tiling, ..probe.spec };
        UnboundImage::new(&end.device, &spec, Some(handle)).map_err(at(side, Stage::Import))
    };
    let near_image = image(near, near_handle, Side::First, probe.spec.tiling)?;
    // Where the first driver places the planes of a modifier, the second one is told.
    let told = near_image.memory_planes();
    let far_tiling = match probe.spec.tiling {
        Tiling::Listed { modifier, .. } => Tiling::Modifier { modifier, planes: &told },
        same => same,
    };
    let far_image = image(far, way.imports.1.handle(), Side::Second, far_tiling)?;
    let needed = near_image.requirements().size.max(far_image.requirements().size);
    *bytes = needed.max(probe.bytes).next_multiple_of(GRANULE);
    let made = Allocation::create(&origin(way.provider, &near.device), *bytes);
    let memory = Memory::new(made.map_err(at(Side::First, Stage::Allocate))?);
    let found =
        lay_over(way, ends, &memory, [near_image, far_image]).and_then(|(views, images)| {
            let [near_view, far_view] = &views;
            let ends = [(near, &**near_view), (far, &**far_view)];
            work(way, &Shared { memory: &memory, ends, images, probe, until })
        });
    session.close([memory], until);
    found
}

type Laid = ([Arc<View>; 2], [Arc<BoundImage>; 2]);

/// Binds the images to views of the memory, which keeps them until it is freed.
fn lay_over(
    way: Way,
    [near, far]: &[RouteEnd; 2],
    memory: &Memory,
    [near_image, far_image]: [UnboundImage; 2],
) -> Result<Laid, Failed> {
    let view = |end: &RouteEnd, kind, side| {
        memory.allocation().view(&end.device, kind).map_err(at(side, Stage::Import))
    };
    let (ours, theirs) = way.imports;
    let near_view = view(near, ours, Side::First)?;
    let far_view = view(far, theirs, Side::Second)?;
    let bind = |image: UnboundImage, view: &View, side| {
        let bound = Arc::new(image.bind(view, 0).map_err(at(side, Stage::Import))?);
        memory.hold(Arc::<BoundImage>::clone(&bound));
        Ok::<_, Failed>(bound)
    };
    let near_image = bind(near_image, &near_view, Side::First)?;
    let far_image = bind(far_image, &far_view, Side::Second)?;
    Ok(([near_view, far_view], [near_image, far_image]))
}
