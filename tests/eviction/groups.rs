//! Client groups, which have a cap of their own for each place, and age groups, which age together.

use std::sync::Arc;

use crate::common::gate::Gate;
use crate::common::random::Random;
use crate::common::{Rig, bytes, wait_idle};
use peerbuf::observe::{MoveCause, What};
use peerbuf::residency::Kept;
use peerbuf::{
    Access, Attachment, BufferDescriptor, ClientGroup, Device, DomainId, Engine, Error, Placement,
    Refault, Rules, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// Two devices of each adapter: the first one's memory is what is too small.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    let pair = |first: Device| {
        let second = rig.open(&first.adapter().clone());
        [first, second]
    };
    rig.all().into_iter().map(pair).collect()
}

fn sit(buffer: &SharedBuffer, device: &Device) -> Attachment {
    buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("a seat")
}

/// A MiB of a group's.
fn create(engine: &Engine, device: &Device, group: &ClientGroup) -> SharedBuffer {
    let descriptor = BufferDescriptor::new(MIB).client(group);
    engine.create_buffer(device, descriptor).expect("somewhere")
}

fn inside(all: &[SharedBuffer], place: DomainId) -> usize {
    all.iter().filter(|buffer| buffer.domain() == place).count()
}

fn used(group: &ClientGroup, place: DomainId) -> u64 {
    group.usage(place).expect("ours").used
}

#[test]
fn a_group_over_its_cap_evicts_its_own_and_not_the_neighbours() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let place = vram(&devices[0]);
        let [ours, others] = ["ours", "others"].map(|name| engine.client_group(name).expect("few"));
        ours.set_cap(place, Some(4 * MIB)).expect("ours");
        // The neighbour's are older.
        let neighbours: Vec<_> = (0..8).map(|_| create(engine, &devices[0], &others)).collect();
        let mine: Vec<_> = (0..12)
            .map(|seed| {
                let buffer = create(engine, &devices[0], &ours);
                bytes::write(&buffer, seed);
                assert!(used(&ours, place) <= 4 * MIB);
                buffer
            })
            .collect();
        assert_eq!((inside(&mine, place), inside(&neighbours, place)), (4, 8));
        assert_eq!((used(&ours, DomainId::System), used(&others, place)), (8 * MIB, 8 * MIB));
        let usage = ours.usage(place).expect("ours");
        assert_eq!((usage.peak, usage.cap), (4 * MIB, Some(4 * MIB)));
        let report = engine.report();
        let told = report.groups.iter().find(|group| group.name == "ours" && group.domain == place);
        assert_eq!(told.expect("it has a cap").usage, usage, "{report}");
        for (seed, buffer) in mine.iter().enumerate() {
            let expected = bytes::sequence(seed as u64, MIB);
            bytes::assert_same(&bytes::read(buffer), &expected, "after it was evicted");
            assert_eq!(buffer.client_group(), Some(ours.clone()));
        }
        // They come back within the cap when they are used.
        let seats: Vec<_> = mine.iter().map(|buffer| sit(buffer, &devices[1])).collect();
        for round in 0..3 {
            for seat in &seats {
                drop(seat.map(Access::Read).expect("mapped"));
                assert!(used(&ours, place) <= 4 * MIB, "round {round}");
            }
        }
        assert_eq!(inside(&neighbours, place), 8);
        drop((seats, mine));
        wait_idle(&[&devices[0], &devices[1]]);
        drop(create(engine, &devices[0], &others));
        assert_eq!([place, DomainId::System].map(|place| used(&ours, place)), [0, 0]);
    }
}

#[test]
fn a_smaller_cap_evicts_down_to_it_and_a_larger_one_lets_them_back() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let place = vram(&devices[0]);
        let [ours, others] = ["ours", "others"].map(|name| engine.client_group(name).expect("few"));
        let [mine, theirs] = [&ours, &others]
            .map(|group| (0..6).map(|_| create(engine, &devices[0], group)).collect::<Vec<_>>());
        let [first, second] = [&mine[0], &theirs[0]].map(|buffer| sit(buffer, &devices[0]));
        let pin = first.pin("scanout").expect("pinned");
        let eviction = ours.set_cap(place, Some(2 * MIB)).expect("ours");
        assert_eq!((eviction.bytes, inside(&mine, place)), (4 * MIB, 2));
        assert_eq!((inside(&theirs, place), used(&ours, place)), (6, 2 * MIB));
        assert_eq!(mine[0].domain(), place, "it is pinned");
        // Less than what must stay.
        let eviction = ours.set_cap(place, Some(0)).expect("ours");
        assert_eq!((eviction.bytes, eviction.stayed.bytes(Kept::Pinned)), (MIB, MIB));
        drop(pin);
        assert_eq!(ours.set_cap(place, Some(0)).expect("ours").bytes, MIB);
        assert_eq!((inside(&mine, place), inside(&theirs, place)), (0, 6));
        assert_eq!(engine.restore(&devices[0]).expect("ours"), 0, "none of them may come");
        ours.set_cap(place, None).expect("ours");
        assert_eq!(engine.restore(&devices[0]).expect("ours"), 6);
        assert_eq!(inside(&mine, place), 6);
        drop((first, second));
    }
}

