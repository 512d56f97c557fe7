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
use crate::sync::primitive::atomic::{AtomicUsize, Ordering};

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

/// Objects whose last export has ended, and which may still be in the memory that was exported.
///
/// Nearly always empty, so that a use of an object costs one load.
#[derive(Debug)]
pub(crate) struct EndedExports<T> {
    /// The length of the list and the ends that are deferred. Release/acquire: a use that follows the end of an export
    /// sees it.
    count: AtomicUsize,
    ended: Mutex<Ended<T>>,
}

#[derive(Debug)]
struct Ended<T> {
    /// Ends that are begun and not carried out: their reservations may be taken.
    deferred: usize,
    objects: Vec<Weak<T>>,
}

impl<T> EndedExports<T> {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Says that an export ends. [`EndedExports::end`] follows, under the object's reservation; until then each use
    /// takes the reservation.
    pub(crate) fn begin_end(&self) {
        self.change(|ended| ended.deferred += 1);
    }

    /// Ends an export. If that was the last one and the object must leave its memory, adds the object. The object's
    /// reservation must be held.
    pub(crate) fn end(&self, object: &Arc<T>, must_leave: bool) {
        self.change(|ended| {
            ended.deferred -= 1;
            if must_leave {
                ended.remove(object);
                ended.objects.push(Arc::downgrade(object));
            }
        });
    }

    /// Removes an object that has other memory now, or is exported again. The object's reservation must be held.
    pub(crate) fn remove(&self, object: &Arc<T>) {
        self.change(|ended| ended.remove(object));
    }

    fn change(&self, change: impl FnOnce(&mut Ended<T>)) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut ended);
        self.count.store(ended.deferred + ended.objects.len(), Ordering::Release);
    }
}

impl<T> Ended<T> {
    /// Removes an object, and those that are gone.
    fn remove(&mut self, object: &Arc<T>) {
        self.objects.retain(|other| {
            other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(object))
        });
    }
}

impl<T> Default for EndedExports<T> {
    fn default() -> Self {
        let ended = Ended { deferred: 0, objects: Vec::new() };
        Self { count: AtomicUsize::new(0), ended: Mutex::new(ended) }
    }
}

impl<T> Default for ExportTable<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
