//! Imported buffers by the kernel's identity of their file, so that the same bytes are never two buffers.
//!
//! Kernel counterpart: the look-up in `drm_gem_prime_import_dev`, where a second import of a dma-buf yields the same
//! GEM object.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError, Weak};

use crate::device::HandleType;
use crate::error::{Error, ForeignFdReason, Result};
use crate::fd::{self, FileId};
use crate::memory::ForeignClaim;
use crate::sync::primitive::Mutex;

/// Objects by the file that they were imported from, and the part of it.
#[derive(Debug)]
pub(crate) struct ImportTable<T>(Mutex<HashMap<FileId, Vec<Imported<T>>>>);

#[derive(Debug)]
struct Imported<T> {
    object: Weak<T>,
    part: ImportedPart,
}

/// What was imported of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImportedPart {
    pub(crate) claim: ForeignClaim,
    pub(crate) memory_type: u32,
}

impl ImportedPart {
    /// Whether both are the same bytes, imported in the same way.
    fn is_same(&self, other: &Self) -> bool {
        let key = |part: &Self| {
            let ForeignClaim { handle, offset, size, memory_size, .. } = part.claim;
            // Other imports ignore the size and the type of the memory.
            let opaque = handle == HandleType::OpaqueFd;
            (handle, offset, size, opaque.then_some((memory_size, part.memory_type)))
        };
        key(self) == key(other)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let end = |part: &Self| part.claim.offset.saturating_add(part.claim.size);
        self.claim.offset < end(other) && other.claim.offset < end(self)
    }
}

impl<T> ImportTable<T> {
    /// The live object that the same part of the same file was imported as.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignFd`] if a part that overlaps was imported otherwise; the kernel's error for the file.
    pub(crate) fn find(&self, fd: BorrowedFd<'_>, part: &ImportedPart) -> Result<Option<Arc<T>>> {
        let Some(file) = fd::identity(fd)? else { return Ok(None) };
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        find_in(table.get(&file).map_or(&[], |parts| parts), part)
    }

    /// Records that a part of a file was imported as `object`. Returns the other object instead if another thread
    /// has imported the same part meanwhile.
    ///
    /// # Errors
    ///
    /// As [`ImportTable::find`].
    pub(crate) fn remember(
        &self,
        fd: BorrowedFd<'_>,
        part: ImportedPart,
        object: &Arc<T>,
    ) -> Result<Arc<T>> {
        let Some(file) = fd::identity(fd)? else { return Ok(Arc::clone(object)) };
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, parts| {
            parts.retain(|imported| imported.object.strong_count() > 0);
            !parts.is_empty()
        });
        let parts = table.entry(file).or_default();
        if let Some(other) = find_in(parts, &part)? {
            return Ok(other);
        }
        parts.push(Imported { object: Arc::downgrade(object), part });
        Ok(Arc::clone(object))
    }
}

fn find_in<T>(parts: &[Imported<T>], part: &ImportedPart) -> Result<Option<Arc<T>>> {
    for imported in parts.iter().filter(|imported| imported.part.overlaps(part)) {
        let Some(object) = imported.object.upgrade() else { continue };
        if imported.part.is_same(part) {
            return Ok(Some(object));
        }
        let ForeignClaim { handle, offset, size, .. } = imported.part.claim;
        let reason = ForeignFdReason::Overlaps { handle, offset, size };
        return Err(Error::ForeignFd { handle: part.claim.handle, reason });
    }
    Ok(None)
}

impl<T> Default for ImportTable<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
