//! Purgeable buffers are evicted before all others, and their content is not copied.

use std::sync::Arc;

use super::{NAME, Notifications, SIZE, cache, pairs, plain, purged, used, vram};
use crate::common::{self, Rig, bytes};
use peerbuf::observe::{MoveCause, What};
use peerbuf::{
    Access, BufferDescriptor, DomainId, Error, InvalidationCause, Placement, Priority, Refault,
};

/// TV-21 and the shrinker's rule: purgeable buffers are evicted first, without a copy, however recently they were
/// used and whatever their priority.
#[test]
fn purgeable_buffers_are_purged_before_any_buffer_is_moved() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let domain = vram(&home);
        engine.model_heap(&home, 4 * SIZE).expect("of this engine");
        let keep: Vec<_> = (0..2)
            .map(|seed| {
                let descriptor = plain("kept").priority(Priority::Low);
                let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
                bytes::write(&buffer, seed);
                buffer
            })
            .collect();
        let notified = Arc::new(Notifications::default());
        let caches: Vec<_> = (0..2)
            .map(|seed| {
                let descriptor = plain(NAME).discardable().priority(Priority::Highest);
                let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
                bytes::write(&buffer, seed);
                let attachment = buffer
                    .attach_dynamic(&peer, Arc::clone(&notified) as _)
                    .expect("an attachment");
                (buffer, attachment)
            })
            .collect();
        let purges = || caches.iter().filter(|(cache, _)| cache.is_purged()).count();
        let here = || keep.iter().all(|buffer| buffer.domain() == domain);
        let moved = engine.moved(MoveCause::Evicted);
        let one = engine.create_buffer(&home, plain("one")).expect("a cache is purged");
        assert_eq!((one.domain(), purges(), here()), (domain, 1, true));
        let two = engine.create_buffer(&home, plain("two")).expect("the other cache is purged");
        assert_eq!((two.domain(), purges(), here()), (domain, 2, true));
        assert_eq!(engine.moved(MoveCause::Evicted), moved, "{}", home.name());
        let notified = notified.0.lock().expect("not poisoned").clone();
        assert_eq!(notified, [(InvalidationCause::Purge, 0); 2], "each once");
        // Now a buffer has to move. A new buffer may reuse a purged one's name, but not its list entry.
        let three = engine.create_buffer(&home, plain("three")).expect("another buffer moves");
        assert_eq!((three.domain(), here()), (domain, false));
        assert!(used(engine, domain) <= 4 * SIZE);
        // A cache that is renewed evicts other buffers in turn.
        caches[0].0.repopulate().expect("another buffer moves");
        assert_eq!(caches[0].0.domain(), domain);
        bytes::assert_zero(&caches[0].0, "renewed");
        for (buffer, seed) in keep.iter().zip(0..) {
            bytes::assert_sequence(buffer, seed, "not purgeable, so unchanged");
        }
    }
}

/// Buffers in system memory cannot be moved anywhere, but purgeable ones can be purged.
#[test]
fn purgeable_buffers_make_room_in_system_memory() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        let system = DomainId::System;
        let here = |name: &str| plain(name).placement(Placement::System);
        let keep = engine.create_buffer(&home, here("kept")).expect("a buffer");
        bytes::write(&keep, 1);
        engine.set_cap(system, Some(used(engine, system) + 2 * SIZE)).expect("of this engine");
        let old = engine.create_buffer(&home, here("old").discardable()).expect("a buffer");
        let new = engine.create_buffer(&home, here("new").discardable()).expect("a buffer");
        bytes::write(&old, 2);
        bytes::write(&new, 3);
        let one = engine.create_buffer(&home, here("one")).expect("the older cache is purged");
        assert!(old.is_purged() && !new.is_purged(), "{}", home.name());
        bytes::assert_sequence(&new, 3, "the newer one");
        // A victim in VRAM needs room in system memory as well.
        engine.model_heap(&home, SIZE).expect("of this engine");
        let in_vram = engine.create_buffer(&home, plain("in VRAM")).expect("a buffer");
        bytes::write(&in_vram, 4);
        let next = engine.create_buffer(&home, plain("next")).expect("room is made");
        assert_eq!((in_vram.domain(), next.domain()), (system, vram(&home)));
        assert!(new.is_purged());
        bytes::assert_sequence(&in_vram, 4, "moved to the memory of the cache");
        // No victim is left.
        let error = engine.create_buffer(&home, here("no")).expect_err("full");
        assert!(matches!(error, Error::OutOfMemory { domain, .. } if domain == system), "{error}");
        assert!(matches!(old.repopulate(), Err(Error::OutOfMemory { .. })));
        assert!(old.is_purged(), "still purged");
        drop(one);
        old.repopulate().expect("there is room again");
        bytes::assert_zero(&old, "renewed");
        // A smaller cap purges it as well.
        let eviction =
            engine.set_cap(system, Some(used(engine, system) - SIZE)).expect("of this engine");
        assert_eq!((eviction.bytes, old.is_purged()), (SIZE, true));
        bytes::assert_sequence(&keep, 1, "not purgeable, so not affected");
        engine.set_cap(system, None).expect("of this engine");
        engine.model_heap(&home, 1 << 30).expect("of this engine");
    }
}

