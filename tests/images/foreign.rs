//! Images that leave the engine as fds, and images of others that enter it.
#![expect(unsafe_code, reason = "imports of fds that the test has made")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use peerbuf::device::Call;
use peerbuf::image::{ForeignImage, ForeignPlane, ImageUsage};
use peerbuf::{
    Access, Device, Engine, Error, ForeignInfo, HandleType, ImageError, ImageExport, ImagePart,
    Placement, SharedImage,
};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::common::Rig;
use crate::common::bytes::assert_same;
use crate::common::reach::imports_files;
use crate::texels::{Passage, assert_host_reads, code, image, texels, write_by_host};

/// The description of an export, as another program would have it.
pub(crate) fn described(export: &ImageExport) -> ForeignImage {
    let info = export.info();
    let usage = ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO;
    ForeignImage { usage, fds: vec![info.offset + info.size], ..export.layout().into() }
}

pub(crate) fn import(
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
    let cases: [(Change, &str); 23] = [
        (|image| image.width = 0, "width is 0, accepted: 1 to "),
        (|image| image.height = 1 << 20, "height is 1048576, accepted: 1 to "),
        (|image| image.width = 63, "extent is 63×16, accepted: multiples of 2×2"),
        (|image| image.planes[0].pitch = 60, "plane 0: pitch is 60, accepted: at least 64"),
        (|image| image.planes[1].pitch = 65, "plane 1: pitch is 65, accepted: multiples of 2"),
        (|image| image.planes[1].pitch = 1 << 31, "is 2147483648, accepted: 0 to 2147483647"),
        (|image| image.planes[1].pitch = 1 << 20, "plane 1: its last row ends at "),
        (|image| image.planes[1].offset += 1, "accepted: multiples of 2; the next is "),
        (|image| image.planes[1].offset = 1 << 40, "offset is 1099511627776, accepted: below "),
        (
            |image| image.planes[1].offset = u64::MAX - 1,
            "is 18446744073709551614, accepted: below ",
        ),
        (|image| image.planes[1].offset = 64, "plane 1 begins at 64, accepted: not in plane 0"),
        (|image| image.planes[1].fd = 1, "plane 1: fd index is 1, accepted: below 1"),
        (|image| image.planes.truncate(1), "1 memory planes, accepted with LINEAR: 2"),
        (|image| image.planes.push(image.planes[1]), "3 memory planes, accepted with LINEAR: 2"),
        (
            |image| image.fds.push(1),
            "planes in 2 files, or in fds that are not known to be of one file, accepted: 1",
        ),
        (|image| image.modifier = 1 << 56 | 1, "INTEL X_TILED, accepted: LINEAR"),
        (|image| image.modifier = (1 << 56) - 1, "modifier is INVALID"),
        (|image| image.usage = ImageUsage::NONE, "without any use"),
        (|image| image.usage = ImageUsage::DRAWN, "usage has drawn into, accepted with LINEAR: "),
        (|image| image.mips = 2, "mip levels is 2, accepted: 1 to 1"),
        (|image| image.layers = 2, "array layers is 2, accepted: 1 to 1"),
        (|image| image.fourcc = u32::from_le_bytes(*b"Q123"), "Q123 is not a format"),
        (|image| image.fourcc = u32::from_le_bytes(*b"BG24"), "convert it to XB24"),
    ];
    let calls = [Call::ImportMemory, Call::DuplicateFd, Call::CreateBuffer, Call::CreateImage];
    let made = || calls.map(|call| other.calls().made(call));
    let before = made();
    for (change, says) in cases {
        let mut bad = good.clone();
        change(&mut bad);
        let error = import(&other, &far, &export, (&bad, info)).expect_err("it does not fit");
        assert!(error.to_string().contains(says), "{error}, not {says}");
        let is_typed = !matches!(error, ImageError::Engine(_));
        assert!(is_typed, "{error:?}");
    }
    for (change, says) in bad_ranges() {
        let mut bad = info;
        change(&mut bad);
        let error = import(&other, &far, &export, (&good, bad)).expect_err("it does not fit");
        assert!(error.to_string().contains(says), "{error}, not {says}");
    }
    assert_eq!(made(), before);
    let error = import(rig.engine(), &device, &export, (&good, info)).expect_err("its own");
    assert!(matches!(error, ImageError::OwnExport), "{error}");
    // The caller's fd is open still, and is what it was.
    let copy = import(&other, &far, &export, (&good, info)).expect("nothing was used up");
    assert_host_reads(&copy, 1, "imported after all that");
    assert!(copy.relayout().is_ok(), "nothing would be better");
    let texels = copy.read_texels(ImagePart::of_plane(1)).expect("the host reads");
    assert_eq!(texels.len(), 64 * 8);
}

