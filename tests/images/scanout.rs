//! The kernel shows an image: it scans the image out of the dma-buf that the engine exports, and QEMU shows every pixel.

use std::os::fd::AsFd;

use peerbuf::image::{ImageUsage, Modifier};
use peerbuf::{Access, HandleType, ImageDescriptor, ImagePart, Placement, SharedImage};

use crate::card::{Card, Rows, cksum, screendump};
use crate::common::{Rig, missing, needs_dma_buf};
use crate::texels::{Passage, code, texels};

const WIDTH: u16 = 1024;
const HEIGHT: u16 = 768;

/// What QEMU writes of a screen that shows the texels of a seed: a portable pixmap.
fn pixmap(image: &SharedImage, seed: u64) -> Vec<u8> {
    let mut pixmap = format!("P6\n{WIDTH} {HEIGHT}\n255\n").into_bytes();
    let texels = texels(image, ImagePart::default(), seed);
    // Texels are blue, green, red, and a byte that is not shown.
    pixmap.extend(texels.as_chunks::<4>().0.iter().flat_map(|[b, g, r, _]| [*r, *g, *b]));
    pixmap
}

#[test]
fn in_the_vm_the_kernel_scans_out_every_pixel_of_an_image_before_and_after_a_move() {
    let rig = Rig::new();
    let Some(lavapipe) = rig.lavapipe() else { return };
    if !needs_dma_buf(&lavapipe) {
        return;
    }
    let Some(card) = Card::open(WIDTH, HEIGHT) else { return missing("a card of cirrus") };
    let usage = ImageUsage::COPIED_TO | ImageUsage::COPIED_FROM;
    let descriptor = ImageDescriptor::new(code("XR24"), WIDTH.into(), HEIGHT.into())
        .usage(usage)
        .placement(Placement::Vram)
        .name("screen");
    let image = rig.engine().create_image(&lavapipe, descriptor).expect("an image");
    let attachment = image.attach(&lavapipe).expect("it attaches");
    let bytes = u64::from(WIDTH) * u64::from(HEIGHT) * 4;
    let passage = Passage::new(rig.engine(), &lavapipe, bytes);
    let show = |seed: u64, name: &str| {
        let export = image.export().expect("it is exported");
        assert_eq!(export.info().handle, HandleType::DmaBuf);
        let layout = export.layout();
        assert_eq!(layout.modifier(), Modifier::LINEAR);
        let [plane] = layout.planes() else { panic!("{layout:?}") };
        let rows = Rows {
            fourcc: layout.fourcc().raw(),
            offset: plane.offset.try_into().expect("below 4 GiB"),
            pitch: plane.pitch,
        };
        let _shown = card.show(export.as_fd(), rows);
        assert_eq!(screendump(name), cksum(&pixmap(&image, seed)), "{name}");
    };
    let draw = |seed: u64| passage.upload(&attachment.map(Access::Write).expect("it maps"), seed);
    draw(1);
    show(1, "drawn");
    let generation = image.generation();
    image.buffer().relocate().expect("nothing shows it any more");
    assert_ne!(image.generation(), generation);
    show(1, "moved");
    draw(2);
    show(2, "drawn-again");
}
