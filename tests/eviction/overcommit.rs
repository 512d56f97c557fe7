//! Overcommitment: buffers whose sum is several times a device's memory, used by two devices.
//!
//! Software devices have no heap of their own, so the tests model one ([`peerbuf::Engine::model_heap`]).

use std::sync::Arc;

use crate::common;
use crate::common::commands::{fill, record_fill};
use crate::common::random::Random;
use crate::common::reach::is_integrated;
use crate::common::turn::turn;
use crate::common::until::{each_second, rounds};
use crate::common::{LONG, Rig};
use ash::vk;
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, What};
use peerbuf::{
    Access, Attachment, BufferDescriptor, Device, DomainId, Engine, Error, Mapping, Migration,
    Placement, Refault, ResidencyOptions, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// A buffer with a movable attachment for each device.
struct Shared {
    buffer: SharedBuffer,
    attachments: Vec<Attachment>,
    seed: u32,
}

impl Shared {
    fn new(engine: &Engine, devices: &[Device], size: u64, seed: u32) -> Self {
        let buffer = engine.create_buffer(&devices[0], BufferDescriptor::new(size));
        let buffer = buffer.expect("room is made");
        let attach = |device| {
            let importer = Arc::new(Refault::new());
            buffer.attach_dynamic(device, importer).expect("an attachment")
        };
        let shared = Self { attachments: devices.iter().map(attach).collect(), buffer, seed };
        shared.write(0, seed);
        shared
    }

    fn write(&self, device: usize, seed: u32) {
        for _ in rounds() {
            match self.attachments[device].map(Access::Write).and_then(|mapping| mapping.fill(seed))
            {
                Ok(()) => return,
                // It moved between the two calls.
                Err(Error::Stale { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("every mapping was stale: {}", self.buffer.explain());
    }

    fn check(&self, device: usize, what: &str) {
        for _ in rounds() {
            match self.attachments[device]
                .map(Access::Read)
                .and_then(|mapping| mapping.verify(self.seed))
            {
                Ok(report) => return assert!(report.is_clean(), "{what}: {report:?}"),
                Err(Error::Stale { .. }) => {}
                Err(error) => panic!("{what}: {error}"),
            }
        }
        panic!("{what}: every mapping was stale: {}", self.buffer.explain());
    }
}

/// Two devices of each adapter. The memory of the first is the one that is too small.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    rig.all()
        .into_iter()
        .map(|first| {
            let second = rig.open(&first.adapter().clone());
            [first, second]
        })
        .collect()
}

#[test]
fn four_times_as_much_as_fits_keeps_its_bytes() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        const BUDGET: u64 = 8 * MIB;
        let domain = vram(&devices[0]);
        engine.model_heap(&devices[0], BUDGET).expect("of this engine");
        let usage = || engine.usage(domain).expect("of this engine");
        let mut random = Random::new(7);
        let mut all: Vec<_> = (0..64)
            .map(|seed| {
                let shared = Shared::new(engine, &devices, MIB / 2, seed);
                assert!(usage().used <= BUDGET, "{:?}", usage());
                shared
            })
            .collect();
        for round in 0..400 {
            let at = random.below(all.len() as u64) as usize;
            let what = format!("{}, round {round}, buffer {at}", devices[0].name());
            all[at].check(round % 2, &what);
            if random.below(4) == 0 {
                all[at].seed = random.below(1 << 32) as u32;
                let seed = all[at].seed;
                all[at].write(round % 2, seed);
            }
            assert!(usage().used <= BUDGET, "{:?}", usage());
        }
        assert!(usage().peak <= BUDGET, "{:?}", usage());
        let evicted = engine.moved(MoveCause::Evicted);
        let returned = engine.moved(MoveCause::Restored);
        assert!(evicted.moves > 48 && returned.moves > 0, "{evicted:?} {returned:?}");
        let inside = all.iter().filter(|shared| shared.buffer.domain() == domain).count();
        assert!(inside >= 8, "{inside} of 16 buffers that fit are in their preferred domain");
    }
}

#[test]
fn a_clean_buffer_is_evicted_without_a_copy() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let shared = Shared::new(engine, &devices, 2 * MIB, 5);
        let copied = || engine.moved(MoveCause::Evicted).copied;
        let before = copied();
        shared.buffer.evict().expect("not held");
        assert_eq!((shared.buffer.domain(), copied() - before), (DomainId::System, 2 * MIB));
        shared.check(1, "evicted");
        shared.buffer.request_residency().expect("there is room");
        assert_eq!(shared.buffer.domain(), vram(&devices[0]));
        shared.check(1, "restored");
        common::wait_idle(&[&devices[0], &devices[1]]);
        let before = copied();
        shared.buffer.evict().expect("not held");
        assert_eq!(copied(), before, "not written since");
        shared.check(1, "evicted again");
        // Only the written part is copied.
        shared.buffer.request_residency().expect("there is room");
        let other =
            engine.create_buffer(&devices[0], BufferDescriptor::new(4096)).expect("a buffer");
        common::bytes::write(&other, 9);
        let region = peerbuf::CopyRegion { from: 0, to: MIB, len: 4096 };
        engine
            .copy(&other, &shared.buffer, region)
            .and_then(|fence| fence.wait(LONG))
            .expect("copied");
        common::wait_idle(&[&devices[0], &devices[1]]);
        let before = copied();
        shared.buffer.evict().expect("not held");
        assert_eq!(copied() - before, 64 << 10, "what was written, rounded to 64 KiB");
        let mut bytes = vec![0; 4096];
        let access = shared.buffer.host_access(Access::Read).expect("opened");
        access.read(MIB, &mut bytes).expect("within");
        drop(access);
        let mut expected = vec![0; 4096];
        let access = other.host_access(Access::Read).expect("opened");
        access.read(0, &mut expected).expect("within");
        assert_eq!(bytes, expected);
    }
}

