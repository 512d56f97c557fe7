//! `vkMapMemory` and its like: imported memory that cannot be mapped, and memory that is not coherent.
//!
//! Memory that is not coherent has a shadow: the application reads and writes pages of its own, and a flush or an
//! invalidation copies. What is not flushed never arrives.

use std::ffi::c_void;
use std::ptr::null_mut;

use ash::vk;
use rustix::mm::{MapFlags, ProtFlags};

use super::device::{self, Device};
use super::{cname, lock, report};
use crate::config::MapImport;

/// How an application's mapping is made.
pub(super) enum Mapped {
    /// The application has pages that belong to no file's bytes. They are unmapped when this is dropped.
    Sigbus { _pages: Pages },
    /// The application has the shadow. `real` is the driver's mapping from offset 0.
    Shadow { real: *mut u8, shadow: Pages },
}

// SAFETY: the pointers are used under the lock of the device's table alone.
unsafe impl Send for Mapped {}

/// Pages of the layer's own.
pub(super) struct Pages {
    at: *mut c_void,
    size: usize,
}

impl Pages {
    /// Zeroed pages.
    fn zeroed(size: u64) -> Option<Self> {
        let size = usize::try_from(size).ok()?.max(1);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe {
            rustix::mm::mmap_anonymous(
                null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        at.ok().map(|at| Self { at, size })
    }

    /// Pages behind the end of a file: an access is `SIGBUS`.
    fn beyond_a_file(size: u64) -> Option<Self> {
        let size = usize::try_from(size).ok()?.max(1);
        let file = rustix::fs::memfd_create("driver-sim", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe { rustix::mm::mmap(null_mut(), size, access, MapFlags::SHARED, &file, 0) };
        at.ok().map(|at| Self { at, size })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the application has unmapped or freed its memory.
        let _ = unsafe { rustix::mm::munmap(self.at, self.size) };
    }
}

pub(super) unsafe extern "system" fn map(
    raw: vk::Device,
    memory: vk::DeviceMemory,
    offset: vk::DeviceSize,
    size: vk::DeviceSize,
    flags: vk::MemoryMapFlags,
    out: *mut *mut c_void,
) -> vk::Result {
    let device = device::of(raw);
    map_own(&device, memory, offset, out)
        .unwrap_or_else(|| (device.fns.fp_v1_0().map_memory)(raw, memory, offset, size, flags, out))
}

pub(super) unsafe extern "system" fn map2(
    raw: vk::Device,
    info: *const vk::MemoryMapInfoKHR<'_>,
    out: *mut *mut c_void,
) -> vk::Result {
    let device = device::of(raw);
    map_own(&device, (*info).memory, (*info).offset, out).unwrap_or_else(|| {
        device
            .next::<vk::PFN_vkMapMemory2KHR>(cname!("vkMapMemory2KHR").as_ptr())
            .map_or(vk::Result::ERROR_MEMORY_MAP_FAILED, |next| next(raw, info.cast(), out))
    })
}

/// Maps in the layer's way; `None` if the driver is to do it.
unsafe fn map_own(
    device: &Device,
    memory: vk::DeviceMemory,
    offset: u64,
    out: *mut *mut c_void,
) -> Option<vk::Result> {
    let mut table = lock(&device.memory);
    let known = table.get_mut(&memory)?;
    let failed = Some(vk::Result::ERROR_MEMORY_MAP_FAILED);
    if known.import.is_some()
        && let Some(what) = device.switches().map_import
    {
        report::event("map_import", format_args!("{}: {what:?}", device.label()));
        let MapImport::Sigbus = what else { return failed };
        let Some(pages) = Pages::beyond_a_file(known.size) else { return failed };
        *out = pages.at.wrapping_byte_add(usize::try_from(offset).unwrap_or(0));
        known.mapped = Some(Mapped::Sigbus { _pages: pages });
        return Some(vk::Result::SUCCESS);
    }
    if device.physical.layout.is_coherent(known.kind) {
        return None;
    }
    let mut real = null_mut();
    let whole = vk::WHOLE_SIZE;
    let flags = vk::MemoryMapFlags::empty();
    let result =
        (device.fns.fp_v1_0().map_memory)(device.raw, memory, 0, whole, flags, &raw mut real);
    if result != vk::Result::SUCCESS {
        return Some(result);
    }
    let Some(shadow) = Pages::zeroed(known.size) else { return failed };
    // SAFETY: both are mappings of `known.size` bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(real.cast::<u8>(), shadow.at.cast::<u8>(), shadow.size);
    }
    *out = shadow.at.wrapping_byte_add(usize::try_from(offset).unwrap_or(0));
    known.mapped = Some(Mapped::Shadow { real: real.cast(), shadow });
    Some(vk::Result::SUCCESS)
}

pub(super) unsafe extern "system" fn unmap(raw: vk::Device, memory: vk::DeviceMemory) {
    let device = device::of(raw);
    if !unmap_own(&device, memory) {
        device.fns.unmap_memory(memory);
    }
}

pub(super) unsafe extern "system" fn unmap2(
    raw: vk::Device,
    info: *const vk::MemoryUnmapInfoKHR<'_>,
) -> vk::Result {
    let device = device::of(raw);
    if unmap_own(&device, (*info).memory) {
        return vk::Result::SUCCESS;
    }
    device
        .next::<vk::PFN_vkUnmapMemory2KHR>(cname!("vkUnmapMemory2KHR").as_ptr())
        .map_or(vk::Result::ERROR_MEMORY_MAP_FAILED, |next| next(raw, info.cast()))
}

unsafe fn unmap_own(device: &Device, memory: vk::DeviceMemory) -> bool {
    let mapped = lock(&device.memory).get_mut(&memory).and_then(|known| known.mapped.take());
    if let Some(Mapped::Shadow { .. }) = mapped {
        device.fns.unmap_memory(memory);
    }
    mapped.is_some()
}

/// Which way a range is copied.
#[derive(Clone, Copy)]
enum Way {
    ToDevice,
    ToHost,
}

pub(super) unsafe extern "system" fn flush(
    raw: vk::Device,
    count: u32,
    ranges: *const vk::MappedMemoryRange<'_>,
) -> vk::Result {
    let device = device::of(raw);
    let rest = sync(&device, count, ranges, Way::ToDevice);
    call_with(&rest, |ranges| device.fns.flush_mapped_memory_ranges(ranges))
}

pub(super) unsafe extern "system" fn invalidate(
    raw: vk::Device,
    count: u32,
    ranges: *const vk::MappedMemoryRange<'_>,
) -> vk::Result {
    let device = device::of(raw);
    let rest = sync(&device, count, ranges, Way::ToHost);
    call_with(&rest, |ranges| device.fns.invalidate_mapped_memory_ranges(ranges))
}

fn call_with(
    rest: &[vk::MappedMemoryRange<'_>],
    call: impl FnOnce(&[vk::MappedMemoryRange<'_>]) -> Result<(), vk::Result>,
) -> vk::Result {
    if rest.is_empty() {
        return vk::Result::SUCCESS;
    }
    call(rest).map_or_else(|code| code, |()| vk::Result::SUCCESS)
}

/// Checks and copies ranges of shadows. Returns those that are the driver's.
unsafe fn sync<'a>(
    device: &Device,
    count: u32,
    ranges: *const vk::MappedMemoryRange<'a>,
    way: Way,
) -> Vec<vk::MappedMemoryRange<'a>> {
    let atom = device.physical.fixed.non_coherent.unwrap_or(1).max(1);
    let table = lock(&device.memory);
    let mut rest = Vec::new();
    for range in std::slice::from_raw_parts(ranges, count as usize) {
        let known = table.get(&range.memory);
        let Some((known, Some(Mapped::Shadow { real, shadow }))) =
            known.map(|known| (known, &known.mapped))
        else {
            rest.push(*range);
            continue;
        };
        let end = if range.size == vk::WHOLE_SIZE {
            known.size
        } else {
            range.offset.saturating_add(range.size)
        };
        let is_whole = range.offset % atom == 0 && (end % atom == 0 || end == known.size);
        if !is_whole || end > known.size {
            report::violation(
                "non_coherent",
                format_args!(
                    "{}: range {}..{end} is not in atoms of {atom}",
                    device.label(),
                    range.offset
                ),
            );
        }
        let (Ok(from), Ok(to)) =
            (usize::try_from(range.offset), usize::try_from(end.min(known.size)))
        else {
            continue;
        };
        let (device_bytes, host_bytes) =
            (real.wrapping_add(from), shadow.at.cast::<u8>().wrapping_add(from));
        let (source, target) = match way {
            Way::ToDevice => (host_bytes, device_bytes),
            Way::ToHost => (device_bytes, host_bytes),
        };
        // SAFETY: the range was cut to the size of both mappings.
        unsafe { std::ptr::copy_nonoverlapping(source, target, to.saturating_sub(from)) };
    }
    rest
}
