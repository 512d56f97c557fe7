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
use super::come_back::{Held, come_back_together};
use super::mapping::{Mapping, RawView};
use super::shared::{BufferInner, wait_all};
use super::state::State;
use crate::core::Core;
use crate::device::{Body, DeviceId, DeviceInner, Submit};
use crate::error::{Error, Result};
use crate::memory::{DomainId, View};
use crate::observe::StallCause;
use crate::residency::policy::Slot;
use crate::sync::{Fence, Index, Locked, TimedOut, Usage, lock_many, waits_on};
use crate::transfer::{Scope, Span, acquire, release};

/// What a submission uses and does: filled in by the closure given to [`crate::Engine::submit`].
pub struct Submission<'a> {
    device: &'a Arc<DeviceInner>,
    uses: SmallVec<[Use; 4]>,
    after: Vec<Fence>,
    work: Work<'a>,
}

/// What a submission does.
#[derive(Default)]
struct Work<'a> {
    /// Dropped without the reservations: they may own things whose drop takes one.
    records: Vec<Box<dyn FnMut(vk::CommandBuffer) + 'a>>,
    commands: Vec<vk::CommandBuffer>,
}

/// A buffer that is used, where a mapping of it was.
struct Use {
    buffer: Arc<BufferInner>,
    view: Arc<View>,
    offset: u64,
    generation: u32,
    usage: Usage,
    /// Whether it may write.
    writes: bool,
    scope: Scope,
}

impl<'a> Submission<'a> {
    /// The commands read the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn read(&mut self, mapping: &Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Read, Scope::ALL)
    }

    /// The commands write the buffer, in any stage.
    ///
    /// # Errors
    ///
    /// As [`Submission::uses`].
    pub fn write(&mut self, mapping: &Mapping) -> Result<RawView> {
        self.uses(mapping, Access::Write, Scope::ALL)
    }

    /// The commands use the buffer for `access`, in the stages and by the accesses of `scope`; of no stages,
    /// in any. Said twice of a buffer, both hold. The handles are for recording now; nothing is waited for.
    ///
    /// # Errors
    ///
    /// [`Error::WrongAccess`]; [`Error::ForeignMapping`] for a mapping of another device;
    /// [`Error::Stale`] if the buffer has moved; [`Error::Revoked`], [`Error::Purged`], [`Error::Poisoned`];
    /// [`Error::Unsupported`] for stages that the device's queue does not have.
    pub fn uses(&mut self, mapping: &Mapping, access: Access, scope: Scope) -> Result<RawView> {
        mapping.check_access(access)?;
        let scope = if scope.stages.is_empty() { Scope::ALL } else { scope };
        self.device.check_stages(scope.stages)?;
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
    pub fn unordered(&mut self, mapping: &Mapping) -> Result<RawView> {
        self.add(mapping, Usage::Bookkeep, Scope::NONE)
    }

    fn add(&mut self, mapping: &Mapping, usage: Usage, scope: Scope) -> Result<RawView> {
        if !Arc::ptr_eq(mapping.device_inner(), self.device) {
            return Err(Error::ForeignMapping {
                buffer: mapping.buffer_inner().name(),
                device: self.device.name().to_owned(),
            });
        }
        mapping.check_current()?;
        let buffer = mapping.buffer_inner();
        // Who orders it itself says nothing of what it does, but for what it is mapped for.
        let writes = match usage {
            Usage::Bookkeep => mapping.access().writes(),
            usage => usage <= Usage::Write,
        };
        let same = |known: &&mut Use| Arc::ptr_eq(&known.buffer, buffer);
        match self.uses.iter_mut().find(same) {
            Some(known) => {
                known.usage = known.usage.min(usage);
                known.writes |= writes;
                known.scope = known.scope.and(scope);
            }
            None => self.uses.push(Use {
                buffer: Arc::clone(buffer),
                view: mapping.shared_view(),
                offset: mapping.offset(),
                generation: mapping.generation(),
                usage,
                writes,
                scope,
            }),
        }
        Ok(mapping.handles())
    }

    /// Records commands, into a command buffer of peerbuf's.
    ///
    /// Locks: `record` is called once for each attempt (one, unless the driver is out of memory), under the
    /// reservations of all buffers and the queue's lock: it may not
    /// call into peerbuf. What it owns is dropped without them.
    ///
    /// # Safety
    ///
    /// What `record` records is valid for the device's queue family, uses of the buffers only what was
    /// said, and everything else that it uses stays alive until the submission's fence has signalled.
    #[expect(unsafe_code, reason = "only the caller knows what it records")]
    pub unsafe fn record(&mut self, record: impl FnMut(vk::CommandBuffer) + 'a) {
        self.work.records.push(Box::new(record));
    }

    /// Submits command buffers of the application, behind what [`Submission::record`] recorded.
    ///
    /// # Safety
    ///
    /// They are executable, of this device and its queue's family, and neither reset nor freed before the
    /// submission's fence has signalled; otherwise as [`Submission::record`].
    #[expect(unsafe_code, reason = "only the caller knows its command buffers")]
    pub unsafe fn commands(&mut self, commands: &[vk::CommandBuffer]) {
        self.work.commands.extend_from_slice(commands);
    }

    /// The commands wait for `fence` as well. If what it stands for fails they run all the same, and the
    /// submission's fence says so.
    pub fn after(&mut self, fence: &Fence) {
        self.after.push(fence.clone());
    }
}

