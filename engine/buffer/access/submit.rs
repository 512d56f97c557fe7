//! Submitting an application's commands, with the waits, ownership transfers and fences that their buffers
//! need.
//!
//! Kernel counterpart: a driver's submission ioctl. It locks all reservations (`drm_exec`), checks that no
//! buffer has moved, collects the fences to wait for, submits, and adds the job's fence.

use std::sync::Arc;

use smallvec::SmallVec;

use super::notes::{Notes, note_uses};
use super::submission::Submission;
use super::uses::{Use, Uses, Views};
use super::work::Work;
use crate::buffer::attach::{Attachment, Mapping};
use crate::buffer::eviction::{restore_all_for_use, restore_together};
use crate::buffer::object::{Buffers, Until, wait_all};
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::State;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::Content;
use crate::observe::StallCause;
use crate::sync::{
    Fence, Index, LockSet, Locked, Readings, RejectionWatch, ReliedOn, TimedOut, with_locked,
};

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
    let (Submitted { fence, displaced }, uses) = submit_once(set, device, declare)?;
    if displaced || !set.core.auto_migration.is_idle() {
        let buffers: SmallVec<[_; 8]> = uses.iter().map(|used| &*used.buffer).collect();
        restore_together(set, device.id(), &buffers);
    }
    // Last, so that the buffers just used are the last candidates for eviction.
    set.poll_budget(device.id());
    Ok(fence)
}

/// A submission that was made.
struct Submitted {
    fence: Fence,
    /// Whether a used buffer was away from its preferred domain.
    displaced: bool,
}

/// Lets `declare` fill in a submission, and submits it once. Returns the uses as well.
fn submit_once<'a>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<(Submitted, Uses<'a>)> {
    set.core.check(device)?;
    let mut submission = Submission::new(device);
    declare(&mut submission)?;
    let Submission { uses, views, after, mut work, .. } = submission;
    if !set.ended_exports.is_empty() {
        uses.iter().try_for_each(|used| used.buffer.leave_exported())?;
    }
    let buffers = uses.iter().map(|used| &**used.buffer);
    let submitted = retry_on_oom(set, device.id(), buffers, || {
        lock_and_submit(set, device, (&uses, &views), &after, &mut work)
    })?;
    if device.presents() || work.signals_binary() {
        // No reservation is held: the work of another device may have to end first.
        submitted.fence.wait_submitted(set.core.timeout)?;
    }
    Ok((submitted, uses))
}

