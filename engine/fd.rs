//! The one place where integers become fds, and the identity of an fd.
#![expect(unsafe_code, reason = "fds that drivers and the kernel return as integers")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, FdFlags};

use crate::error::{Error, Result};

/// Takes ownership of an fd that a driver or the kernel returned with success.
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
    Ok(fd)
}

/// The identity of the file that an fd names: device and inode, which is how the kernel identifies a dma-buf
/// (`dma_buf_getfile`). Fd numbers are reused, so they identify nothing.
///
/// `None` for device nodes: one node stands for every object behind it. An NVIDIA `OPAQUE_FD` is an open of
/// `/dev/nvidiactl` (`ctrl0000unix.h` of its open kernel modules).
pub(crate) fn identity(fd: impl AsFd) -> Result<Option<(u64, u64)>> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| Error::os("fstat", errno))?;
    let node = matches!(
        rustix::fs::FileType::from_raw_mode(stat.st_mode),
        rustix::fs::FileType::CharacterDevice | rustix::fs::FileType::BlockDevice
    );
    Ok((!node).then_some((stat.st_dev, stat.st_ino)))
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
}
