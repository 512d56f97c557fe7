//! `drivers/gpu/drm/ttm/tests/ttm_bo_validate_test.c`, the first half: putting a buffer somewhere. Eviction is
//! in `ttm_bo_evict.rs`.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TV-1 | `ttm_bo_init_reserved_sys_man` | [`a_new_one_in_the_slowest_place`] |
//! | TV-2 | `ttm_bo_init_reserved_mock_man` | [`a_new_one_in_any_place`] |
//! | TV-3 | `ttm_bo_init_reserved_resv` | not here: no buffer has another one's reservation; sets of them are locked by `lock_many` (`engine/sync/tests/drm_exec.rs`; TB-11 in `tests/ttm_bo.rs` at the root) |
//! | TV-4 | `ttm_bo_validate_basic` | [`it_moves_where_it_is_to_be`] |
//! | TV-5 | `ttm_bo_validate_invalid_placement` | [`a_place_that_is_not_there_changes_nothing`] |
//! | TV-6 | `ttm_bo_validate_same_placement` | [`where_it_is_already_nothing_happens`] |
//! | TV-7 | `ttm_bo_validate_failed_alloc` | [`a_provider_that_fails_leaves_nothing_behind`] |
//! | TV-8 | `ttm_bo_validate_pinned` | [`what_is_held_does_not_move_and_may_be_where_it_is`] |
//! | TV-9 | `ttm_bo_validate_busy_placement` | [`where_the_first_place_is_no_good_the_fallback_is_taken`] |
//! | TV-10 | `ttm_bo_validate_multihop` | [`a_way_around_costs_two_copies`] |
//! | TV-11 | `ttm_bo_validate_no_placement_signaled` | [`without_a_place_it_loses_its_bytes`] |
//! | TV-12 | `ttm_bo_validate_no_placement_not_signaled` | [`bytes_that_are_in_use_are_kept_until_they_are_not`] |
//! | TV-13 | `ttm_bo_validate_move_fence_signaled` | [`room_that_has_become_free_is_room`] |
//! | TV-14 | `ttm_bo_validate_move_fence_not_signaled` | [`room_that_is_becoming_free_is_waited_for_or_done_without`] |
//! | TV-15 | `ttm_bo_validate_swapout` | [`everybody_out_to_the_next_place`]: nothing is swapped here. System memory is the end of the chain; what is nearest is evicting a whole place |
//!
//! Other than there:
//! - A first place is none that it moves to: no bytes count as moved.
//! - The wanted places are tried with eviction before any fallback is; there, a fallback that has room comes
//!   before an eviction in a desired place.
//! - Upstream drops a buffer's bytes when its new place cannot be had and it had none; a failure here leaves
//!   it as it was, with the bytes that it had.
//! - Types of buffers (`ttm_bo_type_*`) are who maps them; here everybody maps. Where upstream runs a case per
//!   type, it is run here per place, or per kind of buffer where there is one.
//! - Memory is provided with the room, not at the first use (no `ttm_tt`): there is nothing to populate.

use super::world::{Buffer, Fake, Nature, Refused, Validated};
use super::{UNIT, no_wait, places, terms};
use crate::residency::obstacles::Kept;
use crate::residency::policy;
use crate::residency::room::evict_bytes;

/// Three places of 256 units each.
fn world() -> Fake {
    Fake::chain(policy::lru, &[256 * UNIT; 3])
}

/// upstream: `ttm_bo_init_reserved_sys_man`
#[test]
fn a_new_one_in_the_slowest_place() {
    let world = world();
    let buffer = world.create(16 * UNIT, 2);
    assert_eq!((world.at(buffer), world.used(2)), (Some(2), 16 * UNIT));
    assert_eq!((world.bytes_moved(), world.buffer(buffer).moves), (0, 0));
    assert_eq!(world.buffer(buffer).pins, 0);
    world.check();
    world.drop_buffer(buffer);
    assert!(world.order(2).is_empty());
    world.check();
}

/// upstream: `ttm_bo_init_reserved_mock_man`
#[test]
fn a_new_one_in_any_place() {
    for at in 0..3 {
        let world = world();
        let buffer = world.create(16 * UNIT, at);
        for place in 0..3 {
            let expected = if place == at { (16 * UNIT, vec![buffer]) } else { (0, vec![]) };
            assert_eq!((world.used(place), world.order(place)), expected);
        }
        world.check();
    }
}

/// upstream: `ttm_bo_validate_basic`
#[test]
fn it_moves_where_it_is_to_be() {
    for (from, to) in [(2, 0), (1, 0), (0, 1), (0, 2)] {
        let world = world();
        let buffer = world.create(32 * UNIT, from);
        assert_eq!(world.validate(buffer, &places(&[to]), &terms()), Ok(Validated::Moved));
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(to), 32 * UNIT));
        assert_eq!((world.used(from), world.used(to)), (0, 32 * UNIT));
        assert!(world.buffer(buffer).content && world.take_asked().is_empty());
        world.check();
    }
}

