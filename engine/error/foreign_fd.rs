//! Why a file descriptor from outside was refused.

use ash::vk;

use crate::device::{HandleType, Uuid};

/// Why a file descriptor from outside was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignFdReason {
    /// The descriptor is not open (`EBADF`).
    #[error("the fd is closed")]
    Closed,
    /// The descriptor is open, but not a dma-buf.
    #[error("the fd is not a dma-buf")]
    NotDmaBuf,
    /// The descriptor is open, but not a memfd that is sealed against shrinking.
    #[error(
        "the fd is not a memfd sealed against shrinking, so its pages could vanish under a mapping"
    )]
    NotSealed,
    /// The memory is smaller than claimed.
    #[error("the memory has {actual} bytes, {claimed} claimed")]
    #[non_exhaustive]
    TooSmall {
        /// The size that the caller claimed.
        claimed: u64,
        /// The size that the kernel or the driver reports.
        actual: u64,
    },
    /// The dma-buf is much larger than claimed. An import takes all of it, and a device pins all of its pages. Set
    /// [`crate::ForeignInfo::allow_larger`] if that is wanted.
    #[error("the dma-buf has {actual} bytes, {claimed} claimed; an import would take all of it")]
    TooLarge {
        /// The end of the claimed range.
        claimed: u64,
        /// The size that the kernel reports.
        actual: u64,
    },
    /// The file has not enough bytes for an import by address, which takes whole units of pages.
    #[error("the memfd has {actual} bytes; around the buffer it needs whole units of {unit}")]
    NoWholeUnits {
        /// The unit: a page, or the device's `minImportedHostPointerAlignment` if that is larger.
        unit: u64,
        /// The size of the file.
        actual: u64,
    },
    /// The memfd is sealed against writing (`F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`). Drivers import only memory that
    /// is mapped for writing.
    #[error("the memfd is sealed against writing, and devices import only writable memory")]
    SealedAgainstWriting,
    /// The descriptor is open for reading alone. Drivers import only memory that is mapped for writing.
    #[error("the fd is open for reading alone, and devices import only writable memory")]
    ReadOnly,
    /// The memfd has huge pages (`MFD_HUGETLB`). A page that is punched out of it may not come back, and an access
    /// is then `SIGBUS`.
    #[error("the memfd has huge pages, which could vanish under a mapping")]
    HugePages,
    /// A part of the same file that overlaps is another buffer of this engine: an earlier import, or an export. The
    /// same bytes in two buffers would have two reservations. Import that range with the same properties, which
    /// returns that buffer, or drop it first.
    #[error("{size} bytes at {offset} of the file are another buffer ({handle}), and overlap")]
    Overlaps {
        /// The handle type of the other buffer.
        handle: HandleType,
        /// Its offset in the file.
        offset: u64,
        /// Its size.
        size: u64,
    },
    /// An `OPAQUE_FD` of another driver or device
    /// (VUID-VkImportMemoryFdInfoKHR-fd-00668 and the table of external handle types).
    #[error("exported by driver or device {theirs}, importing one is {ours}")]
    #[non_exhaustive]
    OtherDriver {
        /// UUID of the driver or device that exported it.
        theirs: Uuid,
        /// UUID of the importing one.
        ours: Uuid,
    },
    /// The driver refused the import.
    #[error("the driver refused the import ({0:?})")]
    Rejected(vk::Result),
    /// The driver refused the import of so many bytes from a file of that size. Some drivers want more bytes in the file
    /// than are imported.
    #[error(
        "the driver refused the import of {claimed} bytes from a file of {actual} bytes ({code:?})"
    )]
    #[non_exhaustive]
    RejectedFile {
        /// The driver's code.
        code: vk::Result,
        /// How many bytes were to be imported.
        claimed: u64,
        /// How many bytes the file has.
        actual: u64,
    },
    /// No memory type of the importing device suits it.
    #[error("no memory type of the device suits the memory")]
    NoMemoryType,
}
