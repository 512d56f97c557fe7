//! dma-buf fds and the ioctls around them.
//!
//! Kernel: `include/uapi/linux/dma-buf.h`, `dma-heap.h`, `udmabuf.h`;
//! `Documentation/driver-api/dma-buf.rst`.
#![expect(unsafe_code, reason = "ioctls, and the fds that they return")]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, opcode};

use crate::access::Access;
use crate::device::{Call, Calls};
use crate::error::{Error, Result};
use crate::fd;

/// Duplicates an fd; the result is close-on-exec, and its number is beyond those of standard streams.
pub(crate) fn duplicate(fd: BorrowedFd<'_>, calls: &Calls) -> Result<OwnedFd> {
    const CALL: Call = Call::DuplicateFd;
    calls
        .enter_os(CALL)
        .and_then(|()| fd::duplicate(fd))
        .map_err(|errno| Error::os(CALL.name(), errno))
}

/// Creates a memfd of `size` bytes, close-on-exec, sealed so that no process can shrink or grow it under a
/// mapping, and that no receiver can add a seal. udmabuf requires the first seal too
/// (`drivers/dma-buf/udmabuf.c`).
///
/// No seal keeps a receiver from punching holes (`FALLOC_FL_PUNCH_HOLE`): a device that has pinned the pages keeps
/// the old ones, while the host sees zeros. It harms the bytes that were shared with that receiver, and no others,
/// because exported memory belongs to one buffer alone. A dma-buf has no such operation.
pub(crate) fn memfd(size: u64, calls: &Calls) -> Result<OwnedFd> {
    const CALL: Call = Call::MemfdCreate;
    let made = calls.enter_os(CALL).and_then(|()| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = fd::beyond_standard(rustix::fs::memfd_create("peerbuf", flags)?)?;
        rustix::fs::ftruncate(&fd, size)?;
        if overcommit_is_strict() {
            // Without memory for a page, a later access would end the process with SIGBUS.
            rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, size)?;
        }
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd)
    });
    made.map_err(|errno| Error::os(CALL.name(), errno))
}

/// Whether the kernel promises no more memory than there is (`vm.overcommit_memory` is 2;
/// `Documentation/mm/overcommit-accounting.rst`).
fn overcommit_is_strict() -> bool {
    std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|text| text.trim() == "2")
}

/// Creates a dma-buf over all `size` bytes of a sealed memfd, by `/dev/udmabuf`.
pub(crate) fn udmabuf(memfd: BorrowedFd<'_>, size: u64, calls: &Calls) -> Result<OwnedFd> {
    let device = open_device(UDMABUF, "open(/dev/udmabuf)")?;
    let request = UdmabufCreate {
        // CAST: fds are small and not negative.
        memfd: std::os::fd::AsRawFd::as_raw_fd(&memfd) as u32,
        flags: UDMABUF_FLAGS_CLOEXEC,
        offset: 0,
        size,
    };
    let raw = run(&device, "UDMABUF_CREATE", calls, UdmabufIoctl(request))?;
    // SAFETY: on success the ioctl returns a new fd for this process (`udmabuf_create`).
    unsafe { fd::own(raw, "UDMABUF_CREATE") }
}

/// Creates a dma-buf of `size` bytes of zeroed system memory, by the dma-heap `system`.
pub(crate) fn dma_heap(size: u64, calls: &Calls) -> Result<OwnedFd> {
    let device = open_device(DMA_HEAP, "open(/dev/dma_heap/system)")?;
    let fd_flags = (rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::RDWR).bits();
    let mut request = DmaHeapAllocation { len: size, fd: 0, fd_flags, heap_flags: 0 };
    // SAFETY: DMA_HEAP_IOCTL_ALLOC reads and writes exactly this structure.
    let update = unsafe { ioctl::Updater::<DMA_HEAP_IOCTL_ALLOC, _>::new(&mut request) };
    run(&device, "DMA_HEAP_IOCTL_ALLOC", calls, update)?;
    // SAFETY: on success the kernel stored a new fd of this process (`dma_heap_ioctl_allocate`).
    // CAST: it stored a non-negative int in a __u32.
    unsafe { fd::own(request.fd as RawFd, "DMA_HEAP_IOCTL_ALLOC") }
}

/// The device node of udmabuf.
pub(crate) const UDMABUF: &str = "/dev/udmabuf";
/// The device node of the dma-heap `system`.
pub(crate) const DMA_HEAP: &str = "/dev/dma_heap/system";

/// Whether a device node can be opened as [`open_device`] opens it, by the rights of the effective user.
pub(crate) fn can_open(node: &str) -> Result<(), Errno> {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, node, Access::READ_OK, AtFlags::EACCESS)
}

/// Waits until the fences of a dma-buf that conflict with an access have signalled: for a reader those of writers,
/// for a writer all (`dma_buf_poll`). `Ok(false)` if they have not by `end`.
pub(crate) fn wait_until_ready(
    fd: BorrowedFd<'_>,
    access: Access,
    end: Instant,
    calls: &Calls,
) -> Result<bool> {
    let wanted = if access.writes() { PollFlags::OUT } else { PollFlags::IN };
    loop {
        // A century is the longest time that the call can express everywhere.
        let left = end.saturating_duration_since(Instant::now()).min(Duration::from_secs(3 << 30));
        if calls.busy_host_memory() {
            // The file behind the fault is a memfd, which is always ready.
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(Duration::from_millis(1)));
            continue;
        }
        let left = Timespec {
            // CAST: a century at most.
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(&fd, wanted)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno)),
        }
    }
}

