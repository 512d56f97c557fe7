//! The passes of a probe: the first device writes, the second one reads by a copy and by a shader.
#![expect(unsafe_code, reason = "staging memory, and the commands of this folder")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ash::vk;

use super::commands::{aspect, read, regions};
use super::outcome::{Failed, ImageFault, ImageProbe, ImageRead};
use super::sampler::{Bindings, FINDINGS, FINDINGS_STEP, Shown};
use super::texels::{ProbePlane, bytes, compare, pattern, texels};
use crate::device::Waits;
use crate::error::Result;
use crate::memory::staging::{Direction, StagingBuffer};
use crate::memory::{
    Allocation, BoundImage, DomainKind, ImageSpec, PlaneStart, Provider, Tiling, UnboundImage, View,
};
use crate::sync::{Fence, RejectionWatch};
use crate::transfer::image_commands::{
    ImageUse, acquire_image, copy_buffer_to_image, release_image,
};
use crate::transfer::ownership::outside_family;
use crate::transfer::pass::Side;
use crate::transfer::prove::ends::RouteEnd;
use crate::transfer::prove::judge::on;
use crate::transfer::prove::memory::{Memory, origin};
use crate::transfer::prove::outcome::Until;
use crate::transfer::scope::Scope;

/// An image that both sides see.
pub(super) struct Shared<'a> {
    pub(super) memory: &'a Memory,
    /// The first and the second device, with their views of the memory.
    pub(super) ends: [(&'a RouteEnd, &'a View); 2],
    pub(super) images: [Arc<BoundImage>; 2],
    pub(super) probe: &'a ImageProbe<'a>,
    pub(super) until: Until,
}

/// What is written: other bytes than any buffer's proof has written.
const SEED: u32 = 0x696d_6167;

