//! Random descriptions of other programs' images, with a driver behind them. What is accepted is an image whose texels are
//! in its rows and nowhere else; what is refused reaches no driver.
#![expect(unsafe_code, reason = "imports of fds that the test has made")]

use std::os::fd::AsFd;

use peerbuf::device::Call;
use peerbuf::image::{Extent, ForeignImage, ForeignPlane, Format, ImageLayout, ImageUsage};
use peerbuf::{Access, BufferDescriptor, Engine, ImageError, Placement, SharedBuffer};

use crate::common::random::Random;
use crate::common::{Rig, soak};
use crate::texels::{Passage, assert_host_reads, code, write_by_host};

/// The size of the file.
const BYTES: u64 = 64 << 10;

const NAMES: [&str; 6] = ["AR24", "R8  ", "GR88", "RG16", "NV12", "YU12"];

/// Numbers that are wrong somewhere.
const NUMBERS: [u64; 10] =
    [0, 1, 3, 63, 4096, BYTES - 1, BYTES, (1 << 31) - 1, 1 << 32, u64::MAX - 2];

/// An image as another program could have it in the file.
fn honest(random: &mut Random) -> ForeignImage {
    let fourcc = code(NAMES[random.index(NAMES.len())]);
    let format = Format::of(fourcc).expect("a format");
    // CAST: small.
    let mut even = |most: u64| 2 * (1 + random.below(most / 2) as u32);
    let (width, height) = (even(100), even(40));
    let extent = Extent::new(width, height);
    let mut end = 0;
    let mut planes = vec![];
    for plane in format.planes() {
        let texel = u64::from(plane.block_bytes);
        let (offset, pitch) = (
            (end + random.below(300)).next_multiple_of(texel),
            plane.row_bytes(extent) + texel * random.below(20),
        );
        end = offset + pitch * plane.rows(extent);
        planes.push(ForeignPlane { fd: 0, offset, pitch });
    }
    let usage = ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
    let (fourcc, mips, layers) = (fourcc.raw(), 1, 1);
    ForeignImage { fourcc, modifier: 0, width, height, mips, layers, usage, planes, fds: vec![] }
}

/// Changes one number, or the number of planes.
fn mutate(image: &mut ForeignImage, random: &mut Random) {
    let number = match random.one_in(3) {
        true => random.next() >> random.below(64),
        false => *random.pick(&NUMBERS),
    };
    // CAST: cut off on purpose.
    let small = number as u32;
    let at = random.index(image.planes.len());
    match random.below(10) {
        0 => image.fourcc = small,
        1 => image.modifier = number,
        2 => image.width = small,
        3 => image.height = small,
        4 => image.mips = small,
        5 => image.layers = small,
        6 => drop(image.planes.pop()),
        7 => image.planes.push(ForeignPlane { fd: 0, offset: number, pitch: 64 }),
        8 => image.planes[at].offset = number,
        _ => image.planes[at].pitch = number,
    }
}

fn bytes_of(buffer: &SharedBuffer) -> Vec<u8> {
    let mut bytes = vec![0; BYTES as usize];
    let access = buffer.host_access(Access::Read).expect("the host reads");
    access.read(0, &mut bytes).expect("it has so many");
    bytes
}

/// Which bytes of the file are texels.
fn are_texels(layout: &ImageLayout, format: &Format) -> Vec<bool> {
    let mut texels = vec![false; BYTES as usize];
    for (place, plane) in layout.planes().iter().zip(format.planes()) {
        let extent = layout.shape().extent;
        for row in 0..plane.rows(extent) {
            let start = (place.offset + row * u64::from(place.pitch)) as usize;
            texels[start..start + plane.row_bytes(extent) as usize].fill(true);
        }
    }
    texels
}

fn made(engine: &Engine) -> [u64; 4] {
    [Call::ImportMemory, Call::DuplicateFd, Call::CreateBuffer, Call::CreateImage]
        .map(|call| engine.calls().made(call))
}

#[test]
fn what_is_accepted_is_an_image_in_its_rows_alone_and_what_is_refused_reaches_no_driver() {
    let rig = Rig::new();
    let other = rig.external_engine();
    for device in rig.all() {
        let owner = rig.open_on(&other, &device);
        let descriptor = BufferDescriptor::new(BYTES).placement(Placement::Vram);
        let buffer = other.create_buffer(&owner, descriptor).expect("a buffer");
        let export = buffer.export_foreign().expect("an fd");
        let passage = Passage::new(rig.engine(), &device, 2 * BYTES);
        let rounds = soak::times(200, 10);
        let (mut accepted, mut refused) = (0, 0);
        for seed in 0..u64::from(rounds) {
            let random = &mut Random::new(seed);
            let mut described = honest(random);
            if random.one_in(2) {
                mutate(&mut described, random);
            }
            let what = format!("seed {seed} on {}: {described:?}", device.name());
            let (calls, before) = (made(rig.engine()), bytes_of(&buffer));
            let file = (export.as_fd(), export.info());
            // SAFETY: an export with these properties, and the test orders all uses itself.
            let imported = unsafe { rig.engine().import_image(&device, file, &described, None) };
            let image = match imported {
                Ok(image) => image,
                Err(error) => {
                    let is_typed = !matches!(error, ImageError::Engine(_));
                    assert!(is_typed && made(rig.engine()) == calls, "{what}: {error}");
                    refused += 1;
                    continue;
                }
            };
            accepted += 1;
            write_by_host(&image, seed);
            let attachment = image.attach(&device).expect("it attaches");
            let mapping = attachment.map(Access::ReadWrite).expect("it maps");
            passage.assert_copied(&mapping, seed, &what);
            passage.upload(&mapping, seed + 1);
            assert_host_reads(&image, seed + 1, &what);
            let texels = are_texels(&image.layout(), image.format());
            let after = bytes_of(&buffer);
            let mut bytes = before.iter().zip(&after).zip(&texels);
            assert!(bytes.all(|((old, new), is_texel)| *is_texel || old == new), "{what}");
        }
        let few = rounds / 5;
        assert!(accepted > few && refused > few, "{accepted} accepted, {refused} refused");
    }
}
