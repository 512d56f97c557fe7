//! A decision about a buffer, as numbers.

use crate::device::DeviceId;
use crate::memory::DomainId;

/// A decision about where a buffer is. Printed, it is a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// What was decided.
    pub what: What,
    /// When, counted in decisions of the engine: the later one of two has the larger number.
    pub when: u64,
    /// Where the buffer was; if it [fell back](What::FellBack), its preferred domain.
    pub from: DomainId,
    /// Where it was moved to; if it [stayed](What::Stayed), where it could have been moved.
    pub to: DomainId,
    /// The buffer's size.
    pub bytes: u64,
    /// The reason.
    pub reason: Reason,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum What {
    /// The buffer was created here.
    Placed,
    /// It was evicted.
    Evicted,
    /// It was restored to its preferred domain.
    Restored,
    /// It was moved because the caller asked for it, or because a device could not reach it.
    Migrated,
    /// It was auto-migrated to a device that uses it more than others.
    #[doc(alias = "Attracted")]
    AutoMigrated,
    /// It could not be placed in its preferred domain, and was placed in the next best one.
    FellBack,
    /// It was not moved, although there was a reason to move it.
    Stayed,
    /// Its content was discarded to make room, as its owner had allowed.
    Purged,
    /// Its content was lost with a device.
    Lost,
    /// Its clean copy became its backing, because a device was lost.
    Promoted,
}

/// The reason of a decision.
///
/// Small numbers are exact. Sizes are kept to three digits, and counts only up to a bound, because every
/// buffer keeps its reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing prevented the first choice.
    FirstChoice,
    /// The caller asked for it.
    Asked,
    /// Room was needed.
    Wanted {
        /// Bytes that were missing.
        bytes: u64,
        /// The number of the buffer that needed it; `None` if it was needed for something else.
        by: Option<u64>,
        /// How this buffer was chosen.
        pick: Pick,
        /// The number of candidates, including this one. 2047 means that many or more.
        of: u32,
    },
    /// There was no room.
    NoRoom {
        /// Bytes that may be in use there; `u64::MAX` if there is no limit.
        budget: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes of those that are pinned.
        pinned: u64,
        /// The device that has pinned most of it, if one has.
        by: Option<DeviceId>,
        /// The number of its pins. 63 means that many or more.
        pins: u32,
    },
    /// The driver had no memory left, although the budget allowed it.
    DriverOutOfMemory {
        /// The driver's device.
        device: DeviceId,
    },
    /// The driver could not provide the memory for another reason.
    DriverFailed {
        /// The driver's device.
        device: DeviceId,
    },
    /// Memory of that domain cannot be shared with all users of the buffer.
    NotShareable,
    /// The buffer is pinned.
    Pinned {
        /// The device that pinned it; `None` for an export.
        by: Option<DeviceId>,
        /// The number of pins. 4095 means that many or more.
        pins: u32,
    },
    /// The buffer is mapped through an attachment that cannot be notified of moves.
    Mapped {
        /// The device that maps it.
        by: DeviceId,
    },
    /// The host is using the buffer.
    HostAccess,
    /// Work on the buffer has not ended.
    Busy {
        /// The device that works; `None` for the host or an external user.
        by: Option<DeviceId>,
    },
    /// The limit of bytes moved at once was reached.
    Throttled {
        /// Bytes moved in for this submission; if none, recently.
        moved: u64,
        /// The limit.
        allowed: u64,
    },
    /// The buffer was moved recently, and must be used more often before it is moved again.
    Hysteresis {
        /// The number of uses since then. 4095 means that many or more.
        uses: u32,
        /// The number of uses that is needed. 4095 means that many or more.
        needed: u32,
    },
    /// Other buffers would have to leave for it, and more uses of those are expected.
    UsedLess,
    /// A device uses the buffer.
    Used {
        /// The device.
        by: DeviceId,
    },
    /// A device uses the buffer more than others.
    UsedMore {
        /// The device.
        by: DeviceId,
        /// The number of its recent uses. 65535 means that many or more.
        times: u32,
        /// The number of recent uses by all others. 65535 means that many or more.
        others: u32,
    },
    /// A device could not reach the buffer.
    Reach {
        /// The device.
        by: DeviceId,
    },
    /// The buffer was exported to an external user.
    #[doc(alias = "HandedOut")]
    Exported,
    /// The caller asked to evict or restore all buffers.
    All,
    /// A device is lost, or was unplugged.
    DeviceLost {
        /// The device.
        device: DeviceId,
    },
    /// More of an image's attachments use its bytes where they are now ([`crate::SharedImage::relayout`]).
    Rearranged,
}

/// How a buffer was chosen to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pick {
    /// By a policy that gives no further reason.
    Rule,
    /// Its last use is the longest ago.
    LeastRecent,
    /// Its last use is the most recent: in a loop, the others are used earlier.
    MostRecent,
    /// Its next use is expected last.
    FurthestUse,
    /// It was the next in order.
    NextInLine,
    /// Its priority is the lowest.
    LowestPriority,
    /// It could be evicted without a copy.
    Cheapest,
}
