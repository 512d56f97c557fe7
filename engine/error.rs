//! What can go wrong, grouped by what the caller can do next.
//!
//! One error type serves the whole crate. Its variants come in five groups: *make room or ask
//! elsewhere*, *choose another path*, *wait or retry*, *fix the call*, *give up on a device*; behind
//! them stand the raw ones, a call by its name and with its code. What a `VkResult` or an `errno` means
//! to a caller is decided here, except where the loader or a stranger's fd gives a code a meaning of its
//! own.

use std::time::Duration;

use ash::vk;
use rustix::io::Errno;

use crate::device::{AdapterSelector, HandleType};
use crate::memory::DomainId;
use crate::residency::Obstacles;
use crate::transfer::Refusal;

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed. A failed operation leaves nothing half-made; of the bytes that it was to
/// write, some may have been written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- make room, or ask elsewhere ----
    /// A domain cannot hold so many more bytes. Free something there, or ask for another domain.
    #[error(
        "{domain} is out of memory: {requested} bytes requested, {used} of {budget} bytes in use{}{}",
        driver_said(*.code), in_the_way(.obstacles)
    )]
    OutOfMemory {
        /// Where the bytes were to live.
        domain: DomainId,
        /// Bytes asked for, after rounding.
        requested: u64,
        /// Bytes that may be in use there at once.
        budget: u64,
        /// Bytes in use there when the request failed, as this engine counts them.
        used: u64,
        /// The driver's own word, where it was the driver that refused.
        code: Option<vk::Result>,
        /// Which buffers could not be evicted, and why.
        obstacles: Box<Obstacles>,
    },
    /// The process may open no more file descriptors. Drop exports, or raise `RLIMIT_NOFILE`.
    ///
    /// Drivers report this as being out of memory; peerbuf looks and says which it was.
    #[error("{call}: no file descriptor left, {open} open of {limit} allowed (RLIMIT_NOFILE)")]
    FdLimit {
        /// The call that needed a descriptor.
        call: &'static str,
        /// The soft `RLIMIT_NOFILE`.
        limit: u64,
        /// Descriptors open when it failed.
        open: u64,
    },

    /// A device has as much pinned as it may. Unpin something, or raise its quota
    /// ([`crate::Engine::set_pin_quota`]).
    #[error("{device} may pin {quota} bytes, has {used}, and wants {requested} more")]
    PinQuota {
        /// The device's name.
        device: String,
        /// Bytes to be pinned.
        requested: u64,
        /// Bytes pinned already.
        used: u64,
        /// Bytes that may be pinned at once.
        quota: u64,
    },

    // ---- choose another path ----
    /// No Vulkan loader (`libvulkan.so.1`) on this machine.
    #[error(
        "no Vulkan loader: install one (Debian: libvulkan1) and a driver (mesa-vulkan-drivers)"
    )]
    NoLoader {
        /// What the dynamic linker said.
        #[source]
        source: ash::LoadingError,
    },
    /// The loader runs but knows no device that peerbuf can use.
    #[error("no usable Vulkan device among {seen}: {why}")]
    NoDevice {
        /// How many devices the loader listed.
        seen: usize,
        /// What each of them lacks.
        why: String,
    },
    /// No adapter fits the selection.
    #[error("no adapter matches {selector}; there are {present}: {names}")]
    UnknownDevice {
        /// What was asked for.
        selector: AdapterSelector,
        /// How many adapters there are.
        present: usize,
        /// Their names.
        names: String,
    },
    /// The device lacks something that the operation needs.
    #[error("{device} lacks {missing}")]
    Unsupported {
        /// The device's name.
        device: String,
        /// The extension, feature or ability that is missing.
        missing: String,
    },
    /// No proved way leads from where the bytes may live to this device.
    #[error("{buffer}: {device} cannot reach it{}", list(.refused))]
    Unreachable {
        /// The buffer's name.
        buffer: String,
        /// The device that was to be attached.
        device: String,
        /// Every way that was considered, and why not.
        refused: Vec<Refusal>,
    },

    /// The buffer was taken away from everybody ([`crate::SharedBuffer::revoke`]). Drop what you have
    /// mapped; map it again if its owner arms it again ([`crate::SharedBuffer::rearm`]).
    #[error("{buffer} is revoked: nobody may use it until it is armed again")]
    Revoked {
        /// The buffer's name.
        buffer: String,
    },

    /// Work that was to write the buffer, or to move it, has failed, and its bytes are not what anybody
    /// thinks. Say that you know that ([`crate::SharedBuffer::accept_content`]), and write them again.
    #[error("{buffer} is poisoned: {cause}")]
    Poisoned {
        /// The buffer's name.
        buffer: String,
        /// What failed, and why.
        cause: String,
    },

    /// The buffer's content is gone: it was allowed to lose it ([`crate::BufferDescriptor::discardable`],
    /// [`crate::SharedBuffer::set_purgeable`]), and its place was needed. Give it a new place
    /// ([`crate::SharedBuffer::renew`]), which holds zeros; map it again, and make its content anew.
    #[error("{buffer} is purged: its content is gone, and it has no place until it is renewed")]
    Purged {
        /// The buffer's name.
        buffer: String,
    },

    // ---- wait, or retry ----
    /// The buffer cannot move now, because somebody uses it where it is. Retry when that has ended.
    #[error("{buffer} is busy: {mapped} mapped, {host} under host access, {pinned} pinned")]
    Busy {
        /// The buffer's name.
        buffer: String,
        /// Live mappings.
        mapped: u32,
        /// Live host accesses.
        host: u32,
        /// Live pins, those of [`crate::ForeignExport`]s among them.
        pinned: u32,
    },
    /// The buffer cannot be revoked, because a stranger has an fd of it, and nobody can take that back.
    /// Retry when the [`crate::ForeignExport`]s are dropped.
    #[error("{buffer} is handed out to strangers, {exports} times")]
    HandedOut {
        /// The buffer's name.
        buffer: String,
        /// Live exports.
        exports: u32,
    },
    /// The buffer has moved since it was mapped. Map it again ([`crate::Attachment::remap`]) and retry.
    #[error("{buffer}: mapped at generation {mapped}, now at {current}")]
    Stale {
        /// The buffer's name.
        buffer: String,
        /// The generation that the mapping is of.
        mapped: u32,
        /// The generation that the buffer is at.
        current: u32,
    },
    /// A bounded wait came to its end first.
    #[error("{what} did not finish within {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },

    // ---- fix the call ----
    /// A size that no buffer can have.
    #[error("a buffer of {size} bytes: {rule}")]
    InvalidSize {
        /// The size that was asked for.
        size: u64,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A range that does not lie within its buffer.
    #[error("{buffer}: {len} bytes at {offset} do not fit into {size}")]
    OutOfBounds {
        /// The buffer's name.
        buffer: String,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// The buffer's size.
        size: u64,
    },
    /// An offset or a length that is not a multiple of what the operation needs.
    #[error("{what}: {value} is not a multiple of {align}")]
    Misaligned {
        /// Which quantity.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// Source and destination of a copy overlap.
    #[error("{buffer}: copying {len} bytes from {from} to {to} overlaps itself")]
    Overlap {
        /// The buffer's name.
        buffer: String,
        /// Source offset.
        from: u64,
        /// Destination offset.
        to: u64,
        /// Length in bytes.
        len: u64,
    },
    /// The device already has a seat at this buffer.
    #[error("{buffer}: {device} is already attached")]
    AlreadyAttached {
        /// The buffer's name.
        buffer: String,
        /// The device's name.
        device: String,
    },
    /// The attachment still has mappings; drop them, then detach.
    #[error("{buffer}: {device} still holds {mapped} mappings")]
    StillMapped {
        /// The buffer's name.
        buffer: String,
        /// The device's name.
        device: String,
        /// Mappings that are alive.
        mapped: u32,
    },
    /// The objects belong to different engines.
    #[error("{what} belongs to another engine")]
    ForeignEngine {
        /// Which argument.
        what: &'static str,
    },
    /// The mapping is of another buffer or of another device.
    #[error("{buffer}: not a mapping of it on {device}")]
    ForeignMapping {
        /// The buffer's name.
        buffer: String,
        /// The device's name.
        device: String,
    },
    /// The access was opened for less than is being done with it.
    #[error("{buffer}: opened for {opened}, used for {used}")]
    WrongAccess {
        /// The buffer's name.
        buffer: String,
        /// What the guard allows.
        opened: crate::Access,
        /// What was tried.
        used: crate::Access,
    },
    /// A file descriptor from outside is not what it was said to be.
    #[error("foreign fd refused as {handle}: {reason}")]
    ForeignFd {
        /// As what it was offered.
        handle: HandleType,
        /// What is wrong with it.
        reason: ForeignFdReason,
    },

    // ---- give up on a device ----
    /// The device is gone; its queues accept nothing more. Other devices do not notice.
    #[error("{device} is lost (noticed in {call})")]
    DeviceLost {
        /// The device's name.
        device: String,
        /// The call that said so.
        call: &'static str,
    },

    /// The work behind a fence has ended, and went wrong; what it was to write is not what anybody
    /// thinks. Do it again.
    #[error("{what} failed: {why}")]
    WorkFailed {
        /// What the fence stood for.
        what: String,
        /// Why it went wrong.
        why: &'static str,
    },

    // ---- raw ----
    /// A Vulkan call failed in a way that has no better name here.
    #[error("{device}: {call} failed with {code:?}")]
    Vulkan {
        /// The device's name, or the loader's.
        device: String,
        /// The call.
        call: &'static str,
        /// Its result.
        code: vk::Result,
    },
    /// An operating-system call failed in a way that has no better name here.
    #[error("{call} failed")]
    Os {
        /// The call.
        call: &'static str,
        /// Its error.
        #[source]
        source: Errno,
    },
    /// The allocator of staging memory failed.
    #[error("{device}: staging memory of {size} bytes")]
    Staging {
        /// The device's name.
        device: String,
        /// Bytes asked for.
        size: u64,
        /// The allocator's reason.
        #[source]
        source: gpu_allocator::AllocationError,
    },
}

/// What is wrong with a file descriptor that came from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignFdReason {
    /// The descriptor is not open (`EBADF`).
    #[error("it is closed")]
    Closed,
    /// The descriptor is open, but no dma-buf.
    #[error("it is not a dma-buf")]
    NotDmaBuf,
    /// The descriptor is open, but no memfd that is sealed against shrinking.
    #[error("it is no memfd sealed against shrinking, so its pages could vanish under a mapping")]
    NotSealed,
    /// What the descriptor names is smaller than claimed.
    #[error("it holds {actual} bytes, {claimed} were claimed")]
    TooSmall {
        /// The size that the caller claimed.
        claimed: u64,
        /// The size that the kernel or the driver reports.
        actual: u64,
    },
    /// An `OPAQUE_FD` of another driver or device
    /// (VUID-VkImportMemoryFdInfoKHR-fd-00668 and the table of external handle types).
    #[error("it was made by driver or device {theirs}, this one is {ours}")]
    OtherDriver {
        /// UUID of the driver or device that made it.
        theirs: crate::device::Uuid,
        /// UUID of the importing one.
        ours: crate::device::Uuid,
    },
    /// The driver looked at it and refused.
    #[error("the driver does not take it ({0:?})")]
    Rejected(vk::Result),
    /// No memory type of the importing device can hold it.
    #[error("no memory type of the device fits it")]
    NoMemoryType,
}

