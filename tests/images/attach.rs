//! Attachments and mappings of images: which `VkImage` a device gets, how long it is good, and what is refused.

use std::error::Error as _;

use peerbuf::image::{ImageUsage, LayoutError, Padding};
use peerbuf::{Access, BufferDescriptor, Error, ImageDescriptor, ImageError, ImagePart, Placement};

use crate::common::Rig;
use crate::common::recorder::Recorder;
use crate::texels::{assert_host_reads, code, image, write_by_host};

#[test]
fn a_new_image_has_zero_texels_and_memory_of_its_own() {
    let rig = Rig::new();
    for device in rig.all() {
        for placement in [Placement::VramOrSystem, Placement::System] {
            let descriptor = image("AR24", (62, 18), 1).placement(placement);
            let image = rig.engine().create_image(&device, descriptor).expect("an image");
            let part = ImagePart::default();
            assert_eq!(image.texel_bytes(part).expect("it has one"), 62 * 18 * 4);
            let texels = image.read_texels(part).expect("the host reads");
            assert!(texels.iter().all(|byte| *byte == 0), "{}", device.name());
            let attachment = image.attach(&device).expect("the home device attaches");
            let mapping = attachment.map(Access::Read).expect("it maps");
            let view = mapping.mapping().view().expect("it is current");
            assert_eq!(view.offset, 0, "no slab, though it is small");
        }
    }
}

#[test]
fn descriptions_of_no_image_are_refused_with_the_reason() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let create = |descriptor: ImageDescriptor| {
        rig.engine().create_image(&device, descriptor).expect_err("no such image")
    };
    let none = create(image("AR24", (8, 8), 1).usage(ImageUsage::NONE));
    assert!(matches!(none, ImageError::NoUsage), "{none}");
    let packed = create(image("RG24", (8, 8), 1));
    assert!(packed.to_string().ends_with("convert it to XR24"), "{packed}");
    for (name, size, mips, says) in [
        ("AR24", (0, 8), 1, "width is 0"),
        ("AR24", (8, 1 << 20), 1, "height is 1048576"),
        ("AR24", (8, 8), 5, "mip levels is 5"),
        ("NV12", (7, 8), 1, "multiples of 2×2"),
        ("NV12", (8, 8), 2, "mip levels is 2"),
    ] {
        let error = create(image(name, size, mips));
        assert!(matches!(error, ImageError::Layout(LayoutError::Shape(_))), "{error}");
        assert!(error.to_string().contains(says) && error.source().is_none(), "{error}");
    }
    let layers = create(image("AR24", (8, 8), 1).layers(0));
    assert!(layers.to_string().contains("array layers is 0"), "{layers}");
}

#[test]
fn a_part_or_texels_that_do_not_fit_are_refused_and_change_nothing() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let descriptor = image("NV12", (16, 8), 1);
    let image = rig.engine().create_image(&device, descriptor).expect("an image");
    write_by_host(&image, 1);
    for part in [
        ImagePart::of_plane(2),
        ImagePart::of_level(1),
        ImagePart { layer: 1, ..ImagePart::default() },
    ] {
        for error in [
            image.read_texels(part).expect_err("no such part"),
            image.write_texels(part, &[0; 4]).expect_err("no such part"),
            image.texel_bytes(part).expect_err("no such part"),
        ] {
            assert!(matches!(error, ImageError::NoSuchPart { planes: 2, .. }), "{error}");
        }
    }
    for bytes in [0, 63, 65] {
        let error =
            image.write_texels(ImagePart::of_plane(1), &vec![0; bytes]).expect_err("not 64");
        assert!(matches!(error, ImageError::TexelBytes { needed: 64, .. }), "{error}");
    }
    assert_host_reads(&image, 1, "after all that");
}

#[test]
fn a_device_that_places_rows_elsewhere_has_an_image_of_its_own() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    for (home, other) in [(&lavapipe, &swiftshader), (&swiftshader, &lavapipe)] {
        for (size, alike) in [((64, 16), true), ((62, 18), false), ((256, 256), true)] {
            let descriptor = image("AR24", size, 1);
            let image = rig.engine().create_image(home, descriptor).expect("an image");
            let [at_home, away] =
                [home, other].map(|device| image.attach(device).expect("it attaches"));
            let mappings = [&at_home, &away].map(|one| one.map(Access::Read).expect("it maps"));
            let [at_home, away] = mappings.each_ref().map(|one| one.view().expect("it is current"));
            assert!(!at_home.is_own, "{size:?}: the layout is that of the home device");
            assert_eq!(away.is_own, !alike, "{size:?} on {}", other.name());
            let pitch = image.layout().planes()[0].pitch;
            let padded =
                if home == &lavapipe { (size.0 * 4_u32).next_multiple_of(64) } else { size.0 * 4 };
            assert_eq!(pitch, padded, "{size:?}");
        }
    }
}

