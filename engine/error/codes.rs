//! The translation of `VkResult`s and `errno`s to errors.

use ash::vk;
use rustix::io::Errno;

use super::Error;

impl Error {
    /// Translates a `VkResult` of a call that concerns no domain.
    pub(crate) fn vulkan(call: &'static str, device: &str, code: vk::Result) -> Self {
        let device = device.to_owned();
        match code {
            vk::Result::ERROR_DEVICE_LOST => Self::DeviceLost { device, call },
            code => match Self::fd_limit(call) {
                Some(limit) if may_mean_no_fd(code) => limit,
                _ => Self::Vulkan { device, call, code },
            },
        }
    }

    /// Translates an `errno`.
    pub(crate) fn os(call: &'static str, source: Errno) -> Self {
        if matches!(source, Errno::MFILE | Errno::NFILE) {
            let (open, limit) = fd_usage();
            return Self::FdLimit { call, limit, open };
        }
        Self::Os { call, source }
    }

    /// The error of a size that no buffer can have.
    pub(crate) fn too_large(size: u64) -> Self {
        Self::InvalidSize { size, rule: "at most 2^63 bytes" }
    }

    /// [`Error::FdLimit`] if no descriptor can be opened at this moment.
    ///
    /// Drivers return `VK_ERROR_OUT_OF_HOST_MEMORY` or less specific codes if `memfd_create` or `dup` fails with
    /// `EMFILE`, so the only way to know is to try.
    pub(crate) fn fd_limit(call: &'static str) -> Option<Self> {
        match rustix::fs::memfd_create("peerbuf-fd-check", rustix::fs::MemfdFlags::CLOEXEC) {
            Err(Errno::MFILE | Errno::NFILE) => Some(Self::os(call, Errno::MFILE)),
            _ => None,
        }
    }
}

/// Whether drivers return this code when they run out of descriptors.
fn may_mean_no_fd(code: vk::Result) -> bool {
    matches!(
        code,
        vk::Result::ERROR_OUT_OF_HOST_MEMORY
            | vk::Result::ERROR_OUT_OF_DEVICE_MEMORY
            | vk::Result::ERROR_TOO_MANY_OBJECTS
            | vk::Result::ERROR_INVALID_EXTERNAL_HANDLE
            | vk::Result::ERROR_INITIALIZATION_FAILED
            | vk::Result::ERROR_UNKNOWN
    )
}

/// The number of open descriptors, and the soft limit. Counting needs a descriptor of its own; if there is none
/// left, the limit is the count.
fn fd_usage() -> (u64, u64) {
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let open = std::fs::read_dir("/proc/self/fd").map_or(limit, |dir| dir.count() as u64);
    (open, limit)
}
