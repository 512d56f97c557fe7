//! Moves many buffers on request of the application: one submission for all copies of one device.

use std::sync::Arc;

use super::alike::{Alike, asked};
use super::batch::{MAX_BATCH, MayBlock, MoveBatch};
use super::copier::Copier;
use super::migrate::Migration;
use super::plan::Plan;
use super::request::MoveOutcome;
use crate::buffer::object::{Buffers, SharedBuffer};
use crate::buffer::placement::home_at;
use crate::error::{Error, Result};
use crate::memory::DomainId;

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
    let mut alike = Vec::new();
    for (index, &(buffer, to)) in moves.iter().enumerate() {
        match plan_move(set, (buffer, to), &moves[index + 1..], &mut alike) {
            Ok(Some((plan, copier))) => MoveBatch::add(&mut batches, index, plan, copier),
            // Handled below: the buffer is in that domain already, or has changed meanwhile.
            Ok(None) => {}
            // Handled below, with evictions and a retry.
            Err(error) if error.is_drivers_out_of_memory() => {}
            Err(error) => results[index] = Some(Err(error)),
        }
    }
    // What is left of the memory that was taken for all.
    drop(alike);
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

/// How many kinds of buffers that are alike are planned together in one batch. Each is looked for one after the other.
const KINDS: usize = 8;

/// Plans one move: as the `alike` ones before it, or by itself. `None` if the buffer has to be moved separately.
fn plan_move<'a>(
    set: &Arc<Buffers>,
    (buffer, to): (&'a SharedBuffer, DomainId),
    rest: &[(&SharedBuffer, DomainId)],
    alike: &mut Vec<Alike>,
) -> Result<Option<(Plan<'a>, Copier)>> {
    let buffer = &buffer.0;
    if !Arc::ptr_eq(set, &buffer.set) {
        return Err(Error::ForeignEngine { what: "a buffer" });
    }
    // Checked first, as in `migrate`, even if the domain cannot be used.
    buffer.check_resident()?;
    for known in alike.iter_mut().filter(|known| known.is_for(buffer, to)) {
        if let Some(planned) = known.plan(buffer)? {
            return Ok(Some(planned));
        }
    }
    if buffer.lock().location().domain() == to {
        return Ok(None);
    }
    let home = home_at(buffer, to)?;
    let state = set.core.domain_state(to);
    let under_pressure = state.is_under_pressure();
    if under_pressure || state.ledger.charged().saturating_add(buffer.size) > state.ledger.budget()
    {
        // No buffer is evicted for memory that may not be needed.
        alike.iter_mut().for_each(Alike::give_back);
    }
    let Some(plan) =
        Plan::new(buffer, &home, to.kind(), &set.core.eviction_limits(buffer.trigger()))?
    else {
        return Ok(None);
    };
    let Some(copier) = Copier::find(buffer, &home, &plan.new, asked(plan.clean))? else {
        return Ok(None);
    };
    // Only for those that are elsewhere: they are planned next.
    let is_same = |&&(other, other_to): &&(&SharedBuffer, DomainId)| {
        let is_elsewhere = || {
            let state = other.0.reservation.try_lock(&other.0.core().queues);
            state.is_some_and(|state| state.location().domain() != to)
        };
        other_to == to && other.0.size == buffer.size && is_elsewhere()
    };
    let held: usize = alike.iter().map(Alike::held).sum();
    let more = match under_pressure {
        _ if held >= MAX_BATCH || alike.len() == KINDS => 0,
        true => rest.iter().take_while(is_same).count(),
        false => rest.iter().filter(is_same).count(),
    };
    let (planned, known) = Alike::new(set, to, (plan, copier), more);
    alike.extend(known);
    Ok(Some(planned))
}