#[test]
fn a_hopeless_one_gets_the_typed_error_and_nothing_has_changed() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let place = vram(&devices[0]);
        let ours = engine.client_group("ours").expect("few");
        ours.set_cap(place, Some(2 * MIB)).expect("ours");
        let mine = [(); 2].map(|()| create(engine, &devices[0], &ours));
        let free = engine.create_buffer(&devices[0], BufferDescriptor::new(MIB)).expect("room");
        let seats = mine.each_ref().map(|buffer| sit(buffer, &devices[0]));
        let pins = seats.each_ref().map(|seat| seat.pin("scanout").expect("pinned"));
        let before = (engine.usage(place).expect("ours").used, used(&ours, place));
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::Vram).client(&ours);
        let error = engine.create_buffer(&devices[0], descriptor.clone()).expect_err("capped");
        let Error::OutOfMemory { domain, requested, obstacles, code: None, .. } = &error else {
            panic!("{error:?}")
        };
        let reached = obstacles.cap_reached().expect("it was the cap");
        assert_eq!((*domain, *requested, reached.asked), (place, MIB, MIB));
        assert_eq!((reached.group.as_str(), reached.cap, reached.used), ("ours", 2 * MIB, 2 * MIB));
        assert_eq!(obstacles.bytes(Kept::Pinned), 2 * MIB);
        let text = error.to_string();
        assert!(text.contains("\"ours\"") && text.contains("scanout"), "{text}");
        assert_eq!(before, (engine.usage(place).expect("ours").used, used(&ours, place)));
        assert_eq!((inside(&mine, place), free.domain()), (2, place));
        // Where it may be elsewhere it is.
        let other = create(engine, &devices[0], &ours);
        assert_eq!(other.domain(), DomainId::System);
        let explained = other.explain();
        assert_eq!(explained.decisions[0].what, What::FellBack, "{explained}");
        assert!(explained.to_string().contains("2 MiB budget, 2 MiB in use"), "{explained}");
        // More than it may ever have.
        let huge = BufferDescriptor::new(3 * MIB).placement(Placement::Vram).client(&ours);
        let error = engine.create_buffer(&devices[0], huge).expect_err("capped");
        assert!(error.is_out_of_memory() && error.to_string().contains("ours"), "{error}");
        drop(pins);
        let made = engine.create_buffer(&devices[0], descriptor).expect("room is made");
        assert_eq!((made.domain(), used(&ours, place)), (place, 2 * MIB));
        drop(seats);
    }
}

/// What the group's buffers have left counts until devices have finished with it.
#[test]
fn what_is_still_being_copied_is_on_the_groups_account() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, second] = rig.two_of_one_adapter();
    let place = vram(&first);
    let ours = engine.client_group("ours").expect("few");
    ours.set_cap(place, Some(2 * MIB)).expect("ours");
    let mine = [(); 2].map(|()| create(engine, &first, &ours));
    mine.iter().for_each(|buffer| bytes::write(buffer, 1));
    let seats = mine.each_ref().map(|buffer| sit(buffer, &second));
    wait_idle(&[&first, &second]);
    let gate = Gate::close(&first);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| create(engine, &first, &ours));
        while inside(&mine, place) == 2 {
            std::thread::yield_now();
        }
        assert_eq!(used(&ours, place), 2 * MIB, "one has left, and its copy has not ended");
        assert_eq!(used(&ours, DomainId::System), MIB);
        gate.open();
        assert_eq!(making.join().expect("no panic").domain(), place);
    });
    assert!(ours.usage(place).expect("ours").peak <= 2 * MIB);
    drop(seats);
}

