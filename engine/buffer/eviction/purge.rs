//! Purging: a buffer that may lose its content does, when its place is needed.
//!
//! Kernel counterparts: `ttm_bo_pipeline_gutting` (what an empty placement means),
//! `DRM_IOCTL_I915_GEM_MADVISE` and `DRM_MSM_GEM_MADVISE` (saying it, and taking it back), `madvise` with
//! `MADV_FREE`. OpenGL: `GL_APPLE_object_purgeable`.

use std::sync::Arc;
use std::time::Instant;

use crate::buffer::migration::invalidate_importers;
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::{ImportMatrix, home_after_move, home_at};
use crate::buffer::state::{InvalidationCause, Location, State};
use crate::buffer::tracking::unlist;
use crate::core::BackingRequest;
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainId, DomainKind, Placement, Provider};
use crate::observe::trace::MoveId;
use crate::observe::{Reason, StallCause, What};
use crate::residency::{EvictionLimits, Found, Kept, Trigger};
use crate::sync::{Fences, Guard, Usage};

impl SharedBuffer {
    /// Says whether the content may be lost when its place is needed, as
    /// [`crate::BufferDescriptor::discardable`] says from the beginning; `false` takes it back. Returns
    /// whether the content is still there: if it is not when it is taken back, the buffer stays purged, and
    /// is to be renewed ([`SharedBuffer::renew`]).
    ///
    /// Such a buffer is asked to leave before all others, in system memory, too. Its bytes are then dropped
    /// instead of copied; its importers are told ([`crate::InvalidationCause::Purge`]), and every use of it
    /// is [`Error::Purged`]. What devices still do with the old place is looked after: that is given to
    /// nobody else before. As long as it is pinned, mapped statically, under host access, handed out or
    /// revoked it stays as any other buffer does.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for a stranger's memory.
    ///
    /// Locks: the reservation.
    #[doc(alias = "madvise")]
    #[doc(alias = "MADV_FREE")]
    pub fn set_purgeable(&self, purgeable: bool) -> Result<bool> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        let mut state = buffer.lock();
        if matches!(state.location.provider(), Provider::Foreign(_)) {
            return Err(Error::Unsupported {
                device: buffer.home().name().to_owned(),
                missing: "the right to drop a stranger's bytes".into(),
            });
        }
        buffer.mark_purgeable(&mut state, purgeable);
        Ok(state.location.backing().is_some())
    }

    /// Whether its content may be lost.
    ///
    /// Locks: the reservation.
    pub fn is_purgeable(&self) -> bool {
        self.0.lock().entry.is_purgeable()
    }

    /// Whether its content is gone, and it has no place until it is renewed. A look: it may be gone a moment
    /// later.
    pub fn is_purged(&self) -> bool {
        self.0.status.is_purged()
    }

    /// Gives a purged buffer a new place, with zeros in it, where it wants to be or else where it may be;
    /// others are evicted for it if need be. From then on it can be used again: attachments are what they
    /// were, and whoever wants to use it maps it again. Whether it may be purged again is what it was. Of a
    /// buffer that is not purged: nothing.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] with what stood in the way, [`Error::FdLimit`]; [`Error::Unreachable`] if there
    /// is no place that all who are attached can reach; [`Error::Revoked`]; or what a call said. The buffer
    /// is still purged then.
    ///
    /// Locks: the reservation, but not while waiting; waits, in bounds, until others are out.
    pub fn renew(&self) -> Result<()> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        // Each turn ends with a place or an error, unless somebody sat down or left meanwhile.
        const TURNS: u32 = 100;
        for _ in 0..TURNS {
            if !self.is_purged() {
                return Ok(());
            }
            buffer.check_not_revoked()?;
            let wanted = buffer.lock().entry.preferred();
            let home = home_at(buffer, wanted)?;
            let placement = placement(buffer, wanted);
            let seats = ImportMatrix::gather(buffer, &home, placement.kinds(), None)?;
            let (size, group) = (buffer.size, buffer.group());
            let wish = BackingRequest { home: &home, placement, size, dedicated: false, group };
            let limits = buffer.core().eviction_limits(buffer.trigger());
            let accept = |provider| seats.all_take(provider);
            let found = buffer.set.allocate_best(&wish, &limits, accept)?.ok_or_else(|| {
                let mut kinds = placement.kinds().iter();
                let stranded = kinds.find_map(|&kind| seats.stranded(kind));
                let stranded = stranded.map(|device| buffer.core().find(device));
                buffer.unreachable(stranded.and_then(Result::ok).as_ref().unwrap_or(&home), &seats)
            })?;
            let Found { taken, instead_of } = found;
            let mut state = buffer.lock();
            let unplug_report = taken.domain() != DomainId::System
                && buffer.core().member(home.id()).is_unplugged();
            let fits =
                buffer.status.is_purged() && seats.still_fit(buffer, &state) && !unplug_report;
            if !fits || buffer.status.is_revoked() {
                // Not under the reservation: it may take a pool's lock.
                drop(state);
                drop(taken);
                continue;
            }
            settle(buffer, &mut state, taken);
            buffer.next_generation(home_after_move(buffer, &state, &home));
            // Last: who sees that it is not purged sees the rest.
            buffer.status.set_purged(false);
            let here = state.location.domain();
            if !buffer.is_displaced() {
                buffer.record(&mut state, What::Placed, [here, here], Reason::Asked);
            }
            drop(state);
            buffer.record_placement(instead_of.as_ref());
            tracing::debug!(buffer = buffer.name(), %here, "renewed");
            return Ok(());
        }
        Err(buffer.busy(&buffer.lock()))
    }
}

