//! Purging: a purgeable buffer loses its content when its memory is needed.
//!
//! Kernel counterparts: `ttm_bo_pipeline_gutting` (what an empty placement means),
//! `DRM_IOCTL_I915_GEM_MADVISE` and `DRM_MSM_GEM_MADVISE` (marking a buffer purgeable, and undoing it),
//! `madvise` with `MADV_FREE`. OpenGL: `GL_APPLE_object_purgeable`.

use std::sync::Arc;
use std::time::Instant;

use crate::buffer::migration::invalidate_importers;
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::{Extent, ImportMatrix, home_after_move, home_at};
use crate::buffer::state::{InvalidationCause, Location, State};
use crate::buffer::tracking::unlist;
use crate::core::BackingRequest;
use crate::error::{Error, Result};
use crate::memory::{Backing, DomainId, DomainKind, Placement, Provider};
use crate::observe::trace::MoveId;
use crate::observe::{Reason, StallCause, What};
use crate::residency::{EvictionLimits, Found, SkipReason, Trigger};
use crate::sync::{Fences, Guard, Usage};

impl SharedBuffer {
    /// Sets whether the content may be discarded when its memory is needed.
    /// [`crate::BufferDescriptor::discardable`] sets it at creation.
    ///
    /// Returns whether the content is still there. If it is not when `purgeable` is `false`, the buffer stays
    /// purged until it is repopulated ([`SharedBuffer::repopulate`]).
    ///
    /// A purgeable buffer is evicted before all others, from system memory, too. Its bytes are then discarded
    /// instead of copied. Its importers are notified ([`crate::InvalidationCause::Purge`]), and every use of
    /// it fails with [`Error::Purged`]. The old memory is not reused until the work of devices on it has
    /// ended. While the buffer is pinned, mapped statically, under host access, exported or revoked, it is
    /// not purged.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for external memory.
    ///
    /// Locks: the reservation.
    #[doc(alias = "madvise")]
    #[doc(alias = "MADV_FREE")]
    pub fn set_purgeable(&self, purgeable: bool) -> Result<bool> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        let mut state = buffer.lock();
        if matches!(state.location().provider(), Provider::Foreign(_)) {
            return Err(Error::Unsupported {
                device: buffer.home().name().to_owned(),
                missing: "a way to discard external memory".into(),
            });
        }
        buffer.mark_purgeable(&mut state, purgeable);
        Ok(state.location().backing().is_some())
    }

    /// Whether the content may be discarded.
    ///
    /// Locks: the reservation.
    pub fn is_purgeable(&self) -> bool {
        self.0.lock().entry().is_purgeable()
    }

    /// Whether the content was discarded, and the buffer has no memory until it is repopulated. The answer may be
    /// outdated when this returns.
    pub fn is_purged(&self) -> bool {
        self.0.status.is_purged()
    }

    /// Allocates zeroed memory for a purged buffer, in its preferred domain, or else in another one of its
    /// placement; other buffers are evicted if need be. From then on the buffer can be used again, on new
    /// mappings. Attachments are unchanged, and so is whether the buffer is purgeable. Does nothing if the
    /// buffer is not purged.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`] with what could not be evicted, [`Error::FdLimit`]; [`Error::Unreachable`] if
    /// there is no domain that all attached devices can reach; [`Error::Revoked`]; or the error of a call.
    /// The buffer is still purged then.
    ///
    /// Locks: the reservation, but not while waiting; waits, for at most the engine timeout, until evicted
    /// memory is released.
    #[doc(alias = "renew")]
    pub fn repopulate(&self) -> Result<()> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        // Each attempt ends with memory or an error, unless a device attaches or detaches meanwhile.
        const ATTEMPTS: u32 = 100;
        for _ in 0..ATTEMPTS {
            if !self.is_purged() {
                return Ok(());
            }
            buffer.check_not_revoked()?;
            let preferred = buffer.lock().entry().preferred();
            let home = home_at(buffer, preferred)?;
            let placement = allowed_placement(buffer, preferred);
            let matrix =
                ImportMatrix::gather(buffer, &home, (placement.kinds(), Extent::All), None)?;
            let (size, group) = (buffer.size, buffer.group());
            let request = BackingRequest {
                home: &home,
                placement,
                size,
                dedicated: buffer.usage.is_dedicated(),
                private: buffer.is_private(),
                sparing: false,
                sharers: matrix.sharers(),
                priority: buffer.flags.priority(),
                group,
            };
            let limits = buffer.core().eviction_limits(buffer.trigger());
            let accept = |provider| matrix.all_can_import(provider);
            let found = buffer.set.allocate_best(&request, &limits, accept)?.ok_or_else(|| {
                let mut kinds = placement.kinds().iter();
                let device = kinds.find_map(|&kind| matrix.device_without(kind));
                let device = device.map(|id| buffer.core().find(id));
                buffer.unreachable(device.and_then(Result::ok).as_ref().unwrap_or(&home), &matrix)
            })?;
            let Found { taken, instead_of } = found;
            let mut state = buffer.lock();
            let unplugged = taken.domain() != DomainId::System
                && buffer.core().member(home.id()).is_unplugged();
            let fits = buffer.status.is_purged() && matrix.is_current(buffer, &state) && !unplugged;
            if !fits || buffer.status.is_revoked() {
                // Without the reservation: the drop may take a pool's lock.
                drop(state);
                drop(taken);
                continue;
            }
            set_backing(buffer, &mut state, taken);
            buffer.next_generation(&state, home_after_move(buffer, &state, &home));
            // Last: a thread that sees the buffer as not purged sees all the rest, too.
            buffer.status.set_purged(false);
            let here = state.location().domain();
            if !buffer.is_displaced() {
                buffer.record(&mut state, What::Placed, [here, here], Reason::Asked);
            }
            drop(state);
            buffer.record_placement(instead_of.as_ref());
            tracing::debug!(buffer = buffer.name(), %here, "repopulated");
            return Ok(());
        }
        Err(buffer.busy(&buffer.lock()))
    }
}

