//! Two buffers whose reservations are locked together, for a copy between them.

use std::borrow::BorrowMut;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::access::Access;
use crate::buffer::object::{BufferInner, Buffers};
use crate::buffer::state::{DirtyRanges, State};
use crate::device::{DeviceId, DeviceInner, QueueKind, Timestamps};
use crate::error::{Error, Result};
use crate::memory::{Allocation, Backing, Content, HostWait, View, copy_by_host};
use crate::sync::{
    Fence, Fences, Index, Locked, RejectionWatch, Retired, TimedOut, Usage, lock_many,
    waits_of_move, waits_on, with_locked,
};
use crate::transfer::path::{self, CopyChoice, CopyConditions, PAUSE};
use crate::transfer::{self, CopySpeeds, Refusal, RefusalReason, Route, Span};

/// The bytes that a copy transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRegion {
    /// Offset of the first byte in the source.
    pub from: u64,
    /// Offset of the first byte in the destination.
    pub to: u64,
    /// Number of bytes.
    pub len: u64,
}

impl CopyRegion {
    /// Returns the region of the first `len` bytes of both buffers.
    pub fn first(len: u64) -> Self {
        Self { from: 0, to: 0, len }
    }
}

/// The locked reservations of the source and the destination, which may be the same buffer.
pub(super) struct Pair<'a, L = Locked<'a, State>> {
    locked: L,
    from: Index,
    to: Index,
    /// What is locked.
    of: PhantomData<&'a State>,
}

/// Calls `work` with the reservations of both buffers locked. A lock set is long, and this does not copy it.
pub(super) fn with_pair<'a, R>(
    set: &'a Buffers,
    from: &'a BufferInner,
    to: &'a BufferInner,
    work: impl FnOnce(&mut Pair<'a, &mut Locked<'a, State>>) -> Result<R>,
) -> Result<R> {
    with_locked(
        &set.core.queues,
        set.core.bounds.lock,
        |set| Ok((set.lock(&from.reservation)?, set.lock(&to.reservation)?)),
        |locked, (from, to)| work(&mut Pair { locked, from, to, of: PhantomData }),
    )
    .unwrap_or_else(|TimedOut| Err(timed_out(set, from, to)))
}

fn timed_out(set: &Buffers, from: &BufferInner, to: &BufferInner) -> Error {
    let what = format!("the reservations of {} and {}", from.name(), to.name());
    Error::Timeout { what, after: set.core.bounds.lock }
}

impl<'a> Pair<'a> {
    pub(super) fn lock(
        set: &'a Buffers,
        from: &'a BufferInner,
        to: &'a BufferInner,
    ) -> Result<Self> {
        let both = lock_many(&set.core.queues, set.core.bounds.lock, |set| {
            Ok((set.lock(&from.reservation)?, set.lock(&to.reservation)?))
        });
        let (locked, (from, to)) = both.map_err(|TimedOut| timed_out(set, from, to))?;
        Ok(Self { locked, from, to, of: PhantomData })
    }
}

