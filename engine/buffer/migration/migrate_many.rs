//! Moves many buffers, those that one device copies in one submission.

use std::sync::Arc;

use super::batch::{Group, MayBlock, TOGETHER};
use super::copier::Mover;
use super::migrate::Migration;
use super::plan::Plan;
use super::request::{Errand, Moved};
use crate::buffer::object::{Buffers, SharedBuffer};
use crate::buffer::placement::home_at;
use crate::error::{Error, Result};
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::Trigger;

/// See [`crate::Engine::migrate_many`].
pub(crate) fn migrate_many(
    set: &Arc<Buffers>,
    moves: &[(&SharedBuffer, DomainId)],
) -> Vec<Result<Migration>> {
    set.give_up_lost();
    moves.chunks(TOGETHER).flat_map(|chunk| migrate_chunk(set, chunk)).collect()
}

fn migrate_chunk(
    set: &Arc<Buffers>,
    moves: &[(&SharedBuffer, DomainId)],
) -> Vec<Result<Migration>> {
    let mut results: Vec<Option<Result<Migration>>> = moves.iter().map(|_| None).collect();
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (index, &(buffer, to)) in moves.iter().enumerate() {
        match planned(set, buffer, to) {
            Ok(Some((plan, mover))) => Group::add(&mut groups, index, plan, mover),
            // By itself: it is there already, or somebody was faster.
            Ok(None) => {}
            // That too: others make room for it.
            Err(error) if error.is_drivers_out_of_memory() => {}
            Err(error) => results[index] = Some(Err(error)),
        }
    }
    for group in groups {
        for (index, moved) in group.relocate(set, MayBlock::Wait) {
            let generation = || moves[index].0.generation();
            results[index] = match moved {
                Ok(Moved::Yes) => Some(Ok(Migration::Done { generation: generation() })),
                Ok(Moved::LookAgain | Moved::NoMover | Moved::NotNow) => None,
                Err(error) if error.is_drivers_out_of_memory() => None,
                Err(error) => Some(Err(error)),
            };
        }
    }
    let alone = |(result, &(buffer, to)): (Option<_>, &(&SharedBuffer, _))| {
        result.unwrap_or_else(|| buffer.migrate(to))
    };
    results.into_iter().zip(moves).map(alone).collect()
}

fn planned<'a>(
    set: &Arc<Buffers>,
    buffer: &'a SharedBuffer,
    to: DomainId,
) -> Result<Option<(Plan<'a>, Mover)>> {
    let buffer = &buffer.0;
    if !Arc::ptr_eq(set, &buffer.set) {
        return Err(Error::ForeignEngine { what: "a buffer" });
    }
    // First, as for a move alone: whether it could go there is no matter.
    buffer.check_there()?;
    if buffer.lock().place.domain() == to {
        return Ok(None);
    }
    let home = home_at(buffer, to)?;
    let Some(plan) =
        Plan::new(buffer, &home, to.kind(), &set.core.eviction_limits(buffer.trigger()))?
    else {
        return Ok(None);
    };
    let mover = Mover::find(
        buffer,
        &home,
        &plan.new,
        Errand { clean: plan.clean, ..Errand::to_new(MoveCause::Asked, Trigger::Asked) },
    )?;
    Ok(mover.map(|mover| (plan, mover)))
}
