//! Memory and fences that cross the border of the engine as fds: exported to external users, or imported from
//! them.
//!
//! Kernel counterparts: `drm_gem_prime_handle_to_fd`, `drm_gem_prime_import`, `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`.
//! Vulkan: external memory.
//!
//! May be known here: moves, because an export may need one; and the table of exported files. What is not here:
//! the ioctls and the duplication of fds ([`crate::memory`]).

mod export;
mod foreign_fences;
mod handle;
mod import;

pub use export::ForeignExport;
pub use handle::{ForeignHandle, ForeignInfo};
pub(crate) use import::import;
