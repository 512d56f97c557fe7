//! Heaps, memory types and limits that differ from those of software drivers: small heaps listed first, odd limits of
//! sizes and counts. Each test names the report of the user who met it.

use std::cell::Cell;

use crate::common::app::App;
use crate::common::soft_memory::{HOST, SoftMemory};
use crate::common::{Rig, assert_pattern, bytes, fill, wait_idle};
use ash::vk::{self, MemoryPropertyFlags as Flags};
use peerbuf::device::AdapterKind;
use peerbuf::{BufferDescriptor, Device, DomainId, Engine, Error, Placement, Route, SharedBuffer};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Runs `test` with a device of each adapter whose memory is emulated.
fn with_each(memory: &SoftMemory, test: impl Fn(&Engine, &Device, &App)) {
    let rig = Rig::new();
    let adapters = rig.engine().adapters().iter().filter(|adapter| adapter.missing().is_empty());
    for adapter in adapters {
        let app = App::with_memory(&rig, adapter, memory.clone(), |_| true);
        let engine = rig.external_engine();
        let device = app.join(&rig, &engine);
        test(&engine, &device, &app);
        drop((device, engine));
        assert_eq!(app.memory().count(), 0, "all memory is freed with its engine");
    }
}

fn create(engine: &Engine, device: &Device, size: u64) -> Result<SharedBuffer, Error> {
    let vram = BufferDescriptor::new(size).placement(Placement::Vram);
    engine.create_buffer(device, vram)
}

/// VMA#157, upscayl#1314, wgpu#9206: 16 MiB of device-local memory are listed before the other gigabytes.
#[test]
fn a_small_heap_that_is_listed_first_is_not_used() {
    let memory = SoftMemory {
        heaps: vec![(16 * MIB, true), (GIB, false), (8 * GIB, true)],
        types: vec![
            (0, Flags::DEVICE_LOCAL),
            (1, HOST | Flags::HOST_CACHED),
            (2, Flags::DEVICE_LOCAL),
        ],
        ..SoftMemory::discrete(0, 0)
    };
    with_each(&memory, |engine, device, app| {
        let usage = engine.usage(DomainId::Vram(device.id())).expect("a domain of this engine");
        assert_eq!(usage.capacity, 8 * GIB, "the ledger is that of the heap in use");
        let buffers: Vec<_> = (0..10)
            .map(|_| create(engine, device, 12 * MIB).expect("gigabytes are free"))
            .collect();
        assert!(buffers.iter().all(|buffer| buffer.domain() == DomainId::Vram(device.id())));
        assert_eq!((app.memory().used(0), app.memory().used(2)), (0, 120 * MIB));
        let held = engine.usage(DomainId::Vram(device.id())).expect("as above").held;
        assert_eq!(held, 120 * MIB);
    });
}

/// Types that need a feature are listed before those that do not.
#[test]
fn types_that_need_a_feature_are_not_used() {
    let coherent = Flags::DEVICE_COHERENT_AMD | Flags::DEVICE_UNCACHED_AMD;
    let memory = SoftMemory {
        types: vec![
            (0, Flags::DEVICE_LOCAL | coherent),
            (0, Flags::DEVICE_LOCAL | Flags::PROTECTED),
            (1, HOST | Flags::HOST_CACHED | coherent),
            (0, Flags::DEVICE_LOCAL),
            (1, HOST | Flags::HOST_CACHED),
        ],
        ..SoftMemory::discrete(GIB, GIB)
    };
    with_each(&memory, |engine, device, app| {
        for placement in [Placement::Vram, Placement::System] {
            let descriptor = BufferDescriptor::new(100_000).placement(placement);
            let buffer = engine.create_buffer(device, descriptor).expect("there is room");
            let attachment = buffer.attach(device).expect("its own device");
            fill(&attachment, 3);
            assert_pattern(&attachment, 3, "its own device");
        }
        let used: Vec<_> = app.memory().asked().into_iter().map(|(kind, _)| kind).collect();
        assert!(used.iter().all(|kind| [3, 4].contains(kind)), "types {used:?}");
    });
}

