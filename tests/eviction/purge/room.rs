//! Purgeable buffers leave before any other, and their content is not copied.

use std::sync::Arc;

use super::{NAME, SIZE, Told, cache, pairs, plain, purged, used, vram};
use crate::common::{self, Rig, bytes};
use peerbuf::observe::{MoveCause, What};
use peerbuf::{
    Access, BufferDescriptor, DomainId, Error, InvalidationCause, Placement, Priority, Refault,
};

/// TV-21 and the shrinker's rule: who may be purged goes first, however recently it was used and however
/// much it matters, and is not copied.
#[test]
fn caches_make_room_before_anybody_has_to_move() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let domain = vram(&home);
        engine.model_heap(&home, 4 * SIZE).expect("ours");
        let keep: Vec<_> = (0..2)
            .map(|seed| {
                let descriptor = plain("kept").priority(Priority::Low);
                let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
                bytes::write(&buffer, seed);
                buffer
            })
            .collect();
        let told = Arc::new(Told::default());
        let caches: Vec<_> = (0..2)
            .map(|seed| {
                let descriptor = plain(NAME).discardable().priority(Priority::Highest);
                let buffer = engine.create_buffer(&home, descriptor).expect("a buffer");
                bytes::write(&buffer, seed);
                let seat = buffer.attach_dynamic(&peer, Arc::clone(&told) as _).expect("a seat");
                (buffer, seat)
            })
            .collect();
        let gone = || caches.iter().filter(|(cache, _)| cache.is_purged()).count();
        let here = || keep.iter().all(|buffer| buffer.domain() == domain);
        let moved = engine.moved(MoveCause::Evicted);
        let one = engine.create_buffer(&home, plain("one")).expect("a cache goes");
        assert_eq!((one.domain(), gone(), here()), (domain, 1, true));
        let two = engine.create_buffer(&home, plain("two")).expect("the other one goes");
        assert_eq!((two.domain(), gone(), here()), (domain, 2, true));
        assert_eq!(engine.moved(MoveCause::Evicted), moved, "{}", home.name());
        let told = told.0.lock().expect("nobody panics").clone();
        assert_eq!(told, [(InvalidationCause::Purge, 0); 2], "each once");
        // Now somebody has to move. Whoever comes anew may have a purged buffer's name, but not its place.
        let three = engine.create_buffer(&home, plain("three")).expect("somebody moves");
        assert_eq!((three.domain(), here()), (domain, false));
        assert!(used(engine, domain) <= 4 * SIZE);
        // A cache that is renewed evicts others in turn.
        caches[0].0.renew().expect("somebody moves");
        assert_eq!(caches[0].0.domain(), domain);
        bytes::assert_zero(&caches[0].0, "renewed");
        for (buffer, seed) in keep.iter().zip(0..) {
            bytes::assert_sequence(buffer, seed, "what is no cache keeps its bytes");
        }
    }
}

/// From system memory nobody can be moved anywhere; caches can go.
#[test]
fn caches_make_room_in_system_memory() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        let system = DomainId::System;
        let here = |name: &str| plain(name).placement(Placement::System);
        let keep = engine.create_buffer(&home, here("kept")).expect("a buffer");
        bytes::write(&keep, 1);
        engine.set_cap(system, Some(used(engine, system) + 2 * SIZE)).expect("ours");
        let old = engine.create_buffer(&home, here("old").discardable()).expect("a buffer");
        let new = engine.create_buffer(&home, here("new").discardable()).expect("a buffer");
        bytes::write(&old, 2);
        bytes::write(&new, 3);
        let one = engine.create_buffer(&home, here("one")).expect("the older cache goes");
        assert!(old.is_purged() && !new.is_purged(), "{}", home.name());
        bytes::assert_sequence(&new, 3, "the newer one");
        // A victim of VRAM needs room as well.
        engine.model_heap(&home, SIZE).expect("ours");
        let in_vram = engine.create_buffer(&home, plain("in VRAM")).expect("a buffer");
        bytes::write(&in_vram, 4);
        let next = engine.create_buffer(&home, plain("next")).expect("room is made");
        assert_eq!((in_vram.domain(), next.domain()), (system, vram(&home)));
        assert!(new.is_purged());
        bytes::assert_sequence(&in_vram, 4, "moved to where the cache was");
        // Nobody is left to go.
        let error = engine.create_buffer(&home, here("no")).expect_err("full");
        assert!(matches!(error, Error::OutOfMemory { domain, .. } if domain == system), "{error}");
        assert!(matches!(old.renew(), Err(Error::OutOfMemory { .. })));
        assert!(old.is_purged(), "as it was");
        drop(one);
        old.renew().expect("there is room again");
        bytes::assert_zero(&old, "renewed");
        // A cap that shrinks drops them, too.
        let eviction = engine.set_cap(system, Some(used(engine, system) - SIZE)).expect("ours");
        assert_eq!((eviction.bytes, old.is_purged()), (SIZE, true));
        bytes::assert_sequence(&keep, 1, "never asked");
        engine.set_cap(system, None).expect("ours");
        engine.model_heap(&home, 1 << 30).expect("ours");
    }
}

