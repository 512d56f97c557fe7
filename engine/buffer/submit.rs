//! Submissions: an application's commands, with all that the buffers they use need around them.
//!
//! Kernel counterpart: what a driver's submission ioctl does: lock all reservations (`drm_exec`), check that
//! nothing has moved, collect the fences to wait for, submit, add the job's fence.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use ash::vk;
use smallvec::SmallVec;

use super::access::Access;
use super::attachment::Attachment;
use super::mapping::{Mapping, RawView};
use super::shared::wait_all;
use super::state::State;
use crate::core::Core;
use crate::device::{Body, DeviceInner, Submit};
use crate::error::{Error, Result};
use crate::sync::{Fence, Index, Locked, TimedOut, Usage, lock_many, waits_on};
use crate::transfer::{Scope, Span, acquire, release};

/// What a submission uses and does: filled in by the closure given to [`crate::Engine::submit`].
pub struct Submission<'a> {
    device: &'a Arc<DeviceInner>,
    uses: SmallVec<[Use<'a>; 4]>,
    records: Vec<Box<dyn FnOnce(vk::CommandBuffer) + 'a>>,
    commands: Vec<vk::CommandBuffer>,
    after: Vec<Fence>,
}

/// A mapping that is used.
struct Use<'a> {
    mapping: &'a Mapping,
    usage: Usage,
    scope: Scope,
}

impl<'a> Submission<'a> {
    /// The commands read the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn read(&mut self, mapping: &'a Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Read, Scope::ALL)
    }

    /// The commands write the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn write(&mut self, mapping: &'a Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Write, Scope::ALL)
    }

    /// The commands use the buffer for `access`, in the stages and by the accesses of `scope`. Said twice of
    /// a buffer, both hold. The handles are for recording now; nothing is waited for.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAccess`]; [`Error::ForeignMapping`] for a mapping of another device;
    /// [`Error::Stale`] if the buffer has moved.
    pub fn uses(&mut self, mapping: &'a Mapping, access: Access, scope: Scope) -> Result<RawView> {
        mapping.check_access(access)?;
        self.add(mapping, access.usage(), scope)
    }

    /// The commands use the buffer, and the application orders that itself: neither does the submission
    /// wait for the buffer's readers and writers, nor do they for it, nor is ownership transferred. Moves
    /// are waited for all the same, and the buffer's memory stays while the commands run (kernel:
    /// `DMA_RESV_USAGE_BOOKKEEP`).
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn unordered(&mut self, mapping: &'a Mapping) -> Result<RawView> {
        self.add(mapping, Usage::Bookkeep, Scope::NONE)
    }

    fn add(&mut self, mapping: &'a Mapping, usage: Usage, scope: Scope) -> Result<RawView> {
        if !Arc::ptr_eq(mapping.device_inner(), self.device) {
            return Err(Error::ForeignMapping {
                buffer: mapping.buffer_inner().name(),
                device: self.device.name().to_owned(),
            });
        }
        mapping.check_current()?;
        let same = |known: &&mut Use<'_>| {
            Arc::ptr_eq(known.mapping.buffer_inner(), mapping.buffer_inner())
        };
        match self.uses.iter_mut().find(same) {
            Some(known) => {
                known.usage = known.usage.min(usage);
                known.scope = known.scope.and(scope);
            }
            None => self.uses.push(Use { mapping, usage, scope }),
        }
        Ok(mapping.handles())
    }

    /// Records commands, into a command buffer of peerbuf's.
    ///
    /// # Safety
    ///
    /// What `record` records is valid for the device's queue family, uses of the buffers only what was
    /// said, and everything else that it uses stays alive until the submission's fence has signalled.
    #[expect(unsafe_code, reason = "only the caller knows what it records")]
    pub unsafe fn record(&mut self, record: impl FnOnce(vk::CommandBuffer) + 'a) {
        self.records.push(Box::new(record));
    }

    /// Submits command buffers of the application, behind what [`Submission::record`] recorded.
    ///
    /// # Safety
    ///
    /// They are executable, of this device and its queue's family, and neither reset nor freed before the
    /// submission's fence has signalled; otherwise as [`Submission::record`].
    #[expect(unsafe_code, reason = "only the caller knows its command buffers")]
    pub unsafe fn commands(&mut self, commands: &[vk::CommandBuffer]) {
        self.commands.extend_from_slice(commands);
    }

    /// The commands wait for `fence` as well.
    pub fn after(&mut self, fence: &Fence) {
        self.after.push(fence.clone());
    }

    /// What must have signalled before the commands may start.
    fn pending(&self, locked: &mut Locked<'_, State>, seats: &[Index]) -> Vec<Fence> {
        let mut pending = self.after.clone();
        for (used, &seat) in self.uses.iter().zip(seats) {
            // Who opts out of order still waits for moves.
            let waits_for = match used.usage {
                Usage::Bookkeep => Usage::Move,
                usage => usage.waits_for(),
            };
            pending.extend(locked.get_mut(seat).fences.pending(waits_for));
        }
        pending
    }

    /// Records and submits, behind `pending`.
    #[expect(unsafe_code, reason = "ownership transfers around the application's commands")]
    fn submit(self, core: &Core, pending: &[Fence]) -> Result<Fence> {
        let waits = waits_on(&core.bridges, self.device, pending)?;
        let ordered = self.uses.iter().filter(|used| used.usage != Usage::Bookkeep);
        let (mut spans, mut scope) = (SmallVec::<[Span<'_>; 4]>::new(), Scope::NONE);
        for used in ordered {
            spans.push(used.mapping.span());
            scope = scope.and(used.scope);
        }
        let mut records = self.records;
        let device = self.device;
        let mut before = |commands| {
            if !spans.is_empty() {
                // SAFETY: the queue began `commands` for this device's family.
                unsafe { acquire(device, commands, &spans, scope) };
            }
            records.drain(..).for_each(|record| record(commands));
        };
        let mut after = |commands| {
            if !spans.is_empty() {
                // SAFETY: as above.
                unsafe { release(device, commands, &spans, scope) };
            }
        };
        let body =
            Body::Around { before: &mut before, commands: &self.commands, after: &mut after };
        let value = device.submit_as(Submit { waits, body, signal: None })?;
        Ok(Fence::new(device, value))
    }
}

/// Lets `declare` say what is used and done, and submits it.
pub(crate) fn submit<'a>(
    core: &'a Core,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<Fence> {
    core.check(device)?;
    let (uses, records, commands) = (SmallVec::new(), vec![], vec![]);
    let mut submission = Submission { device, uses, records, commands, after: vec![] };
    declare(&mut submission)?;
    let end = Instant::now() + core.timeout;
    loop {
        let (mut locked, seats) = lock_all(core, &submission)?;
        for used in &submission.uses {
            used.mapping.check_current()?;
        }
        // As for a copy: first what no queue can wait for, then the contents are made their owners'.
        let mut pending = submission.pending(&mut locked, &seats);
        let mut host: Vec<_> = host_part(&pending, device);
        if host.is_empty() {
            for (used, &seat) in submission.uses.iter().zip(&seats) {
                used.mapping.buffer_inner().own(locked.get_mut(seat))?;
            }
            pending = submission.pending(&mut locked, &seats);
            host = host_part(&pending, device);
        }
        if !host.is_empty() {
            drop(locked);
            wait_all(&host, end)?;
            continue;
        }
        // A slot for the fence in each, so that nothing can fail once the commands run.
        for &seat in &seats {
            locked.get_mut(seat).fences.reserve()?;
        }
        let usages: SmallVec<[_; 4]> = submission.uses.iter().map(|used| used.usage).collect();
        let fence = submission.submit(core, &pending)?;
        for (usage, &seat) in usages.into_iter().zip(&seats) {
            locked.get_mut(seat).fences.add(usage, fence.clone());
        }
        return Ok(fence);
    }
}