#[test]
fn a_device_that_cannot_draw_into_rows_draws_into_an_image_of_its_own() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let drawn = ImageUsage::DRAWN | ImageUsage::SAMPLED;
    let descriptor = image("AR24", (62, 18), 1).usage(drawn);
    let image = rig.engine().create_image(&swiftshader, descriptor).expect("an image");
    let pitch = image.layout().planes()[0].pitch;
    assert_eq!(pitch % Padding::CROSSING.pitch, 0, "no driver decides");
    let draws = image.attach(&swiftshader).expect("it attaches");
    let reads = image.attach_for(&lavapipe, ImageUsage::SAMPLED).expect("it attaches");
    assert_eq!((draws.usage(), reads.usage()), (drawn, ImageUsage::SAMPLED));
    let own = draws.map(Access::Write).expect("it maps").view().expect("it is current");
    assert!(own.is_own, "SwiftShader draws into no linear image");
    for (other, says) in [(ImageUsage::NONE, "without any use"), (ImageUsage::STORAGE, "storage")] {
        let error = image.attach_for(&lavapipe, other).expect_err("no use of it");
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn mappings_of_one_device_have_one_image_until_it_moves() {
    let rig = Rig::new();
    for device in rig.all() {
        let image =
            rig.engine().create_image(&device, image("R8  ", (64, 16), 1)).expect("an image");
        let importer = Recorder::new(true);
        let dynamic = image
            .attach_dynamic(&device, image.usage(), importer.clone())
            .expect("the home device attaches");
        let fixed = image.attach(&device).expect("and again");
        assert!(dynamic.is_dynamic() && !fixed.is_dynamic());
        let mut first = dynamic.map(Access::ReadWrite).expect("it maps");
        let second = fixed.map(Access::Read).expect("it maps");
        let handle = first.view().expect("it is current");
        assert_eq!(second.view().expect("it is current"), handle);

        let error = image.buffer().relocate().expect_err("a static mapping keeps it");
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        drop(second);
        let pin = dynamic.pin("a test").expect("it is pinned");
        let error = image.buffer().relocate().expect_err("a pin keeps it");
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        drop(pin);

        write_by_host(&image, 3);
        image.buffer().relocate().expect("nothing keeps it");
        assert_eq!(importer.invalidated(), [0]);
        let error = first.view().expect_err("it has moved");
        assert!(matches!(error, Error::Stale { .. }), "{error}");
        let error = rig
            .engine()
            .submit(&device, |submission| first.read(submission).map(drop))
            .expect_err("it has moved");
        assert!(matches!(error, Error::Stale { .. }), "{error}");
        dynamic.remap(&mut first).expect("it maps again");
        assert_eq!(first.generation(), image.generation());
        let again = first.view().expect("it is current");
        dynamic.remap(&mut first).expect("it is current");
        assert_eq!(first.view().expect("it is current"), again, "nothing was replaced");
        assert_host_reads(&image, 3, "moved");
    }
}

#[test]
fn a_mapping_of_another_image_is_refused() {
    let rig = Rig::new();
    let [device, other] = rig.two_of_one_adapter();
    let make = || rig.engine().create_image(&device, image("R8  ", (8, 8), 1)).expect("an image");
    let (image, another) = (make(), make());
    let attachment = image.attach(&device).expect("it attaches");
    let away = another.attach(&other).expect("it attaches");
    let mut mapping = away.map(Access::Read).expect("it maps");
    let error = attachment.remap(&mut mapping).expect_err("of another image");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    let error = rig
        .engine()
        .submit(&device, |submission| mapping.read(submission).map(drop))
        .expect_err("of another device");
    assert!(matches!(error, Error::ForeignMapping { .. }), "{error}");
    let reads = attachment.map(Access::Read).expect("it maps");
    let error = rig
        .engine()
        .submit(&device, |submission| reads.write(submission).map(drop))
        .expect_err("mapped for reads");
    assert!(matches!(error, Error::WrongAccess { .. }), "{error}");
}

#[test]
fn an_image_is_the_same_after_its_attachments_and_engine_are_dropped() {
    let mut rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let image = rig.engine().create_image(&device, image("AB24", (33, 7), 1)).expect("an image");
    let attachment = image.attach(&device).expect("it attaches");
    let mapping = attachment.map(Access::Read).expect("it maps");
    drop(attachment);
    drop(rig.take_engine());
    write_by_host(&image, 9);
    assert_host_reads(&image, 9, "without its engine");
    assert!(!mapping.view().expect("it is current").is_own);
    assert_eq!(image.fourcc(), code("AB24"));
}

#[test]
fn a_buffer_may_have_memory_of_its_own_wherever_it_is() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let descriptor = BufferDescriptor::new(4096).dedicated();
    let buffer = rig.engine().create_buffer(&device, descriptor.clone()).expect("a buffer");
    assert_eq!(buffer.descriptor(), descriptor);
    for _ in 0..2 {
        let attachment = buffer.attach(&device).expect("it attaches");
        let view = attachment.map(Access::Read).expect("it maps").view().expect("it is current");
        assert_eq!(view.offset, 0);
        let export = buffer.export_foreign().expect("it is exported");
        assert_eq!(export.info().offset, 0);
        let generation = buffer.generation();
        drop((attachment, export));
        buffer.relocate().expect("it moves");
        assert_ne!(buffer.generation(), generation);
    }
}
