//! Moves many buffers together: one submission for all copies of one device.
//!
//! The steps are those of a single move (`relocate`). Each buffer's importers are notified, and its move
//! refused or skipped, independently of the others. Only the submission is shared.
//!
//! All reservations of a batch are held from the checks until after the submission. A move may be committed
//! only when its copy is submitted, and the new backing must not be visible before. The reservations are
//! taken with `try_lock`, and there is no wait while they are held. So no cycle of waiters can arise, and no
//! ticket is needed. A buffer whose reservation is taken, or whose move has to wait, moves separately
//! afterwards.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::commit::{commit_with_copy, fences_of};
use super::copier::{Copier, copied_bytes, zeroing_time};
use super::destination::release_unused;
use super::execute::{finish, finish_nowait, relocate_if};
use super::in_progress::{ActiveMove, SuspendedMove, waits_before_move};
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::Buffers;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::sync::{RejectionWatch, Usage, waits_of_move};
use crate::transfer;
use crate::transfer::path::PAUSE;

/// The most moves in one submission. For its whole duration other threads may wait for the first reservation.
pub(in crate::buffer) const MAX_BATCH: usize = 64;

/// Whether moves that would have to wait are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(in crate::buffer) enum MayBlock {
    /// They wait, after the batch.
    #[default]
    Wait,
    /// They are skipped.
    Skip,
}

/// Moves whose copies run on one device, by their positions in the list.
pub(in crate::buffer) struct MoveBatch<'a> {
    device: Arc<DeviceInner>,
    moves: Vec<(usize, Plan<'a>, Copier)>,
}

/// The outcome of a move, by its position in the list.
type Outcome = (usize, Result<MoveOutcome>);

impl<'a> MoveBatch<'a> {
    /// Adds a move to the batch of its device, which is created if need be.
    pub(in crate::buffer) fn add(
        batches: &mut Vec<Self>,
        index: usize,
        plan: Plan<'a>,
        copier: Copier,
    ) {
        let position =
            batches.iter().position(|batch| Arc::ptr_eq(&batch.device, &copier.way.device));
        let target = position.unwrap_or_else(|| {
            batches.push(Self { device: Arc::clone(&copier.way.device), moves: vec![] });
            batches.len() - 1
        });
        batches[target].moves.push((index, plan, copier));
    }

    /// Makes the moves of the batch.
    ///
    /// # Panics
    ///
    /// If an importer panics. All other moves are completed first.
    pub(in crate::buffer) fn relocate(self, set: &Buffers, may_block: MayBlock) -> Vec<Outcome> {
        let device = self.device;
        let mut batch = BatchState { may_block, host_time: PAUSE, ..BatchState::default() };
        for (index, plan, copier) in self.moves {
            batch.begin(set, index, plan, copier);
        }
        batch.submit(set, &device);
        let panicked = batch.panicked.take();
        let ended = batch.finish_rest();
        // After the suspended moves have ended.
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        ended
    }
}

/// The moves of a batch, by the steps that they still need.
#[derive(Default)]
struct BatchState<'a> {
    may_block: MayBlock,
    /// How long the host may still copy, while all these reservations are held.
    host_time: Duration,
    ended: Vec<Outcome>,
    /// Moves that need a copy by the device, all in one submission. The reservations are held.
    ready: Vec<(usize, ActiveMove<'a>, Plan<'a>, Copier)>,
    /// Moves that need a wait for work of the host, and then the copy.
    suspended: Vec<(usize, SuspendedMove<'a>, Plan<'a>, Copier)>,
    /// Moves that need all steps.
    separate: Vec<(usize, Plan<'a>, MoveRequest)>,
    /// The first panic of an importer. Its buffer has not moved.
    panicked: Option<Box<dyn Any + Send>>,
}

impl<'a> BatchState<'a> {
    /// Does the steps of a move that need no wait.
    fn begin(&mut self, set: &Buffers, index: usize, mut plan: Plan<'a>, copier: Copier) {
        let buffer = plan.buffer;
        let Some(mut state) = buffer.reservation.try_lock(&buffer.core().queues) else {
            match self.may_block {
                MayBlock::Wait => self.separate.push((index, plan, copier.request)),
                MayBlock::Skip => self.ended.push((index, Ok(MoveOutcome::WouldBlock))),
            }
            return;
        };
        if let Err(error) = buffer.check_usable(&mut state) {
            return self.ended.push((index, Err(error)));
        }
        if !plan.is_current(&state) || !copier.is_current(&state) {
            return self.ended.push((index, Ok(MoveOutcome::Retry)));
        }
        let waits = waits_before_move(&mut state, &copier.way.device);
        // The host would zero it while all these reservations are held.
        let host_time = self.host_time.min(copier.request.host_time());
        let zeroes_long = zeroing_time(&state) > host_time;
        // Its copy is no copy of bytes, and so is submitted alone.
        let in_tiles = copier.tiles_to_leave(&state, &plan.new).is_some();
        let alone = in_tiles && self.may_block == MayBlock::Wait;
        if !waits.is_empty() || copier.needs_bounce() || zeroes_long || alone {
            match self.may_block {
                MayBlock::Wait => self.separate.push((index, plan, copier.request)),
                MayBlock::Skip => self.ended.push((index, Ok(MoveOutcome::WouldBlock))),
            }
            return;
        }
        if let Err(busy) = buffer.check_not_held(&state) {
            return self.ended.push((index, Err(busy)));
        }
        debug_assert!(std::ptr::eq(set, &**buffer.set), "checked when the move was planned");
        let mut active = ActiveMove::new(buffer, state);
        if let Err(panic) =
            catch_unwind(AssertUnwindSafe(|| active.notify_importers(&copier, plan.new.domain())))
        {
            self.panicked.get_or_insert(panic);
            return;
        }
        // Its importers were notified of a move that does not happen. Their mappings stay valid. No move fence was
        // added, so that the end of this move takes no reservation: those of `ready` are held.
        if self.may_block == MayBlock::Skip && active.waits_for_host(&copier.way.device) {
            return self.ended.push((index, Ok(MoveOutcome::WouldBlock)));
        }
        let mut active = match active.suspend(&copier.way.device) {
            Ok(active) => active,
            Err(suspended) => return self.suspended.push((index, suspended, plan, copier)),
        };
        if in_tiles {
            let moved = finish_nowait(active, &copier, &plan.home, plan.new);
            return self.ended.push((index, moved));
        }
        let idle = active.state.fences().is_idle();
        let (state, allowed) = (&mut active.state, self.host_time.min(copier.request.host_time()));
        let mut left = allowed;
        let host_time = &mut left;
        let home = &plan.home;
        let rest = plan.new.commit_or_keep(|new| {
            copier.copy_without_device(buffer, state, home, new, idle, host_time)
        });
        self.host_time = self.host_time.saturating_sub(allowed - left);
        match rest {
            None => self.ended.push((index, Ok(MoveOutcome::Moved))),
            Some(new) => {
                plan.new = new;
                self.ready.push((index, active, plan, copier));
            }
        }
    }

