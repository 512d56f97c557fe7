//! The choice of a memory type: a pure function.

use std::cmp::Reverse;

use ash::vk;

use super::domain_id::DomainKind;
use crate::device::{Heap, MemoryType};

use vk::MemoryPropertyFlags as Flags;

/// Flags of types that are never chosen. `DEVICE_COHERENT_AMD` needs a feature that peerbuf does not enable
/// (VUID-vkAllocateMemory-deviceCoherentMemory-02790), and every `DEVICE_UNCACHED_AMD` type has it too.
/// `PROTECTED` needs protected queues, and `LAZILY_ALLOCATED` is for images of a render pass.
const EXCLUDED: Flags = Flags::from_raw(
    Flags::LAZILY_ALLOCATED.as_raw()
        | Flags::PROTECTED.as_raw()
        | Flags::DEVICE_COHERENT_AMD.as_raw()
        | Flags::DEVICE_UNCACHED_AMD.as_raw(),
);

/// How much an allocation should stay in a device's own memory when its driver has to choose
/// (`VK_EXT_memory_priority`), in quarters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPriority(u8);

impl MemoryPriority {
    /// That of memory without a stated priority, and of slabs, whose buffers have different ones.
    pub(crate) const DEFAULT: Self = Self(2);

    /// The priority of level `level` of four.
    pub(crate) fn of_level(level: u8) -> Self {
        Self((level + 1).min(4))
    }

    /// The value for memory in a kind of domain. Host-visible memory has nothing to lose.
    pub(super) fn value(self, kind: DomainKind) -> f32 {
        match kind {
            DomainKind::Vram => f32::from(self.0) / 4.0,
            DomainKind::System => 0.0,
        }
    }
}

/// Memory that the host can map, and read at its own speed.
const MAPPABLE: Flags = Flags::from_raw(
    Flags::HOST_VISIBLE.as_raw() | Flags::HOST_COHERENT.as_raw() | Flags::HOST_CACHED.as_raw(),
);

/// Property flags that a memory type must have, should have, and should not have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    required: Flags,
    preferred: Flags,
    avoided: Flags,
    /// Whether a type of a larger heap is better than one of a smaller heap.
    largest_heap: bool,
}

impl Wanted {
    /// For new memory in a kind of domain. If the device's own memory is the `hosts` too, the host should be able to map
    /// it; some drivers list types that it cannot map first.
    pub(super) fn for_domain(kind: DomainKind, hosts: bool) -> Self {
        match kind {
            DomainKind::Vram => Self {
                required: Flags::DEVICE_LOCAL,
                preferred: if hosts { MAPPABLE } else { Flags::empty() },
                avoided: Flags::RDMA_CAPABLE_NV,
                largest_heap: true,
            },
            // Cached, because the host reads it (an uncached read of 4K pixels took 120 ms,
            // DisplayLink/evdi#282).
            DomainKind::System => Self {
                required: Flags::HOST_VISIBLE | Flags::HOST_COHERENT,
                preferred: Flags::HOST_CACHED,
                avoided: Flags::DEVICE_LOCAL | Flags::RDMA_CAPABLE_NV,
                largest_heap: true,
            },
        }
    }

    /// For imported memory. The exporter has decided where the memory is, so any type that the driver offers for
    /// the handle will do (crbug 422128949: requiring DEVICE_LOCAL refused usable memory).
    pub(super) fn for_import() -> Self {
        Self {
            required: Flags::empty(),
            preferred: Flags::empty(),
            avoided: Flags::RDMA_CAPABLE_NV,
            largest_heap: false,
        }
    }
}

/// Whether shared memory may be of a type with these flags.
pub(super) fn is_usable(flags: Flags) -> bool {
    !flags.intersects(EXCLUDED)
}

