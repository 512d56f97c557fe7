//! Heaps and memory types as the device reports them, and the driver's type behind each.

use ash::vk::{self, MemoryHeapFlags, MemoryPropertyFlags as Flags};

use super::report;
use crate::config::{MemoryLayout, Switches};

#[derive(Clone, Copy)]
pub(super) struct Type {
    pub(super) flags: Flags,
    pub(super) heap: u32,
    /// Index of the driver's type that carries it out.
    pub(super) real: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Heap {
    pub(super) size: u64,
    pub(super) flags: MemoryHeapFlags,
}

/// Heaps and memory types of one device.
pub(super) struct Layout {
    pub(super) types: Vec<Type>,
    pub(super) heaps: Vec<Heap>,
    /// Whether heaps are other than the driver's.
    pub(super) is_changed: bool,
}

impl Layout {
    /// The driver's heaps and types, changed by the switches.
    pub(super) fn new(
        real: &vk::PhysicalDeviceMemoryProperties,
        switches: &Switches,
    ) -> Result<Self, vk::Result> {
        let mut layout = Self::of_driver(real);
        let sizes = [switches.heap_size, switches.small_heap_first];
        let is_changed =
            switches.memory.is_some() || switches.integrated || sizes.iter().any(Option::is_some);
        if let Some(memory) = &switches.memory {
            layout = Self::described(memory, &layout).ok_or_else(|| {
                report::fault(format_args!(
                    "`memory`: the driver has no type with these flags, or a heap is missing"
                ));
                vk::Result::ERROR_INITIALIZATION_FAILED
            })?;
        }
        layout.is_changed = is_changed;
        if switches.integrated {
            layout.make_integrated();
        }
        if let Some(size) = switches.small_heap_first {
            layout.add_small_heap(size.0);
        }
        if let Some(size) = switches.heap_size {
            for heap in &mut layout.heaps {
                heap.size = heap.size.min(size.0);
            }
        }
        if switches.non_coherent.is_some() {
            layout.make_non_coherent();
        }
        let fits = layout.types.len() <= vk::MAX_MEMORY_TYPES
            && layout.heaps.len() <= vk::MAX_MEMORY_HEAPS;
        if fits { Ok(layout) } else { Err(vk::Result::ERROR_INITIALIZATION_FAILED) }
    }

    fn of_driver(real: &vk::PhysicalDeviceMemoryProperties) -> Self {
        let types = real.memory_types_as_slice().iter().zip(0..);
        let heaps = real.memory_heaps_as_slice().iter();
        Self {
            types: types
                .map(|(memory, real)| Type {
                    flags: memory.property_flags,
                    heap: memory.heap_index,
                    real,
                })
                .collect(),
            heaps: heaps.map(|heap| Heap { size: heap.size, flags: heap.flags }).collect(),
            is_changed: false,
        }
    }

    fn described(memory: &MemoryLayout, driver: &Self) -> Option<Self> {
        let heap = |device_local| {
            if device_local { MemoryHeapFlags::DEVICE_LOCAL } else { MemoryHeapFlags::empty() }
        };
        // A software driver's memory is device-local as well. Flags that only the application sees need no support.
        let carried = Flags::HOST_VISIBLE | Flags::HOST_COHERENT;
        let real =
            |flags: Flags| driver.types.iter().find(|real| real.flags.contains(flags & carried));
        Some(Self {
            heaps: memory
                .heaps
                .iter()
                .map(|h| Heap { size: h.size.0, flags: heap(h.device_local) })
                .collect(),
            types: memory
                .types
                .iter()
                .map(|memory_type| {
                    memory.heaps.get(memory_type.heap as usize)?;
                    let flags = memory_type.flags.0;
                    Some(Type { flags, heap: memory_type.heap, real: real(flags)?.real })
                })
                .collect::<Option<_>>()?,
            is_changed: true,
        })
    }

    /// One heap, and every type device-local.
    fn make_integrated(&mut self) {
        let size = self.heaps.iter().map(|heap| heap.size).max().unwrap_or(0);
        self.heaps = vec![Heap { size, flags: MemoryHeapFlags::DEVICE_LOCAL }];
        for memory in &mut self.types {
            memory.heap = 0;
            memory.flags |= Flags::DEVICE_LOCAL;
        }
    }

    /// The types of the largest device-local heap once more, in a heap of `size` bytes before all others.
    fn add_small_heap(&mut self, size: u64) {
        for memory in &mut self.types {
            memory.heap += 1;
        }
        self.heaps.insert(0, Heap { size, flags: MemoryHeapFlags::DEVICE_LOCAL });
        let local = self.types.iter().filter(|memory| memory.flags.contains(Flags::DEVICE_LOCAL));
        let small: Vec<_> = local.map(|memory| Type { heap: 0, ..*memory }).collect();
        self.types.splice(0..0, small);
    }

    /// No type is coherent but one, which the specification asks for. It comes last, and is not cached.
    fn make_non_coherent(&mut self) {
        let coherent =
            self.types.iter().find(|memory| memory.flags.contains(Flags::HOST_COHERENT)).copied();
        for memory in &mut self.types {
            memory.flags &= !Flags::HOST_COHERENT;
        }
        self.types.extend(
            coherent.map(|memory| Type { flags: memory.flags & !Flags::HOST_CACHED, ..memory }),
        );
    }

    /// The driver's index of a type.
    pub(super) fn real(&self, index: u32) -> Option<u32> {
        self.types.get(index as usize).map(|memory| memory.real)
    }

    /// A set of the driver's types as the application sees them.
    pub(super) fn bits(&self, real: u32) -> u32 {
        let each = self.types.iter().zip(0..);
        each.filter(|(memory, _)| real >> memory.real & 1 == 1)
            .fold(0, |bits, (_, index)| bits | 1 << index)
    }

    /// Types for host pointers: pages of the host are in no device-local heap, if there is another.
    pub(super) fn host_bits(&self, real: u32) -> u32 {
        let bits = self.bits(real);
        let host = self.types.iter().zip(0..).filter(|(memory, _)| {
            let heap = self.heaps[memory.heap as usize];
            !heap.flags.contains(MemoryHeapFlags::DEVICE_LOCAL)
                && memory.flags.contains(Flags::HOST_VISIBLE)
        });
        let host = host.fold(0, |all, (_, index)| all | 1 << index) & bits;
        if host == 0 { bits } else { host }
    }

    pub(super) fn is_coherent(&self, index: u32) -> bool {
        self.types
            .get(index as usize)
            .is_none_or(|memory| memory.flags.contains(Flags::HOST_COHERENT))
    }

    pub(super) fn write(&self, out: &mut vk::PhysicalDeviceMemoryProperties) {
        *out = vk::PhysicalDeviceMemoryProperties::default();
        for (at, memory) in self.types.iter().enumerate() {
            out.memory_types[at] =
                vk::MemoryType { property_flags: memory.flags, heap_index: memory.heap };
        }
        for (at, heap) in self.heaps.iter().enumerate() {
            out.memory_heaps[at] = vk::MemoryHeap { size: heap.size, flags: heap.flags };
        }
        // CAST: at most 32 types and 16 heaps.
        (out.memory_type_count, out.memory_heap_count) =
            (self.types.len() as u32, self.heaps.len() as u32);
    }
}
