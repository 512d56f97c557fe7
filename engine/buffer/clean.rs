//! Clean copies: a buffer that came back from system memory keeps the bytes that it left there, as long as
//! there is room, so that evicting it again moves only what was written since.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;

use super::dirty::Dirty;
use super::shared::BufferInner;
use super::state::State;
use crate::core::Core;
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainId, DomainKind, GroupId};
use crate::sync::{Fence, Fences, Retired};

/// The place in system memory that a buffer came from, and what it holds.
#[derive(Debug)]
pub(super) struct Clean {
    /// The generation whose place it was. A mapping of that keeps the place until it is dropped.
    generation: u32,
    /// The bytes, and what still reads them. `None` while such a mapping lives, and when somebody who moves
    /// the buffer there has taken it.
    place: Option<(Fences, Backing)>,
    dirty: Dirty,
    /// What was still to write the place when the buffer left it.
    writers: Vec<Fence>,
}

impl Clean {
    pub(super) fn new(
        generation: u32,
        place: Option<(Fences, Backing)>,
        writers: Vec<Fence>,
    ) -> Self {
        Self { generation, place, dirty: Dirty::default(), writers }
    }

    /// Takes the place in that the last mapping of a generation has left, or that was lent and is not needed;
    /// gives it back if it is another one.
    pub(super) fn take_in(
        &mut self,
        generation: u32,
        left: (Fences, Backing),
    ) -> Option<(Fences, Backing)> {
        if generation != self.generation || self.place.is_some() {
            return Some(left);
        }
        self.place = Some(left);
        None
    }

    /// The place, for somebody who moves the buffer there, unless it is still being read. What is written
    /// meanwhile is noted here. With the generation that [`Clean::take_in`] takes it back by.
    pub(super) fn lend(&mut self) -> Option<(u32, Backing)> {
        let place = self.place.take_if(|(fences, _)| fences.is_idle());
        place.map(|(_, backing)| (self.generation, backing))
    }

    /// Whether its room is there as soon as it is given up: nobody reads it.
    fn is_idle(&mut self) -> bool {
        self.place.as_mut().is_some_and(|(fences, _)| fences.is_idle())
    }

    /// Whether the place, for whoever takes it now, holds what the buffer is to hold, whatever becomes of the
    /// buffer's own: nothing was written since, and all that wrote it has ended well.
    pub(super) fn is_sound(&self) -> bool {
        let ended_well = |fence: &Fence| matches!(fence.is_signalled(), Ok(true));
        self.place.is_some() && self.dirty.is_clean() && self.writers.iter().all(ended_well)
    }

    pub(super) fn into_place(self) -> Option<(Fences, Backing)> {
        self.place
    }

    pub(super) fn wrote(&mut self, range: Range<u64>, size: u64) {
        self.dirty.mark(range, size);
    }

    /// Where it is, and how many bytes it has in use, if it is not a ghost.
    pub(super) fn footprint(&self) -> Option<(DomainId, u64)> {
        self.place.as_ref().map(|(_, backing)| (backing.domain(), backing.footprint()))
    }

    pub(super) fn dirty(&self) -> &Dirty {
        &self.dirty
    }
}

impl BufferInner {
    /// Bytes of the buffer are written from here on. The reservation is held, and has been since before the
    /// writing began.
    pub(super) fn note_write(&self, state: &mut State, range: Range<u64>) {
        if let Some(clean) = state.clean_mut() {
            clean.wrote(range, self.size);
        }
    }

    /// Those of `written` are, or were, by somebody who keeps the buffer in place.
    pub(super) fn note_writes(&self, state: &mut State, written: &Dirty) {
        written.ranges().iter().for_each(|range| self.note_write(state, range.clone()));
    }

    /// A submission on `device` that writes those of `written` was made, or has failed. Not before: one that
    /// fails has written nothing, unless the device was lost with it (what `vkQueueSubmit` says of failures);
    /// and what was in the device's own memory went with it then, so that its clean copy is what there was.
    pub(super) fn note_submitted(
        &self,
        state: &mut State,
        written: &Dirty,
        device: DeviceId,
        submitted: &Result<Fence>,
    ) {
        let (here, own) = (state.place.domain(), DomainId::Vram(device));
        let may_be = |error: &Error| error.is_device_lost() && here != own;
        if submitted.as_ref().err().is_none_or(may_be) {
            self.note_writes(state, written);
        }
    }

    /// Any bytes of it may be.
    pub(super) fn note_write_anywhere(&self, state: &mut State) {
        self.note_write(state, 0..self.size);
    }

    /// Whether the place that the buffer leaves for one in `new` is worth keeping: it would go back there.
    pub(super) fn keeps_clean_copy(&self, state: &State, new: DomainId) -> bool {
        self.core.throttle.rules().clean_copies
            && state.place.domain() == DomainId::System
            && state.place.has_content()
            // A stranger may write it at any time.
            && !state.place.backing().is_some_and(|backing| backing.allocation().has_escaped())
            // What may be lost is never copied out again.
            && !state.berth.is_purgeable()
            && new.kind() == DomainKind::Vram
            && state.berth.wanted().kind() == DomainKind::Vram
    }

    /// Gives the clean copy up. The reservation is held.
    pub(super) fn drop_clean_copy(&self, state: &mut State) {
        if let Some(clean) = state.set_clean(None) {
            self.core.clean_copies.fetch_sub(1, Ordering::Relaxed);
            if let Some((fences, backing)) = clean.into_place() {
                self.core.retire.push(fences, Retired::Backing(backing));
            }
        }
    }

    /// The place that the buffer has left, if there is nobody else who needs it, is its clean copy from now
    /// on; `writers` have yet to write it. The reservation is held.
    pub(super) fn keep_clean_copy(
        &self,
        state: &mut State,
        generation: u32,
        left: Option<(Fences, Backing)>,
        writers: Vec<Fence>,
    ) {
        self.core.clean_copies.fetch_add(1, Ordering::Relaxed);
        state.set_clean(Some(Clean::new(generation, left, writers)));
    }
}

/// Gives clean copies up whose buffers are not in use at this moment, of a group's own or, without one,
/// anybody's, until there is `enough`: their room is needed.
///
/// From where it ended the last time, so that many who need a little each do not look at all buffers each
/// time.
pub(crate) fn drop_clean_copies(core: &Core, of: GroupId, enough: &dyn Fn() -> bool) {
    // At first those that nobody reads any more: their room is there at once.
    for read in [false, true] {
        if core.clean_copies.load(Ordering::Relaxed) == 0 || enough() {
            return;
        }
        let from = core.clean_at.load(Ordering::Relaxed);
        let at = core.buffers.until(from, |buffer| {
            let Some(mut state) = buffer.reservation.try_lock(&core.queues) else {
                return ControlFlow::Continue(());
            };
            let is_its = of == GroupId::NONE || of == state.place.group();
            if !is_its || !state.clean_mut().is_some_and(|clean| read || clean.is_idle()) {
                return ControlFlow::Continue(());
            }
            buffer.drop_clean_copy(&mut state);
            drop(state);
            if enough() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        core.clean_at.store(at, Ordering::Relaxed);
    }
}