/// Locks all reservations, and submits as soon as only waits are left that the device's queue can make itself.
fn lock_and_submit(
    set: &Buffers,
    device: &Arc<DeviceInner>,
    (uses, views): (&[Use<'_>], &Views),
    after: &[Fence],
    work: &mut Work<'_>,
) -> Result<Submitted> {
    let until = Until::Stuck(set.core.timeout);
    loop {
        let attempt = |locked: &mut Locked<'_, State>, indices: Indices| {
            submit_locked(set, device, (uses, views), after, work, (locked, &indices[..]))
        };
        match lock_all(set, uses, attempt)? {
            Attempt::Submitted(submitted) => return Ok(submitted),
            Attempt::Waits(host) => {
                set.core.counters.stalls.during(StallCause::Work, || wait_all(&host, until))?;
            }
        }
    }
}

/// What became of an attempt to submit.
enum Attempt {
    Submitted(Submitted),
    /// These must end first, and no queue can wait for them.
    Waits(SmallVec<[Fence; 2]>),
}

/// Submits, unless there is something to wait for. All reservations are held.
fn submit_locked(
    set: &Buffers,
    device: &Arc<DeviceInner>,
    (uses, views): (&[Use<'_>], &Views),
    after: &[Fence],
    work: &mut Work<'_>,
    (locked, indices): (&mut Locked<'_, State>, &[Index]),
) -> Result<Attempt> {
    // As for a copy: wait first for work that no queue can wait for, then make the contents valid.
    let mut order = Order::of(device, after);
    let valid = order.collect(uses, indices, locked)?;
    if !valid && order.host.is_empty() && scrub_all(uses, indices, locked)? {
        // A writer that the first pass found running may have failed while bytes were zeroed.
        order = Order::of(device, after);
        order.collect(uses, indices, locked)?;
    }
    let Order { host, queue, relied, mut readings, .. } = order;
    if !host.is_empty() {
        return Ok(Attempt::Waits(host));
    }
    let watch = RejectionWatch::main(device);
    let submitted = work.submit(set, device, (uses, views), &queue, &mut readings);
    // First of all, and before any code of the application runs: without the fence, a panic there would free
    // memory that the commands use.
    let submitted = submitted.map(|fence| fence.relies_on(relied));
    let fence = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
    let mut notes = Notes::new(set, device.id());
    let (mut displaced, mut noted) = (false, false);
    for (used, &index) in uses.iter().zip(indices) {
        let state = locked.get_mut(index);
        state.fences().add_at(&mut readings, used.usage, &fence);
        // Before a policy of the application runs, too: a clean copy of what is written is not clean.
        if submitted.is_ok() {
            used.buffer.note_writes(state, &used.written);
        }
        displaced |= used.buffer.is_displaced();
        noted |= notes.are_due(&used.buffer, state);
    }
    if submitted.is_err() {
        for (used, &index) in uses.iter().zip(indices) {
            let state = locked.get_mut(index);
            used.buffer.note_submitted(state, &used.written, device.id(), &submitted);
        }
    }
    let fence = submitted?;
    if noted {
        note_uses(set, device.id(), uses, indices, locked);
    }
    Ok(Attempt::Submitted(Submitted { fence, displaced }))
}

/// What a submission waits for and relies on, collected from all of its buffers in one pass.
struct Order<'a> {
    device: &'a DeviceInner,
    /// What was running at the moment of these.
    readings: Readings,
    /// What no queue can wait for.
    host: SmallVec<[Fence; 2]>,
    /// What the device's queue waits for: of each timeline the last fence. Its own work is not among it, since it keeps
    /// its order.
    queue: SmallVec<[Fence; 4]>,
    /// The fences whose failure leaves the content of a used buffer undefined. They are collected before the check for
    /// failures: work that fails after it is among them.
    relied: ReliedOn,
}

impl<'a> Order<'a> {
    /// Begins with the fences that the application has named.
    fn of(device: &'a DeviceInner, after: &[Fence]) -> Self {
        let (host, queue) = (SmallVec::new(), SmallVec::new());
        let (readings, relied) = (Readings::default(), ReliedOn::default());
        let mut order = Self { device, readings, host, queue, relied };
        for fence in after {
            if !fence.is_over_at(&mut order.readings) {
                add_wait(device, (&mut order.host, &mut order.queue), fence);
            }
            order.relied.add(fence, &mut order.readings);
        }
        order
    }

    /// Collects what the uses wait for, checks that all buffers can be used and are where the mappings say, and reserves room
    /// for a fence in each, so that nothing can fail once the commands run. Returns whether the contents are valid.
    fn collect(
        &mut self,
        uses: &[Use<'_>],
        indices: &[Index],
        locked: &mut Locked<'_, State>,
    ) -> Result<bool> {
        let Self { device, readings, host, queue, relied } = self;
        let mut valid = true;
        for (used, &index) in uses.iter().zip(indices) {
            let state = locked.get_mut(index);
            let has_failed = state.fences().each_running(readings, |usage, fence, readings| {
                if used.waits_for(usage) {
                    add_wait(device, (host, queue), fence);
                }
                if used.relies_on(usage) {
                    relied.add(fence, readings);
                }
            });
            if has_failed || used.buffer.check_generation(used.generation).is_err() {
                used.buffer.check_usable(state)?;
                used.buffer.check_generation(used.generation)?;
            }
            state.fences().reserve()?;
            valid &= used.buffer.backing(state)?.content() == Content::Valid;
        }
        Ok(valid)
    }
}

/// Adds a wait for a fence that is running.
fn add_wait(
    device: &DeviceInner,
    (host, queue): (&mut SmallVec<[Fence; 2]>, &mut SmallVec<[Fence; 4]>),
    fence: &Fence,
) {
    if fence.is_for_host(device) {
        host.push(fence.clone());
    } else if !fence.is_on(device) && !queue.iter().any(|known| known.covers(fence)) {
        queue.retain(|known| !fence.covers(known));
        queue.push(fence.clone());
    }
}

/// Makes the content of all buffers valid. Returns whether memory had to be zeroed, which may be work to wait for.
fn scrub_all(uses: &[Use<'_>], indices: &[Index], locked: &mut Locked<'_, State>) -> Result<bool> {
    let mut scrubbed = false;
    for (used, &index) in uses.iter().zip(indices) {
        let state = locked.get_mut(index);
        let content = used.buffer.backing(state)?.content();
        scrubbed |= matches!(content, Content::Stale | Content::Partial);
        used.buffer.make_valid(state)?;
    }
    Ok(scrubbed)
}

/// What a submission uses, through mappings that are replaced if they are stale.
pub(crate) trait Remapped {
    /// The attachments of the buffers.
    fn attachments(&self) -> impl Iterator<Item = &Attachment>;

    /// Replaces the mappings that are stale. Buffers move only where their use requires it.
    ///
    /// # Errors
    ///
    /// As [`Attachment::map`]; [`Error::ForeignMapping`].
    fn remap_stale(&mut self) -> Result<()>;
}

impl Remapped for [(&Attachment, &mut Mapping)] {
    fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.iter().map(|(attachment, _)| *attachment)
    }

    fn remap_stale(&mut self) -> Result<()> {
        self.iter_mut().try_for_each(|(attachment, mapping)| {
            if mapping.check_current().is_err() {
                attachment.remap_only(mapping)?;
            }
            Ok(())
        })
    }
}

impl<A: Remapped + ?Sized, B: Remapped + ?Sized> Remapped for (&mut A, &mut B) {
    fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.0.attachments().chain(self.1.attachments())
    }

    fn remap_stale(&mut self) -> Result<()> {
        self.0.remap_stale()?;
        self.1.remap_stale()
    }
}

/// Submits as [`submit`] does, and remaps the mappings that turn out to be stale. The contract is that of
/// [`crate::Engine::submit_remapped`].
pub(crate) fn submit_remapped<'a, T: Remapped + ?Sized>(
    set: &Buffers,
    device: &'a Arc<DeviceInner>,
    mappings: &mut T,
    mut declare: impl FnMut(&mut Submission<'a>, &T) -> Result<()>,
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
                mappings.attachments().map(Attachment::buffer_inner).collect();
            let restored = restore_all_for_use(set, device.id(), &buffers, attempt)?;
            if attempt == 1 {
                restore_together(set, device.id(), &buffers);
            }
            restored
        };
        if attempt > 1 || restored.is_some() {
            mappings.remap_stale()?;
        }
        match submit_once(set, device, |submission| declare(submission, mappings)) {
            Err(Error::Stale { .. }) if attempt < ATTEMPTS => {}
            Err(error) => return Err(error),
            Ok((submitted, _)) => {
                set.poll_budget(device.id());
                return Ok(submitted.fence);
            }
        }
    }
}

/// The positions of the uses' states in a lock set.
type Indices = SmallVec<[Index; 8]>;

/// Locks the reservations of all uses, and calls `work`. The indices are in the order of `uses`.
fn lock_all<'a, R>(
    set: &'a Buffers,
    uses: &'a [Use<'_>],
    work: impl FnOnce(&mut Locked<'a, State>, Indices) -> Result<R>,
) -> Result<R> {
    let lock = |set: &mut LockSet<'a, State>| {
        set.reserve(uses.len());
        let mut indices = Indices::with_capacity(uses.len());
        for used in uses {
            let at = set.lock(&used.buffer.reservation)?;
            set.get_mut(at).fences().prefetch();
            indices.push(at);
        }
        Ok(indices)
    };
    let bound = set.core.bounds.lock;
    with_locked(&set.core.queues, bound, lock, work).unwrap_or_else(|TimedOut| {
        let what = format!("the reservations of {} buffers", uses.len());
        Err(Error::Timeout { what, after: bound })
    })
}

/// Locks the reservations of all `buffers`, and calls `work`. The contract is that of `Engine::model_lock`.
#[cfg(feature = "testing")]
pub(crate) fn lock_together<'a, R>(
    set: &'a Buffers,
    buffers: &[&'a crate::buffer::SharedBuffer],
    work: impl FnOnce() -> R,
) -> Result<R> {
    let bound = set.core.bounds.lock;
    let lock = |set: &mut LockSet<'a, State>| {
        buffers.iter().for_each(|buffer| buffer.0.reservation.prefetch_lock());
        buffers.iter().try_for_each(|buffer| set.lock(&buffer.0.reservation).map(drop))
    };
    with_locked(&set.core.queues, bound, lock, |_, ()| work())
        .map_err(|TimedOut| Error::Timeout { what: "the reservations".into(), after: bound })
}
