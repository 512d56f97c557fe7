//! Client groups, which have a cap for each domain, and age groups, whose members age together.

use std::sync::Arc;

use crate::common::gate::Gate;
use crate::common::random::Random;
use crate::common::until::until;
use crate::common::{Rig, bytes, wait_idle};
use peerbuf::observe::{MoveCause, What};
use peerbuf::residency::SkipReason;
use peerbuf::{
    Access, Attachment, BufferDescriptor, ClientGroup, Device, DomainId, Engine, Error, Placement,
    Refault, ResidencyOptions, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Two devices of each adapter. The memory of the first is the one that is too small.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    let pair = |first: Device| {
        let second = rig.open(&first.adapter().clone());
        [first, second]
    };
    rig.all().into_iter().map(pair).collect()
}

fn attach(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("an attachment")
}

/// Creates a buffer of 1 MiB that belongs to a group.
fn create(engine: &Engine, device: &Device, group: &ClientGroup) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(MIB).client(group);
    engine.create_buffer(device, descriptor).expect("a buffer")
}

fn inside(all: &[SharedBuffer], domain: DomainId) -> usize {
    all.iter().filter(|buffer| buffer.domain() == domain).count()
}

fn used(group: &ClientGroup, domain: DomainId) -> u64 {
    group.usage(domain).expect("of this engine").used
}

#[test]
fn a_group_over_its_cap_evicts_only_its_own_buffers() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let domain = vram(&devices[0]);
        let [ours, others] = ["ours", "others"]
            .map(|name| engine.client_group(name).expect("below the group limit"));
        ours.set_cap(domain, Some(4 * MIB)).expect("of this engine");
        // The neighbour's buffers are older.
        let neighbours: Vec<_> = (0..8).map(|_| create(engine, &devices[0], &others)).collect();
        let mine: Vec<_> = (0..12)
            .map(|seed| {
                let buffer = create(engine, &devices[0], &ours);
                bytes::write(&buffer, seed);
                assert!(used(&ours, domain) <= 4 * MIB);
                buffer
            })
            .collect();
        assert_eq!((inside(&mine, domain), inside(&neighbours, domain)), (4, 8));
        assert_eq!((used(&ours, DomainId::System), used(&others, domain)), (8 * MIB, 8 * MIB));
        let usage = ours.usage(domain).expect("of this engine");
        assert_eq!((usage.peak, usage.cap), (4 * MIB, Some(4 * MIB)));
        let report = engine.report();
        let listed =
            report.groups.iter().find(|group| group.name == "ours" && group.domain == domain);
        assert_eq!(listed.expect("it has a cap").usage, usage, "{report}");
        for (seed, buffer) in mine.iter().enumerate() {
            let expected = bytes::sequence(seed as u64, MIB);
            bytes::assert_same(&bytes::read(buffer), &expected, "after it was evicted");
            assert_eq!(buffer.client_group(), Some(ours.clone()));
        }
        // Uses restore them within the cap.
        let attachments: Vec<_> = mine.iter().map(|buffer| attach(buffer, &devices[1])).collect();
        for round in 0..3 {
            for attachment in &attachments {
                drop(attachment.map(Access::Read).expect("mapped"));
                assert!(used(&ours, domain) <= 4 * MIB, "round {round}");
            }
        }
        assert_eq!(inside(&neighbours, domain), 8);
        drop((attachments, mine));
        wait_idle(&[&devices[0], &devices[1]]);
        drop(create(engine, &devices[0], &others));
        assert_eq!([domain, DomainId::System].map(|domain| used(&ours, domain)), [0, 0]);
    }
}

#[test]
fn a_smaller_cap_evicts_and_a_larger_cap_restores() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let domain = vram(&devices[0]);
        let [ours, others] = ["ours", "others"]
            .map(|name| engine.client_group(name).expect("below the group limit"));
        let [mine, theirs] = [&ours, &others]
            .map(|group| (0..6).map(|_| create(engine, &devices[0], group)).collect::<Vec<_>>());
        let [first, second] = [&mine[0], &theirs[0]].map(|buffer| attach(buffer, &devices[0]));
        let pin = first.pin("scanout").expect("pinned");
        let eviction = ours.set_cap(domain, Some(2 * MIB)).expect("of this engine");
        assert_eq!((eviction.bytes, inside(&mine, domain)), (4 * MIB, 2));
        assert_eq!((inside(&theirs, domain), used(&ours, domain)), (6, 2 * MIB));
        assert_eq!(mine[0].domain(), domain, "it is pinned");
        // Less than the bytes that must stay.
        let eviction = ours.set_cap(domain, Some(0)).expect("of this engine");
        assert_eq!((eviction.bytes, eviction.stayed.bytes(SkipReason::Pinned)), (MIB, MIB));
        drop(pin);
        assert_eq!(ours.set_cap(domain, Some(0)).expect("of this engine").bytes, MIB);
        assert_eq!((inside(&mine, domain), inside(&theirs, domain)), (0, 6));
        assert_eq!(engine.restore(&devices[0]).expect("of this engine"), 0, "the cap allows none");
        ours.set_cap(domain, None).expect("of this engine");
        assert_eq!(engine.restore(&devices[0]).expect("of this engine"), 6);
        assert_eq!(inside(&mine, domain), 6);
        drop((first, second));
    }
}

