//! Who copies a moving buffer, and how: a device that sees both places, or the host.

use std::sync::Arc;

use super::publish::{copied, publish};
use super::shared::BufferInner;
use super::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{
    Allocation, Backing, Content, View, copy_by_host, is_small_for_host, zero_by_host,
};
use crate::sync::{Fence, Usage, waits_on};
use crate::transfer::{self, Span};

/// A device that sees the old place and the new one, and copies.
pub(super) struct Mover {
    pub(super) device: Arc<DeviceInner>,
    old: Arc<Allocation>,
    from: Arc<View>,
    to: Arc<View>,
}

impl Mover {
    /// The new home, else the old one. Without the reservation, because it may prove a route.
    pub(super) fn find(
        buffer: &BufferInner,
        home: &Arc<DeviceInner>,
        new: &Backing,
    ) -> Result<Option<Self>> {
        let old = Arc::clone(buffer.lock().backing.allocation());
        for device in [Arc::clone(home), buffer.home()] {
            let Some(from) = see(buffer, home, &old, &device)? else { continue };
            if let Some(to) = see(buffer, home, new.allocation(), &device)? {
                return Ok(Some(Self { device, old, from, to }));
            }
        }
        Ok(None)
    }

    pub(super) fn still_fits(&self, state: &State) -> bool {
        Arc::ptr_eq(&self.old, state.backing.allocation())
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
        let [from, to] = self.spans(buffer, state, &new);
        let waits = waits_on(&buffer.core.bridges, &self.device, &pending);
        match waits.and_then(|waits| transfer::copy(&self.device, waits, from, to)) {
            Ok(fence) => {
                let writers = state.fences.pending(Usage::Write);
                copied(buffer, state, home, new, fence.relying_on(&writers));
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
        if state.backing.content() == Content::Own {
            let copied = self.is_for_host(buffer, state, &new)
                && self.copy_by_host(buffer, state, &new).unwrap_or(false);
            if !copied {
                return Some(new);
            }
            new.own();
        }
        publish(buffer, state, home, new, Fence::signalled());
        None
    }

    /// What a device copies, and to where.
    pub(super) fn spans(
        &self,
        buffer: &BufferInner,
        state: &State,
        new: &Backing,
    ) -> [Span<'_>; 2] {
        let span =
            |view, backing: &Backing| Span { view, offset: backing.offset(), len: buffer.size };
        [span(&self.from, &state.backing), span(&self.to, new)]
    }

    /// Whether the host has copied sooner than a submission is over: few bytes, at full speed, and nothing
    /// is under way.
    fn is_for_host(&self, buffer: &BufferInner, state: &mut State, new: &Backing) -> bool {
        is_small_for_host(&self.old, new.allocation(), buffer.size) && state.fences.is_idle()
    }

    /// Moves the bytes by the host, and clears what an old owner may have left behind them. Nothing is
    /// under way in either place. `Ok(false)` if the host does not see both.
    #[expect(unsafe_code, reason = "copying between mapped memory that nobody else uses")]
    pub(super) fn copy_by_host(
        &self,
        buffer: &BufferInner,
        state: &State,
        new: &Backing,
    ) -> Result<bool> {
        let from = (&*self.old, state.backing.offset());
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
        transfer::zero(&self.device, span)
    }
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
