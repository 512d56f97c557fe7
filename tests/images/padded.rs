//! Images whose rows are padded for other programs, and exports of levels and layers.

use peerbuf::image::Padding;
use peerbuf::{Access, DomainId, Migration, SharedImage};

use crate::common::Rig;
use crate::texels::{Passage, assert_host_reads, image};

/// Asserts that all planes are where importers of other programs accept them.
fn assert_padded(image: &SharedImage, what: &str) {
    let (layout, format) = (image.layout(), image.format());
    let Padding { pitch, rows, offset } = Padding::CROSSING;
    let mut end = 0;
    for (plane, of) in layout.planes().iter().zip(format.planes()) {
        assert!(plane.pitch.is_multiple_of(pitch), "{what}: {layout:?}");
        assert!(
            plane.offset.is_multiple_of(offset.into()) && plane.offset >= end,
            "{what}: {layout:?}"
        );
        let height = of.rows(image.shape().extent).next_multiple_of(rows.into());
        end = plane.offset + height * u64::from(plane.pitch);
    }
    assert!(end <= image.buffer().size(), "{what}: {layout:?}");
}

#[test]
fn a_padded_image_keeps_its_rows_wherever_it_is_and_every_device_uses_it() {
    let rig = Rig::new();
    let devices = rig.all();
    for home in &devices {
        for name in ["AR24", "R8  ", "NV12"] {
            let descriptor = image(name, (62, 18), 1).padded();
            let image = rig.engine().create_image(home, descriptor).expect("an image");
            let what = format!("{name} at home on {}", home.name());
            assert_padded(&image, &what);
            let before = image.layout();
            let attachments: Vec<_> =
                devices.iter().map(|device| image.attach(device).expect("it attaches")).collect();
            for (seed, (device, attachment)) in devices.iter().zip(&attachments).enumerate() {
                let (seed, passage) =
                    (seed as u64 + 1, Passage::new(rig.engine(), device, 1 << 16));
                passage.upload(&attachment.map(Access::Write).expect("it maps"), seed);
                for (device, attachment) in devices.iter().zip(&attachments) {
                    let passage = Passage::new(rig.engine(), device, 1 << 16);
                    let mapping = attachment.map(Access::Read).expect("it maps");
                    passage.assert_copied(&mapping, seed, &what);
                }
                assert_host_reads(&image, seed, &what);
            }
            assert_eq!(image.relayout().expect("nothing keeps it"), Migration::Unchanged, "{what}");
            image.evict().expect("nothing keeps it");
            assert_eq!(image.domain(), DomainId::System);
            assert_eq!(image.layout(), before, "{what}");
            assert_padded(&image, &what);
        }
    }
}
