//! Where a buffer moves to: a destination with room, and the attachments that can reach it. Nothing is locked yet.

use std::sync::Arc;

use super::destination::{Destination, Lender};
use crate::buffer::object::BufferInner;
use crate::buffer::placement::ImportMatrix;
use crate::buffer::state::CleanCopy;
use crate::core::BackingRequest;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::{DomainKind, Placement};
use crate::residency::EvictionLimits;

/// A move that is thought out, and not begun: nothing is locked.
pub(in crate::buffer) struct Plan<'a> {
    pub(in crate::buffer) buffer: &'a Arc<BufferInner>,
    pub(in crate::buffer) home: Arc<DeviceInner>,
    pub(in crate::buffer) seats: ImportMatrix,
    pub(in crate::buffer) new: Destination<'a>,
    /// Whether that is the clean copy of the buffer.
    pub(in crate::buffer) clean: bool,
}

impl<'a> Plan<'a> {
    /// With room in the new place, made on `terms`. `Ok(None)` if somebody moved the buffer meanwhile.
    ///
    /// Locks: none may be held.
    pub(in crate::buffer) fn new(
        buffer: &'a Arc<BufferInner>,
        home: &Arc<DeviceInner>,
        kind: DomainKind,
        limits: &EvictionLimits,
    ) -> Result<Option<Self>> {
        if !buffer.can_move() {
            return Err(Error::Unsupported {
                device: home.name().to_owned(),
                missing: "the right to move a stranger's memory".into(),
            });
        }
        let placement = match kind {
            DomainKind::Vram => Placement::Vram,
            DomainKind::System => Placement::System,
        };
        let seats = ImportMatrix::gather(buffer, home, placement.kinds(), None)?;
        if kind == DomainKind::System && !seats.were_at(home) {
            return Ok(None);
        }
        // The place that an earlier move has left may be free by now, and is known to everybody.
        buffer.core().retire.collect();
        let accept = |provider| seats.all_take(provider);
        if kind == DomainKind::System
            && let Some(new) = clean_copy(buffer, &seats)?
        {
            return Ok(Some(Self { buffer, home: Arc::clone(home), seats, new, clean: true }));
        }
        let (size, group) = (buffer.size, buffer.group());
        let wish = BackingRequest { home, placement, size, dedicated: false, group };
        let new = buffer.set.allocate(&wish, limits, accept)?;
        let new = new.ok_or_else(|| {
            let stranded = seats.stranded(kind).map(|device| buffer.core().find(device));
            let stranded = stranded.and_then(Result::ok);
            buffer.unreachable(stranded.as_ref().unwrap_or(home), &seats)
        })?;
        let (home, new) = (Arc::clone(home), new.into());
        Ok(Some(Self { buffer, home, seats, new, clean: false }))
    }
}

/// Takes the buffer's clean copy out, where everybody can reach it.
///
/// # Errors
///
/// [`Error::Busy`] if the buffer has one that it cannot go to, because somebody holds it: there is no need to
/// take it out for that.
fn clean_copy<'a>(
    buffer: &'a BufferInner,
    seats: &ImportMatrix,
) -> Result<Option<Destination<'a>>> {
    let mut state = buffer.lock();
    if state.clean().is_none() {
        return Ok(None);
    }
    // As a move would.
    buffer.check_usable(&mut state)?;
    if state.host() > 0 || state.static_mappings() > 0 || state.pinned() > 0 {
        return Err(buffer.busy(&state));
    }
    let Some((generation, place)) = state.clean_mut().and_then(CleanCopy::lend) else {
        return Ok(None);
    };
    drop(state);
    if seats.all_take(place.allocation().provider()) {
        return Ok(Some(Destination::lent(place, Lender { buffer, generation })));
    }
    // Nobody reads it any more, so it may go if it is not what is wanted.
    Ok(None)
}
