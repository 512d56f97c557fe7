//! Buffers that may lose their content: caches. When their place is needed they do, and whoever uses them
//! is told so, and never sees bytes of before, or of somebody else.
//!
//! Upstream: `ttm_bo_validate_no_placement_signaled` (TV-11), `ttm_bo_validate_no_placement_not_signaled`
//! (TV-12), `ttm_bo_validate_evict_gutting` (TV-21), `xe_bo_shrink_kunit` (purgeable ones first).

mod races;
mod room;

use std::sync::{Arc, Mutex};

use crate::common::gate::Gate;
use crate::common::{self, LONG, Rig, bytes};
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, Reason, What};
use peerbuf::residency::Kept;
use peerbuf::{
    Access, BufferDescriptor, CopyRegion, Device, DomainId, Engine, Error, Importer, Invalidation,
    InvalidationCause, Migration, Placement, Priority, Refault, SharedBuffer,
};

const SIZE: u64 = 1 << 20;
const NAME: &str = "cache";

fn vram(device: &Device) -> DomainId {
    DomainId::Vram(device.id())
}

fn plain(name: &str) -> BufferDescriptor {
    BufferDescriptor::new(SIZE).name(name)
}

fn cache(engine: &Engine, home: &Device) -> SharedBuffer {
    engine.create_buffer(home, plain(NAME).discardable()).expect("somewhere")
}

fn used(engine: &Engine, domain: DomainId) -> u64 {
    engine.usage(domain).expect("ours").used
}

fn purged<T: std::fmt::Debug>(result: peerbuf::Result<T>) -> bool {
    matches!(result, Err(Error::Purged { buffer }) if buffer == NAME)
}

/// Two devices of every adapter.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    let twin = |first: Device| {
        let second = rig.open(&first.adapter().clone());
        [first, second]
    };
    rig.all().into_iter().map(twin).collect()
}

/// Notes causes and generations.
#[derive(Default)]
struct Told(Mutex<Vec<(InvalidationCause, u32)>>);

impl Importer for Told {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let told = (invalidation.cause(), invalidation.generation());
        self.0.lock().expect("nobody panics").push(told);
    }
}

#[test]
fn every_use_of_a_purged_buffer_is_a_typed_error() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let buffer = cache(engine, &home);
        bytes::write(&buffer, 1);
        let importer = || Arc::new(Refault::new()) as Arc<dyn Importer>;
        let seat = buffer.attach_dynamic(&home, importer()).expect("a seat");
        let old = seat.map(Access::ReadWrite).expect("mapped");
        old.view().expect("in place");
        drop(seat.pin("scanout").expect("nobody minds"));
        let other = engine.create_buffer(&home, plain("other")).expect("a buffer");
        let other_seat = other.attach(&home).expect("a seat");
        let other_mapping = other_seat.map(Access::ReadWrite).expect("mapped");
        let generation = buffer.generation();
        assert_eq!(
            buffer.evict().expect("nobody holds it"),
            Migration::Done { generation: generation + 1 }
        );
        assert!(buffer.is_purged() && buffer.is_purgeable());
        assert_eq!(buffer.generation(), generation + 1);

        // What was mapped.
        assert!(purged(old.view()), "view");
        assert!(purged(old.fill(1)) && purged(old.verify(1)) && purged(old.checksum()), "passes");
        assert!(purged(old.copy_to(&other_mapping)) && purged(other_mapping.copy_to(&old)), "pass");
        assert!(purged(old.begin_access(Access::Read).map(|_| ())), "an own submission");
        let old = Arc::new(old);
        assert!(purged(old.own_buffer(ash::vk::BufferUsageFlags::TRANSFER_DST)), "own buffer");
        let mut old = Arc::into_inner(old).expect("nobody else has it");
        assert!(purged(engine.submit(&home, |work| work.read(&old).map(|_| ()))), "submit");
        assert!(purged(engine.submit(&home, |work| work.unordered(&old).map(|_| ()))), "unordered");
        let remapped = engine.submit_remapped(&home, &mut [(&seat, &mut old)], |work, mappings| {
            work.write(mappings[0]).map(|_| ())
        });
        assert!(purged(remapped), "submit, remapped");
        assert!(purged(seat.remap(&mut old)), "remap");
        assert!(purged(buffer.remap_all(&mut [(&seat, &mut old)])), "remap all");
        // Whoever comes.
        assert!(purged(seat.map(Access::Read)), "map");
        assert!(purged(seat.pin("scanout").map(|_| ())), "a pin as before");
        assert!(purged(seat.pin("rdma").map(|_| ())), "a pin for a new reason");
        assert!(purged(buffer.attach(&peer)), "attach");
        assert!(purged(buffer.attach_dynamic(&peer, importer())), "attach with an importer");
        for access in [Access::Read, Access::Write, Access::ReadWrite] {
            assert!(purged(buffer.host_access(access)), "host access to {access}");
        }
        for len in [64, SIZE] {
            let copy = |from, to| engine.copy(from, to, CopyRegion::first(len)).map(|_| ());
            assert!(purged(copy(&buffer, &other)) && purged(copy(&other, &buffer)), "copy");
        }
        assert!(purged(buffer.export_foreign()), "export");
        assert!(purged(buffer.import_foreign_fences()), "strangers' fences");
        assert!(purged(buffer.export_foreign_fences()), "fences for strangers");
        // Whoever moves it.
        for to in [DomainId::System, vram(&home), vram(&peer)] {
            assert!(purged(buffer.migrate(to)), "migrate to {to}");
            let many = engine.migrate_many(&[(&buffer, to)]).remove(0);
            assert!(purged(many), "migrate many to {to}");
        }
        assert!(purged(buffer.relocate()) && purged(buffer.request_residency()), "moves");
        assert!(purged(buffer.evict()), "evict once more");
        assert!(purged(buffer.accept_content()) && !buffer.is_poisoned(), "nothing to accept");
        assert_eq!(buffer.generation(), generation + 1, "none of them has moved it");

        let error = buffer.host_access(Access::Read).map(|_| ()).expect_err("purged");
        assert!(!error.is_retryable() && error.to_string().contains(NAME), "{error}");
        let report = engine.report();
        let told = report.named(NAME).next().expect("alive");
        assert!(told.purged && report.to_string().contains("purged:"), "{report}");
        assert_eq!(told.fences, [], "none of those who were refused has left a fence");
        assert!(format!("{buffer:?}").contains(NAME));
        assert_eq!(buffer.provider().domain(), vram(&home), "where it was");

        buffer.renew().expect("there is room");
        assert!(matches!(old.view(), Err(Error::Stale { .. })), "old mappings stay old");
        seat.remap(&mut old).expect("it is there again");
        assert!(old.view().is_ok() && !buffer.is_purged());
        drop(seat.pin("scanout").expect("it is there again"));
        bytes::assert_zero(&buffer, "renewed");
    }
}