/// The buffer prefers VRAM, fell back to system memory, and is purged there.
#[test]
fn a_purgeable_buffer_that_fell_back_makes_room_there() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let system = DomainId::System;
        engine.model_heap(&home, SIZE).expect("of this engine");
        let wall = engine.create_buffer(&home, plain("wall").placement(Placement::Vram));
        let wall = wall.expect("a buffer");
        let wall_attachment = wall.attach(&home).expect("an attachment");
        let pin = wall_attachment.pin("scanout").expect("pinned");
        let buffer = cache(engine, &home);
        assert_eq!(buffer.domain(), system, "it fell back");
        let attachment =
            buffer.attach_dynamic(&peer, Arc::new(Refault::new())).expect("an attachment");
        common::fill(&attachment, 4);
        // With room it is restored, and enters the eviction list of VRAM.
        drop((pin, wall_attachment, wall));
        common::assert_pattern(&attachment, 4, "used");
        assert_eq!(buffer.domain(), vram(&home), "it was restored");
        let filler = engine.create_buffer(&home, plain("filler")).expect("the cache is purged");
        assert!(buffer.is_purged() && filler.domain() == vram(&home));
        let filler_attachment = filler.attach(&home).expect("an attachment");
        let pin = filler_attachment.pin("scanout").expect("pinned");
        buffer.repopulate().expect("in system memory");
        assert_eq!(buffer.domain(), system);
        assert_eq!(buffer.explain().decisions[0].what, What::FellBack, "{}", buffer.explain());
        common::fill(&attachment, 5);
        common::wait_idle(&[&home, &peer]);
        let eviction =
            engine.set_cap(system, Some(used(engine, system) - SIZE)).expect("of this engine");
        assert_eq!((eviction.bytes, buffer.is_purged()), (SIZE, true));
        engine.set_cap(system, None).expect("of this engine");
        drop(pin);
        engine.model_heap(&home, 1 << 30).expect("of this engine");
        buffer.repopulate().expect("in its preferred domain");
        assert_eq!(buffer.domain(), vram(&home));
    }
}

#[test]
fn content_survives_if_the_flag_is_cleared_in_time() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        engine.model_heap(&home, 2 * SIZE).expect("of this engine");
        let buffer = engine.create_buffer(&home, plain(NAME)).expect("a buffer");
        bytes::write(&buffer, 1);
        assert!(!buffer.is_purgeable());
        assert!(buffer.set_purgeable(true).expect("of this engine"), "content kept");
        assert!(buffer.set_purgeable(true).expect("of this engine"), "set twice");
        bytes::assert_sequence(&buffer, 1, "purgeable, but no memory was needed");
        assert!(buffer.set_purgeable(false).expect("of this engine"), "in time");
        let all = BufferDescriptor::new(2 * SIZE).placement(Placement::Vram);
        let all = engine.create_buffer(&home, all).expect("room is made");
        assert_eq!(buffer.domain(), DomainId::System, "moved, not purged");
        bytes::assert_sequence(&buffer, 1, "moved");
        // In system memory the flag can be set and cleared as well.
        let system = DomainId::System;
        assert!(buffer.set_purgeable(true).expect("of this engine"));
        assert!(buffer.set_purgeable(false).expect("of this engine"));
        let eviction =
            engine.set_cap(system, Some(used(engine, system) - 1)).expect("of this engine");
        assert_eq!(
            (eviction.bytes, buffer.is_purged()),
            (0, false),
            "not purgeable, and no other domain"
        );
        assert!(buffer.set_purgeable(true).expect("of this engine"));
        let eviction =
            engine.set_cap(system, Some(used(engine, system) - 1)).expect("of this engine");
        assert_eq!((eviction.bytes, buffer.is_purged()), (SIZE, true));
        engine.set_cap(system, None).expect("of this engine");
        assert!(!buffer.set_purgeable(false).expect("of this engine"), "too late");
        assert!(buffer.is_purged() && purged(buffer.host_access(Access::Read)));
        drop(all);
        buffer.repopulate().expect("there is room");
        bytes::assert_zero(&buffer, "renewed");
        bytes::write(&buffer, 2);
        buffer.evict().expect("not held");
        bytes::assert_sequence(&buffer, 2, "evicted, not purged");
    }
}
