//! The error type of this crate, grouped by what the caller can do next.
//!
//! Its variants are in five groups: *make room or ask another domain*, *choose another path*, *wait or retry*, *fix the call*,
//! *stop using a device*; the raw ones are last. `codes` decides what a `VkResult` or an `errno` means, except where the
//! loader or the import of a foreign fd gives a code another meaning.

mod codes;
mod device_users;
mod foreign_fd;
mod import_limit;
mod message;
mod predicates;

use std::time::Duration;

use ash::vk;

use self::message::{driver_code, failures_of};
use crate::access::Access;
use crate::device::{AdapterSelector, HandleType};
use crate::memory::DomainId;
use crate::residency::EvictionFailures;
use crate::transfer::{Refusal, first_of};

pub use device_users::DeviceUsers;
pub use foreign_fd::ForeignFdReason;
pub use gpu_allocator::AllocationError;
pub use import_limit::ImportLimit;
pub use rustix::io::Errno;

/// A result with this crate's [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed.
///
/// A failed operation leaves no half-made objects. Some of the bytes that it should have written may have been written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // ---- make room, or ask another domain ----
    /// A domain cannot hold the requested bytes. Free memory there, or ask for another domain.
    #[error(
        "{domain} is out of memory: {requested} bytes requested, {used} of {budget} bytes in use{}{}",
        driver_code(*.code), failures_of(.failures)
    )]
    #[non_exhaustive]
    OutOfMemory {
        /// The domain that was asked.
        domain: DomainId,
        /// Bytes requested, after rounding.
        requested: u64,
        /// Bytes that may be in use there at once.
        budget: u64,
        /// Bytes in use there when the request failed, as this engine counts them.
        used: u64,
        /// The driver's code, if the driver refused.
        code: Option<vk::Result>,
        /// The buffers that could not be evicted, and why.
        failures: Box<EvictionFailures>,
    },
    /// A device would import more system memory than it can reach at once. Detach it from buffers, or move buffers to
    /// its own memory. Unused imports have been given back by then.
    #[error("{0}")]
    ImportLimit(ImportLimit),
    /// The process cannot open more file descriptors. Drop exports, or raise `RLIMIT_NOFILE`.
    ///
    /// Drivers report this as out of memory; peerbuf checks which of the two it is.
    #[error("{call}: no file descriptor left, {open} open of {limit} allowed (RLIMIT_NOFILE)")]
    #[non_exhaustive]
    FdLimit {
        /// The call that needed a descriptor.
        call: &'static str,
        /// The soft `RLIMIT_NOFILE`.
        limit: u64,
        /// Descriptors open when it failed.
        open: u64,
    },

    /// A device has reached its pin quota. Unpin a buffer, or raise the quota
    /// ([`crate::Engine::set_pin_quota`]).
    #[error("{device} may pin {quota} bytes: {used} pinned, {requested} more requested")]
    #[non_exhaustive]
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
    #[non_exhaustive]
    NoLoader {
        /// The error of the dynamic linker.
        #[source]
        source: ash::LoadingError,
    },
    /// The loader lists no device that peerbuf can use.
    #[error("no usable Vulkan device among {seen}: {why}")]
    #[non_exhaustive]
    NoDevice {
        /// How many devices the loader listed.
        seen: usize,
        /// What each of them lacks, separated by `; `.
        why: String,
    },
    /// No adapter matches the selector.
    #[error("no adapter matches {selector}; there are {present}: {names}")]
    #[non_exhaustive]
    UnknownDevice {
        /// The selector.
        selector: AdapterSelector,
        /// How many adapters there are.
        present: usize,
        /// Their names.
        names: String,
    },
    /// The device lacks something that the operation needs.
    #[error("{device} lacks {missing}")]
    #[non_exhaustive]
    Unsupported {
        /// The device's name.
        device: String,
        /// The extension, feature or capability that is missing.
        missing: String,
    },
    /// The device cannot reach any domain that the buffer may live in, by any proved route.
    #[error("{buffer}: {device} cannot reach it")]
    #[non_exhaustive]
    Unreachable {
        /// The buffer's name.
        buffer: String,
        /// The device that was to be attached.
        device: String,
        /// Every route that was considered, and why it was refused. The text of the error leaves them out.
        refused: Vec<Refusal>,
    },

    /// The buffer is revoked ([`crate::SharedBuffer::revoke`]). Drop its mappings; map it again after its owner
    /// has called [`crate::SharedBuffer::unrevoke`].
    #[error("{buffer} is revoked: it cannot be used before `unrevoke` is called")]
    #[non_exhaustive]
    Revoked {
        /// The buffer's name.
        buffer: String,
    },

    /// Work that should have written or moved the buffer has failed, so its content is undefined. Accept the
    /// content ([`crate::SharedBuffer::accept_content`]), and write it again.
    #[error("{buffer} is poisoned: {cause}")]
    #[non_exhaustive]
    Poisoned {
        /// The buffer's name.
        buffer: String,
        /// What failed, and why.
        cause: String,
    },

    /// The buffer's content was discarded, because it was purgeable ([`crate::BufferDescriptor::discardable`],
    /// [`crate::SharedBuffer::set_purgeable`]) and its memory was needed. Call [`crate::SharedBuffer::repopulate`] to
    /// allocate zeroed memory, map the buffer again, and write its content again.
    #[error(
        "{buffer} is purged: its content was discarded; call `repopulate` to allocate zeroed memory"
    )]
    #[non_exhaustive]
    Purged {
        /// The buffer's name.
        buffer: String,
    },

    // ---- wait, or retry ----
    /// No route to the device is known to work, and some were not tried yet: a device is busy or full. Retry later.
    #[error("{device}: no proved route yet; {}", first_of(.untried))]
    RoutesUnproved {
        /// The device that was to be reached.
        device: String,
        /// The routes that were not tried, each with the reason.
        untried: Vec<Refusal>,
    },
    /// The buffer cannot move now, because a mapping, a host access or a pin keeps it in place. Retry when it has
    /// ended.
    #[error("{buffer} is busy: {mapped} mapped, {host} under host access, {pinned} pinned")]
    #[non_exhaustive]
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
    /// The buffer cannot be revoked, because an fd of it was exported outside this engine, and an fd cannot be
    /// taken back. Retry when the [`crate::ForeignExport`]s are dropped.
    #[doc(alias = "HandedOut")]
    #[error("{buffer} is exported outside this engine, {exports} times")]
    #[non_exhaustive]
    Exported {
        /// The buffer's name.
        buffer: String,
        /// Live exports.
        exports: u32,
    },
    /// The buffer has moved since it was mapped. Map it again ([`crate::Attachment::remap`]) and retry.
    #[error("{buffer}: mapped at generation {mapped}, now at {current}")]
    #[non_exhaustive]
    Stale {
        /// The buffer's name.
        buffer: String,
        /// The generation of the mapping.
        mapped: u32,
        /// The generation of the buffer.
        current: u32,
    },
    /// A wait ended by its timeout.
    #[error("{what} did not finish within {after:?}")]
    #[non_exhaustive]
    Timeout {
        /// What was waited for.
        what: String,
        /// The timeout.
        after: Duration,
    },

    // ---- fix the call ----
    /// A size that no buffer can have.
    #[error("a buffer of {size} bytes: {rule}")]
    #[non_exhaustive]
    InvalidSize {
        /// The requested size.
        size: u64,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// A range that is not within its buffer.
    #[error("{buffer}: {len} bytes at {offset} do not fit into {size}")]
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    #[non_exhaustive]
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
    /// The device is already attached to this buffer.
    #[error("{buffer}: {device} is already attached")]
    #[non_exhaustive]
    AlreadyAttached {
        /// The buffer's name.
        buffer: String,
        /// The device's name.
        device: String,
    },
    /// The attachment still has mappings; drop them, then detach.
    #[error("{buffer}: {device} still holds {mapped} mappings")]
    #[non_exhaustive]
    StillMapped {
        /// The buffer's name.
        buffer: String,
        /// The device's name.
        device: String,
        /// Live mappings.
        mapped: u32,
    },
    /// The objects belong to different engines.
    #[error("{what} belongs to another engine")]
    #[non_exhaustive]
    ForeignEngine {
        /// Which argument.
        what: &'static str,
    },
    /// The mapping is of another buffer or of another device.
    #[error("{buffer}: not a mapping of this buffer on {device}")]
    #[non_exhaustive]
    ForeignMapping {
        /// The buffer's name.
        buffer: String,
        /// The device's name.
        device: String,
    },
    /// A submission that writes this image declares two `VkImage`s of it. Use one attachment, or two submissions.
    #[error("{0}: two VkImages of it in one submission; use one attachment, or two submissions")]
    ImageDeclaredTwice(String),
    /// The access was opened for another mode than it is used for.
    #[error("{buffer}: opened for {opened}, used for {used}")]
    #[non_exhaustive]
    WrongAccess {
        /// The buffer's name.
        buffer: String,
        /// The mode that the guard allows.
        opened: Access,
        /// The mode that was attempted.
        used: Access,
    },
    /// A file descriptor from outside is not of the stated type or size.
    #[error("foreign fd refused as {handle}: {reason}")]
    #[non_exhaustive]
    ForeignFd {
        /// The stated type.
        handle: HandleType,
        /// Why it was refused.
        reason: ForeignFdReason,
    },

    // ---- stop using a device ----
    /// The device is lost; its queues accept no more work. Other devices are not affected.
    #[error("{device} is lost (reported by {call})")]
    #[non_exhaustive]
    DeviceLost {
        /// The device's name.
        device: String,
        /// The call that reported the loss.
        call: &'static str,
    },
    /// The device of this name was removed from its engine ([`crate::Engine::remove_device`]), or is being removed.
    #[error("{0} was removed from its engine")]
    DeviceRemoved(String),
    /// The device cannot be removed. Drop what uses it, then remove it again.
    #[error("{0}")]
    DeviceInUse(DeviceUsers),
    /// The work behind a fence has failed, so what it should have written is undefined. Submit it again.
    #[error("{what} failed: {why}")]
    #[non_exhaustive]
    WorkFailed {
        /// The work behind the fence.
        what: String,
        /// Why it failed.
        why: &'static str,
    },

    // ---- raw ----
    /// A Vulkan call failed with a code that has no variant of its own.
    #[error("{device}: {call} failed with {code:?}")]
    #[non_exhaustive]
    Vulkan {
        /// The device's name, or the loader's.
        device: String,
        /// The call.
        call: &'static str,
        /// Its code.
        code: vk::Result,
    },
    /// An operating-system call failed with an `errno` that has no variant of its own.
    #[error("{call} failed")]
    #[non_exhaustive]
    Os {
        /// The call.
        call: &'static str,
        /// Its `errno`.
        #[source]
        source: Errno,
    },
    /// The allocator of staging memory failed.
    #[error("{device}: allocating {size} bytes of staging memory failed")]
    #[non_exhaustive]
    Staging {
        /// The device's name.
        device: String,
        /// Bytes requested.
        size: u64,
        /// The allocator's reason.
        #[source]
        source: AllocationError,
    },
}