/// The same, on mappings that are replaced when they are found to be old.
pub(crate) fn submit_remapped(
    core: &Core,
    device: &Arc<DeviceInner>,
    mappings: &mut [(&Attachment, &mut Mapping)],
    mut declare: impl for<'m> FnMut(&mut Submission<'m>, &[&'m Mapping]) -> Result<()>,
) -> Result<Fence> {
    // Each turn ends with a submission or an error, unless a buffer has moved again.
    const TURNS: u32 = 100;
    let mut turn = 0;
    loop {
        turn += 1;
        let result = {
            let current: SmallVec<[&Mapping; 4]> =
                mappings.iter().map(|(_, mapping)| &**mapping).collect();
            submit(core, device, |submission| declare(submission, &current))
        };
        match result {
            Err(Error::Stale { .. }) if turn < TURNS => {}
            other => return other,
        }
        for (attachment, mapping) in &mut *mappings {
            if mapping.check_current().is_err() {
                attachment.remap(mapping)?;
            }
        }
    }
}

type Seats = SmallVec<[Index; 4]>;

fn lock_all<'a>(core: &'a Core, submission: &Submission<'a>) -> Result<(Locked<'a, State>, Seats)> {
    let uses = &submission.uses;
    let locked = lock_many(&core.queues, core.timeout, |set| {
        uses.iter().map(|used| set.lock(&used.mapping.buffer_inner().reservation)).collect()
    });
    locked.map_err(|TimedOut| Error::Timeout {
        what: format!("the reservations of {} buffers", uses.len()),
        after: core.timeout,
    })
}

fn host_part(pending: &[Fence], device: &DeviceInner) -> Vec<Fence> {
    let host = pending.iter().filter(|fence| fence.is_for_host(device) && !fence.is_over());
    host.cloned().collect()
}

impl fmt::Debug for Submission<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("device", &self.device.name())
            .field("buffers", &self.uses.len())
            .finish_non_exhaustive()
    }
}
