//! Another program shares images: Mesa's OpenGL ES, in a process of its own, samples an image of the engine and draws into
//! one that Vulkan reads; and a buffer of a dma-heap is an image. They exist in the virtual machine.
#![expect(unsafe_code, reason = "fds that a child inherits, and an ioctl of dma-heaps")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::Command;

use peerbuf::image::{ForeignImage, ForeignPlane, ImageUsage};
use peerbuf::{Access, Device, ForeignInfo, HandleType, ImagePart, Placement, SharedImage};
use rustix::fs::MemfdFlags;
use rustix::ioctl::{self, Opcode, Updater, opcode};

use crate::card::Card;
use crate::common::bytes::assert_same;
use crate::common::{Rig, child, missing, needs_dma_buf};
use crate::gles::{Described, Gles};
use crate::texels::{Passage, assert_host_reads, code, image, texels, write_by_host};

const SIZE: (u32, u32) = (62, 18);

/// What the other process is told: numbers of fds, and where the image is.
const TOLD: &str = "PEERBUF_TEST_GLES";

/// The texels of a seed, as OpenGL ES has them: red first.
fn red_first(image: &SharedImage, seed: u64) -> Vec<u8> {
    let texels = texels(image, ImagePart::default(), seed);
    texels.as_chunks::<4>().0.iter().flat_map(|[b, g, r, a]| [*r, *g, *b, *a]).collect()
}

