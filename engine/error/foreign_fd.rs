//! Why a file descriptor from outside was refused.

use ash::vk;

use crate::device::Uuid;

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
    /// No memory type of the importing device suits it.
    #[error("no memory type of the device suits the memory")]
    NoMemoryType,
}