/// Where a buffer that wants to be in `wanted` may be: a move that was asked for overrides what was said
/// when it was made.
fn placement(buffer: &BufferInner, wanted: DomainId) -> Placement {
    let kinds = buffer.placement().kinds();
    match wanted.kind() {
        DomainKind::Vram if kinds.contains(&DomainKind::Vram) => buffer.placement(),
        DomainKind::Vram => Placement::Vram,
        DomainKind::System => Placement::System,
    }
}

/// The buffer is there from now on. The reservation is held, and the buffer is nowhere.
fn settle(buffer: &BufferInner, state: &mut State, new: Backing) {
    // INVARIANT: it was allocated for the buffer's size.
    state.location = Location::Resident(new);
    buffer.enlist(state);
    let away = state.location.domain() != state.entry.preferred();
    buffer.backoff.set(u8::from(away));
}

impl BufferInner {
    /// Drops the content of a buffer that may lose it, wherever it is: somebody asks for that. Waits, in
    /// bounds, for a move that is under way. `Ok(false)` if it is to keep its content.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Revoked`], [`Error::Purged`], [`Error::Timeout`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub(in crate::buffer) fn purge_if_it_may(&self) -> Result<bool> {
        let end = Instant::now() + self.core().timeout;
        loop {
            let mut state = self.lock();
            self.check_there()?;
            if !state.entry.is_purgeable() {
                return Ok(false);
            }
            let Some(gate) = state.moving().cloned() else {
                self.check_not_held(&state)?;
                self.purge(&mut state, Trigger::Asked);
                return Ok(true);
            };
            drop(state);
            let left = end.saturating_duration_since(Instant::now());
            self.core().counters.stalls.during(StallCause::Move, || gate.wait_until_over(left))?;
        }
    }

    /// Drops the content of a victim of an eviction that may lose it. The reservation is held. `None` if a
    /// move of it is under way, and `terms` are to wait for that.
    pub(in crate::buffer) fn purge_victim(
        self: &Arc<Self>,
        state: &mut Guard<'_, State>,
        limits: &EvictionLimits,
    ) -> Option<Result<(), Kept>> {
        // Room for a buffer is not made by losing that buffer.
        let for_itself =
            matches!(limits.trigger, Trigger::Room { by: Some(by), .. } if by == self.id());
        if for_itself || limits.skip_busy && !state.fences.is_idle() {
            return Some(Err(Kept::Busy));
        }
        if state.moving().is_some() {
            return if limits.may_block { None } else { Some(Err(Kept::Busy)) };
        }
        if self.status.is_revoked() {
            return Some(Err(Kept::Failed));
        }
        if self.check_not_held(state).is_err() {
            // It was not a moment ago; somebody was faster.
            return Some(Err(Kept::Pinned));
        }
        self.purge(state, limits.trigger);
        Some(Ok(()))
    }

    /// Drops the content. The reservation is held, nobody holds the buffer, and no move is under way but for
    /// a copy. Waits for nobody: what is at work on the old place keeps that from everybody else.
    ///
    /// # Panics
    ///
    /// If an importer does; the buffer then keeps its content.
    fn purge(&self, state: &mut State, trigger: Trigger) {
        invalidate_importers(self, state, InvalidationCause::Purge, MoveId::NONE);
        // From here on nothing can fail.
        let from = state.location.domain();
        self.record_purge(state, trigger);
        self.drop_clean_copy(state);
        unlist(self.core(), &mut state.entry);
        self.backoff.set(0);
        // What still runs concerns the old place only: whoever revokes the buffer waits for it, but whether
        // it fails is no matter any more.
        let mut last = Fences::default();
        let running = state.fences.pending(Usage::Bookkeep);
        state.fences = Fences::default();
        for fence in running {
            state.fences.add(Usage::Bookkeep, fence.clone());
            last.add(Usage::Bookkeep, fence);
        }
        let nowhere = Location::Purged(state.location.provider(), state.location.group());
        let left = state.leave_for(nowhere, self.generation(), last, true);
        // Before the generation, so that old mappings are found to be of a purged buffer, and not just old.
        self.status.set_purged(true);
        self.status.set_poisoned(false);
        self.next_generation(self.home_id());
        self.retire(left);
        tracing::debug!(buffer = self.name(), %from, "purged");
        self.core().trace_counters(from);
    }
}