/// Lets another process sample the image, which has the texels of one seed, and draw those of another one.
fn draw_in_another_process(
    image: &SharedImage,
    (fd, offset, pitch, modifier): (BorrowedFd<'_>, u64, u32, u64),
    [sampled, drawn]: [u64; 2],
) {
    let texels = [red_first(image, sampled), red_first(image, drawn)].concat();
    let file = rustix::fs::memfd_create("texels", MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::io::pwrite(&file, &texels, 0).expect("all is written");
    // Duplicates that the child inherits.
    let [image_fd, texels_fd] =
        [fd, file.as_fd()].map(|fd| rustix::io::dup(fd).expect("a duplicate"));
    let numbers = [image_fd.as_raw_fd(), texels_fd.as_raw_fd()];
    let told = format!("{} {} {offset} {pitch} {modifier}", numbers[0], numbers[1]);
    child::run_by(alone_with_the_card(), |command| command.env(TOLD, &told));
}

/// A command that runs another one where the card of cirrus is the only one: Mesa 25.0 ends the process if it finds one of
/// vgem as well.
fn alone_with_the_card() -> Command {
    let card = Card::name().expect("the caller has looked");
    let of_card = std::fs::read_to_string(format!("/sys/class/drm/{card}/dev")).expect("numbers");
    let numbers = of_card.trim().replace(':', " ");
    let script = format!(
        "mount -t tmpfs tmpfs /dev/dri && mknod /dev/dri/{card} c {numbers} && exec \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    command
}

/// The other process.
fn sample_and_draw() {
    let told = std::env::var(TOLD).expect("set by the parent");
    let numbers: Vec<u64> = told.split(' ').map(|word| word.parse().expect("a number")).collect();
    let [fd, texels, offset, pitch, modifier] = numbers[..] else { panic!("{told}") };
    // CAST: fds that the parent has.
    // SAFETY: the child has inherited both, and nothing else in it owns them.
    let [fd, texels] = unsafe { [fd, texels].map(|fd| OwnedFd::from_raw_fd(fd as i32)) };
    let count = 4 * SIZE.0 as usize * SIZE.1 as usize;
    let mut both = vec![0; 2 * count];
    rustix::io::pread(&texels, &mut both, 0).expect("the parent has written it");
    let (sampled, drawn) = both.split_at(count);
    let gles = Gles::open().expect("EGL without a display");
    assert!(gles.renderer().contains("llvmpipe"), "{}", gles.renderer());
    let (fourcc, pitch) = (code("AR24").raw(), pitch as u32);
    let imported = Described { fd: fd.as_fd(), fourcc, size: SIZE, offset, pitch, modifier };
    let theirs = gles.import(imported);
    let copy = gles.own(SIZE, &vec![0; count]);
    assert_same(&gles.draw(theirs, copy, SIZE), sampled, "sampled");
    let next = gles.own(SIZE, drawn);
    assert_same(&gles.draw(next, theirs, SIZE), drawn, "drawn");
}

/// The program itself is right, wherever EGL is.
#[test]
fn the_other_program_draws_each_texel_that_it_samples() {
    if !child::is_child() {
        return child::run(|command| command);
    }
    let Some(gles) = Gles::open() else { return missing("EGL without a display") };
    let written: Vec<u8> = (0..4 * SIZE.0 * SIZE.1).map(|at| (at * 7) as u8).collect();
    let (from, to) = (gles.own(SIZE, &written), gles.own(SIZE, &vec![0; written.len()]));
    assert_same(&gles.draw(from, to, SIZE), &written, &gles.renderer());
}

/// The devices, if the machine has what these tests need.
fn devices(rig: &Rig) -> Option<[Device; 2]> {
    let [lavapipe, swiftshader] = rig.two_drivers()?;
    if !needs_dma_buf(&lavapipe) {
        return None;
    }
    if Card::name().is_none() {
        missing("a card of cirrus");
        return None;
    }
    Some([lavapipe, swiftshader])
}

#[test]
fn in_the_vm_another_program_samples_an_image_and_draws_into_it() {
    if child::is_child() {
        return sample_and_draw();
    }
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = devices(&rig) else { return };
    for (home, placement) in [(&lavapipe, Placement::Vram), (&swiftshader, Placement::System)] {
        // SwiftShader's own rows are 248 bytes apart, which importers need not take.
        let descriptor = image("AR24", SIZE, 1).placement(placement).padded();
        let image = rig.engine().create_image(home, descriptor).expect("an image");
        let attachment = image.attach(home).expect("it attaches");
        let passage = Passage::new(rig.engine(), home, 1 << 16);
        passage.upload(&attachment.map(Access::Write).expect("it maps"), 1);
        drop(image.buffer().host_access(Access::Read).expect("the device has ended"));
        let export = image.export().expect("it is exported");
        assert_eq!(export.info().handle, HandleType::DmaBuf);
        let layout = export.layout();
        let [plane] = layout.planes() else { panic!("{layout:?}") };
        assert_eq!((plane.offset % 4096, plane.pitch), (0, 256), "{layout:?}");
        let place = (export.as_fd(), plane.offset, plane.pitch, layout.modifier().raw());
        draw_in_another_process(&image, place, [1, 2]);
        assert_host_reads(&image, 2, home.name());
        let mapping = attachment.map(Access::Read).expect("it maps");
        passage.assert_copied(&mapping, 2, home.name());
    }
}

#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// `DMA_HEAP_IOCTL_ALLOC` of `include/uapi/linux/dma-heap.h`.
const HEAP_ALLOCATE: Opcode = opcode::read_write::<HeapAllocation>(b'H', 0);

/// A buffer of the system heap.
fn heap_buffer(len: u64) -> OwnedFd {
    let heap = File::open("/dev/dma_heap/system").expect("the heap opens");
    // CAST: flags of the kernel.
    let fd_flags = (rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC).bits();
    let mut wanted = HeapAllocation { len, fd: 0, fd_flags, heap_flags: 0 };
    // SAFETY: the ioctl reads and writes this structure.
    let request = unsafe { Updater::<HEAP_ALLOCATE, _>::new(&mut wanted) };
    // SAFETY: a heap.
    unsafe { ioctl::ioctl(&heap, request) }.expect("there is memory");
    // CAST: an fd of this process.
    // SAFETY: the kernel has just given it to this function.
    unsafe { OwnedFd::from_raw_fd(wanted.fd as i32) }
}

#[test]
fn in_the_vm_a_buffer_of_a_dma_heap_is_an_image_into_which_another_program_draws() {
    if child::is_child() {
        return sample_and_draw();
    }
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = devices(&rig) else { return };
    let (pitch, bytes) = (256, 64 << 10);
    let described = ForeignImage {
        fourcc: code("AR24").raw(),
        modifier: 0,
        width: SIZE.0,
        height: SIZE.1,
        mips: 1,
        layers: 1,
        usage: ImageUsage::SAMPLED | ImageUsage::COPIED_FROM | ImageUsage::COPIED_TO,
        planes: vec![ForeignPlane { fd: 0, offset: 0, pitch }],
        fds: vec![],
    };
    let buffer = heap_buffer(bytes);
    let file = (buffer.as_fd(), ForeignInfo::new(HandleType::DmaBuf, bytes));
    // SAFETY: a buffer of that size, and the test orders all uses itself.
    let imported = unsafe { rig.engine().import_image(&lavapipe, file, &described, None) };
    let image = imported.expect("it is imported");
    write_by_host(&image, 3);
    draw_in_another_process(&image, (buffer.as_fd(), 0, pitch as u32, 0), [3, 4]);
    for device in [&lavapipe, &swiftshader] {
        let attachment = image.attach(device).expect("it attaches");
        let mapping = attachment.map(Access::Read).expect("it maps");
        let passage = Passage::new(rig.engine(), device, 1 << 16);
        passage.assert_copied(&mapping, 4, device.name());
    }
}