#[test]
fn an_allocation_over_the_cap_fails_typed_and_changes_nothing() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let domain = vram(&devices[0]);
        let ours = engine.client_group("ours").expect("below the group limit");
        ours.set_cap(domain, Some(2 * MIB)).expect("of this engine");
        let mine = [(); 2].map(|()| create(engine, &devices[0], &ours));
        let free = engine.create_buffer(&devices[0], BufferDescriptor::new(MIB)).expect("room");
        let attachments = mine.each_ref().map(|buffer| attach(buffer, &devices[0]));
        let pins =
            attachments.each_ref().map(|attachment| attachment.pin("scanout").expect("pinned"));
        let before = (engine.usage(domain).expect("of this engine").used, used(&ours, domain));
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::Vram).client(&ours);
        let error = engine.create_buffer(&devices[0], descriptor.clone()).expect_err("capped");
        let Error::OutOfMemory { domain: full, requested, failures, code: None, .. } = &error
        else {
            panic!("{error:?}")
        };
        let reached = failures.cap_reached().expect("the cap was reached");
        assert_eq!((*full, *requested, reached.asked), (domain, MIB, MIB));
        assert_eq!((reached.group.as_str(), reached.cap, reached.used), ("ours", 2 * MIB, 2 * MIB));
        assert_eq!(failures.bytes(SkipReason::Pinned), 2 * MIB);
        let text = error.to_string();
        assert!(text.contains("\"ours\"") && text.contains("scanout"), "{text}");
        assert_eq!(
            before,
            (engine.usage(domain).expect("of this engine").used, used(&ours, domain))
        );
        assert_eq!((inside(&mine, domain), free.domain()), (2, domain));
        // With another domain allowed, the buffer is placed there.
        let other = create(engine, &devices[0], &ours);
        assert_eq!(other.domain(), DomainId::System);
        let explained = other.explain();
        assert_eq!(explained.decisions[0].what, What::FellBack, "{explained}");
        assert!(explained.to_string().contains("2 MiB budget, 2 MiB in use"), "{explained}");
        // More than the cap allows in an empty domain.
        let huge = BufferDescriptor::new(3 * MIB).placement(Placement::Vram).client(&ours);
        let error = engine.create_buffer(&devices[0], huge).expect_err("capped");
        assert!(error.is_out_of_memory() && error.to_string().contains("ours"), "{error}");
        drop(pins);
        let made = engine.create_buffer(&devices[0], descriptor).expect("room is made");
        assert_eq!((made.domain(), used(&ours, domain)), (domain, 2 * MIB));
        drop(attachments);
    }
}

/// Bytes of a backing that a buffer has left stay charged to the group until devices have finished with it.
#[test]
fn bytes_in_flight_are_charged_to_the_group() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let domain = vram(&first);
    let ours = engine.client_group("ours").expect("below the group limit");
    ours.set_cap(domain, Some(2 * MIB)).expect("of this engine");
    let mine = [(); 2].map(|()| create(engine, &first, &ours));
    mine.iter().for_each(|buffer| bytes::write(buffer, 1));
    let attachments = mine.each_ref().map(|buffer| attach(buffer, &second));
    wait_idle(&[&first, &second]);
    let gate = Gate::close(&first);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| create(engine, &first, &ours));
        until(|| inside(&mine, domain), |&inside| inside < 2);
        assert_eq!(used(&ours, domain), 2 * MIB, "one is evicted, and its copy has not ended");
        assert_eq!(used(&ours, DomainId::System), MIB);
        gate.open();
        assert_eq!(making.join().expect("no panic").domain(), domain);
    });
    assert!(ours.usage(domain).expect("of this engine").peak <= 2 * MIB);
    drop(attachments);
}

