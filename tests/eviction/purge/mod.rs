//! Purgeable buffers: caches that lose their content when their memory is needed. Every later use is refused with
//! a typed error, and never sees old bytes or those of another buffer.
//!
//! Upstream: `ttm_bo_validate_no_placement_signaled` (TV-11), `ttm_bo_validate_no_placement_not_signaled`
//! (TV-12), `ttm_bo_validate_evict_gutting` (TV-21), `xe_bo_shrink_kunit` (purgeable ones first).

mod races;
mod room;

use std::sync::{Arc, Mutex};

use crate::common::gate::Gate;
use crate::common::until::until;
use crate::common::{self, LONG, Rig, bytes};
use peerbuf::device::Call;
use peerbuf::observe::{MoveCause, Reason, What};
use peerbuf::residency::SkipReason;
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
    engine.create_buffer(home, plain(NAME).discardable()).expect("a buffer")
}

fn used(engine: &Engine, domain: DomainId) -> u64 {
    engine.usage(domain).expect("of this engine").used
}

fn purged<T: std::fmt::Debug>(result: peerbuf::Result<T>) -> bool {
    matches!(result, Err(Error::Purged { buffer, .. }) if buffer == NAME)
}

/// Two devices of every adapter.
fn pairs(rig: &Rig) -> Vec<[Device; 2]> {
    let twin = |first: Device| {
        let second = rig.open(&first.adapter().clone());
        [first, second]
    };
    rig.all().into_iter().map(twin).collect()
}

/// Records causes and generations of notifications.
#[derive(Default)]
struct Notifications(Mutex<Vec<(InvalidationCause, u32)>>);

impl Importer for Notifications {
    fn invalidate_mappings(&self, invalidation: &Invalidation<'_>) {
        let notified = (invalidation.cause(), invalidation.generation());
        self.0.lock().expect("not poisoned").push(notified);
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
        let attachment = buffer.attach_dynamic(&home, importer()).expect("an attachment");
        let old = attachment.map(Access::ReadWrite).expect("mapped");
        old.view().expect("a current mapping");
        drop(attachment.pin("scanout").expect("not yet purged"));
        let other = engine.create_buffer(&home, plain("other")).expect("a buffer");
        let other_attachment = other.attach(&home).expect("an attachment");
        let other_mapping = other_attachment.map(Access::ReadWrite).expect("mapped");
        let generation = buffer.generation();
        assert_eq!(
            buffer.evict().expect("not held"),
            Migration::Done { generation: generation + 1 }
        );
        assert!(buffer.is_purged() && buffer.is_purgeable());
        assert_eq!(buffer.generation(), generation + 1);

        // Uses of earlier mappings.
        assert!(purged(old.view()), "view");
        assert!(purged(old.fill(1)) && purged(old.verify(1)) && purged(old.checksum()), "passes");
        assert!(purged(old.copy_to(&other_mapping)) && purged(other_mapping.copy_to(&old)), "pass");
        assert!(purged(old.begin_access(Access::Read).map(|_| ())), "an access of its own");
        let old = Arc::new(old);
        assert!(purged(old.aliased_buffer(ash::vk::BufferUsageFlags::TRANSFER_DST)), "own buffer");
        let mut old = Arc::into_inner(old).expect("the only reference");
        assert!(purged(engine.submit(&home, |work| work.read(&old).map(|_| ()))), "submit");
        assert!(purged(engine.submit(&home, |work| work.unordered(&old).map(|_| ()))), "unordered");
        let remapped =
            engine.submit_remapped(&home, &mut [(&attachment, &mut old)], |work, mappings| {
                work.write(mappings[0]).map(|_| ())
            });
        assert!(purged(remapped), "submit, remapped");
        assert!(purged(attachment.remap(&mut old)), "remap");
        assert!(purged(buffer.remap_all(&mut [(&attachment, &mut old)])), "remap all");
        // New mappings, pins, attachments and accesses.
        assert!(purged(attachment.map(Access::Read)), "map");
        assert!(purged(attachment.pin("scanout").map(|_| ())), "a pin as before");
        assert!(purged(attachment.pin("rdma").map(|_| ())), "a pin for a new reason");
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
        assert!(purged(buffer.import_foreign_fences()), "import of foreign fences");
        assert!(purged(buffer.export_foreign_fences()), "export of foreign fences");
        // Moves.
        for to in [DomainId::System, vram(&home), vram(&peer)] {
            assert!(purged(buffer.migrate(to)), "migrate to {to}");
            let many = engine.migrate_many(&[(&buffer, to)]).remove(0);
            assert!(purged(many), "migrate many to {to}");
        }
        assert!(purged(buffer.relocate()) && purged(buffer.request_residency()), "moves");
        assert!(purged(buffer.evict()), "evict once more");
        assert!(purged(buffer.accept_content()) && !buffer.is_poisoned(), "nothing to accept");
        assert_eq!(buffer.generation(), generation + 1, "no refused call moved it");

        let error = buffer.host_access(Access::Read).map(|_| ()).expect_err("purged");
        assert!(!error.is_retryable() && error.to_string().contains(NAME), "{error}");
        let report = engine.report();
        let listed = report.named(NAME).next().expect("alive");
        assert!(listed.purged && report.to_string().contains("purged:"), "{report}");
        assert_eq!(listed.fences, [], "a refused use left a fence");
        assert!(format!("{buffer:?}").contains(NAME));
        assert_eq!(buffer.provider().domain(), vram(&home), "its last provider");

        buffer.repopulate().expect("there is room");
        assert!(matches!(old.view(), Err(Error::Stale { .. })), "old mappings stay stale");
        attachment.remap(&mut old).expect("resident again");
        assert!(old.view().is_ok() && !buffer.is_purged());
        drop(attachment.pin("scanout").expect("resident again"));
        bytes::assert_zero(&buffer, "renewed");
    }
}

