//! dma-buf fds and the ioctls around them: the one place where integers become fds.
//!
//! Kernel: `include/uapi/linux/dma-buf.h`, `dma-heap.h`, `udmabuf.h`;
//! `Documentation/driver-api/dma-buf.rst`.
#![expect(unsafe_code, reason = "ioctls, and fds that the kernel returns as integers")]

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use rustix::ioctl::{self, Opcode, opcode};

use crate::device::{Call, Calls, HandleType};
use crate::error::{Error, ForeignFdReason, Result};

/// `DMA_BUF_MAGIC` of `include/uapi/linux/magic.h`: the file-system type of every dma-buf.
const DMA_BUF_MAGIC: u64 = 0x444d_4142;

/// Takes ownership of an fd that a driver returned with success, and makes sure that it is one: a
/// driver was seen to return −1 (quirk `ReexportYieldsNoFd`). Close-on-exec is set where missing,
/// since an fd that leaks into a child is a hole (`Documentation/driver-api/dma-buf.rst`).
///
/// # Safety
///
/// `raw` was returned by `call` to this caller, who owns it.
pub(crate) unsafe fn own(raw: RawFd, call: &'static str) -> Result<OwnedFd> {
    if raw < 0 {
        // lavapipe's way to say that its dup() failed.
        return Err(Error::fd_limit(call).unwrap_or_else(|| Error::os(call, Errno::BADF)));
    }
    // SAFETY: the caller owns it, and it is not negative.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let flags = rustix::io::fcntl_getfd(&fd).map_err(|errno| Error::os(call, errno))?;
    if !flags.contains(FdFlags::CLOEXEC) {
        rustix::io::fcntl_setfd(&fd, flags | FdFlags::CLOEXEC)
            .map_err(|errno| Error::os("fcntl(F_SETFD)", errno))?;
    }
    Ok(fd)
}

/// A second fd of the same file, close-on-exec.
pub(crate) fn duplicate(fd: BorrowedFd<'_>, calls: &Calls) -> Result<OwnedFd> {
    const CALL: Call = Call::DuplicateFd;
    calls
        .enter_os(CALL)
        .and_then(|()| rustix::io::fcntl_dupfd_cloexec(fd, 0))
        .map_err(|errno| Error::os(CALL.name(), errno))
}

/// Whether two fds name the same file, by inode: the kernel's own identity of a dma-buf
/// (`dma_buf_getfile`). Fd numbers are reused and prove nothing.
///
/// `None` for device nodes, which are the same file for everything behind them: an NVIDIA `OPAQUE_FD` is
/// an open of `/dev/nvidiactl` (`ctrl0000unix.h` of its open kernel modules).
pub(crate) fn identity(fd: impl AsFd) -> Result<Option<(u64, u64)>> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| Error::os("fstat", errno))?;
    let node = matches!(
        rustix::fs::FileType::from_raw_mode(stat.st_mode),
        rustix::fs::FileType::CharacterDevice | rustix::fs::FileType::BlockDevice
    );
    Ok((!node).then_some((stat.st_dev, stat.st_ino)))
}

/// Whether the fd is a dma-buf.
pub(crate) fn is_dma_buf(fd: impl AsFd) -> Result<bool, Errno> {
    // CAST: the kernel's magic numbers fit 32 bits; the field's type differs between architectures.
    rustix::fs::fstatfs(fd).map(|stat| stat.f_type as u64 == DMA_BUF_MAGIC)
}

/// Size in bytes of a dma-buf or memfd; `lseek` is how a dma-buf tells it (`dma_buf_llseek`).
pub(crate) fn size(fd: impl AsFd) -> Result<u64, Errno> {
    let fd = fd.as_fd();
    let size = rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0))?;
    rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0))?;
    Ok(size)
}

