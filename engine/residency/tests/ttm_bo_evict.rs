//! `drivers/gpu/drm/ttm/tests/ttm_bo_validate_test.c`, the second half: making room.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TV-16 | `ttm_bo_validate_happy_evict` | [`only_the_oldest_goes`] |
//! | TV-17 | `ttm_bo_validate_all_pinned_evict` | [`where_all_are_pinned_there_is_no_room`] |
//! | TV-18 | `ttm_bo_validate_allowed_only_evict` | [`the_pinned_one_stays_and_the_other_goes`] |
//! | TV-19 | `ttm_bo_validate_deleted_evict` | [`what_was_dropped_is_freed_and_not_moved`] |
//! | TV-20 | `ttm_bo_validate_busy_domain_evict` | [`where_nobody_can_go_nothing_changes`] |
//! | TV-21 | `ttm_bo_validate_evict_gutting` | [`what_may_be_lost_is_lost_and_not_moved`] |
//! | TV-22 | `ttm_bo_validate_recrusive_evict` | [`where_victims_go_others_go_for_them`] |
//! | TV-23 | `TODO`: the only evictable one is busy | [`the_only_one_who_could_go_is_busy`] |
//! | TV-24 | `TODO`: another "from" type | every test here is run for each place that there is a slower one than |
//! | TV-25 | `TODO`: external objects | [`somebody_elses_memory_stays`] |
//! | TV-26 | `TODO`: random sizes and numbers | [`any_number_of_any_sizes`]; more in `random.rs` |
//!
//! Other than there: nobody holds a reservation while room is made, so there are no tickets; a victim that
//! somebody has locked is waited for, in bounds, and only after all others were asked. What is chosen is the
//! smallest sufficient set of those who come first, not one by one until it is enough. Somebody who cannot be
//! made room for, because the place is smaller than it, evicts nobody.

use super::world::{Buffer, Fake, Lock, Nature, Refused, Validated};
use super::{POLICIES, Random, Terms, UNIT, no_wait, places, seeds, terms};
use crate::residency::obstacles::Kept;
use crate::residency::policy;

const PLACE: u64 = 256 * UNIT;

/// A world, for each place that has a slower one.
fn worlds() -> impl Iterator<Item = (Fake, usize)> {
    (0..3).map(|from| (Fake::chain(policy::lru, &[PLACE; 4]), from))
}

fn newcomer(world: &Fake, bytes: u64, at: usize, terms: &Terms) -> (u32, bool) {
    let newcomer = world.add(Buffer::new(bytes));
    let result = world.validate(newcomer, &places(&[at]), terms);
    let came = match result {
        Ok(Validated::Moved) => true,
        Err(Refused::NoRoom { .. }) => false,
        other => panic!("{other:?}"),
    };
    assert_eq!(world.at(newcomer), came.then_some(at), "or it has no bytes at all");
    (newcomer, came)
}

/// upstream: `ttm_bo_validate_happy_evict`
#[test]
fn only_the_oldest_goes() {
    for (world, from) in worlds() {
        let sizes = [8 * UNIT, 128 * UNIT, PLACE - 136 * UNIT];
        let buffers = sizes.map(|bytes| world.create(bytes, from));
        assert!(newcomer(&world, 4 * UNIT, from, &terms()).1);
        let at = buffers.map(|each| world.at(each));
        assert_eq!(at, [Some(from + 1), Some(from), Some(from)]);
        assert!(world.buffer(buffers[0]).content);
        assert_eq!(world.bytes_moved(), sizes[0], "one copy: it goes straight to its new place");
        assert_eq!(world.used(from), PLACE - 4 * UNIT);
        world.check();
    }
}

