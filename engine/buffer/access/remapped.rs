//! Uses of a mapping that is replaced if the buffer has moved.

use crate::buffer::attach::{Attachment, Mapping};
use crate::buffer::eviction::{restore_all_for_use, restore_together};
use crate::error::{Error, Result};
use crate::transfer::PassReport;

/// How often a use is repeated. Each repetition means that the buffer has moved again.
const TURNS: u32 = 100;

/// Uses of a mapping that is replaced if the buffer has moved since it was mapped.
///
/// An ordinary use of an old mapping fails with [`Error::Stale`], and the caller maps again and retries. These
/// do so themselves. [`crate::Engine::submit_remapped`] is the same for submissions.
impl Attachment {
    /// Calls `work` with `mapping`. While that fails with [`Error::Stale`], `mapping` is replaced
    /// ([`Attachment::remap`]) and `work` is called again.
    ///
    /// # Errors
    ///
    /// Those of [`Attachment::remap`] and of `work`; [`Error::ForeignMapping`] for a mapping of another buffer or
    /// device; [`Error::Stale`] only if the buffer has moved a hundred times.
    ///
    /// Locks: as [`Attachment::remap`] and `work`.
    pub fn remapped<R>(
        &self,
        mapping: &mut Mapping,
        mut work: impl FnMut(&Mapping) -> Result<R>,
    ) -> Result<R> {
        self.check_mapping(mapping)?;
        retry_stale(|again| {
            if again || mapping.check_current().is_err() {
                self.remap(mapping)?;
            }
            work(mapping)
        })
    }

    /// [`Mapping::fill`] on a mapping that is replaced if it is old.
    ///
    /// # Errors
    ///
    /// As [`Attachment::remapped`] and [`Mapping::fill`].
    ///
    /// Locks: as [`Mapping::fill`].
    pub fn fill_remapped(&self, mapping: &mut Mapping, seed: u32) -> Result<()> {
        self.remapped(mapping, |mapping| mapping.fill(seed))
    }

    /// [`Mapping::verify`] on a mapping that is replaced if it is old.
    ///
    /// # Errors
    ///
    /// As [`Attachment::remapped`] and [`Mapping::verify`].
    ///
    /// Locks: as [`Mapping::verify`].
    pub fn verify_remapped(&self, mapping: &mut Mapping, seed: u32) -> Result<PassReport> {
        self.remapped(mapping, |mapping| mapping.verify(seed))
    }

    /// [`Mapping::checksum`] on a mapping that is replaced if it is old.
    ///
    /// # Errors
    ///
    /// As [`Attachment::remapped`] and [`Mapping::checksum`].
    ///
    /// Locks: as [`Mapping::checksum`].
    pub fn checksum_remapped(&self, mapping: &mut Mapping) -> Result<u32> {
        self.remapped(mapping, Mapping::checksum)
    }

    /// [`Mapping::copy_to`] on two mappings that are replaced if they are old: `mapping` by this attachment, the
    /// target by its own.
    ///
    /// # Errors
    ///
    /// As [`Attachment::remapped`] and [`Mapping::copy_to`].
    ///
    /// Locks: as [`Mapping::copy_to`].
    pub fn copy_to_remapped(
        &self,
        mapping: &mut Mapping,
        (target_attachment, target): (&Self, &mut Mapping),
    ) -> Result<()> {
        self.check_mapping(mapping)?;
        target_attachment.check_mapping(target)?;
        let buffers = [self.buffer_inner(), target_attachment.buffer_inner()];
        let set = &buffers[0].set;
        set.handle_lost_devices();
        // Together, so that one is not evicted to restore the other.
        restore_together(set, self.device().id(), &buffers);
        let mut attempt = 0;
        retry_stale(|_| {
            attempt += 1;
            let _restored = restore_all_for_use(set, self.device().id(), &buffers, attempt)?;
            if mapping.check_current().is_err() {
                self.remap_only(mapping)?;
            }
            if target.check_current().is_err() {
                target_attachment.remap_only(target)?;
            }
            mapping.copy_to(target)
        })
    }
}

/// Calls `work` until it ends with something else than [`Error::Stale`]. Its argument says whether this is a
/// repetition.
fn retry_stale<R>(mut work: impl FnMut(bool) -> Result<R>) -> Result<R> {
    for turn in 1..TURNS {
        match work(turn > 1) {
            Err(Error::Stale { .. }) => {}
            other => return other,
        }
    }
    work(true)
}
