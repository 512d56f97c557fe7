//! The one place where integers become fds, and the identity of an fd.
#![expect(unsafe_code, reason = "fds that drivers and the kernel return as integers")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::{Errno, FdFlags};

use crate::error::{Error, Result};

/// The first number that is no standard stream's.
pub(crate) const FIRST: RawFd = 3;

/// Moves an fd away from the numbers of standard streams.
///
/// A process without standard streams gives their numbers to the next files that it opens, and what it prints then
/// goes to these. Memory is none of them.
pub(crate) fn beyond_standard(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST { Ok(fd) } else { duplicate(&fd) }
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
    // A new number is not one that a driver still has (see `duplicate_from`).
    GIVEN.lock().unwrap_or_else(PoisonError::into_inner).numbers.retain(|(given, _)| *given != raw);
    // SAFETY: the caller owns it, and it is not negative.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    // Not asked before: it is the only flag that an fd has.
    rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)
        .map_err(|errno| Error::os("fcntl(F_SETFD)", errno))?;
    beyond_standard(fd).map_err(|errno| Error::os("fcntl(F_DUPFD_CLOEXEC)", errno))
}

/// Duplicates an fd. The result is close-on-exec, and its number is beyond those of standard streams.
pub(crate) fn duplicate(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    duplicate_from(fd, FIRST)
}

/// As [`duplicate`], with a number that is not below `first`.
fn duplicate_from(fd: impl AsFd, first: RawFd) -> Result<OwnedFd, Errno> {
    // Under the lock: a duplicate names the same file as the fd that a driver was given, so that a comparison of files
    // cannot tell one from the other.
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let duplicate = rustix::io::fcntl_dupfd_cloexec(fd, first)?;
    // The kernel gives a number once at a time: a driver has closed the fd that it was given with this one.
    given.numbers.retain(|(raw, _)| *raw != duplicate.as_raw_fd());
    Ok(duplicate)
}

/// The numbers of fds that drivers were given by calls that have not returned.
static GIVEN: Mutex<GivenNumbers> = Mutex::new(GivenNumbers { last: 0, numbers: vec![] });

/// Each has the number of its [`Given`], since a driver may close an fd before the call returns, and the number may be given
/// again.
#[derive(Debug)]
struct GivenNumbers {
    last: u64,
    numbers: Vec<(RawFd, u64)>,
}

/// An fd that a driver is given by a call. The driver owns the fd if, and only if, the call succeeds.
///
/// Some drivers close it although the call has failed: RADV if an import fails late (`radv_alloc_memory` closes the fd
/// before `buffer_make_resident`), lavapipe and SwiftShader without address space. The number may then name another file
/// already, or a duplicate of the same file. So after a failed call the number is closed only if it names the same file,
/// and peerbuf has made no duplicate with this number since. That leaves two faults which no process can exclude, each with
/// a driver that breaks the rule and in the time of one call:
///
/// * An application duplicates the same file by itself and gets the number: it is closed.
/// * The files have no identity, since they are of `anon_inode` (sync files, and semaphores of Mesa), and another such
///   file gets the number. Mesa, whose semaphores are such files, keeps the rule
///   (`vk_common_ImportSemaphoreFdKHR` closes the fd last, on success).
///
/// The alternative, to close nothing after a failed call, is worse. Drivers that keep the rule would leak an fd at each
/// failure, and the fd would keep memory allocated when there is none left.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    raw: RawFd,
    number: u64,
    file: GivenFile<'a>,
}

/// Which file an fd named when it was given away.
#[derive(Debug)]
enum GivenFile<'a> {
    Known(FileId),
    /// That of another fd. It is looked at after a failure alone.
    As(BorrowedFd<'a>),
}