/// TV-11: usage is nothing, nothing was moved, and the next content is zeros.
#[test]
fn the_content_is_gone_and_zeros_come_after_it() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        for placement in [Placement::VramOrSystem, Placement::System] {
            let descriptor =
                plain(NAME).discardable().priority(Priority::High).placement(placement);
            let buffer = engine.create_buffer(&home, descriptor.clone()).expect("a buffer");
            assert_eq!(buffer.descriptor(), descriptor);
            let domain = buffer.domain();
            let seat = buffer.attach(&peer).expect("a seat");
            let before = used(engine, domain);
            common::fill(&seat, 3);
            common::wait_idle(&[&home, &peer]);
            let moved = MoveCause::ALL.map(|cause| engine.moved(cause));
            buffer.evict().expect("nobody holds it");
            assert_eq!(used(engine, domain), before - SIZE, "at once");
            assert_eq!(MoveCause::ALL.map(|cause| engine.moved(cause)), moved, "no bytes moved");
            // Its memory is somebody else's meanwhile, and that is nobody's business.
            let squatters: Vec<_> = (0..4)
                .map(|seed| {
                    let other = plain("squatter").placement(placement);
                    let other = engine.create_buffer(&home, other).expect("a buffer");
                    bytes::write(&other, seed);
                    other
                })
                .collect();
            drop(squatters);
            buffer.renew().expect("there is room");
            buffer.renew().expect("and nothing happens");
            assert_eq!((buffer.domain(), used(engine, domain)), (domain, before));
            let mapping = seat.map(Access::ReadWrite).expect("it is there");
            let source = engine.create_buffer(&peer, plain("zeros")).expect("a buffer");
            let zeros = source.attach(&peer).expect("a seat");
            let zeros = zeros.map(Access::Read).expect("mapped").checksum().expect("a pass");
            assert_eq!(mapping.checksum().expect("a pass"), zeros, "{}", peer.name());
            mapping.fill(8).expect("a pass");
            assert!(mapping.verify(8).expect("a pass").is_clean());
            drop(mapping);
            assert!(buffer.is_purgeable(), "as before");
            buffer.evict().expect("and again");
            assert!(buffer.is_purged());
        }
    }
}