/// Checks that a stranger's fd is what it was said to be, with the size that was claimed.
///
/// `OPAQUE_FD`s have no size that anybody but their driver can read; for them only openness is
/// checked here.
pub(crate) fn check_foreign(fd: BorrowedFd<'_>, handle: HandleType, claimed: u64) -> Result<()> {
    let refuse = |reason| Err(Error::ForeignFd { handle, reason });
    match rustix::io::fcntl_getfd(fd) {
        Ok(_) => {}
        Err(Errno::BADF) => return refuse(ForeignFdReason::Closed),
        Err(errno) => return Err(Error::os("fcntl(F_GETFD)", errno)),
    }
    match handle {
        HandleType::OpaqueFd => return Ok(()),
        HandleType::DmaBuf => {
            if !is_dma_buf(fd).map_err(|errno| Error::os("fstatfs", errno))? {
                return refuse(ForeignFdReason::NotDmaBuf);
            }
        }
        HandleType::HostPointer => {
            let seals = rustix::fs::fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
            if !seals.contains(SealFlags::SHRINK) {
                return refuse(ForeignFdReason::NotSealed);
            }
        }
    }
    let actual = size(fd).map_err(|errno| Error::os("lseek", errno))?;
    if actual < claimed {
        return refuse(ForeignFdReason::TooSmall { claimed, actual });
    }
    Ok(())
}

/// A new memfd of `size` bytes, close-on-exec, sealed so that nobody it is passed to can shrink or
/// grow it under a mapping. udmabuf asks for the first seal too (`drivers/dma-buf/udmabuf.c`).
pub(crate) fn memfd(size: u64, calls: &Calls) -> Result<OwnedFd> {
    const CALL: Call = Call::MemfdCreate;
    let made = calls.enter_os(CALL).and_then(|()| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("peerbuf", flags)?;
        rustix::fs::ftruncate(&fd, size)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        Ok(fd)
    });
    made.map_err(|errno| Error::os(CALL.name(), errno))
}

/// A dma-buf over all `size` bytes of a sealed memfd, from `/dev/udmabuf`.
pub(crate) fn udmabuf(memfd: BorrowedFd<'_>, size: u64, calls: &Calls) -> Result<OwnedFd> {
    let device = open_device(UDMABUF)?;
    let request = UdmabufCreate {
        // CAST: fds are small and not negative.
        memfd: std::os::fd::AsRawFd::as_raw_fd(&memfd) as u32,
        flags: UDMABUF_FLAGS_CLOEXEC,
        offset: 0,
        size,
    };
    let raw = run(&device, "UDMABUF_CREATE", calls, UdmabufIoctl(request))?;
    // SAFETY: on success the ioctl returns a new fd for this process (`udmabuf_create`).
    unsafe { own(raw, "UDMABUF_CREATE") }
}

/// A dma-buf of `size` bytes of zeroed system memory, from the dma-heap `system`.
pub(crate) fn dma_heap(size: u64, calls: &Calls) -> Result<OwnedFd> {
    let device = open_device(DMA_HEAP)?;
    let fd_flags = (rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::RDWR).bits();
    let mut request = DmaHeapAllocation { len: size, fd: 0, fd_flags, heap_flags: 0 };
    // SAFETY: DMA_HEAP_IOCTL_ALLOC reads and writes exactly this structure.
    let update = unsafe { ioctl::Updater::<DMA_HEAP_IOCTL_ALLOC, _>::new(&mut request) };
    run(&device, "DMA_HEAP_IOCTL_ALLOC", calls, update)?;
    // SAFETY: on success the kernel stored a new fd of this process (`dma_heap_ioctl_allocate`).
    // CAST: it stored a non-negative int in a __u32.
    unsafe { own(request.fd as RawFd, "DMA_HEAP_IOCTL_ALLOC") }
}

/// The device node of udmabuf.
pub(crate) const UDMABUF: &str = "/dev/udmabuf";
/// The device node of the dma-heap `system`.
pub(crate) const DMA_HEAP: &str = "/dev/dma_heap/system";

/// Whether a device node can be opened.
pub(crate) fn can_open(node: &str) -> bool {
    rustix::fs::access(node, rustix::fs::Access::READ_OK).is_ok()
}

