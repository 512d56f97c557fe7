//! `Placement::Vram`: such a buffer is used only in its device's memory, and kept anywhere. It is evicted like any
//! other, and returns before a device uses it, or the use fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::bound::{besides, with_bound};
use crate::common::reach::{AttachCaps, can_live};
use crate::common::{LONG, Rig, bytes, wait_idle};
use peerbuf::observe::{MoveCause, What};
use peerbuf::residency::SkipReason;
use peerbuf::{
    Access, Attachment, BufferDescriptor, CopyRegion, Device, DomainId, DomainKind, Engine, Error,
    Mapping, Placement, Refault, Result, SharedBuffer,
};

const MIB: u64 = 1 << 20;

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

/// A buffer that devices may use only in the memory of the first one, with an attachment of each device, and the
/// pattern of `seed`.
struct Shared {
    buffer: SharedBuffer,
    attachments: Vec<Attachment>,
    seed: u32,
}

impl Shared {
    fn new(engine: &Engine, devices: &[Device], name: &str, seed: u32) -> Self {
        let descriptor = BufferDescriptor::new(MIB).placement(Placement::Vram).name(name);
        let buffer = engine.create_buffer(&devices[0], descriptor).expect("room is made");
        let attach = |device| {
            buffer.attach_dynamic(device, Arc::new(Refault::new())).expect("an attachment")
        };
        let shared = Self { attachments: devices.iter().map(attach).collect(), buffer, seed };
        shared.map(0, Access::Write).fill(seed).expect("a current mapping");
        wait_idle(&devices.iter().collect::<Vec<_>>());
        shared
    }

    fn map(&self, device: usize, access: Access) -> Mapping {
        self.attachments[device].map(access).expect("it returns")
    }

    /// Checks the pattern by a device, and that the use was in the device's memory.
    fn check(&self, device: usize, what: &str) {
        let mapping = self.map(device, Access::Read);
        let report = mapping.verify(self.seed).expect("a current mapping");
        assert!(report.is_clean(), "{what}: {report:?}");
        assert_eq!(self.buffer.domain().kind(), DomainKind::Vram, "{what}");
    }

    fn evict(&self) {
        self.buffer.evict().expect("not held");
        assert_eq!(self.buffer.domain(), DomainId::System);
    }

    /// The bytes as the host reads them.
    fn bytes(&self) -> Vec<u8> {
        bytes::read(&self.buffer)
    }
}

/// Two devices of each adapter. The buffers are in the memory of the first.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    rig.all()
        .into_iter()
        .map(|first| {
            let second = rig.open(&first.adapter().clone());
            [first, second]
        })
        .collect()
}

fn assert_unplugged<R>(result: Result<R>) {
    let error = result.map(drop).expect_err("the device is unplugged");
    assert!(error.is_device_lost(), "{error}");
}

#[test]
fn pressure_evicts_idle_buffers_and_a_use_returns_them() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let all: Vec<_> =
            (0..5).map(|seed| Shared::new(engine, &devices, &format!("b{seed}"), seed)).collect();
        let inside = || all.iter().filter(|s| s.buffer.domain() == vram(&devices[0])).count();
        assert_eq!(inside(), 2, "the others were evicted");
        let old: Vec<_> = all.iter().map(|shared| shared.map(1, Access::Read)).collect();
        for round in 0..3 {
            for shared in &all {
                shared.check(round % 2, &shared.buffer.name());
                assert!(engine.usage(vram(&devices[0])).expect("of this engine").used <= 2 * MIB);
            }
        }
        let stale = |mapping: &Mapping| matches!(mapping.view(), Err(Error::Stale { .. }));
        assert!(old.iter().all(stale), "no old mapping names the memory of another buffer");
        // A smaller cap evicts them too.
        let eviction = engine.set_cap(vram(&devices[0]), Some(0)).expect("of this engine");
        assert_eq!((eviction.bytes, inside()), (2 * MIB, 0), "{:?}", eviction.stayed);
        engine.set_cap(vram(&devices[0]), None).expect("of this engine");
        drop(old);
    }
}

#[test]
fn evict_all_evicts_buffers_of_every_placement() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let all: Vec<_> = (0..3).map(|seed| Shared::new(engine, &devices, "only", seed)).collect();
        let before: Vec<_> = all.iter().map(Shared::bytes).collect();
        let eviction = engine.evict_all(&devices[0]).expect("of this engine");
        assert_eq!((eviction.bytes, eviction.stayed.is_empty()), (3 * MIB, true), "{eviction:?}");
        assert_eq!(engine.usage(vram(&devices[0])).expect("of this engine").held, 0);
        for (shared, before) in all.iter().zip(&before) {
            bytes::assert_same(&shared.bytes(), before, "where it is kept");
            assert_eq!(shared.buffer.domain(), DomainId::System, "the host moves nothing");
            shared.check(1, "used");
            let explained = shared.buffer.explain();
            assert_eq!(explained.decisions[0].what, What::Restored, "{explained}");
        }
        engine.evict_all(&devices[0]).expect("of this engine");
        assert_eq!(engine.restore(&devices[0]).expect("of this engine"), 3, "on request, too");
    }
}