/// gpu-allocator#57, bigwheels#447, VMA#390: a heap that is smaller than one block of 64 MiB.
#[test]
fn a_heap_smaller_than_a_block_suffices() {
    let all = Flags::DEVICE_LOCAL | HOST | Flags::HOST_CACHED;
    for heap in [48 * MIB, 12 * MIB] {
        let memory = SoftMemory {
            heaps: vec![(heap, true)],
            types: vec![(0, all)],
            ..SoftMemory::discrete(0, 0)
        };
        with_each(&memory, |engine, device, _| {
            let buffer = create(engine, device, MIB).expect("a small part of the heap");
            let attachment = buffer.attach(device).expect("its own device");
            fill(&attachment, 5);
            assert_pattern(&attachment, 5, "its own device");
        });
    }
}

/// Without a resizable BAR, 256 MiB of VRAM are visible to the host, and all processes share them.
#[test]
fn staging_memory_spares_a_small_bar() {
    let bar = |size| SoftMemory {
        heaps: vec![(8 * GIB, true), (GIB, false), (size, true)],
        types: vec![
            (0, Flags::DEVICE_LOCAL),
            (1, HOST),
            (2, Flags::DEVICE_LOCAL | HOST),
            (1, HOST | Flags::HOST_CACHED),
        ],
        ..SoftMemory::discrete(0, 0)
    };
    for (size, spared) in [(256 * MIB, true), (8 * GIB - 1, false)] {
        with_each(&bar(size), |engine, device, app| {
            // The proof of a staged copy uploads.
            let other = engine.open_device(&engine.adapters()[0]).expect("the adapter opens");
            let verdict = engine.route(&other, device).expect("a verdict");
            assert!(verdict.working.iter().any(|working| working.route == Route::Staged));
            let asked = app.memory().asked();
            // What a route is proved with is smaller, and may be memory that the host and the device see.
            let mut staging = asked.iter().filter(|(_, size)| *size >= MIB);
            assert_eq!(staging.all(|(kind, _)| *kind != 2), spared, "a BAR of {size}: {asked:?}");
            let blocks = asked.iter().filter(|(kind, _)| *kind != 0);
            assert!(blocks.clone().count() > 0);
            assert!(blocks.clone().all(|(_, size)| *size <= 8 * MIB), "{asked:?}");
        });
    }
}

/// Host memory comes in multiples of 64 KiB, and devices import it whole: the kit refuses what is beyond the limit.
#[test]
fn system_memory_stays_within_a_largest_allocation_that_is_no_round_number() {
    let limit = 16 * MIB - 4;
    let memory = SoftMemory { max_allocation: limit, ..SoftMemory::discrete(GIB, GIB) };
    with_each(&memory, |engine, device, app| {
        let mut all = vec![];
        for (seed, size) in (1..).zip([4096, 100_000, MIB, 9 * MIB, 15 * MIB, limit - 65_536]) {
            let descriptor = BufferDescriptor::new(size).placement(Placement::System);
            let buffer = engine.create_buffer(device, descriptor).expect("within the limit");
            bytes::write(&buffer, seed);
            fill(&buffer.attach(device).expect("imported"), 5);
            all.push(buffer);
        }
        let asked = app.memory().asked();
        assert!(asked.iter().all(|(_, size)| *size <= limit), "{asked:?}");
    });
}

/// llama.cpp#5441, #15256: the largest allocation is no round number, and what is within it works.
#[test]
fn a_buffer_as_large_as_the_largest_allocation_is_created() {
    let limit = 100 * MIB - 4;
    let memory = SoftMemory { max_allocation: limit, ..SoftMemory::discrete(8 * GIB, GIB) };
    with_each(&memory, |engine, device, _| {
        assert_eq!(device.adapter().max_allocation(), limit);
        for size in [limit - 64, limit - 4096, 97 * MIB] {
            let buffer = create(engine, device, size).expect("within the limit");
            assert_eq!(buffer.size(), size);
            drop(buffer);
            engine.trim();
        }
    });
}