/// upstream: `ttm_bo_validate_invalid_placement`
#[test]
fn a_place_that_is_not_there_changes_nothing() {
    let world = world();
    let (homeless, settled) = (world.add(Buffer::new(UNIT)), world.create(UNIT, 0));
    for (buffer, at) in [(homeless, None), (settled, Some(0))] {
        assert_eq!(world.validate(buffer, &places(&[7]), &terms()), Err(Refused::Failed));
        assert_eq!(world.at(buffer), at);
    }
    world.check();
}

/// upstream: `ttm_bo_validate_same_placement`
#[test]
fn where_it_is_already_nothing_happens() {
    for at in 0..3 {
        let world = world();
        let buffer = world.create(UNIT, at);
        // Busy as it is, among others that would do, and however little room there is.
        world.begin(buffer, true);
        world.site(at).ledger.set_cap(Some(0));
        for list in [vec![at], vec![(at + 1) % 3, at]] {
            assert_eq!(world.validate(buffer, &places(&list), &no_wait()), Ok(Validated::Stayed));
        }
        assert_eq!((world.bytes_moved(), world.buffer(buffer).moves), (0, 0));
        world.check();
    }
}

/// upstream: `ttm_bo_validate_failed_alloc`
#[test]
fn a_provider_that_fails_leaves_nothing_behind() {
    for (nature, refused) in [(Nature::Full, Refused::Full), (Nature::Busy, Refused::Failed)] {
        let world = world();
        (0..2).for_each(|at| world.set_nature(at, nature));
        let homeless = world.add(Buffer::new(UNIT));
        let settled = world.create(UNIT, 2);
        for (buffer, at) in [(homeless, None), (settled, Some(2))] {
            for list in [&[0][..], &[0, 1]] {
                let result = world.validate(buffer, &places(list), &terms());
                assert_eq!((result, world.at(buffer)), (Err(refused.clone()), at));
            }
        }
        assert_eq!((world.used(0), world.used(1), world.bytes_moved()), (0, 0, 0));
        world.check();
    }
}

/// upstream: `ttm_bo_validate_pinned`
#[test]
fn what_is_held_does_not_move_and_may_be_where_it_is() {
    type Hold = fn(&mut Buffer);
    let ways: [(Hold, Kept); 3] = [
        (|buffer| buffer.pins = 1, Kept::Pinned),
        (|buffer| buffer.held = true, Kept::Held),
        (|buffer| buffer.external = true, Kept::Unreachable),
    ];
    for (hold, why) in ways {
        let world = world();
        let buffer = world.create(UNIT, 1);
        world.with(buffer, hold);
        for list in [&[0][..], &[2], &[0, 2], &[]] {
            let result = world.validate(buffer, &places(list), &terms());
            assert_eq!(result, Err(Refused::Kept(why)), "{list:?}");
        }
        for list in [&[1][..], &[0, 1]] {
            let result = world.validate(buffer, &places(list), &terms());
            assert_eq!(result, Ok(Validated::Stayed));
        }
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(1), 0));
        world.check();
    }
}

/// upstream: `ttm_bo_validate_busy_placement`
#[test]
fn where_the_first_place_is_no_good_the_fallback_is_taken() {
    for nature in [Nature::Full, Nature::Busy] {
        let world = world();
        world.set_nature(0, nature);
        let buffer = world.create(16 * UNIT, 2);
        assert_eq!(world.validate(buffer, &places(&[0, 1]), &terms()), Ok(Validated::Moved));
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(1), 16 * UNIT));
        assert_eq!(world.order(1), [buffer]);
        world.check();
    }
}

/// Where ours differs: who is in the way goes, before the newcomer makes do with less.
#[test]
fn the_wanted_place_is_made_free_before_a_fallback_is_taken() {
    let world = world();
    let old = world.create(256 * UNIT, 0);
    let buffer = world.add(Buffer::new(UNIT));
    assert_eq!(world.validate(buffer, &places(&[0, 1]), &terms()), Ok(Validated::Moved));
    assert_eq!((world.at(buffer), world.at(old)), (Some(0), Some(1)));
    // And not if nobody may be evicted.
    let another = world.add(Buffer::new(256 * UNIT));
    let gently = super::Terms { evict: false, ..terms() };
    assert_eq!(world.validate(another, &places(&[0, 2]), &gently), Ok(Validated::Moved));
    assert_eq!((world.at(another), world.at(buffer)), (Some(2), Some(0)));
    world.check();
}

