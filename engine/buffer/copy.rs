//! Copying between two buffers, whatever devices they belong to.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::access::Access;
use super::dirty::Dirty;
use super::relief::with_relief;
use super::shared::{BufferInner, SharedBuffer, wait_all};
use super::state::State;
use crate::core::Core;
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{Allocation, Backing, Content, View, copy_by_host};
use crate::observe::StallCause;
use crate::sync::{Fence, Index, Locked, TimedOut, Usage, lock_many, waits_on};
use crate::transfer::mover::{self, PAUSE, Places, Way};
use crate::transfer::{self, Span, Unfinished};

/// Which bytes a copy moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRegion {
    /// First byte in the source.
    pub from: u64,
    /// First byte in the destination.
    pub to: u64,
    /// How many bytes.
    pub len: u64,
}

impl CopyRegion {
    /// The first `len` bytes of both.
    pub fn first(len: u64) -> Self {
        Self { from: 0, to: 0, len }
    }
}

/// Copies, on the GPU where one device sees both buffers, else through staging memory.
pub(crate) fn copy(
    core: &Arc<Core>,
    from: &SharedBuffer,
    to: &SharedBuffer,
    region: CopyRegion,
) -> Result<Fence> {
    let (from, to) = (&from.0, &to.0);
    core.give_up_lost();
    check(core, from, to, region)?;
    if region.len == 0 {
        return Ok(Fence::signalled());
    }
    let by_host = || Pair::lock(core, from, to)?.copy_by_host(from, to, region);
    if with_relief(core, to.home_id(), [&**from, &**to], by_host)? {
        return Ok(Fence::signalled());
    }
    let mut allowance = core.throttle.submission();
    for buffer in [from, to] {
        buffer.come_back(to.home_id(), &mut allowance);
        buffer.attract(to.home_id(), &mut allowance);
    }
    with_relief(core, to.home_id(), [&**from, &**to], || copy_once(core, from, to, region))
}

fn copy_once(
    core: &Arc<Core>,
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
    region: CopyRegion,
) -> Result<Fence> {
    let end = Instant::now() + core.timeout;
    loop {
        let executor = find_executor(from, to)?;
        let mut pair = Pair::lock(core, from, to)?;
        // What no queue can wait for is waited for first, then the contents are made their owners', which
        // may submit something that has to be waited for in turn: a move that is under way relies on
        // nobody touching the buffer.
        let mut waits = pair.host_waits(executor.as_deref());
        // Before the look at what has failed: what fails after it is in here, and the copy's fence says so.
        let writers = pair.writers();
        from.check_usable(pair.from())?;
        to.check_usable(pair.to())?;
        if waits.is_empty() {
            pair.own(from, to, region, executor.is_some())?;
            waits = pair.host_waits(executor.as_deref());
        }
        if !waits.is_empty() {
            drop(pair);
            core.stalls.during(StallCause::Work, || wait_all(&waits, end))?;
            continue;
        }
        match executor {
            Some(device) => {
                if let Some(fence) = pair.copy_on(core, to, &device, region, &writers)? {
                    from.note_pull(pair.from(), device.id(), region.len);
                    to.note_pull(pair.to(), device.id(), region.len);
                    return Ok(fence);
                }
                // One of the two moved since the executor was found.
            }
            None => return staged(core, from, to, pair, region),
        }
    }
}

fn check(core: &Arc<Core>, from: &BufferInner, to: &BufferInner, region: CopyRegion) -> Result<()> {
    for buffer in [from, to] {
        if !Arc::ptr_eq(core, &buffer.core) {
            return Err(Error::ForeignEngine { what: "a buffer" });
        }
    }
    from.check_range(region.from, region.len)?;
    to.check_range(region.to, region.len)?;
    let (a, b, len) = (region.from, region.to, region.len);
    if std::ptr::eq(from, to) && len > 0 && a < b + len && b < a + len {
        return Err(Error::Overlap { buffer: from.name(), from: a, to: b, len });
    }
    Ok(())
}

/// A device that sees both buffers, the destination's home first. It gets its views here, without any
/// reservation, since that may prove a route.
fn find_executor(
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
) -> Result<Option<Arc<DeviceInner>>> {
    let place = |buffer: &BufferInner| {
        let state = buffer.lock();
        buffer.backing(&state).map(|backing| Arc::clone(backing.allocation()))
    };
    let sides = [(from, place(from)?), (to, place(to)?)];
    let mut devices: SmallVec<[Arc<DeviceInner>; 2]> = SmallVec::new();
    for home in [to.home(), from.home()] {
        if !devices.iter().any(|device| device.id() == home.id()) {
            devices.push(home);
        }
    }
    Ok(devices.into_iter().find(|device| {
        sides.iter().all(|(buffer, allocation)| view(buffer, allocation, device).is_ok())
    }))
}