type ChangeInfo = fn(&mut ForeignInfo);

/// Ranges of the file that are wrong, with what the errors say.
fn bad_ranges() -> [(ChangeInfo, &'static str); 4] {
    [
        (|info| info.offset += 256, "offset is 0, accepted: from 256, where the imported part"),
        (|info| (info.offset, info.size) = (256, u64::MAX), "at most 2^63 bytes"),
        (|info| info.size = 1, "its last row ends at 1024, accepted: up to 1, the size"),
        (|info| info.size = 1500, "its last row ends at 1536, accepted: up to 1500"),
    ]
}

const SEALED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

fn memfd(size: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("frames", flags).expect("a memfd");
    rustix::fs::ftruncate(&fd, size).expect("its size");
    rustix::fs::fcntl_add_seals(&fd, SEALED).expect("its seals");
    fd
}

/// Rows of 62 texels of four bytes, 252 bytes apart: as no driver places them.
fn in_a_file(offset: u64) -> ForeignImage {
    ForeignImage {
        fourcc: code("AR24").raw(),
        modifier: 0,
        width: 62,
        height: 18,
        mips: 1,
        layers: 1,
        usage: ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO,
        planes: vec![ForeignPlane { fd: 0, offset, pitch: 252 }],
        fds: vec![],
    }
}

#[test]
fn frames_of_a_file_are_imported_where_they_are() {
    let rig = Rig::new();
    for device in rig.all().into_iter().filter(|device| imports_files(rig.engine(), device)) {
        let file = memfd(64 << 10);
        let mut info = ForeignInfo::new(HandleType::HostPointer, 16 << 10);
        info.offset = 4096;
        // The rows begin at a texel, and nowhere else.
        let frame = in_a_file(4096 + 1028);
        // SAFETY: a memfd of that size, and the test orders all uses itself.
        let import = |info, frame: &ForeignImage| unsafe {
            rig.engine().import_image(&device, (file.as_fd(), info), frame, Some("frame"))
        };
        let image = import(info, &frame).expect("it is imported");
        let attachment = image.attach(&device).expect("it attaches");
        let mapping = attachment.map(Access::ReadWrite).expect("it maps");
        let passage = Passage::new(rig.engine(), &device, 1 << 16);
        passage.upload(&mapping, 1);
        passage.assert_copied(&mapping, 1, device.name());
        let texels = texels(&image, ImagePart::default(), 1);
        for (row, expected) in texels.chunks_exact(62 * 4).enumerate() {
            let mut actual = vec![0; expected.len()];
            let at = 4096 + 1028 + row as u64 * 252;
            let read = rustix::io::pread(&file, &mut actual, at).expect("its bytes");
            assert_eq!(read, expected.len());
            assert_same(&actual, expected, &format!("row {row} on {}", device.name()));
        }
        info.offset = 4096 + 4;
        let error = import(info, &in_a_file(8192)).expect_err("no multiple of 256");
        let is_it =
            |error: &_| matches!(error, ImageError::Engine(Error::Misaligned { value: 4100, .. }));
        assert!(is_it(&error), "{error}");
    }
}

#[test]
fn files_that_are_no_images_are_refused_and_stay_open() {
    let rig = Rig::new();
    for device in rig.all() {
        let (pipe, _writer) = std::io::pipe().expect("a pipe");
        let short = memfd(4096);
        let (pipe, short) = (pipe.as_fd(), short.as_fd());
        let files = [
            (pipe, HandleType::DmaBuf),
            (pipe, HandleType::HostPointer),
            (short, HandleType::HostPointer),
        ];
        for (file, handle) in files {
            let info = ForeignInfo::new(handle, 8192);
            // SAFETY: the import is refused before any use.
            let result =
                unsafe { rig.engine().import_image(&device, (file, info), &in_a_file(0), None) };
            let error = result.expect_err("no such file");
            let is_it = matches!(error, ImageError::Engine(Error::ForeignFd { .. }));
            assert!(is_it, "{handle} on {}: {error}", device.name());
            rustix::io::fcntl_getfd(file).expect("it is open");
        }
    }
}

#[test]
fn images_whose_parts_no_description_places_are_not_exported() {
    let rig = Rig::new();
    let [device, _] = rig.two_of_one_adapter();
    let several = [image("AR24", (64, 16), 3), image("AR24", (64, 16), 1).layers(2)];
    for (descriptor, says) in several.into_iter().zip(["3 mip levels", "2 array layers"]) {
        let image = rig.engine().create_image(&device, descriptor).expect("an image");
        let error = image.export().expect_err("it has several parts");
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        image.buffer().relocate().expect("nothing was pinned");
    }
}

#[test]
fn each_level_of_each_layer_is_exported_as_an_image() {
    let rig = Rig::new();
    let other = rig.external_engine();
    for device in rig.all() {
        let descriptor = image("AR24", (64, 16), 3).layers(2);
        let source = rig.engine().create_image(&device, descriptor).expect("an image");
        write_by_host(&source, 1);
        let error = source.export().expect_err("an offset says where one of them is");
        assert!(error.to_string().contains("3 mip levels and 2 array layers"), "{error}");
        let far = rig.open_on(&other, &device);
        for (level, layer) in [(0, 0), (2, 0), (0, 1), (1, 1)] {
            let what = format!("{}, level {level}, layer {layer}", device.name());
            let export = source.export_level(level, layer).expect("it is exported");
            let extent = source.shape().extent.at_level(level);
            assert_eq!(export.layout().shape().extent, extent, "{what}");
            let copy = import(&other, &far, &export, (&described(&export), export.info()))
                .expect("it is imported");
            let read = copy.read_texels(ImagePart::default()).expect("the host reads");
            let expected = texels(&source, ImagePart { plane: 0, level, layer }, 1);
            assert_same(&read, &expected, &what);
            let attachment = copy.attach(&far).expect("it attaches");
            let passage = Passage::new(&other, &far, 1 << 16);
            passage.upload(&attachment.map(Access::Write).expect("it maps"), 2);
            assert_host_reads(&copy, 2, &what);
            let written = texels(&copy, ImagePart::default(), 2);
            let part = ImagePart { plane: 0, level, layer };
            assert_same(&source.read_texels(part).expect("the host reads"), &written, &what);
            source.write_texels(part, &expected).expect("the host writes");
        }
        assert_host_reads(&source, 1, device.name());
        for (level, layer) in [(3, 0), (0, 2)] {
            let error = source.export_level(level, layer).expect_err("there is no such part");
            assert!(matches!(error, ImageError::NoSuchPart { .. }), "{error}");
        }
    }
}

#[test]
fn planes_with_fds_of_their_own_are_imported_if_these_name_one_file() {
    let rig = Rig::new();
    let other = rig.external_engine();
    for device in rig.all() {
        let source = rig.engine().create_image(&device, image("NV12", (62, 18), 1));
        let source = source.expect("an image");
        write_by_host(&source, 1);
        let export = source.export().expect("it is exported");
        let far = rig.open_on(&other, &device);
        let again = rustix::io::fcntl_dupfd_cloexec(&export, 3).expect("a duplicate");
        let elsewhere =
            rustix::fs::memfd_create("other", MemfdFlags::CLOEXEC).expect("another file");
        let mut described = described(&export);
        described.planes[1].fd = 1;
        let import = |files: &[BorrowedFd<'_>], described: &ForeignImage| {
            let files = (files, export.info());
            // SAFETY: fds of an export with these properties, and the test orders all uses itself.
            unsafe { other.import_image_files(&far, files, described, None) }
        };
        let both = [export.as_fd(), again.as_fd()];
        let copy = import(&both, &described).expect("it is imported");
        assert_host_reads(&copy, 1, device.name());
        for (files, count) in [(&[][..], 0), (&[export.as_fd(), elsewhere.as_fd()], 2)] {
            let error = import(files, &described).expect_err("no file, or two");
            assert!(matches!(error, ImageError::SeveralFiles(of) if of == count), "{error}");
        }
        described.planes[1].fd = 2;
        let error = import(&both, &described).expect_err("there is no such fd");
        assert!(error.to_string().contains("plane 1: fd index is 2, accepted: below 2"), "{error}");
    }
}
