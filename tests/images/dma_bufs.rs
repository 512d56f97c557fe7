//! Images in real dma-bufs: rows that a driver is told, and images that another process imports. They exist in the
//! virtual machine.
#![expect(unsafe_code, reason = "imports of fds that the test has made")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use ash::vk;
use peerbuf::image::{ForeignImage, ForeignPlane, ImageUsage, Modifier};
use peerbuf::{
    Access, BufferDescriptor, Device, ForeignInfo, HandleType, ImageAttachment, ImagePart,
    Placement, SharedBuffer, SharedImage,
};

use crate::common::bytes::assert_same;
use crate::common::{Rig, child, fds, needs_dma_buf};
use crate::sampler::Sampler;
use crate::texels::{
    Passage, assert_host_reads, code, image, takes_stated_planes, texels, write_by_host,
};

const SIZE: (u32, u32) = (62, 18);

/// An image of one plane, as another program describes it.
fn described(offset: u64, pitch: u32) -> ForeignImage {
    ForeignImage {
        fourcc: code("AR24").raw(),
        modifier: 0,
        width: SIZE.0,
        height: SIZE.1,
        mips: 1,
        layers: 1,
        usage: ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO,
        planes: vec![ForeignPlane { fd: 0, offset, pitch: pitch.into() }],
        fds: vec![],
    }
}

/// Whether a mapping of the attachment uses an image of its device's own.
fn is_own(attachment: &ImageAttachment) -> bool {
    attachment.map(Access::Read).expect("it maps").view().expect("it is current").is_own
}

/// How many modifiers a driver lists for a format, in both lists of Vulkan.
fn listed_modifiers(device: &Device, format: vk::Format) -> [u32; 2] {
    let mut older = vk::DrmFormatModifierPropertiesListEXT::default();
    let mut newer = vk::DrmFormatModifierPropertiesList2EXT::default();
    let mut all = vk::FormatProperties2::default().push_next(&mut older).push_next(&mut newer);
    let (instance, physical) = (device.raw_instance(), device.adapter().physical());
    // SAFETY: a physical device of the instance, with the extension of both lists.
    unsafe { instance.get_physical_device_format_properties2(physical, format, &mut all) };
    [older.drm_format_modifier_count, newer.drm_format_modifier_count]
}

/// Asserts that the rows in the bytes of a buffer have the texels of a seed, and that the bytes between them are zero.
fn assert_rows(buffer: &SharedBuffer, image: &SharedImage, (offset, pitch): (u64, u32), seed: u64) {
    let access = buffer.host_access(Access::Read).expect("the host reads");
    let row_bytes = SIZE.0 as usize * 4;
    let texels = texels(image, ImagePart::default(), seed);
    let mut before = vec![0; offset as usize];
    access.read(0, &mut before).expect("it has so many bytes");
    assert!(before.iter().all(|byte| *byte == 0), "written before the first row");
    for (row, expected) in texels.chunks_exact(row_bytes).enumerate() {
        let mut actual = vec![0; pitch as usize];
        let at = offset + row as u64 * u64::from(pitch);
        access.read(at, &mut actual).expect("it has so many bytes");
        assert_same(&actual[..row_bytes], expected, &format!("row {row} of seed {seed}"));
        assert!(actual[row_bytes..].iter().all(|byte| *byte == 0), "written behind row {row}");
    }
}

#[test]
fn in_the_vm_rows_of_a_dma_buf_are_used_where_a_driver_is_told_that_they_are() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    if !needs_dma_buf(&lavapipe) {
        return;
    }
    assert!(takes_stated_planes(&lavapipe) && !takes_stated_planes(&swiftshader));
    // A fault of lavapipe, for which `common/allowed.rs` excuses messages. Once this fails, they can go.
    assert_eq!(listed_modifiers(&lavapipe, vk::Format::B8G8R8A8_UNORM), [1, 0]);
    let second = rig.open(&lavapipe.adapter().clone());
    let other = rig.external_engine();
    let owner = rig.open_on(&other, &lavapipe);
    // lavapipe places rows as in the first by itself; no driver places them as in the others.
    for place in [(0, 256), (0, 252), (1028, 252), (4096, 320)] {
        let descriptor = BufferDescriptor::new(32 << 10).placement(Placement::Vram);
        let buffer = other.create_buffer(&owner, descriptor).expect("a buffer");
        let export = buffer.export_foreign().expect("an fd");
        assert_eq!(export.info().handle, HandleType::DmaBuf);
        let file = (export.as_fd(), export.info());
        let frame = described(place.0, place.1);
        // SAFETY: an export with these properties, and the test orders all uses itself.
        let imported = unsafe { rig.engine().import_image(&lavapipe, file, &frame, None) };
        let image = imported.expect("it is imported");
        let mut seed = 1;
        for device in [&lavapipe, &second, &swiftshader] {
            let attachment = image.attach(device).expect("it attaches");
            // SwiftShader's rows are 248 bytes apart.
            assert_eq!(is_own(&attachment), device == &swiftshader, "{place:?}");
            let mapping = attachment.map(Access::ReadWrite).expect("it maps");
            let passage = Passage::new(rig.engine(), device, 1 << 16);
            if seed > 1 {
                passage.assert_copied(&mapping, seed, "written by the device before");
            }
            seed += 1;
            passage.upload(&mapping, seed);
            assert_host_reads(&image, seed, device.name());
            assert_rows(&buffer, &image, place, seed);
        }
        if place.0 == 1028 {
            let attachment = image.attach(&lavapipe).expect("it attaches");
            let mapping = attachment.map(Access::Read).expect("it maps");
            let texels = u64::from(SIZE.0 * SIZE.1);
            let sampler = Sampler::new(rig.engine(), &lavapipe, texels);
            sampler.assert_sampled(&mapping, seed, "told");
        }
    }
}

