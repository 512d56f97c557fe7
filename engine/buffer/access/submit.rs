//! Submitting an application's commands, with the waits, ownership transfers and fences that their buffers
//! need.
//!
//! Kernel counterpart: a driver's submission ioctl. It locks all reservations (`drm_exec`), checks that no
//! buffer has moved, collects the fences to wait for, submits, and adds the job's fence.

use std::sync::Arc;

use smallvec::SmallVec;

use super::submission::{Submission, Use, Work};
use crate::buffer::attach::{Attachment, Mapping};
use crate::buffer::eviction::{restore_all_for_use, restore_together};
use crate::buffer::object::{Buffers, Until, wait_all};
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::State;
use crate::buffer::tracking::mark_groups_used;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::DomainId;
use crate::observe::StallCause;
use crate::residency::policy::Slot;
use crate::sync::{Fence, Index, Locked, RejectionWatch, TimedOut, Usage, lock_many};

/// Lets `declare` fill in a submission, and submits it. The contract is that of [`crate::Engine::submit`].
///
/// Afterwards the used buffers that are away from their preferred domain are restored, so that the next
/// submission finds them there.
pub(crate) fn submit<'a>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<Fence> {
    set.handle_lost_devices();
    let (fence, uses) = submit_once(set, device, declare)?;
    let buffers: SmallVec<[_; 4]> = uses.iter().map(|used| &used.buffer).collect();
    restore_together(set, device.id(), &buffers);
    // Last, so that the buffers just used are the last candidates for eviction.
    set.poll_budget(device.id());
    Ok(fence)
}

/// Lets `declare` fill in a submission, and submits it once. Returns its fence and the uses.
fn submit_once<'a>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<(Fence, SmallVec<[Use; 4]>)> {
    set.core.check(device)?;
    let mut submission = Submission::new(device);
    declare(&mut submission)?;
    let Submission { uses, after, mut work, .. } = submission;
    uses.iter().try_for_each(|used| used.buffer.leave_exported())?;
    let buffers = uses.iter().map(|used| &*used.buffer);
    let fence = retry_on_oom(set, device.id(), buffers, || {
        lock_and_submit(set, device, &uses, &after, &mut work)
    })?;
    if device.presents() || work.signals_binary() {
        // No reservation is held: the work of another device may have to end first.
        fence.wait_submitted(set.core.timeout)?;
    }
    Ok((fence, uses))
}

/// Locks all reservations, and submits as soon as only waits are left that the device's queue can make itself.
fn lock_and_submit(
    set: &Buffers,
    device: &Arc<DeviceInner>,
    uses: &[Use],
    after: &[Fence],
    work: &mut Work<'_>,
) -> Result<Fence> {
    let until = Until::Stuck(set.core.timeout);
    loop {
        let (mut locked, indices) = lock_all(set, uses)?;
        // As for a copy: wait first for work that no queue can wait for, then make the contents valid.
        let mut pending = all_waits(uses, &indices, &mut locked, after);
        // Collected before the check for failures: work that fails after it is among these fences, and
        // `depends_on` reports its failure.
        let writers = all_writers(uses, &indices, &mut locked, after);
        for (used, &index) in uses.iter().zip(&indices) {
            used.buffer.check_usable(locked.get_mut(index))?;
            used.buffer.check_generation(used.generation)?;
        }
        if host_waits(&pending, device).next().is_none() {
            for (used, &index) in uses.iter().zip(&indices) {
                used.buffer.make_valid(locked.get_mut(index))?;
            }
            pending = all_waits(uses, &indices, &mut locked, after);
        }
        let host: Vec<_> = host_waits(&pending, device).cloned().collect();
        if !host.is_empty() {
            drop(locked);
            set.core.counters.stalls.during(StallCause::Work, || wait_all(&host, until))?;
            continue;
        }
        // Reserve a slot for the fence in each buffer, so that nothing can fail once the commands run.
        for &index in &indices {
            locked.get_mut(index).fences().reserve()?;
        }
        let watch = RejectionWatch::main(device);
        let submitted = work.submit(set, device, uses, &pending);
        // First of all, and before any code of the application runs: without the fence, a panic there would free
        // memory that the commands use.
        let submitted = submitted.map(|fence| fence.depends_on(&writers));
        let fence = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
        for (used, &index) in uses.iter().zip(&indices) {
            locked.get_mut(index).fences().add(used.usage, fence.clone());
        }
        for (used, &index) in uses.iter().zip(&indices) {
            let state = locked.get_mut(index);
            used.buffer.note_submitted(state, &used.written, device.id(), &submitted);
        }
        let fence = submitted?;
        note_uses(set, device.id(), uses, &indices, &mut locked);
        return Ok(fence);
    }
}