/// Does `work` while gates are shut, which open when `work` is done or waits for a device.
fn while_shut<R: Send>(engine: &Engine, gates: [Gate; 2], work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let waits = || engine.calls().made(Call::WaitSemaphores);
        let before = waits();
        let worker = scope.spawn(work);
        while !worker.is_finished() && waits() == before {
            std::thread::yield_now();
        }
        gates.into_iter().for_each(Gate::open);
        worker.join().expect("no panic")
    })
}

/// TV-12: whoever is at work on the old place keeps it, and nobody waits for that.
#[test]
fn a_device_at_work_keeps_the_old_place() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let buffer = cache(engine, &home);
        bytes::write(&buffer, 5);
        let target = engine.create_buffer(&peer, plain("target")).expect("a buffer");
        let region = CopyRegion::first(SIZE);
        // Once, so that everything is there that it takes.
        let copied = engine.copy(&buffer, &target, region).expect("a copy");
        copied.wait(LONG).expect("done");
        bytes::write(&target, 6);
        common::wait_idle(&[&home, &peer]);
        engine.trim();
        let domain = vram(&home);
        let before = used(engine, domain);
        let gates = [Gate::close(&home), Gate::close(&peer)];
        let copied = engine.copy(&buffer, &target, region).expect("a copy");
        buffer.evict().expect("nobody holds it");
        assert!(buffer.is_purged());
        assert!(!copied.is_signalled().expect("nothing is lost"), "nobody has waited for it");
        assert_eq!(used(engine, domain), before, "the copy reads it");
        // Nobody gets that memory, and the buffer has another place.
        let squatters = while_shut(engine, gates, || {
            let settle = |seed| {
                let other = engine.create_buffer(&home, plain("squatter")).expect("a buffer");
                bytes::write(&other, seed);
                other
            };
            let squatters: Vec<_> = (100..108).map(settle).collect();
            buffer.renew().expect("there is room");
            bytes::write(&buffer, 7);
            squatters
        });
        bytes::assert_sequence(&target, 5, "what was copied");
        bytes::assert_sequence(&buffer, 7, "what was written after the purge");
        for (other, seed) in squatters.iter().zip(100..) {
            bytes::assert_sequence(other, seed, "a squatter");
        }
        drop(squatters);
        common::wait_idle(&[&home, &peer]);
        engine.trim();
        assert_eq!(used(engine, domain), before, "given back when the copy had ended");
    }
}

/// A revocation waits for what runs on the place that a purge has left.
#[test]
fn a_purged_buffer_can_be_revoked_and_armed_again() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let buffer = cache(engine, &home);
        let told = Arc::new(Told::default());
        let seat = buffer.attach_dynamic(&peer, Arc::clone(&told) as _).expect("a seat");
        buffer.evict().expect("nobody holds it");
        buffer.revoke().expect("nobody looks at it");
        assert!(matches!(buffer.renew(), Err(Error::Revoked { .. })));
        assert!(matches!(seat.map(Access::Read), Err(Error::Revoked { .. })));
        assert!(matches!(buffer.evict(), Err(Error::Revoked { .. })));
        assert_eq!(engine.report().named(NAME).map(|told| told.revoked).next(), Some(true));
        buffer.rearm().expect("nobody looks at it");
        assert!(purged(seat.map(Access::Read)), "armed, and still purged");
        buffer.renew().expect("there is room");
        common::fill(&seat, 2);
        common::assert_pattern(&seat, 2, "renewed");
        let told = told.0.lock().expect("nobody panics").clone();
        assert_eq!(told, [(InvalidationCause::Purge, 0), (InvalidationCause::Revoke, 1)]);
        // While it is revoked it keeps its content.
        buffer.revoke().expect("nobody looks at it");
        assert!(matches!(buffer.evict(), Err(Error::Revoked { .. })));
        let eviction = engine.evict_all(&home).expect("ours");
        assert!(eviction.stayed.bytes(Kept::Failed) >= SIZE, "{eviction:?}");
        buffer.rearm().expect("nobody looks at it");
        common::assert_pattern(&seat, 2, "armed again");
    }
}

#[test]
fn who_is_held_stays() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        let buffer = cache(engine, &home);
        bytes::write(&buffer, 1);
        let seat = buffer.attach(&home).expect("a seat");
        let stays = |why: Kept, what: &str| {
            assert!(matches!(buffer.evict(), Err(Error::Busy { .. })), "{what}");
            let eviction = engine.evict_all(&home).expect("ours");
            assert_eq!((eviction.bytes, eviction.stayed.bytes(why)), (0, SIZE), "{what}");
            assert!(!buffer.is_purged(), "{what}");
        };
        let mapping = seat.map(Access::Read).expect("mapped");
        stays(Kept::Held, "mapped by somebody who cannot be told");
        drop(mapping);
        let pin = seat.pin("scanout").expect("pinned");
        stays(Kept::Pinned, "pinned");
        drop(pin);
        let access = buffer.host_access(Access::Read).expect("opened");
        stays(Kept::Held, "under host access");
        drop(access);
        let export = buffer.export_foreign().expect("handed out");
        stays(Kept::Pinned, "handed out");
        drop(export);
        bytes::assert_sequence(&buffer, 1, "after all that");
        let eviction = engine.evict_all(&home).expect("ours");
        assert_eq!((eviction.bytes, buffer.is_purged()), (SIZE, true), "nobody holds it");
    }
}