/// TV-11: usage is zero, no bytes are moved, and the next content is zeros.
#[test]
fn purged_content_is_replaced_by_zeros() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        for placement in [Placement::VramOrSystem, Placement::System] {
            let descriptor =
                plain(NAME).discardable().priority(Priority::High).placement(placement);
            let buffer = engine.create_buffer(&home, descriptor.clone()).expect("a buffer");
            assert_eq!(buffer.descriptor(), descriptor);
            let domain = buffer.domain();
            let attachment = buffer.attach(&peer).expect("an attachment");
            let before = used(engine, domain);
            common::fill(&attachment, 3);
            common::wait_idle(&[&home, &peer]);
            let moved =
                || MoveCause::ALL.iter().map(|&cause| engine.moved(cause)).collect::<Vec<_>>();
            let before_moves = moved();
            buffer.evict().expect("not held");
            assert_eq!(used(engine, domain), before - SIZE, "immediately");
            assert_eq!(moved(), before_moves, "no bytes moved");
            // Other buffers use its memory meanwhile; their content does not show up.
            let fillers: Vec<_> = (0..4)
                .map(|seed| {
                    let other = plain("filler").placement(placement);
                    let other = engine.create_buffer(&home, other).expect("a buffer");
                    bytes::write(&other, seed);
                    other
                })
                .collect();
            // Memory that is dropped while a device still writes it for the host counts as used until it is collected.
            common::wait_idle(&[&home, &peer]);
            drop(fillers);
            buffer.repopulate().expect("there is room");
            buffer.repopulate().expect("not purged, so nothing to do");
            assert_eq!((buffer.domain(), used(engine, domain)), (domain, before));
            let mapping = attachment.map(Access::ReadWrite).expect("resident again");
            let source = engine.create_buffer(&peer, plain("zeros")).expect("a buffer");
            let zeros = source.attach(&peer).expect("an attachment");
            let zeros = zeros.map(Access::Read).expect("mapped").checksum().expect("a pass");
            assert_eq!(mapping.checksum().expect("a pass"), zeros, "{}", peer.name());
            mapping.fill(8).expect("a pass");
            assert!(mapping.verify(8).expect("a pass").is_clean());
            drop(mapping);
            assert!(buffer.is_purgeable(), "as before");
            buffer.evict().expect("not held");
            assert!(buffer.is_purged());
        }
    }
}

/// Runs `work` while the gates are shut. They open when `work` ends or waits for a device.
fn while_shut<R: Send>(engine: &Engine, gates: [Gate; 2], work: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let waits = || engine.calls().made(Call::WaitSemaphores);
        let before = waits();
        let worker = scope.spawn(work);
        until(|| (worker.is_finished(), waits()), |&(finished, waits)| finished || waits != before);
        gates.into_iter().for_each(Gate::open);
        worker.join().expect("no panic")
    })
}

