//! Moving many buffers together: one submission for all that one device copies.
//!
//! The steps are those of a single move (`relocate`), and each buffer keeps to its own rules: it is told,
//! refused, or left where it is for itself. What is shared is the submission.
//!
//! All reservations of a group are held from the checks until after the submission, because a move may be
//! published only when its copy is under way, and nobody may see the new place before. They are taken with
//! `try_lock`, never waited for, and nothing is waited for while they are held: so no cycle of waiters can
//! close, and no ticket is needed. Whoever is not to be had at once, or would have to be waited for, moves
//! by itself afterwards.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::commit::copied;
use super::copier::{Copier, bytes_of};
use super::execute::{finish, finish_nowait, relocate};
use super::in_progress::{ActiveMove, SuspendedMove, first_waits};
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::Buffers;
use crate::device::DeviceInner;
use crate::error::Result;
use crate::sync::{Usage, waits_of_move};
use crate::transfer;
use crate::transfer::path::PAUSE;

/// How many moves share a submission at most: so long others wait for the first one's reservation.
pub(in crate::buffer) const TOGETHER: usize = 64;

/// What to do about those who would have to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(in crate::buffer) enum MayBlock {
    #[default]
    Wait,
    /// They stay where they are.
    Skip,
}

/// Moves that one device copies, by their positions in the list.
pub(in crate::buffer) struct Group<'a> {
    device: Arc<DeviceInner>,
    moves: Vec<(usize, Plan<'a>, Copier)>,
}

/// What became of a move, by its position in the list.
type Outcome = (usize, Result<MoveOutcome>);

impl<'a> Group<'a> {
    pub(in crate::buffer) fn add(
        groups: &mut Vec<Self>,
        index: usize,
        plan: Plan<'a>,
        copier: Copier,
    ) {
        let known = groups.iter().position(|group| Arc::ptr_eq(&group.device, &copier.device));
        let at = known.unwrap_or_else(|| {
            groups.push(Self { device: Arc::clone(&copier.device), moves: vec![] });
            groups.len() - 1
        });
        groups[at].moves.push((index, plan, copier));
    }

    pub(in crate::buffer) fn relocate(self, set: &Buffers, patience: MayBlock) -> Vec<Outcome> {
        let device = self.device;
        let mut begun = Begun { patience, pause: PAUSE, ..Begun::default() };
        for (index, plan, copier) in self.moves {
            begun.begin(set, index, plan, copier);
        }
        begun.submit(set, &device);
        let panicked = begun.panicked.take();
        let ended = begun.end();
        // Not before: moves that are parked have to come to their end.
        if let Some(panic) = panicked {
            resume_unwind(panic);
        }
        ended
    }
}

/// A group's moves, sorted by what is missing of them.
#[derive(Default)]
struct Begun<'a> {
    patience: MayBlock,
    /// How long the host may still copy, while all these reservations are held.
    pause: Duration,
    ended: Vec<Outcome>,
    /// A copy by the device, all in one submission. The reservations are held.
    ready: Vec<(usize, ActiveMove<'a>, Plan<'a>, Copier)>,
    /// A wait for work of the host, and then the copy.
    parked: Vec<(usize, SuspendedMove<'a>, Plan<'a>, Copier)>,
    /// Everything.
    alone: Vec<(usize, Plan<'a>, MoveRequest)>,
    /// The first panic of an importer. Its buffer has not moved.
    panicked: Option<Box<dyn Any + Send>>,
}

