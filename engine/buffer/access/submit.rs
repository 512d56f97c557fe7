//! Submitting: an application's commands, with all that the buffers they use need around them.
//!
//! Kernel counterpart: what a driver's submission ioctl does: lock all reservations (`drm_exec`), check that
//! nothing has moved, collect the fences to wait for, submit, add the job's fence.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::submission::{Submission, Use, Work};
use crate::buffer::attach::{Attachment, Mapping};
use crate::buffer::eviction::restore_together;
use crate::buffer::object::{Buffers, wait_all};
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::State;
use crate::buffer::tracking::age_elsewhere;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::DomainId;
use crate::observe::StallCause;
use crate::residency::policy::Slot;
use crate::sync::{Fence, Index, Locked, TimedOut, Usage, lock_many};

/// Lets `declare` say what is used and done, and submits it. Those that are elsewhere than they want to be
/// are on their way back when they are used next.
pub(crate) fn submit<'a>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<Fence> {
    set.handle_lost_devices();
    let (fence, uses) = submit_once(set, device, declare)?;
    let buffers: SmallVec<[_; 4]> = uses.iter().map(|used| &used.buffer).collect();
    restore_together(set, device.id(), &buffers);
    // Last: who was just used goes last.
    set.poll_budget(device.id());
    Ok(fence)
}

/// The submission itself, with what it uses.
fn submit_once<'a>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<(Fence, SmallVec<[Use; 4]>)> {
    set.core.check(device)?;
    let mut submission = Submission::new(device);
    declare(&mut submission)?;
    let Submission { uses, after, mut work, .. } = submission;
    let buffers = uses.iter().map(|used| &*used.buffer);
    let fence =
        retry_on_oom(set, device.id(), buffers, || work_on(set, device, &uses, &after, &mut work))?;
    Ok((fence, uses))
}

fn work_on(
    set: &Buffers,
    device: &Arc<DeviceInner>,
    uses: &[Use],
    after: &[Fence],
    work: &mut Work<'_>,
) -> Result<Fence> {
    let end = Instant::now() + set.core.timeout;
    loop {
        let (mut locked, seats) = lock_all(set, uses)?;
        // As for a copy: first what no queue can wait for, then the contents are made their owners'.
        let mut pending = all_waits(uses, &seats, &mut locked, after);
        // Before the look at what has failed: what fails after it is in here, and says so.
        let relied_on = all_writers(uses, &seats, &mut locked, after);
        for (used, &seat) in uses.iter().zip(&seats) {
            used.buffer.check_usable(locked.get_mut(seat))?;
            used.buffer.check_generation(used.generation)?;
        }
        if host_part(&pending, device).next().is_none() {
            for (used, &seat) in uses.iter().zip(&seats) {
                used.buffer.own(locked.get_mut(seat))?;
            }
            pending = all_waits(uses, &seats, &mut locked, after);
        }
        let host: Vec<_> = host_part(&pending, device).cloned().collect();
        if !host.is_empty() {
            drop(locked);
            set.core.counters.stalls.during(StallCause::Work, || wait_all(&host, end))?;
            continue;
        }
        // A slot for the fence in each, so that nothing can fail once the commands run.
        for &seat in &seats {
            locked.get_mut(seat).fences.reserve()?;
        }
        let submitted = work.submit(set, device, uses, &pending);
        for (used, &seat) in uses.iter().zip(&seats) {
            let state = locked.get_mut(seat);
            used.buffer.note_submitted(state, &used.written, device.id(), &submitted);
        }
        let fence = submitted?.depends_on(&relied_on);
        for (used, &seat) in uses.iter().zip(&seats) {
            let state = locked.get_mut(seat);
            state.fences.add(used.usage, fence.clone());
        }
        note_uses(set, device.id(), uses, &seats, &mut locked);
        return Ok(fence);
    }
}

