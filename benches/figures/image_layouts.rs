//! Layouts of images: the move into another one, what a negotiation costs, and the bookkeeping of an image.

use std::hint::black_box;
use std::sync::Arc;

use ash::vk;
use peerbuf::device::AdapterKind;
use peerbuf::image::negotiate::{AttachmentOffer, Evidence, ImageRequest, negotiate};
use peerbuf::image::{
    Extent, Fourcc, ImageOffer, ImageUsage, Limits, MemoryPlane, Offer, Shape, TilingOffer,
};
use peerbuf::{Access, BufferDescriptor, Device, ImageAttachment, ImagePart, SharedImage};

use crate::Outcome;
use crate::evict::{moves, timed};
use crate::figure::Figure;
use crate::hand::{Block, Recorded};
use crate::heap;
use crate::image_hand::ImageHand;
use crate::images::{check, create, texels};
use crate::measure::{Plan, Rounds, compare, rounds_of};
use crate::setup::Setup;

/// 4K, and ten texels more: at 3840 texels every driver that is known places rows at 15,360 bytes.
const SIZE: (u32, u32) = (3850, 2160);
/// Odd, so that the median is one of the rounds.
const ROUNDS: usize = 51;

/// `image_relayout_4k`: a move into the layout of other devices' driver and back, against the faster one of two copies by
/// hand: row by row by the host, and by one recorded command with a region for each row.
pub(crate) fn relayout(setup: &Setup) -> Outcome<Vec<Figure>> {
    let Some(others) = others(setup)? else { return Ok(vec![]) };
    let image = create(setup, &setup.near, SIZE)?;
    let written = texels(SIZE);
    image.write_texels(ImagePart::default(), &written)?;
    let _home = image.attach(&setup.near)?;
    let (mut attached, pitch) = (vec![], pitch_of(&image));
    // Both directions, with the attachments outside of the time.
    let mut there_and_back = || -> Outcome<f64> {
        attached = others.iter().map(|device| Ok(image.attach(device)?)).collect::<Outcome<_>>()?;
        let there = relaid(&image)?;
        attached.clear();
        Ok(there + relaid(&image)?)
    };
    there_and_back()?;
    let mut by_hand = ByRows::new(&setup.near, [pitch, u64::from(4 * SIZE.0)])?;
    let (mut host, mut device) = (Rounds::default(), Rounds::default());
    for _ in 0..rounds_of(ROUNDS) {
        let first = there_and_back()?;
        let [by_host, by_device] = [by_hand.by_host()? + by_hand.by_host()?, {
            by_hand.by_device()? + by_hand.by_device()?
        }];
        let ours = (first + there_and_back()?) / 2.0;
        host.add(ours, by_host);
        device.add(ours, by_device);
    }
    check(&image, &written)?;
    let (host, device) = (host.summary(), device.summary());
    let compared = if host.baseline < device.baseline { host } else { device };
    Ok(vec![Figure::speed(
        "image_relayout_4k",
        "move a 4K image into another pitch",
        "the faster one of row copies by the host and by one recorded command",
        Some(0.95),
        compared,
    )])
}

fn pitch_of(image: &SharedImage) -> u64 {
    image.layout().planes().first().map_or(0, |plane| plane.pitch.into())
}

fn relaid(image: &SharedImage) -> Outcome<f64> {
    timed(|| {
        moves(&image.relayout()?)?;
        drop(image.buffer().host_access(Access::Read)?);
        Ok(())
    })
}

/// Two devices of a driver that places rows elsewhere; `None` if there is no such driver.
fn others(setup: &Setup) -> Outcome<Option<[Device; 2]>> {
    let ours = setup.near.adapter();
    let others = setup.engine.adapters().iter().filter(|adapter| {
        adapter.missing().is_empty()
            && adapter.kind() == AdapterKind::Cpu
            && adapter.driver_id() != ours.driver_id()
    });
    for adapter in others {
        let device = setup.engine.open_device(adapter)?;
        let [own, other] = [&setup.near, &device].map(|device| create(setup, device, SIZE));
        if pitch_of(&own?) != pitch_of(&other?) {
            let again = setup.engine.open_device(adapter)?;
            return Ok(Some([device, again]));
        }
    }
    Ok(None)
}