#[test]
fn a_pinned_buffer_stays_and_the_error_names_the_pin() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let pinned = Shared::new(engine, &devices, MIB, 1);
        let pin = pinned.attachments[0].pin("scanout").expect("pinned");
        let other = Shared::new(engine, &devices, MIB, 2);
        let descriptor = BufferDescriptor::new(2 * MIB).placement(Placement::Vram);
        let error = engine.create_buffer(&devices[0], descriptor.clone()).expect_err("pinned");
        let Error::OutOfMemory { domain, requested, budget, failures, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((*domain, *requested, *budget), (vram(&devices[0]), 2 * MIB, 2 * MIB));
        assert_eq!(failures.bytes(peerbuf::residency::SkipReason::Pinned), MIB, "{error}");
        assert!(error.to_string().contains("scanout"), "{error}");
        assert_eq!(pinned.buffer.domain(), vram(&devices[0]));
        // Unpinned, it is evicted.
        drop(pin);
        let large = engine.create_buffer(&devices[0], descriptor).expect("room is made");
        assert_eq!(large.domain(), vram(&devices[0]));
        assert_eq!(pinned.buffer.domain(), DomainId::System);
        pinned.check(1, "evicted");
        other.check(1, "evicted");
    }
}

#[test]
fn a_smaller_budget_evicts_and_a_larger_budget_restores() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let all: Vec<_> = (0..8).map(|seed| Shared::new(engine, &devices, MIB, seed)).collect();
        let domain = vram(&devices[0]);
        let inside = || all.iter().filter(|shared| shared.buffer.domain() == domain).count();
        assert_eq!(inside(), 8);
        let eviction = engine.set_cap(domain, Some(3 * MIB)).expect("of this engine");
        assert_eq!((eviction.bytes, inside()), (5 * MIB, 3));
        assert!(engine.usage(domain).expect("of this engine").used <= 3 * MIB);
        engine.set_cap(domain, None).expect("of this engine");
        assert_eq!(engine.restore(&devices[0]).expect("of this engine"), 5);
        assert_eq!(inside(), 8);
        let eviction = engine.evict_all(&devices[0]).expect("of this engine");
        assert_eq!((eviction.bytes, inside()), (8 * MIB, 0));
        assert!(eviction.stayed.is_empty());
        for (nth, shared) in all.iter().enumerate() {
            shared.check(nth % 2, "after evictions and restores");
        }
        assert_eq!(inside(), 8, "uses restored them");
        assert_eq!(
            all[0].buffer.request_residency().expect("already resident"),
            Migration::Unchanged
        );
    }
}

#[test]
fn an_explicit_move_is_not_undone() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let shared = Shared::new(engine, &devices, MIB, 3);
        shared.buffer.migrate(DomainId::System).expect("not held");
        shared.check(1, "moved");
        shared.check(0, "moved");
        assert_eq!(shared.buffer.domain(), DomainId::System, "it is not restored");
        assert_eq!(
            shared.buffer.request_residency().expect("already resident"),
            Migration::Unchanged
        );
    }
}