/// All that one submission uses ages together, under one lock for each place.
fn note_uses(
    set: &Buffers,
    device: DeviceId,
    uses: &[Use],
    seats: &[Index],
    locked: &mut Locked<'_, State>,
) {
    let mut slots: SmallVec<[(DomainId, Slot); 4]> = SmallVec::new();
    for (used, &seat) in uses.iter().zip(seats) {
        let state = locked.get_mut(seat);
        used.buffer.trace_use(state, Some(device));
        used.buffer.count_access_to(state, device, used.buffer.size);
        used.buffer.line_up_late(state);
        match state.entry.slot() {
            Some(slot) => slots.push((state.entry.order(), slot)),
            None => used.buffer.age_in_no_order(),
        }
    }
    let mut rest = &mut *slots;
    while let Some(&mut (place, _)) = rest.first_mut() {
        // Stable: within a place in the order in which they were said.
        rest.sort_by_key(|(of, _)| *of != place);
        let (here, others) = rest.split_at_mut(rest.partition_point(|(of, _)| *of == place));
        let ages = set
            .core
            .domain_state(place)
            .eviction_list
            .mark_all_used(here.iter().map(|(_, slot)| *slot));
        age_elsewhere(&set.core, Some(place), ages);
        rest = others;
    }
}

/// The same, on mappings that are replaced when they are found to be old.
pub(crate) fn submit_remapped<'a>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    mappings: &mut [(&Attachment, &mut Mapping)],
    mut declare: impl FnMut(&mut Submission<'a>, &[&Mapping]) -> Result<()>,
) -> Result<Fence> {
    // Each turn ends with a submission or an error, unless a buffer has moved again.
    const TURNS: u32 = 100;
    let mut turn = 0;
    set.handle_lost_devices();
    {
        let buffers: SmallVec<[_; 4]> =
            mappings.iter().map(|(attachment, _)| attachment.buffer_inner()).collect();
        restore_together(set, device.id(), &buffers);
    }
    loop {
        turn += 1;
        let result = {
            let current: SmallVec<[&Mapping; 4]> =
                mappings.iter().map(|(_, mapping)| &**mapping).collect();
            submit_once(set, device, |submission| declare(submission, &current))
        };
        match result {
            Err(Error::Stale { .. }) if turn < TURNS => {}
            Err(error) => return Err(error),
            Ok((fence, _)) => {
                set.poll_budget(device.id());
                return Ok(fence);
            }
        }
        for (attachment, mapping) in &mut *mappings {
            if mapping.check_current().is_err() {
                attachment.follow(mapping)?;
            }
        }
    }
}

type Seats = SmallVec<[Index; 4]>;

fn lock_all<'a>(set: &'a Buffers, uses: &'a [Use]) -> Result<(Locked<'a, State>, Seats)> {
    let locked = lock_many(&set.core.queues, set.core.timeout, |set| {
        uses.iter().map(|used| set.lock(&used.buffer.reservation)).collect()
    });
    locked.map_err(|TimedOut| Error::Timeout {
        what: format!("the reservations of {} buffers", uses.len()),
        after: set.core.timeout,
    })
}

fn all_waits(
    uses: &[Use],
    seats: &[Index],
    locked: &mut Locked<'_, State>,
    after: &[Fence],
) -> Vec<Fence> {
    let each = uses.iter().zip(seats).flat_map(|(used, &seat)| used.waits(locked.get_mut(seat)));
    each.chain(after.iter().cloned()).collect()
}

/// Those whose work was to write what the commands use.
fn all_writers(
    uses: &[Use],
    seats: &[Index],
    locked: &mut Locked<'_, State>,
    after: &[Fence],
) -> Vec<Fence> {
    let writers = |used: &Use| match used.usage {
        // Who opts out of order waits for no writer.
        Usage::Bookkeep => Usage::Move,
        _ => Usage::Write,
    };
    let each = uses.iter().zip(seats);
    each.flat_map(|(used, &seat)| locked.get_mut(seat).fences.pending(writers(used)))
        .chain(after.iter().cloned())
        .collect()
}

fn host_part<'a>(pending: &'a [Fence], device: &'a DeviceInner) -> impl Iterator<Item = &'a Fence> {
    pending.iter().filter(|fence| fence.is_for_host(device) && !fence.is_over())
}