/// Two blocks with rows at two pitches, and copies of the rows in both directions.
struct ByRows<'a> {
    blocks: [Block<'a>; 2],
    pitches: [u64; 2],
    copies: [Recorded<'a>; 2],
    turn: usize,
}

impl<'a> ByRows<'a> {
    fn new(device: &'a Device, pitches: [u64; 2]) -> Outcome<Self> {
        let rows = u64::from(SIZE.1);
        let block = |pitch: u64| Block::staging(device, pitch * rows);
        let blocks = [block(pitches[0])?, block(pitches[1])?];
        let regions = |from: u64, to: u64| -> Vec<_> {
            let size = u64::from(4 * SIZE.0);
            let row = |row| vk::BufferCopy { src_offset: row * from, dst_offset: row * to, size };
            (0..rows).map(row).collect()
        };
        let copies = [Recorded::new(device)?, Recorded::new(device)?];
        let [first, second] = pitches;
        copies[0].record_regions(&blocks[0], &blocks[1], &regions(first, second))?;
        copies[1].record_regions(&blocks[1], &blocks[0], &regions(second, first))?;
        let mut this = Self { blocks, pitches, copies, turn: 0 };
        // Touches all pages.
        this.by_host()?;
        this.by_host()?;
        Ok(this)
    }

    /// Seconds of a copy by the device.
    fn by_device(&mut self) -> Outcome<f64> {
        self.turn = 1 - self.turn;
        timed(|| self.copies[1 - self.turn].run())
    }

    /// Seconds of a copy by the host.
    fn by_host(&mut self) -> Outcome<f64> {
        self.turn = 1 - self.turn;
        let turn = self.turn;
        let [first, second] = &mut self.blocks;
        let (from, to) = if turn == 1 { (first, second) } else { (second, first) };
        let pitches = self.pitches.map(usize::try_from);
        let (source, target) = (pitches[1 - turn]?, pitches[turn]?);
        let (row, rows) = (usize::try_from(4 * SIZE.0)?, usize::try_from(SIZE.1)?);
        timed(|| {
            from.with_bytes(source * rows, |from| {
                to.with_bytes(target * rows, |to| {
                    let pairs = from.chunks_exact(source).zip(to.chunks_exact_mut(target));
                    pairs.for_each(|(from, to)| to[..row].copy_from_slice(&from[..row]));
                })
            })?
        })
    }
}

/// `negotiate_cached`: what two attachments agree on, asked again. By hand: the queries that it takes, and an image of each
/// driver.
pub(crate) fn cached(setup: &Setup) -> Outcome<Vec<Figure>> {
    let (near, far) = (&setup.near, &setup.far);
    let image = create(setup, near, (1920, 1080))?;
    let _attachments: [ImageAttachment; 2] = [image.attach(near)?, image.attach(far)?];
    let agreed = image.negotiate()?;
    let hands = [near, far].map(|device| ImageHand::new(device, setup.handle, (1920, 1080)));
    let [near, far] = hands;
    let (near, far) = (near?, far?);
    let compared = compare(
        Plan::MICROSECONDS,
        || {
            black_box(image.negotiate()?);
            Ok(())
        },
        || {
            black_box((near.ask()?, far.ask()?));
            Ok(())
        },
    )?;
    if image.negotiate()?.candidate != agreed.candidate {
        return Err("another answer".into());
    }
    Ok(vec![Figure::speed(
        "negotiate_cached",
        "what two attachments of an image agree on, asked again",
        "the drivers, asked for formats, tilings, modifiers and places of rows",
        Some(20.0),
        compared,
    )])
}

/// `negotiate_64`: the answer for 64 attachments, of different uses on two devices, over that for two.
pub(crate) fn many(setup: &Setup) -> Outcome<Vec<Figure>> {
    let fourcc = Fourcc::new(*b"AR24");
    let shape = Shape::new(1920, 1080);
    let limits = Limits { extent: Extent::new(16384, 16384), mips: 1, layers: 1 };
    let all = ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
    let uses = [ImageUsage::FILTERED, ImageUsage::STORAGE, ImageUsage::DRAWN, ImageUsage::BLENDED];
    let image = ImageOffer { allows: uses.iter().fold(all, |all, of| all | *of), limits };
    let planes = vec![MemoryPlane { offset: 0, pitch: 4 * 1920, fd: 0 }];
    let offer = || {
        let mut offer = Offer::default();
        offer.linear_tiling = Some(TilingOffer { image, planes: planes.clone(), takes_any: false });
        offer.own_image = Some(image);
        Arc::new(offer)
    };
    // Of four uses and sampling in turn: 32 sets.
    let usage = |set: u64| {
        let mut usage = if set & 16 == 0 { ImageUsage::SAMPLED } else { all };
        for (bit, of) in (0..).zip(uses) {
            if set >> bit & 1 == 1 {
                usage = usage | of;
            }
        }
        usage
    };
    let devices = [&setup.near, &setup.far];
    let offers = [offer(), offer()];
    let attachments = |count: u64| -> Vec<_> {
        let attachment = |id: u64| {
            // CAST: 0 or 1.
            let side = (id % 2) as usize;
            AttachmentOffer {
                id,
                device: devices[side].id(),
                usage: usage(id / 2),
                offer: Arc::clone(&offers[side]),
            }
        };
        (0..count).map(attachment).collect()
    };
    let mut evidence = Evidence::default();
    evidence.note_common_memory(devices[0].id(), devices[1].id());
    let ask = |attachments: &[AttachmentOffer]| -> Outcome<()> {
        let home = devices[0].id();
        let request =
            ImageRequest { fourcc, shape, home, system_dma_bufs: false, tries: 0, attachments };
        let answer = negotiate(&request, &evidence)?;
        if answer.agreement.parts.len() == attachments.len() {
            Ok(())
        } else {
            Err("not all take part".into())
        }
    };
    let (few, many) = (attachments(2), attachments(64));
    let compared = compare(Plan::MICROSECONDS, || ask(&many), || ask(&few))?;
    Ok(vec![Figure::part(
        "negotiate_64",
        "what 64 attachments of different uses agree on",
        "two attachments",
        40.0,
        compared,
    )])
}

/// `image_bytes`: bookkeeping of an image beyond that of its buffer. `image_shared_bytes`: the same of one with an attachment
/// of another device, without the application's handles.
pub(crate) fn bytes(setup: &Setup) -> Outcome<Vec<Figure>> {
    const COUNT: usize = 256;
    const SIDE: u32 = 64;
    let (near, far) = (&setup.near, &setup.far);
    // Once, so that what an engine keeps for all images is there.
    let first = create(setup, near, (SIDE, SIDE))?;
    let attachment = first.attach(far)?;
    let size = first.buffer().size();
    drop((attachment, first));
    setup.engine.trim();
    // Made by both alike before, so that lists of the engine have grown.
    let descriptor = || BufferDescriptor::new(size).dedicated().name("frame");
    let buffer = || Ok(setup.engine.create_buffer(near, descriptor())?);
    let buffers = || (0..COUNT).map(|_| buffer()).collect::<Outcome<Vec<_>>>();
    let images =
        || (0..COUNT).map(|_| create(setup, near, (SIDE, SIDE))).collect::<Outcome<Vec<_>>>();
    drop((buffers()?, images()?));
    setup.engine.trim();
    let (plain, of_buffers) = heap::taken_by(buffers);
    let plain = plain?;
    let (shared, buffers_shared) = heap::taken_by(|| {
        plain.iter().map(|buffer| Ok(buffer.attach(far)?)).collect::<Outcome<Vec<_>>>()
    });
    drop((shared?, plain));
    setup.engine.trim();
    let (made, of_images) = heap::taken_by(images);
    let made = made?;
    let (shared, images_shared) = heap::taken_by(|| {
        made.iter().map(|image| Ok(image.attach(far)?)).collect::<Outcome<Vec<_>>>()
    });
    let shared = shared?;
    let handles = shared.len() * size_of::<ImageAttachment>();
    drop((shared, made));
    setup.engine.trim();
    let each = |bytes: i64| bytes as f64 / COUNT as f64;
    // CAST: some kilobytes.
    let own = images_shared - handles as i64;
    let theirs = buffers_shared - (COUNT * size_of::<peerbuf::Attachment>()) as i64;
    Ok(vec![
        Figure::count(
            "image_bytes",
            "heap bytes of a live image of one plane beyond those of its buffer",
            "bytes",
            Some(128.0),
            each(of_images - of_buffers),
        ),
        Figure::count(
            "image_shared_bytes",
            "the same, with an attachment of another device, without the application's handles",
            "bytes",
            None,
            each(of_images + own - of_buffers - theirs),
        ),
    ])
}
