//! Sync files: kernel fences as file descriptors, to import and export fences.
//!
//! Kernel: `drivers/dma-buf/sync_file.c`, `include/uapi/linux/sync_file.h`.
#![expect(unsafe_code, reason = "ioctls of sync files")]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, opcode};

use super::host_fence::end_of;
use crate::error::{Error, Result};
use crate::fd;

/// A kernel fence. Fences merged into one file are one fence: it signals once all have signalled.
#[derive(Debug)]
pub(super) struct SyncFile(OwnedFd);

impl SyncFile {
    /// Takes ownership of an fd, if it is a sync file.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `ENOTTY` if it is something else, `EBADF` if it is closed.
    pub(super) fn new(fd: OwnedFd) -> Result<Self> {
        info(fd.as_fd())?;
        Ok(Self(fd))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// `None` until it has signalled; then the error that its work ended with, if any.
    pub(super) fn status(&self) -> Result<Option<Result<(), Errno>>> {
        match info(self.fd())?.status {
            0 => Ok(None),
            1.. => Ok(Some(Ok(()))),
            error => Ok(Some(Err(Errno::from_raw_os_error(-error)))),
        }
    }

    /// Waits until it signals; returns `Ok(false)` after `timeout`. A sync file becomes readable when it
    /// signals (`sync_file_poll`).
    pub(super) fn wait(&self, timeout: Duration) -> Result<bool> {
        let end = end_of(timeout);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let left = Timespec {
                // CAST: a hundred years at most.
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os("poll", errno)),
            }
        }
    }
}

/// Merges sync files into one that signals once all have. `None` if there are none.
pub(crate) fn merge_sync_files(files: Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
    let mut merged: Option<OwnedFd> = None;
    for file in files {
        merged = Some(match merged {
            Some(one) => merge(one.as_fd(), file.as_fd())?,
            None => file,
        });
    }
    Ok(merged)
}

/// Merges two sync files into one that signals once both have signalled.
fn merge(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut request = SyncMergeData {
        name: *b"peerbuf\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        fd2: std::os::fd::AsRawFd::as_raw_fd(&other),
        fence: -1,
        flags: 0,
        pad: 0,
    };
    // SAFETY: SYNC_IOC_MERGE reads and writes exactly this structure.
    let merge = unsafe { ioctl::Updater::<SYNC_IOC_MERGE, _>::new(&mut request) };
    // SAFETY: the request was built for this ioctl; an fd of another kind answers ENOTTY.
    unsafe { ioctl::ioctl(one, merge) }.map_err(|errno| Error::os("SYNC_IOC_MERGE", errno))?;
    // SAFETY: on success the kernel stored a new fd of this process (`sync_file_ioctl_merge`).
    unsafe { fd::own(request.fence as RawFd, "SYNC_IOC_MERGE") }
}

fn info(fd: BorrowedFd<'_>) -> Result<SyncFileInfo> {
    let mut request = SyncFileInfo {
        name: [0; 32],
        status: 0,
        flags: 0,
        num_fences: 0,
        pad: 0,
        sync_fence_info: 0,
    };
    // SAFETY: SYNC_IOC_FILE_INFO reads and writes exactly this structure, and stores nothing elsewhere
    // when it asks for no fences.
    let update = unsafe { ioctl::Updater::<SYNC_IOC_FILE_INFO, _>::new(&mut request) };
    // SAFETY: the request was built for this ioctl; an fd of another kind answers ENOTTY.
    unsafe { ioctl::ioctl(fd, update) }.map_err(|errno| Error::os("SYNC_IOC_FILE_INFO", errno))?;
    Ok(request)
}

// ---- the kernel's interfaces ----

#[repr(C)]
struct SyncMergeData {
    name: [u8; 32],
    fd2: i32,
    fence: i32,
    flags: u32,
    pad: u32,
}

#[repr(C)]
struct SyncFileInfo {
    name: [u8; 32],
    status: i32,
    flags: u32,
    num_fences: u32,
    pad: u32,
    sync_fence_info: u64,
}

const SYNC_IOC_MERGE: Opcode = opcode::read_write::<SyncMergeData>(b'>', 3);
const SYNC_IOC_FILE_INFO: Opcode = opcode::read_write::<SyncFileInfo>(b'>', 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_are_those_of_the_kernel_headers() {
        assert_eq!(SYNC_IOC_MERGE, 0xc030_3e03);
        assert_eq!(SYNC_IOC_FILE_INFO, 0xc038_3e04);
    }

    #[test]
    fn an_fd_that_is_no_sync_file_is_refused() {
        let file = rustix::fs::memfd_create("no-fence", rustix::fs::MemfdFlags::CLOEXEC);
        let refused = SyncFile::new(file.expect("a memfd"));
        assert!(matches!(refused, Err(Error::Os { source: Errno::NOTTY, .. })), "{refused:?}");
    }
}