/// Clean copies are charged to the group, and making room for it does not drop those of other groups.
#[test]
fn clean_copies_are_charged_and_only_the_groups_own_are_dropped() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let [ours, others] = ["ours", "others"]
            .map(|name| engine.client_group(name).expect("below the group limit"));
        let [mine, theirs] = [&ours, &others].map(|group| {
            let buffer = create(engine, &devices[0], group);
            bytes::write(&buffer, 3);
            buffer.evict().expect("not held");
            buffer.request_residency().expect("there is room");
            wait_idle(&[&devices[0], &devices[1]]);
            buffer
        });
        let system = [&ours, &others].map(|group| used(group, DomainId::System));
        assert_eq!(system, [MIB, MIB], "as clean copies");
        ours.set_cap(DomainId::System, Some(MIB)).expect("of this engine");
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::System).client(&ours);
        let more =
            engine.create_buffer(&devices[0], descriptor).expect("the clean copy is dropped");
        let system = [&ours, &others].map(|group| used(group, DomainId::System));
        assert_eq!(system, [MIB, MIB], "its own clean copy was dropped");
        let report = engine.report();
        let shares = report.domains.iter().find(|domain| domain.id == DomainId::System);
        assert_eq!(shares.expect("it is there").shares.clean_copies, MIB);
        drop((mine, theirs, more));
    }
}

#[test]
fn a_purged_buffer_stays_in_its_group() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let domain = vram(&devices[0]);
        let ours = engine.client_group("ours").expect("below the group limit");
        ours.set_cap(domain, Some(MIB)).expect("of this engine");
        let descriptor = BufferDescriptor::new(MIB).client(&ours).discardable();
        let cache = engine.create_buffer(&devices[0], descriptor.clone()).expect("room");
        assert_eq!(cache.descriptor(), descriptor, "as it was created");
        let other = create(engine, &devices[0], &ours);
        assert!(cache.is_purged(), "a purgeable buffer is evicted first");
        assert_eq!((other.domain(), used(&ours, domain)), (domain, MIB));
        assert_eq!(cache.client_group().as_ref().map(ClientGroup::name), Some("ours"));
        cache.repopulate().expect("the other buffer is evicted");
        assert_eq!((cache.domain(), other.domain()), (domain, DomainId::System));
        assert_eq!(used(&ours, domain), MIB);
    }
}

#[test]
fn concurrent_groups_never_exceed_their_caps() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, _second] = rig.two_of_one_adapter();
    let domain = vram(&first);
    engine.model_heap(&first, 6 * MIB).expect("of this engine");
    let groups = ["a", "b"].map(|name| engine.client_group(name).expect("below the group limit"));
    groups
        .iter()
        .for_each(|group| _ = group.set_cap(domain, Some(4 * MIB)).expect("of this engine"));
    std::thread::scope(|scope| {
        for (seed, group) in (1..).zip(&groups) {
            let first = &first;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut mine: Vec<SharedBuffer> = vec![];
                for round in 0..150 {
                    let size = (1 + random.below(8)) * (MIB / 4);
                    let descriptor = BufferDescriptor::new(size).client(group);
                    mine.push(engine.create_buffer(first, descriptor).expect("a buffer"));
                    bytes::write(mine.last().expect("just made"), round);
                    if mine.len() > 12 {
                        // CAST: a few.
                        let at = random.below(mine.len() as u64) as usize;
                        drop(mine.swap_remove(at));
                    }
                    if round % 16 == 0 {
                        let cap = (2 + random.below(3)) * MIB;
                        group.set_cap(domain, Some(cap)).expect("of this engine");
                        assert!(used(group, domain) <= cap, "no other thread uses the group");
                    }
                    assert!(used(group, domain) <= 4 * MIB);
                }
            });
        }
    });
    for group in &groups {
        let usage = group.usage(domain).expect("of this engine");
        assert!(usage.peak <= 4 * MIB, "{usage:?}");
    }
    let usage = engine.usage(domain).expect("of this engine");
    assert!(usage.peak <= 6 * MIB, "{usage:?}");
    wait_idle(&[&first]);
    engine.trim();
    for group in &groups {
        assert_eq!([domain, DomainId::System].map(|domain| used(group, domain)), [0, 0]);
    }
}

#[test]
fn groups_belong_to_one_engine() {
    let rig = Rig::new();
    let engine = rig.engine();
    let other_engine = rig.external_engine();
    let [device, _] = rig.two_of_one_adapter();
    let theirs = other_engine.client_group("theirs").expect("below the group limit");
    let descriptor = BufferDescriptor::new(MIB).client(&theirs);
    let error = engine.create_buffer(&device, descriptor).expect_err("of another engine");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    let other = rig.open_on(&other_engine, &device);
    let _twin = rig.open_on(&other_engine, &device);
    let third = rig.open_on(&other_engine, &device);
    assert!(
        other_engine.client_group("x").expect("below the group limit").usage(vram(&other)).is_ok()
    );
    let ours = engine.client_group("ours").expect("below the group limit");
    let error = ours.set_cap(vram(&third), None).expect_err("not a device of this engine");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    assert!(ours.usage(vram(&third)).is_err());
    let buffer = create(engine, &device, &ours);
    let error =
        buffer.set_age_group(Some(&other_engine.age_group())).expect_err("of another engine");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    assert_ne!(
        ours,
        engine.client_group("ours").expect("below the group limit"),
        "two of the same name"
    );
}

