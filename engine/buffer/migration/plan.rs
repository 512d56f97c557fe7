//! A planned move: a destination with room, and the attachments that can reach it. Nothing is locked yet.

use std::sync::Arc;

use super::destination::{Destination, Lender};
use super::shared::Shared;
use crate::buffer::object::BufferInner;
use crate::buffer::placement::{Extent, ImportMatrix};
use crate::buffer::state::{CleanCopy, State};
use crate::core::BackingRequest;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::{DeviceSet, DomainKind, Placement, Provider};
use crate::residency::EvictionLimits;

/// A move that is planned and not begun: nothing is locked.
pub(in crate::buffer) struct Plan<'a> {
    pub(super) buffer: &'a Arc<BufferInner>,
    pub(super) home: Arc<DeviceInner>,
    pub(in crate::buffer) matrix: Shared<ImportMatrix>,
    /// The buffer's generation when it was planned.
    pub(super) generation: u32,
    pub(in crate::buffer) new: Destination<'a>,
    /// Whether the destination is the buffer's clean copy.
    pub(in crate::buffer) clean: bool,
}

impl<'a> Plan<'a> {
    /// Plans a move to a domain of that kind, with room there, evicting other buffers as far as `limits`
    /// allow. Returns `Ok(None)` if the buffer was moved meanwhile.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Unsupported`] for external memory; [`crate::Error::Busy`]; [`crate::Error::Unreachable`]; those of an
    /// allocation.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn new(
        buffer: &'a Arc<BufferInner>,
        home: &Arc<DeviceInner>,
        kind: DomainKind,
        limits: &EvictionLimits,
    ) -> Result<Option<Self>> {
        buffer.check_can_move(home)?;
        let placement = placement_in(kind);
        // A move that waits for nothing takes what is known, if there is something.
        let extent = if limits.wait.is_some() { Extent::All } else { Extent::Enough };
        let matrix = ImportMatrix::gather(buffer, home, (placement.kinds(), extent), None)?;
        if kind == DomainKind::System && !matrix.home_was(home) {
            return Ok(None);
        }
        // The backing that an earlier move has left may be free by now, and all devices already have a view
        // of it.
        buffer.core().retire.collect();
        buffer.core().give_back_due_views();
        if kind == DomainKind::System
            && let Some(new) = clean_copy(buffer, &matrix)?
        {
            return Ok(Some(Self::with(buffer, home, matrix, new, true)));
        }
        Self::to_allocated(buffer, home, matrix, placement, None, limits).map(Some)
    }

    /// Plans a move to a slab of a provider that these devices share. No other provider is looked at, and no route to one
    /// is proved. Returns `Ok(None)` if the buffer was moved meanwhile.
    ///
    /// # Errors
    ///
    /// As [`Plan::new`].
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn within(
        buffer: &'a Arc<BufferInner>,
        home: &Arc<DeviceInner>,
        slabs: (Provider, DeviceSet),
        limits: &EvictionLimits,
    ) -> Result<Option<Self>> {
        buffer.check_can_move(home)?;
        let placement = placement_in(slabs.0.domain().kind());
        let matrix = ImportMatrix::gather(buffer, home, (&[], Extent::All), None)?;
        if !matrix.home_was(home) {
            return Ok(None);
        }
        buffer.core().retire.collect();
        Self::to_allocated(buffer, home, matrix, placement, Some(slabs), limits).map(Some)
    }

    /// Plans a move to new memory, in such slabs if some are named.
    fn to_allocated(
        buffer: &'a Arc<BufferInner>,
        home: &Arc<DeviceInner>,
        matrix: ImportMatrix,
        placement: Placement,
        only: Option<(Provider, DeviceSet)>,
        limits: &EvictionLimits,
    ) -> Result<Self> {
        let accept = |provider| {
            only.is_none_or(|(only, _)| only == provider) && matrix.all_can_import(provider)
        };
        let request = BackingRequest {
            home,
            placement,
            size: buffer.size,
            dedicated: buffer.usage.is_dedicated(),
            // The old or the new home device has to see both places.
            private: buffer.is_private() && matrix.home_was(home),
            sparing: only.is_some(),
            sharers: only.map_or_else(|| matrix.sharers(), |(_, sharers)| sharers),
            priority: buffer.flags.priority(),
            group: buffer.group(),
        };
        let new = buffer.set.allocate(&request, limits, accept)?;
        let new = new.ok_or_else(|| {
            let kinds = placement.kinds().iter();
            let without = kinds.filter_map(|kind| matrix.device_without(*kind)).next();
            let device = without.and_then(|id| buffer.core().find(id).ok());
            buffer.unreachable(device.as_ref().unwrap_or(home), &matrix)
        })?;
        Ok(Self::with(buffer, home, matrix, new.into(), false))
    }

    fn with(
        buffer: &'a Arc<BufferInner>,
        home: &Arc<DeviceInner>,
        matrix: ImportMatrix,
        new: Destination<'a>,
        clean: bool,
    ) -> Self {
        let (generation, matrix) = (matrix.generation(), Shared::Own(matrix));
        Self { buffer, home: Arc::clone(home), matrix, generation, new, clean }
    }

    /// Whether the plan still holds: the buffer has not moved, and no device has attached that the plan does not know. The
    /// reservation must be held.
    pub(super) fn is_current(&self, state: &State) -> bool {
        self.matrix.is_current_for(self.buffer, state, self.generation)
    }
}

fn placement_in(kind: DomainKind) -> Placement {
    match kind {
        DomainKind::Vram => Placement::Vram,
        DomainKind::System => Placement::System,
    }
}

/// Takes the buffer's clean copy as the destination, if all attached devices can reach it.
///
/// # Errors
///
/// [`crate::Error::Busy`] if the buffer has a clean copy and is held, so that a move would fail. The clean copy
/// stays where it is.
fn clean_copy<'a>(
    buffer: &'a BufferInner,
    matrix: &ImportMatrix,
) -> Result<Option<Destination<'a>>> {
    let mut state = buffer.lock();
    if state.clean().is_none() {
        return Ok(None);
    }
    // The checks of the move itself.
    buffer.check_usable(&mut state)?;
    if state.host() > 0 || state.static_mappings() > 0 || state.pinned() > 0 {
        return Err(buffer.busy(&state));
    }
    let Some((generation, backing)) = state.clean_mut().and_then(CleanCopy::lend) else {
        return Ok(None);
    };
    drop(state);
    let reachable = matrix.all_can_import(backing.allocation().provider());
    if reachable && backing.suits(matrix.sharers()) {
        return Ok(Some(Destination::lent(backing, Lender { buffer, generation })));
    }
    // Dropped: the copy is idle, and of no use where a device cannot reach it, or would import a slab of others.
    Ok(None)
}