/// TV-12: work in progress keeps the old backing, and the purge does not wait for it.
#[test]
fn work_in_progress_keeps_the_old_backing() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let buffer = cache(engine, &home);
        bytes::write(&buffer, 5);
        let target = engine.create_buffer(&peer, plain("target")).expect("a buffer");
        let region = CopyRegion::first(SIZE);
        // One copy beforehand, so that everything that a copy needs exists.
        let copied = engine.copy(&buffer, &target, region).expect("a copy");
        copied.wait(LONG).expect("done");
        bytes::write(&target, 6);
        common::wait_idle(&[&home, &peer]);
        engine.trim();
        let domain = vram(&home);
        let before = used(engine, domain);
        let gates = [Gate::close(&home), Gate::close(&peer)];
        let copied = engine.copy(&buffer, &target, region).expect("a copy");
        buffer.evict().expect("not held");
        assert!(buffer.is_purged());
        assert!(!copied.is_signalled().expect("nothing is lost"), "the purge did not wait for it");
        assert_eq!(used(engine, domain), before, "the copy reads it");
        // That memory is not reused, and the buffer gets another backing.
        let fillers = while_shut(engine, gates, || {
            let make_filler = |seed| {
                let other = engine.create_buffer(&home, plain("filler")).expect("a buffer");
                bytes::write(&other, seed);
                other
            };
            let fillers: Vec<_> = (100..108).map(make_filler).collect();
            buffer.repopulate().expect("there is room");
            bytes::write(&buffer, 7);
            fillers
        });
        bytes::assert_sequence(&target, 5, "what was copied");
        bytes::assert_sequence(&buffer, 7, "what was written after the purge");
        for (other, seed) in fillers.iter().zip(100..) {
            bytes::assert_sequence(other, seed, "a filler");
        }
        drop(fillers);
        common::wait_idle(&[&home, &peer]);
        engine.trim();
        assert_eq!(used(engine, domain), before, "released when the copy ended");
    }
}

/// A revocation waits for work on the backing that a purge has left.
#[test]
fn a_purged_buffer_can_be_revoked_and_rearmed() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let buffer = cache(engine, &home);
        let notified = Arc::new(Notifications::default());
        let attachment =
            buffer.attach_dynamic(&peer, Arc::clone(&notified) as _).expect("an attachment");
        buffer.evict().expect("not held");
        buffer.revoke().expect("not in use");
        assert!(matches!(buffer.repopulate(), Err(Error::Revoked { .. })));
        assert!(matches!(attachment.map(Access::Read), Err(Error::Revoked { .. })));
        assert!(matches!(buffer.evict(), Err(Error::Revoked { .. })));
        assert_eq!(engine.report().named(NAME).map(|listed| listed.revoked).next(), Some(true));
        buffer.unrevoke().expect("not in use");
        assert!(purged(attachment.map(Access::Read)), "rearmed, and still purged");
        buffer.repopulate().expect("there is room");
        common::fill(&attachment, 2);
        common::assert_pattern(&attachment, 2, "renewed");
        let notified = notified.0.lock().expect("not poisoned").clone();
        assert_eq!(notified, [(InvalidationCause::Purge, 0), (InvalidationCause::Revoke, 1)]);
        // A revoked buffer is not purged.
        buffer.revoke().expect("not in use");
        assert!(matches!(buffer.evict(), Err(Error::Revoked { .. })));
        let eviction = engine.evict_all(&home).expect("of this engine");
        assert!(eviction.stayed.bytes(SkipReason::Failed) >= SIZE, "{eviction:?}");
        buffer.unrevoke().expect("not in use");
        common::assert_pattern(&attachment, 2, "rearmed");
    }
}

#[test]
fn a_held_buffer_is_not_purged() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        let buffer = cache(engine, &home);
        bytes::write(&buffer, 1);
        let attachment = buffer.attach(&home).expect("an attachment");
        let stays = |why: SkipReason, what: &str| {
            assert!(matches!(buffer.evict(), Err(Error::Busy { .. })), "{what}");
            let eviction = engine.evict_all(&home).expect("of this engine");
            assert_eq!((eviction.bytes, eviction.stayed.bytes(why)), (0, SIZE), "{what}");
            assert!(!buffer.is_purged(), "{what}");
        };
        let mapping = attachment.map(Access::Read).expect("mapped");
        stays(SkipReason::Held, "mapped by a static attachment");
        drop(mapping);
        let pin = attachment.pin("scanout").expect("pinned");
        stays(SkipReason::Pinned, "pinned");
        drop(pin);
        let access = buffer.host_access(Access::Read).expect("opened");
        stays(SkipReason::Held, "under host access");
        drop(access);
        let export = buffer.export_foreign().expect("exported");
        stays(SkipReason::Pinned, "handed out");
        drop(export);
        bytes::assert_sequence(&buffer, 1, "after the refused evictions");
        let eviction = engine.evict_all(&home).expect("of this engine");
        assert_eq!((eviction.bytes, buffer.is_purged()), (SIZE, true), "not held");
    }
}

