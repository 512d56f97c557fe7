//! Why a buffer is where it is: its last decisions, and their reasons.
//!
//! Kernel counterpart: none. There, `ttm_bo_evict` leaves no trace of why it chose a buffer.
//!
//! A decision is numbers and a kind of reason; the text is made when somebody asks. Names of others are not
//! kept, since those may be gone by then: whoever asks may look them up ([`Decision::told`]).

mod bits;
mod history;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use history::History;
pub use text::Told;

use std::fmt;

use crate::device::DeviceId;
use crate::memory::DomainId;

/// Something that was decided about where a buffer is. Printed, it is a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// What.
    pub what: What,
    /// When, in decisions of the engine: of two, that with the larger number is the later one.
    pub when: u64,
    /// Where the buffer was; for one that [fell back](What::FellBack), where it should have gone.
    pub from: DomainId,
    /// Where it went; for one that [stays](What::Stayed), where it might have gone.
    pub to: DomainId,
    /// The buffer's size.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum What {
    /// The buffer is new, and begins here.
    Placed,
    /// It had to make room.
    Evicted,
    /// It came back to where it is wanted.
    Restored,
    /// It moved because somebody said so, or could not have reached it.
    Migrated,
    /// It moved to a device that uses it more than others.
    Attracted,
    /// It could not go where it is wanted, and went to the next best place.
    FellBack,
    /// It did not move, although something spoke for it.
    Stayed,
    /// It gave up its content to make room, as its owner had allowed.
    Purged,
    /// Its content went with a device.
    Lost,
    /// Its copy elsewhere became the buffer, because a device went.
    Promoted,
}

/// Why.
///
/// Small numbers are exact. Sizes are kept to three digits, and counts only up to a few hundred or thousand:
/// a reason must be cheap to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing spoke against it.
    FirstChoice,
    /// Somebody asked for it, by a call.
    Asked,
    /// Room was wanted.
    Wanted {
        /// Bytes that were missing.
        bytes: u64,
        /// The number of the buffer that wanted it; `None` if it was wanted for something else.
        by: Option<u64>,
        /// How this one was chosen.
        pick: Pick,
        /// Among how many, itself included. At most 2047, which means that many or more.
        of: u32,
    },
    /// There was no room.
    NoRoom {
        /// Bytes that may be in use there; `u64::MAX` if there is no bound.
        budget: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes of those that are pinned.
        pinned: u64,
        /// Who has pinned most of it, if a device has.
        by: Option<DeviceId>,
        /// How many pins those are. At most 63, which means that many or more.
        pins: u32,
    },
    /// The driver had no memory left, whatever the budget said.
    DriverOutOfMemory {
        /// Whose.
        device: DeviceId,
    },
    /// The driver could not provide it, for another reason.
    DriverFailed {
        /// Whose.
        device: DeviceId,
    },
    /// Memory of that place cannot be shared with all who use the buffer.
    NotShareable,
    /// It is pinned.
    Pinned {
        /// By whom; `None` for a stranger.
        by: Option<DeviceId>,
        /// How often. At most 4095, which means that often or more.
        pins: u32,
    },
    /// It is mapped by somebody who cannot be told that it moves.
    Mapped {
        /// By whom.
        by: DeviceId,
    },
    /// The host is using it.
    HostAccess,
    /// Work on it has not ended.
    Busy {
        /// Whose; `None` for the host's, or a stranger's.
        by: Option<DeviceId>,
    },
    /// Enough was moved already.
    Throttled {
        /// Bytes that have come in this submission; if none have, lately.
        moved: u64,
        /// Bytes that may.
        allowed: u64,
    },
    /// It has moved only a short while ago, and must be used more before it moves again.
    Hysteresis {
        /// How often it was used since then. At most 4095, which means that often or more.
        uses: u32,
        /// How often it has to be. At most 4095 likewise.
        needed: u32,
    },
    /// Somebody uses it.
    Used {
        /// Who.
        by: DeviceId,
    },
    /// Somebody uses it more than others.
    UsedMore {
        /// Who.
        by: DeviceId,
        /// How often, lately. At most 65535, which means that often or more.
        times: u32,
        /// How often all others together. At most 65535 likewise.
        others: u32,
    },
    /// Somebody could not have reached it.
    Reach {
        /// Who.
        by: DeviceId,
    },
    /// It was handed out to a stranger.
    HandedOut,
    /// Everything was to leave, or to come back.
    All,
    /// A device is lost, or was unplugged.
    DeviceLost {
        /// Which.
        device: DeviceId,
    },
}

/// How a buffer was chosen to make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pick {
    /// By a rule of its own, of which nothing is known here.
    Rule,
    /// Its last use was the longest ago.
    LeastRecent,
    /// Its last use was the latest: the others come first in a loop.
    MostRecent,
    /// Its next use was expected last.
    FurthestUse,
    /// It was next in line.
    NextInLine,
    /// Its priority was the lowest.
    LowestPriority,
    /// It could leave without being copied.
    Cheapest,
}

impl Decision {
    /// The decision in words, with the names that `name` knows of buffers.
    pub fn told<N: Fn(u64) -> Option<String>>(&self, name: N) -> Told<'_, N> {
        Told::new(self, name)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.told(|_| None).fmt(f)
    }
}
