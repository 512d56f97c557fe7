//! Copies by the host, between memory that it has mapped.
#![expect(unsafe_code, reason = "copying between mapped memory that nothing else uses")]

use super::allocation::Allocation;
use super::allocation_host::HostWait;
use super::wide::Stores;
use crate::access::Access;
use crate::error::Result;

/// Copies `len` bytes, with the cache maintenance that the memory needs. `Ok(false)` if the host cannot map both
/// allocations, or may not wait for the fences of one.
///
/// # Errors
///
/// [`crate::Error::Timeout`] after `wait`, or the error of a call.
///
/// # Safety
///
/// Both ranges lie within their allocations and do not overlap. Nothing else uses them meanwhile: the caller
/// holds the reservations of their buffers and has waited for their fences, and no other host access is open.
pub(crate) unsafe fn copy_by_host(
    from: (&Allocation, u64),
    to: (&Allocation, u64),
    len: u64,
    wait: HostWait,
) -> Result<bool> {
    // SAFETY: the caller's contract.
    unsafe { copy_by_stores(from, to, len, wait, Stores::Fastest) }
}

/// As [`copy_by_host`], with the given stores where the processor caches both.
///
/// # Errors
///
/// As [`copy_by_host`].
///
/// # Safety
///
/// As for [`copy_by_host`].
pub(crate) unsafe fn copy_by_stores(
    (from, from_offset): (&Allocation, u64),
    (to, to_offset): (&Allocation, u64),
    len: u64,
    wait: HostWait,
    stores: Stores,
) -> Result<bool> {
    let (Some(source), Some(target)) = (from.host_within(wait)?, to.host_within(wait)?) else {
        return Ok(false);
    };
    from.begin_host_access(Access::Read, (from_offset, len), wait)?;
    if let Err(error) = to.begin_host_access(Access::Write, (to_offset, len), wait) {
        // The first error is reported; a second one adds nothing.
        let _ = from.end_host_access(Access::Read, from_offset, len);
        return Err(error);
    }
    // CAST: the ranges are mapped, so they fit the address space.
    // SAFETY: within the allocation, all of which is mapped.
    let source = unsafe { source.at(from_offset as usize) };
    // SAFETY: as above.
    let target = unsafe { target.at(to_offset as usize) };
    // CAST: as above.
    let bytes = len as usize;
    if from.is_cached_for_host() && to.is_cached_for_host() {
        // SAFETY: the caller's contract; the processor caches both.
        unsafe { target.copy_by_stores_from(source, bytes, stores) };
    } else if from.is_external() || to.is_external() {
        // Another process may write either of them meanwhile.
        // SAFETY: both ranges are mapped, and do not overlap.
        unsafe { target.copy_shared_from(source, bytes) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { target.copy_from(source, bytes) };
    }
    to.note_host_copied(len);
    let written = to.end_host_access(Access::Write, to_offset, len);
    let read = from.end_host_access(Access::Read, from_offset, len);
    written.and(read).map(|()| true)
}

/// One range in two allocations: its offsets, counted from the beginning of what is copied, and its length.
pub(crate) type HostPart = (u64, u64, u64);

/// Copies parts of `lens.0` bytes to other places in `lens.1` bytes, row by row. `zero` the destination first. Otherwise as
/// [`copy_by_host`]; both are accessed once, however many parts there are.
///
/// # Errors
///
/// As [`copy_by_host`].
///
/// # Safety
///
/// As for [`copy_by_host`]; all parts lie within these bytes.
pub(crate) unsafe fn copy_parts_by_host(
    (from, from_offset): (&Allocation, u64),
    (to, to_offset): (&Allocation, u64),
    (from_len, to_len): (u64, u64),
    (parts, zero): (impl Iterator<Item = HostPart>, bool),
    wait: HostWait,
) -> Result<bool> {
    let (Some(source), Some(target)) = (from.host_within(wait)?, to.host_within(wait)?) else {
        return Ok(false);
    };
    if zero {
        // SAFETY: the caller's contract.
        unsafe { zero_by_host((to, to_offset), to_len, wait) }?;
    }
    from.begin_host_access(Access::Read, (from_offset, from_len), wait)?;
    if let Err(error) = to.begin_host_access(Access::Write, (to_offset, to_len), wait) {
        // The first error is reported; a second one adds nothing.
        let _ = from.end_host_access(Access::Read, from_offset, from_len);
        return Err(error);
    }
    let is_cached = from.is_cached_for_host() && to.is_cached_for_host();
    let is_shared = from.is_external() || to.is_external();
    for (read, written, len) in parts {
        // CAST: the ranges are mapped, so they fit the address space.
        // SAFETY: within the allocation, all of which is mapped.
        let source = unsafe { source.at((from_offset + read) as usize) };
        // SAFETY: as above.
        let target = unsafe { target.at((to_offset + written) as usize) };
        // CAST: as above.
        let bytes = len as usize;
        if is_cached {
            // SAFETY: the caller's contract; the processor caches both.
            unsafe { target.copy_quickly_from(source, bytes) };
        } else if is_shared {
            // Another process may write either of them meanwhile.
            // SAFETY: both ranges are mapped, and do not overlap.
            unsafe { target.copy_shared_from(source, bytes) };
        } else {
            // SAFETY: the caller's contract.
            unsafe { target.copy_from(source, bytes) };
        }
        to.note_host_copied(len);
    }
    let written = to.end_host_access(Access::Write, to_offset, to_len);
    let read = from.end_host_access(Access::Read, from_offset, from_len);
    written.and(read).map(|()| true)
}

/// Zeroes `len` bytes, with the cache maintenance that the memory needs. `Ok(false)` as for [`copy_by_host`].
///
/// # Errors
///
/// As [`copy_by_host`].
///
/// # Safety
///
/// As for [`copy_by_host`].
pub(crate) unsafe fn zero_by_host(
    (at, offset): (&Allocation, u64),
    len: u64,
    wait: HostWait,
) -> Result<bool> {
    let Some(start) = at.host_within(wait)? else { return Ok(false) };
    at.begin_host_access(Access::Write, (offset, len), wait)?;
    // CAST: the range is mapped, so it fits the address space.
    // SAFETY: within the allocation, all of which is mapped.
    let start = unsafe { start.at(offset as usize) };
    // CAST: as above.
    let bytes = len as usize;
    if at.is_cached_for_host() {
        // SAFETY: the caller's contract; the processor caches it.
        unsafe { start.fill_quickly(0, bytes) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { start.fill(0, bytes) };
    }
    at.note_zeroed(len);
    at.end_host_access(Access::Write, offset, len).map(|()| true)
}
