//! Copying between two buffers by a given way, and which ways there are.

use std::cell::Cell;
use std::sync::Arc;

use super::copy::{check, copy_staged, lock_ready};
use super::copy_way::{CopyBy, CopyRun, CopyWay};
use super::host_share::Accesses;
use super::pair::{CopyRegion, Pair, view};
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer};
use crate::buffer::placement::retry_on_oom;
use crate::buffer::state::{DirtyRanges, State};
use crate::device::{Device, DeviceInner, QueueKind, Timestamps};
use crate::error::{Error, Result};
use crate::memory::wide::{Stores, has_stores_past_cache};
use crate::memory::{Allocation, HostWait, SLOT_ALIGN, View, copy_by_stores};
use crate::sync::{Fence, RejectionWatch, Usage};
use crate::transfer::{Attempt, Span, Watch, Work};

/// Copies bytes between two buffers by the given way, and by no other.
///
/// The contract is that of [`crate::Engine::copy_by`].
pub(crate) fn copy_by(
    set: &Arc<Buffers>,
    from: &SharedBuffer,
    to: &SharedBuffer,
    region: CopyRegion,
    by: &CopyBy,
) -> Result<CopyRun> {
    let (from, to) = (&from.0, &to.0);
    set.handle_lost_devices();
    check(set, from, to, region)?;
    check_device(set, by)?;
    if region.len == 0 {
        return Ok(CopyRun::done(0));
    }
    from.leave_exported()?;
    to.leave_exported()?;
    let device = by.device().map_or(to.home_id(), Device::id);
    retry_on_oom(set, device, [&**from, &**to], || match by {
        CopyBy::MainQueue(device) => by_queue(set, from, to, region, (&device.0, QueueKind::Main)),
        CopyBy::TransferQueue(device) => {
            by_queue(set, from, to, region, transfer_queue(&device.0)?)
        }
        CopyBy::ComputePass(device) => by_compute(set, from, to, region, &device.0),
        CopyBy::Host => by_host(set, from, to, region, Stores::Cached),
        CopyBy::HostPastCache => {
            check_stores()?;
            by_host(set, from, to, region, Stores::PastCache)
        }
        CopyBy::Ring => loop {
            if let Some((pair, _)) = lock_ready(set, from, to, region, None)? {
                copy_staged(set, from, to, pair, region)?;
                return Ok(CopyRun::done(region.len));
            }
        },
    })
}

/// The ways to copy between two buffers where they are now: those of the source's home device, those of the
/// destination's, if that is another one, and those without a device that acts alone.
///
/// The contract is that of [`crate::Engine::copy_ways`].
pub(crate) fn copy_ways(
    set: &Arc<Buffers>,
    from: &SharedBuffer,
    to: &SharedBuffer,
) -> Result<Vec<CopyWay>> {
    let (from, to) = (&from.0, &to.0);
    set.handle_lost_devices();
    check(set, from, to, CopyRegion::first(0))?;
    let (first, second) = (Device(from.home()), Device(to.home()));
    let second = (second != first).then_some(second);
    let of_devices = [Some(first), second].into_iter().flatten().flat_map(|device| {
        let main = CopyBy::MainQueue(device.clone());
        [main, CopyBy::TransferQueue(device.clone()), CopyBy::ComputePass(device)]
    });
    let ways = of_devices.chain([CopyBy::Host, CopyBy::HostPastCache, CopyBy::Ring]);
    let possible = |by: &CopyBy| match by {
        CopyBy::MainQueue(device) | CopyBy::ComputePass(device) => {
            views(from, to, &device.0).map(drop)
        }
        CopyBy::TransferQueue(device) => {
            transfer_queue(&device.0)?;
            views(from, to, &device.0).map(drop)
        }
        CopyBy::Host => check_mapped(from).and_then(|()| check_mapped(to)),
        CopyBy::HostPastCache => {
            check_stores()?;
            check_mapped(from).and_then(|()| check_mapped(to))
        }
        CopyBy::Ring => [from, to].into_iter().try_for_each(|buffer| {
            let home = buffer.home();
            view(buffer, &*allocation_of(buffer)?, &home)?;
            set.core.staging(&home).map(drop)
        }),
    };
    Ok(ways.map(|by| CopyWay { missing: possible(&by).err(), by }).collect())
}

