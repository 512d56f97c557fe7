//! Two buffers that are locked together for a copy between them.

use std::sync::Arc;

use crate::access::Access;
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::state::{DirtyRanges, State};
use crate::device::{DeviceId, DeviceInner};
use crate::error::{Error, Result};
use crate::memory::{Allocation, Backing, Content, View, copy_by_host};
use crate::sync::{Fence, Index, Locked, TimedOut, Usage, lock_many, waits_on};
use crate::transfer::path::{self, CopyChoice, CopyConditions, PAUSE};
use crate::transfer::{self, Span};

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

/// Both reservations, locked together.
pub(in crate::buffer) struct Pair<'a> {
    locked: Locked<'a, State>,
    from: Index,
    to: Index,
}

impl<'a> Pair<'a> {
    pub(in crate::buffer) fn lock(
        set: &'a Buffers,
        from: &'a BufferInner,
        to: &'a BufferInner,
    ) -> Result<Self> {
        let both = lock_many(&set.core.queues, set.core.timeout, |set| {
            Ok((set.lock(&from.reservation)?, set.lock(&to.reservation)?))
        });
        let (locked, (from, to)) = both.map_err(|TimedOut| Error::Timeout {
            what: format!("the reservations of {} and {}", from.name(), to.name()),
            after: set.core.timeout,
        })?;
        Ok(Self { locked, from, to })
    }

    pub(in crate::buffer) fn from(&mut self) -> &mut State {
        self.locked.get_mut(self.from)
    }

    pub(in crate::buffer) fn to(&mut self) -> &mut State {
        self.locked.get_mut(self.to)
    }

    /// Both are being used.
    pub(in crate::buffer) fn note_use(
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
        let mut waits = self.from().fences.pending(Usage::from(Access::Read).waits_for());
        waits.extend(self.to().fences.pending(Usage::from(Access::Write).waits_for()));
        waits
    }

    /// Those whose work was to write either.
    pub(in crate::buffer) fn writers(&mut self) -> Vec<Fence> {
        let mut writers = self.from().fences.pending(Usage::Write);
        writers.extend(self.to().fences.pending(Usage::Write));
        writers
    }

    /// That of it which the host must wait for: everything if no device copies.
    pub(in crate::buffer) fn host_waits(&mut self, executor: Option<&DeviceInner>) -> Vec<Fence> {
        let mut waits = self.waits();
        waits.retain(|fence| executor.is_none_or(|device| fence.is_for_host(device)));
        waits
    }

    /// What a pass on `device` must wait for: what its own queue does not keep in order.
    pub(in crate::buffer) fn waits_elsewhere(&mut self, device: &DeviceInner) -> Vec<Fence> {
        let mut waits = self.waits();
        waits.retain(|fence| !fence.is_on(device));
        waits
    }

    /// Makes both contents their owners'. A destination that one submission overwrites whole needs no
    /// scrub: [`Pair::copy_on`] makes it its owner's when the copy is under way, and not before, since
    /// a copy that fails leaves the old owner's bytes there.
    pub(in crate::buffer) fn own(
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
    pub(in crate::buffer) fn copy_by_host(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        region: CopyRegion,
    ) -> Result<bool> {
        self.note_use(from, to, None);
        let source = Arc::clone(from.backing(self.from())?.allocation());
        let target = Arc::clone(to.backing(self.to())?.allocation());
        let quick = source.is_fast_for_host() && target.is_fast_for_host();
        let (bytes, idle) = (region.len, quick && self.is_unused());
        let conditions = CopyConditions { bytes, one_device: true, quick, idle, divisible: false };
        // As a move of the destination would measure it.
        let speeds = to.core().known_speeds(to.home_id()).unwrap_or(path::assumed());
        if path::choose(conditions, speeds, PAUSE) != CopyChoice::Host {
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
            to.backing_mut(self.to())?.make_valid();
        }
        Ok(copied)
    }

    /// Whether nothing at all is under way on either, and no access of the host is open.
    fn is_unused(&mut self) -> bool {
        let idle = |state: &mut State| state.host() == 0 && state.fences.is_idle();
        idle(self.from()) && idle(self.to())
    }

    /// Submits the copy, behind the work of other devices; `Ok(None)` if `device` no longer sees both.
    pub(in crate::buffer) fn copy_on(
        &mut self,
        set: &Buffers,
        to_buffer: &BufferInner,
        device: &Arc<DeviceInner>,
        region: CopyRegion,
        writers: &[Fence],
    ) -> Result<Option<Fence>> {
        let seen = |state: &State| {
            let backing = state.location.backing()?;
            Some((backing.allocation().existing_view(device.id())?, backing.offset()))
        };
        let (Some(from), Some(to)) = (seen(self.from()), seen(self.to())) else {
            return Ok(None);
        };
        let len = region.len;
        let source = Span { view: &from.0, offset: from.1 + region.from, len };
        let target = Span { view: &to.0, offset: to.1 + region.to, len };
        let waits = waits_on(&set.core.bridges, device, &self.waits())?;
        let submitted = transfer::copy(device, waits, source, target);
        let written = DirtyRanges::of(region.to..region.to + len, to_buffer.size);
        to_buffer.note_submitted(self.to(), &written, device.id(), &submitted);
        let fence = submitted?.depends_on(writers);
        self.from().fences.add(Usage::Read, fence.clone());
        // Where it takes the place of a scrub, everybody waits for it, as for one.
        let state = self.to();
        let target = state.location.backing_mut();
        let scrubs = target.as_ref().is_some_and(|backing| backing.content() == Content::Stale);
        target.into_iter().for_each(Backing::make_valid);
        let usage = if scrubs { Usage::Move } else { Usage::Write };
        state.fences.add(usage, fence.clone());
        Ok(Some(fence))
    }

    /// Keeps both where they are, and enters `fence` for work of the host.
    pub(in crate::buffer) fn hold(
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

pub(in crate::buffer) fn view(
    buffer: &BufferInner,
    allocation: &Allocation,
    device: &Arc<DeviceInner>,
) -> Result<Arc<View>> {
    if let Some(view) = allocation.existing_view(device.id()) {
        return Ok(view);
    }
    allocation.view(device, buffer.take(allocation.provider(), device)?)
}