impl<'a> Given<'a> {
    /// Gives the fd away.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let file = GivenFile::Known(file_id(&fd)?);
        Ok(Self::of(fd, file))
    }

    /// Gives a duplicate of another fd away, which stays open meanwhile. It costs no system call.
    pub(crate) fn duplicate_of(other: BorrowedFd<'a>, fd: OwnedFd) -> Self {
        Self::of(fd, GivenFile::As(other))
    }

    fn of(fd: OwnedFd, file: GivenFile<'a>) -> Self {
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        given.last += 1;
        let (raw, number) = (fd.into_raw_fd(), given.last);
        // Another one with this number was closed by its driver.
        given.numbers.retain(|(other, _)| *other != raw);
        given.numbers.push((raw, number));
        Self { raw, number, file }
    }

    /// The number, for the call.
    pub(crate) fn raw(&self) -> RawFd {
        self.raw
    }

    /// Closes the fd after the call has failed, unless the driver has closed it.
    ///
    /// # Safety
    ///
    /// The one call that was given [`Given::raw`] has failed, or was not made.
    pub(crate) unsafe fn take_back(self, call: &'static str) {
        let given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let is_listed = given.numbers.contains(&(self.raw, self.number));
        // SAFETY: not negative; a number that is not open is reported as EBADF.
        let now = || file_id(unsafe { BorrowedFd::borrow_raw(self.raw) });
        let before = || match self.file {
            GivenFile::Known(file) => Ok(file),
            GivenFile::As(other) => file_id(other),
        };
        if is_listed && now().is_ok_and(|now| before().is_ok_and(|before| before == now)) {
            // SAFETY: ours, because the call failed, and the driver has not closed it.
            drop(unsafe { OwnedFd::from_raw_fd(self.raw) });
        } else {
            tracing::warn!(call, "the driver closed the fd of a failed import; left alone");
        }
        // Before the drop of `self`, which takes the lock.
        drop(given);
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        given.numbers.retain(|(_, number)| *number != self.number);
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

    /// Numbers that no other test of this program uses.
    const APART: RawFd = 700;

    /// Gives a file away with a number of its own. Returns the number as well.
    fn give(file: &OwnedFd, first: RawFd) -> (Given<'_>, RawFd) {
        let duplicate = duplicate_from(file, first).expect("a duplicate");
        let given = match first % 20 {
            0 => Given::new(duplicate).expect("open"),
            _ => Given::duplicate_of(file.as_fd(), duplicate),
        };
        let raw = given.raw();
        (given, raw)
    }

    /// Closes an fd as a driver does that was given it.
    fn close(raw: RawFd) {
        // SAFETY: the caller has given it away.
        drop(unsafe { OwnedFd::from_raw_fd(raw) });
    }

    fn is_open(raw: RawFd) -> bool {
        // SAFETY: a number that is not open is reported as EBADF.
        file_id(unsafe { BorrowedFd::borrow_raw(raw) }).is_ok()
    }

    #[test]
    fn the_fd_of_a_failed_call_is_closed_once() {
        let file = memfd();
        let (given, raw) = give(&file, APART);
        // SAFETY: the test is the call, and says that it has failed.
        unsafe { given.take_back("a call") };
        assert!(!is_open(raw), "left open by the driver");
    }

    #[test]
    fn an_fd_that_the_driver_closed_is_not_closed_again() {
        let (file, other) = (memfd(), memfd());
        let (given, raw) = give(&file, APART + 10);
        close(raw);
        // The number now names another file, as if a thread had opened one.
        let opened = duplicate_from(&other, raw).expect("a duplicate");
        assert_eq!(opened.as_raw_fd(), raw);
        // SAFETY: as above.
        unsafe { given.take_back("a call") };
        assert!(is_open(raw), "another file");
    }

    #[test]
    fn a_duplicate_of_the_file_of_a_failed_call_stays_open() {
        let file = memfd();
        let (given, raw) = give(&file, APART + 20);
        close(raw);
        // The number now names the same file, as if a thread had imported it as well.
        let (second, again) = give(&file, raw);
        assert_eq!(again, raw);
        // SAFETY: as above.
        unsafe { given.take_back("a call") };
        assert!(is_open(raw), "the other thread's");
        // SAFETY: as above.
        unsafe { second.take_back("a call") };
        assert!(!is_open(raw), "the driver has left it open this time");
    }
}