impl Shared<'_> {
    /// Where each device says that the planes are.
    pub(super) fn places(&self) -> [Vec<PlaneStart>; 2] {
        let planes = 0..u32::try_from(self.probe.planes.len()).unwrap_or(0);
        [0, 1].map(|side| {
            planes.clone().filter_map(|plane| self.images[side].placed(plane, 0, 0)).collect()
        })
    }

    /// Checks that both devices place the planes alike, if that is for drivers to say.
    pub(super) fn check_places(&self) -> Result<(), Failed> {
        if self.probe.spec.tiling != Tiling::Linear {
            return Ok(());
        }
        let [near, far] = self.places();
        let differs = near.iter().zip(&far).position(|(near, far)| near != far);
        match differs.and_then(|plane| Some((plane, *near.get(plane)?, *far.get(plane)?))) {
            Some((plane, near, far)) => {
                Err(Failed::Fault(ImageFault::OtherPlace { plane, near, far }))
            }
            None => Ok(()),
        }
    }

    /// Writes the pattern on the first device and reads it on the second one. Returns how long the copy and the shader
    /// took there.
    pub(super) fn prove(&self) -> Result<(Duration, Option<Duration>), Failed> {
        let written = pattern(self.probe.planes, SEED);
        self.write(&written)?;
        let copied = self.read_by_copy(&written)?;
        let sampled = if self.probe.sampled { Some(self.read_by_shader(&written)?) } else { None };
        Ok((copied, sampled))
    }

    fn write(&self, written: &[u8]) -> Result<(), Failed> {
        let (side, near) = (Side::First, self.seen(Side::First));
        let upload = self.upload(side, written)?;
        let regions = regions(self.probe.planes);
        self.submit(side, |commands| {
            let (buffer, scope) = (upload.raw(), Scope::TRANSFER);
            // SAFETY: the queue began `commands` for this device; nothing used the image before, its spec has the usage, and
            // the buffer was made for these planes.
            unsafe { copy_buffer_to_image(&near, commands, buffer, &regions, scope) };
            // SAFETY: as above; the image is in `GENERAL` now.
            unsafe { release_image(&near, commands, scope) };
        })
    }

    fn read_by_copy(&self, written: &[u8]) -> Result<Duration, Failed> {
        let (side, far) = (Side::Second, self.seen(Side::Second));
        let planes = self.probe.planes;
        let readback = self.staging(side, bytes(planes), Direction::Readback)?;
        let start = Instant::now();
        self.submit(side, |commands| {
            // SAFETY: the queue began `commands` for this device; the first device has released the image.
            unsafe { acquire_image(&far, commands, true, Scope::TRANSFER) };
            // SAFETY: as above; the spec has the usage, and the buffer was made for these planes.
            unsafe { read(&far, commands, planes, readback.raw()) };
            // SAFETY: as above; the device has acquired the image.
            unsafe { release_image(&far, commands, Scope::TRANSFER) };
        })?;
        let took = start.elapsed();
        let found = read_back(&readback, bytes(planes)).map_err(on(side))?;
        match compare(planes, written, &found) {
            None => Ok(took),
            Some(wrong) => Err(self.wrong(ImageRead::Copied, wrong.count, wrong.first)),
        }
    }

    /// Compares the image, as a shader reads it, with an image of the second device's own that was filled there.
    fn read_by_shader(&self, written: &[u8]) -> Result<Duration, Failed> {
        let (side, far) = (Side::Second, self.seen(Side::Second));
        let end = self.end(side);
        let upload = self.upload(side, written)?;
        let reference = self.reference(end)?;
        let own = ImageUse { image: reference.raw(), outside: None, ..far };
        let regions = regions(self.probe.planes);
        let parts = self.parts();
        // CAST: at most three planes.
        let findings_bytes = FINDINGS_STEP * parts.len() as u64;
        let findings = self.staging(side, findings_bytes, Direction::Readback)?;
        let nothing: Vec<u8> = (0..parts.len()).flat_map(|_| NOTHING_FOUND).collect();
        write(&findings, &nothing).map_err(on(side))?;
        let sampler = end.sampler.get(&end.device).map_err(on(side))?;
        let images = [&self.images[1], &reference];
        let bindings = Bindings::new(&sampler, images, parts, findings.raw()).map_err(on(side))?;
        let bindings = Arc::new(bindings);
        self.memory.hold(Arc::<Bindings>::clone(&bindings));
        let start = Instant::now();
        self.submit(side, |commands| {
            let (buffer, scope) = (upload.raw(), Scope::COMPUTE);
            // SAFETY: the queue began `commands` for this device; nothing used the reference before, it has the usage, and
            // the buffer was made for these planes.
            unsafe { copy_buffer_to_image(&own, commands, buffer, &regions, scope) };
            // SAFETY: as above; the last user has released the image.
            unsafe { acquire_image(&far, commands, true, scope) };
            // SAFETY: both images are in `GENERAL` and visible to shaders; `memory` holds the bindings until the work is
            // over.
            unsafe { bindings.record(commands) };
            // SAFETY: as above; the device has acquired the image.
            unsafe { release_image(&far, commands, scope) };
        })?;
        let took = start.elapsed();
        let found = read_back(&findings, findings_bytes).map_err(on(side))?;
        match self.judge_findings(&found) {
            None => Ok(took),
            Some((count, first)) => Err(self.wrong(ImageRead::Sampled, count, first)),
        }
    }

    /// How many texels of all planes a shader found wrong, and the first one.
    fn judge_findings(&self, found: &[u8]) -> Option<(u64, [u32; 2])> {
        // CAST: 256.
        let each = found.chunks(FINDINGS_STEP as usize).zip(self.probe.planes);
        let mut wrong: Option<(u64, [u32; 2])> = None;
        for (found, plane) in each {
            let mut words = found.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word));
            let (count, first) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
            if count > 0 {
                wrong.get_or_insert((0, plane.texel_of(first))).0 += u64::from(count);
            }
        }
        wrong
    }

    fn wrong(&self, read: ImageRead, wrong: u64, first: [u32; 2]) -> Failed {
        let texels = texels(self.probe.planes);
        Failed::Fault(ImageFault::WrongTexels { read, wrong, texels, first })
    }

    /// Each plane, as a shader sees it.
    fn parts(&self) -> Vec<Shown> {
        let planes = self.probe.planes;
        let ImageSpec { format, plane_formats, .. } = self.probe.spec;
        let part = |(at, plane): (usize, &ProbePlane)| Shown {
            aspect: aspect(at, planes.len()),
            format: plane_formats.get(at).copied().unwrap_or(format),
            extent: [plane.width, plane.height],
        };
        planes.iter().enumerate().map(part).collect()
    }

    /// An image of a device's own with the same texels: what a shader must see.
    fn reference(&self, end: &RouteEnd) -> Result<Arc<BoundImage>, Failed> {
        let side = Side::Second;
        let usage = vk::ImageUsageFlags::TRANSFER_DST | vk::ImageUsageFlags::SAMPLED;
        let spec = ImageSpec { usage, tiling: Tiling::Optimal, ..self.probe.spec };
        let device = &end.device;
        let image = UnboundImage::new(device, &spec, None).map_err(on(side))?;
        let provider = Provider::Private { device: device.id() };
        debug_assert_eq!(provider.domain().kind(), DomainKind::Vram);
        let size = image.requirements().size.next_multiple_of(FINDINGS_STEP);
        let memory = Allocation::create(&origin(provider, device), size).map_err(on(side))?;
        let Some(view) = memory.existing_view(device.id()) else {
            unreachable!("memory of a device has its view")
        };
        let bound = Arc::new(image.bind(&view, 0).map_err(on(side))?);
        // The image before its memory.
        self.memory.hold(Arc::<BoundImage>::clone(&bound));
        self.memory.hold(memory);
        Ok(bound)
    }

    fn submit(&self, side: Side, record: impl FnMut(vk::CommandBuffer)) -> Result<(), Failed> {
        let device = &self.end(side).device;
        let rejection = RejectionWatch::main(device);
        let value = device
            .submit(Waits::default(), record)
            .inspect_err(|_| self.memory.keep([rejection.fence()]))
            .map_err(on(side))?;
        Ok(self.memory.wait(self.until, Fence::new(device, value)).map_err(on(side))?)
    }

    fn upload(&self, side: Side, written: &[u8]) -> Result<Arc<StagingBuffer>, Failed> {
        let upload = self.staging(side, bytes(self.probe.planes), Direction::Upload)?;
        write(&upload, written).map_err(on(side))?;
        Ok(upload)
    }

    /// A buffer that stays until the work of this probe is over.
    fn staging(
        &self,
        side: Side,
        size: u64,
        direction: Direction,
    ) -> Result<Arc<StagingBuffer>, Failed> {
        let made = self.end(side).staging.buffer(size.next_multiple_of(4), direction);
        let made = Arc::new(made.map_err(on(side))?);
        self.memory.hold(Arc::<StagingBuffer>::clone(&made));
        Ok(made)
    }

    fn end(&self, side: Side) -> &RouteEnd {
        self.ends[side as usize].0
    }

    fn seen(&self, side: Side) -> ImageUse<'_> {
        let (end, view) = self.ends[side as usize];
        let image = self.images[side as usize].raw();
        let outside = Some(outside_family(&end.device, view));
        ImageUse { device: &end.device, image, outside }
    }
}

/// The findings of a part before a shader has looked: none wrong, and so no first one.
const NOTHING_FOUND: [u8; FINDINGS_STEP as usize] = {
    let mut bytes = [0; FINDINGS_STEP as usize];
    let mut at = FINDINGS as usize / 2;
    while at < FINDINGS as usize {
        bytes[at] = u8::MAX;
        at += 1;
    }
    bytes
};

/// Writes the beginning of a buffer that no device uses.
fn write(buffer: &StagingBuffer, bytes: &[u8]) -> Result<()> {
    let host = buffer.host()?;
    // SAFETY: the buffer was made for so many bytes, and no work uses it yet.
    unsafe { host.write(bytes) };
    Ok(())
}

/// Reads the beginning of a buffer whose work is over.
fn read_back(buffer: &StagingBuffer, bytes: u64) -> Result<Vec<u8>> {
    let host = buffer.host()?;
    // CAST: an image of a probe has some hundred kilobytes.
    let mut out = vec![0; bytes as usize];
    // SAFETY: the buffer was made for so many bytes, and its work was waited for.
    unsafe { host.read(&mut out) };
    Ok(out)
}
