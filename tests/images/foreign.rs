//! Images that leave the engine as fds, and images of others that enter it.
#![expect(unsafe_code, reason = "imports of fds that the test has exported")]

use std::os::fd::AsFd;

use peerbuf::device::Call;
use peerbuf::image::{ForeignImage, ForeignImageError, ImageUsage, PlaneError};
use peerbuf::{
    Access, Device, Engine, Error, ForeignInfo, ImageError, ImageExport, ImagePart, Placement,
    SharedImage,
};

use crate::common::Rig;
use crate::texels::{Passage, assert_host_reads, image, write_by_host};

/// The description of an export, as another program would have it.
fn described(export: &ImageExport) -> ForeignImage {
    let info = export.info();
    let usage = ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
    ForeignImage { usage, fds: vec![info.offset + info.size], ..export.layout().into() }
}

fn import(
    engine: &Engine,
    device: &Device,
    export: &ImageExport,
    (image, info): (&ForeignImage, ForeignInfo),
) -> Result<SharedImage, ImageError> {
    let file = (export.as_fd(), info);
    // SAFETY: the fd is an export with these properties, and the test orders all uses itself.
    unsafe { engine.import_image(device, file, image, Some("imported")) }
}

#[test]
fn an_image_of_another_engine_has_the_same_texels_and_is_written_back() {
    let rig = Rig::new();
    let other = rig.external_engine();
    for device in rig.all() {
        for (name, size) in [("AR24", (62, 18)), ("NV12", (62, 18)), ("R8  ", (33, 7))] {
            let source =
                rig.engine().create_image(&device, image(name, size, 1)).expect("an image");
            write_by_host(&source, 1);
            let export = source.export().expect("it is exported");
            let error = source.buffer().relocate().expect_err("it is pinned");
            assert!(matches!(error, Error::Busy { .. }), "{error}");
            let far = rig.open_on(&other, &device);
            let copy = import(&other, &far, &export, (&described(&export), export.info()))
                .expect("it is imported");
            assert_eq!(copy.layout().planes(), source.layout().planes(), "{name}");
            assert_host_reads(&copy, 1, name);
            let attachment = copy.attach(&far).expect("it attaches");
            let mapping = attachment.map(Access::ReadWrite).expect("it maps");
            assert!(!mapping.view().expect("it is current").is_own, "the same driver made it");
            let passage = Passage::new(&other, &far, 1 << 16);
            passage.assert_copied(&mapping, 1, name);
            passage.upload(&mapping, 2);
            assert_host_reads(&copy, 2, name);
            assert_host_reads(&source, 2, name);
        }
    }
}

#[test]
fn a_description_that_does_not_fit_is_refused_and_no_driver_is_called() {
    let rig = Rig::new();
    let other = rig.external_engine();
    let [device, _] = rig.two_of_one_adapter();
    let descriptor = image("NV12", (64, 16), 1).placement(Placement::VramOrSystem);
    let source = rig.engine().create_image(&device, descriptor).expect("an image");
    write_by_host(&source, 1);
    let export = source.export().expect("it is exported");
    let (good, info) = (described(&export), export.info());
    let far = rig.open_on(&other, &device);
    type Change = fn(&mut ForeignImage);
    type Check = fn(&ImageError) -> bool;
    let cases: [(Change, Check); 8] = [
        (
            |image| image.planes[0].pitch = 60,
            |error| {
                plane(error, |error| matches!(error, PlaneError::PitchTooSmall { row: 64, .. }))
            },
        ),
        (
            |image| image.planes[1].offset = 1 << 40,
            |error| plane(error, |error| matches!(error, PlaneError::OffsetPastEnd { .. })),
        ),
        (
            |image| image.planes[1].offset = 64,
            |error| matches!(error, ImageError::Foreign(ForeignImageError::Overlap { .. })),
        ),
        (
            |image| image.modifier = 1 << 56 | 1,
            |error| {
                matches!(error, ImageError::Foreign(ForeignImageError::ModifierNotOffered { .. }))
            },
        ),
        (
            |image| image.modifier = (1 << 56) - 1,
            |error| matches!(error, ImageError::Foreign(ForeignImageError::ImplicitModifier)),
        ),
        (
            |image| image.planes.truncate(1),
            |error| matches!(error, ImageError::Foreign(ForeignImageError::PlaneCount { .. })),
        ),
        (|image| image.fds.push(1), |error| matches!(error, ImageError::SeveralFiles(2))),
        (|image| image.usage = ImageUsage::NONE, |error| matches!(error, ImageError::NoUsage)),
    ];
    let calls = [Call::ImportMemory, Call::DuplicateFd, Call::CreateBuffer, Call::CreateImage];
    let made = || calls.map(|call| other.calls().made(call));
    let before = made();
    for (at, (change, check)) in cases.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        let error = import(&other, &far, &export, (&bad, info)).expect_err("it does not fit");
        assert!(check(&error), "case {at}: {error}");
    }
    assert_eq!(made(), before);
    let error = import(rig.engine(), &device, &export, (&good, info)).expect_err("its own");
    assert!(matches!(error, ImageError::OwnExport), "{error}");
    let copy = import(&other, &far, &export, (&good, info)).expect("nothing was used up");
    assert_host_reads(&copy, 1, "imported after all that");
    assert!(copy.relayout().is_ok(), "nothing would be better");
    let texels = copy.read_texels(ImagePart::of_plane(1)).expect("the host reads");
    assert_eq!(texels.len(), 64 * 8);
}

fn plane(error: &ImageError, is_it: impl Fn(&PlaneError) -> bool) -> bool {
    match error {
        ImageError::Foreign(ForeignImageError::Plane { error, .. }) => is_it(error),
        _ => false,
    }
}