/// upstream: `ttm_bo_validate_all_pinned_evict`
#[test]
fn where_all_are_pinned_there_is_no_room() {
    for (world, from) in worlds() {
        let big = world.create(PLACE, from);
        world.with(big, |buffer| buffer.pins = 1);
        let small = world.add(Buffer::new(UNIT));
        match world.validate(small, &places(&[from]), &terms()) {
            Err(Refused::NoRoom { obstacles, .. }) => {
                assert_eq!(obstacles.iter().collect::<Vec<_>>(), [(Kept::Pinned, PLACE, 1)]);
                assert_eq!(obstacles.holders_of_pins(), ["whoever pinned buffer 0"]);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!((world.at(big), world.at(small)), (Some(from), None));
        world.check();
    }
}

/// upstream: `ttm_bo_validate_allowed_only_evict`
#[test]
fn the_pinned_one_stays_and_the_other_goes() {
    for (world, from) in worlds() {
        let [pinned, other] = [(); 2].map(|()| world.create(PLACE / 2, from));
        world.with(pinned, |buffer| buffer.pins = 1);
        assert!(newcomer(&world, UNIT, from, &terms()).1);
        assert_eq!((world.at(pinned), world.at(other)), (Some(from), Some(from + 1)));
        assert_eq!(world.bytes_moved(), PLACE / 2);
        world.check();
    }
}

/// upstream: `ttm_bo_validate_deleted_evict`
#[test]
fn what_was_dropped_is_freed_and_not_moved() {
    for busy in [false, true] {
        for (world, from) in worlds() {
            let big = world.create(PLACE - UNIT, from);
            let beside = world.create(UNIT, from);
            if busy {
                world.begin(big, false);
            }
            world.drop_buffer(big);
            assert_eq!(world.used(from), PLACE, "not reaped yet");
            // If a device still uses it, that is waited for: the other one stays.
            assert!(newcomer(&world, 8 * UNIT, from, &terms()).1);
            assert_eq!((world.used(from), world.bytes_moved()), (9 * UNIT, 0));
            assert_eq!(world.at(beside), Some(from));
            world.check();
        }
    }
}

/// upstream: `ttm_bo_validate_busy_domain_evict`
#[test]
fn where_nobody_can_go_nothing_changes() {
    for nature in [Nature::Busy, Nature::Full] {
        for (world, from) in worlds() {
            (from + 1..4).for_each(|at| world.set_nature(at, nature));
            let old = world.create(PLACE, from);
            let before = world.buffer(old);
            assert!(!newcomer(&world, UNIT, from, &terms()).1);
            let after = world.buffer(old);
            assert_eq!((after.at, after.moves, after.content), (before.at, 0, true));
            assert_eq!((world.used(from), world.used(from + 1)), (PLACE, 0));
            world.check();
        }
    }
}

/// upstream: `ttm_bo_validate_busy_domain_evict`, for a place from where there is nowhere to go
#[test]
fn at_the_end_of_the_chain_everybody_stays() {
    let world = Fake::chain(policy::lru, &[PLACE; 2]);
    let old = world.create(PLACE, 1);
    assert!(!newcomer(&world, UNIT, 1, &terms()).1);
    assert_eq!(world.at(old), Some(1));
    world.check();
}

/// upstream: `ttm_bo_validate_evict_gutting`
#[test]
fn what_may_be_lost_is_lost_and_not_moved() {
    for busy in [false, true] {
        for (world, from) in worlds() {
            // Even where there is no room for it.
            (from + 1..4).for_each(|at| world.set_nature(at, Nature::Full));
            let old = world.create(PLACE, from);
            world.with(old, |buffer| buffer.discardable = true);
            if busy {
                world.begin(old, false);
            }
            assert!(newcomer(&world, UNIT, from, &terms()).1);
            assert_eq!((world.at(old), world.buffer(old).content), (None, false));
            assert_eq!((world.bytes_moved(), world.used(from)), (0, UNIT));
            world.check();
        }
    }
}

/// upstream: `ttm_bo_validate_recrusive_evict`
#[test]
fn where_victims_go_others_go_for_them() {
    for slow in [false, true] {
        for from in 0..2 {
            let world = Fake::chain(policy::lru, &[PLACE; 4]);
            let [first, second] = [from, from + 1].map(|at| world.create(PLACE, at));
            world.set_slow(slow);
            assert!(newcomer(&world, UNIT, from, &terms()).1);
            assert_eq!([first, second].map(|n| world.at(n)), [Some(from + 1), Some(from + 2)]);
            assert_eq!(world.bytes_moved(), 2 * PLACE);
            world.check();
        }
    }
}

/// tests/TODO: the only evictable object is busy
#[test]
fn the_only_one_who_could_go_is_busy() {
    struct Case {
        what: &'static str,
        make: fn(&Fake, u32),
        terms: Terms,
        goes: Result<(), Kept>,
    }
    let device: fn(&Fake, u32) = |world, each| {
        world.begin(each, false);
    };
    let host: fn(&Fake, u32) = |world, each| {
        world.begin(each, true);
    };
    let skips = Terms { skip_busy: true, ..terms() };
    let cases = [
        Case { what: "its copy is queued", make: device, terms: terms(), goes: Ok(()) },
        Case { what: "who is busy stays", make: device, terms: skips, goes: Err(Kept::Busy) },
        Case { what: "the host is waited for", make: host, terms: terms(), goes: Ok(()) },
        Case {
            what: "the host is not waited for",
            make: host,
            terms: no_wait(),
            goes: Err(Kept::Locked),
        },
        Case {
            what: "the host never ends",
            make: |world, each| {
                world.begin(each, true);
                world.set_stuck(true);
            },
            terms: terms(),
            goes: Err(Kept::Busy),
        },
        Case {
            what: "somebody has its lock for a moment",
            make: |world, each| world.with(each, |buffer| buffer.lock = Lock::Yielding),
            terms: terms(),
            goes: Ok(()),
        },
        Case {
            what: "somebody has its lock for ever",
            make: |world, each| world.with(each, |buffer| buffer.lock = Lock::Taken),
            terms: terms(),
            goes: Err(Kept::Locked),
        },
    ];
    for Case { what, make, terms, goes } in cases {
        for (world, from) in worlds() {
            let [pinned, busy] = [(); 2].map(|()| world.create(PLACE / 2, from));
            world.with(pinned, |buffer| buffer.pins = 1);
            make(&world, busy);
            let small = world.add(Buffer::new(UNIT));
            match (world.validate(small, &places(&[from]), &terms), goes) {
                (Ok(Validated::Moved), Ok(())) => {
                    assert_eq!(world.at(busy), Some(from + 1), "{what}");
                }
                (Err(Refused::NoRoom { obstacles, .. }), Err(why)) => {
                    assert_eq!((world.at(busy), world.at(small)), (Some(from), None), "{what}");
                    assert_eq!(obstacles.bytes(why), PLACE / 2, "{what}: {obstacles}");
                    assert_eq!(obstacles.bytes(Kept::Pinned), PLACE / 2, "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
            world.check();
        }
    }
}

/// tests/TODO: external objects
#[test]
fn somebody_elses_memory_stays() {
    for (world, from) in worlds() {
        let [external, other] = [(); 2].map(|()| world.create(PLACE / 2, from));
        world.with(external, |buffer| buffer.external = true);
        assert!(newcomer(&world, UNIT, from, &terms()).1);
        assert_eq!((world.at(external), world.at(other)), (Some(from), Some(from + 1)));
        world.check();
        assert!(!newcomer(&world, PLACE, from, &terms()).1, "it takes up room for good");
        world.check();
    }
}

/// tests/TODO: random sizes and numbers
#[test]
fn any_number_of_any_sizes() {
    for (name, make) in POLICIES {
        for seed in seeds(30) {
            let mut random = Random(seed);
            let world = Fake::chain(make, &[PLACE, PLACE, u64::MAX]);
            for _ in 0..100 {
                let before = world.used(0);
                let largest = 1 << random.below(9);
                let bytes = UNIT * (1 + random.below(largest)).min(256);
                let (_, came) = newcomer(&world, bytes, 0, &terms());
                assert!(came, "{name}, seed {seed}: whoever is smaller than the place gets in");
                // Nobody went who could have stayed.
                let asked = world.take_asked();
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
