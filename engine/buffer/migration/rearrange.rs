//! A move to other memory of the same domain in which the bytes are at other places: for content in rows or tiles. And
//! a move of tiles to another domain, where they are rows.

use std::sync::{Arc, Weak};

use ash::vk;

use super::commit::{commit, commit_with_copy, fences_of};
use super::copier::{Copier, SubmitFailed, zeroing_time};
use super::destination::release_unused;
use super::execute::{lock_movable, no_path};
use super::fallback::{HostCopy, fall_back_to_host};
use super::host_rows::PlacedParts;
use super::in_progress::{ActiveMove, waits_before_move};
use super::migrate::Migration;
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use super::row_gaps::closed_up;
use crate::buffer::object::{BufferInner, SharedBuffer};
use crate::buffer::placement::{home_at, retry_on_oom};
use crate::buffer::state::{State, TiledBytes};
use crate::device::{DeviceInner, Waits};
use crate::error::{Error, Result};
use crate::memory::{Backing, Content, HostWait, copy_parts_by_host};
use crate::observe::MoveCause;
use crate::residency::{EvictionLimits, Trigger};
use crate::sync::{Fence, Guard, RejectionWatch, Usage, waits_of_move, waits_on};
use crate::transfer::{self, Span};

/// Where bytes of a buffer are to be.
#[derive(Clone, Copy)]
pub(crate) struct Rearrangement<'a> {
    /// How they get there.
    pub(crate) copy: Rearranged<'a>,
    /// What has put them into tiles, if they are in tiles then.
    pub(crate) tiled: Option<&'a Weak<dyn TiledBytes>>,
    /// Whether the bytes are still where the copy finds them. Called under the reservation: only a rearrangement changes
    /// that.
    pub(crate) is_current: &'a dyn Fn() -> bool,
    /// Called under the reservation once the bytes are, or will be, at their new places.
    pub(crate) done: &'a dyn Fn(),
    /// Whether other buffers may be evicted for it, and the caller be kept waiting for work on the buffer. Otherwise it
    /// fails where it would have to.
    pub(crate) required: bool,
}

/// How bytes get to other places.
#[derive(Clone, Copy)]
pub(crate) enum Rearranged<'a> {
    /// The parts that are kept, by their old and new places in the buffer. There is at least one; none is empty, all
    /// are within the buffer, and no two overlap in their new places. Between them are zeros, or other bytes of the buffer.
    Parts(&'a [vk::BufferCopy]),
    /// A submission of the caller's to the main queue of a device, behind waits, from the first span to the second one.
    /// If told so, it first zeroes the second one. Called under the reservation.
    Submitted(&'a SubmitCopy<'a>),
}

/// As [`TiledBytes::copy_to_rows`].
pub(crate) type SubmitCopy<'a> =
    dyn Fn(&Arc<DeviceInner>, Waits, [Span<'_>; 2], bool) -> Result<Fence> + 'a;

impl SharedBuffer {
    /// Moves the buffer to other memory of its domain, and its bytes to other places. Importers are notified, and
    /// mappings become stale, as for any move. The copy runs on the device that sees both, behind all work on the
    /// buffer. If there is none, or it fails, the host copies, if the move is required: the caller waits for all work on the
    /// buffer.
    ///
    /// Returns [`Migration::Unchanged`] if the rearrangement is not current.
    ///
    /// # Errors
    ///
    /// As [`SharedBuffer::migrate`]; [`crate::Error::Unsupported`] also where neither a device nor the host sees both the
    /// old and the new memory; [`crate::Error::Busy`] if it is not required and would have to wait.
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
                let most = buffer.core().eviction_limits(buffer.trigger());
                let limits = match request.required {
                    true => most,
                    false => EvictionLimits { evict: false, wait: None, ..most },
                };
                match Plan::new(buffer, &home, domain.kind(), &limits)? {
                    // Its content is at the old places.
                    Some(plan) if !plan.clean => move_planned(plan, request),
                    _ => Ok(MoveOutcome::Retry),
                }
            };
            let outcome = match request.required {
                true => retry_on_oom(&buffer.set, home.id(), [&**buffer], once)?,
                false => once()?,
            };
            match outcome {
                MoveOutcome::Moved => {
                    return Ok(Migration::Done { generation: buffer.generation() });
                }
                MoveOutcome::Retry => {}
                MoveOutcome::WouldBlock => break,
                MoveOutcome::NoPath => return Err(no_path(&home)),
            }
        }
        Err(buffer.busy(&buffer.lock()))
    }
}