/// Each use by a device moves the buffer first. The options of residency allow no restore at all.
#[test]
fn every_use_by_a_device_returns_the_buffer_first() {
    let rig = Rig::with(|descriptor| {
        descriptor.residency(peerbuf::ResidencyOptions::new().bytes_per_submission(0))
    });
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let shared = Shared::new(engine, &devices, "only", 5);
        let other = Shared::new(engine, &devices, "other", 6);
        let mut mapping = shared.map(1, Access::ReadWrite);
        let mut target = other.map(1, Access::Write);
        let (buffer, attachment) = (&shared.buffer, &shared.attachments[1]);
        let returned = |what: &str| assert_eq!(buffer.domain(), vram(&devices[0]), "{what}");
        shared.evict();
        drop(attachment.map(Access::Read).expect("it returns"));
        returned("map");
        shared.evict();
        attachment.remap(&mut mapping).expect("it returns");
        returned("remap");
        shared.evict();
        buffer.remap_all(&mut [(attachment, &mut mapping)]).expect("it returns");
        returned("remap_all");
        shared.evict();
        assert!(attachment.verify_remapped(&mut mapping, 5).expect("it returns").is_clean());
        returned("verify_remapped");
        shared.evict();
        attachment.fill_remapped(&mut mapping, 5).expect("it returns");
        attachment.checksum_remapped(&mut mapping).expect("in place");
        returned("fill_remapped");
        shared.evict();
        let pair = (&other.attachments[1], &mut target);
        attachment.copy_to_remapped(&mut mapping, pair).expect("it returns");
        returned("copy_to_remapped");
        shared.evict();
        drop(attachment.pin("scanout").expect("it returns"));
        returned("pin");
        shared.evict();
        let submitted =
            engine.submit_remapped(&devices[1], &mut [(attachment, &mut mapping)], |s, current| {
                s.read(current[0]).map(drop)
            });
        submitted.and_then(|fence| fence.wait(LONG)).expect("it returns");
        returned("submit_remapped");
        shared.evict();
        drop(buffer.export_foreign().expect("it returns"));
        returned("export_foreign");
        shared.evict();
        buffer.relocate().expect("not held");
        assert_eq!(buffer.domain(), DomainId::System, "within the domain where it is kept");
        shared.check(0, "after a move within system memory");
        shared.evict();
        // The host and copies find the bytes where they are.
        shared.bytes();
        let copied = engine.copy(buffer, &other.buffer, CopyRegion::first(MIB));
        copied.and_then(|fence| fence.wait(LONG)).expect("copied");
        assert_eq!(buffer.domain(), DomainId::System);
        // A requested move overrides the placement.
        buffer.migrate(DomainId::System).expect("not held");
        assert!(attachment.verify_remapped(&mut mapping, 5).expect("in place").is_clean());
        assert_eq!(buffer.domain(), DomainId::System);
        drop((mapping, target));
    }
}

/// The documented way to remove a device that works.
#[test]
fn unplug_after_evict_all_loses_no_buffer_of_any_placement() {
    for (nth, to_system) in [(0, true), (1, false)] {
        let rig = Rig::new();
        let engine = rig.engine();
        let devices = pairs(&rig).remove(nth);
        let shared = Shared::new(engine, &devices, "only", 3);
        let before = shared.bytes();
        engine.evict_all(&devices[0]).expect("of this engine");
        let report = engine.unplug(&devices[0]).expect("of this engine");
        assert_eq!((report.promoted, report.lost), (0, 0));
        bytes::assert_same(&shared.bytes(), &before, "where it is kept");
        let other =
            engine.create_buffer(&devices[1], BufferDescriptor::new(MIB)).expect("a buffer");
        let copied = engine.copy(&shared.buffer, &other, CopyRegion::first(MIB));
        copied.and_then(|fence| fence.wait(LONG)).expect("copied");
        bytes::assert_same(&bytes::read(&other), &before, "copied");
        // Devices may not use it where it is.
        assert_unplugged(shared.attachments[1].map(Access::Read));
        assert_unplugged(shared.attachments[1].pin("scanout"));
        assert_unplugged(shared.buffer.export_foreign());
        assert_unplugged(shared.buffer.attach_dynamic(&devices[1], Arc::new(Refault::new())));
        assert_unplugged(shared.buffer.request_residency());
        assert_eq!(shared.buffer.domain(), DomainId::System);
        // Until the application says where.
        let to = if to_system { DomainId::System } else { vram(&devices[1]) };
        shared.buffer.migrate(to).expect("not held");
        let report = shared.map(1, Access::Read).verify(3).expect("a current mapping");
        assert!(report.is_clean() && shared.buffer.domain() == to, "{report:?}");
        drop(shared);
    }
}