/// Clean copies are on the account, and those of others are not dropped for it.
#[test]
fn clean_copies_are_counted_and_only_its_own_are_dropped() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let [ours, others] = ["ours", "others"].map(|name| engine.client_group(name).expect("few"));
        let [mine, theirs] = [&ours, &others].map(|group| {
            let buffer = create(engine, &devices[0], group);
            bytes::write(&buffer, 3);
            buffer.evict().expect("nobody holds it");
            buffer.request_residency().expect("there is room");
            wait_idle(&[&devices[0], &devices[1]]);
            buffer
        });
        let system = [&ours, &others].map(|group| used(group, DomainId::System));
        assert_eq!(system, [MIB, MIB], "as clean copies");
        ours.set_cap(DomainId::System, Some(MIB)).expect("ours");
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::System).client(&ours);
        let more = engine.create_buffer(&devices[0], descriptor).expect("instead of the copy");
        let system = [&ours, &others].map(|group| used(group, DomainId::System));
        assert_eq!(system, [MIB, MIB], "its own copy was given up");
        let report = engine.report();
        let shares = report.domains.iter().find(|domain| domain.id == DomainId::System);
        assert_eq!(shares.expect("it is there").shares.clean_copies, MIB);
        drop((mine, theirs, more));
    }
}

#[test]
fn a_purged_one_is_of_its_group_when_it_is_renewed() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let place = vram(&devices[0]);
        let ours = engine.client_group("ours").expect("few");
        ours.set_cap(place, Some(MIB)).expect("ours");
        let descriptor = BufferDescriptor::new(MIB).client(&ours).discardable();
        let cache = engine.create_buffer(&devices[0], descriptor.clone()).expect("room");
        assert_eq!(cache.descriptor(), descriptor, "as it was created");
        let other = create(engine, &devices[0], &ours);
        assert!(cache.is_purged(), "a cache goes first");
        assert_eq!((other.domain(), used(&ours, place)), (place, MIB));
        assert_eq!(cache.client_group().as_ref().map(ClientGroup::name), Some("ours"));
        cache.renew().expect("the other one goes");
        assert_eq!((cache.domain(), other.domain()), (place, DomainId::System));
        assert_eq!(used(&ours, place), MIB);
    }
}

#[test]
fn two_threads_with_two_groups_never_have_more_than_they_may() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [first, _second] = rig.two_of_one_adapter();
    let place = vram(&first);
    engine.model_heap(&first, 6 * MIB).expect("ours");
    let groups = ["a", "b"].map(|name| engine.client_group(name).expect("few"));
    groups.iter().for_each(|group| _ = group.set_cap(place, Some(4 * MIB)).expect("ours"));
    std::thread::scope(|scope| {
        for (seed, group) in (1..).zip(&groups) {
            let first = &first;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut mine: Vec<SharedBuffer> = vec![];
                for round in 0..150 {
                    let size = (1 + random.below(8)) * (MIB / 4);
                    let descriptor = BufferDescriptor::new(size).client(group);
                    mine.push(engine.create_buffer(first, descriptor).expect("somewhere"));
                    bytes::write(mine.last().expect("just made"), round);
                    if mine.len() > 12 {
                        // CAST: a few.
                        let at = random.below(mine.len() as u64) as usize;
                        drop(mine.swap_remove(at));
                    }
                    if round % 16 == 0 {
                        let cap = (2 + random.below(3)) * MIB;
                        group.set_cap(place, Some(cap)).expect("ours");
                        assert!(used(group, place) <= cap, "nobody else is of the group");
                    }
                    assert!(used(group, place) <= 4 * MIB);
                }
            });
        }
    });
    for group in &groups {
        let usage = group.usage(place).expect("ours");
        assert!(usage.peak <= 4 * MIB, "{usage:?}");
    }
    let usage = engine.usage(place).expect("ours");
    assert!(usage.peak <= 6 * MIB, "{usage:?}");
    wait_idle(&[&first]);
    engine.trim();
    for group in &groups {
        assert_eq!([place, DomainId::System].map(|place| used(group, place)), [0, 0]);
    }
}

#[test]
fn groups_are_of_their_engine() {
    let rig = Rig::new();
    let engine = rig.engine();
    let stranger = rig.stranger();
    let [device, _] = rig.two_of_one_adapter();
    let theirs = stranger.client_group("theirs").expect("few");
    let descriptor = BufferDescriptor::new(MIB).client(&theirs);
    let error = engine.create_buffer(&device, descriptor).expect_err("of another engine");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    let other = rig.open_on(&stranger, &device);
    let _twin = rig.open_on(&stranger, &device);
    let third = rig.open_on(&stranger, &device);
    assert!(stranger.client_group("x").expect("few").usage(vram(&other)).is_ok());
    let ours = engine.client_group("ours").expect("few");
    let error = ours.set_cap(vram(&third), None).expect_err("nobody has that number here");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    assert!(ours.usage(vram(&third)).is_err());
    let buffer = create(engine, &device, &ours);
    let error = buffer.set_age_group(Some(&stranger.age_group())).expect_err("of another engine");
    assert!(matches!(error, Error::ForeignEngine { .. }), "{error}");
    assert_ne!(ours, engine.client_group("ours").expect("few"), "two of the same name");
}

