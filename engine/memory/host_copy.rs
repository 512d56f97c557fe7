//! Copies by the host, between memory that it has mapped.
#![expect(unsafe_code, reason = "copying between mapped memory that nothing else uses")]

use super::allocation::Allocation;
use crate::access::Access;
use crate::error::Result;

/// Copies `len` bytes, with the cache maintenance that the memory needs. `Ok(false)` if the host cannot map both
/// allocations.
///
/// # Safety
///
/// Both ranges lie within their allocations and do not overlap. Nothing else uses them meanwhile: the caller
/// holds the reservations of their buffers and has waited for their fences, and no other host access is open.
pub(crate) unsafe fn copy_by_host(
    (from, from_offset): (&Allocation, u64),
    (to, to_offset): (&Allocation, u64),
    len: u64,
) -> Result<bool> {
    let (Some(source), Some(target)) = (from.host()?, to.host()?) else { return Ok(false) };
    from.begin_host_access(Access::Read, from_offset, len)?;
    if let Err(error) = to.begin_host_access(Access::Write, to_offset, len) {
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
    if from.is_fast_for_host() && to.is_fast_for_host() {
        // SAFETY: the caller's contract; the processor caches both.
        unsafe { target.copy_quickly_from(source, bytes) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { target.copy_from(source, bytes) };
    }
    let written = to.end_host_access(Access::Write, to_offset, len);
    let read = from.end_host_access(Access::Read, from_offset, len);
    written.and(read).map(|()| true)
}

/// Zeroes `len` bytes, with the cache maintenance that the memory needs.
///
/// # Safety
///
/// As for [`copy_by_host`]; and the host has mapped the memory.
pub(crate) unsafe fn zero_by_host((at, offset): (&Allocation, u64), len: u64) -> Result<()> {
    let Some(start) = at.host()? else { return Ok(()) };
    at.begin_host_access(Access::Write, offset, len)?;
    // CAST: the range is mapped, so it fits the address space.
    // SAFETY: within the allocation, all of which is mapped.
    let start = unsafe { start.at(offset as usize) };
    // CAST: as above.
    let bytes = len as usize;
    if at.is_fast_for_host() {
        // SAFETY: the caller's contract; the processor caches it.
        unsafe { start.fill_quickly(0, bytes) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { start.fill(0, bytes) };
    }
    at.end_host_access(Access::Write, offset, len)
}