/// Does the steps of `relocate`, with another copy.
fn move_planned(plan: Plan<'_>, request: Rearrangement<'_>) -> Result<MoveOutcome> {
    let Plan { buffer, home, matrix, new, .. } = plan;
    let cause = MoveRequest {
        may_wait: request.required,
        ..MoveRequest::to_new(MoveCause::Rearranged, Trigger::Asked)
    };
    let Some(copier) = Copier::find(buffer, &home, &new, cause)? else {
        return Ok(MoveOutcome::NoPath);
    };
    let by_host = match request.copy {
        Rearranged::Parts(parts) if request.required => {
            Some(HostCopy::OtherPlaces { parts, done: request.done })
        }
        _ => None,
    };
    if copier.needs_bounce() && by_host.is_none() {
        return Ok(MoveOutcome::NoPath);
    }
    let state = match request.required {
        true => lock_movable(buffer, &copier)?,
        false => match lock_movable_now(buffer, &copier)? {
            Some(state) => state,
            None => return Ok(MoveOutcome::WouldBlock),
        },
    };
    if !matrix.is_current(buffer, &state) || !copier.is_current(&state) || !(request.is_current)() {
        return Ok(MoveOutcome::Retry);
    }
    let mut active = ActiveMove::new(buffer, state);
    active.notify_importers(&copier, new.domain());
    if request.required {
        active.wait_for(&copier, |fence| fence.is_for_host(&copier.way.device))?;
        active.zero_rest(&copier)?;
    } else {
        active = match active.suspend(&copier.way.device) {
            Ok(active) => active,
            Err(suspended) => {
                suspended.cancel();
                return Ok(MoveOutcome::WouldBlock);
            }
        };
    }
    if !copier.is_current(&active.state) {
        return Ok(MoveOutcome::Retry);
    }
    // Only a clean copy is lent, and this is none.
    let new = new.take();
    let moved = if copier.needs_bounce() && active.state.location().has_content() {
        if let Some(old) = active.state.location_mut().backing_mut() {
            old.finish_scrub();
        }
        let submitted_part = Fence::signalled();
        Err(Box::new(SubmitFailed { error: no_path(&home), new, submitted_part }))
    } else {
        copier.rearrange(buffer, &mut active.state, &home, new, request.copy)
    };
    match moved {
        Ok(()) => {
            active.state.set_tiled(request.tiled.cloned());
            (request.done)();
            Ok(MoveOutcome::Moved)
        }
        Err(failed) => {
            if let Some(rows) = by_host {
                return fall_back_to_host(active, &copier, &home, (*failed, None), rows);
            }
            let SubmitFailed { error, new, submitted_part } = *failed;
            copier.span.failed();
            // The submitted part reads the old backing.
            active.state.fences().add(Usage::Bookkeep, submitted_part.clone());
            release_unused(buffer, &mut active.state, (new, None), fences_of(submitted_part));
            Err(error)
        }
    }
}

/// Takes the reservation of a buffer that can move without any wait; `None` if there would be one.
fn lock_movable_now<'a>(
    buffer: &'a Arc<BufferInner>,
    copier: &Copier,
) -> Result<Option<Guard<'a, State>>> {
    let Some(mut state) = buffer.reservation.try_lock(&buffer.core().queues) else {
        return Ok(None);
    };
    buffer.check_usable(&mut state)?;
    buffer.check_not_held(&state)?;
    let zeroes_long = zeroing_time(&state) > copier.request.host_time();
    let waits = zeroes_long || !waits_before_move(&mut state, &copier.way.device).is_empty();
    Ok((!waits).then_some(state))
}

