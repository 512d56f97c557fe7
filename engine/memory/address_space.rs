//! Detects that the process has run out of address space.
#![expect(unsafe_code, reason = "mmap and munmap of a range that is never touched")]

use std::ptr;

use ash::vk;
use rustix::mm::{MapFlags, ProtFlags};

/// Returns the driver's code for an import of `size` bytes, or `VK_ERROR_OUT_OF_HOST_MEMORY` if the process has no
/// address space for that many bytes at this moment.
///
/// lavapipe returns `VK_ERROR_INVALID_EXTERNAL_HANDLE` if its `mmap` fails with `ENOMEM`, so the only way to know
/// is to try.
pub(super) fn or_out_of_it(code: vk::Result, size: u64) -> vk::Result {
    match code {
        vk::Result::ERROR_INVALID_EXTERNAL_HANDLE | vk::Result::ERROR_MEMORY_MAP_FAILED
            if is_short_of(size) =>
        {
            vk::Result::ERROR_OUT_OF_HOST_MEMORY
        }
        code => code,
    }
}

fn is_short_of(size: u64) -> bool {
    let Ok(len) = usize::try_from(size) else { return true };
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let mapped =
        unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags) };
    match mapped {
        Ok(address) => {
            // SAFETY: mapped above with this size; the address is not known elsewhere.
            let unmapped = unsafe { rustix::mm::munmap(address, len) };
            debug_assert!(unmapped.is_ok(), "mapped above");
            false
        }
        Err(errno) => errno == rustix::io::Errno::NOMEM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ambiguous_codes_are_checked() {
        const TOO_MUCH: u64 = 1 << 62;
        let told = |code, size| or_out_of_it(code, size);
        let (invalid, host) =
            (vk::Result::ERROR_INVALID_EXTERNAL_HANDLE, vk::Result::ERROR_OUT_OF_HOST_MEMORY);
        assert_eq!(told(invalid, TOO_MUCH), host);
        assert_eq!(told(vk::Result::ERROR_MEMORY_MAP_FAILED, TOO_MUCH), host);
        assert_eq!(told(invalid, 4096), invalid);
        assert_eq!(told(vk::Result::ERROR_DEVICE_LOST, TOO_MUCH), vk::Result::ERROR_DEVICE_LOST);
    }
}
