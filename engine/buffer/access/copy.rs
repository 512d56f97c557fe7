//! Copying between two buffers, also of different devices.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use smallvec::SmallVec;

use super::pair::{CopyRegion, Pair, view, with_pair};
use crate::buffer::object::{BufferInner, Buffers, SharedBuffer, Until, wait_all};
use crate::buffer::placement::retry_on_oom;
use crate::device::DeviceInner;
use crate::error::{Error, Result};
use crate::memory::Allocation;
use crate::observe::StallCause;
use crate::sync::{Fence, Usage};
use crate::transfer::{self, Span, Unfinished, path};

/// Copies bytes between two buffers: by the host where that is faster, else by a device that sees both, else
/// through staging memory.
///
/// The contract is that of [`crate::Engine::copy`].
pub(crate) fn copy(
    set: &Arc<Buffers>,
    from: &SharedBuffer,
    to: &SharedBuffer,
    region: CopyRegion,
) -> Result<Fence> {
    let (from, to) = (&from.0, &to.0);
    set.handle_lost_devices();
    check(set, from, to, region)?;
    if region.len == 0 {
        return Ok(Fence::signalled());
    }
    from.leave_exported()?;
    to.leave_exported()?;
    measure_speeds(from, to, region)?;
    let by_host = || with_pair(set, from, to, |pair| pair.copy_by_host(from, to, region));
    if retry_on_oom(set, to.home_id(), [&**from, &**to], by_host)? {
        return Ok(Fence::signalled());
    }
    let mut allowance = set.core.throttle.submission();
    for buffer in [from, to] {
        buffer.restore(to.home_id(), &mut allowance);
        buffer.auto_migrate(to.home_id(), &mut allowance);
    }
    retry_on_oom(set, to.home_id(), [&**from, &**to], || copy_once(set, from, to, region))
}

/// Measures how fast the host and the device copy, if that is unknown and decides how these bytes are copied. Under the
/// reservations it would be too late.
fn measure_speeds(from: &BufferInner, to: &BufferInner, region: CopyRegion) -> Result<()> {
    let core = to.core();
    if region.len <= path::ASSUMED_HOST_BYTES || core.known_speeds(to.home_id()).is_some() {
        return Ok(());
    }
    let is_fast = |buffer: &BufferInner| {
        let state = buffer.lock();
        buffer.backing(&state).map(|backing| backing.allocation().is_fast_for_host())
    };
    if is_fast(from)? && is_fast(to)? {
        core.speeds(to.home_id());
    }
    Ok(())
}

/// Copies by a device, or through staging memory if no device sees both buffers.
fn copy_once(
    set: &Arc<Buffers>,
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
    region: CopyRegion,
) -> Result<Fence> {
    loop {
        let executor = find_executor(from, to)?;
        let Some((mut pair, writers)) = lock_ready(set, from, to, region, executor.as_deref())?
        else {
            continue;
        };
        match executor {
            Some(device) => {
                let share = pair.host_share(to, region, device.id());
                let len = region.len - share.as_ref().map_or(0, |share| share.bytes);
                let first = CopyRegion { len, ..region };
                let submitted = match len {
                    0 => Some(Fence::signalled()),
                    _ => pair.copy_on(set, to, &device, first, &writers)?,
                };
                // Without, one of the buffers has moved since the executor was found: try again.
                if let Some(fence) = submitted {
                    if len > 0 {
                        from.count_access_to(pair.from(), device.id(), len);
                        to.count_access_to(pair.to(), device.id(), len);
                    }
                    let Some(share) = share else { return Ok(fence) };
                    let written = region.to + len..region.to + region.len;
                    let both = (&**from, &**to);
                    let rest = pair.copy_share(set, both, (&device, share), written, &writers)?;
                    return Ok(rest.unwrap_or(fence));
                }
            }
            None => return copy_staged(set, from, to, pair, region),
        }
    }
}

/// Locks two buffers whose bytes are valid, for a copy by `executor`, or without one by the host. Returns the writers of
/// either buffer as well. `Ok(None)` if there was work to wait for, which is over now.
pub(super) fn lock_ready<'a>(
    set: &'a Arc<Buffers>,
    from: &'a Arc<BufferInner>,
    to: &'a Arc<BufferInner>,
    region: CopyRegion,
    executor: Option<&DeviceInner>,
) -> Result<Option<(Pair<'a>, Vec<Fence>)>> {
    let mut pair = Pair::lock(set, from, to)?;
    // Wait first for work that no queue can wait for, then make the contents valid. That may submit a
    // scrub, which must be waited for in turn: a move in progress relies on no other write to the buffer.
    let mut waits = pair.host_waits(executor);
    // Collected before the check for failures: work that fails after it is among these fences, and the
    // fence of the copy reports its failure.
    let mut writers = pair.writers();
    pair.check_usable(from, to)?;
    if waits.is_empty() {
        pair.make_valid(from, to, region, executor.is_some())?;
        // A device that zeroes the source is a writer, and it may be lost already: then the bytes are those of their
        // earlier owner.
        waits = pair.host_waits(executor);
        writers = pair.writers();
        pair.check_usable(from, to)?;
    }
    if waits.is_empty() {
        return Ok(Some((pair, writers)));
    }
    drop(pair);
    let until = Until::Stuck(set.core.timeout);
    set.core.counters.stalls.during(StallCause::Work, || wait_all(&waits, until))?;
    Ok(None)
}