/// AMDVLK#413, llama.cpp#18160: a limit is no shortage, and the error names what was asked for.
#[test]
fn the_error_of_a_buffer_beyond_the_limit_names_its_size_and_the_limit() {
    let limit = 64 * MIB;
    let memory = SoftMemory { max_allocation: limit, ..SoftMemory::discrete(8 * GIB, GIB) };
    with_each(&memory, |engine, device, app| {
        for placement in [Placement::Vram, Placement::System, Placement::VramOrSystem] {
            let size = limit + 4;
            let descriptor = BufferDescriptor::new(size).placement(placement);
            let error = engine.create_buffer(device, descriptor).expect_err("beyond the limit");
            assert!(!error.is_out_of_memory() && !error.is_retryable(), "{error:?}");
            let text = error.to_string();
            let names = |number: u64| text.contains(&number.to_string());
            assert!(names(size) && names(limit) && text.contains("several buffers"), "{text}");
        }
        assert_eq!(app.memory().asked(), [], "no call was made");
    });
}

/// One `VkBuffer` spans an allocation, so no allocation exceeds `maxBufferSize` (VUID-VkBufferCreateInfo-size-06409).
#[test]
fn no_allocation_is_larger_than_the_largest_buffer() {
    let limit = 24 * MIB + 4;
    let memory = SoftMemory { max_buffer: limit, ..SoftMemory::discrete(8 * GIB, GIB) };
    let met = Cell::new(0);
    with_each(&memory, |engine, device, app| {
        if device.adapter().max_allocation() != limit {
            // The driver lacks VK_KHR_maintenance4, and so the limit.
            return;
        }
        met.set(met.get() + 1);
        for size in [4096, MIB, 9 * MIB, limit - 64] {
            create(engine, device, size).expect("within the limit");
        }
        let error = create(engine, device, limit + 4).expect_err("beyond the limit");
        assert!(error.to_string().contains(&limit.to_string()), "{error}");
        let asked = app.memory().asked();
        assert!(asked.iter().all(|(_, size)| *size <= limit), "{asked:?}");
    });
    assert!(met.get() > 0, "some driver has the limit");
}

/// A limit that is smaller than a slot of the buffer's class.
#[test]
fn a_slot_that_exceeds_the_limit_is_not_used() {
    let limit = 3 * MIB - 4;
    let memory = SoftMemory { max_allocation: limit, ..SoftMemory::discrete(8 * GIB, GIB) };
    with_each(&memory, |engine, device, app| {
        for size in [limit - 64, 2 * MIB, 100_000, 5] {
            create(engine, device, size).expect("within the limit");
        }
        assert!(app.memory().asked().iter().all(|(_, size)| *size <= limit));
    });
}

/// VMA#545, RBDOOM-3-BFG#724: a driver makes no more than so many allocations.
#[test]
fn unused_allocations_make_way_when_there_may_be_no_more() {
    let memory = SoftMemory { max_count: 24, ..SoftMemory::discrete(8 * GIB, GIB) };
    with_each(&memory, |engine, device, app| {
        let of = |size| create(engine, device, size);
        let warm: Vec<_> = (0..12).map(|_| of(9 * MIB).expect("few allocations")).collect();
        drop(warm);
        assert_eq!(app.memory().count(), 12, "kept for reuse");
        let live: Vec<_> = (0..20).map(|_| of(10 * MIB).expect("unused ones are freed")).collect();
        // One more than the driver allows: another buffer is evicted, or the error says what is short.
        let more: Vec<_> = (0..10).map(|_| of(10 * MIB)).collect();
        for result in &more {
            if let Err(error) = result {
                assert!(error.is_out_of_memory(), "{error:?}");
            }
        }
        assert!(more[..4].iter().all(Result::is_ok), "24 are allowed");
        drop(more);
        assert!(live.iter().all(|buffer| buffer.size() == 10 * MIB));
        engine.trim();
        of(11 * MIB).expect("some were dropped");
    });
}

