//! Who copies a moving buffer, and how: a device that sees both places, or the host.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::narrate::Slice;
use super::publish::{Done, copied, publish};
use super::relocate::Errand;
use super::shared::BufferInner;
use super::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::members::Member;
use crate::memory::{
    Allocation, Backing, Content, DomainId, View, copy_by_host, is_small_for_host, zero_by_host,
};
use crate::sync::{Fence, Usage, waits_of_move};
use crate::transfer::{self, Span};

/// A device that sees the old place and the new one, and copies.
pub(super) struct Mover {
    pub(super) device: Arc<DeviceInner>,
    old: Arc<Allocation>,
    /// Where the buffer's bytes begin in that.
    offset: u64,
    from: Arc<View>,
    to: Arc<View>,
    /// Whose own memory the new place is.
    owner: Option<Arc<Member>>,
    pub(super) errand: Errand,
    pub(super) slice: Slice,
}

impl Mover {
    /// The new home, else the old one. Without the reservation, because it may prove a route.
    pub(super) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        new: &Backing,
        errand: Errand,
    ) -> Result<Option<Self>> {
        let (old, offset) = {
            let state = buffer.lock();
            let backing = buffer.backing(&state)?;
            (Arc::clone(backing.allocation()), backing.offset())
        };
        for device in [Arc::clone(home), buffer.home()] {
            let Some(from) = see(buffer, home, &old, &device)? else { continue };
            if let Some(to) = see(buffer, home, new.allocation(), &device)? {
                return Ok(Some(Self {
                    device,
                    old,
                    offset,
                    from,
                    to,
                    owner: owner(buffer, new),
                    errand,
                    slice: Slice::new(&buffer.core),
                }));
            }
        }
        Ok(None)
    }

    /// Whether the bytes are where they were, and the new place is still one to go to.
    pub(super) fn still_fits(&self, state: &State) -> bool {
        let given_up = self.owner.as_ref().is_some_and(|member| member.is_abandoned());
        state.place.is_at(&self.old, self.offset) && !given_up
    }

    /// Moves the bytes, pipelined behind the buffer's fences: the copy is submitted, not waited for.
    pub(super) fn copy(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
    ) -> Result<(), Box<NotCopied>> {
        new = match self.without_device(buffer, state, home, new) {
            Some(new) => new,
            None => return Ok(()),
        };
        let cleared = match self.clear_tail(buffer, &new) {
            Ok(cleared) => cleared,
            Err(error) => {
                let cleared = Fence::signalled();
                return Err(Box::new(NotCopied { error, new, cleared }));
            }
        };
        let pending = state.fences.pending(Usage::Bookkeep);
        let copies = self.spans(buffer, state, &new);
        let waits = waits_of_move(&buffer.core.bridges, &self.device, &pending);
        self.slice.copying();
        match waits.and_then(|waits| transfer::copy_many(&self.device, waits, &copies)) {
            Ok(fence) => {
                let writers = state.fences.pending(Usage::Write);
                let done = self.done(bytes_of(&copies));
                copied(buffer, state, home, new, fence.relying_on(&writers), &done);
                Ok(())
            }
            Err(error) => Err(Box::new(NotCopied { error, new, cleared })),
        }
    }

    /// Moves what needs no device: nothing at all, or a few bytes, by the host. Gives `new` back if a
    /// device is needed.
    pub(super) fn without_device(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        mut new: Backing,
    ) -> Option<Backing> {
        let mut bytes = 0;
        if state.place.has_content() && !self.is_clean(state) {
            let copied = self.is_for_host(buffer, state, &new)
                && self.copy_by_host(buffer, &new).unwrap_or(false);
            if !copied {
                return Some(new);
            }
            new.own();
            bytes = buffer.size;
        }
        publish(buffer, state, home, new, Fence::signalled(), &self.done(bytes));
        None
    }

    /// What a device copies, and to where: everything, or what the clean copy does not have. There is
    /// something.
    pub(super) fn spans(
        &self,
        buffer: &BufferInner,
        state: &State,
        new: &Backing,
    ) -> SmallVec<[[Span<'_>; 2]; 1]> {
        let whole = 0..buffer.size;
        let dirty = state.clean().filter(|_| self.errand.clean).map(|clean| clean.dirty().ranges());
        let ranges = dirty.unwrap_or(std::slice::from_ref(&whole));
        let both = |range: &Range<u64>| {
            let span = |view, offset: u64| Span {
                view,
                offset: offset + range.start,
                len: range.end - range.start,
            };
            [span(&*self.from, self.offset), span(&*self.to, new.offset())]
        };
        ranges.iter().map(both).collect()
    }

    /// What a move that copies so many bytes is.
    pub(super) fn done(&self, copied: u64) -> Done<'_> {
        Done { errand: self.errand, slice: &self.slice, copied }
    }

    /// Whether there is nothing to copy: the new place is the clean copy, and nothing was written since.
    fn is_clean(&self, state: &State) -> bool {
        self.errand.clean && state.clean().is_some_and(|clean| clean.dirty().is_clean())
    }

    /// Whether the host has copied sooner than a submission is over: few bytes, at full speed, and nothing
    /// is under way.
    fn is_for_host(&self, buffer: &BufferInner, state: &mut State, new: &Backing) -> bool {
        is_small_for_host(&self.old, new.allocation(), buffer.size) && state.fences.is_idle()
    }

    /// Moves the bytes by the host, and clears what an old owner may have left behind them. Nothing is
    /// under way in either place. `Ok(false)` if the host does not see both.
    #[expect(unsafe_code, reason = "copying between mapped memory that nobody else uses")]
    pub(super) fn copy_by_host(&self, buffer: &BufferInner, new: &Backing) -> Result<bool> {
        self.slice.copying();
        let from = (&*self.old, self.offset);
        let to = (&**new.allocation(), new.offset());
        let size = buffer.size;
        // SAFETY: both backings have so many bytes, the old one by the buffer's invariant, the new one
        // because it was allocated for them. All fences of the old place have signalled and the
        // reservation is held; nobody knows the new one yet.
        let copied = unsafe { copy_by_host(from, to, size) }?;
        if copied && new.content() == Content::Stale {
            let tail = new.extent(size) - size;
            // SAFETY: as above: the rest of the new backing.
            unsafe { zero_by_host((to.0, to.1 + size), tail) }?;
        }
        Ok(copied)
    }

    /// Zeroes what an old owner may have left beyond the buffer's end, where the copy does not reach. The
    /// queue keeps it ahead of the copy.
    fn clear_tail(&self, buffer: &BufferInner, new: &Backing) -> Result<Fence> {
        // Whole words; the copy overwrites the bytes of the first one that are the buffer's.
        let start = buffer.size & !3;
        let len = new.extent(buffer.size) - start;
        if !has_tail(buffer, new) {
            return Ok(Fence::signalled());
        }
        let span = Span { view: &self.to, offset: new.offset() + start, len };
        transfer::zero_ahead(&self.device, span)
    }
}