impl<'a> Begun<'a> {
    /// Goes as far as it gets without waiting for anybody.
    fn begin(&mut self, set: &Buffers, index: usize, mut plan: Plan<'a>, copier: Copier) {
        let buffer = plan.buffer;
        let Some(mut state) = buffer.reservation.try_lock(&buffer.core().queues) else {
            match self.patience {
                MayBlock::Wait => self.alone.push((index, plan, copier.request)),
                MayBlock::Skip => self.ended.push((index, Ok(MoveOutcome::WouldBlock))),
            }
            return;
        };
        if let Err(error) = buffer.check_usable(&mut state) {
            return self.ended.push((index, Err(error)));
        }
        if !plan.seats.still_fit(buffer, &state) || !copier.still_fits(&state) {
            return self.ended.push((index, Ok(MoveOutcome::Retry)));
        }
        let waits = first_waits(&mut state, &copier.device);
        if !waits.is_empty() || copier.has_no_device() {
            match self.patience {
                MayBlock::Wait => self.alone.push((index, plan, copier.request)),
                MayBlock::Skip => self.ended.push((index, Ok(MoveOutcome::WouldBlock))),
            }
            return;
        }
        if let Err(busy) = buffer.check_not_held(&state) {
            return self.ended.push((index, Err(busy)));
        }
        debug_assert!(std::ptr::eq(set, &*buffer.set), "checked when it was planned");
        let mut move_ = ActiveMove::new(buffer, state);
        if let Err(panic) =
            catch_unwind(AssertUnwindSafe(|| move_.notify_importers(&copier, plan.new.domain())))
        {
            self.panicked.get_or_insert(panic);
            return;
        }
        let mut move_ = match move_.park(&copier.device) {
            Ok(move_) => move_,
            Err(parked) => {
                match self.patience {
                    MayBlock::Wait => self.parked.push((index, parked, plan, copier)),
                    // It was told of a move that does not take place, and is as good as before.
                    MayBlock::Skip => {
                        parked.give_up();
                        self.ended.push((index, Ok(MoveOutcome::WouldBlock)));
                    }
                }
                return;
            }
        };
        let idle = move_.state.fences.is_idle();
        let (state, most) = (&mut move_.state, self.pause.min(copier.request.pause()));
        let mut left = most;
        let pause = &mut left;
        let home = &plan.home;
        let rest =
            plan.new.unless(|new| copier.without_device(buffer, state, home, new, idle, pause));
        self.pause = self.pause.saturating_sub(most - left);
        match rest {
            None => self.ended.push((index, Ok(MoveOutcome::Moved))),
            Some(new) => {
                plan.new = new;
                self.ready.push((index, move_, plan, copier));
            }
        }
    }

    /// One submission for all that are ready. If it fails, nothing has changed, and each moves by itself:
    /// where somebody may be waited for, in ways that need that, too.
    fn submit(&mut self, set: &Buffers, device: &Arc<DeviceInner>) {
        if self.ready.is_empty() {
            return;
        }
        let states = self.ready.iter_mut().map(|(_, move_, ..)| &mut move_.state);
        let pending: Vec<_> =
            states.flat_map(|state| state.fences.pending(Usage::Bookkeep)).collect();
        let each = self.ready.iter();
        let copies: Vec<_> = each
            .flat_map(|(_, move_, plan, copier)| copier.spans(plan.buffer, &move_.state, &plan.new))
            .collect();
        let each = self.ready.iter();
        let tails: Vec<_> =
            each.filter_map(|(_, _, plan, copier)| copier.tail(plan.buffer, &plan.new)).collect();
        let waits = waits_of_move(&set.core.bridges, device, &pending);
        self.ready.iter().for_each(|(.., copier)| copier.slice.copying());
        let submitted = waits.and_then(|waits| transfer::copy_many(device, waits, &copies, &tails));
        match submitted {
            Ok(fence) => {
                for (index, mut move_, plan, copier) in self.ready.drain(..) {
                    let copies = copier.spans(plan.buffer, &move_.state, &plan.new);
                    let done = copier.done(bytes_of(&copies));
                    let Plan { buffer, home, new, .. } = plan;
                    let writers = move_.state.fences.pending(Usage::Write);
                    let fence = fence.clone().depends_on(&writers);
                    copied(buffer, &mut move_.state, &home, new.take(), fence, &done);
                    self.ended.push((index, Ok(MoveOutcome::Moved)));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no copies together; each by itself");
                let ready = self.ready.drain(..);
                if self.patience == MayBlock::Wait {
                    let plans = ready.map(|(index, _, plan, copier)| (index, plan, copier.request));
                    self.alone.extend(plans);
                } else {
                    self.ended.extend(ready.map(|(index, move_, plan, copier)| {
                        (index, finish_nowait(move_, &copier, &plan.home, plan.new))
                    }));
                }
            }
        }
    }

    /// What waits for somebody, one after the other: no reservation is held any more.
    fn end(self) -> Vec<Outcome> {
        let Self { mut ended, ready, parked, alone, .. } = self;
        drop(ready);
        ended.extend(parked.into_iter().map(|(index, parked, plan, copier)| {
            let moved = parked
                .resume(&copier)
                .and_then(|move_| finish(move_, &copier, &plan.home, plan.new));
            (index, moved)
        }));
        ended.extend(alone.into_iter().map(|(index, plan, request)| {
            (index, relocate(plan.buffer, &plan.home, &plan.seats, plan.new, request))
        }));
        ended
    }
}