/// upstream: `ttm_bo_validate_multihop`
#[test]
fn a_way_around_costs_two_copies() {
    for (from, to) in [(0, 2), (1, 0)] {
        let world = world();
        world.no_way(from, to);
        let buffer = world.create(16 * UNIT, from);
        assert_eq!(world.validate(buffer, &places(&[to]), &terms()), Ok(Validated::Moved));
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(to), 32 * UNIT));
        assert_eq!((0..3).map(|at| world.used(at)).sum::<u64>(), 16 * UNIT);
        world.check();
    }
}

/// upstream: `ttm_bo_validate_multihop`, where the place in between is full
#[test]
fn a_way_around_that_is_shut_leaves_it_where_it_was() {
    let world = world();
    world.no_way(0, 2);
    world.set_nature(1, Nature::Full);
    let buffer = world.create(16 * UNIT, 0);
    assert_eq!(world.validate(buffer, &places(&[2]), &terms()), Err(Refused::Full));
    assert_eq!((world.at(buffer), world.bytes_moved(), world.used(2)), (Some(0), 0, 0));
    world.check();
}

/// upstream: `ttm_bo_validate_no_placement_signaled`
#[test]
fn without_a_place_it_loses_its_bytes() {
    let world = world();
    for buffer in [world.create(UNIT, 0), world.add(Buffer::new(UNIT))] {
        assert_eq!(world.validate(buffer, &[], &terms()), Ok(Validated::Dropped));
        assert_eq!((world.at(buffer), world.used(0), world.bytes_moved()), (None, 0, 0));
        assert!(!world.buffer(buffer).content, "nobody sees stale bytes");
        world.check();
        // It can have others.
        assert_eq!(world.validate(buffer, &places(&[1]), &terms()), Ok(Validated::Moved));
        assert_eq!(world.bytes_moved(), 0, "there was nothing to copy");
        world.drop_buffer(buffer);
    }
}

/// upstream: `ttm_bo_validate_no_placement_not_signaled`
#[test]
fn bytes_that_are_in_use_are_kept_until_they_are_not() {
    for host in [false, true] {
        let world = world();
        let buffer = world.create(256 * UNIT, 0);
        let work = world.begin(buffer, host);
        assert_eq!(world.validate(buffer, &[], &no_wait()), Ok(Validated::Dropped), "at once");
        assert_eq!((world.at(buffer), world.used(0), world.on_way(0)), (None, 65536, 65536));
        world.check();
        let other = world.add(Buffer::new(UNIT));
        world.validate(other, &places(&[0]), &no_wait()).expect_err("in use");
        world.end(work);
        assert_eq!(world.validate(other, &places(&[0]), &no_wait()), Ok(Validated::Moved));
        assert_eq!(world.used(0), UNIT);
        world.check();
    }
}

/// A place that is full of bytes that somebody has just left.
fn just_left() -> Fake {
    let world = world();
    let old = world.create(256 * UNIT, 0);
    world.set_slow(true);
    assert_eq!(world.validate(old, &places(&[1]), &terms()), Ok(Validated::Moved));
    world
}

/// upstream: `ttm_bo_validate_move_fence_signaled`
#[test]
fn room_that_has_become_free_is_room() {
    let world = just_left();
    (0..world.works()).for_each(|work| world.end(work));
    let buffer = world.add(Buffer::new(UNIT));
    assert_eq!(world.validate(buffer, &places(&[0, 2]), &no_wait()), Ok(Validated::Moved));
    assert_eq!(world.at(buffer), Some(0), "although nobody had looked");
    world.check();
}

/// upstream: `ttm_bo_validate_move_fence_not_signaled`
#[test]
fn room_that_is_becoming_free_is_waited_for_or_done_without() {
    for (terms, expected) in [(terms(), 0), (no_wait(), 2)] {
        let world = just_left();
        let buffer = world.add(Buffer::new(UNIT));
        assert_eq!(world.validate(buffer, &places(&[0, 2]), &terms), Ok(Validated::Moved));
        assert_eq!(world.at(buffer), Some(expected));
        assert!(world.take_asked().is_empty());
        world.check();
    }
}

/// upstream: `ttm_bo_validate_swapout`
#[test]
fn everybody_out_to_the_next_place() {
    let world = world();
    let buffers: Vec<_> = (1..6).map(|units| world.create(units * UNIT, 1)).collect();
    world.with(buffers[3], |buffer| buffer.pins = 1);
    world.set_slow(true);
    let evicted = evict_bytes(&world, super::world::site(1), u64::MAX, &terms());
    assert_eq!((evicted.moved, evicted.obstacles.bytes(Kept::Pinned)), (11 * UNIT, 4 * UNIT));
    assert_eq!((world.used(1), world.used(2)), (4 * UNIT, 11 * UNIT));
    world.check();
}