// ---- age groups ----

/// Whoever was used the longest time ago goes.
fn lru_rig() -> Rig {
    Rig::with(|descriptor| {
        let lru = || -> Box<dyn peerbuf::residency::policy::Policy> {
            Box::new(peerbuf::residency::policy::Lru::new())
        };
        descriptor.residency(Rules::new().policy(lru))
    })
}

#[test]
fn a_use_of_one_keeps_all_and_they_leave_together() {
    let rig = lru_rig();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let place = vram(&devices[0]);
        engine.model_heap(&devices[0], 8 * MIB).expect("ours");
        let all: Vec<_> = (0..8)
            .map(|_| {
                let descriptor = BufferDescriptor::new(MIB);
                engine.create_buffer(&devices[0], descriptor).expect("room")
            })
            .collect();
        let group = engine.age_group();
        let (mine, others) = all.split_at(4);
        for buffer in mine {
            buffer.set_age_group(Some(&group)).expect("ours");
        }
        // The others are used later, but for one of the group.
        others.iter().for_each(|buffer| bytes::write(buffer, 1));
        bytes::write(&mine[1], 1);
        let large = |mib| engine.create_buffer(&devices[0], BufferDescriptor::new(mib * MIB));
        let first = large(4).expect("the others go");
        assert_eq!((inside(mine, place), inside(others, place)), (4, 0));
        // And now nobody has used any of them for longer than the first one.
        bytes::write(&first, 1);
        let second = large(3).expect("the group goes");
        assert_eq!((inside(mine, place), first.domain(), second.domain()), (1, place, place));
        assert_eq!(mine[1].domain(), place, "of those the one that was used last is the last");
        let third = large(1).expect("and its rest");
        assert_eq!((inside(mine, place), third.domain()), (0, place));
        // Without the group each is for itself.
        mine.iter().for_each(|buffer| buffer.set_age_group(None).expect("ours"));
    }
}

#[test]
fn a_use_counts_in_other_places_and_of_one_that_is_elsewhere() {
    let rig = lru_rig();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        for device in &devices {
            engine.model_heap(device, 2 * MIB).expect("ours");
        }
        let group = engine.age_group();
        let [first, second] = devices.each_ref().map(|device| {
            let [old, newer] = [(); 2]
                .map(|()| engine.create_buffer(device, BufferDescriptor::new(MIB)).expect("room"));
            old.set_age_group(Some(&group)).expect("ours");
            bytes::write(&newer, 1);
            [old, newer]
        });
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::System);
        let system = engine.create_buffer(&devices[0], descriptor).expect("room");
        system.set_age_group(Some(&group)).expect("ours");
        bytes::write(&first[0], 1);
        let make = |device| engine.create_buffer(device, BufferDescriptor::new(MIB)).expect("room");
        let newcomer = make(&devices[1]);
        assert_eq!(second[0].domain(), vram(&devices[1]), "one of its group was used, elsewhere");
        assert_eq!(second[1].domain(), DomainId::System);
        // One that stands in no order at all.
        bytes::write(&newcomer, 1);
        bytes::write(&first[1], 1);
        bytes::write(&system, 1);
        let others = devices.each_ref().map(make);
        assert_eq!(first.each_ref().map(|b| b.domain()), [vram(&devices[0]), DomainId::System]);
        assert_eq!(
            [&second[0], &newcomer].map(|b| b.domain()),
            [vram(&devices[1]), DomainId::System]
        );
        drop(others);
    }
}

#[test]
fn whoever_is_dropped_is_forgotten_and_nobody_else_is_in_its_group() {
    let rig = lru_rig();
    let engine = rig.engine();
    let [device, _] = rig.two_of_one_adapter();
    let place = vram(&device);
    engine.model_heap(&device, 4 * MIB).expect("ours");
    let group = engine.age_group();
    let make = || engine.create_buffer(&device, BufferDescriptor::new(MIB)).expect("room");
    let kept = make();
    kept.set_age_group(Some(&group)).expect("ours");
    for _ in 0..50 {
        let gone = make();
        gone.set_age_group(Some(&group)).expect("ours");
    }
    // Those who have their places are in no group.
    let others = [(); 3].map(|()| make());
    others.iter().for_each(|buffer| bytes::write(buffer, 1));
    bytes::write(&kept, 1);
    let before = engine.moved(MoveCause::Evicted).moves;
    let _newcomers = [(); 3].map(|()| make());
    assert_eq!(engine.moved(MoveCause::Evicted).moves - before, 3);
    assert_eq!((kept.domain(), inside(&others, place)), (place, 0));
}