// ---- age groups ----

/// A rig whose policy evicts the least recently used buffer.
fn lru_rig() -> Rig {
    Rig::with(|descriptor| {
        let lru = || -> Box<dyn peerbuf::residency::policy::Policy> {
            Box::new(peerbuf::residency::policy::Lru::new())
        };
        descriptor.residency(ResidencyOptions::new().policy(lru))
    })
}

#[test]
fn a_use_of_one_member_counts_for_the_age_group() {
    let rig = lru_rig();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let domain = vram(&devices[0]);
        engine.model_heap(&devices[0], 8 * MIB).expect("of this engine");
        let all: Vec<_> = (0..8)
            .map(|_| {
                let descriptor = BufferDescriptor::new(MIB);
                engine.create_buffer(&devices[0], descriptor).expect("room")
            })
            .collect();
        let group = engine.age_group();
        let (mine, others) = all.split_at(4);
        for buffer in mine {
            buffer.set_age_group(Some(&group)).expect("of this engine");
        }
        // The others are used later than all group members but one.
        others.iter().for_each(|buffer| bytes::write(buffer, 1));
        bytes::write(&mine[1], 1);
        let large = |mib| engine.create_buffer(&devices[0], BufferDescriptor::new(mib * MIB));
        let first = large(4).expect("the others are evicted");
        assert_eq!((inside(mine, domain), inside(others, domain)), (4, 0));
        // Now the group members are the least recently used.
        bytes::write(&first, 1);
        let second = large(3).expect("the group is evicted");
        assert_eq!((inside(mine, domain), first.domain(), second.domain()), (1, domain, domain));
        assert_eq!(mine[1].domain(), domain, "the member used last is evicted last");
        let third = large(1).expect("the rest of it is evicted");
        assert_eq!((inside(mine, domain), third.domain()), (0, domain));
        // Without the group, each buffer ages by itself.
        mine.iter().for_each(|buffer| buffer.set_age_group(None).expect("of this engine"));
    }
}

#[test]
fn a_use_counts_for_group_members_in_other_domains() {
    let rig = lru_rig();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        for device in &devices {
            engine.model_heap(device, 2 * MIB).expect("of this engine");
        }
        let group = engine.age_group();
        let [first, second] = devices.each_ref().map(|device| {
            let [old, newer] = [(); 2]
                .map(|()| engine.create_buffer(device, BufferDescriptor::new(MIB)).expect("room"));
            old.set_age_group(Some(&group)).expect("of this engine");
            bytes::write(&newer, 1);
            [old, newer]
        });
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::System);
        let system = engine.create_buffer(&devices[0], descriptor).expect("room");
        system.set_age_group(Some(&group)).expect("of this engine");
        bytes::write(&first[0], 1);
        let make = |device| engine.create_buffer(device, BufferDescriptor::new(MIB)).expect("room");
        let new = make(&devices[1]);
        assert_eq!(
            second[0].domain(),
            vram(&devices[1]),
            "a member of its group was used, in another domain"
        );
        assert_eq!(second[1].domain(), DomainId::System);
        // Use of a buffer that is in no eviction list.
        bytes::write(&new, 1);
        bytes::write(&first[1], 1);
        bytes::write(&system, 1);
        let others = devices.each_ref().map(make);
        assert_eq!(first.each_ref().map(|b| b.domain()), [vram(&devices[0]), DomainId::System]);
        assert_eq!([&second[0], &new].map(|b| b.domain()), [vram(&devices[1]), DomainId::System]);
        drop(others);
    }
}

#[test]
fn a_dropped_member_leaves_its_age_group() {
    let rig = lru_rig();
    let engine = rig.engine();
    let [device, _] = rig.two_of_one_adapter();
    let domain = vram(&device);
    engine.model_heap(&device, 4 * MIB).expect("of this engine");
    let group = engine.age_group();
    let make = || engine.create_buffer(&device, BufferDescriptor::new(MIB)).expect("room");
    let kept = make();
    kept.set_age_group(Some(&group)).expect("of this engine");
    for _ in 0..50 {
        let dropped = make();
        dropped.set_age_group(Some(&group)).expect("of this engine");
    }
    // Buffers that reuse the slots of dropped ones are in no group.
    let others = [(); 3].map(|()| make());
    others.iter().for_each(|buffer| bytes::write(buffer, 1));
    bytes::write(&kept, 1);
    let before = engine.moved(MoveCause::Evicted).moves;
    let _new = [(); 3].map(|()| make());
    assert_eq!(engine.moved(MoveCause::Evicted).moves - before, 3);
    assert_eq!((kept.domain(), inside(&others, domain)), (domain, 0));
}
