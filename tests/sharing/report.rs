//! `Engine::report`: every live buffer, its users, and what keeps it in its backing.

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

/// An importer that does not accept another device's memory.
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

/// The report's entry of the only buffer with that name.
fn of(rig: &Rig, name: &str) -> BufferReport {
    let report = rig.engine().report();
    let mut named = report.named(name);
    let buffer = named.next().expect("it is in the report").clone();
    assert_eq!(named.next(), None, "only one has this name");
    buffer
}

#[test]
fn the_report_lists_each_live_buffer_with_its_domain() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let before = rig.engine().report().totals();
    let named = create(&rig, &home, "frame");
    let unnamed = rig.engine().create_buffer(&home, BufferDescriptor::new(100)).expect("a buffer");
    let report = rig.engine().report();
    let frame = of(&rig, "frame");
    assert_eq!((frame.size, frame.generation, frame.home), (SIZE, 0, home.id()));
    assert_eq!((frame.domain, frame.provider), (named.domain(), named.provider()));
    assert!(!frame.imported && !frame.moving && frame.exports == 0);
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
    let providers = &place.expect("the domain of the buffer").providers;
    let has = |&(provider, bytes): &(_, u64)| provider == frame.provider && bytes >= SIZE;
    assert!(providers.iter().any(has), "{providers:?}");
    assert!(report.to_string().contains("frame"));
    drop((named, unnamed));
    assert_eq!(rig.engine().report().totals(), before);
}

#[test]
fn the_report_lists_attachments_mappings_and_accesses() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let fixed = buffer.attach(&home).expect("attached");
    let free = buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("attached");
    let homely = buffer.attach_dynamic(&home, Arc::new(Homely)).expect("attached");
    let mapping = free.map(Access::Read).expect("mapped");
    let attachments = of(&rig, "frame").attachments;
    let facts: Vec<_> = attachments
        .iter()
        .map(|attachment| {
            (
                attachment.device,
                attachment.dynamic,
                attachment.peer_to_peer,
                attachment.mapped,
                attachment.attached,
            )
        })
        .collect();
    assert_eq!(
        facts,
        [
            (home.id(), false, true, 0, true),
            (peer.id(), true, true, 1, true),
            (home.id(), true, false, 0, true)
        ]
    );
    assert_eq!(attachments[1].device_name, peer.name());
    drop((free, homely));
    let left = of(&rig, "frame").attachments;
    assert_eq!(left.len(), 2, "a mapping keeps its attachment");
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
fn the_report_lists_ghost_mappings_by_device() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let attachments = [&home, &peer]
        .map(|device| buffer.attach_dynamic(device, Arc::new(Indifferent)).expect("attached"));
    let old = [&attachments[1], &attachments[1], &attachments[0]]
        .map(|attachment| attachment.map(Access::Read).expect("mapped"));
    let from = buffer.domain();
    buffer.migrate(DomainId::System).expect("not busy");
    let current = attachments[0].map(Access::Read).expect("mapped");
    let entry = of(&rig, "frame");
    assert_eq!((entry.generation, entry.domain), (1, DomainId::System));
    assert_eq!(
        entry.attachments.iter().map(|attachment| attachment.mapped).collect::<Vec<_>>(),
        [1, 0]
    );
    let [ghost] = &entry.ghosts[..] else { panic!("one ghost: {entry}") };
    assert_eq!((ghost.generation, ghost.domain), (0, from));
    assert_eq!(ghost.mapped, [(home.id(), 1), (peer.id(), 2)]);
    assert_eq!(entry.mappings(), 4);
    assert_eq!(
        entry.attachments.iter().map(|attachment| attachment.mapped_before).collect::<Vec<_>>(),
        [1, 2]
    );
    assert!(entry.to_string().contains("mapped 0 × (2 × before it moved)"), "{entry}");
    let totals = rig.engine().report().totals();
    assert_eq!((totals.ghosts, totals.mappings), (1, 4));
    let [first, second, third] = old;
    drop((first, third));
    assert_eq!(of(&rig, "frame").ghosts[0].mapped, [(peer.id(), 1)]);
    // If an attachment ends and another one takes its entry, the ghost keeps its device.
    let [at_home, at_peer] = attachments;
    drop(at_peer);
    let later = buffer.attach_dynamic(&home, Arc::new(Indifferent)).expect("attached");
    assert_eq!(of(&rig, "frame").ghosts[0].mapped, [(peer.id(), 1)]);
    drop((second, current, at_home, later));
    assert_eq!(of(&rig, "frame").ghosts, []);
}