#[test]
fn a_purge_clears_the_poison() {
    let rig = Rig::new();
    let engine = rig.engine();
    let [home, peer] = rig.two_of_one_adapter();
    for late in [false, true] {
        let buffer = cache(engine, &home);
        let attachment =
            buffer.attach_dynamic(&peer, Arc::new(Refault::new())).expect("an attachment");
        let mapping = attachment.map(Access::Write).expect("mapped");
        let (fence, signal) = engine.host_fence();
        mapping.begin_access(Access::Write).expect("current").end(fence);
        let mut signal = Some(signal);
        let mut fail = || signal.take().expect("once").fail("the decoder failed");
        if !late {
            fail();
            assert!(buffer.is_poisoned());
        }
        buffer.evict().expect("not held, and no wait");
        buffer.repopulate().expect("there is room");
        if late {
            // The write that fails now used the old backing.
            fail();
        }
        assert!(!buffer.is_poisoned(), "late: {late}");
        bytes::assert_zero(&buffer, "renewed");
        drop(mapping);
    }
}

#[test]
fn a_purged_buffer_explains_why() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        engine.model_heap(&home, SIZE).expect("of this engine");
        let buffer = cache(engine, &home);
        let frame = engine.create_buffer(&home, plain("frame")).expect("the cache is purged");
        let explained = buffer.explain();
        assert!(explained.purged && explained.domain == vram(&home));
        let decision = explained.decisions[0];
        assert_eq!(decision.what, What::Purged);
        assert!(
            matches!(decision.reason, Reason::Wanted { bytes: SIZE, by: Some(_), .. }),
            "{decision:?}"
        );
        let text = explained.to_string();
        assert!(text.contains("cache is purged; its content was in VRAM"), "{text}");
        assert!(text.contains("purged from VRAM of"), "{text}");
        assert!(text.contains("1 MiB were needed by \"frame\""), "{text}");
        drop(frame);
        buffer.repopulate().expect("there is room");
        let explained = buffer.explain();
        assert_eq!((explained.purged, explained.decisions[0].what), (false, What::Placed));
        buffer.evict().expect("not held");
        let explained = buffer.explain();
        assert_eq!(explained.decisions[0].reason, Reason::Asked, "{explained}");
    }
}

#[test]
fn external_memory_is_never_purgeable() {
    let rig = Rig::new();
    let [home, _] = rig.two_of_one_adapter();
    let other_engine = rig.external_engine();
    let theirs = rig.open_on(&other_engine, &home);
    let original = other_engine.create_buffer(&theirs, plain("theirs")).expect("a buffer");
    let export = original.export_foreign().expect("exported");
    let handle = export.handle().expect("a second fd");
    #[expect(unsafe_code, reason = "an fd of another engine, with its `ForeignInfo`")]
    // SAFETY: the `ForeignInfo` came with the fd, and the other engine does not use the memory meanwhile.
    let imported = unsafe {
        use std::os::fd::AsFd;
        rig.engine().import_foreign(&home, handle.as_fd(), handle.info(), Some(NAME))
    };
    let imported = imported.expect("imported");
    assert!(matches!(imported.set_purgeable(true), Err(Error::Unsupported { .. })));
    assert!(!imported.is_purgeable());
    drop((imported, handle, export, original, theirs, other_engine));
}

/// There is room in the preferred domain, but a device that attached meanwhile cannot import from there.
#[test]
fn a_renewed_buffer_explains_why_it_fell_back() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let descriptor = plain(NAME).peer_to_peer(false);
        let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
        bytes::write(&buffer, 1);
        buffer.evict().expect("not held");
        let attachment =
            buffer.attach_dynamic(&peer, Arc::new(Refault::new())).expect("an attachment");
        assert_eq!(buffer.explain().preferred, vram(&home));
        buffer.set_purgeable(true).expect("of this engine");
        buffer.evict().expect("not held");
        assert!(buffer.is_purged());
        buffer.repopulate().expect("in system memory");
        let explained = buffer.explain();
        assert_eq!(buffer.domain(), DomainId::System, "{explained}");
        assert_eq!(explained.decisions[0].what, What::FellBack, "{explained}");
        assert_eq!(explained.decisions[0].reason, Reason::NotShareable, "{explained}");
        drop(attachment);
    }
}