/// A slab is made as large as there is memory for it.
#[test]
fn a_slab_is_smaller_where_its_heap_is_nearly_full() {
    with_each(&SoftMemory::discrete(16 * MIB, GIB), |engine, device, app| {
        let large = create(engine, device, 12 * MIB).expect("an empty heap");
        let room = 16 * MIB - app.memory().used(0);
        let mut buffers = vec![];
        let mut used = 0;
        while used + 40 * 1024 <= room / 2 {
            buffers.push(create(engine, device, 40 * 1024).expect("half of the rest is free"));
            used += 40 * 1024;
        }
        let vram = DomainId::Vram(device.id());
        assert!(buffers.iter().chain([&large]).all(|buffer| buffer.domain() == vram));
    });
}

fn integrated() -> SoftMemory {
    SoftMemory {
        kind: Some(vk::PhysicalDeviceType::INTEGRATED_GPU),
        types: vec![
            (0, Flags::DEVICE_LOCAL),
            (0, Flags::DEVICE_LOCAL | HOST | Flags::HOST_CACHED),
            (1, HOST | Flags::HOST_CACHED),
        ],
        ..SoftMemory::discrete(GIB, GIB)
    }
}

/// What an integrated device's own limits are short of becomes free by moves to system memory.
#[test]
fn idle_buffers_of_an_integrated_device_make_way_for_its_own_limits() {
    with_each(&integrated(), |engine, device, _| {
        let vram = DomainId::Vram(device.id());
        let used = |domain| engine.usage(domain).expect("of this engine").used;
        let of = |mib| {
            let descriptor = BufferDescriptor::new(mib * MIB).placement(Placement::Vram);
            engine.create_buffer(device, descriptor).expect("an idle buffer makes way")
        };
        engine.set_cap(vram, Some(64 * MIB)).expect("of this engine");
        let first = of(48);
        bytes::write(&first, 7);
        let second = of(32);
        assert_eq!((first.domain(), second.domain()), (DomainId::System, vram), "evicted");
        engine.set_cap(vram, Some(16 * MIB)).expect("of this engine");
        wait_idle(&[device]);
        assert_eq!(second.domain(), DomainId::System, "a smaller cap evicts");
        engine.trim();
        assert_eq!((used(vram), used(DomainId::System)), (0, 80 * MIB));
        bytes::assert_sequence(&first, 7, "moved");
    });
}

/// An integrated device's memory and system memory are the same pages.
#[test]
fn the_memory_of_an_integrated_device_and_system_memory_are_one() {
    let memory = integrated();
    with_each(&memory, |engine, device, app| {
        assert_eq!(device.adapter().kind(), AdapterKind::Integrated);
        let vram = DomainId::Vram(device.id());
        let used = |domain| engine.usage(domain).expect("of this engine").used;
        engine.set_cap(DomainId::System, Some(100 * MIB)).expect("of this engine");
        let of = |mib, placement| {
            let descriptor = BufferDescriptor::new(mib * MIB).placement(placement);
            engine.create_buffer(device, descriptor)
        };
        let first = of(64, Placement::Vram).expect("an empty machine");
        assert_eq!((used(vram), used(DomainId::System)), (64 * MIB, 64 * MIB), "the same bytes");
        // The host maps it: nothing goes through staging memory.
        assert!(app.memory().asked().contains(&(1, 64 * MIB)), "{:?}", app.memory().asked());
        let second = of(32, Placement::System).expect("the rest of the machine");
        for placement in [Placement::Vram, Placement::System, Placement::VramOrSystem] {
            let error = of(16, placement).expect_err("the machine is full");
            assert!(error.is_out_of_memory(), "{error:?}");
        }
        assert_eq!((first.domain(), second.domain()), (vram, DomainId::System), "none has moved");
        let reports = engine.report().domains;
        let system =
            reports.iter().find(|domain| domain.id == DomainId::System).expect("it is listed");
        let shares = system.shares;
        assert_eq!((shares.resident, shares.integrated), (32 * MIB, 64 * MIB), "{shares:?}");
        // A move on request keeps no second copy.
        drop(second);
        engine.set_cap(DomainId::System, None).expect("of this engine");
        first.evict().expect("there is room for both while it moves");
        first.migrate(vram).expect("as above");
        wait_idle(&[device]);
        engine.trim();
        assert_eq!((used(vram), used(DomainId::System)), (64 * MIB, 64 * MIB), "no clean copy");
        drop(first);
        engine.trim();
        assert_eq!((used(vram), used(DomainId::System)), (0, 0));
    });
}

