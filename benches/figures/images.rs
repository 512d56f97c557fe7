//! Cost of sharing images, of handing them over, and of moving them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use peerbuf::image::{Fourcc, ImageUsage};
use peerbuf::{
    Access, Device, DomainId, Fence, ImageAttachment, ImageDescriptor, ImagePart, Migration,
    Refault, SharedImage,
};

use crate::Outcome;
use crate::by_hand::{ByHand, write_pattern};
use crate::copy::HeapCopy;
use crate::evict::{moves, timed};
use crate::figure::Figure;
use crate::hand::Recorded;
use crate::image_hand::{ImageHand, Staged};
use crate::measure::{Plan, Rounds, compare, rounds_of};
use crate::setup::{Setup, TIMEOUT};

/// 4K.
const SIZE: (u32, u32) = (3840, 2160);
/// Rounds of moves of a 4K image. Odd, so that the median is one of them.
const ROUNDS: usize = 51;
/// Number of images shared in turn, so that no single one stays in a cache.
const IMAGES: usize = 64;
/// The size of those.
const SMALL: (u32, u32) = (256, 256);

/// An image in rows, which is copied and sampled.
pub(crate) fn create(setup: &Setup, home: &Device, size: (u32, u32)) -> Outcome<SharedImage> {
    let usage = ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
    let descriptor =
        ImageDescriptor::new(Fourcc::new(*b"AR24"), size.0, size.1).usage(usage).name("frame");
    Ok(setup.engine.create_image(home, descriptor)?)
}

/// Every texel differs from its neighbours.
pub(crate) fn texels((width, height): (u32, u32)) -> Vec<u8> {
    (0..width * height).flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect()
}

pub(crate) fn check(image: &SharedImage, written: &[u8]) -> Outcome<()> {
    let read = image.read_texels(ImagePart::default())?;
    if read == written { Ok(()) } else { Err("wrong texels".into()) }
}

/// Both devices use the shared bytes, so no own image makes the comparison another one.
fn check_direct(attachment: &ImageAttachment) -> Outcome<()> {
    match attachment.map(Access::Read)?.view()?.is_own {
        true => Err(format!("{} has an image of its own", attachment.device().name()).into()),
        false => Ok(()),
    }
}

/// `image_handover_4k`: one submission on each device, which releases and acquires the image, and a wait. By hand the frame
/// is read back, copied by the host, and uploaded.
pub(crate) fn handover(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let image = create(setup, near, SIZE)?;
    let written = texels(SIZE);
    image.write_texels(ImagePart::default(), &written)?;
    let (writer, reader) = (image.attach(near)?, image.attach(far)?);
    check_direct(&writer)?;
    check_direct(&reader)?;
    let (writing, reading) = (writer.map(Access::Write)?, reader.map(Access::Read)?);
    let mut staged = Staged::new(near, far, SIZE)?;
    let compared = compare(
        Plan::UNEQUAL,
        || {
            setup.engine.submit(near, |frame| writing.write(frame).map(drop))?;
            let shown = setup.engine.submit(far, |frame| reading.read(frame).map(drop))?;
            Ok(shown.wait(TIMEOUT)?)
        },
        || staged.hand_over(),
    )?;
    check(&image, &written)?;
    Ok(vec![Figure::speed(
        "image_handover_4k",
        "hand a finished 4K frame to the next device",
        "readback, memcpy and upload, recorded beforehand",
        Some(150.0),
        compared,
    )])
}

/// `image_share_one_more`: one more attachment of a device that sees the image, which ends again.
pub(crate) fn one_more(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let exporter = ImageHand::new(near, setup.handle, SMALL)?;
    let importer = ImageHand::new(far, setup.handle, SMALL)?;
    let theirs: Vec<_> = (0..IMAGES).map(|_| exporter.create()).collect::<Outcome<_>>()?;
    let ours: Vec<_> = (0..IMAGES).map(|_| create(setup, near, SMALL)).collect::<Outcome<_>>()?;
    let mut there = vec![];
    for image in &ours {
        let importer = Arc::new(Refault::new());
        let attachment = image.attach_dynamic(far, image.usage(), importer)?;
        check_direct(&attachment)?;
        there.push((attachment.map(Access::Read)?, attachment));
    }
    let mut next = (0..IMAGES).cycle();
    let mut next_of_theirs = next.clone();
    let compared = compare(
        Plan::MICROSECONDS,
        || {
            let mapping = ours[next.next().unwrap_or(0)].attach(far)?.map(Access::Read)?;
            black_box(mapping.view()?);
            Ok(())
        },
        || {
            let image = &theirs[next_of_theirs.next().unwrap_or(0)];
            black_box(importer.share(&exporter, image)?);
            Ok(())
        },
    )?;
    Ok(vec![Figure::speed(
        "image_share_one_more",
        "one more attachment of a device that sees the image, and its end",
        "export, image, import, bind, view, and their end",
        Some(20.0),
        compared,
    )])
}