/// Chooses the best type among those that `bits` allows.
///
/// For new memory that is a type of the largest heap: drivers list small device-local heaps too, some of them first
/// (GPUOpen-LibrariesAndSDKs/VulkanMemoryAllocator#157). Among equals the driver's order decides, which the
/// specification defines as an order of preference.
pub(super) fn choose(
    types: &[MemoryType],
    heaps: &[Heap],
    bits: u32,
    wanted: Wanted,
) -> Option<u32> {
    let heap_size = |kind: &MemoryType| heaps.get(kind.heap as usize).map_or(0, |heap| heap.size);
    (0u32..)
        .zip(types)
        .filter(|(index, kind)| bits & (1 << index) != 0 && kind.flags.contains(wanted.required))
        .filter(|(_, kind)| is_usable(kind.flags))
        .min_by_key(|(index, kind)| {
            let missing = (wanted.preferred & !kind.flags).as_raw().count_ones();
            let unwanted = (wanted.avoided & kind.flags).as_raw().count_ones();
            let size = if wanted.largest_heap { heap_size(kind) } else { 0 };
            (unwanted, Reverse(size), missing, *index)
        })
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types<const N: usize>(list: [(u32, Flags); N]) -> Vec<MemoryType> {
        list.map(|(heap, flags)| MemoryType { heap, flags }).to_vec()
    }

    fn heaps<const N: usize>(mib: [u64; N]) -> Vec<Heap> {
        mib.map(|mib| Heap { size: mib << 20, device_local: false }).to_vec()
    }

    const HOST: Flags =
        Flags::from_raw(Flags::HOST_VISIBLE.as_raw() | Flags::HOST_COHERENT.as_raw());
    const VRAM: DomainKind = DomainKind::Vram;
    const SYSTEM: DomainKind = DomainKind::System;

    #[test]
    fn the_best_allowed_type_is_chosen() {
        // A discrete GPU with a resizable BAR.
        let types = types([
            (0, Flags::empty()),
            (0, Flags::DEVICE_LOCAL),
            (0, HOST),
            (0, HOST | Flags::HOST_CACHED),
            (0, HOST | Flags::DEVICE_LOCAL),
        ]);
        let check = |bits, wanted, expected| {
            assert_eq!(choose(&types, &heaps([8192]), bits, wanted), expected);
        };
        let (vram, system) = (Wanted::for_domain(VRAM, false), Wanted::for_domain(SYSTEM, false));
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

    #[test]
    fn new_memory_is_of_the_largest_heap() {
        // VMA#157: 16 MiB of device-local memory are listed before the other 8 GiB.
        let list = [
            (0, Flags::DEVICE_LOCAL),
            (1, Flags::DEVICE_LOCAL),
            (0, Flags::DEVICE_LOCAL | HOST),
            (2, HOST | Flags::HOST_CACHED),
            (3, HOST),
        ];
        let (types, heaps) = (types(list), heaps([16, 8192, 64, 16_384]));
        let chosen = |bits, kind| choose(&types, &heaps, bits, Wanted::for_domain(kind, false));
        assert_eq!(chosen(0b11111, VRAM), Some(1));
        assert_eq!(chosen(0b11101, VRAM), Some(0), "the large one does not suit the buffer");
        assert_eq!(chosen(0b11111, SYSTEM), Some(4));
        // The exporter has decided where imported memory is.
        assert_eq!(choose(&types, &heaps, 0b11111, Wanted::for_import()), Some(0));
    }

    #[test]
    fn types_that_need_a_feature_are_never_chosen() {
        for flag in [
            Flags::DEVICE_COHERENT_AMD,
            Flags::DEVICE_COHERENT_AMD | Flags::DEVICE_UNCACHED_AMD,
            Flags::PROTECTED,
            Flags::LAZILY_ALLOCATED,
        ] {
            let all = Flags::DEVICE_LOCAL | HOST | Flags::HOST_CACHED;
            let types = types([(0, all | flag), (0, all)]);
            let every = [
                Wanted::for_domain(VRAM, false),
                Wanted::for_domain(SYSTEM, false),
                Wanted::for_import(),
            ];
            for wanted in every {
                let chosen = |bits| choose(&types, &heaps([8192]), bits, wanted);
                assert_eq!((chosen(0b11), chosen(0b01)), (Some(1), None), "{flag:?}, {wanted:?}");
            }
        }
    }

    #[test]
    fn the_host_can_map_the_memory_of_an_integrated_device() {
        // RADV on an APU lists the type that the host cannot map first.
        let types = types([
            (0, Flags::DEVICE_LOCAL),
            (0, Flags::DEVICE_LOCAL | HOST),
            (0, Flags::DEVICE_LOCAL | HOST | Flags::HOST_CACHED),
        ]);
        let chosen = |hosts| choose(&types, &heaps([8192]), 0b111, Wanted::for_domain(VRAM, hosts));
        assert_eq!((chosen(false), chosen(true)), (Some(0), Some(2)));
    }

    #[test]
    fn levels_have_values_in_order_and_the_second_is_the_default() {
        let values = [0, 1, 2, 3, 200].map(|level| MemoryPriority::of_level(level).value(VRAM));
        assert_eq!(values, [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(MemoryPriority::of_level(1), MemoryPriority::DEFAULT);
        assert_eq!(MemoryPriority::DEFAULT.value(SYSTEM), 0.0);
    }

    #[test]
    fn types_for_other_hardware_are_the_last_choice() {
        let rdma = Flags::DEVICE_LOCAL | Flags::RDMA_CAPABLE_NV;
        let types = types([(0, rdma), (0, Flags::DEVICE_LOCAL)]);
        let chosen = |bits| choose(&types, &heaps([8192]), bits, Wanted::for_domain(VRAM, false));
        assert_eq!((chosen(0b11), chosen(0b01)), (Some(1), Some(0)));
    }
}
