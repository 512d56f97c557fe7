//! Fences of strangers: what they do to a dma-buf that is shared with them, and what we do.
//!
//! Kernel: `DMA_BUF_IOCTL_EXPORT_SYNC_FILE` and `DMA_BUF_IOCTL_IMPORT_SYNC_FILE`
//! (`include/uapi/linux/dma-buf.h`), which look into and add to the dma-buf's own reservation: the
//! kernel's, behind the one that peerbuf keeps.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::access::Access;
use crate::buffer::object::{SharedBuffer, wait_all};
use crate::error::{Error, Result};
use crate::memory::{Allocation, dma_buf};
use crate::sync::{Fence, Usage, merge_sync_files};

impl SharedBuffer {
    /// Takes in what strangers have under way on this buffer's dma-buf: their fences are entered here, so
    /// that whoever uses the buffer next waits for them. For buffers that were handed out
    /// ([`SharedBuffer::export_foreign`]) or taken in ([`crate::Engine::import_foreign`]); call it before
    /// such a use. What a stranger submits later it does not see (the kernel: "not atomic").
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where the memory is no dma-buf of its own; [`Error::FdLimit`], or what the
    /// ioctl said (`ENOTTY` before Linux 6.0).
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
        // What a reader waits for are writers; what a writer waits for are all.
        let (writers, all) = (export(Access::Read)?, export(Access::Write)?);
        let mut state = self.0.lock();
        state.fences.add(Usage::Write, writers);
        state.fences.add(Usage::Read, all);
        Ok(())
    }

    /// Tells strangers what we have under way on this buffer: its fences are entered into the dma-buf's own
    /// reservation, so that whoever respects that waits for them. A fence that cannot be made a sync file
    /// (work of the host, a device without `SYNC_FD`) is waited for here, in bounds.
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
            (state.fences.pending(Usage::Write), state.fences.pending(Usage::Read))
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

    /// The allocation, if it is this buffer's alone and a dma-buf.
    fn shared_dma_buf(&self) -> Result<Arc<Allocation>> {
        let state = self.0.lock();
        let backing = self.0.backing(&state)?;
        let allocation = backing.allocation();
        if backing.is_dedicated() && allocation.is_dma_buf() {
            return Ok(Arc::clone(allocation));
        }
        Err(Error::Unsupported {
            device: self.0.home().name().to_owned(),
            missing: format!("a dma-buf that is {}'s alone", self.0.name()),
        })
    }
}

/// The fences as sync files; those that cannot be are waited for.
fn sync_files(fences: &[Fence], end: Instant) -> Result<Vec<OwnedFd>> {
    let mut files = Vec::new();
    for fence in fences {
        match fence.to_sync_file() {
            Ok(file) => files.push(file),
            Err(Error::Unsupported { .. }) => wait_all(std::slice::from_ref(fence), end)?,
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}
