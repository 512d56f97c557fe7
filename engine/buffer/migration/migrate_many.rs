//! Moves many buffers on request of the application: one submission for all copies of one device.

use std::sync::Arc;

use super::batch::{MAX_BATCH, MayBlock, MoveBatch};
use super::copier::Copier;
use super::migrate::Migration;
use super::plan::Plan;
use super::request::{MoveOutcome, MoveRequest};
use crate::buffer::object::{Buffers, SharedBuffer};
use crate::buffer::placement::home_at;
use crate::error::{Error, Result};
use crate::memory::DomainId;
use crate::observe::MoveCause;
use crate::residency::Trigger;

/// Implements [`crate::Engine::migrate_many`].
pub(crate) fn migrate_many(
    set: &Arc<Buffers>,
    moves: &[(&SharedBuffer, DomainId)],
) -> Vec<Result<Migration>> {
    set.handle_lost_devices();
    moves.chunks(MAX_BATCH).flat_map(|chunk| migrate_chunk(set, chunk)).collect()
}

/// Moves at most [`MAX_BATCH`] buffers.
fn migrate_chunk(
    set: &Arc<Buffers>,
    moves: &[(&SharedBuffer, DomainId)],
) -> Vec<Result<Migration>> {
    let mut results: Vec<Option<Result<Migration>>> = moves.iter().map(|_| None).collect();
    let mut batches: Vec<MoveBatch<'_>> = Vec::new();
    for (index, &(buffer, to)) in moves.iter().enumerate() {
        match plan_move(set, buffer, to) {
            Ok(Some((plan, copier))) => MoveBatch::add(&mut batches, index, plan, copier),
            // Handled below: the buffer is in that domain already, or has changed meanwhile.
            Ok(None) => {}
            // Handled below, with evictions and a retry.
            Err(error) if error.is_drivers_out_of_memory() => {}
            Err(error) => results[index] = Some(Err(error)),
        }
    }
    for batch in batches {
        for (index, moved) in batch.relocate(set, MayBlock::Wait) {
            let generation = || moves[index].0.generation();
            results[index] = match moved {
                Ok(MoveOutcome::Moved) => Some(Ok(Migration::Done { generation: generation() })),
                Ok(MoveOutcome::Retry | MoveOutcome::NoPath | MoveOutcome::WouldBlock) => None,
                Err(error) if error.is_drivers_out_of_memory() => None,
                Err(error) => Some(Err(error)),
            };
        }
    }
    let separately = |(result, &(buffer, to)): (Option<_>, &(&SharedBuffer, _))| {
        result.unwrap_or_else(|| buffer.migrate(to))
    };
    results.into_iter().zip(moves).map(separately).collect()
}

/// Plans one move. `None` if the buffer has to be moved separately.
fn plan_move<'a>(
    set: &Arc<Buffers>,
    buffer: &'a SharedBuffer,
    to: DomainId,
) -> Result<Option<(Plan<'a>, Copier)>> {
    let buffer = &buffer.0;
    if !Arc::ptr_eq(set, &buffer.set) {
        return Err(Error::ForeignEngine { what: "a buffer" });
    }
    // Checked first, as in `migrate`, even if the domain cannot be used.
    buffer.check_resident()?;
    if buffer.lock().location().domain() == to {
        return Ok(None);
    }
    let home = home_at(buffer, to)?;
    let Some(plan) =
        Plan::new(buffer, &home, to.kind(), &set.core.eviction_limits(buffer.trigger()))?
    else {
        return Ok(None);
    };
    let copier = Copier::find(
        buffer,
        &home,
        &plan.new,
        MoveRequest { clean: plan.clean, ..MoveRequest::to_new(MoveCause::Asked, Trigger::Asked) },
    )?;
    Ok(copier.map(|copier| (plan, copier)))
}