/// Begins CPU access to a dma-buf (`DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_START`).
pub(crate) fn begin_cpu_access(fd: BorrowedFd<'_>, access: Access, calls: &Calls) -> Result<()> {
    sync(fd, DMA_BUF_SYNC_START, access, calls)
}

/// Ends CPU access to a dma-buf (`DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_END`).
pub(crate) fn end_cpu_access(fd: BorrowedFd<'_>, access: Access, calls: &Calls) -> Result<()> {
    sync(fd, DMA_BUF_SYNC_END, access, calls)
}

fn sync(fd: BorrowedFd<'_>, edge: u64, access: Access, calls: &Calls) -> Result<()> {
    let flags = edge | direction(access);
    // After EINTR or EAGAIN the call must be repeated (`dma-buf.h`). The number of tries is bounded, so that
    // this cannot hang.
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

/// Exports the fences of a dma-buf as a sync file: for a reader those of writers, for a writer all. Without
/// pending fences the sync file has signalled.
pub(crate) fn export_sync_file(
    fd: BorrowedFd<'_>,
    access: Access,
    calls: &Calls,
) -> Result<OwnedFd> {
    const NAME: &str = "DMA_BUF_IOCTL_EXPORT_SYNC_FILE";
    // CAST: two bits.
    let mut request = DmaBufSyncFile { flags: direction(access) as u32, fd: -1 };
    // SAFETY: DMA_BUF_IOCTL_EXPORT_SYNC_FILE reads and writes exactly this structure.
    let update = unsafe { ioctl::Updater::<DMA_BUF_IOCTL_EXPORT_SYNC_FILE, _>::new(&mut request) };
    run(fd, NAME, calls, update)?;
    // SAFETY: on success the kernel stored a new fd of this process (`dma_buf_export_sync_file`).
    unsafe { fd::own(request.fd, NAME) }
}

/// Adds the fences of a sync file to a dma-buf, as those of a reader or of a writer.
pub(crate) fn import_sync_file(
    fd: BorrowedFd<'_>,
    file: &OwnedFd,
    access: Access,
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

fn direction(access: Access) -> u64 {
    match access {
        Access::Read => DMA_BUF_SYNC_READ,
        Access::Write => DMA_BUF_SYNC_WRITE,
        Access::ReadWrite => DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE,
    }
}

/// Opens a device node for its ioctls. Neither `udmabuf_ioctl` (`drivers/dma-buf/udmabuf.c`) nor `dma_heap_ioctl`
/// (`drivers/dma-buf/dma-heap.c`) asks for the right to write.
fn open_device(node: &str, call: &'static str) -> Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    rustix::fs::open(node, flags, rustix::fs::Mode::empty()).map_err(|errno| Error::os(call, errno))
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
    // kernel returns ENOTTY, because the opcodes' type bytes are unique.
    unsafe { ioctl::ioctl(fd, request) }
}

// ---- kernel interfaces ----

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

/// `UDMABUF_CREATE`, whose result is the return value, which the types of rustix discard.
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
    use rustix::io::FdFlags;

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
    fn a_memfd_has_its_size_its_seals_and_is_close_on_exec() {
        let calls = Calls::default();
        let fd = memfd(12_288, &calls).expect("a memfd");
        assert_eq!(rustix::fs::fstat(&fd).expect("stat").st_size, 12_288);
        assert_eq!(fd::is_dma_buf(&fd), Ok(false));
        let flags = rustix::io::fcntl_getfd(&fd).expect("flags");
        assert!(flags.contains(FdFlags::CLOEXEC));
        assert_eq!(rustix::fs::ftruncate(&fd, 4096), Err(Errno::PERM), "sealed");
        let sealed = rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE);
        assert_eq!(sealed, Err(Errno::PERM), "no receiver can add a seal");
        let second = duplicate(fd.as_fd(), &calls).expect("a duplicate");
        assert_eq!(fd::identity(&fd).expect("stat"), fd::identity(&second).expect("stat"));
        assert!(rustix::io::fcntl_getfd(&second).expect("flags").contains(FdFlags::CLOEXEC));
    }

    #[test]
    fn a_node_is_opened_for_reading_alone() {
        // Another file in the place of a node: what counts is how it is opened.
        let fd = open_device("/proc/self/status", "open").expect("it may be read");
        let flags = rustix::fs::fcntl_getfl(&fd).expect("flags");
        assert_eq!(flags & rustix::fs::OFlags::RWMODE, rustix::fs::OFlags::RDONLY);
        assert_eq!(can_open("/proc/self/status"), Ok(()));
        assert_eq!(can_open("/nonexistent"), Err(Errno::NOENT));
        let refused = open_device("/nonexistent", "open(/dev/udmabuf)");
        let error = refused.expect_err("there is none").with_causes();
        assert_eq!(error, "open(/dev/udmabuf) failed: No such file or directory (os error 2)");
    }
}
