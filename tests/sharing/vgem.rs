//! Dma-bufs of vgem, a driver of the kernel without hardware whose fences a program attaches and signals itself.
//!
//! Kernel: `drivers/gpu/drm/vgem`, `include/uapi/drm/vgem_drm.h`, `drm.h`, `drm_mode.h`.
#![expect(unsafe_code, reason = "ioctls of DRM")]

use std::fs::{File, OpenOptions};
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::ioctl::{self, Opcode, Updater, opcode};

#[repr(C)]
#[derive(Default)]
struct CreateDumb {
    height: u32,
    width: u32,
    bpp: u32,
    flags: u32,
    handle: u32,
    pitch: u32,
    size: u64,
}

#[repr(C)]
struct PrimeHandle {
    handle: u32,
    flags: u32,
    fd: i32,
}

#[repr(C)]
struct FenceAttach {
    handle: u32,
    flags: u32,
    out_fence: u32,
    pad: u32,
}

#[repr(C)]
struct FenceSignal {
    fence: u32,
    flags: u32,
}

const CREATE_DUMB: Opcode = opcode::read_write::<CreateDumb>(b'd', 0xb2);
const PRIME_HANDLE_TO_FD: Opcode = opcode::read_write::<PrimeHandle>(b'd', 0x2d);
const FENCE_ATTACH: Opcode = opcode::read_write::<FenceAttach>(b'd', 0x41);
const FENCE_SIGNAL: Opcode = opcode::write::<FenceSignal>(b'd', 0x42);
const FENCE_WRITE: u32 = 1;

/// A dma-buf of vgem.
pub(crate) struct VgemBuffer {
    card: File,
    handle: u32,
    pub(crate) fd: OwnedFd,
    pub(crate) size: u64,
}

/// A fence of a writer in a dma-buf's reservation. The kernel ends it with an error after ten seconds.
pub(crate) struct VgemFence<'a> {
    card: &'a File,
    fence: u32,
}

impl VgemBuffer {
    /// Creates one of at least 64 KiB; `None` if the kernel has no vgem.
    pub(crate) fn create() -> Option<Self> {
        let is_vgem = |name: &str| {
            let link = std::fs::read_link(format!("/sys/class/drm/{name}/device"));
            link.is_ok_and(|link| link.ends_with("vgem"))
        };
        let name = (0..8).map(|n| format!("card{n}")).find(|name| is_vgem(name))?;
        let path = format!("/dev/dri/{name}");
        let card = OpenOptions::new().read(true).write(true).open(path).expect("the node opens");
        let mut dumb = CreateDumb { height: 128, width: 128, bpp: 32, ..CreateDumb::default() };
        // SAFETY: the ioctl reads and writes exactly this structure.
        let request = unsafe { Updater::<CREATE_DUMB, _>::new(&mut dumb) };
        // SAFETY: a node of DRM.
        unsafe { ioctl::ioctl(&card, request) }.expect("a buffer");
        let flags = (rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::RDWR).bits();
        let mut prime = PrimeHandle { handle: dumb.handle, flags, fd: -1 };
        // SAFETY: the ioctl reads and writes exactly this structure.
        let request = unsafe { Updater::<PRIME_HANDLE_TO_FD, _>::new(&mut prime) };
        // SAFETY: a node of DRM.
        unsafe { ioctl::ioctl(&card, request) }.expect("a dma-buf");
        // SAFETY: the ioctl returned a new fd.
        let fd = unsafe { OwnedFd::from_raw_fd(prime.fd) };
        Some(Self { card, handle: dumb.handle, fd, size: dumb.size })
    }

    /// Attaches the fence of a writer that has not ended.
    pub(crate) fn begin_write(&self) -> VgemFence<'_> {
        let mut attach =
            FenceAttach { handle: self.handle, flags: FENCE_WRITE, out_fence: 0, pad: 0 };
        // SAFETY: the ioctl reads and writes exactly this structure.
        let request = unsafe { Updater::<FENCE_ATTACH, _>::new(&mut attach) };
        // SAFETY: a node of vgem.
        unsafe { ioctl::ioctl(&self.card, request) }.expect("a fence");
        VgemFence { card: &self.card, fence: attach.out_fence }
    }
}

impl VgemFence<'_> {
    /// Ends the write.
    pub(crate) fn signal(self) {
        let signal = FenceSignal { fence: self.fence, flags: 0 };
        // SAFETY: the ioctl reads exactly this structure.
        let request = unsafe { ioctl::Setter::<FENCE_SIGNAL, _>::new(signal) };
        // SAFETY: a node of vgem.
        unsafe { ioctl::ioctl(self.card, request) }.expect("it was pending");
    }
}