impl Use {
    /// What must have signalled before the commands may start.
    fn waits(&self, state: &mut State) -> Vec<Fence> {
        // Who opts out of order still waits for moves.
        state.fences.pending(match self.usage {
            Usage::Bookkeep => Usage::Move,
            usage => usage.waits_for(),
        })
    }
}

impl Work<'_> {
    /// Records and submits, behind `pending`.
    #[expect(unsafe_code, reason = "ownership transfers around the application's commands")]
    fn submit(
        &mut self,
        core: &Core,
        device: &Arc<DeviceInner>,
        uses: &[Use],
        pending: &[Fence],
    ) -> Result<Fence> {
        let waits = waits_on(&core.bridges, device, pending)?;
        let (mut spans, mut scope) = (SmallVec::<[Span<'_>; 4]>::new(), Scope::NONE);
        for used in uses.iter().filter(|used| used.usage != Usage::Bookkeep) {
            spans.push(Span { view: &used.view, offset: used.offset, len: used.buffer.size });
            scope = scope.and(used.scope);
        }
        let Self { records, commands } = self;
        let mut before = |commands| {
            if !spans.is_empty() {
                // SAFETY: the queue began `commands` for this device's family.
                unsafe { acquire(device, commands, &spans, scope) };
            }
            records.iter_mut().for_each(|record| record(commands));
        };
        let mut after = |commands| {
            if !spans.is_empty() {
                // SAFETY: as above.
                unsafe { release(device, commands, &spans, scope) };
            }
        };
        let body = Body::Around { before: &mut before, commands, after: &mut after };
        let value = device.submit_as(Submit { waits, body, signal: None })?;
        Ok(Fence::new(device, value))
    }
}

/// How often a driver that is out of memory is given some, for one submission.
const RELIEFS: u32 = 3;

/// Lets `declare` say what is used and done, and submits it. Those that are elsewhere than they want to be are
/// on their way back when they are used next.
pub(crate) fn submit<'a>(
    core: &Core,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<Fence> {
    let (fence, uses) = submit_once(core, device, declare)?;
    let buffers: SmallVec<[_; 4]> = uses.iter().map(|used| &used.buffer).collect();
    come_back_together(core, device.id(), &buffers);
    Ok(fence)
}

/// The submission itself, with what it uses.
fn submit_once<'a>(
    core: &Core,
    device: &'a Arc<DeviceInner>,
    declare: impl FnOnce(&mut Submission<'a>) -> Result<()>,
) -> Result<(Fence, SmallVec<[Use; 4]>)> {
    core.check(device)?;
    let mut submission =
        Submission { device, uses: SmallVec::new(), after: vec![], work: Work::default() };
    declare(&mut submission)?;
    let Submission { uses, after, mut work, .. } = submission;
    let end = Instant::now() + core.timeout;
    let mut relieved = 0;
    loop {
        let (mut locked, seats) = lock_all(core, &uses)?;
        // As for a copy: first what no queue can wait for, then the contents are made their owners'.
        let mut pending = all_waits(&uses, &seats, &mut locked, &after);
        // Before the look at what has failed: what fails after it is in here, and says so.
        let relied_on = all_writers(&uses, &seats, &mut locked, &after);
        for (used, &seat) in uses.iter().zip(&seats) {
            used.buffer.check_usable(locked.get_mut(seat))?;
            used.buffer.check_generation(used.generation)?;
        }
        if host_part(&pending, device).next().is_none() {
            for (used, &seat) in uses.iter().zip(&seats) {
                used.buffer.own(locked.get_mut(seat))?;
            }
            pending = all_waits(&uses, &seats, &mut locked, &after);
        }
        let host: Vec<_> = host_part(&pending, device).cloned().collect();
        if !host.is_empty() {
            drop(locked);
            core.stalls.during(StallCause::Work, || wait_all(&host, end))?;
            continue;
        }
        // A slot for the fence in each, so that nothing can fail once the commands run.
        for (used, &seat) in uses.iter().zip(&seats) {
            let state = locked.get_mut(seat);
            state.fences.reserve()?;
            if used.writes {
                used.buffer.note_write_anywhere(state);
            }
        }
        let fence = match work.submit(core, device, &uses, &pending) {
            Ok(fence) => fence.relying_on(&relied_on),
            // An event, not an end: others make room, and it is tried again.
            Err(error) if error.is_drivers_out_of_memory() && relieved < RELIEFS => {
                drop(locked);
                // Not these themselves.
                let held: Vec<_> = uses.iter().map(|used| Held::new(&used.buffer)).collect();
                core.relieve(device.id(), relieved);
                drop(held);
                relieved += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        for (used, &seat) in uses.iter().zip(&seats) {
            let state = locked.get_mut(seat);
            state.fences.add(used.usage, fence.clone());
        }
        note_uses(core, device.id(), &uses, &seats, &mut locked);
        drop(locked);
        return Ok((fence, uses));
    }
}

/// All that one submission uses ages together, under one lock for each place.
fn note_uses(
    core: &Core,
    device: DeviceId,
    uses: &[Use],
    seats: &[Index],
    locked: &mut Locked<'_, State>,
) {
    let mut slots: SmallVec<[(DomainId, Slot); 4]> = SmallVec::new();
    for (used, &seat) in uses.iter().zip(seats) {
        let state = locked.get_mut(seat);
        used.buffer.trace_use(state, Some(device));
        used.buffer.line_up_late(state);
        slots.extend(state.berth.slot().map(|slot| (state.berth.order(), slot)));
    }
    let mut rest = &mut *slots;
    while let Some(&mut (place, _)) = rest.first_mut() {
        // Stable: within a place in the order in which they were said.
        rest.sort_by_key(|(of, _)| *of != place);
        let (here, others) = rest.split_at_mut(rest.partition_point(|(of, _)| *of == place));
        core.store(place).recency.used_all(here.iter().map(|(_, slot)| *slot));
        rest = others;
    }
}

/// The same, on mappings that are replaced when they are found to be old.
pub(crate) fn submit_remapped<'a>(
    core: &Core,
    device: &'a Arc<DeviceInner>,
    mappings: &mut [(&Attachment, &mut Mapping)],
    mut declare: impl FnMut(&mut Submission<'a>, &[&Mapping]) -> Result<()>,
) -> Result<Fence> {
    // Each turn ends with a submission or an error, unless a buffer has moved again.
    const TURNS: u32 = 100;
    let mut turn = 0;
    {
        let buffers: SmallVec<[_; 4]> =
            mappings.iter().map(|(attachment, _)| attachment.buffer_inner()).collect();
        come_back_together(core, device.id(), &buffers);
    }
    loop {
        turn += 1;
        let result = {
            let current: SmallVec<[&Mapping; 4]> =
                mappings.iter().map(|(_, mapping)| &**mapping).collect();
            submit_once(core, device, |submission| declare(submission, &current))
        };
        match result {
            Err(Error::Stale { .. }) if turn < TURNS => {}
            other => return other.map(|(fence, _)| fence),
        }
        for (attachment, mapping) in &mut *mappings {
            if mapping.check_current().is_err() {
                attachment.follow(mapping)?;
            }
        }
    }
}

type Seats = SmallVec<[Index; 4]>;

fn lock_all<'a>(core: &'a Core, uses: &'a [Use]) -> Result<(Locked<'a, State>, Seats)> {
    let locked = lock_many(&core.queues, core.timeout, |set| {
        uses.iter().map(|used| set.lock(&used.buffer.reservation)).collect()
    });
    locked.map_err(|TimedOut| Error::Timeout {
        what: format!("the reservations of {} buffers", uses.len()),
        after: core.timeout,
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

impl fmt::Debug for Submission<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("device", &self.device.name())
            .field("buffers", &self.uses.len())
            .finish_non_exhaustive()
    }
}
