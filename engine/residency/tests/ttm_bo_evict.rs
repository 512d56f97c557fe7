//! `drivers/gpu/drm/ttm/tests/ttm_bo_validate_test.c`, the second half: making room.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TV-16 | `ttm_bo_validate_happy_evict` | [`only_the_oldest_is_evicted`] |
//! | TV-17 | `ttm_bo_validate_all_pinned_evict` | [`with_all_buffers_pinned_there_is_no_room`] |
//! | TV-18 | `ttm_bo_validate_allowed_only_evict` | [`the_pinned_buffer_stays_and_the_other_is_evicted`] |
//! | TV-19 | `ttm_bo_validate_deleted_evict` | [`a_destroyed_buffer_is_freed_and_not_moved`] |
//! | TV-20 | `ttm_bo_validate_busy_domain_evict` | [`without_room_in_the_next_domain_nothing_changes`] |
//! | TV-21 | `ttm_bo_validate_evict_gutting` | [`purgeable_content_is_discarded_and_not_moved`] |
//! | TV-22 | `ttm_bo_validate_recrusive_evict` | [`a_victim_evicts_others_in_its_new_domain`] |
//! | TV-23 | `TODO`: the only evictable object is busy | [`the_only_evictable_buffer_is_busy`] |
//! | TV-24 | `TODO`: another "from" type | every test here runs for each domain that has a slower one |
//! | TV-25 | `TODO`: external objects | [`external_memory_is_not_evicted`] |
//! | TV-26 | `TODO`: random sizes and numbers | [`random_numbers_of_buffers_of_random_sizes`]; more in `random.rs` |
//!
//! Differences from upstream:
//! - No reservation is held while room is made, so there are no tickets. A locked victim is waited for, for at
//!   most the limits' time, and only after all others were tried.
//! - The smallest sufficient set of the first candidates is chosen, not one after the other until it is enough.
//! - A buffer that is larger than the domain evicts nothing.

use super::world::{Buffer, Fake, Lock, Nature, Refused, Validated};
use super::{EvictionLimits, POLICIES, Random, UNIT, limits, no_wait, places, seeds};
use crate::residency::eviction_failures::SkipReason;
use crate::residency::policy;

const PLACE: u64 = 256 * UNIT;

/// A model for each domain that has a slower one.
fn worlds() -> impl Iterator<Item = (Fake, usize)> {
    (0..3).map(|from| (Fake::chain(policy::lru, &[PLACE; 4]), from))
}

fn new_buffer(world: &Fake, bytes: u64, at: usize, limits: &EvictionLimits) -> (u32, bool) {
    let new_buffer = world.add(Buffer::new(bytes));
    let result = world.validate(new_buffer, &places(&[at]), limits);
    let moved = match result {
        Ok(Validated::Moved) => true,
        Err(Refused::NoRoom { .. }) => false,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.at(new_buffer), moved.then_some(at), "otherwise it has no backing");
    (new_buffer, moved)
}

/// upstream: `ttm_bo_validate_happy_evict`
#[test]
fn only_the_oldest_is_evicted() {
    for (world, from) in worlds() {
        let sizes = [8 * UNIT, 128 * UNIT, PLACE - 136 * UNIT];
        let buffers = sizes.map(|bytes| world.create(bytes, from));
        assert!(new_buffer(&world, 4 * UNIT, from, &limits()).1);
        let at = buffers.map(|each| world.at(each));
        assert_eq!(at, [Some(from + 1), Some(from), Some(from)]);
        assert!(world.buffer(buffers[0]).content);
        assert_eq!(world.bytes_moved(), sizes[0], "one copy, directly to the new domain");
        assert_eq!(world.used(from), PLACE - 4 * UNIT);
        world.check();
    }
}