/// `image_first_share`: the first attachment of a device to a new image whose layout and routes are known.
pub(crate) fn first_share(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let exporter = ImageHand::new(near, setup.handle, SMALL)?;
    let importer = ImageHand::new(far, setup.handle, SMALL)?;
    let ours = || -> Outcome<f64> {
        let images: Vec<_> =
            (0..IMAGES).map(|_| create(setup, near, SMALL)).collect::<Outcome<_>>()?;
        // The first use zeroes the memory. That is the home's, which has drawn the frame.
        for image in &images {
            image.attach(near)?.map(Access::Write)?.view()?;
        }
        let start = Instant::now();
        let mut shared = Vec::with_capacity(IMAGES);
        for image in &images {
            let attachment = image.attach(far)?;
            let mapping = attachment.map(Access::Read)?;
            black_box(mapping.view()?);
            shared.push((mapping, attachment));
        }
        let seconds = start.elapsed().as_secs_f64();
        drop((shared, images));
        // Returns the memory to the driver, so that the next images are not in memory that the device has imported.
        setup.engine.trim();
        Ok(seconds)
    };
    let theirs = || -> Outcome<f64> {
        let images: Vec<_> = (0..IMAGES).map(|_| exporter.create()).collect::<Outcome<_>>()?;
        let start = Instant::now();
        let mut shared = Vec::with_capacity(IMAGES);
        for image in &images {
            shared.push(importer.share(&exporter, image)?);
        }
        Ok(start.elapsed().as_secs_f64())
    };
    ours()?;
    theirs()?;
    let mut rounds = Rounds::default();
    for _ in 0..rounds_of(ROUNDS) {
        let first = ours()?;
        let by_hand = theirs()? + theirs()?;
        let each = |seconds: f64| seconds / IMAGES as f64;
        rounds.add(each(first + ours()?), each(by_hand));
    }
    Ok(vec![Figure::speed(
        "image_first_share",
        "the first attachment of a device, layout known",
        "export, image, import, bind, view",
        Some(0.8),
        rounds.summary(),
    )])
}

/// A written 4K image in the first device's memory.
struct Ours<'a> {
    setup: &'a Setup,
    image: SharedImage,
    attachment: ImageAttachment,
    written: Vec<u8>,
}

impl<'a> Ours<'a> {
    fn new(setup: &'a Setup) -> Outcome<Self> {
        let image = create(setup, &setup.near, SIZE)?;
        let written = texels(SIZE);
        image.write_texels(ImagePart::default(), &written)?;
        let importer = Arc::new(Refault::new());
        let attachment = image.attach_dynamic(&setup.near, image.usage(), importer)?;
        check_direct(&attachment)?;
        Ok(Self { setup, image, attachment, written })
    }

    /// Declares all of it as written, so that the engine must copy all of it.
    fn write(&self) -> Outcome<()> {
        let mapping = self.attachment.map(Access::Write)?;
        mapping.mapping().begin_access(Access::Write)?.end(Fence::signalled());
        Ok(())
    }

    /// Seconds until the copy has ended, on whatever queue it runs: the host's access waits for it.
    fn timed(&self, work: impl FnOnce() -> peerbuf::Result<Migration>) -> Outcome<f64> {
        timed(|| {
            moves(&work()?)?;
            drop(self.image.buffer().host_access(Access::Read)?);
            Ok(())
        })
    }

    /// Seconds of a move to a device's memory.
    fn migrate(&self, to: &Device) -> Outcome<f64> {
        self.write()?;
        self.timed(|| self.image.migrate(DomainId::Vram(to.id())))
    }

    /// Seconds of an eviction and of the way back.
    fn evict_and_return(&self) -> Outcome<f64> {
        self.write()?;
        let evict = self.timed(|| self.image.evict())?;
        Ok(evict + self.timed(|| self.image.buffer().request_residency())?)
    }

    fn check(&self) -> Outcome<()> {
        check(&self.image, &self.written)?;
        check_direct(&self.image.attach(&self.setup.far)?)
    }
}

/// `image_move_4k`: to the other device's memory and back, in the same layout, against a `memcpy` of as many bytes.
pub(crate) fn moved(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup)?;
    let mut heap = HeapCopy::of(ours.image.buffer().size())?;
    let mut memcpy = || timed(|| (heap.copy(), Ok(())).1);
    let to_and_fro = || {
        Ok::<_, Box<dyn std::error::Error>>([ours.migrate(&setup.far)?, ours.migrate(&setup.near)?])
    };
    to_and_fro()?;
    memcpy()?;
    let mut rounds = Rounds::default();
    for _ in 0..rounds_of(ROUNDS) {
        let [there, back] = to_and_fro()?;
        rounds.add(there + back, memcpy()? + memcpy()?);
    }
    ours.check()?;
    Ok(vec![Figure::speed(
        "image_move_4k",
        "move a 4K image to the other device, same layout",
        "memcpy of as many bytes",
        Some(0.9),
        rounds.summary(),
    )])
}

/// `image_evict_4k`: evict a written image and bring it back. By hand: new exportable memory, a copy, and the old memory is
/// freed, in both directions.
pub(crate) fn evict(setup: &Setup) -> Outcome<Vec<Figure>> {
    let ours = Ours::new(setup)?;
    let size = ours.image.buffer().size();
    let hand = ByHand::new(&setup.near, &setup.far, setup.handle, size)?;
    let first = hand.create()?;
    write_pattern(&setup.near, &first, size)?;
    let mut block = Some(first);
    let mut by_hand = || {
        let mut seconds = 0.0;
        for _ in 0..2 {
            let Some(old) = block.take() else { return Err("the image has no memory".into()) };
            seconds += timed(|| {
                let new = hand.create()?;
                Recorded::copy(&setup.near, &old, &new, size)?.run()?;
                drop(old);
                block = Some(new);
                Ok(())
            })?;
        }
        Ok::<_, Box<dyn std::error::Error>>(seconds)
    };
    ours.evict_and_return()?;
    by_hand()?;
    let mut rounds = Rounds::default();
    for _ in 0..rounds_of(ROUNDS) {
        let first = ours.evict_and_return()?;
        let theirs = by_hand()? + by_hand()?;
        rounds.add(first + ours.evict_and_return()?, theirs);
    }
    ours.check()?;
    Ok(vec![Figure::speed(
        "image_evict_4k",
        "evict a written 4K image and bring it back",
        "allocate, copy and free by hand, twice",
        Some(5.0),
        rounds.summary(),
    )])
}
