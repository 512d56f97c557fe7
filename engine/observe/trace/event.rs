//! The events of a trace, as plain numbers.

use crate::device::DeviceId;
use crate::memory::DomainId;

/// A use of a buffer by a device. Eviction policies learn from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessEvent {
    /// The buffer's number.
    pub buffer: u64,
    /// Its size.
    pub bytes: u64,
    /// The device that uses it.
    pub device: DeviceId,
    /// The domain whose policy learns from the use: the buffer's preferred domain.
    pub domain: DomainId,
    /// Whether the buffer is resident there.
    pub resident: bool,
}

/// The use of a domain, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Bytes that may be in use; `u64::MAX` means no limit, and is not shown.
    pub(crate) budget: u64,
    pub(crate) used: u64,
    /// Bytes that no buffer owns any more and that devices still use: sources of running copies, and buffers
    /// that were dropped.
    pub(crate) in_flight: u64,
}

/// A move of a buffer from one domain to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) buffer: u64,
    pub(crate) bytes: u64,
    pub(crate) from: DomainId,
    pub(crate) to: DomainId,
    /// The short name of the cause: "evicted".
    pub(crate) cause: &'static str,
    /// The generation of the buffer after the move.
    pub(crate) generation: u32,
    /// The device that copies; `None` for the host.
    pub(crate) device: Option<DeviceId>,
}

/// How a move ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The bytes are at the destination.
    Moved,
    /// It was cancelled before the copy: the buffer was not moved.
    Stayed,
    /// The copy failed.
    Failed,
    /// It had not ended when the trace ended.
    Unfinished,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Stayed => "stayed",
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
        }
    }
}
