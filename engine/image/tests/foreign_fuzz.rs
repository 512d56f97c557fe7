//! Foreign descriptions, made up and mutated: the check never panics, and what it accepts lies within the files and
//! does not overlap. The oracle counts every byte in 128 bits.

use super::Random;
use super::foreign::{importer, offered};
use crate::image::{
    ForeignImage, ForeignPlane, Format, Fourcc, ImageUsage, LinearLayout, Modifier, Offer, Padding,
    Shape,
};

/// Numbers that have broken importers, and their neighbours.
const NUMBERS: [u64; 22] = [
    0,
    1,
    2,
    3,
    63,
    64,
    65,
    252,
    255,
    256,
    257,
    4095,
    4096,
    4097,
    65536,
    1 << 30,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 63,
    u64::MAX,
];

const FOURCCS: [&[u8; 4]; 9] =
    [b"R8  ", b"AR24", b"XR24", b"AB4H", b"NV12", b"P010", b"YU12", b"YUYV", b"RG24"];

const MODIFIERS: [u64; 6] = [
    0,
    0x0100_0000_0000_0001,
    0x0100_0000_0000_0006,
    0x0200_0004_4051_ba01,
    0x0300_0000_0060_6015,
    0x00ff_ffff_ffff_ffff,
];

/// An image as an exporter would describe it.
fn honest(random: &mut Random) -> ForeignImage {
    let format = random.pick(Format::all());
    let unit = format.granularity();
    // CAST: below 2^9.
    let mut size = |unit: u32| (random.below(1 << 9) as u32 + 1).next_multiple_of(unit);
    let shape = Shape::new(size(unit.width), size(unit.height));
    let padding = *random.pick(&[Padding::NONE, Padding::CROSSING, Padding::WIDE]);
    let linear = LinearLayout::new(format.fourcc(), shape, padding).expect("a layout");
    let image: ForeignImage = linear.image_layout().into();
    ForeignImage { fds: vec![linear.bytes()], usage: ImageUsage::SAMPLED, ..image }
}

/// Changes one number, or the number of something.
fn mutate(image: &mut ForeignImage, random: &mut Random) {
    let mut number = *random.pick(&NUMBERS);
    if random.one_in(3) {
        number = random.next() >> random.below(64);
    }
    // CAST: cut off on purpose.
    let small = number as u32;
    let plane = random.below(image.planes.len().max(1) as u64) as usize;
    match random.below(14) {
        0 => image.fourcc = Fourcc::new(**random.pick(&FOURCCS)).raw(),
        1 => image.modifier = *random.pick(&MODIFIERS),
        2 => image.width = small,
        3 => image.height = small,
        4 => image.mips = small,
        5 => image.layers = small,
        6 => image.usage = ImageUsage::SAMPLED | ImageUsage::DRAWN,
        7 => image.fds.push(number),
        8 => drop(image.fds.pop()),
        9 => image.fds.iter_mut().for_each(|size| *size = number),
        10 => image.planes.push(ForeignPlane { fd: small & 3, offset: number, pitch: 64 }),
        11 => drop(image.planes.pop()),
        12 => image.planes.iter_mut().skip(plane).take(1).for_each(|plane| plane.offset = number),
        _ => image.planes.iter_mut().skip(plane).take(1).for_each(|plane| plane.pitch = number),
    }
}

/// The offer of a device for images with so many format planes.
fn offer_for(image: &ForeignImage, random: &mut Random) -> Offer {
    let format = Format::of(Fourcc::from_raw(image.fourcc));
    // CAST: at most four planes.
    let planes = format.map_or(1, |format| format.planes().len() as u8);
    let mut offer = importer(planes);
    offer.modifiers.push(offered(0x0100_0000_0000_0001, planes));
    offer.modifiers.push(offered(0x0300_0000_0060_6015, planes));
    offer.needs = *random.pick(&[Padding::NONE, Padding { pitch: 64, rows: 16, offset: 4 }]);
    offer
}

/// What must be true of an image that was accepted, counted without any of the code under test but the table.
fn assert_fits(image: &ForeignImage, seed: u64) {
    let format = Format::of(Fourcc::from_raw(image.fourcc)).expect("a format");
    let mut ranges: Vec<(u32, u128, u128)> = vec![];
    for (index, plane) in image.planes.iter().enumerate() {
        let size = u128::from(*image.fds.get(plane.fd as usize).expect("a file"));
        let begin = u128::from(plane.offset);
        let is_known = image.modifier == 0 || image.modifier >> 56 == 1;
        let mut end = begin + 1;
        if let Some(rows) = format.planes().get(index).filter(|_| is_known) {
            let wide = u128::from(image.width).div_ceil(rows.divide_x.into());
            let row = wide.div_ceil(rows.block_width.into()) * u128::from(rows.block_bytes);
            let high = u128::from(image.height).div_ceil(rows.divide_y.into());
            let block = u64::from(rows.block_bytes);
            let is_whole = plane.offset.is_multiple_of(block) && plane.pitch.is_multiple_of(block);
            assert!(is_whole && plane.pitch < 1 << 31, "seed {seed}: {image:?}");
            assert!(u128::from(plane.pitch) >= row, "seed {seed}: {image:?}");
            end = begin + u128::from(plane.pitch) * (high - 1) + row;
        }
        assert!(end <= size, "seed {seed}: plane {index} ends at {end}: {image:?}");
        for (fd, other_begin, other_end) in &ranges {
            let apart = *fd != plane.fd || end <= *other_begin || *other_end <= begin;
            assert!(apart, "seed {seed}: plane {index} overlaps: {image:?}");
        }
        ranges.push((plane.fd, begin, end));
    }
    assert!(
        image.fds.len() <= image.planes.len() && !image.fds.is_empty(),
        "seed {seed}: {image:?}"
    );
    assert!(image.modifier != Modifier::INVALID.raw(), "seed {seed}");
}

/// Runs one seed; whether the description was accepted.
fn run(seed: u64) -> bool {
    let mut random = Random(seed);
    let mut image = honest(&mut random);
    for _ in 0..random.below(4) {
        mutate(&mut image, &mut random);
    }
    let offer = offer_for(&image, &mut random);
    match image.check(&offer) {
        Ok(layout) => {
            assert_fits(&image, seed);
            let back = ForeignImage { fds: image.fds.clone(), usage: image.usage, ..layout.into() };
            assert_eq!(back, image, "seed {seed}: the layout is the description");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty(), "seed {seed}");
            false
        }
    }
}

#[test]
fn what_is_accepted_lies_within_the_files_and_does_not_overlap() {
    let seeds = 0..60_000;
    let accepted = seeds.clone().filter(|seed| run(*seed)).count();
    assert!(accepted > 6_000, "{accepted} of {} were accepted: the fuzzer is too wild", seeds.end);
    assert!(accepted < 54_000, "{accepted} of {} were accepted: the fuzzer is too tame", seeds.end);
}

/// Seeds whose images once were, or nearly were, judged wrongly. They stay.
const CORPUS: [u64; 6] = [0, 17, 4_711, 0x9e37_79b9, 0xffff_ffff, u64::MAX];

#[test]
fn the_corpus_is_judged_as_ever() {
    for seed in CORPUS {
        run(seed);
    }
}
