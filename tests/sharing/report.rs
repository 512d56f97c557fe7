//! `Engine::report`: every live buffer, who uses it, who keeps it where it is and why.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{self, Rig, fill};
use peerbuf::observe::{BufferReport, Object, PinReport};
use peerbuf::{
    Access, BufferDescriptor, Device, DomainId, Error, Importer, Invalidation, Placement,
    SharedBuffer, Usage,
};

const SIZE: u64 = 8192;

struct Indifferent;

impl Importer for Indifferent {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}
}

/// Takes part only where it need not reach another device's memory.
struct Homely;

impl Importer for Homely {
    fn invalidate_mappings(&self, _: &Invalidation<'_>) {}

    fn allow_peer2peer(&self) -> bool {
        false
    }
}

fn create(rig: &Rig, home: &Device, name: &str) -> SharedBuffer {
    rig.engine().create_buffer(home, BufferDescriptor::new(SIZE).name(name)).expect("a buffer")
}

/// What the report says of the only buffer with that name.
fn of(rig: &Rig, name: &str) -> BufferReport {
    let report = rig.engine().report();
    let mut named = report.named(name);
    let buffer = named.next().expect("it is in the report").clone();
    assert_eq!(named.next(), None, "only one has this name");
    buffer
}

#[test]
fn a_buffer_is_told_with_its_place_and_is_gone_when_it_is_dropped() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let before = rig.engine().report().totals();
    let named = create(&rig, &home, "frame");
    let unnamed = rig.engine().create_buffer(&home, BufferDescriptor::new(100)).expect("a buffer");
    let report = rig.engine().report();
    let frame = of(&rig, "frame");
    assert_eq!((frame.size, frame.generation, frame.home), (SIZE, 0, home.id()));
    assert_eq!((frame.domain, frame.provider), (named.domain(), named.provider()));
    assert!(!frame.imported && !frame.moving && frame.handed_out == 0);
    let [.., last] = &report.buffers[..] else { panic!("two are alive: {report}") };
    assert_eq!((last.name.as_deref(), last.size), (None, 100));
    assert_eq!(unnamed.name(), format!("buffer {}", last.id));
    let totals = report.totals();
    assert_eq!((totals.buffers, totals.bytes), (before.buffers + 2, before.bytes + SIZE + 100));
    assert_eq!(report.devices[home.id().index()].name, home.name());
    for domain in &report.domains {
        assert_eq!(rig.engine().usage(domain.id).expect("our device"), domain.usage);
        let by_provider: u64 = domain.providers.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(by_provider, domain.shares.resident, "{domain:?}");
    }
    let place = report.domains.iter().find(|domain| domain.id == frame.domain);
    let providers = &place.expect("the place where it is").providers;
    let has = |&(provider, bytes): &(_, u64)| provider == frame.provider && bytes >= SIZE;
    assert!(providers.iter().any(has), "{providers:?}");
    assert!(report.to_string().contains("frame"));
    drop((named, unnamed));
    assert_eq!(rig.engine().report().totals(), before);
}

#[test]
fn seats_mappings_and_accesses_are_told_while_they_last() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let fixed = buffer.attach(&home).expect("a seat");
    let free = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("a seat");
    let homely = buffer.attach_dynamic(&home, Arc::new(Homely)).expect("a seat");
    let mapping = free.map(Access::Read).expect("mapped");
    let seats = of(&rig, "frame").attachments;
    let facts: Vec<_> = seats
        .iter()
        .map(|seat| (seat.device, seat.dynamic, seat.peer_to_peer, seat.mapped, seat.attached))
        .collect();
    assert_eq!(
        facts,
        [
            (home.id(), false, true, 0, true),
            (peer.id(), true, true, 1, true),
            (home.id(), true, false, 0, true)
        ]
    );
    assert_eq!(seats[1].device_name, peer.name());
    drop((free, homely));
    let left = of(&rig, "frame").attachments;
    assert_eq!(left.len(), 2, "a mapping keeps its seat");
    assert!(left[0].attached && !left[1].attached);
    {
        let _host = buffer.host_access(Access::Read).expect("the host reads");
        assert_eq!(of(&rig, "frame").host_accesses, 1);
    }
    drop((mapping, fixed));
    let idle = of(&rig, "frame");
    assert_eq!((idle.attachments.len(), idle.host_accesses, idle.mappings()), (0, 0, 0));
}

