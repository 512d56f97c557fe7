//! What a device reports about memory, and where it ends.

use ash::vk;
use ash::vk::MemoryPropertyFlags as Flags;

use crate::gpu::World;
use crate::harness::with_and_without;

const MIB: u64 = 1 << 20;

#[test]
fn small_heap_first_is_listed_first_and_full_early() {
    with_and_without!("llvmpipe=+small_heap_first='16 MiB'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        let memory = world.memory(gpu.physical);
        assert_eq!(memory.memory_heaps[0].size == 16 * MIB, is);
        let first = gpu.kind(Flags::DEVICE_LOCAL);
        let one = gpu.allocate(12 * MIB, first).expect("the first fits");
        let two = gpu.allocate(12 * MIB, first);
        assert_eq!(two == Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY), is);
        gpu.free(one);
        assert!(gpu.allocate(12 * MIB, first).is_ok(), "what was freed can be had again");
        if is {
            let last = memory.memory_type_count - 1;
            assert!(gpu.allocate(64 * MIB, last).is_ok(), "the large heap has gigabytes");
        }
    });
}

#[test]
fn heap_size_is_shared_by_all_devices_of_a_gpu() {
    with_and_without!("llvmpipe=+heap_size='48 MiB'", |is: bool| {
        let world = World::new();
        let (one, two) = (world.open(world.find("llvmpipe")), world.open(world.find("llvmpipe")));
        one.allocate(30 * MIB, 0).expect("the first fits");
        assert_eq!(two.allocate(30 * MIB, 0).is_err(), is);
    });
}

#[test]
fn overcommit_never_refuses() {
    with_and_without!("llvmpipe=+heap_size='16 MiB'+overcommit", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert_eq!(world.memory(gpu.physical).memory_heaps[0].size == 16 * MIB, is);
        assert!(gpu.allocate(64 * MIB, 0).is_ok());
    });
}

#[test]
fn max_allocation_is_an_odd_number_and_holds() {
    with_and_without!("llvmpipe=+max_allocation='100 MiB - 4'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert!(gpu.allocate(100 * MIB - 4, 0).is_ok());
        assert_eq!(gpu.allocate(100 * MIB, 0) == Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY), is);
        let mut limits = vk::PhysicalDeviceMaintenance3Properties::default();
        let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut limits);
        // SAFETY: a device of this instance.
        unsafe { world.instance.get_physical_device_properties2(gpu.physical, &mut all) };
        assert_eq!(limits.max_memory_allocation_size == 100 * MIB - 4, is);
    });
}

#[test]
fn max_allocation_count_counts_those_that_live() {
    with_and_without!("llvmpipe=+max_allocation_count=3", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        let all: Vec<_> = (0..3).map(|_| gpu.allocate(4096, 0).expect("three fit")).collect();
        assert_eq!(gpu.allocate(4096, 0) == Err(vk::Result::ERROR_TOO_MANY_OBJECTS), is);
        gpu.free(all[0]);
        assert!(gpu.allocate(4096, 0).is_ok());
    });
}

#[test]
fn max_buffer_size_is_reported_and_holds() {
    with_and_without!("llvmpipe=+max_buffer_size='1 MiB'", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        let usage = vk::BufferUsageFlags::STORAGE_BUFFER;
        let info = vk::BufferCreateInfo::default().size(2 * MIB).usage(usage);
        // SAFETY: the structure is complete.
        let made = unsafe { gpu.raw.create_buffer(&info, None) };
        assert_eq!(made == Err(vk::Result::ERROR_OUT_OF_DEVICE_MEMORY), is);
    });
}

#[test]
fn fail_allocation_fails_one() {
    with_and_without!("llvmpipe=+fail_allocation={at=2,code='out_of_host_memory'}", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert!(gpu.allocate(4096, 0).is_ok());
        assert_eq!(gpu.allocate(4096, 0) == Err(vk::Result::ERROR_OUT_OF_HOST_MEMORY), is);
        assert!(gpu.allocate(4096, 0).is_ok());
    });
}