/// A move between an integrated device and system memory frees nothing. To discard content does, on either side.
#[test]
fn a_shortage_of_shared_memory_purges_buffers_on_both_sides() {
    for [there, here] in
        [[Placement::Vram, Placement::System], [Placement::System, Placement::Vram]]
    {
        with_each(&integrated(), |engine, device, _| {
            engine.set_cap(DomainId::System, Some(100 * MIB)).expect("of this engine");
            let of = |placement| {
                let descriptor = BufferDescriptor::new(64 * MIB).placement(placement);
                engine.create_buffer(device, descriptor)
            };
            let cache = of(there).expect("an empty machine");
            of(here).expect_err("the cache is not purgeable yet");
            cache.set_purgeable(true).expect("not imported");
            let needed = of(here).expect("the cache makes room");
            assert!(cache.is_purged(), "for {:?}", needed.domain());
        });
    }
}

/// One buffer of each size class holds little more than it uses.
#[test]
fn slabs_hold_little_more_than_their_buffers_use() {
    let rig = Rig::new();
    for device in rig.all() {
        let vram = DomainId::Vram(device.id());
        let doublings = (0..11).map(|doubling| 4096u64 << doubling);
        let sizes = doublings.flat_map(|size| (8..16).map(move |step| size / 8 * step));
        let buffers: Vec<_> = sizes
            .map(|size| create(rig.engine(), &device, size).expect("an empty device"))
            .collect();
        let usage = rig.engine().usage(vram).expect("of this engine");
        assert_eq!(usage.used, buffers.iter().map(SharedBuffer::size).sum::<u64>());
        let ratio = usage.held as f64 / usage.used as f64;
        assert!(ratio <= 1.6, "{} of {} bytes used, {ratio}", usage.used, usage.held);
        // Eight buffers of 5 MiB: the slabs grow with what is used.
        let many: Vec<_> =
            (0..8).map(|_| create(rig.engine(), &device, 5 * MIB).expect("room")).collect();
        let usage = rig.engine().usage(vram).expect("as above");
        assert!(usage.held <= usage.used * 8 / 5, "{usage:?} with {} more", many.len());
    }
}

/// A device of an older version has no structures of newer ones.
#[test]
fn a_device_of_an_older_vulkan_is_asked_nothing_newer() {
    let rig = Rig::new();
    for version in [vk::API_VERSION_1_0, vk::API_VERSION_1_1] {
        let memory = SoftMemory { version: Some(version), ..SoftMemory::discrete(GIB, GIB) };
        for device in rig.all() {
            let app = App::with_memory(&rig, device.adapter(), memory.clone(), |_| true);
            let adapter = app.read();
            assert_eq!(adapter.missing(), ["Vulkan 1.2"]);
            assert_eq!((adapter.api_version(), adapter.name()), (version, device.adapter().name()));
            assert_eq!(app.memory().newer_queries(), 0);
        }
    }
}