/// It wants to be in VRAM, is in system memory, and goes from there.
#[test]
fn a_cache_that_fell_back_makes_room_where_it_is() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, peer] in pairs(&rig) {
        let system = DomainId::System;
        engine.model_heap(&home, SIZE).expect("ours");
        let wall = engine.create_buffer(&home, plain("wall").placement(Placement::Vram));
        let wall = wall.expect("a buffer");
        let wall_seat = wall.attach(&home).expect("a seat");
        let pin = wall_seat.pin("scanout").expect("pinned");
        let buffer = cache(engine, &home);
        assert_eq!(buffer.domain(), system, "it fell back");
        let seat = buffer.attach_dynamic(&peer, Arc::new(Refault::new())).expect("a seat");
        common::fill(&seat, 4);
        // With room it comes back, and stands in line there.
        drop((pin, wall_seat, wall));
        common::assert_pattern(&seat, 4, "used");
        assert_eq!(buffer.domain(), vram(&home), "it came back");
        let there = engine.create_buffer(&home, plain("there")).expect("the cache goes");
        assert!(buffer.is_purged() && there.domain() == vram(&home));
        let there_seat = there.attach(&home).expect("a seat");
        let pin = there_seat.pin("scanout").expect("pinned");
        buffer.renew().expect("in system memory");
        assert_eq!(buffer.domain(), system);
        assert_eq!(buffer.explain().decisions[0].what, What::FellBack, "{}", buffer.explain());
        common::fill(&seat, 5);
        common::wait_idle(&[&home, &peer]);
        let eviction = engine.set_cap(system, Some(used(engine, system) - SIZE)).expect("ours");
        assert_eq!((eviction.bytes, buffer.is_purged()), (SIZE, true));
        engine.set_cap(system, None).expect("ours");
        drop(pin);
        engine.model_heap(&home, 1 << 30).expect("ours");
        buffer.renew().expect("where it wants to be");
        assert_eq!(buffer.domain(), vram(&home));
    }
}

#[test]
fn who_takes_it_back_in_time_keeps_the_content() {
    let rig = Rig::new();
    let engine = rig.engine();
    for [home, _] in pairs(&rig) {
        engine.model_heap(&home, 2 * SIZE).expect("ours");
        let buffer = engine.create_buffer(&home, plain(NAME)).expect("a buffer");
        bytes::write(&buffer, 1);
        assert!(!buffer.is_purgeable());
        assert!(buffer.set_purgeable(true).expect("ours"), "still there");
        assert!(buffer.set_purgeable(true).expect("ours"), "said twice");
        bytes::assert_sequence(&buffer, 1, "as long as nobody needs the place");
        assert!(buffer.set_purgeable(false).expect("ours"), "in time");
        let all = BufferDescriptor::new(2 * SIZE).placement(Placement::Vram);
        let all = engine.create_buffer(&home, all).expect("room is made");
        assert_eq!(buffer.domain(), DomainId::System, "it moved, as any other would");
        bytes::assert_sequence(&buffer, 1, "moved");
        // In system memory it can be said as well, and taken back.
        let system = DomainId::System;
        assert!(buffer.set_purgeable(true).expect("ours"));
        assert!(buffer.set_purgeable(false).expect("ours"));
        let eviction = engine.set_cap(system, Some(used(engine, system) - 1)).expect("ours");
        assert_eq!((eviction.bytes, buffer.is_purged()), (0, false), "from there nobody goes");
        assert!(buffer.set_purgeable(true).expect("ours"));
        let eviction = engine.set_cap(system, Some(used(engine, system) - 1)).expect("ours");
        assert_eq!((eviction.bytes, buffer.is_purged()), (SIZE, true));
        engine.set_cap(system, None).expect("ours");
        assert!(!buffer.set_purgeable(false).expect("ours"), "too late");
        assert!(buffer.is_purged() && purged(buffer.host_access(Access::Read)));
        drop(all);
        buffer.renew().expect("there is room");
        bytes::assert_zero(&buffer, "renewed");
        bytes::write(&buffer, 2);
        buffer.evict().expect("nobody holds it");
        bytes::assert_sequence(&buffer, 2, "evicted, not purged");
    }
}
