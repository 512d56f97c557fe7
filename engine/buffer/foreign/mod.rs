//! Memory and fences that leave this engine as fds, or come in as such.
//!
//! Kernel counterparts: `drm_gem_prime_handle_to_fd`, `drm_gem_prime_import`,
//! `DMA_BUF_IOCTL_EXPORT_SYNC_FILE`.

mod export;
mod fences;
mod handle;
mod import;

pub use export::ForeignExport;
pub use handle::{ForeignFacts, ForeignHandle};
pub(crate) use import::import;
