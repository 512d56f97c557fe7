//! Exported buffers by the kernel's identity of their file, so that an imported fd of this engine's own is
//! recognised.
//!
//! Kernel counterpart: the look-up in `drm_gem_prime_import`, where a self-import yields the same object, not
//! a second one.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, Weak};

use crate::error::Result;
use crate::fd;
use crate::sync::primitive::Mutex;

/// Objects by the identity (device and inode) of the file that they were exported as. Never by fd number,
/// because those are reused (hgaiser/moonshine#137).
#[derive(Debug)]
pub(crate) struct ExportTable<T>(Mutex<HashMap<(u64, u64), Exported<T>>>);

#[derive(Debug)]
struct Exported<T> {
    object: Weak<T>,
    /// The generation that was exported. A buffer that has moved since is not in that file any more.
    generation: u32,
}

impl<T> ExportTable<T> {
    /// Records that `fd` holds `generation` of an object.
    ///
    /// # Errors
    ///
    /// The kernel's error for the file.
    pub(crate) fn remember(
        &self,
        fd: BorrowedFd<'_>,
        object: &Arc<T>,
        generation: u32,
    ) -> Result<()> {
        let Some(identity) = fd::identity(fd)? else { return Ok(()) };
        let exported = Exported { object: Arc::downgrade(object), generation };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, exported| exported.object.strong_count() > 0);
        table.insert(identity, exported);
        Ok(())
    }

    /// The object that `fd` was exported for, if it is alive, and the generation that the file holds.
    ///
    /// # Errors
    ///
    /// The kernel's error for the file.
    pub(crate) fn find(&self, fd: BorrowedFd<'_>) -> Result<Option<(Arc<T>, u32)>> {
        let Some(identity) = fd::identity(fd)? else { return Ok(None) };
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = table.get(&identity);
        Ok(found.and_then(|exported| Some((exported.object.upgrade()?, exported.generation))))
    }
}

impl<T> Default for ExportTable<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