#[test]
fn the_report_lists_pins_by_device_and_reason() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let attachments = [&home, &peer].map(|device| buffer.attach(device).expect("attached"));
    let pins = || {
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
    let scanout = [(); 3].map(|()| attachments[0].pin("scanout").expect("no quota"));
    assert_eq!(pins(), [pin(&home, "scanout", 3)]);
    let rdma = attachments[1].pin("rdma").expect("no quota");
    // A reason made at run time, in addition to the usual one.
    let frame = attachments[0].pin(format!("frame {}", 7)).expect("no quota");
    assert_eq!(frame.reason(), "frame 7");
    assert_eq!(pins(), [pin(&home, "frame 7", 1), pin(&home, "scanout", 3), pin(&peer, "rdma", 1)]);
    assert_eq!(rig.engine().report().totals().pins, 5);
    assert_eq!(rig.engine().live().count(Object::Pin), 5);
    // Pins outlive their attachment.
    drop(attachments);
    drop(frame);
    let [first, second, third] = scanout;
    drop((second, third));
    assert_eq!(pins(), [pin(&home, "scanout", 1), pin(&peer, "rdma", 1)]);
    drop(rdma);
    assert_eq!(pins(), [pin(&home, "scanout", 1)]);
    drop(first);
    assert_eq!(pins(), []);
    buffer.migrate(DomainId::System).expect("not busy");
}

#[test]
fn the_report_lists_exports_as_pins_and_marks_imports() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "ours");
    let export = buffer.export_foreign().expect("an fd");
    let entry = of(&rig, "ours");
    assert_eq!(entry.exports, 1);
    let [pin] = &entry.pins[..] else { panic!("one pin: {entry}") };
    assert_eq!((pin.device, &*pin.reason, pin.count), (None, PinReport::EXPORTED, 1));

    let external = rig.external_engine();
    let theirs = rig.open_on(&external, &home);
    let handle = export.handle().expect("a second fd");
    let info = handle.info();
    // SAFETY: the `ForeignInfo` is that of the fd, and no work uses the memory.
    #[expect(unsafe_code, reason = "only the test knows what the fd is")]
    let imported = unsafe { external.import_foreign(&theirs, handle.as_fd(), info, Some("in")) };
    let imported = imported.expect("the same driver and device");
    let report = external.report();
    let [entry] = &report.buffers[..] else { panic!("one buffer: {report}") };
    assert!(entry.imported && entry.exports == 0, "{entry}");
    drop(imported);
    drop(export);
    let entry = of(&rig, "ours");
    assert_eq!((entry.exports, entry.pins.len()), (0, 0));
}

#[test]
fn the_report_lists_pending_fences_by_usage() {
    let rig = Rig::new();
    let [home, peer] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    let attachment = buffer.attach(&peer).expect("attached");
    fill(&attachment, 1);
    assert_eq!(of(&rig, "frame").fences, [], "ended work is not listed");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    let (fence, signal) = rig.engine().host_fence();
    mapping.begin_access(Access::Write).expect("current").end(fence);
    let entry = of(&rig, "frame");
    let [fence] = &entry.fences[..] else { panic!("one is pending: {entry}") };
    assert_eq!((fence.usage, fence.device), (Usage::Write, None));
    assert!(fence.on.contains("host"), "{entry}");
    assert_eq!(rig.engine().report().totals().fences, 1);
    drop(signal);
    assert_eq!(of(&rig, "frame").fences, []);
}

#[test]
fn the_report_shows_revocation_and_poison_until_they_are_cleared() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let buffer = create(&rig, &home, "frame");
    buffer.revoke().expect("not busy");
    let entry = of(&rig, "frame");
    assert!(entry.revoked && entry.to_string().contains("revoked:"), "{entry}");
    buffer.unrevoke().expect("not busy");
    let attachment = buffer.attach(&home).expect("attached");
    let mapping = attachment.map(Access::ReadWrite).expect("mapped");
    mapping.view().expect("it is good");
    let (fence, signal) = rig.engine().host_fence();
    mapping.begin_access(Access::Write).expect("current").end(fence);
    let entry = of(&rig, "frame");
    assert!(!entry.revoked && entry.poisoned.is_none(), "{entry}");
    signal.fail("the disk is full");
    let entry = of(&rig, "frame");
    let cause = entry.poisoned.as_deref().expect("the cause is listed");
    assert!(cause.contains("the disk is full") && entry.to_string().contains(cause), "{entry}");
    assert_eq!(entry.fences, [], "a failed fence is not pending");
    assert!(matches!(mapping.view(), Err(Error::Poisoned { .. })), "the report has found it");
    buffer.accept_content().expect("nothing is under way");
    assert_eq!(of(&rig, "frame").poisoned, None);
}

#[test]
fn reports_run_concurrently_with_creation_moves_and_drops() {
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
                let attachment =
                    buffer.attach_dynamic(&peer, Arc::new(Indifferent)).expect("attached");
                let mapping = attachment.map(Access::Write).expect("mapped");
                if turn % 8 == 0 {
                    buffer.migrate(DomainId::System).expect("not busy");
                }
                let pin = attachment.pin("work").expect("no quota");
                // The report may hold the last handle of the buffer.
                drop((buffer, attachment, mapping));
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
            // The last report follows all workers.
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