/// The device whose own memory a place is.
fn owner(buffer: &BufferInner, place: &Backing) -> Option<Arc<Member>> {
    match place.domain() {
        DomainId::Vram(device) => Some(Arc::clone(buffer.core.member(device))),
        DomainId::System => None,
    }
}

/// How many bytes are copied.
pub(super) fn bytes_of(copies: &[[Span<'_>; 2]]) -> u64 {
    copies.iter().map(|[from, _]| from.len).sum()
}

/// A copy that was not submitted.
pub(super) struct NotCopied {
    pub(super) error: Error,
    pub(super) new: Backing,
    /// What the new place's tail is being cleared by.
    pub(super) cleared: Fence,
}

/// Whether an old owner may have left bytes beyond the buffer's end, which a device is to clear.
pub(super) fn has_tail(buffer: &BufferInner, new: &Backing) -> bool {
    new.content() == Content::Stale && new.extent(buffer.size) != buffer.size
}

/// `device`'s view of an allocation; `None` if it cannot have one.
fn see(
    buffer: &BufferInner,
    home: &Arc<DeviceInner>,
    allocation: &Allocation,
    device: &Arc<DeviceInner>,
) -> Result<Option<Arc<View>>> {
    if let Some(view) = allocation.existing_view(device.id()) {
        return Ok(Some(view));
    }
    let provider = allocation.provider();
    match buffer.core.take(provider, home, device, &mut Vec::new())? {
        Some(take) => allocation.view(device, take).map(Some),
        None => Ok(None),
    }
}