#[test]
fn a_mapping_of_a_place_that_was_left_is_told_with_its_device() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let seats = [&home, &peer]
        .map(|device| buffer.attach_dynamic(device, Arc::new(Indifferent)).expect("a seat"));
    let old = [&seats[1], &seats[1], &seats[0]].map(|seat| seat.map(Access::Read).expect("mapped"));
    let from = buffer.domain();
    buffer.migrate(DomainId::System).expect("nobody holds it");
    let current = seats[0].map(Access::Read).expect("mapped");
    let told = of(&rig, "frame");
    assert_eq!((told.generation, told.domain), (1, DomainId::System));
    assert_eq!(told.attachments.iter().map(|seat| seat.mapped).collect::<Vec<_>>(), [1, 0]);
    let [ghost] = &told.ghosts[..] else { panic!("one place was left: {told}") };
    assert_eq!((ghost.generation, ghost.domain), (0, from));
    assert_eq!(ghost.mapped, [(home.id(), 1), (peer.id(), 2)]);
    assert_eq!(told.mappings(), 4);
    assert_eq!(told.attachments.iter().map(|seat| seat.mapped_before).collect::<Vec<_>>(), [1, 2]);
    assert!(told.to_string().contains("mapped 0 × (2 × before it moved)"), "{told}");
    let totals = rig.engine().report().totals();
    assert_eq!((totals.ghosts, totals.mappings), (1, 4));
    let [first, second, third] = old;
    drop((first, third));
    assert_eq!(of(&rig, "frame").ghosts[0].mapped, [(peer.id(), 1)]);
    // A guest that leaves and another one that takes its seat do not change whose it was.
    let [at_home, at_peer] = seats;
    drop(at_peer);
    let newcomer = buffer.attach_dynamic(&home, Arc::new(Indifferent)).expect("a seat");
    assert_eq!(of(&rig, "frame").ghosts[0].mapped, [(peer.id(), 1)]);
    drop((second, current, at_home, newcomer));
    assert_eq!(of(&rig, "frame").ghosts, []);
}

#[test]
fn every_pin_is_told_with_its_device_and_its_reason() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let seats = [&home, &peer].map(|device| buffer.attach(device).expect("a seat"));
    let told = || {
        let mut pins: Vec<_> = of(&rig, "frame")
            .pins
            .into_iter()
            .map(|PinReport { device, reason, count, bytes, .. }| {
                assert_eq!(bytes, SIZE);
                (device, reason.into_owned(), count)
            })
            .collect();
        pins.sort();
        pins
    };
    let pin = |device: &Device, reason: &str, count| (Some(device.id()), reason.to_owned(), count);
    let scanout = [(); 3].map(|()| seats[0].pin("scanout").expect("no quota"));
    assert_eq!(told(), [pin(&home, "scanout", 3)]);
    let rdma = seats[1].pin("rdma").expect("no quota");
    // A reason that is made up at run time, beside the usual one.
    let frame = seats[0].pin(format!("frame {}", 7)).expect("no quota");
    assert_eq!(frame.reason(), "frame 7");
    assert_eq!(told(), [pin(&home, "frame 7", 1), pin(&home, "scanout", 3), pin(&peer, "rdma", 1)]);
    assert_eq!(rig.engine().report().totals().pins, 5);
    assert_eq!(rig.engine().live().count(Object::Pin), 5);
    // Pins outlive their attachment.
    drop(seats);
    drop(frame);
    let [first, second, third] = scanout;
    drop((second, third));
    assert_eq!(told(), [pin(&home, "scanout", 1), pin(&peer, "rdma", 1)]);
    drop(rdma);
    assert_eq!(told(), [pin(&home, "scanout", 1)]);
    drop(first);
    assert_eq!(told(), []);
    buffer.migrate(DomainId::System).expect("nobody holds it");
}

