//! Keeps and drops clean copies, and marks them dirty where the buffer is written.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::buffer::object::BufferInner;
use crate::buffer::state::{CleanCopy, DirtyRanges, State};
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainId, DomainKind};
use crate::sync::{Fence, Fences, Retired};

impl BufferInner {
    /// Records that `range` is written. The reservation must be held, and must have been since before the
    /// write began.
    pub(in crate::buffer) fn note_write(&self, state: &mut State, range: Range<u64>) {
        if let Some(clean) = state.clean_mut() {
            clean.mark_dirty(range, self.size);
        }
    }

    /// Records that the `written` ranges are written, or were, by a user that keeps the buffer in place.
    pub(in crate::buffer) fn note_writes(&self, state: &mut State, written: &DirtyRanges) {
        written.ranges().iter().for_each(|range| self.note_write(state, range.clone()));
    }

    /// Records the writes of a submission on `device`, made or failed. To be called afterwards.
    ///
    /// A failed submission has written nothing, unless the device was lost with it (`vkQueueSubmit` says so).
    /// Then bytes in the device's own memory are lost as well, and the clean copy is what remains. Bytes
    /// elsewhere may be written.
    pub(in crate::buffer) fn note_submitted(
        &self,
        state: &mut State,
        written: &DirtyRanges,
        device: DeviceId,
        submitted: &Result<Fence>,
    ) {
        let (here, own_domain) = (state.location().domain(), DomainId::Vram(device));
        let may_have_written = |error: &Error| error.is_device_lost() && here != own_domain;
        if submitted.as_ref().err().is_none_or(may_have_written) {
            self.note_writes(state, written);
        }
    }

    /// Records that any byte may be written.
    pub(in crate::buffer) fn note_write_anywhere(&self, state: &mut State) {
        self.note_write(state, 0..self.size);
    }

    /// Whether the backing that the buffer leaves for one in `new` is kept as a clean copy: an eviction would
    /// copy the bytes back there.
    pub(in crate::buffer) fn keeps_clean_copy(&self, state: &State, new: DomainId) -> bool {
        self.core().throttle.options().clean_copies
            && state.location().domain() == DomainId::System
            && state.location().has_content()
            // The other side of external memory may write it at any time.
            && !state.location().backing().is_some_and(|backing| backing.allocation().is_external())
            // The content of a purgeable buffer is never copied out.
            && !state.entry().is_purgeable()
            && self.is_other_memory(new)
            && state.entry().preferred().kind() == DomainKind::Vram
    }

    /// Whether a domain is the memory of a device that has its own: that of an integrated device is system memory, and a
    /// clean copy would double what the buffer uses.
    fn is_other_memory(&self, domain: DomainId) -> bool {
        match domain {
            DomainId::Vram(device) => {
                !self.core().member(device).device.adapter().shares_system_memory()
            }
            DomainId::System => false,
        }
    }

    /// Drops the clean copy. The reservation must be held.
    pub(in crate::buffer) fn drop_clean_copy(&self, state: &mut State) {
        if let Some(clean) = state.set_clean(None) {
            self.set.clean_copies.fetch_sub(1, Ordering::Relaxed);
            if let Some((fences, backing)) = clean.into_backing() {
                self.core().retire.push(fences, Retired::Backing(backing));
            }
        }
    }

    /// Keeps the backing of `generation`, which the buffer has left, as its clean copy. `left` is `None` if
    /// mappings still show the backing. `writers` are not finished with it yet. The reservation must be held.
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