/// Says that CPU access to a dma-buf begins (`DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_START`).
pub(crate) fn begin_cpu_access(
    fd: BorrowedFd<'_>,
    access: crate::Access,
    calls: &Calls,
) -> Result<()> {
    sync(fd, DMA_BUF_SYNC_START, access, calls)
}

/// Says that CPU access to a dma-buf has ended.
pub(crate) fn end_cpu_access(
    fd: BorrowedFd<'_>,
    access: crate::Access,
    calls: &Calls,
) -> Result<()> {
    sync(fd, DMA_BUF_SYNC_END, access, calls)
}

fn sync(fd: BorrowedFd<'_>, edge: u64, access: crate::Access, calls: &Calls) -> Result<()> {
    let flags = edge | direction(access);
    // The kernel may return EINTR or EAGAIN and wants the call again (`dma-buf.h`); bounded, because
    // nothing here may hang.
    const TRIES: u32 = 1000;
    let mut last = Errno::AGAIN;
    for _ in 0..TRIES {
        // SAFETY: DMA_BUF_IOCTL_SYNC reads exactly this structure.
        let set = unsafe { ioctl::Setter::<DMA_BUF_IOCTL_SYNC, _>::new(DmaBufSync { flags }) };
        match run_errno(fd, calls, set) {
            Ok(()) => return Ok(()),
            Err(errno @ (Errno::INTR | Errno::AGAIN)) => last = errno,
            Err(errno) => return Err(Error::os("DMA_BUF_IOCTL_SYNC", errno)),
        }
    }
    Err(Error::os("DMA_BUF_IOCTL_SYNC", last))
}

/// A sync file of what is under way on a dma-buf: for a reader its writers, for a writer all. With
/// nothing under way it has signalled.
pub(crate) fn export_sync_file(
    fd: BorrowedFd<'_>,
    access: crate::Access,
    calls: &Calls,
) -> Result<OwnedFd> {
    const NAME: &str = "DMA_BUF_IOCTL_EXPORT_SYNC_FILE";
    // CAST: two bits.
    let mut request = DmaBufSyncFile { flags: direction(access) as u32, fd: -1 };
    // SAFETY: DMA_BUF_IOCTL_EXPORT_SYNC_FILE reads and writes exactly this structure.
    let update = unsafe { ioctl::Updater::<DMA_BUF_IOCTL_EXPORT_SYNC_FILE, _>::new(&mut request) };
    run(fd, NAME, calls, update)?;
    // SAFETY: on success the kernel stored a new fd of this process (`dma_buf_export_sync_file`).
    unsafe { own(request.fd, NAME) }
}

/// Adds the fences of a sync file to a dma-buf, as reading or writing it.
pub(crate) fn import_sync_file(
    fd: BorrowedFd<'_>,
    file: &OwnedFd,
    access: crate::Access,
    calls: &Calls,
) -> Result<()> {
    let request = DmaBufSyncFile {
        // CAST: two bits.
        flags: direction(access) as u32,
        fd: std::os::fd::AsRawFd::as_raw_fd(file),
    };
    // SAFETY: DMA_BUF_IOCTL_IMPORT_SYNC_FILE reads exactly this structure.
    let set = unsafe { ioctl::Setter::<DMA_BUF_IOCTL_IMPORT_SYNC_FILE, _>::new(request) };
    run(fd, "DMA_BUF_IOCTL_IMPORT_SYNC_FILE", calls, set)
}

fn direction(access: crate::Access) -> u64 {
    match access {
        crate::Access::Read => DMA_BUF_SYNC_READ,
        crate::Access::Write => DMA_BUF_SYNC_WRITE,
        crate::Access::ReadWrite => DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE,
    }
}

fn open_device(path: &'static str) -> Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .map_err(|errno| Error::os("open(/dev/udmabuf or /dev/dma_heap/system)", errno))
}

fn run<I: ioctl::Ioctl>(
    fd: impl AsFd,
    name: &'static str,
    calls: &Calls,
    request: I,
) -> Result<I::Output> {
    run_errno(fd.as_fd(), calls, request).map_err(|errno| Error::os(name, errno))
}