fn view(
    buffer: &BufferInner,
    allocation: &Allocation,
    device: &Arc<DeviceInner>,
) -> Result<Arc<View>> {
    if let Some(view) = allocation.existing_view(device.id()) {
        return Ok(view);
    }
    allocation.view(device, buffer.take(allocation.provider(), device)?)
}

/// Both reservations, locked together.
pub(super) struct Pair<'a> {
    locked: Locked<'a, State>,
    from: Index,
    to: Index,
}

impl<'a> Pair<'a> {
    pub(super) fn lock(core: &'a Core, from: &'a BufferInner, to: &'a BufferInner) -> Result<Self> {
        let both = lock_many(&core.queues, core.timeout, |set| {
            Ok((set.lock(&from.reservation)?, set.lock(&to.reservation)?))
        });
        let (locked, (from, to)) = both.map_err(|TimedOut| Error::Timeout {
            what: format!("the reservations of {} and {}", from.name(), to.name()),
            after: core.timeout,
        })?;
        Ok(Self { locked, from, to })
    }

    pub(super) fn from(&mut self) -> &mut State {
        self.locked.get_mut(self.from)
    }

    pub(super) fn to(&mut self) -> &mut State {
        self.locked.get_mut(self.to)
    }

    /// Both are being used.
    pub(super) fn note_use(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        device: Option<DeviceId>,
    ) {
        from.note_use(self.from(), device);
        to.note_use(self.to(), device);
    }

    /// What a copy must wait for.
    fn waits(&mut self) -> Vec<Fence> {
        let mut waits = self.from().fences.pending(Access::Read.usage().waits_for());
        waits.extend(self.to().fences.pending(Access::Write.usage().waits_for()));
        waits
    }

    /// Those whose work was to write either.
    pub(super) fn writers(&mut self) -> Vec<Fence> {
        let mut writers = self.from().fences.pending(Usage::Write);
        writers.extend(self.to().fences.pending(Usage::Write));
        writers
    }

    /// That of it which the host must wait for: everything if no device copies.
    fn host_waits(&mut self, executor: Option<&DeviceInner>) -> Vec<Fence> {
        let mut waits = self.waits();
        waits.retain(|fence| executor.is_none_or(|device| fence.is_for_host(device)));
        waits
    }

    /// What a pass on `device` must wait for: what its own queue does not keep in order.
    pub(super) fn waits_elsewhere(&mut self, device: &DeviceInner) -> Vec<Fence> {
        let mut waits = self.waits();
        waits.retain(|fence| !fence.is_on(device));
        waits
    }

    /// Makes both contents their owners'. A destination that one submission overwrites whole needs no
    /// scrub: [`Pair::copy_on`] makes it its owner's when the copy is under way, and not before, since
    /// a copy that fails leaves the old owner's bytes there.
    fn own(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        region: CopyRegion,
        at_once: bool,
    ) -> Result<()> {
        from.own(self.from())?;
        let state = self.to();
        let backing = to.backing(state)?;
        let whole = region.len == backing.extent(to.size);
        if at_once && whole && backing.content() == Content::Stale {
            return Ok(());
        }
        to.own(state)
    }

    /// Has the host copy where that is sooner over than a submission. `Ok(false)` if a device is to copy.
    #[expect(unsafe_code, reason = "copying between mapped memory that nobody else uses")]
    fn copy_by_host(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        region: CopyRegion,
    ) -> Result<bool> {
        self.note_use(from, to, None);
        let source = Arc::clone(from.backing(self.from())?.allocation());
        let target = Arc::clone(to.backing(self.to())?.allocation());
        let quick = source.is_quick_for_host() && target.is_quick_for_host();
        let (bytes, idle) = (region.len, quick && self.is_unused());
        let places = Places { bytes, one_device: true, quick, idle, divisible: false };
        // As a move of the destination would measure it.
        let speeds = to.core.known_speeds(to.home_id()).unwrap_or(mover::assumed());
        if mover::choose(places, speeds, PAUSE) != Way::Host {
            return Ok(false);
        }
        from.check_usable(self.from())?;
        to.check_usable(self.to())?;
        self.own(from, to, region, true)?;
        if !self.is_unused() {
            // A device scrubs.
            return Ok(false);
        }
        let source = (&*source, from.backing(self.from())?.offset() + region.from);
        let target = (&*target, to.backing(self.to())?.offset() + region.to);
        // SAFETY: the region was checked against both buffers, which by their invariants have so many
        // bytes there, and against overlap; both reservations are held, and neither is in use.
        let copied = unsafe { copy_by_host(source, target, region.len) };
        // An error may be of what comes after the bytes.
        if !matches!(copied, Ok(false)) {
            to.note_write(self.to(), region.to..region.to + region.len);
        }
        let copied = copied?;
        if copied {
            to.backing_mut(self.to())?.own();
        }
        Ok(copied)
    }

