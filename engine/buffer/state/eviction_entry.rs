//! Where a buffer prefers to be, and its slot in that domain's eviction list, in seven bytes.

use crate::device::DeviceId;
use crate::memory::{DomainId, Placement};
use crate::residency::Priority;
use crate::residency::policy::Slot;

/// The place in whose order of eviction a buffer stands: where it wants to be, or, if it may lose its content
/// and is in system memory, there.
///
/// From system memory a buffer has nowhere to go: who is to keep its content stands in no order there.
// Packed, for its seven bytes to be no eight: another byte of the state lies beside it.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed)]
pub(in crate::buffer) struct EvictionEntry {
    /// [`NO_SLOT`] where there is no order.
    slot: u32,
    /// The device whose memory it is; [`SYSTEM`] is none.
    wanted: u16,
    marks: Marks,
}

impl EvictionEntry {
    /// In no order: that of a stranger's buffer, which nobody ever evicts, or of one that is nowhere yet.
    pub(in crate::buffer) fn none(wanted: DomainId, priority: Priority, purgeable: bool) -> Self {
        let marks = Marks(bits_of(priority)).with(PURGEABLE, purgeable);
        Self { slot: NO_SLOT, wanted: packed(wanted), marks }
    }

    /// In whose order it stands, if in any.
    pub(in crate::buffer) fn order(self) -> DomainId {
        if self.is_in_system() { DomainId::System } else { self.preferred() }
    }

    /// Whether its content may be lost.
    pub(in crate::buffer) fn is_purgeable(self) -> bool {
        self.marks.has(PURGEABLE)
    }

    pub(in crate::buffer) fn is_in_system(self) -> bool {
        self.marks.has(IN_SYSTEM)
    }

    pub(in crate::buffer) fn preferred(self) -> DomainId {
        match self.wanted {
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

    /// Takes its slot from it, with the domain in whose eviction list that is: for the caller to unlink.
    pub(in crate::buffer) fn take_slot(&mut self) -> Option<(DomainId, Slot)> {
        let listed = self.slot().map(|slot| (self.order(), slot));
        self.slot = NO_SLOT;
        listed
    }

    /// It has this slot in the eviction list of [`EvictionEntry::order`] from now on.
    pub(in crate::buffer) fn set_slot(&mut self, slot: Slot) {
        self.slot = slot.0;
    }

    pub(in crate::buffer) fn set_preferred(&mut self, domain: DomainId) {
        self.wanted = packed(domain);
    }

    pub(in crate::buffer) fn set_priority(&mut self, priority: Priority) {
        self.marks = Marks(self.marks.0 & !PRIORITY | bits_of(priority));
    }

    pub(in crate::buffer) fn set_purgeable(&mut self, purgeable: bool) {
        self.marks = self.marks.with(PURGEABLE, purgeable);
    }

    /// Whether its list is that of system memory, where purgeable buffers can still be evicted from.
    pub(in crate::buffer) fn set_in_system(&mut self, in_system: bool) {
        self.marks = self.marks.with(IN_SYSTEM, in_system);
    }
}

const NO_SLOT: u32 = u32::MAX;

/// No device has this number: the 65,536th is turned away.
const SYSTEM: u16 = u16::MAX;

/// How much it matters that it is there, in the lowest two bits, and what else decides about its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marks(u8);

impl Marks {
    fn has(self, mark: u8) -> bool {
        self.0 & mark != 0
    }

    pub(in crate::buffer) fn with(self, mark: u8, on: bool) -> Self {
        Self(self.0 & !mark | if on { mark } else { 0 })
    }
}

const PRIORITY: u8 = 3;

/// Its content may be lost.
const PURGEABLE: u8 = 1 << 2;

/// It stands in the order of system memory.
const IN_SYSTEM: u8 = 1 << 3;

fn packed(domain: DomainId) -> u16 {
    match domain {
        DomainId::Vram(device) => device.0,
        DomainId::System => SYSTEM,
    }
}

/// Where a buffer of this placement wants to be.
pub(in crate::buffer) fn preferred_domain(placement: Placement, home: DeviceId) -> DomainId {
    match placement {
        Placement::VramOrSystem | Placement::Vram => DomainId::Vram(home),
        Placement::System => DomainId::System,
    }
}

/// A priority in two bits.
pub(in crate::buffer) fn bits_of(priority: Priority) -> u8 {
    // CAST: there are four.
    priority as u8
}

/// What the lowest two bits say.
pub(in crate::buffer) fn priority_of(bits: u8) -> Priority {
    Priority::ALL[usize::from(bits & 3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_bytes_tell_it_all() {
        for wanted in
            [DomainId::System, DomainId::Vram(DeviceId(0)), DomainId::Vram(DeviceId(65_534))]
        {
            for priority in Priority::ALL {
                for purgeable in [false, true] {
                    let entry = EvictionEntry::none(wanted, priority, purgeable);
                    assert_eq!((entry.preferred(), entry.order()), (wanted, wanted));
                    assert_eq!((entry.priority(), entry.is_purgeable()), (priority, purgeable));
                    assert!(!entry.is_in_system() && entry.slot().is_none());
                    let marks = entry.marks.with(IN_SYSTEM, true);
                    let entry = EvictionEntry { marks, slot: 0, ..entry };
                    assert_eq!((entry.preferred(), entry.order()), (wanted, DomainId::System));
                    assert_eq!((entry.priority(), entry.is_purgeable()), (priority, purgeable));
                    assert_eq!(entry.slot(), Some(Slot(0)));
                }
            }
        }
        assert_eq!(size_of::<EvictionEntry>(), 7);
    }
}
