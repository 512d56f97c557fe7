//! The constant properties of a buffer, in one byte; its usages, and what its memory must be, in one word.

use ash::vk;

use crate::buffer::state::{bits_of, priority_of};
use crate::device::SHARED_BUFFER_USAGE;
use crate::memory::Placement;
use crate::residency::Priority;

/// What a buffer was created with, except its size, usages and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct CreationFlags(u8);

const PLACEMENTS: [Placement; 3] = [Placement::VramOrSystem, Placement::Vram, Placement::System];

/// The shift of the placement, of two bits.
const PLACEMENT: u32 = 0;

/// The shift of the priority, of two bits.
const PRIORITY: u32 = 2;

const PEER_TO_PEER: u8 = 1 << 4;

const DISCARDABLE: u8 = 1 << 5;

const NAMED: u8 = 1 << 6;

const PRIVATE: u8 = 1 << 7;

impl CreationFlags {
    pub(super) fn new(
        placement: Placement,
        priority: Priority,
        [peer_to_peer, discardable, named, private]: [bool; 4],
    ) -> Self {
        let flag = |flag, on| if on { flag } else { 0 };
        let placement = match placement {
            Placement::VramOrSystem => 0,
            Placement::Vram => 1,
            Placement::System => 2,
        };
        Self(
            placement << PLACEMENT
                | bits_of(priority) << PRIORITY
                | flag(PEER_TO_PEER, peer_to_peer)
                | flag(DISCARDABLE, discardable)
                | flag(NAMED, named)
                | flag(PRIVATE, private),
        )
    }

    pub(in crate::buffer) fn placement(self) -> Placement {
        PLACEMENTS[usize::from(self.0 >> PLACEMENT & 3)]
    }

    /// Whether it may be in one device's own memory while other devices are attached.
    pub(in crate::buffer) fn peer_to_peer(self) -> bool {
        self.0 & PEER_TO_PEER != 0
    }

    pub(in crate::buffer) fn priority(self) -> Priority {
        priority_of(self.0 >> PRIORITY)
    }

    pub(in crate::buffer) fn is_discardable(self) -> bool {
        self.0 & DISCARDABLE != 0
    }

    /// Whether its memory need not be exportable while only its home device is attached.
    pub(in crate::buffer) fn is_private(self) -> bool {
        self.0 & PRIVATE != 0
    }

    /// Whether it has a name, which is in the registry.
    pub(super) fn is_named(self) -> bool {
        self.0 & NAMED != 0
    }
}

/// The usages of a buffer, and whether it needs an allocation of its own: a property in a bit that no usage has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::buffer) struct UsageAndMemory(u32);

const DEDICATED: u32 = 1 << 31;

const _: () = assert!(SHARED_BUFFER_USAGE.as_raw() & DEDICATED == 0, "the bit is free");

impl UsageAndMemory {
    /// The usages are among those of shared buffers.
    pub(super) fn new(usage: vk::BufferUsageFlags, dedicated: bool) -> Self {
        Self(usage.as_raw() & !DEDICATED | if dedicated { DEDICATED } else { 0 })
    }

    /// The usages.
    pub(in crate::buffer) fn usage(self) -> vk::BufferUsageFlags {
        vk::BufferUsageFlags::from_raw(self.0 & !DEDICATED)
    }

    /// Whether each backing is an allocation of its own.
    pub(in crate::buffer) fn is_dedicated(self) -> bool {
        self.0 & DEDICATED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BufferDescriptor;

    #[test]
    fn usages_and_memory_are_kept_in_one_word() {
        for dedicated in [false, true] {
            let kept = UsageAndMemory::new(SHARED_BUFFER_USAGE, dedicated);
            assert_eq!((kept.usage(), kept.is_dedicated()), (SHARED_BUFFER_USAGE, dedicated));
        }
    }

    #[test]
    fn flags_keep_every_property_of_the_descriptor() {
        for placement in PLACEMENTS {
            for &priority in Priority::ALL {
                for flags in 0..16 {
                    let [peer_to_peer, discardable, named, private] =
                        [1, 2, 4, 8].map(|bit| flags & bit != 0);
                    let asked = BufferDescriptor::new(1).placement(placement).priority(priority);
                    let asked = asked.peer_to_peer(peer_to_peer);
                    let asked = if discardable { asked.discardable() } else { asked };
                    let asked = if named { asked.name("it") } else { asked };
                    let asked = if private { asked.private() } else { asked };
                    let flags = asked.flags();
                    assert_eq!((flags.placement(), flags.priority()), (placement, priority));
                    let kept = [flags.peer_to_peer(), flags.is_discardable(), flags.is_named()];
                    assert_eq!(kept, [peer_to_peer, discardable, named], "{flags:?}");
                    assert_eq!(flags.is_private(), private, "{flags:?}");
                }
            }
        }
    }
}