    /// Submits all ready copies at once. If that fails, nothing has changed, and each buffer is moved
    /// separately: with the fallbacks that have to wait only under [`MayBlock::Wait`].
    fn submit(&mut self, set: &Buffers, device: &Arc<DeviceInner>) {
        if self.ready.is_empty() {
            return;
        }
        let states = self.ready.iter_mut().map(|(_, active, ..)| &mut active.state);
        let pending: Vec<_> =
            states.flat_map(|state| state.fences().pending(Usage::Bookkeep)).collect();
        let each = self.ready.iter();
        let copies: Vec<_> = each
            .flat_map(|(_, active, plan, copier)| {
                copier.copies(plan.buffer, &active.state, &plan.new)
            })
            .collect();
        let each = self.ready.iter();
        let tails: Vec<_> =
            each.filter_map(|(_, _, plan, copier)| copier.tail(plan.buffer, &plan.new)).collect();
        let waits = waits_of_move(&set.core.bridges, device, &pending);
        self.ready.iter().for_each(|(.., copier)| copier.span.copying());
        let watch = RejectionWatch::new(device, device.queue_for_moves());
        let submitted = waits.and_then(|waits| transfer::copy_many(device, waits, &copies, &tails));
        let rejected = watch.fence();
        match submitted {
            Ok(fence) => {
                for (index, mut active, plan, copier) in self.ready.drain(..) {
                    let copies = copier.copies(plan.buffer, &active.state, &plan.new);
                    let summary = copier.summary(copied_bytes(&copies));
                    let Plan { buffer, home, new, .. } = plan;
                    let writers = active.state.fences().pending(Usage::Write);
                    let (fence, state) = (fence.clone().depends_on(&writers), &mut active.state);
                    // All destinations are being written, so a panic of one commit does not end the loop.
                    let commit = AssertUnwindSafe(|| {
                        commit_with_copy(buffer, state, &home, new.take(), fence, &summary);
                    });
                    if let Err(panic) = catch_unwind(commit) {
                        self.panicked.get_or_insert(panic);
                    }
                    self.ended.push((index, Ok(MoveOutcome::Moved)));
                }
            }
            Err(_) if !rejected.is_released() => {
                // The copies may run all the same, so no destination may be used again.
                for (index, mut active, plan, _) in self.ready.drain(..) {
                    let (state, lender) = (&mut active.state, plan.new.lender());
                    state.fences().add(Usage::Bookkeep, rejected.clone());
                    let unused = (plan.new.take(), lender);
                    release_unused(plan.buffer, state, unused, fences_of(rejected.clone()));
                    self.ended.push((index, Err(device.lost_in("vkQueueSubmit"))));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "batch submission failed; moving each buffer separately");
                let ready = self.ready.drain(..);
                if self.may_block == MayBlock::Wait {
                    let plans = ready.map(|(index, _, plan, copier)| (index, plan, copier.request));
                    self.separate.extend(plans);
                } else {
                    self.ended.extend(ready.map(|(index, active, plan, copier)| {
                        (index, finish_nowait(active, &copier, &plan.home, plan.new))
                    }));
                }
            }
        }
    }

    /// Makes the moves that have to wait, one after the other. No reservation is held any more.
    fn finish_rest(self) -> Vec<Outcome> {
        let Self { mut ended, ready, suspended, separate, .. } = self;
        drop(ready);
        ended.extend(suspended.into_iter().map(|(index, suspended, plan, copier)| {
            let moved = suspended
                .resume(&copier)
                .and_then(|active| finish(active, &copier, &plan.home, plan.new));
            (index, moved)
        }));
        ended.extend(separate.into_iter().map(|(index, plan, request)| {
            let Plan { buffer, home, matrix, generation, new, .. } = plan;
            // The matrix may be that of a buffer that is alike, with another generation.
            let is_planned = |state: &State| matrix.is_current_for(buffer, state, generation);
            (index, relocate_if(buffer, &home, is_planned, new, request))
        }));
        ended
    }
}
