//! A buffer's preferred domain, and its slot in an eviction list, in seven bytes.

use crate::device::DeviceId;
use crate::memory::{DomainId, Placement};
use crate::residency::Priority;
use crate::residency::policy::Slot;

/// Which eviction list a buffer is in, and what decides about its position there.
///
/// The list is that of the preferred domain. A purgeable buffer in system memory is in the list of system
/// memory instead. Other buffers cannot be evicted from system memory, so they are in no list there.
// Packed to seven bytes instead of eight: another byte of `State` is beside it.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(in crate::buffer) struct EvictionEntry {
    /// The slot in the list; [`NO_SLOT`] if the buffer is in no list.
    slot: u32,
    /// The device of the preferred domain; [`SYSTEM`] for system memory.
    preferred: u16,
    marks: Marks,
}

impl EvictionEntry {
    /// An entry that is in no list: that of an external buffer, which is never evicted, or of a buffer that
    /// has no backing yet.
    pub(in crate::buffer) fn none(
        preferred: DomainId,
        priority: Priority,
        purgeable: bool,
    ) -> Self {
        let marks = Marks(bits_of(priority)).with(PURGEABLE, purgeable);
        Self { slot: NO_SLOT, preferred: packed(preferred), marks }
    }

    /// The domain whose list it is in, or would be in.
    pub(in crate::buffer) fn list_domain(self) -> DomainId {
        if self.is_in_system() { DomainId::System } else { self.preferred() }
    }

    /// Whether the content may be discarded.
    pub(in crate::buffer) fn is_purgeable(self) -> bool {
        self.marks.has(PURGEABLE)
    }

    pub(in crate::buffer) fn is_in_system(self) -> bool {
        self.marks.has(IN_SYSTEM)
    }

    pub(in crate::buffer) fn preferred(self) -> DomainId {
        match self.preferred {
            SYSTEM => DomainId::System,
            device => DomainId::Vram(DeviceId(device)),
        }
    }

    pub(in crate::buffer) fn priority(self) -> Priority {
        priority_of(self.marks.0)
    }

    pub(in crate::buffer) fn slot(self) -> Option<Slot> {
        (self.slot != NO_SLOT).then_some(Slot(self.slot))
    }

    /// Clears the slot and returns it with the domain of its list. The caller must remove it from that list.
    pub(in crate::buffer) fn take_slot(&mut self) -> Option<(DomainId, Slot)> {
        let listed = self.slot().map(|slot| (self.list_domain(), slot));
        self.slot = NO_SLOT;
        listed
    }

    /// Sets the slot in the list of [`EvictionEntry::list_domain`].
    pub(in crate::buffer) fn set_slot(&mut self, slot: Slot) {
        self.slot = slot.0;
    }

    pub(in crate::buffer) fn set_preferred(&mut self, domain: DomainId) {
        self.preferred = packed(domain);
    }

    pub(in crate::buffer) fn set_priority(&mut self, priority: Priority) {
        self.marks = Marks(self.marks.0 & !PRIORITY | bits_of(priority));
    }

    pub(in crate::buffer) fn set_purgeable(&mut self, purgeable: bool) {
        self.marks = self.marks.with(PURGEABLE, purgeable);
    }

    /// Sets whether it is in the list of system memory, from which purgeable buffers can still be evicted.
    pub(in crate::buffer) fn set_in_system(&mut self, in_system: bool) {
        self.marks = self.marks.with(IN_SYSTEM, in_system);
    }
}

const NO_SLOT: u32 = u32::MAX;

/// The number that stands for system memory. No device has it: an engine accepts at most 65,535 devices.
const SYSTEM: u16 = u16::MAX;

/// The priority, in the lowest two bits, and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks(u8);

impl Marks {
    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    pub(super) fn with(self, mark: u8, on: bool) -> Self {
        Self(self.0 & !mark | if on { mark } else { 0 })
    }
}

const PRIORITY: u8 = 3;

/// The content may be discarded.
const PURGEABLE: u8 = 1 << 2;

/// The entry is in the list of system memory.
const IN_SYSTEM: u8 = 1 << 3;

fn packed(domain: DomainId) -> u16 {
    match domain {
        DomainId::Vram(device) => device.0,
        DomainId::System => SYSTEM,
    }
}

/// The preferred domain of a buffer with this placement and home device.
pub(in crate::buffer) fn preferred_domain(placement: Placement, home: DeviceId) -> DomainId {
    match placement {
        Placement::VramOrSystem | Placement::Vram => DomainId::Vram(home),
        Placement::System => DomainId::System,
    }
}

/// Encodes a priority in two bits.
pub(in crate::buffer) fn bits_of(priority: Priority) -> u8 {
    // CAST: there are four priorities.
    priority as u8
}

/// Decodes the priority in the lowest two bits.
pub(in crate::buffer) fn priority_of(bits: u8) -> Priority {
    Priority::ALL[usize::from(bits & 3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_seven_bytes_keeps_all_its_values() {
        for preferred in
            [DomainId::System, DomainId::Vram(DeviceId(0)), DomainId::Vram(DeviceId(65_534))]
        {
            for &priority in Priority::ALL {
                for purgeable in [false, true] {
                    let entry = EvictionEntry::none(preferred, priority, purgeable);
                    assert_eq!((entry.preferred(), entry.list_domain()), (preferred, preferred));
                    assert_eq!((entry.priority(), entry.is_purgeable()), (priority, purgeable));
                    assert!(!entry.is_in_system() && entry.slot().is_none());
                    let marks = entry.marks.with(IN_SYSTEM, true);
                    let entry = EvictionEntry { marks, slot: 0, ..entry };
                    assert_eq!(
                        (entry.preferred(), entry.list_domain()),
                        (preferred, DomainId::System)
                    );
                    assert_eq!((entry.priority(), entry.is_purgeable()), (priority, purgeable));
                    assert_eq!(entry.slot(), Some(Slot(0)));
                }
            }
        }
        assert_eq!(size_of::<EvictionEntry>(), 7);
    }
}