impl Error {
    /// Whether freeing memory, or asking for another domain, may help. Any call may say so, not only those that
    /// allocate.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::OutOfMemory { .. } | Self::Staging { .. } | Self::Os { source: Errno::NOMEM, .. }
        ) || self.is_drivers_out_of_memory()
    }

    /// Whether a driver said that it has no memory left for something that is no allocation of ours.
    pub(crate) fn is_drivers_out_of_memory(&self) -> bool {
        use vk::Result as Code;
        matches!(
            self,
            Self::Vulkan {
                code: Code::ERROR_OUT_OF_DEVICE_MEMORY | Code::ERROR_OUT_OF_HOST_MEMORY,
                ..
            }
        )
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. } | Self::HandedOut { .. } | Self::Timeout { .. } | Self::Stale { .. }
        )
    }

    /// Whether a device is lost for good.
    pub fn is_device_lost(&self) -> bool {
        matches!(self, Self::DeviceLost { .. })
    }

    /// The one translation of a `VkResult` that carries no domain.
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

    /// The one translation of an `errno`.
    pub(crate) fn os(call: &'static str, source: Errno) -> Self {
        if matches!(source, Errno::MFILE | Errno::NFILE) {
            let (open, limit) = fd_usage();
            return Self::FdLimit { call, limit, open };
        }
        Self::Os { call, source }
    }

    /// That no buffer can have so many bytes.
    pub(crate) fn too_large(size: u64) -> Self {
        Self::InvalidSize { size, rule: "at most 2^63 bytes" }
    }

    /// [`Error::FdLimit`] if no descriptor can be opened at this moment.
    ///
    /// Drivers answer `VK_ERROR_OUT_OF_HOST_MEMORY` or worse when `memfd_create` or `dup` gave
    /// `EMFILE`, so the only way to know is to try.
    pub(crate) fn fd_limit(call: &'static str) -> Option<Self> {
        match rustix::fs::memfd_create("peerbuf-fd-check", rustix::fs::MemfdFlags::CLOEXEC) {
            Err(Errno::MFILE | Errno::NFILE) => Some(Self::os(call, Errno::MFILE)),
            _ => None,
        }
    }
}

/// Codes that drivers return when they ran out of descriptors.
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

/// Open descriptors and the soft limit. Counting needs a descriptor of its own; where there is none
/// left the limit is the count.
fn fd_usage() -> (u64, u64) {
    let limit =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let open = std::fs::read_dir("/proc/self/fd").map_or(limit, |dir| dir.count() as u64);
    (open, limit)
}

fn driver_said(code: Option<vk::Result>) -> String {
    code.map_or_else(String::new, |code| format!(" (the driver said {code:?})"))
}

fn in_the_way(obstacles: &Obstacles) -> String {
    if obstacles.is_empty() { String::new() } else { format!("; in the way: {obstacles}") }
}

fn list(refused: &[Refusal]) -> String {
    refused.iter().map(|refusal| format!("; {refusal}")).collect()
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Error>();
};