#[test]
fn a_buffer_explains_its_location() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let create = |name: &str| {
            let descriptor = BufferDescriptor::new(MIB).name(name);
            engine.create_buffer(&devices[0], descriptor).expect("a buffer")
        };
        let [first, second] = ["first", "second"].map(create);
        assert!(first.explain().decisions.is_empty(), "{}", first.explain());
        let third = create("third");
        let evicted = [&first, &second].into_iter().find(|b| b.domain() == DomainId::System);
        let evicted = evicted.expect("one was evicted");
        let explained = evicted.explain();
        assert_eq!(explained.preferred, vram(&devices[0]));
        assert_eq!(explained.decisions[0].what, What::Evicted);
        let text = explained.to_string();
        assert!(text.contains("1 MiB were needed by \"third\""), "{text}");
        // All resident buffers are pinned: the next one falls back.
        let resident =
            [&first, &second, &third].into_iter().filter(|b| b.domain() == vram(&devices[0]));
        let attachments: Vec<_> =
            resident.map(|b| b.attach(&devices[0]).expect("an attachment")).collect();
        let pins: Vec<_> = attachments
            .iter()
            .map(|attachment| attachment.pin("scanout").expect("pinned"))
            .collect();
        let fourth = create("fourth");
        let text = fourth.explain().to_string();
        assert_eq!(fourth.explain().decisions[0].what, What::FellBack, "{text}");
        assert!(text.contains("2 MiB budget, 2 MiB in use, 2 MiB pinned by device"), "{text}");
        assert!(text.contains("(2 pins)"), "{text}");
        let text = third.explain().to_string();
        assert!(text.contains("stays") && text.contains("scanout"), "{text}");
        drop((pins, attachments));
    }
}

#[test]
fn memory_of_other_processes_shrinks_the_budget() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let all: Vec<_> = (0..8).map(|seed| Shared::new(engine, &devices, MIB, seed)).collect();
        let domain = vram(&devices[0]);
        let usage = || engine.usage(domain).expect("of this engine");
        assert_eq!(usage().used, 8 * MIB);
        // So that later queries create no new slab.
        let small = BufferDescriptor::new(256).placement(Placement::Vram);
        let _first = engine.create_buffer(&devices[0], small.clone()).expect("there is room");
        // Other processes' share of the 12 MiB in use reduces the budget of 10 MiB.
        engine.calls().set_heap_budget(Some((10 * MIB, 12 * MIB)));
        let held = usage().held;
        assert!((8 * MIB..10 * MIB).contains(&held), "{held} bytes for 8 MiB of buffers");
        let expected = 10 * MIB - (12 * MIB - held);
        let query =
            || drop(engine.create_buffer(&devices[0], small.clone()).expect("room is made"));
        each_second(engine, query, usage, |now| now.budget == expected);
        // A query evicts nothing; an allocation does.
        drop(engine.create_buffer(&devices[0], small.clone()).expect("room is made"));
        assert!(usage().used <= expected, "{:?}", usage());
        if is_integrated(&devices[0]) {
            // Its one heap is full: there is no room to import what has left.
            engine.calls().set_heap_budget(None);
        }
        all.iter().for_each(|shared| shared.check(1, "after the budget has shrunk"));
        engine.calls().set_heap_budget(None);
    }
}

#[test]
fn a_trace_contains_moves_counters_and_uses() {
    // The file is read after the rig's turn has ended.
    let _turn = turn();
    let file = std::env::temp_dir().join(format!("peerbuf-trace-{}.json", std::process::id()));
    {
        let rig = Rig::with(|descriptor| descriptor.trace(&file));
        let engine = rig.engine();
        let devices = pairs(&rig).remove(0);
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let all: Vec<_> = (0..4).map(|seed| Shared::new(engine, &devices, MIB, seed)).collect();
        all.iter().for_each(|shared| shared.check(1, "read"));
        common::wait_idle(&[&devices[0], &devices[1]]);
    }
    let text = std::fs::read_to_string(&file).expect("the trace");
    std::fs::remove_file(&file).expect("a file of this test");
    let events: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let events = events.as_array().expect("a list");
    let has = |phase: &str, name: &str| {
        let mut found = events.iter().filter(|event| event["ph"] == phase);
        found.any(|event| event["name"].as_str().is_some_and(|text| text.contains(name)))
    };
    assert!(has("X", "evicted") || has("X", "buffer"), "a slice per move: {text}");
    assert!(events.iter().any(|event| event["ph"] == "C"), "counters");
    assert!(events.iter().any(|event| event["ph"] == "s"), "arrows");
    let accesses = peerbuf::observe::trace::read(text.as_bytes()).expect("a trace of this version");
    assert!(accesses.len() >= 8, "{} uses", accesses.len());
    assert!(accesses.iter().all(|access| access.bytes == MIB));
}

