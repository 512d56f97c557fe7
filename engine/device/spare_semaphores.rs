//! Binary semaphores of sync files, used again: some drivers take long to create one (crocdialer/vierkant#70).
//!
//! A semaphore whose signal went out as a sync file is unsignalled once that signal has run: the export took the payload,
//! as a wait does. One that waited for a sync file has its own payload again, which was never signalled: the import was
//! temporary. Semaphores that are shared as an `OPAQUE_FD` have one payload on both sides, and are destroyed.
#![expect(unsafe_code, reason = "semaphores of a live device")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use ash::vk;
use smallvec::SmallVec;

use super::external::SemaphoreHandle;

/// How many of each kind are kept. A submission rarely waits for more devices; each may be a kernel object.
const KEPT: usize = 16;

/// A binary semaphore that one submission signals or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Once {
    pub(super) raw: vk::Semaphore,
    /// What it was created for, if it is as new once that submission has finished.
    again: Option<Kind>,
}

/// What a semaphore was created for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Export as a `SYNC_FD`.
    Exported,
    /// No export.
    Plain,
}

impl Once {
    /// Destroyed once its submission has finished.
    pub(super) fn last(raw: vk::Semaphore) -> Self {
        Self { raw, again: None }
    }

    /// Its signal was exported as a `SYNC_FD`.
    pub(super) fn exported(raw: vk::Semaphore) -> Self {
        Self { raw, again: Some(Kind::Exported) }
    }

    /// A `SYNC_FD` was imported into it, temporarily. It was not created for export.
    pub(super) fn imported(raw: vk::Semaphore) -> Self {
        Self { raw, again: Some(Kind::Plain) }
    }
}

/// A device's semaphores that no submission uses, unsignalled, with their own payload.
#[derive(Debug, Default)]
pub(super) struct SpareSemaphores(Mutex<[SmallVec<[vk::Semaphore; 4]>; 2]>);

impl SpareSemaphores {
    /// One that was created for export as `handle`.
    pub(super) fn take(&self, handle: SemaphoreHandle) -> Option<vk::Semaphore> {
        let kind = match handle {
            SemaphoreHandle::SYNC_FD => Kind::Exported,
            _ if handle.is_empty() => Kind::Plain,
            _ => return None,
        };
        self.lists()[kind as usize].pop()
    }

    /// Keeps one whose submission has finished. Returns it if it is to be destroyed.
    pub(super) fn keep(&self, once: Once) -> Option<vk::Semaphore> {
        let Some(kind) = once.again else { return Some(once.raw) };
        let list = &mut self.lists()[kind as usize];
        if list.len() >= KEPT {
            return Some(once.raw);
        }
        list.push(once.raw);
        None
    }

    /// Destroys all of them.
    ///
    /// # Safety
    ///
    /// `device` is the one whose semaphores were kept.
    pub(super) unsafe fn destroy(&self, device: &ash::Device) {
        for semaphore in self.lists().iter_mut().flat_map(|list| list.drain(..)) {
            // SAFETY: a live one of this device that no submission uses: those that did have finished.
            unsafe { device.destroy_semaphore(semaphore, None) };
        }
    }

    fn lists(&self) -> MutexGuard<'_, [SmallVec<[vk::Semaphore; 4]>; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ash::vk::Handle;

    use super::*;

    fn raw(number: u64) -> vk::Semaphore {
        vk::Semaphore::from_raw(number)
    }

    #[test]
    fn a_semaphore_comes_back_for_what_it_was_created_for() {
        let spare = SpareSemaphores::default();
        assert_eq!(spare.keep(Once::exported(raw(1))), None);
        assert_eq!(spare.keep(Once::imported(raw(2))), None);
        assert_eq!(spare.keep(Once::last(raw(3))), Some(raw(3)), "an opaque fd shares its payload");
        assert_eq!(spare.take(SemaphoreHandle::OPAQUE_FD), None);
        assert_eq!(spare.take(SemaphoreHandle::empty()), Some(raw(2)));
        assert_eq!(spare.take(SemaphoreHandle::empty()), None);
        assert_eq!(spare.take(SemaphoreHandle::SYNC_FD), Some(raw(1)));
        assert_eq!(spare.take(SemaphoreHandle::SYNC_FD), None);
    }

    #[test]
    fn more_than_are_kept_are_destroyed() {
        let spare = SpareSemaphores::default();
        let kept = (1..=100).filter(|&number| spare.keep(Once::exported(raw(number))).is_none());
        assert_eq!(kept.count(), KEPT);
    }
}
