//! A move to other memory of the same domain in which the bytes are at other places: for content in rows.

use std::sync::Arc;

use ash::vk;

use super::commit::{commit, commit_with_copy, fences_of};
use super::copier::{Copier, SubmitFailed};
use super::destination::release_unused;
use super::execute::{lock_movable, no_path};
use super::in_progress::ActiveMove;
use super::migrate::Migration;
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::{home_at, retry_on_oom};
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::memory::{Backing, Content};
use crate::observe::MoveCause;
use crate::residency::Trigger;
use crate::sync::{Fence, RejectionWatch, Usage, waits_of_move};
use crate::transfer::{self, Span};

/// Where bytes of a buffer are to be.
#[derive(Clone, Copy)]
pub(crate) struct Rearrangement<'a> {
    /// The parts that are kept, by their old and new places in the buffer. There is at least one; none is empty, all
    /// are within the buffer, and no two overlap in their new places. All other bytes become zero.
    pub(crate) parts: &'a [vk::BufferCopy],
    /// Whether the bytes are still where the parts say. Called under the reservation: only a rearrangement changes
    /// that.
    pub(crate) is_current: &'a dyn Fn() -> bool,
    /// Called under the reservation once the bytes are, or will be, at their new places.
    pub(crate) done: &'a dyn Fn(),
}

impl SharedBuffer {
    /// Moves the buffer to other memory of its domain, and its bytes to other places. Importers are notified, and
    /// mappings become stale, as for any move. The copy runs on the device that sees both, behind all work on the
    /// buffer. Neither the host nor a bounce copies instead: if that device fails, the move fails, and the bytes stay.
    ///
    /// Returns [`Migration::Unchanged`] if the rearrangement is not current.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`]; [`crate::Error::Unsupported`] also where only a bounce or the host could copy.
    ///
    /// Locks: as [`SharedBuffer::migrate`].
    pub(crate) fn rearrange(&self, request: Rearrangement<'_>) -> Result<Migration> {
        let buffer = &self.0;
        buffer.set.handle_lost_devices();
        // Each attempt ends with a move or an error, unless another thread changes the buffer meanwhile.
        const ATTEMPTS: u32 = 100;
        for _ in 0..ATTEMPTS {
            buffer.check_resident()?;
            let domain = {
                let state = buffer.lock();
                if !(request.is_current)() {
                    return Ok(Migration::Unchanged);
                }
                state.location().domain()
            };
            let home = home_at(buffer, domain)?;
            let once = || {
                let limits = buffer.core().eviction_limits(buffer.trigger());
                match Plan::new(buffer, &home, domain.kind(), &limits)? {
                    // Its content is at the old places.
                    Some(plan) if !plan.clean => move_planned(plan, request),
                    _ => Ok(MoveOutcome::Retry),
                }
            };
            match retry_on_oom(&buffer.set, home.id(), [&**buffer], once)? {
                MoveOutcome::Moved => {
                    return Ok(Migration::Done { generation: buffer.generation() });
                }
                MoveOutcome::Retry | MoveOutcome::WouldBlock => {}
                MoveOutcome::NoPath => return Err(no_path(&home)),
            }
        }
        Err(buffer.busy(&buffer.lock()))
    }
}

/// Does the steps of `relocate`, with another copy.
fn move_planned(plan: Plan<'_>, request: Rearrangement<'_>) -> Result<MoveOutcome> {
    let Plan { buffer, home, matrix, new, .. } = plan;
    let cause = MoveRequest::to_new(MoveCause::Asked, Trigger::Asked);
    let Some(copier) = Copier::find(buffer, &home, &new, cause)? else {
        return Ok(MoveOutcome::NoPath);
    };
    if copier.needs_bounce() {
        return Ok(MoveOutcome::NoPath);
    }
    let state = lock_movable(buffer, &copier)?;
    if !matrix.is_current(buffer, &state) || !copier.is_current(&state) || !(request.is_current)() {
        return Ok(MoveOutcome::Retry);
    }
    let mut active = ActiveMove::new(buffer, state);
    active.notify_importers(&copier, new.domain());
    active.wait_for(&copier, |fence| fence.is_for_host(&copier.way.device))?;
    active.zero_rest(&copier)?;
    if !copier.is_current(&active.state) {
        return Ok(MoveOutcome::Retry);
    }
    // Only a clean copy is lent, and this is none.
    match copier.rearrange(buffer, &mut active.state, &home, new.take(), request.parts) {
        Ok(()) => {
            (request.done)();
            Ok(MoveOutcome::Moved)
        }
        Err(failed) => {
            let SubmitFailed { error, new, submitted_part } = *failed;
            copier.span.failed();
            // The submitted part reads the old backing.
            active.state.fences().add(Usage::Bookkeep, submitted_part.clone());
            release_unused(buffer, &mut active.state, (new, None), fences_of(submitted_part));
            Err(error)
        }
    }
}

impl Copier {
    /// Copies the parts and commits. The copy is submitted behind the buffer's fences, and is not waited for.
    fn rearrange(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        new: Backing,
        parts: &[vk::BufferCopy],
    ) -> Result<(), Box<SubmitFailed>> {
        if let Some(old) = state.location_mut().backing_mut() {
            // As for a copy by the host: no access is open, and all of it may be copied.
            old.finish_scrub();
        }
        if !state.location().has_content() {
            commit(buffer, state, home, new, Fence::signalled(), &self.summary(0));
            return Ok(());
        }
        let pending = state.fences().pending(Usage::Bookkeep);
        let mut copies = self.copies(buffer, state, &new);
        let Some([from, to]) = copies.pop() else {
            unreachable!("without a clean copy there is one pair, of all bytes")
        };
        let to = Span { len: new.extent(buffer.size), ..to };
        self.span.copying();
        let watch = RejectionWatch::new(&self.way.device, self.way.device.queue_for_moves());
        let zero = new.content() != Content::Zeroed;
        let submitted =
            waits_of_move(&buffer.core().bridges, &self.way.device, &pending).and_then(|waits| {
                transfer::copy_parts(&self.way.device, waits, [from, to], parts, zero)
            });
        match submitted {
            Ok(fence) => {
                let writers = state.fences().pending(Usage::Write);
                let summary = self.summary(parts.iter().map(|part| part.size).sum());
                commit_with_copy(buffer, state, home, new, fence.depends_on(&writers), &summary);
                Ok(())
            }
            Err(error) => Err(Box::new(SubmitFailed { error, new, submitted_part: watch.fence() })),
        }
    }
}