impl<'a, L: BorrowMut<Locked<'a, State>>> Pair<'a, L> {
    fn locked(&mut self) -> &mut Locked<'a, State> {
        self.locked.borrow_mut()
    }

    fn get_locked(&self) -> &Locked<'a, State> {
        self.locked.borrow()
    }

    pub(super) fn from(&mut self) -> &mut State {
        let at = self.from;
        self.locked().get_mut(at)
    }

    pub(super) fn to(&mut self) -> &mut State {
        let at = self.to;
        self.locked().get_mut(at)
    }

    fn get_from(&self) -> &State {
        self.get_locked().get(self.from)
    }

    fn get_to(&self) -> &State {
        self.get_locked().get(self.to)
    }

    /// Notes a use of both buffers, by `device` or, if `None`, by the host.
    pub(super) fn note_use(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        device: Option<DeviceId>,
    ) {
        from.note_use(self.from(), device);
        to.note_use(self.to(), device);
    }

    /// Checks that both buffers can be used, and that their bytes are not lost.
    pub(super) fn check_usable(&mut self, from: &BufferInner, to: &BufferInner) -> Result<()> {
        from.check_usable(self.from())?;
        to.check_usable(self.to())
    }

    /// Returns the fences that a copy must wait for.
    fn waits(&mut self) -> Vec<Fence> {
        let mut waits = self.from().fences().pending(Usage::from(Access::Read).waits_for());
        waits.extend(self.to().fences().pending(Usage::from(Access::Write).waits_for()));
        waits
    }

    /// Returns the fences of work that writes either buffer. The fence of a copy depends on them.
    pub(super) fn writers(&mut self) -> Vec<Fence> {
        let mut writers = self.from().fences().pending(Usage::Write);
        writers.extend(self.to().fences().pending(Usage::Write));
        writers
    }

    /// Returns the fences that the host must wait for, because the queue of `executor` cannot. Without an
    /// executor these are all that a copy must wait for.
    pub(super) fn host_waits(&mut self, executor: Option<&DeviceInner>) -> Vec<Fence> {
        let mut waits = self.waits();
        waits.retain(|fence| executor.is_none_or(|device| fence.is_for_host(device)));
        waits
    }

    /// Returns the fences that a compute pass on `device` must wait for. Work on the device's own queue is not
    /// among them: the queue keeps its order.
    pub(super) fn waits_of_other_queues(&mut self, device: &DeviceInner) -> Vec<Fence> {
        let mut waits = self.waits();
        waits.retain(|fence| !fence.is_on(device));
        waits
    }

    /// Makes the content of both buffers valid.
    ///
    /// A destination that one submission overwrites whole needs no scrub. [`Pair::copy_on`] makes it valid once
    /// the copy is submitted, and not before: a copy that fails leaves the earlier owner's bytes there.
    pub(super) fn make_valid(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        region: CopyRegion,
        one_submission: bool,
    ) -> Result<()> {
        from.make_valid(self.from())?;
        let state = self.to();
        let backing = to.backing(state)?;
        let whole = region.len == backing.extent(to.size);
        if one_submission && whole && backing.content() == Content::Stale {
            return Ok(());
        }
        to.make_valid(state)
    }

    /// Copies by the host, if that is faster than a submission. `Ok(false)` if a device must copy.
    #[expect(unsafe_code, reason = "copying between mapped memory that is not in use")]
    pub(super) fn copy_by_host(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        region: CopyRegion,
    ) -> Result<bool> {
        self.note_use(from, to, None);
        if !self.is_idle() {
            return Ok(false);
        }
        let [source, target] = [from.backing(self.get_from())?, to.backing(self.get_to())?];
        let quick = [source, target].iter().all(|end| end.allocation().is_fast_for_host());
        let is_valid = [source, target].iter().all(|end| end.content() == Content::Valid);
        if !quick || !is_for_host(region.len, speeds(to)) {
            return Ok(false);
        }
        self.check_usable(from, to)?;
        if !is_valid {
            self.make_valid(from, to, region, true)?;
            if !self.is_idle() {
                // A device scrubs one of the buffers.
                return Ok(false);
            }
            // One that was to has failed.
            self.check_usable(from, to)?;
        }
        let [source, target] = [from.backing(self.get_from())?, to.backing(self.get_to())?];
        let source = (&**source.allocation(), source.offset() + region.from);
        let target = (&**target.allocation(), target.offset() + region.to);
        // SAFETY: the region was checked against both buffers, which by their invariants have so many
        // bytes there, and against overlap; both reservations are held, and neither is in use.
        let copied = unsafe { copy_by_host(source, target, region.len, HostWait::Never) };
        // The call may fail after the bytes were copied.
        if !matches!(copied, Ok(false)) {
            to.note_write(self.to(), region.to..region.to + region.len);
        }
        let copied = copied?;
        if copied && !is_valid {
            to.backing_mut(self.to())?.make_valid();
        }
        Ok(copied)
    }

    /// Whether both buffers have no pending fence and no open host access.
    pub(super) fn is_idle(&mut self) -> bool {
        let idle = |state: &mut State| state.host() == 0 && state.fences().is_idle();
        idle(self.from()) && idle(self.to())
    }

    /// Submits the copy to the main queue of `device`, ordered after the work of other devices. `Ok(None)` if `device` no
    /// longer sees both buffers.
    pub(super) fn copy_on(
        &mut self,
        set: &Buffers,
        to_buffer: &BufferInner,
        device: &Arc<DeviceInner>,
        region: CopyRegion,
        writers: &[Fence],
    ) -> Result<Option<Fence>> {
        self.copy_on_lane(set, to_buffer, ((device, QueueKind::Main), None), region, writers)
    }

    /// As [`Pair::copy_on`], on a given queue, between two timestamps if there are some.
    pub(super) fn copy_on_lane(
        &mut self,
        set: &Buffers,
        to_buffer: &BufferInner,
        ((device, lane), stamps): ((&Arc<DeviceInner>, QueueKind), Option<&Arc<Timestamps>>),
        region: CopyRegion,
        writers: &[Fence],
    ) -> Result<Option<Fence>> {
        let view_of = |state: &State| {
            let backing = state.location().backing()?;
            Some((backing.allocation().existing_view(device.id())?, backing.offset()))
        };
        let (Some(from), Some(to)) = (view_of(self.from()), view_of(self.to())) else {
            return Ok(None);
        };
        let len = region.len;
        let source = Span { view: &from.0, offset: from.1 + region.from, len };
        let target = Span { view: &to.0, offset: to.1 + region.to, len };
        let bridges = &set.core.bridges;
        let waits = match lane {
            QueueKind::Main => waits_on(bridges, device, &self.waits()),
            QueueKind::Transfer => waits_of_move(bridges, device, &self.waits()),
        }?;
        let watch = RejectionWatch::new(device, lane);
        let both = [source, target];
        let submitted =
            transfer::copy_on((device, lane), waits, both, stamps.map(|stamps| &**stamps));
        let submitted = submitted.map(|fence| fence.depends_on(writers));
        let fence = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
        if let Some(stamps) = stamps {
            let mut fences = Fences::default();
            fences.add(Usage::Bookkeep, fence.clone());
            set.core.retire.push(fences, Retired::Timestamps(Arc::clone(stamps)));
        }
        self.from().fences().add(Usage::Read, fence.clone());
        // A copy that replaces a scrub is a `Move`, which all later uses wait for, as for the scrub.
        let state = self.to();
        let target = state.location_mut().backing_mut();
        let scrubs = target.as_ref().is_some_and(|backing| backing.content() == Content::Stale);
        if submitted.is_ok() {
            target.into_iter().for_each(Backing::make_valid);
        }
        let usage = if scrubs { Usage::Move } else { Usage::Write };
        state.fences().add(usage, fence);
        let written = DirtyRanges::of(region.to..region.to + region.len, to_buffer.size);
        to_buffer.note_submitted(self.to(), &written, device.id(), &submitted);
        submitted.map(Some)
    }

    /// Begins a copy by the host: keeps both buffers in their backings, and adds `fence` to both. Returns the
    /// allocations and offsets. The caller ends the access of each buffer.
    pub(super) fn begin_host_copy(
        &mut self,
        from: &BufferInner,
        to: &BufferInner,
        fence: &Fence,
    ) -> Result<[(Arc<Allocation>, u64); 2]> {
        let locate = |buffer: &BufferInner, state: &State| {
            let backing = buffer.backing(state)?;
            Ok::<_, Error>((Arc::clone(backing.allocation()), backing.offset()))
        };
        let located = [locate(from, self.from())?, locate(to, self.to())?];
        for (index, usage) in [(self.from, Usage::Read), (self.to, Usage::Write)] {
            let state = self.locked().get_mut(index);
            state.begin_access();
            state.fences().add(usage, fence.clone());
        }
        Ok(located)
    }
}

