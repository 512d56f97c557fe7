//! Clean copies: kept, dropped, and marked dirty where bytes are written.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::buffer::object::BufferInner;
use crate::buffer::state::{CleanCopy, DirtyRanges, State};
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainId, DomainKind};
use crate::sync::{Fence, Fences, Retired};

impl BufferInner {
    /// Bytes of the buffer are written from here on. The reservation is held, and has been since before the
    /// writing began.
    pub(in crate::buffer) fn note_write(&self, state: &mut State, range: Range<u64>) {
        if let Some(clean) = state.clean_mut() {
            clean.wrote(range, self.size);
        }
    }

    /// Those of `written` are, or were, by somebody who keeps the buffer in place.
    pub(in crate::buffer) fn note_writes(&self, state: &mut State, written: &DirtyRanges) {
        written.ranges().iter().for_each(|range| self.note_write(state, range.clone()));
    }

    /// A submission on `device` that writes those of `written` was made, or has failed. Not before: one that
    /// fails has written nothing, unless the device was lost with it (what `vkQueueSubmit` says of failures);
    /// and what was in the device's own memory went with it then, so that its clean copy is what there was.
    pub(in crate::buffer) fn note_submitted(
        &self,
        state: &mut State,
        written: &DirtyRanges,
        device: DeviceId,
        submitted: &Result<Fence>,
    ) {
        let (here, own) = (state.location.domain(), DomainId::Vram(device));
        let may_be = |error: &Error| error.is_device_lost() && here != own;
        if submitted.as_ref().err().is_none_or(may_be) {
            self.note_writes(state, written);
        }
    }

    /// Any bytes of it may be.
    pub(in crate::buffer) fn note_write_anywhere(&self, state: &mut State) {
        self.note_write(state, 0..self.size);
    }

    /// Whether the place that the buffer leaves for one in `new` is worth keeping: it would go back there.
    pub(in crate::buffer) fn keeps_clean_copy(&self, state: &State, new: DomainId) -> bool {
        self.core().throttle.rules().clean_copies
            && state.location.domain() == DomainId::System
            && state.location.has_content()
            // A stranger may write it at any time.
            && !state.location.backing().is_some_and(|backing| backing.allocation().is_external())
            // What may be lost is never copied out again.
            && !state.entry.is_purgeable()
            && new.kind() == DomainKind::Vram
            && state.entry.preferred().kind() == DomainKind::Vram
    }

    /// Gives the clean copy up. The reservation is held.
    pub(in crate::buffer) fn drop_clean_copy(&self, state: &mut State) {
        if let Some(clean) = state.set_clean(None) {
            self.set.clean_copies.fetch_sub(1, Ordering::Relaxed);
            if let Some((fences, backing)) = clean.into_backing() {
                self.core().retire.push(fences, Retired::Backing(backing));
            }
        }
    }

    /// The place that the buffer has left, if there is nobody else who needs it, is its clean copy from now
    /// on; `writers` have yet to write it. The reservation is held.
    pub(in crate::buffer) fn keep_clean_copy(
        &self,
        state: &mut State,
        generation: u32,
        left: Option<(Fences, Backing)>,
        writers: Vec<Fence>,
    ) {
        self.set.clean_copies.fetch_add(1, Ordering::Relaxed);
        state.set_clean(Some(CleanCopy::new(generation, left, writers)));
    }
}
