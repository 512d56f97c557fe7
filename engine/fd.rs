//! The one place where integers become fds, and the identity of an fd.
#![expect(unsafe_code, reason = "fds that drivers and the kernel return as integers")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags};

use crate::error::{Error, Result};

/// The first number that is no standard stream's.
pub(crate) const FIRST: RawFd = 3;

/// Moves an fd away from the numbers of standard streams.
///
/// A process without standard streams gives their numbers to the next files that it opens, and what it prints then
/// goes to these. Memory is none of them.
pub(crate) fn beyond_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST { Ok(fd) } else { rustix::io::fcntl_dupfd_cloexec(&fd, FIRST) }
}

/// Takes ownership of an fd that a driver or the kernel returned with success. Its number is beyond those of standard
/// streams.
///
/// Negative numbers are refused: a driver was seen to return −1 (quirk `ReexportYieldsNoFd`). Close-on-exec is
/// set where missing, since an fd that leaks into a child is a security hole
/// (`Documentation/driver-api/dma-buf.rst`).
///
/// # Safety
///
/// `raw` was returned by `call` to this caller, who owns it.
pub(crate) unsafe fn own(raw: RawFd, call: &'static str) -> Result<OwnedFd> {
    if raw < 0 {
        // lavapipe returns this if its dup() fails.
        return Err(Error::fd_limit(call).unwrap_or_else(|| Error::os(call, Errno::BADF)));
    }
    // SAFETY: the caller owns it, and it is not negative.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let flags = rustix::io::fcntl_getfd(&fd).map_err(|errno| Error::os(call, errno))?;
    if !flags.contains(FdFlags::CLOEXEC) {
        rustix::io::fcntl_setfd(&fd, flags | FdFlags::CLOEXEC)
            .map_err(|errno| Error::os("fcntl(F_SETFD)", errno))?;
    }
    beyond_standard(fd).map_err(|errno| Error::os("fcntl(F_DUPFD_CLOEXEC)", errno))
}

/// Takes an fd back from a driver that has refused it: the driver owns an fd if, and only if, its call succeeded.
///
/// Some drivers close it nevertheless (RADV does if the import fails late). The number may then name another file
/// already, so it is closed only if it still names `file`.
///
/// # Safety
///
/// `raw` names a file that the caller owned before `call`, and gave to it; `call` has failed.
pub(crate) unsafe fn take_back(raw: RawFd, file: FileId, call: &'static str) {
    if raw < 0 {
        return;
    }
    // SAFETY: not negative; a number that is not open is reported as EBADF.
    let now = file_id(unsafe { BorrowedFd::borrow_raw(raw) });
    if now.is_ok_and(|now| now == file) {
        // SAFETY: the caller's, because the call failed; and the driver has not closed it.
        drop(unsafe { OwnedFd::from_raw_fd(raw) });
    } else {
        tracing::warn!(call, "the driver closed the fd of a failed import; left alone");
    }
}

/// Device and inode of a file.
pub(crate) type FileId = (u64, u64);

/// Device and inode of the file that an fd names. All files of `anon_inode` have the same.
pub(crate) fn file_id(fd: impl AsFd) -> Result<FileId, Errno> {
    rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino))
}

/// The size of the file that an fd names, if it has one. A dma-buf says it by `lseek`, which moves no position
/// (`dma_buf_llseek`), and not by `fstat`.
pub(crate) fn file_size(fd: impl AsFd) -> Option<u64> {
    // CAST: sizes are not negative.
    let size = rustix::fs::fstat(&fd).ok()?.st_size as u64;
    let sought = || rustix::fs::seek(&fd, rustix::fs::SeekFrom::End(0)).ok();
    // A seek moves the position of any other file, which its owner may use.
    let dma_buf = || is_dma_buf(&fd).ok().filter(|is_one| *is_one).and_then(|_| sought());
    if size > 0 { Some(size) } else { dma_buf().filter(|size| *size > 0) }
}

/// `DMA_BUF_MAGIC` of `include/uapi/linux/magic.h`: the file-system type of every dma-buf.
const DMA_BUF_MAGIC: u64 = 0x444d_4142;

/// Whether the fd is a dma-buf.
pub(crate) fn is_dma_buf(fd: impl AsFd) -> Result<bool, Errno> {
    // CAST: the kernel's magic numbers fit 32 bits; the field's type differs between architectures.
    rustix::fs::fstatfs(fd).map(|stat| stat.f_type as u64 == DMA_BUF_MAGIC)
}

/// The identity of the memory that an fd names: device and inode, which is how the kernel identifies a dma-buf
/// (`dma_buf_getfile`). Fd numbers are reused, so they identify nothing.
///
/// Only dma-bufs and regular files (memfds) have one. One device node stands for every object behind it: an NVIDIA
/// `OPAQUE_FD` is an open of `/dev/nvidiactl` (`ctrl0000unix.h` of its open kernel modules). And all files of
/// `anon_inode` share one inode.
pub(crate) fn identity(fd: impl AsFd) -> Result<Option<FileId>> {
    let fd = fd.as_fd();
    let stat = rustix::fs::fstat(fd).map_err(|errno| Error::os("fstat", errno))?;
    let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
    let named = regular || is_dma_buf(fd).map_err(|errno| Error::os("fstatfs", errno))?;
    Ok(named.then_some((stat.st_dev, stat.st_ino)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_number_is_refused() {
        // SAFETY: -1 is refused before anything is owned.
        let refused = unsafe { own(-1, "vkGetMemoryFdKHR") };
        assert!(matches!(refused, Err(Error::Os { source: Errno::BADF, .. })));
    }

    fn memfd() -> OwnedFd {
        rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd")
    }

    #[test]
    fn only_files_that_stand_for_one_memory_have_an_identity() {
        let (one, other) = (memfd(), memfd());
        let id = |fd: &OwnedFd| identity(fd).expect("an open file");
        assert!(id(&one).is_some() && id(&one) != id(&other));
        assert_eq!(id(&one), id(&one.try_clone().expect("a duplicate")));
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let event = rustix::event::eventfd(0, flags).expect("a file of anon_inode");
        assert_eq!(id(&event), None, "all files of anon_inode share one inode");
        let null = std::fs::File::open("/dev/null").expect("a device node");
        assert_eq!(id(&null.into()), None);
    }

    #[test]
    fn an_fd_that_the_driver_closed_is_not_closed_again() {
        use std::os::fd::IntoRawFd;
        let (given, other) = (memfd(), memfd());
        let file = file_id(&given).expect("an open file");
        let raw = given.into_raw_fd();
        // SAFETY: ours, given to a call that failed and left it open.
        unsafe { take_back(raw, file, "a call") };
        // The number now names another file, as if the driver had closed it and a thread had opened one.
        let before = file_id(&other).expect("an open file");
        // SAFETY: the number is not that of `file`, which is what the test needs.
        unsafe { take_back(other.as_raw_fd(), file, "a call") };
        assert_eq!(file_id(&other), Ok(before), "still open");
    }
}