#[test]
fn poison_goes_with_the_content() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    for late in [false, true] {
        let buffer = cache(engine, &home);
        let seat = buffer.attach_dynamic(&peer, Arc::new(Refault::new())).expect("a seat");
        let mapping = seat.map(Access::Write).expect("mapped");
        let (fence, signal) = engine.host_fence();
        mapping.begin_access(Access::Write).expect("current").end(fence);
        let mut signal = Some(signal);
        let mut fail = || signal.take().expect("once").fail("the decoder gave up");
        if !late {
            fail();
            assert!(buffer.is_poisoned());
        }
        buffer.evict().expect("nobody holds it, and nobody waits for anything");
        buffer.renew().expect("there is room");
        if late {
            // What fails now was to write the old place.
            fail();
        }
        assert!(!buffer.is_poisoned(), "late: {late}");
        bytes::assert_zero(&buffer, "renewed");
        drop(mapping);
    }
}

#[test]
fn a_purged_buffer_says_why() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        engine.model_heap(&home, SIZE).expect("ours");
        let buffer = cache(engine, &home);
        let wants = engine.create_buffer(&home, plain("frame")).expect("the cache goes");
        let explained = buffer.explain();
        assert!(explained.purged && explained.domain == vram(&home));
        let decision = explained.decisions[0];
        assert_eq!(decision.what, What::Purged);
        assert!(
            matches!(decision.reason, Reason::Wanted { bytes: SIZE, by: Some(_), .. }),
            "{decision:?}"
        );
        let text = explained.to_string();
        assert!(text.contains("cache is nowhere: its content was dropped from VRAM"), "{text}");
        assert!(text.contains("purged from VRAM of"), "{text}");
        assert!(text.contains("1 MiB were needed by \"frame\""), "{text}");
        drop(wants);
        buffer.renew().expect("there is room");
        let explained = buffer.explain();
        assert_eq!((explained.purged, explained.decisions[0].what), (false, What::Placed));
        buffer.evict().expect("nobody holds it");
        let explained = buffer.explain();
        assert_eq!(explained.decisions[0].reason, Reason::Asked, "{explained}");
    }
}

#[test]
fn a_strangers_bytes_are_not_ours_to_drop() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let stranger = rig.stranger();
    let theirs = rig.open_on(&stranger, &home);
    let made = stranger.create_buffer(&theirs, plain("theirs")).expect("a buffer");
    let export = made.export_foreign().expect("handed out");
    let handle = export.handle().expect("a second fd");
    #[expect(unsafe_code, reason = "an fd of another engine, with its facts")]
    // SAFETY: the facts came with the fd, and the other engine does not use the memory meanwhile.
    let taken = unsafe {
        use std::os::fd::AsFd;
        rig.engine().import_foreign(&home, handle.as_fd(), handle.facts(), Some(NAME))
    };
    let taken = taken.expect("taken in");
    assert!(matches!(taken.set_purgeable(true), Err(Error::Unsupported { .. })));
    assert!(!taken.is_purgeable());
    drop((taken, handle, export, made, theirs, stranger));
}

/// There is room, but somebody who has sat down meanwhile could not follow it there.
#[test]
fn renewed_elsewhere_it_says_that_it_could_not_be_shared_there() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let descriptor = plain(NAME).peer_to_peer(false);
        let buffer = engine.create_buffer(&home, descriptor).expect("somewhere");
        bytes::write(&buffer, 1);
        buffer.evict().expect("nobody holds it");
        let seat = buffer.attach_dynamic(&peer, Arc::new(Refault::new())).expect("a seat");
        assert_eq!(buffer.explain().wanted, vram(&home));
        buffer.set_purgeable(true).expect("ours");
        buffer.evict().expect("nobody holds it");
        assert!(buffer.is_purged());
        buffer.renew().expect("in system memory");
        let explained = buffer.explain();
        assert_eq!(buffer.domain(), DomainId::System, "{explained}");
        assert_eq!(explained.decisions[0].what, What::FellBack, "{explained}");
        assert_eq!(explained.decisions[0].reason, Reason::NotShareable, "{explained}");
        drop(seat);
    }
}
