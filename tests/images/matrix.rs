//! Formats × sizes × ordered pairs of devices × fresh, written back, moved, evicted and back, laid out anew: texel by
//! texel.

use peerbuf::{
    Access, Device, DomainId, DomainKind, ImageAttachment, ImageDescriptor, ImageMapping,
    Placement, SharedImage,
};

use crate::common::{Rig, in_short_vm};
use crate::sampler::Sampler;
use crate::texels::{Passage, assert_host_reads, image};

/// Formats of one plane, of two planes, of every size of a texel, and of packed components.
const FORMATS: [&str; 12] = [
    "R8  ", "GR88", "AR24", "XR24", "AB24", "RG16", "AR30", "AB30", "AB4H", "NV12", "P010", "YU12",
];

/// One at which lavapipe and SwiftShader place rows alike, and others at which they do not.
const SIZES: [(u32, u32); 5] = [(64, 16), (62, 18), (1, 1), (33, 7), (256, 256)];

/// A device with what a test reads and writes by.
struct Side {
    device: Device,
    passage: Passage,
    sampler: Sampler,
}

impl Side {
    fn new(rig: &Rig, device: Device) -> Self {
        let most = 256 * 256;
        Self {
            passage: Passage::new(rig.engine(), &device, most * 16),
            sampler: Sampler::new(rig.engine(), &device, most),
            device,
        }
    }
}

fn is_possible(name: &str, (width, height): (u32, u32)) -> bool {
    let is_subsampled = matches!(name, "NV12" | "P010" | "YU12");
    !is_subsampled || (width.is_multiple_of(2) && height.is_multiple_of(2))
}

/// Every format and size, from one device to another and back.
fn all_cases(rig: &Rig, from: &Side, to: &Side) {
    // Under emulation a case takes seconds.
    let (formats, sizes): (&[&str], &[_]) = match in_short_vm() {
        true => (&["AR24", "NV12"], &[(62, 18)]),
        false => (&FORMATS, &SIZES),
    };
    for &name in formats {
        for size in sizes.iter().copied().filter(|size| is_possible(name, *size)) {
            case(rig, from, to, image(name, size, 1));
        }
    }
}

fn case(rig: &Rig, from: &Side, to: &Side, descriptor: ImageDescriptor) {
    let image = rig.engine().create_image(&from.device, descriptor).expect("an image");
    let what = format!("{} {}", image.fourcc(), image.shape());
    let writer = image.attach(&from.device).expect("the home device attaches");
    let reader = image.attach(&to.device).expect("the other device attaches");
    let pair = Pair { image: &image, ends: [(&writer, from), (&reader, to)] };

    pair.write(0, 1);
    pair.assert_all(1, &format!("{what}, fresh"));
    pair.write(1, 2);
    pair.assert_all(2, &format!("{what}, written back"));

    let generation = image.generation();
    image.buffer().relocate().expect("it moves");
    assert_ne!(image.generation(), generation, "{what}");
    pair.assert_all(2, &format!("{what}, moved"));
    pair.write(1, 3);

    if image.domain().kind() == DomainKind::Vram {
        image.evict().expect("it is evicted");
        assert_eq!(image.domain(), DomainId::System, "{what}");
        assert_host_reads(&image, 3, &format!("{what}, evicted"));
        image.buffer().request_residency().expect("it returns");
        assert_eq!(image.domain().kind(), DomainKind::Vram, "{what}");
    } else {
        image.migrate(DomainId::System).expect("it is there");
    }
    pair.assert_all(3, &format!("{what}, evicted and back"));

    image.relayout().expect("nothing keeps it in place");
    pair.assert_all(3, &format!("{what}, laid out anew"));
    pair.write(0, 4);
    pair.assert_all(4, &format!("{what}, laid out anew and written"));
}

/// An image with its two attachments.
struct Pair<'a> {
    image: &'a SharedImage,
    ends: [(&'a ImageAttachment, &'a Side); 2],
}

impl Pair<'_> {
    /// One of the two writes all texels of a seed.
    fn write(&self, end: usize, seed: u64) {
        let (attachment, side) = self.ends[end];
        let mapping = attachment.map(Access::Write).expect("it maps");
        side.passage.upload(&mapping, seed);
    }

    /// Both copy and sample the texels of a seed, and the host reads them.
    fn assert_all(&self, seed: u64, what: &str) {
        for (attachment, side) in self.ends {
            let mapping: ImageMapping = attachment.map(Access::Read).expect("it maps");
            let what = format!("{what}, {}", side.device.name());
            side.passage.assert_copied(&mapping, seed, &what);
            side.sampler.assert_sampled(&mapping, seed, &what);
        }
        assert_host_reads(self.image, seed, what);
    }
}

#[test]
fn every_format_and_size_is_the_same_from_lavapipe_to_swiftshader() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let (from, to) = (Side::new(&rig, lavapipe), Side::new(&rig, swiftshader));
    all_cases(&rig, &from, &to);
}

#[test]
fn every_format_and_size_is_the_same_from_swiftshader_to_lavapipe() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let (from, to) = (Side::new(&rig, swiftshader), Side::new(&rig, lavapipe));
    all_cases(&rig, &from, &to);
}

#[test]
fn images_are_the_same_on_two_devices_of_one_driver_and_in_its_memory() {
    let rig = Rig::new();
    for first in rig.all() {
        let second = rig.open(&first.adapter().clone());
        let (from, to) = (Side::new(&rig, first), Side::new(&rig, second));
        let cases = [("AR24", (62, 18)), ("NV12", (62, 18)), ("AB4H", (33, 7))];
        for (name, size) in cases.into_iter().take(if in_short_vm() { 2 } else { 3 }) {
            case(&rig, &from, &to, image(name, size, 1).placement(Placement::VramOrSystem));
        }
    }
}

#[test]
fn mips_and_layers_are_the_same_on_both_drivers() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let sides = [Side::new(&rig, lavapipe), Side::new(&rig, swiftshader)];
    for (from, to) in [(0, 1), (1, 0)] {
        for (name, size, mips, layers) in
            [("AR24", (256, 256), 4, 1), ("R8  ", (62, 18), 5, 3), ("GR88", (64, 16), 1, 2)]
        {
            let descriptor = image(name, size, mips).layers(layers);
            case(&rig, &sides[from], &sides[to], descriptor);
        }
    }
}