    /// Whether nothing at all is under way on either, and no access of the host is open.
    fn is_unused(&mut self) -> bool {
        let idle = |state: &mut State| state.host() == 0 && state.fences.is_idle();
        idle(self.from()) && idle(self.to())
    }

    /// Submits the copy, behind the work of other devices; `Ok(None)` if `device` no longer sees both.
    fn copy_on(
        &mut self,
        core: &Core,
        to_buffer: &BufferInner,
        device: &Arc<DeviceInner>,
        region: CopyRegion,
        writers: &[Fence],
    ) -> Result<Option<Fence>> {
        let seen = |state: &State| {
            let backing = state.place.backing()?;
            Some((backing.allocation().existing_view(device.id())?, backing.offset()))
        };
        let (Some(from), Some(to)) = (seen(self.from()), seen(self.to())) else {
            return Ok(None);
        };
        let len = region.len;
        let source = Span { view: &from.0, offset: from.1 + region.from, len };
        let target = Span { view: &to.0, offset: to.1 + region.to, len };
        let waits = waits_on(&core.bridges, device, &self.waits())?;
        let submitted = transfer::copy(device, waits, source, target);
        let written = Dirty::of(region.to..region.to + len, to_buffer.size);
        to_buffer.note_submitted(self.to(), &written, device.id(), &submitted);
        let fence = submitted?.relying_on(writers);
        self.from().fences.add(Usage::Read, fence.clone());
        // Where it takes the place of a scrub, everybody waits for it, as for one.
        let state = self.to();
        let target = state.place.backing_mut();
        let scrubs = target.as_ref().is_some_and(|backing| backing.content() == Content::Stale);
        target.into_iter().for_each(Backing::own);
        let usage = if scrubs { Usage::Move } else { Usage::Write };
        state.fences.add(usage, fence.clone());
        Ok(Some(fence))
    }

    /// Keeps both where they are, and enters `fence` for work of the host.
    fn hold(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        fence: &Fence,
    ) -> Result<[(Arc<Allocation>, u64); 2]> {
        let place = |buffer: &BufferInner, state: &State| {
            let backing = buffer.backing(state)?;
            Ok::<_, Error>((Arc::clone(backing.allocation()), backing.offset()))
        };
        let places = [place(from, self.from())?, place(to, self.to())?];
        for (state, usage) in [(self.from, Usage::Read), (self.to, Usage::Write)] {
            let state = self.locked.get_mut(state);
            state.begin_access();
            state.fences.add(usage, fence.clone());
        }
        Ok(places)
    }
}

/// No device sees both: each home moves its part through staging memory, and the host between them.
/// Returns when it is done, without holding a reservation meanwhile; a host fence keeps others away.
fn staged(
    core: &Arc<Core>,
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
    mut pair: Pair<'_>,
    region: CopyRegion,
) -> Result<Fence> {
    let (fence, signal) = Fence::host();
    to.note_write(pair.to(), region.to..region.to + region.len);
    let [source, target] = pair.hold(from, to, &fence)?;
    drop(pair);
    let done = staged_between(core, from, &source, to, &target, region);
    let (result, reading, writing) = match done {
        Ok(()) => (Ok(Fence::signalled()), vec![], vec![]),
        Err(Unfinished { error, reading, writing }) => (Err(error), reading, writing),
    };
    for (buffer, usage, left) in [(from, Usage::Read, reading), (to, Usage::Write, writing)] {
        let mut state = buffer.lock();
        state.end_access();
        left.into_iter().for_each(|fence| state.fences.add(usage, fence));
    }
    drop(signal);
    result
}

fn staged_between(
    core: &Arc<Core>,
    from: &Arc<BufferInner>,
    source: &(Arc<Allocation>, u64),
    to: &Arc<BufferInner>,
    target: &(Arc<Allocation>, u64),
    region: CopyRegion,
) -> Result<(), Unfinished> {
    let (near, far) = (from.home(), to.home());
    let nothing = |error| Unfinished { error, reading: vec![], writing: vec![] };
    let from_view = view(from, &source.0, &near).map_err(nothing)?;
    let to_view = view(to, &target.0, &far).map_err(nothing)?;
    let near = core.staging(&near).map_err(nothing)?;
    let far = core.staging(&far).map_err(nothing)?;
    let span = |view, offset| Span { view, offset, len: region.len };
    let from = span(&from_view, source.1 + region.from);
    let to = span(&to_view, target.1 + region.to);
    transfer::staged_copy((from, &near), (to, &far), core.timeout)
}