/// Checks that both buffers belong to the engine, and that the region is valid.
pub(super) fn check(
    set: &Arc<Buffers>,
    from: &BufferInner,
    to: &BufferInner,
    region: CopyRegion,
) -> Result<()> {
    for buffer in [from, to] {
        if !Arc::ptr_eq(set, &buffer.set) {
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

/// Returns a device that sees both buffers; the home of the destination is preferred.
///
/// Views that are missing are created here, without a reservation, because that may prove a route.
fn find_executor(
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
) -> Result<Option<Arc<DeviceInner>>> {
    let allocation_of = |buffer: &BufferInner| {
        let state = buffer.lock();
        buffer.backing(&state).map(|backing| Arc::clone(backing.allocation()))
    };
    let sides = [(from, allocation_of(from)?), (to, allocation_of(to)?)];
    let mut devices: SmallVec<[Arc<DeviceInner>; 2]> = SmallVec::new();
    for home in [to.home(), from.home()] {
        if !devices.iter().any(|device| device.id() == home.id()) {
            devices.push(home);
        }
    }
    // A device that need not import a slab of other buffers comes first.
    let shares = |device: &Arc<DeviceInner>| {
        sides.iter().all(|(_, allocation)| {
            allocation.has_view(device.id()) || allocation.sharers().contains(device.id())
        })
    };
    devices.sort_by_key(|device| !shares(device));
    Ok(devices.into_iter().find(|device| {
        sides.iter().all(|(buffer, allocation)| view(buffer, allocation, device).is_ok())
    }))
}

/// Copies where no device sees both buffers: each home device copies its part through staging memory, and the
/// host copies between the two.
///
/// Returns when the copy is done. It holds no reservation meanwhile; a host fence in both buffers orders other
/// users after it.
pub(super) fn copy_staged(
    set: &Arc<Buffers>,
    from: &Arc<BufferInner>,
    to: &Arc<BufferInner>,
    mut pair: Pair<'_>,
    region: CopyRegion,
) -> Result<Fence> {
    let (fence, signal) = Fence::host();
    to.note_write(pair.to(), region.to..region.to + region.len);
    let [source, target] = pair.begin_host_copy(from, to, &fence)?;
    drop(pair);
    let copy = || copy_through_staging(set, from, &source, to, &target, region);
    // Both accesses end even if a subscriber of `tracing` panics.
    let done = catch_unwind(AssertUnwindSafe(copy));
    let (result, reading, writing) = match done {
        Ok(Ok(())) => (Ok(Ok(Fence::signalled())), vec![], vec![]),
        Ok(Err(Unfinished { error, reading, writing })) => (Ok(Err(error)), reading, writing),
        Err(panic) => (Err(panic), vec![], vec![]),
    };
    for (buffer, usage, unfinished) in [(from, Usage::Read, reading), (to, Usage::Write, writing)] {
        let mut state = buffer.lock();
        state.end_access();
        unfinished.into_iter().for_each(|fence| state.fences().add(usage, fence));
    }
    match result {
        Ok(result) => {
            drop(signal);
            result
        }
        Err(panic) => {
            signal.fail("the thread that copied it panicked");
            resume_unwind(panic)
        }
    }
}

/// Copies the region between two allocations, each given with the offset of its buffer.
fn copy_through_staging(
    set: &Arc<Buffers>,
    from: &Arc<BufferInner>,
    source: &(Arc<Allocation>, u64),
    to: &Arc<BufferInner>,
    target: &(Arc<Allocation>, u64),
    region: CopyRegion,
) -> Result<(), Unfinished> {
    let (source_home, target_home) = (from.home(), to.home());
    let not_started = |error| Unfinished { error, reading: vec![], writing: vec![] };
    let from_view = view(from, &source.0, &source_home).map_err(not_started)?;
    let to_view = view(to, &target.0, &target_home).map_err(not_started)?;
    let source_staging = set.core.staging(&source_home).map_err(not_started)?;
    let target_staging = set.core.staging(&target_home).map_err(not_started)?;
    let span = |view, offset| Span { view, offset, len: region.len };
    let from = span(&from_view, source.1 + region.from);
    let to = span(&to_view, target.1 + region.to);
    transfer::staged_copy((from, &source_staging), (to, &target_staging), set.core.timeout)
}
