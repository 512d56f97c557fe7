//! Files from outside this engine: checked against what their sender claims, before any call of a driver.

use std::os::fd::BorrowedFd;

use rustix::fs::{OFlags, SealFlags};
use rustix::io::Errno;

use crate::device::HandleType;
use crate::error::{Error, ForeignFdReason, Result};
use crate::fd;

/// `HUGETLBFS_MAGIC` of `include/uapi/linux/magic.h`.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// What a sender claims of a file: a buffer of `size` bytes at `offset`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ForeignClaim {
    pub(crate) handle: HandleType,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    /// The size of an `OPAQUE_FD`'s memory.
    pub(crate) memory_size: u64,
    /// Whether a dma-buf may be much larger than the claim.
    pub(crate) allow_larger: bool,
}

/// Bytes by which a dma-buf may be larger than twice the claim: the step in which small allocations are rounded up
/// (`size_class::fit`). Larger steps are an eighth of the size at most.
const SLACK: u64 = 512 << 10;

impl ForeignClaim {
    /// The end of the buffer in the file.
    pub(crate) fn end(&self) -> Result<u64> {
        let rule = "the end of the buffer in its file fits 64 bits";
        self.offset.checked_add(self.size).ok_or(Error::InvalidSize { size: self.size, rule })
    }

    /// Checks that a foreign fd is of the stated type, that its pages cannot vanish under a mapping, and that it is
    /// as large as claimed. Returns the size of the file.
    ///
    /// The size of an `OPAQUE_FD` is known only if the driver uses a dma-buf or a memfd as such. Otherwise this is
    /// the claimed size of the memory, and the driver checks it or not.
    pub(crate) fn check(&self, fd: BorrowedFd<'_>) -> Result<u64> {
        match rustix::io::fcntl_getfd(fd) {
            Ok(_) => {}
            Err(Errno::BADF) => return self.refuse(ForeignFdReason::Closed),
            Err(errno) => return Err(Error::os("fcntl(F_GETFD)", errno)),
        }
        let end = self.end()?;
        match self.handle {
            HandleType::OpaqueFd => {
                let actual = opaque_size(fd)?.unwrap_or(self.memory_size);
                self.check_size(self.memory_size, actual)?;
                self.check_size(end, self.memory_size)?;
                Ok(actual)
            }
            HandleType::DmaBuf => {
                if !fd::is_dma_buf(fd).map_err(|errno| Error::os("fstatfs", errno))? {
                    return self.refuse(ForeignFdReason::NotDmaBuf);
                }
                let actual = dma_buf_size(fd)?;
                self.check_size(end, actual)?;
                Ok(actual)
            }
            HandleType::HostPointer => {
                self.check_mappable(fd)?;
                let actual = file_size(fd)?;
                self.check_size(end, actual)?;
                Ok(actual)
            }
        }
    }

    /// Checks that a dma-buf of `actual` bytes is not much larger than the claim. To be called after
    /// [`ForeignClaim::check`], for a file that is imported as new memory.
    pub(crate) fn check_not_much_larger(&self, actual: u64) -> Result<()> {
        let claimed = self.end()?;
        let is_limited = self.handle == HandleType::DmaBuf && !self.allow_larger;
        if is_limited && is_much_larger(actual, claimed) {
            return self.refuse(ForeignFdReason::TooLarge { claimed, actual });
        }
        Ok(())
    }

    /// Checks that a file is a memfd that can be mapped for reading and writing, and whose pages stay there.
    fn check_mappable(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let seals = rustix::fs::fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return self.refuse(ForeignFdReason::NotSealed);
        }
        let kind = rustix::fs::fstatfs(fd).map_err(|errno| Error::os("fstatfs", errno))?.f_type;
        // CAST: the kernel's magic numbers fit 32 bits; the field's type differs between architectures.
        if kind as u64 == HUGETLBFS_MAGIC {
            return self.refuse(ForeignFdReason::HugePages);
        }
        if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return self.refuse(ForeignFdReason::SealedAgainstWriting);
        }
        let flags =
            rustix::fs::fcntl_getfl(fd).map_err(|errno| Error::os("fcntl(F_GETFL)", errno))?;
        if flags & OFlags::RWMODE != OFlags::RDWR {
            return self.refuse(ForeignFdReason::ReadOnly);
        }
        Ok(())
    }

    fn check_size(&self, claimed: u64, actual: u64) -> Result<()> {
        if actual < claimed {
            return self.refuse(ForeignFdReason::TooSmall { claimed, actual });
        }
        Ok(())
    }

    /// The part of a memfd of `file` bytes that is mapped and imported by address: whole units of `unit` bytes
    /// around the buffer. Returns the offset and the length of the part.
    ///
    /// The file may end within the last page: the rest of the page can be accessed.
    pub(super) fn part_of_file(&self, file: u64, unit: u64, page: u64) -> Result<(u64, u64)> {
        let start = self.offset - self.offset % unit;
        let needed = self.end()?.checked_next_multiple_of(unit);
        match needed {
            Some(needed) if needed <= file.next_multiple_of(page) => Ok((start, needed - start)),
            _ => self.refuse(ForeignFdReason::NoWholeUnits { unit, actual: file }),
        }
    }

    fn refuse<T>(&self, reason: ForeignFdReason) -> Result<T> {
        Err(Error::ForeignFd { handle: self.handle, reason })
    }
}