/// What a process that receives an image is told beside the fd: its number, the memory, and where the rows are.
const RECEIVED: &str = "PEERBUF_TEST_IMAGE";

#[test]
fn in_the_vm_an_image_is_exported_as_a_dma_buf_and_imported_by_another_process() {
    if child::is_child() {
        return receive();
    }
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    if !needs_dma_buf(&lavapipe) {
        return;
    }
    for (home, placement, pitch) in [
        (&lavapipe, Placement::Vram, 256),
        (&lavapipe, Placement::System, 256),
        (&swiftshader, Placement::System, 248),
    ] {
        let descriptor = image("AR24", SIZE, 1).placement(placement);
        let image = rig.engine().create_image(home, descriptor).expect("an image");
        write_by_host(&image, 1);
        let export = image.export().expect("it is exported");
        let what = format!("{} in {placement:?}", home.name());
        assert!(fds::link_of(export.as_fd()).starts_with("/dmabuf"), "{what}");
        assert_eq!(export.info().handle, HandleType::DmaBuf, "{what}");
        let layout = export.layout();
        assert_eq!((layout.fourcc(), layout.modifier()), (code("AR24"), Modifier::LINEAR));
        let [plane] = layout.planes() else { panic!("{what}: {layout:?}") };
        assert_eq!((plane.offset, plane.pitch), (0, pitch), "{what}");
        // A duplicate that the child inherits.
        let fd = rustix::io::dup(export.as_fd()).expect("an fd");
        let info: String =
            export.info().to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let told = format!("{} {info} {} {}", fd.as_raw_fd(), plane.offset, plane.pitch);
        child::run(|command| command.env(RECEIVED, &told));
        assert_host_reads(&image, 3, &format!("{what}, written by another process"));
        let attachment = image.attach(home).expect("it attaches");
        let mapping = attachment.map(Access::Read).expect("it maps");
        let passage = Passage::new(rig.engine(), home, 1 << 16);
        passage.assert_copied(&mapping, 3, &what);
    }
}

/// The other process: each driver imports the image, reads it, and writes the next seed.
fn receive() {
    let told = std::env::var(RECEIVED).expect("set by the parent");
    let [fd, info, offset, pitch] =
        told.split(' ').collect::<Vec<_>>().try_into().expect("four words");
    let number = |text: &str| text.parse::<i32>().expect("a number");
    // SAFETY: the child has inherited this fd, and nothing else in it owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number(fd)) };
    let info: Vec<u8> = (0..ForeignInfo::BYTES)
        .map(|at| u8::from_str_radix(&info[2 * at..2 * at + 2], 16).expect("two digits"))
        .collect();
    let info = info.try_into().expect("so many bytes");
    let info = ForeignInfo::from_bytes(&info).expect("of another engine");
    let (offset, pitch) = (offset.parse().expect("a number"), pitch.parse().expect("a number"));
    let rig = Rig::new();
    let devices: [Device; 2] = rig.two_drivers().expect("the parent has them");
    for (device, seed) in devices.iter().zip(1..) {
        // SAFETY: an export with these properties; the parent waits for this process.
        let imported = unsafe {
            rig.engine().import_image(device, (fd.as_fd(), info), &described(offset, pitch), None)
        };
        let image = imported.expect("it is imported");
        assert_host_reads(&image, seed, device.name());
        let attachment = image.attach(device).expect("it attaches");
        // lavapipe is told where rows of 248 bytes are; SwiftShader sees these alone.
        assert_eq!(is_own(&attachment), device == &devices[1] && pitch == 256);
        let mapping = attachment.map(Access::ReadWrite).expect("it maps");
        let passage = Passage::new(rig.engine(), device, 1 << 16);
        passage.assert_copied(&mapping, seed, device.name());
        passage.upload(&mapping, seed + 1);
        assert_host_reads(&image, seed + 1, device.name());
    }
}