#[test]
fn a_buffer_with_a_clean_copy_survives_the_unplug_as_that() {
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = pairs(&rig).remove(0);
    let shared = Shared::new(engine, &devices, "only", 4);
    let before = shared.bytes();
    shared.evict();
    shared.check(1, "returned, with a clean copy");
    wait_idle(&[&devices[0], &devices[1]]);
    let report = engine.unplug(&devices[0]).expect("of this engine");
    assert_eq!((report.promoted, report.lost), (1, 0));
    bytes::assert_same(&shared.bytes(), &before, "its clean copy");
    assert_unplugged(shared.attachments[1].map(Access::Read));
    drop(shared);
}

#[test]
fn a_use_without_room_fails_with_the_names_of_what_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let [shared, first, second] =
            ["wanted", "first", "second"].map(|name| Shared::new(engine, &devices, name, 9));
        shared.evict();
        let pins: Vec<_> = [&first, &second]
            .map(|pinned| pinned.attachments[0].pin("scanout").expect("pinned"))
            .into_iter()
            .collect();
        let generation = shared.buffer.generation();
        let error = shared.attachments[1].map(Access::Read).expect_err("both are pinned");
        let Error::OutOfMemory { domain, failures, .. } = &error else { panic!("{error:?}") };
        assert_eq!(*domain, vram(&devices[0]));
        let mut named: Vec<_> = failures.buffers().collect();
        named.sort_unstable_by_key(|(name, _)| name.to_owned());
        assert_eq!(named, [("first", SkipReason::Pinned), ("second", SkipReason::Pinned)]);
        assert_eq!(failures.needed_by(), Some("wanted"));
        let text = error.to_string();
        for part in ["first", "second", "wanted", "scanout"] {
            assert!(text.contains(part), "{text}");
        }
        let error = shared.attachments[1].pin("scanout").expect_err("both are pinned");
        assert!(error.is_out_of_memory(), "{error}");
        assert_eq!(shared.buffer.domain(), DomainId::System);
        assert_eq!(shared.buffer.generation(), generation, "nothing has changed");
        drop(pins);
        shared.check(1, "with room");
    }
}

/// All that could be evicted has work of the host that never ends.
#[test]
fn a_use_waits_for_busy_buffers_for_at_most_one_timeout() {
    with_bound(|rig, _| {
        let engine = rig.engine();
        let devices = rig.two_of_one_adapter();
        engine.model_heap(&devices[0], MIB).expect("of this engine");
        let [shared, busy] =
            besides(|| ["wanted", "busy"].map(|name| Shared::new(engine, &devices, name, 2)));
        assert_eq!(shared.buffer.domain(), DomainId::System);
        let (fence, signal) = engine.host_fence();
        let mapping = besides(|| busy.map(0, Access::Write));
        mapping.begin_access(Access::Write).expect("current").end(fence);
        // Any other error is one of a step before that wait.
        let failures = besides(|| match shared.attachments[1].map(Access::Read).map(drop) {
            Err(Error::OutOfMemory { failures, .. }) => failures,
            other => panic!("the other is busy: {other:?}"),
        });
        let named: Vec<_> = failures.buffers().collect();
        assert_eq!(named, [("busy", SkipReason::Busy)], "{failures}");
        drop((signal, mapping));
        besides(|| shared.check(1, "the other is idle"));
    });
}

#[test]
fn buffers_of_one_submission_that_do_not_fit_together_fail_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let [one, two] = ["one", "two"].map(|name| Shared::new(engine, &devices, name, 1));
        let mut mappings = [&one, &two].map(|shared| shared.map(1, Access::ReadWrite));
        engine.model_heap(&devices[0], MIB).expect("of this engine");
        let evicted = engine.moved(MoveCause::Evicted).moves;
        let assert_named = |error: Error| {
            let Error::OutOfMemory { failures, .. } = &error else { panic!("{error:?}") };
            let kept: Vec<_> = failures.buffers().collect();
            let [(kept, SkipReason::UsedTogether)] = *kept else { panic!("{error}") };
            let mut names = [Some(kept), failures.needed_by()];
            names.sort_unstable();
            assert_eq!(names, [Some("one"), Some("two")], "{error}");
        };
        let [first, second] = &mut mappings;
        let submitted = engine.submit_remapped(
            &devices[1],
            &mut [(&one.attachments[1], &mut *first), (&two.attachments[1], &mut *second)],
            |submission, current| {
                current.iter().try_for_each(|mapping| submission.read(mapping).map(drop))
            },
        );
        assert_named(submitted.map(drop).expect_err("they do not fit"));
        let copied = one.attachments[1].copy_to_remapped(first, (&two.attachments[1], second));
        assert_named(copied.expect_err("they do not fit"));
        let moves = engine.moved(MoveCause::Evicted).moves - evicted;
        assert!(moves <= 2, "one was not evicted again and again for the other: {moves}");
        // One after the other they fit.
        for shared in [&one, &two, &one] {
            shared.check(1, "alone");
        }
        engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
        let [first, second] = &mut mappings;
        let copied = one.attachments[1].copy_to_remapped(first, (&two.attachments[1], second));
        copied.expect("both fit");
        drop(mappings);
    }
}