/// upstream: `ttm_bo_validate_all_pinned_evict`
#[test]
fn with_all_buffers_pinned_there_is_no_room() {
    for (world, from) in worlds() {
        let big = world.create(PLACE, from);
        world.with(big, |buffer| buffer.pins = 1);
        let small = world.add(Buffer::new(UNIT));
        match world.validate(small, &places(&[from]), &limits()) {
            Err(Refused::NoRoom { failures, .. }) => {
                assert_eq!(failures.iter().collect::<Vec<_>>(), [(SkipReason::Pinned, PLACE, 1)]);
                assert_eq!(failures.holders_of_pins(), ["holder of buffer 0"]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((world.at(big), world.at(small)), (Some(from), None));
        world.check();
    }
}

/// upstream: `ttm_bo_validate_allowed_only_evict`
#[test]
fn the_pinned_buffer_stays_and_the_other_is_evicted() {
    for (world, from) in worlds() {
        let [pinned, other] = [(); 2].map(|()| world.create(PLACE / 2, from));
        world.with(pinned, |buffer| buffer.pins = 1);
        assert!(new_buffer(&world, UNIT, from, &limits()).1);
        assert_eq!((world.at(pinned), world.at(other)), (Some(from), Some(from + 1)));
        assert_eq!(world.bytes_moved(), PLACE / 2);
        world.check();
    }
}

/// upstream: `ttm_bo_validate_deleted_evict`
#[test]
fn a_destroyed_buffer_is_freed_and_not_moved() {
    for busy in [false, true] {
        for (world, from) in worlds() {
            let big = world.create(PLACE - UNIT, from);
            let beside = world.create(UNIT, from);
            if busy {
                world.begin(big, false);
            }
            world.drop_buffer(big);
            assert_eq!(world.used(from), PLACE, "not reclaimed yet");
            // If a device still uses it, that is waited for, and the other buffer stays.
            assert!(new_buffer(&world, 8 * UNIT, from, &limits()).1);
            assert_eq!((world.used(from), world.bytes_moved()), (9 * UNIT, 0));
            assert_eq!(world.at(beside), Some(from));
            world.check();
        }
    }
}

/// upstream: `ttm_bo_validate_busy_domain_evict`
#[test]
fn without_room_in_the_next_domain_nothing_changes() {
    for nature in [Nature::Busy, Nature::Full] {
        for (world, from) in worlds() {
            (from + 1..4).for_each(|at| world.set_nature(at, nature));
            let old = world.create(PLACE, from);
            let before = world.buffer(old);
            assert!(!new_buffer(&world, UNIT, from, &limits()).1);
            let after = world.buffer(old);
            assert_eq!((after.at, after.moves, after.content), (before.at, 0, true));
            assert_eq!((world.used(from), world.used(from + 1)), (PLACE, 0));
            world.check();
        }
    }
}

/// upstream: `ttm_bo_validate_busy_domain_evict`, for a domain without a slower one
#[test]
fn in_the_last_domain_every_buffer_stays() {
    let world = Fake::chain(policy::lru, &[PLACE; 2]);
    let old = world.create(PLACE, 1);
    assert!(!new_buffer(&world, UNIT, 1, &limits()).1);
    assert_eq!(world.at(old), Some(1));
    world.check();
}

/// upstream: `ttm_bo_validate_evict_gutting`
#[test]
fn purgeable_content_is_discarded_and_not_moved() {
    for busy in [false, true] {
        for (world, from) in worlds() {
            // Even if there is no room for it.
            (from + 1..4).for_each(|at| world.set_nature(at, Nature::Full));
            let old = world.create(PLACE, from);
            world.with(old, |buffer| buffer.discardable = true);
            if busy {
                world.begin(old, false);
            }
            assert!(new_buffer(&world, UNIT, from, &limits()).1);
            assert_eq!((world.at(old), world.buffer(old).content), (None, false));
            assert_eq!((world.bytes_moved(), world.used(from)), (0, UNIT));
            world.check();
        }
    }
}

/// upstream: `ttm_bo_validate_recrusive_evict`
#[test]
fn a_victim_evicts_others_in_its_new_domain() {
    for slow in [false, true] {
        for from in 0..2 {
            let world = Fake::chain(policy::lru, &[PLACE; 4]);
            let [first, second] = [from, from + 1].map(|at| world.create(PLACE, at));
            world.set_slow(slow);
            assert!(new_buffer(&world, UNIT, from, &limits()).1);
            assert_eq!([first, second].map(|n| world.at(n)), [Some(from + 1), Some(from + 2)]);
            assert_eq!(world.bytes_moved(), 2 * PLACE);
            world.check();
        }
    }
}

/// tests/TODO: the only evictable object is busy
#[test]
fn the_only_evictable_buffer_is_busy() {
    struct Case {
        what: &'static str,
        make: fn(&Fake, u32),
        limits: EvictionLimits,
        goes: Result<(), SkipReason>,
    }
    let device: fn(&Fake, u32) = |world, each| {
        world.begin(each, false);
    };
    let host: fn(&Fake, u32) = |world, each| {
        world.begin(each, true);
    };
    let skips = EvictionLimits { skip_busy: true, ..limits() };
    let cases = [
        Case { what: "its copy is queued", make: device, limits: limits(), goes: Ok(()) },
        Case {
            what: "a busy buffer stays",
            make: device,
            limits: skips,
            goes: Err(SkipReason::Busy),
        },
        Case { what: "the host is waited for", make: host, limits: limits(), goes: Ok(()) },
        Case {
            what: "the host is not waited for",
            make: host,
            limits: no_wait(),
            goes: Err(SkipReason::Locked),
        },
        Case {
            what: "the host never finishes",
            make: |world, each| {
                world.begin(each, true);
                world.set_stuck(true);
            },
            limits: limits(),
            goes: Err(SkipReason::Busy),
        },
        Case {
            what: "it is locked for a moment",
            make: |world, each| world.with(each, |buffer| buffer.lock = Lock::Yielding),
            limits: limits(),
            goes: Ok(()),
        },
        Case {
            what: "it is locked for ever",
            make: |world, each| world.with(each, |buffer| buffer.lock = Lock::Taken),
            limits: limits(),
            goes: Err(SkipReason::Locked),
        },
    ];
    for Case { what, make, limits, goes } in cases {
        for (world, from) in worlds() {
            let [pinned, busy] = [(); 2].map(|()| world.create(PLACE / 2, from));
            world.with(pinned, |buffer| buffer.pins = 1);
            make(&world, busy);
            let small = world.add(Buffer::new(UNIT));
            match (world.validate(small, &places(&[from]), &limits), goes) {
                (Ok(Validated::Moved), Ok(())) => {
                    assert_eq!(world.at(busy), Some(from + 1), "{what}");
                }
                (Err(Refused::NoRoom { failures, .. }), Err(why)) => {
                    assert_eq!((world.at(busy), world.at(small)), (Some(from), None), "{what}");
                    assert_eq!(failures.bytes(why), PLACE / 2, "{what}: {failures}");
                    assert_eq!(failures.bytes(SkipReason::Pinned), PLACE / 2, "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
            world.check();
        }
    }
}

/// tests/TODO: external objects
#[test]
fn external_memory_is_not_evicted() {
    for (world, from) in worlds() {
        let [external, other] = [(); 2].map(|()| world.create(PLACE / 2, from));
        world.with(external, |buffer| buffer.external = true);
        assert!(new_buffer(&world, UNIT, from, &limits()).1);
        assert_eq!((world.at(external), world.at(other)), (Some(from), Some(from + 1)));
        world.check();
        assert!(!new_buffer(&world, PLACE, from, &limits()).1, "it uses the room permanently");
        world.check();
    }
}

/// tests/TODO: random sizes and numbers
#[test]
fn random_numbers_of_buffers_of_random_sizes() {
    for (name, make) in POLICIES {
        for seed in seeds(30) {
            let mut random = Random(seed);
            let world = Fake::chain(make, &[PLACE, PLACE, u64::MAX]);
            for _ in 0..100 {
                let before = world.used(0);
                let largest = 1 << random.below(9);
                let bytes = UNIT * (1 + random.below(largest)).min(256);
                let (_, moved) = new_buffer(&world, bytes, 0, &limits());
                assert!(moved, "{name}, seed {seed}: every buffer up to the domain's size fits");
                // No eviction was unnecessary.
                let asked = world.take_attempts();
                let went = asked.iter().filter(|asked| asked.from == 0).map(|asked| asked.bytes);
                let (went, short) = (went.collect::<Vec<_>>(), (before + bytes).max(PLACE) - PLACE);
                let sum: u64 = went.iter().sum();
                assert!(went.iter().all(|bytes| sum - bytes < short), "{name}, seed {seed}");
                assert_eq!(world.used(0), before + bytes - sum);
                world.check();
            }
        }
    }
}