#[test]
fn a_buffer_is_not_evicted_to_make_room_for_itself() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let first = Shared::new(engine, &devices, MIB, 1);
        let other = Shared::new(engine, &devices, MIB, 2);
        // While it moves it needs two backings there: the other buffer is evicted.
        assert!(matches!(first.buffer.relocate(), Ok(Migration::Done { .. })));
        assert_eq!(first.buffer.domain(), vram(&devices[0]));
        assert_eq!(other.buffer.domain(), DomainId::System);
        first.check(1, "moved within its domain");
        other.check(1, "evicted");
    }
}

/// The bytes of clean copies in system memory.
fn clean_copies(engine: &Engine) -> u64 {
    let report = engine.report();
    let system = report.domains.iter().find(|domain| domain.id == DomainId::System);
    system.expect("there is one").shares.clean_copies
}

/// Buffers of 1 MiB in a device's memory, each with a clean copy.
fn clean(engine: &Engine, devices: &[Device], count: u32) -> Vec<Shared> {
    let all: Vec<_> = (0..count).map(|seed| Shared::new(engine, devices, MIB, seed)).collect();
    for shared in &all {
        shared.buffer.evict().expect("not held");
        shared.buffer.request_residency().expect("there is room");
    }
    devices.iter().for_each(|device| common::wait_idle(&[device]));
    assert_eq!(clean_copies(engine), u64::from(count) * MIB);
    all
}

#[test]
fn a_shortage_drops_only_as_many_clean_copies_as_needed() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let all = clean(engine, &devices, 4);
        let used = engine.usage(DomainId::System).expect("of this engine").used;
        engine.set_cap(DomainId::System, Some(used)).expect("of this engine");
        assert_eq!(clean_copies(engine), 4 * MIB, "kept while there is room");
        let in_system = BufferDescriptor::new(MIB).placement(Placement::System);
        let new_buffers: Vec<_> = (1..=4)
            .map(|count| {
                let new_buffer = engine.create_buffer(&devices[0], in_system.clone());
                assert_eq!(clean_copies(engine), (4 - count) * MIB, "one for each");
                new_buffer.expect("room")
            })
            .collect();
        engine.create_buffer(&devices[0], in_system).expect_err("nothing is left to drop");
        engine.set_cap(DomainId::System, None).expect("of this engine");
        all.iter().for_each(|shared| shared.check(1, "afterwards"));
        drop(new_buffers);
    }
}

#[test]
fn a_device_out_of_memory_keeps_the_clean_copies_of_the_host() {
    let rig = Rig::new();
    let (engine, calls) = (rig.engine(), rig.engine().calls());
    let fail = |count| {
        let code = vk::Result::ERROR_OUT_OF_DEVICE_MEMORY;
        (1..=count).for_each(|nth| calls.fail_nth(Call::AllocateMemory, nth, code));
    };
    let large = BufferDescriptor::new(9 * MIB).placement(Placement::Vram);
    for devices in pairs(&rig) {
        let before = calls.made(Call::AllocateMemory);
        fail(100);
        engine.create_buffer(&devices[0], large.clone()).expect_err("no memory");
        calls.clear_faults();
        // An allocation asks all providers three times: at first, and before and after unused memory is returned.
        let providers = (calls.made(Call::AllocateMemory) - before) / 3;
        let all = clean(engine, &devices, 4);
        fail(2 * providers);
        let new_buffer = engine.create_buffer(&devices[0], large.clone()).expect("room");
        assert!(!calls.clear_faults(), "every allocation failed");
        assert_eq!(new_buffer.domain(), vram(&devices[0]));
        assert_eq!(clean_copies(engine), 4 * MIB, "they are not in this domain");
        assert!(all.iter().all(|shared| shared.buffer.domain() == vram(&devices[0])));
    }
}