/// Checks that the device of a way belongs to the engine.
fn check_device(set: &Arc<Buffers>, by: &CopyBy) -> Result<()> {
    by.device().map_or(Ok(()), |device| set.core.check(&device.0))
}

/// The device's queue for moves.
fn transfer_queue(device: &Arc<DeviceInner>) -> Result<(&Arc<DeviceInner>, QueueKind)> {
    match device.queue_for_moves() {
        QueueKind::Main => Err(Error::Unsupported {
            device: device.name().to_owned(),
            missing: "a second queue, for copies".into(),
        }),
        lane => Ok((device, lane)),
    }
}

fn check_stores() -> Result<()> {
    if has_stores_past_cache() {
        return Ok(());
    }
    let missing = "stores that bypass the caches, of those that peerbuf knows".into();
    Err(Error::Unsupported { device: "the processor".into(), missing })
}

/// Checks that the host can map the buffer where it is.
fn check_mapped(buffer: &BufferInner) -> Result<()> {
    match allocation_of(buffer)?.host()? {
        Some(_) => Ok(()),
        None => Err(not_mapped(buffer)),
    }
}

fn not_mapped(buffer: &BufferInner) -> Error {
    Error::Unsupported {
        device: "the host".into(),
        missing: format!("a mapping of {} where it is", buffer.name()),
    }
}

fn allocation_of(buffer: &BufferInner) -> Result<Arc<Allocation>> {
    let state = buffer.lock();
    buffer.backing(&state).map(|backing| Arc::clone(backing.allocation()))
}

/// A device's view of a buffer's memory, and where the buffer is in it.
struct At {
    view: Arc<View>,
    offset: u64,
}

impl At {
    /// Imports the buffer's memory if the device has no view of it yet.
    fn find(buffer: &BufferInner, device: &Arc<DeviceInner>) -> Result<Self> {
        let (allocation, offset) = {
            let state = buffer.lock();
            let backing = buffer.backing(&state)?;
            (Arc::clone(backing.allocation()), backing.offset())
        };
        Ok(Self { view: view(buffer, &allocation, device)?, offset })
    }

    /// Whether the buffer is still there.
    fn is_current(&self, state: &State, device: &DeviceInner) -> bool {
        state.location().backing().is_some_and(|backing| {
            let view = backing.allocation().existing_view(device.id());
            backing.offset() == self.offset
                && view.is_some_and(|view| Arc::ptr_eq(&view, &self.view))
        })
    }

    fn span(&self, offset: u64, len: u64) -> Span<'_> {
        Span { view: &self.view, offset: self.offset + offset, len }
    }
}

fn views(from: &BufferInner, to: &BufferInner, device: &Arc<DeviceInner>) -> Result<[At; 2]> {
    Ok([At::find(from, device)?, At::find(to, device)?])
}

/// Copies by a copy command.
fn by_queue(
    set: &Arc<Buffers>,
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
    region: CopyRegion,
    (device, lane): (&Arc<DeviceInner>, QueueKind),
) -> Result<CopyRun> {
    let stamps = Timestamps::new(device, lane)?.map(Arc::new);
    loop {
        views(from, to, device)?;
        let Some((mut pair, writers)) = lock_ready(set, from, to, region, Some(device))? else {
            continue;
        };
        let by = ((device, lane), stamps.as_ref());
        // Without, one of the buffers has moved since the views were found: try again.
        if let Some(fence) = pair.copy_on_lane(set, to, by, region, &writers)? {
            pair.note_use(from, to, Some(device.id()));
            return Ok(CopyRun { fence, bytes: region.len, stamps, time: None });
        }
    }
}