/// Notes all uses of one submission, under one lock for each eviction list.
fn note_uses(
    set: &Buffers,
    device: DeviceId,
    uses: &[Use],
    indices: &[Index],
    locked: &mut Locked<'_, State>,
) {
    let mut slots: SmallVec<[(DomainId, Slot); 4]> = SmallVec::new();
    for (used, &index) in uses.iter().zip(indices) {
        let state = locked.get_mut(index);
        used.buffer.trace_use(state, Some(device));
        used.buffer.count_access_to(state, device, used.buffer.size);
        used.buffer.enlist_late(state);
        match state.entry().slot() {
            Some(slot) => slots.push((state.entry().list_domain(), slot)),
            None => used.buffer.age_unlisted(),
        }
    }
    let mut rest = &mut *slots;
    while let Some(&mut (domain, _)) = rest.first_mut() {
        // A stable sort: within one eviction list the buffers keep the order in which they were declared.
        rest.sort_by_key(|(of, _)| *of != domain);
        let (listed, others) = rest.split_at_mut(rest.partition_point(|(of, _)| *of == domain));
        let ages = set
            .core
            .domain_state(domain)
            .eviction_list
            .mark_all_used(listed.iter().map(|(_, slot)| *slot));
        mark_groups_used(&set.core, Some(domain), ages);
        rest = others;
    }
}

/// Submits as [`submit`] does, and remaps the mappings that turn out to be stale. The contract is that of
/// [`crate::Engine::submit_remapped`].
pub(crate) fn submit_remapped<'a>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    mappings: &mut [(&Attachment, &mut Mapping)],
    mut declare: impl FnMut(&mut Submission<'a>, &[&Mapping]) -> Result<()>,
) -> Result<Fence> {
    // Each attempt ends with a submission or an error, unless a buffer has moved again.
    const ATTEMPTS: u32 = 100;
    let mut attempt = 0;
    set.handle_lost_devices();
    loop {
        attempt += 1;
        // Together, so that none is evicted to restore another one.
        let restored = {
            let buffers: SmallVec<[_; 4]> =
                mappings.iter().map(|(attachment, _)| attachment.buffer_inner()).collect();
            let restored = restore_all_for_use(set, device.id(), &buffers, attempt)?;
            if attempt == 1 {
                restore_together(set, device.id(), &buffers);
            }
            restored
        };
        if attempt > 1 || restored.is_some() {
            for (attachment, mapping) in &mut *mappings {
                if mapping.check_current().is_err() {
                    attachment.remap_only(mapping)?;
                }
            }
        }
        let result = {
            let current: SmallVec<[&Mapping; 4]> =
                mappings.iter().map(|(_, mapping)| &**mapping).collect();
            submit_once(set, device, |submission| declare(submission, &current))
        };
        match result {
            Err(Error::Stale { .. }) if attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok((fence, _)) => {
                set.poll_budget(device.id());
                return Ok(fence);
            }
        }
    }
}

/// The positions of the uses' states in a lock set.
type Indices = SmallVec<[Index; 4]>;

/// Locks the reservations of all uses. The indices are in the order of `uses`.
fn lock_all<'a>(set: &'a Buffers, uses: &'a [Use]) -> Result<(Locked<'a, State>, Indices)> {
    let locked = lock_many(&set.core.queues, set.core.bounds.lock, |set| {
        uses.iter().map(|used| set.lock(&used.buffer.reservation)).collect()
    });
    locked.map_err(|TimedOut| Error::Timeout {
        what: format!("the reservations of {} buffers", uses.len()),
        after: set.core.bounds.lock,
    })
}

/// Locks the reservations of all `buffers`, and calls `work`. The contract is that of `Engine::model_lock`.
#[cfg(feature = "testing")]
pub(crate) fn lock_together<R>(
    set: &Buffers,
    buffers: &[&crate::buffer::SharedBuffer],
    work: impl FnOnce() -> R,
) -> Result<R> {
    let bound = set.core.bounds.lock;
    let locked = lock_many(&set.core.queues, bound, |set| {
        buffers.iter().try_for_each(|buffer| set.lock(&buffer.0.reservation).map(drop))
    });
    let timed_out = |TimedOut| Error::Timeout { what: "the reservations".into(), after: bound };
    let _locked = locked.map_err(timed_out)?;
    Ok(work())
}

/// Returns the fences that the commands must wait for: those of the buffers, and `after`.
fn all_waits(
    uses: &[Use],
    indices: &[Index],
    locked: &mut Locked<'_, State>,
    after: &[Fence],
) -> Vec<Fence> {
    let each =
        uses.iter().zip(indices).flat_map(|(used, &index)| used.waits(locked.get_mut(index)));
    each.chain(after.iter().cloned()).collect()
}

/// Returns the fences whose failure leaves the content of a used buffer undefined, and `after`. The
/// submission's fence depends on them.
fn all_writers(
    uses: &[Use],
    indices: &[Index],
    locked: &mut Locked<'_, State>,
    after: &[Fence],
) -> Vec<Fence> {
    let writes = |used: &Use| match used.usage {
        // Unordered uses wait for no writer, only for moves.
        Usage::Bookkeep => Usage::Move,
        _ => Usage::Write,
    };
    let each = uses.iter().zip(indices);
    each.flat_map(|(used, &index)| locked.get_mut(index).fences().pending(writes(used)))
        .chain(after.iter().cloned())
        .collect()
}

/// Returns the fences that are not over and that the queue of `device` cannot wait for.
fn host_waits<'a>(
    pending: &'a [Fence],
    device: &'a DeviceInner,
) -> impl Iterator<Item = &'a Fence> {
    pending.iter().filter(|fence| fence.is_for_host(device) && !fence.is_over())
}