fn run_errno<I: ioctl::Ioctl>(
    fd: BorrowedFd<'_>,
    calls: &Calls,
    request: I,
) -> Result<I::Output, Errno> {
    calls.enter_os(Call::Ioctl)?;
    // SAFETY: each request is built for its own ioctl, in this file; on an fd of another kind the
    // kernel answers ENOTTY, because the opcodes' type bytes are theirs alone.
    unsafe { ioctl::ioctl(fd, request) }
}

// ---- the kernel's interfaces ----

#[repr(C)]
struct DmaBufSync {
    flags: u64,
}

const DMA_BUF_SYNC_READ: u64 = 1 << 0;
const DMA_BUF_SYNC_WRITE: u64 = 1 << 1;
const DMA_BUF_SYNC_START: u64 = 0 << 2;
const DMA_BUF_SYNC_END: u64 = 1 << 2;
const DMA_BUF_IOCTL_SYNC: Opcode = opcode::write::<DmaBufSync>(b'b', 0);

#[repr(C)]
struct DmaBufSyncFile {
    flags: u32,
    fd: i32,
}

const DMA_BUF_IOCTL_EXPORT_SYNC_FILE: Opcode = opcode::read_write::<DmaBufSyncFile>(b'b', 2);
const DMA_BUF_IOCTL_IMPORT_SYNC_FILE: Opcode = opcode::write::<DmaBufSyncFile>(b'b', 3);

#[repr(C)]
struct DmaHeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

const DMA_HEAP_IOCTL_ALLOC: Opcode = opcode::read_write::<DmaHeapAllocation>(b'H', 0);

#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const UDMABUF_FLAGS_CLOEXEC: u32 = 1;
const UDMABUF_CREATE: Opcode = opcode::write::<UdmabufCreate>(b'u', 0x42);

/// `UDMABUF_CREATE` returns its result as the return value, which rustix' ready-made types drop.
struct UdmabufIoctl(UdmabufCreate);

// SAFETY: the opcode is UDMABUF_CREATE's, which reads the pointed-to structure and returns an fd.
unsafe impl ioctl::Ioctl for UdmabufIoctl {
    type Output = RawFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        UDMABUF_CREATE
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(
        out: ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<RawFd> {
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_the_kernel_headers() {
        assert_eq!(DMA_BUF_IOCTL_SYNC, 0x4008_6200);
        assert_eq!(DMA_BUF_IOCTL_EXPORT_SYNC_FILE, 0xc008_6202);
        assert_eq!(DMA_BUF_IOCTL_IMPORT_SYNC_FILE, 0x4008_6203);
        assert_eq!(DMA_HEAP_IOCTL_ALLOC, 0xc018_4800);
        assert_eq!(UDMABUF_CREATE, 0x4018_7542);
    }

    #[test]
    fn a_memfd_has_its_size_its_seals_and_closes_on_exec() {
        let calls = Calls::default();
        let fd = memfd(12_288, &calls).expect("a memfd");
        assert_eq!(size(&fd), Ok(12_288));
        assert_eq!(is_dma_buf(&fd), Ok(false));
        let flags = rustix::io::fcntl_getfd(&fd).expect("flags");
        assert!(flags.contains(FdFlags::CLOEXEC));
        assert_eq!(rustix::fs::ftruncate(&fd, 4096), Err(Errno::PERM), "sealed");
        let second = duplicate(fd.as_fd(), &calls).expect("a duplicate");
        assert_eq!(identity(&fd).expect("stat"), identity(&second).expect("stat"));
        assert!(rustix::io::fcntl_getfd(&second).expect("flags").contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn what_is_no_fd_is_not_owned() {
        // SAFETY: -1 is refused before anything is owned.
        let refused = unsafe { own(-1, "vkGetMemoryFdKHR") };
        assert!(matches!(refused, Err(Error::Os { source: Errno::BADF, .. })));
    }
}
