//! What was handed out, by the kernel's identity of the file: so that an fd that comes back is
//! recognised.
//!
//! Kernel counterpart: the lookup of PRIME (`drm_gem_prime_import`: a self-import is the same object,
//! not a second one).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, Weak};

use super::buffer::BufferInner;
use crate::error::Result;
use crate::memory::dma_buf;
use crate::sync::primitive::Mutex;

/// Buffers by the identity (device and inode) of what they exported. Never by fd number: those are
/// reused (hgaiser/moonshine#137).
#[derive(Debug, Default)]
pub(crate) struct Exports(Mutex<HashMap<(u64, u64), Exported>>);

#[derive(Debug)]
struct Exported {
    buffer: Weak<BufferInner>,
    /// The generation that was exported. A buffer that has moved since is no longer in that file.
    generation: u32,
}

impl Exports {
    pub(in crate::buffer) fn remember(
        &self,
        fd: BorrowedFd<'_>,
        buffer: &Arc<BufferInner>,
    ) -> Result<()> {
        let Some(identity) = dma_buf::identity(fd)? else { return Ok(()) };
        let exported = Exported { buffer: Arc::downgrade(buffer), generation: buffer.generation() };
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|_, exported| exported.buffer.strong_count() > 0);
        list.insert(identity, exported);
        Ok(())
    }

    /// The buffer that `fd` was handed out for, if it is still there.
    pub(in crate::buffer) fn find(&self, fd: BorrowedFd<'_>) -> Result<Option<Arc<BufferInner>>> {
        let Some(identity) = dma_buf::identity(fd)? else { return Ok(None) };
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(list.get(&identity).and_then(|exported| {
            let buffer = exported.buffer.upgrade()?;
            (buffer.generation() == exported.generation).then_some(buffer)
        }))
    }
}