/// Two threads whose buffers do not fit at the same time: each evicts those of the other, and both make progress.
#[test]
fn threads_that_evict_each_others_buffers_make_progress() {
    const ROUNDS: usize = 30;
    let rig = Rig::new();
    let engine = rig.engine();
    let devices = rig.two_of_one_adapter();
    engine.model_heap(&devices[0], 2 * MIB).expect("of this engine");
    let all: Vec<_> =
        (0..4).map(|seed| Shared::new(engine, &devices, &format!("b{seed}"), seed)).collect();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for own in all.chunks(2) {
            let (done, devices) = (&done, &devices);
            scope.spawn(move || {
                let mut mappings = [0, 1].map(|nth| own[nth].map(1, Access::Read));
                for _ in 0..ROUNDS {
                    let [first, second] = &mut mappings;
                    let submitted = engine.submit_remapped(
                        &devices[1],
                        &mut [(&own[0].attachments[1], first), (&own[1].attachments[1], second)],
                        |submission, current| {
                            current.iter().try_for_each(|m| submission.read(m).map(drop))
                        },
                    );
                    drop(submitted.expect("the other thread's buffers can be evicted"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), 2 * ROUNDS);
    all.iter().for_each(|shared| shared.check(0, "at the end"));
}

#[test]
fn a_device_that_cannot_reach_the_memory_cannot_attach_while_the_buffer_is_evicted() {
    let rig = Rig::new();
    let Some([lavapipe, swiftshader]) = rig.two_drivers() else { return };
    let engine = rig.engine();
    for [home, peer] in [[&lavapipe, &swiftshader], [&swiftshader, &lavapipe]] {
        let shared = Shared::new(engine, std::slice::from_ref(home), "only", 1);
        let caps = AttachCaps { device: peer, peer_to_peer: true };
        if can_live(engine, home, DomainKind::Vram, &[caps]) {
            continue;
        }
        let attach = || shared.buffer.attach_dynamic(peer, Arc::new(Refault::new()));
        let assert_refused = |what: &str| {
            let error = attach().map(drop).expect_err(what);
            assert!(matches!(error, Error::Unreachable { .. }), "{what}: {error}");
        };
        assert_refused("in device memory");
        shared.evict();
        assert_refused("evicted");
        assert_eq!(shared.buffer.domain(), DomainId::System, "a refused attach moves nothing");
        // Its own device can attach again, which is no use yet.
        let again = shared.buffer.attach(home).expect("its own buffer");
        assert_eq!(shared.buffer.domain(), DomainId::System);
        drop(again.map(Access::Read).expect("it returns"));
        assert_eq!(shared.buffer.domain(), vram(home));
    }
}

#[test]
fn a_host_access_of_an_evicted_buffer_keeps_it_from_returning() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        let shared = Shared::new(engine, &devices, "only", 7);
        shared.evict();
        let access = shared.buffer.host_access(Access::Read).expect("opened");
        let error = shared.attachments[1].map(Access::Read).expect_err("the host reads it");
        assert!(matches!(error, Error::Busy { host: 1, .. }), "{error}");
        drop(access);
        shared.check(1, "the access has ended");
        // Bytes that the host writes where the buffer is kept return with it.
        shared.evict();
        bytes::write(&shared.buffer, 8);
        drop(shared.map(1, Access::Read));
        assert_eq!(shared.buffer.domain(), vram(&devices[0]));
        bytes::assert_sequence(&shared.buffer, 8, "returned");
    }
}

#[test]
fn a_placement_does_not_count_against_the_pin_quota() {
    let rig = Rig::new();
    let engine = rig.engine();
    for devices in pairs(&rig) {
        devices.iter().for_each(|device| engine.set_pin_quota(device, 0).expect("ours"));
        let shared = Shared::new(engine, &devices, "only", 7);
        shared.evict();
        shared.check(1, "without a quota");
        let error = shared.attachments[1].pin("scanout").expect_err("no quota");
        assert!(matches!(error, Error::PinQuota { .. }), "{error}");
    }
}