/// A process that allocates nothing new also follows a smaller budget of the driver, and frees what it lacks.
#[test]
fn a_submission_evicts_for_a_smaller_heap_budget() {
    const SIZE: u64 = 9 * MIB;
    let rig = Rig::new();
    let engine = rig.engine();
    for device in rig.all() {
        // Under pressure, so that uses are tracked.
        engine.model_heap(&device, 5 * SIZE).expect("of this engine");
        let all: Vec<_> = (0..4)
            .map(|_| engine.create_buffer(&device, BufferDescriptor::new(SIZE)).expect("room"))
            .collect();
        let hot = all[3].attach_dynamic(&device, Arc::new(Refault::new())).expect("an attachment");
        let mut mapping = hot.map(Access::Write).expect("mapped");
        let usage = || engine.usage(vram(&device)).expect("of this engine");
        assert!(usage().held >= 4 * SIZE);
        let left = 3 * SIZE + MIB;
        engine.calls().set_heap_budget(Some((left, 0)));
        let fill = |submission: &mut _, mappings: &[&Mapping]| {
            record_fill(submission, &device, mappings[0], 7)
        };
        let mut submit = || {
            let filled = engine.submit_remapped(&device, &mut [(&hot, &mut mapping)], fill);
            filled.and_then(|fence| fence.wait(LONG)).expect("filled");
        };
        each_second(engine, &mut submit, usage, |now| {
            now.budget == left && now.used <= left && now.held <= left
        });
        let here = all.iter().filter(|buffer| buffer.domain() == vram(&device)).count();
        assert_eq!(
            (here, all[3].domain()),
            (3, vram(&device)),
            "one of the unused buffers is evicted"
        );
        engine.calls().set_heap_budget(None);
    }
}

/// The eviction after a budget query does not wait, and the driver is not queried again for a while.
#[test]
fn evictions_fall_back_to_single_copies_if_the_batch_fails() {
    let rig = Rig::new();
    rig.provokes("VK_ERROR_OUT_OF_HOST_MEMORY");
    let engine = rig.engine();
    engine.calls().set_unmappable_device_memory(true);
    for devices in pairs(&rig) {
        let all: Vec<_> = (0..8)
            .map(|_| {
                let buffer = engine.create_buffer(&devices[0], BufferDescriptor::new(MIB));
                let buffer = buffer.expect("there is room");
                let attachment = buffer.attach_dynamic(&devices[0], Arc::new(Refault::new()));
                let mapping = attachment
                    .and_then(|attachment| attachment.map(Access::Write))
                    .expect("mapped");
                fill(engine, &devices[0], &mapping, 7).expect("submitted");
                buffer
            })
            .collect();
        common::wait_idle(&[&devices[0]]);
        // Routes and speeds are determined before submissions are counted.
        all[0].evict().and_then(|_| all[0].request_residency()).expect("there is room");
        common::wait_idle(&[&devices[0]]);
        let moves = || engine.moved(MoveCause::Evicted).moves;
        let before = moves();
        engine.calls().set_heap_budget(Some((4096, 0)));
        let usage = || engine.usage(vram(&devices[0])).expect("of this engine");
        each_second(engine, || (), usage, |now| now.budget == 4096);
        let code = vk::Result::ERROR_OUT_OF_HOST_MEMORY;
        engine.calls().fail_nth(Call::QueueSubmit, 1, code);
        let system = BufferDescriptor::new(256).placement(Placement::System);
        engine.create_buffer(&devices[0], system).expect("there is room");
        assert!(!engine.calls().clear_faults(), "the batch submission failed");
        assert_eq!(moves() - before, 8, "every buffer is evicted");
        common::wait_idle(&[&devices[0]]);
        engine.calls().set_heap_budget(None);
    }
}

#[test]
fn remap_all_restores_a_buffer_as_remap_does() {
    let options = ResidencyOptions::new().uses_before_return(1);
    let rig = Rig::with(|d| d.residency(options.bytes_per_ms(1 << 40)));
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let buffer = engine.create_buffer(&first, BufferDescriptor::new(MIB)).expect("a buffer");
    common::bytes::write(&buffer, 5);
    let attachments = [&first, &second]
        .map(|device| buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("attached"));
    let [mut one, mut two] =
        [&attachments[0], &attachments[1]].map(|a| a.map(Access::Read).expect("mapped"));
    let restored = |engine: &Engine| engine.moved(MoveCause::Restored).moves;
    for round in 0..3 {
        buffer.evict().expect("not held");
        assert_eq!(buffer.domain(), DomainId::System);
        let before = restored(engine);
        let mut pairs = [(&attachments[0], &mut one), (&attachments[1], &mut two)];
        buffer.remap_all(&mut pairs).expect("it can be mapped");
        assert_eq!((buffer.domain(), restored(engine)), (vram(&first), before + 1), "{round}");
        for mapping in [&one, &two] {
            assert_eq!(mapping.generation(), buffer.generation(), "{round}");
            mapping.view().expect("current");
        }
    }
    common::bytes::assert_sequence(&buffer, 5, "after the restores");
}