#[test]
fn what_is_handed_out_is_a_strangers_pin_and_what_came_in_is_told_as_well() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "ours");
    let export = buffer.export_foreign().expect("an fd");
    let told = of(&rig, "ours");
    assert_eq!(told.handed_out, 1);
    let [pin] = &told.pins[..] else { panic!("one pin: {told}") };
    assert_eq!((pin.device, &*pin.reason, pin.count), (None, PinReport::HANDED_OUT, 1));

    let stranger = rig.stranger();
    let theirs = rig.open_on(&stranger, &home);
    let handle = export.handle().expect("a second fd");
    let facts = handle.facts();
    // SAFETY: the facts are those of the fd, and nobody uses the memory.
    #[expect(unsafe_code, reason = "only the test knows what the fd is")]
    let imported = unsafe { stranger.import_foreign(&theirs, handle.as_fd(), facts, Some("in")) };
    let imported = imported.expect("the same driver and device");
    let report = stranger.report();
    let [told] = &report.buffers[..] else { panic!("one buffer: {report}") };
    assert!(told.imported && told.handed_out == 0, "{told}");
    drop(imported);
    drop(export);
    let told = of(&rig, "ours");
    assert_eq!((told.handed_out, told.pins.len()), (0, 0));
}

#[test]
fn fences_are_told_by_usage_until_they_signal() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let seat = buffer.attach(&peer).expect("a seat");
    fill(&seat, 1);
    assert_eq!(of(&rig, "frame").fences, [], "what is over is not told");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    let (fence, signal) = rig.engine().host_fence();
    mapping.begin_access(Access::Write).expect("current").end(fence);
    let told = of(&rig, "frame");
    let [fence] = &told.fences[..] else { panic!("one is pending: {told}") };
    assert_eq!((fence.usage, fence.device), (Usage::Write, None));
    assert!(fence.on.contains("host"), "{told}");
    assert_eq!(rig.engine().report().totals().fences, 1);
    drop(signal);
    assert_eq!(of(&rig, "frame").fences, []);
}

#[test]
fn what_was_taken_away_or_is_torn_is_told_until_it_is_good_again() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    buffer.revoke().expect("nobody holds it");
    let told = of(&rig, "frame");
    assert!(told.revoked && told.to_string().contains("revoked:"), "{told}");
    buffer.rearm().expect("nobody holds it");
    let seat = buffer.attach(&home).expect("a seat");
    let mapping = seat.map(Access::ReadWrite).expect("mapped");
    mapping.view().expect("it is good");
    let (fence, signal) = rig.engine().host_fence();
    mapping.begin_access(Access::Write).expect("current").end(fence);
    let told = of(&rig, "frame");
    assert!(!told.revoked && told.poisoned.is_none(), "{told}");
    signal.fail("the disk is full");
    let told = of(&rig, "frame");
    let cause = told.poisoned.as_deref().expect("it was told");
    assert!(cause.contains("the disk is full") && told.to_string().contains(cause), "{told}");
    assert_eq!(told.fences, [], "nobody waits for what has failed");
    assert!(matches!(mapping.view(), Err(Error::Poisoned { .. })), "the report has found it");
    buffer.accept_content().expect("nothing is under way");
    assert_eq!(of(&rig, "frame").poisoned, None);
}

#[test]
fn reports_do_not_disturb_those_who_create_move_and_drop() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let turns = if common::in_vm() { 50 } else { 300 };
    let done = AtomicBool::new(false);
    let baseline = rig.engine().live().count(Object::Buffer);
    std::thread::scope(|scope| {
        let work = || {
            for turn in 0..turns {
                let descriptor = BufferDescriptor::new(SIZE).placement(Placement::default());
                let buffer = rig.engine().create_buffer(&home, descriptor).expect("a buffer");
                let seat = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("a seat");
                let mapping = seat.map(Access::Write).expect("mapped");
                if turn % 8 == 0 {
                    buffer.migrate(DomainId::System).expect("nobody holds it");
                }
                let pin = seat.pin("work").expect("no quota");
                // The buffer's last handle may be the report's.
                drop((buffer, seat, mapping));
                drop(pin);
            }
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        let reporter = scope.spawn(|| {
            let look = || {
                let report = rig.engine().report();
                for buffer in &report.buffers {
                    assert_eq!(buffer.size, SIZE, "{buffer}");
                    assert!(buffer.pins.iter().all(|pin| pin.reason == "work"), "{buffer}");
                }
            };
            while !done.load(Ordering::Acquire) {
                look();
            }
            // However late it was.
            look();
        });
        for worker in workers {
            worker.join().expect("it works");
        }
        done.store(true, Ordering::Release);
        reporter.join().expect("it reports");
    });
    assert_eq!(rig.engine().report().buffers, []);
    assert_eq!(rig.engine().live().count(Object::Buffer), baseline);
}