/// Whether the host copies so many bytes, between idle buffers that it reaches at full speed.
fn is_for_host(bytes: u64, speeds: &CopySpeeds) -> bool {
    let conditions =
        CopyConditions { bytes, one_device: true, quick: true, idle: true, divisible: false };
    bytes <= speeds.host_limit() || path::choose(conditions, speeds, PAUSE) == CopyChoice::Host
}

/// The copy speeds of the destination's home device, as for a move of it.
pub(super) fn speeds(to: &BufferInner) -> &CopySpeeds {
    to.core().known_speeds(to.home_id()).unwrap_or(path::assumed())
}

/// Returns the device's view of the buffer's allocation, for a copy; imports the allocation if there is none yet.
///
/// # Errors
///
/// [`Error::Unreachable`] if the device cannot import it, or is not to: the descriptor forbids peer-to-peer access, or the
/// import would move the exporter's memory to the host. Those of the import.
pub(super) fn view(
    buffer: &BufferInner,
    allocation: &Allocation,
    device: &Arc<DeviceInner>,
) -> Result<Arc<View>> {
    let provider = allocation.provider();
    let refused = || Error::Unreachable {
        buffer: buffer.name(),
        device: device.name().to_owned(),
        refused: vec![Refusal {
            route: Route::of(provider).unwrap_or(Route::Local),
            reason: RefusalReason::NoPeerToPeer,
        }],
    };
    if !buffer.caps_of(device.id()).accepts(provider) {
        return Err(refused());
    }
    if let Some(view) = allocation.existing_view(device.id()) {
        return Ok(view);
    }
    let kind = buffer.import_kind(provider, device)?;
    if buffer.core().drags_out(provider, device) {
        return Err(refused());
    }
    buffer.core().view(allocation, device, kind)
}
