//! External fences: a dma-buf's own fences are imported into the buffer, and the buffer's fences exported to
//! the dma-buf.
//!
//! Kernel: `DMA_BUF_IOCTL_EXPORT_SYNC_FILE` and `DMA_BUF_IOCTL_IMPORT_SYNC_FILE`
//! (`include/uapi/linux/dma-buf.h`). They read and extend the dma-buf's own `dma_resv`, which the kernel keeps
//! apart from peerbuf's reservation.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::access::Access;
use crate::buffer::object::{SharedBuffer, wait_all};
use crate::error::{Error, Result};
use crate::memory::{Allocation, dma_buf};
use crate::sync::{Fence, Usage, merge_sync_files};

impl SharedBuffer {
    /// Imports the fences of external work that is pending on this buffer's dma-buf, so that later uses of the
    /// buffer wait for it.
    ///
    /// It is for buffers that were exported ([`SharedBuffer::export_foreign`]) or imported
    /// ([`crate::Engine::import_foreign`]). Call it before a use that must wait for external work. Work that
    /// external users submit later is not covered (the kernel: "not atomic").
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the memory is not a dma-buf of this buffer alone; [`Error::FdLimit`], or the
    /// error of the ioctl (`ENOTTY` before Linux 6.0).
    ///
    /// Locks: the reservation.
    #[doc(alias = "DMA_BUF_IOCTL_EXPORT_SYNC_FILE")]
    pub fn import_foreign_fences(&self) -> Result<()> {
        let allocation = self.shared_dma_buf()?;
        let calls = &self.0.core().calls;
        let export = |access| {
            let fd = allocation.with_fd(|fd| dma_buf::export_sync_file(fd, access, calls))?;
            Fence::from_sync_file(fd)
        };
        // A reader waits for the writers; a writer waits for all fences.
        let (writers, all) = (export(Access::Read)?, export(Access::Write)?);
        let mut state = self.0.lock();
        state.fences().add(Usage::Write, writers);
        state.fences().add(Usage::Read, all);
        Ok(())
    }

    /// Exports the buffer's fences to its dma-buf, so that external users that respect implicit fences wait for
    /// them.
    ///
    /// Some fences cannot become a sync file: those of host work, and of devices without `SYNC_FD`. This waits
    /// for them, for at most the engine timeout.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::import_foreign_fences`]; [`Error::Timeout`], [`Error::DeviceLost`].
    ///
    /// Locks: the reservation, but not while waiting.
    #[doc(alias = "DMA_BUF_IOCTL_IMPORT_SYNC_FILE")]
    pub fn export_foreign_fences(&self) -> Result<()> {
        let allocation = self.shared_dma_buf()?;
        let end = Instant::now() + self.0.core().timeout;
        let (writers, all) = {
            let mut state = self.0.lock();
            (state.fences().pending(Usage::Write), state.fences().pending(Usage::Read))
        };
        let readers: Vec<_> =
            all.into_iter().filter(|fence| !writers.iter().any(|w| w.covers(fence))).collect();
        for (access, fences) in [(Access::Write, writers), (Access::Read, readers)] {
            let Some(file) = merge_sync_files(sync_files(&fences, end)?)? else { continue };
            let calls = &self.0.core().calls;
            allocation.with_fd(|fd| dma_buf::import_sync_file(fd, &file, access, calls))?;
        }
        Ok(())
    }

    /// Returns the allocation, if it is a dma-buf and contains no other buffer.
    fn shared_dma_buf(&self) -> Result<Arc<Allocation>> {
        let state = self.0.lock();
        let backing = self.0.backing(&state)?;
        let allocation = backing.allocation();
        if backing.is_dedicated() && allocation.is_dma_buf() {
            return Ok(Arc::clone(allocation));
        }
        Err(Error::Unsupported {
            device: self.0.home().name().to_owned(),
            missing: format!("a dma-buf of {} alone", self.0.name()),
        })
    }
}

/// Returns the fences as sync files, and waits for those that cannot become one.
fn sync_files(fences: &[Fence], end: Instant) -> Result<Vec<OwnedFd>> {
    let mut files = Vec::new();
    for fence in fences {
        match fence.to_sync_file() {
            Ok(file) => files.push(file),
            // A driver may not return from the export in time.
            Err(Error::Unsupported { .. } | Error::Timeout { .. }) => {
                wait_all(std::slice::from_ref(fence), end)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}