/// Copies by a compute pass, and waits for it.
fn by_compute(
    set: &Arc<Buffers>,
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
    region: CopyRegion,
    device: &Arc<DeviceInner>,
) -> Result<CopyRun> {
    for value in [region.from, region.to] {
        if !value.is_multiple_of(SLOT_ALIGN) {
            return Err(Error::Misaligned {
                what: "offset of a copy by a compute pass",
                value,
                align: SLOT_ALIGN,
            });
        }
    }
    let kernels = set.core.compute_kernels(device)?;
    loop {
        let [source, target] = views(from, to, device)?;
        let moved = Cell::new(false);
        let submit = |work: Work<'_>| {
            let mut pair = Pair::lock(set, from, to)?;
            let mut waits = pair.waits_of_other_queues(device);
            pair.check_usable(from, to)?;
            if waits.is_empty() {
                pair.make_valid(from, to, region, false)?;
                // A device may zero one of them.
                waits = pair.waits_of_other_queues(device);
            }
            let writers = pair.writers();
            pair.check_usable(from, to)?;
            if !waits.is_empty() {
                return Ok(Attempt::Wait(waits));
            }
            if !source.is_current(pair.from(), device) || !target.is_current(pair.to(), device) {
                moved.set(true);
                return Err(from.busy(pair.from()));
            }
            let watch = RejectionWatch::main(device);
            let submitted = work().map(|fence| fence.depends_on(&writers));
            let fence = submitted.as_ref().map_or_else(|_| watch.fence(), Fence::clone);
            pair.from().fences().add(Usage::Read, fence.clone());
            pair.to().fences().add(Usage::Write, fence);
            let written = DirtyRanges::of(region.to..region.to + region.len, to.size);
            to.note_submitted(pair.to(), &written, device.id(), &submitted);
            let fence = submitted?;
            pair.note_use(from, to, Some(device.id()));
            Ok(Attempt::Submitted(fence))
        };
        let watch = Watch { timeout: set.core.timeout, submit: &submit };
        let spans = [source.span(region.from, region.len), target.span(region.to, region.len)];
        match kernels.copy(spans[0], spans[1], &watch) {
            // A buffer has moved since its view was found: try again, with all bytes.
            Err(_) if moved.get() => {}
            done => return done.map(|time| CopyRun { time, ..CopyRun::done(region.len) }),
        }
    }
}

/// Copies by the calling thread. A host fence in both buffers keeps other users away meanwhile, and an access that counts
/// as one of the host keeps both in place; no reservation is held.
#[expect(unsafe_code, reason = "copying between mapped memory that is not in use")]
fn by_host(
    set: &Arc<Buffers>,
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
    region: CopyRegion,
    stores: Stores,
) -> Result<CopyRun> {
    loop {
        check_mapped(from)?;
        check_mapped(to)?;
        let Some((mut pair, _)) = lock_ready(set, from, to, region, None)? else { continue };
        for (buffer, at_from) in [(from, true), (to, false)] {
            let state = if at_from { pair.from() } else { pair.to() };
            if state.host() > 0 {
                return Err(buffer.busy(state));
            }
        }
        let (fence, _signal) = Fence::host();
        to.note_write(pair.to(), region.to..region.to + region.len);
        pair.note_use(from, to, None);
        let [(source, source_at), (target, target_at)] = pair.begin_host_copy(from, to, &fence)?;
        drop(pair);
        // Ended before the signal: threads that wait for the fence take the reservations next.
        let accesses = Accesses([from, to]);
        let source = (&*source, source_at + region.from);
        let target = (&*target, target_at + region.to);
        let wait = HostWait::within(set.core.timeout);
        // SAFETY: the region was checked against both buffers, which by their invariants have so many bytes there, and
        // against overlap. Neither has a pending fence or another access of the host; the accesses keep both in place,
        // and the fence, which signals after this, keeps other users away.
        let copied = unsafe { copy_by_stores(source, target, region.len, wait, stores) }?;
        drop(accesses);
        return if copied { Ok(CopyRun::done(region.len)) } else { Err(not_mapped(from)) };
    }
}