impl Copier {
    /// Copies to other places and commits. The copy is submitted behind the buffer's fences, and is not waited for.
    fn rearrange(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        new: Backing,
        copy: Rearranged<'_>,
    ) -> Result<(), Box<SubmitFailed>> {
        if let Some(old) = state.location_mut().backing_mut() {
            // As for a copy by the host: no access is open, and all of it may be copied.
            old.finish_scrub();
        }
        if !state.location().has_content() {
            commit(buffer, state, home, new, Fence::signalled(), &self.summary(0));
            return Ok(());
        }
        let idle = state.fences().is_idle();
        let pending = state.fences().pending(Usage::Bookkeep);
        let mut copies = self.copies(buffer, state, &new);
        let Some([from, to]) = copies.pop() else {
            unreachable!("without a clean copy there is one pair, of all bytes")
        };
        let to = Span { len: new.extent(buffer.size), ..to };
        self.span.copying();
        let (device, bridges) = (&self.way.device, &buffer.core().bridges);
        let zero = new.content() != Content::Zeroed;
        let (submitted, bytes);
        match copy {
            Rearranged::Parts(parts) => {
                bytes = parts.iter().map(|part| part.size).sum();
                let (parts, between) = closed_up(parts, [from.len, to.len]);
                let zeros = if zero { between } else { vec![] };
                let mut copy = PlacedParts { parts, zeros };
                let by_host = self.take_host_rows(buffer, (&mut copy, &new), idle);
                let waits = waits_of_move(bridges, device, &pending);
                submitted = self.copy_both(buffer, (waits, [from, to]), (copy, by_host), &new);
            }
            Rearranged::Submitted(submit) => {
                let watch = RejectionWatch::main(device);
                bytes = buffer.size;
                submitted = waits_on(bridges, device, &pending)
                    .and_then(|waits| submit(device, waits, [from, to], zero))
                    .map_err(|error| (error, watch.fence()));
            }
        }
        match submitted {
            Ok(fence) => {
                let writers = state.fences().pending(Usage::Write);
                let summary = self.summary(bytes);
                commit_with_copy(buffer, state, home, new, fence.depends_on(&writers), &summary);
                Ok(())
            }
            Err((error, submitted_part)) => {
                Err(Box::new(SubmitFailed { error, new, submitted_part }))
            }
        }
    }

    /// Submits a copy of parts, while the host copies others, or submits these as well if the host cannot. An error comes
    /// with the fence of what was submitted.
    fn copy_both(
        &self,
        buffer: &BufferInner,
        (waits, spans): (Result<Waits>, [Span<'_>; 2]),
        (copy, by_host): (PlacedParts, Vec<vk::BufferCopy>),
        new: &Backing,
    ) -> Result<Fence, (Error, Fence)> {
        let device = &self.way.device;
        let watch = RejectionWatch::new(device, device.queue_for_moves());
        let submitted = waits
            .and_then(|waits| transfer::copy_parts(device, waits, spans, &copy.parts, &copy.zeros));
        let fence = submitted.map_err(|error| (error, watch.fence()))?;
        if by_host.is_empty() || self.copy_by_rows(buffer, &by_host, new).unwrap_or(false) {
            return Ok(fence);
        }
        // Behind the first one, on the same queue.
        transfer::copy_parts(device, Waits::default(), spans, &by_host, &[]).map_err(|error| {
            // Of the second submission, which is behind the first, if it may run.
            let rejected = watch.fence();
            (error, if rejected.covers(&fence) { rejected } else { fence })
        })
    }

    /// What brings the bytes into rows, if they are in tiles, and a device copies them into another domain. Otherwise
    /// tiles stay tiles.
    pub(super) fn tiles_to_leave(
        &self,
        state: &State,
        new: &Backing,
    ) -> Option<Arc<dyn TiledBytes>> {
        let tiled = state.tiled()?;
        let leaves = new.domain() != state.location().domain();
        // A clean copy has the same bytes.
        (leaves && self.is_by_device() && !self.request.clean).then_some(tiled)
    }

    /// Copies tiles to rows, and commits.
    pub(super) fn copy_to_rows(
        &self,
        buffer: &BufferInner,
        state: &mut State,
        home: &Arc<DeviceInner>,
        new: Backing,
        tiled: &dyn TiledBytes,
    ) -> Result<(), Box<SubmitFailed>> {
        let submit = |device: &Arc<DeviceInner>, waits: Waits, spans: [Span<'_>; 2], zero: bool| {
            tiled.copy_to_rows(device, waits, spans, zero)
        };
        self.rearrange(buffer, state, home, new, Rearranged::Submitted(&submit))?;
        state.set_tiled(None);
        tiled.are_rows();
        Ok(())
    }

    /// Copies parts by the host, and zeroes all else. As [`Copier::copy_by_host`].
    #[expect(unsafe_code, reason = "copying between mapped memory that no other thread uses")]
    pub(super) fn copy_parts_by_host(
        &self,
        buffer: &BufferInner,
        parts: &[vk::BufferCopy],
        new: &Backing,
        wait: HostWait,
    ) -> Result<bool> {
        self.span.copying();
        let (from, to) = ((&*self.way.old, self.offset), (&**new.allocation(), new.offset()));
        let lens = (buffer.size, new.extent(buffer.size));
        let rows = parts.iter().map(|part| (part.src_offset, part.dst_offset, part.size));
        let zero = new.content() != Content::Zeroed;
        // SAFETY: as in `copy_by_host`; all parts are within the buffer.
        unsafe { copy_parts_by_host(from, to, lens, (rows, zero), wait) }
    }
}