/// Whether a file of `actual` bytes is so much larger than the claim that an import of all of it needs permission:
/// a device pins every page.
fn is_much_larger(actual: u64, claimed: u64) -> bool {
    actual > claimed.saturating_mul(2).saturating_add(SLACK)
}

/// The size of a dma-buf. It reports it by `lseek`, which moves no position (`dma_buf_llseek`), and not by `fstat`.
fn dma_buf_size(fd: BorrowedFd<'_>) -> Result<u64> {
    rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0)).map_err(|errno| Error::os("lseek", errno))
}

/// The size of a memfd.
fn file_size(fd: BorrowedFd<'_>) -> Result<u64> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| Error::os("fstat", errno))?;
    // CAST: sizes are not negative.
    Ok(stat.st_size as u64)
}

/// The size of the file behind an `OPAQUE_FD`, if it is a dma-buf (RADV, ANV, NVK) or a memfd (lavapipe,
/// SwiftShader).
fn opaque_size(fd: BorrowedFd<'_>) -> Result<Option<u64>> {
    if fd::identity(fd)?.is_none() {
        return Ok(None);
    }
    let is_dma_buf = fd::is_dma_buf(fd).map_err(|errno| Error::os("fstatfs", errno))?;
    if is_dma_buf { dma_buf_size(fd) } else { file_size(fd) }.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::size_class;

    fn claim(offset: u64, size: u64) -> ForeignClaim {
        let handle = HandleType::HostPointer;
        ForeignClaim { handle, offset, size, memory_size: size, allow_larger: false }
    }

    #[test]
    fn a_part_of_a_file_has_whole_units_around_the_buffer() {
        let part =
            |offset, size, file, unit| claim(offset, size).part_of_file(file, unit, 4096).ok();
        assert_eq!(part(0, 4096, 1 << 40, 4096), Some((0, 4096)), "not the whole file");
        assert_eq!(part(0, 1_920_000, 1_920_000, 4096), Some((0, 1_921_024)));
        assert_eq!(part(5000, 4, 5004, 4096), Some((4096, 4096)));
        assert_eq!(part(4096, 4096, 8192, 65_536), None, "the unit does not fit the file");
        assert_eq!(part(65_536, 1, 131_072, 65_536), Some((65_536, 65_536)));
        assert_eq!(part(u64::MAX - 1, 1, u64::MAX - 4096, 4096), None, "the end overflows");
    }

    #[test]
    fn a_dma_buf_may_have_twice_the_claim_and_a_step_of_rounding_more() {
        assert!(!is_much_larger(SLACK + 2, 1) && is_much_larger(SLACK + 3, 1));
        assert!(is_much_larger(64 << 30, 4096));
        assert!(!is_much_larger(u64::MAX, u64::MAX));
    }

    #[test]
    fn every_export_of_a_buffer_can_be_imported_with_its_size() {
        for size in (0..40).flat_map(|bit| [1 << bit, (1 << bit) + 1, 40_000]) {
            let exported = size_class::footprint(size, true, u64::MAX).unwrap_or(u64::MAX);
            // A page of the kernel more: a dma-buf has whole pages.
            let actual = exported.next_multiple_of(64 << 10);
            let dma_buf = ForeignClaim { handle: HandleType::DmaBuf, ..claim(0, size) };
            assert!(dma_buf.check_not_much_larger(actual).is_ok(), "{size} in {actual}");
        }
    }

    #[test]
    fn permission_lifts_the_limit_of_a_dma_buf_alone() {
        let dma_buf = ForeignClaim { handle: HandleType::DmaBuf, ..claim(0, 4096) };
        assert!(dma_buf.check_not_much_larger(1 << 30).is_err());
        let permitted = ForeignClaim { allow_larger: true, ..dma_buf };
        assert!(permitted.check_not_much_larger(1 << 30).is_ok());
        assert!(claim(0, 4096).check_not_much_larger(1 << 30).is_ok(), "a part is mapped");
    }
}