/// The placement of a buffer whose preferred domain is `preferred`. A requested move overrides the placement
/// of the descriptor.
fn allowed_placement(buffer: &BufferInner, preferred: DomainId) -> Placement {
    let kinds = buffer.placement().kinds();
    match preferred.kind() {
        DomainKind::Vram if kinds.contains(&DomainKind::Vram) => buffer.placement(),
        DomainKind::Vram => Placement::Vram,
        DomainKind::System => Placement::System,
    }
}

/// Makes `new` the backing of a purged buffer. The reservation is held.
fn set_backing(buffer: &BufferInner, state: &mut State, new: Backing) {
    // INVARIANT: `new` was allocated for the buffer's size.
    state.repopulate(new);
    buffer.enlist(state);
    let displaced = state.location().domain() != state.entry().preferred();
    buffer.backoff.set(u8::from(displaced));
}

impl BufferInner {
    /// Purges the buffer, in any domain, if it is purgeable, on request of the application. Waits, for at
    /// most the engine timeout, for a move in progress. `Ok(false)` if the buffer is not purgeable.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Revoked`], [`Error::Purged`], [`Error::Timeout`].
    ///
    /// Locks: the reservation, but not while waiting.
    pub(super) fn purge_if_purgeable(&self) -> Result<bool> {
        let end = Instant::now() + self.core().timeout;
        loop {
            let mut state = self.lock();
            self.check_resident()?;
            if !state.entry().is_purgeable() {
                return Ok(false);
            }
            let Some(fence) = state.moving().cloned() else {
                self.check_not_held(&state)?;
                self.purge(&mut state, Trigger::Asked);
                return Ok(true);
            };
            drop(state);
            let time_left = end.saturating_duration_since(Instant::now());
            self.core()
                .counters
                .stalls
                .during(StallCause::Move, || fence.wait_until_over(time_left))?;
        }
    }

    /// Purges a purgeable victim of an eviction. The reservation is held. `None` if a move of it is in
    /// progress, and `limits` allow to wait for it.
    pub(super) fn purge_victim(
        self: &Arc<Self>,
        state: &mut Guard<'_, State>,
        limits: &EvictionLimits,
    ) -> Option<Result<(), SkipReason>> {
        // The buffer that needs the room is no victim.
        let for_itself =
            matches!(limits.trigger, Trigger::Room { by: Some(by), .. } if by == self.id());
        if for_itself || limits.skip_busy && !state.fences().is_idle() {
            return Some(Err(SkipReason::Busy));
        }
        if state.moving().is_some() {
            return if limits.may_block { None } else { Some(Err(SkipReason::Busy)) };
        }
        if self.status.is_revoked() {
            return Some(Err(SkipReason::Failed));
        }
        if self.check_not_held(state).is_err() {
            // It was pinned after the check.
            return Some(Err(SkipReason::Pinned));
        }
        self.purge(state, limits.trigger);
        Some(Ok(()))
    }

    /// Discards the content. The reservation is held, the buffer is not held, and no move is in progress
    /// except for a copy. Never waits: the old memory is freed once the work on it has ended.
    ///
    /// # Panics
    ///
    /// If an importer panics. The buffer then keeps its content.
    fn purge(&self, state: &mut State, trigger: Trigger) {
        invalidate_importers(self, state, InvalidationCause::Purge, MoveId::NONE);
        // Nothing can fail from here.
        let from = state.location().domain();
        self.record_purge(state, trigger);
        self.drop_clean_copy(state);
        unlist(self.core(), state.entry_mut());
        self.backoff.set(0);
        // Pending work concerns the old memory only. A revocation still waits for it, but its failure no
        // longer poisons the buffer.
        let mut last = Fences::default();
        let running = state.fences().in_use();
        *state.fences() = Fences::default();
        for fence in running {
            state.fences().add(Usage::Bookkeep, fence.clone());
            last.add(Usage::Bookkeep, fence);
        }
        let purged = Location::Purged(state.location().provider(), state.location().group());
        let old_backing = state.replace_backing(purged, self.generation(), last, true);
        // Before the generation changes, so that old mappings report the purge, and not only a stale
        // generation.
        self.status.set_purged(true);
        self.status.set_poisoned(false);
        self.next_generation(state, self.home_id());
        self.retire(old_backing);
        tracing::debug!(buffer = self.name(), %from, "purged");
        self.core().trace_counters(from);
    }
}
