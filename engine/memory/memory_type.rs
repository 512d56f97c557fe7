//! The choice of a memory type: a pure function.

use ash::vk;

use super::domain_id::DomainKind;
use crate::device::MemoryType;

use vk::MemoryPropertyFlags as Flags;

/// Property flags that a memory type must have, should have, and should not have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    required: Flags,
    preferred: Flags,
    avoided: Flags,
}

impl Wanted {
    /// For new memory in a kind of domain.
    pub(super) fn for_domain(kind: DomainKind) -> Self {
        match kind {
            DomainKind::Vram => Self {
                required: Flags::DEVICE_LOCAL,
                preferred: Flags::empty(),
                avoided: Flags::empty(),
            },
            // Cached, because the host reads it (an uncached read of 4K pixels took 120 ms,
            // DisplayLink/evdi#282).
            DomainKind::System => Self {
                required: Flags::HOST_VISIBLE | Flags::HOST_COHERENT,
                preferred: Flags::HOST_CACHED,
                avoided: Flags::DEVICE_LOCAL,
            },
        }
    }

    /// For imported memory. The exporter has decided where the memory is, so any type that the driver offers for
    /// the handle will do (crbug 422128949: requiring DEVICE_LOCAL refused usable memory).
    pub(super) fn for_import() -> Self {
        Self {
            required: Flags::empty(),
            preferred: Flags::empty(),
            avoided: Flags::LAZILY_ALLOCATED | Flags::PROTECTED,
        }
    }
}

/// Chooses the best type among those that `bits` allows. Among equals the driver's order decides, which the
/// specification defines as an order of preference.
pub(super) fn choose(types: &[MemoryType], bits: u32, wanted: Wanted) -> Option<u32> {
    (0u32..)
        .zip(types)
        .filter(|(index, kind)| bits & (1 << index) != 0 && kind.flags.contains(wanted.required))
        .min_by_key(|(index, kind)| {
            let missing = (wanted.preferred & !kind.flags).as_raw().count_ones();
            let unwanted = (wanted.avoided & kind.flags).as_raw().count_ones();
            (unwanted, missing, *index)
        })
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory types of a discrete GPU with a resizable BAR.
    fn discrete() -> Vec<MemoryType> {
        [
            Flags::empty(),
            Flags::DEVICE_LOCAL,
            Flags::HOST_VISIBLE | Flags::HOST_COHERENT,
            Flags::HOST_VISIBLE | Flags::HOST_COHERENT | Flags::HOST_CACHED,
            Flags::DEVICE_LOCAL | Flags::HOST_VISIBLE | Flags::HOST_COHERENT,
        ]
        .map(|flags| MemoryType { heap: 0, flags })
        .to_vec()
    }

    fn check(bits: u32, wanted: Wanted, expected: Option<u32>) {
        assert_eq!(choose(&discrete(), bits, wanted), expected);
    }

    #[test]
    fn the_best_allowed_type_is_chosen() {
        let (vram, system) =
            (Wanted::for_domain(DomainKind::Vram), Wanted::for_domain(DomainKind::System));
        check(0b11111, vram, Some(1));
        check(0b10000, vram, Some(4));
        check(0b01101, vram, None);
        check(0b11111, system, Some(3));
        check(0b10100, system, Some(2));
        check(0b10000, system, Some(4));
        check(0b00011, system, None);
        check(0b11010, Wanted::for_import(), Some(1));
        check(0, Wanted::for_import(), None);
    }
}