#[test]
fn a_layout_has_its_own_heaps_and_types() {
    with_and_without!("llvmpipe=nvk", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        let memory = world.memory(gpu.physical);
        assert_eq!(memory.memory_heap_count == 3, is);
        let hidden = memory
            .memory_types_as_slice()
            .iter()
            .any(|kind| kind.property_flags == Flags::DEVICE_LOCAL);
        assert_eq!(hidden, is, "memory that the host does not see");
        let block = gpu.block(4096);
        gpu.fill(block, 5).expect("a fill");
        assert_eq!(gpu.first_word(block), 5);
    });
}

#[test]
fn integrated_memory_is_device_local_as_a_whole() {
    with_and_without!("llvmpipe=+integrated", |is: bool| {
        let world = World::new();
        let device = world.find("llvmpipe");
        assert_eq!(
            world.properties(device).device_type == vk::PhysicalDeviceType::INTEGRATED_GPU,
            is
        );
        let memory = world.memory(device);
        let heaps = memory.memory_heaps_as_slice();
        let local = |heap: &vk::MemoryHeap| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL);
        assert!(!is || heaps.len() == 1 && heaps.iter().all(local));
    });
}

#[test]
fn non_coherent_memory_loses_what_is_not_flushed() {
    with_and_without!("llvmpipe=+non_coherent=256", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("llvmpipe"));
        assert_eq!(world.properties(gpu.physical).limits.non_coherent_atom_size == 256, is);
        let (from, to) = (gpu.block(4096), gpu.block(4096));
        gpu.fill(from, 1).expect("a fill");
        let at = gpu.map(from).expect("a mapping");
        // SAFETY: 4096 bytes are mapped.
        unsafe {
            at.write_volatile(2);
            at.add(64).write_volatile(2);
        }
        let range = vk::MappedMemoryRange::default().memory(from.memory).offset(256).size(256);
        // SAFETY: the range is mapped.
        unsafe { gpu.raw.flush_mapped_memory_ranges(&[range]) }.expect("a flush");
        gpu.copy(gpu.family, from, to);
        let seen = gpu.map(to).expect("a mapping");
        // SAFETY: 4096 bytes are mapped.
        let (first, second) = unsafe { (seen.read_volatile(), seen.add(64).read_volatile()) };
        assert_eq!((first, second), (if is { 1 } else { 2 }, 2));
        gpu.fill(to, 3).expect("a fill");
        // SAFETY: as above.
        assert_eq!(unsafe { seen.read_volatile() } != 3, is, "nothing new before an invalidation");
        let range = vk::MappedMemoryRange::default().memory(to.memory).size(vk::WHOLE_SIZE);
        // SAFETY: the range is mapped.
        unsafe { gpu.raw.invalidate_mapped_memory_ranges(&[range]) }.expect("an invalidation");
        // SAFETY: as above.
        assert_eq!(unsafe { seen.read_volatile() }, 3);
    });
}

#[test]
fn budget_percent_adds_the_extension_and_counts_what_is_used() {
    with_and_without!("swiftshader=+heap_size='64 MiB'+budget_percent=75", |is: bool| {
        let world = World::new();
        let gpu = world.open(world.find("SwiftShader"));
        let names = world.extensions(gpu.physical).expect("extensions");
        assert_eq!(names.iter().any(|name| name == "VK_EXT_memory_budget"), is);
        if !is {
            return;
        }
        gpu.allocate(8 * MIB, 0).expect("memory");
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
        // SAFETY: a device of this instance.
        unsafe { world.instance.get_physical_device_memory_properties2(gpu.physical, &mut all) };
        assert_eq!((budget.heap_budget[0], budget.heap_usage[0]), (64 * MIB / 100 * 75, 8 * MIB));
    });
}
