//! `drivers/gpu/drm/ttm/tests/ttm_bo_validate_test.c`, the first half: moving a buffer. Eviction is in
//! `ttm_bo_evict.rs`.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TV-1 | `ttm_bo_init_reserved_sys_man` | [`a_new_buffer_in_the_slowest_domain`] |
//! | TV-2 | `ttm_bo_init_reserved_mock_man` | [`a_new_buffer_in_any_domain`] |
//! | TV-3 | `ttm_bo_init_reserved_resv` | does not apply: buffers do not share reservations; several are locked by `lock_many` (`engine/sync/tests/drm_exec.rs`; TB-11 in `tests/ttm_bo.rs` at the root) |
//! | TV-4 | `ttm_bo_validate_basic` | [`a_buffer_moves_to_the_requested_domain`] |
//! | TV-5 | `ttm_bo_validate_invalid_placement` | [`an_unknown_domain_changes_nothing`] |
//! | TV-6 | `ttm_bo_validate_same_placement` | [`nothing_happens_in_the_current_domain`] |
//! | TV-7 | `ttm_bo_validate_failed_alloc` | [`a_provider_that_fails_leaves_nothing_behind`] |
//! | TV-8 | `ttm_bo_validate_pinned` | [`a_held_buffer_does_not_move_and_may_stay`] |
//! | TV-9 | `ttm_bo_validate_busy_placement` | [`a_failing_domain_is_replaced_by_the_fallback`] |
//! | TV-10 | `ttm_bo_validate_multihop` | [`a_detour_costs_two_copies`] |
//! | TV-11 | `ttm_bo_validate_no_placement_signaled` | [`without_a_domain_the_buffer_loses_its_backing`] |
//! | TV-12 | `ttm_bo_validate_no_placement_not_signaled` | [`bytes_in_use_are_kept_until_their_work_is_over`] |
//! | TV-13 | `ttm_bo_validate_move_fence_signaled` | [`released_bytes_are_room`] |
//! | TV-14 | `ttm_bo_validate_move_fence_not_signaled` | [`bytes_in_flight_are_waited_for_or_a_fallback_is_used`] |
//! | TV-15 | `ttm_bo_validate_swapout` | [`all_buffers_are_evicted_to_the_next_domain`]: nothing is swapped here. System memory is the end of the chain; the closest operation is evicting a whole domain |
//!
//! Differences from upstream:
//! - The first backing is no move: no bytes count as moved.
//! - The preferred domains are tried with evictions before any fallback. Upstream, a fallback that has room goes
//!   before an eviction in a preferred domain.
//! - Upstream drops a buffer's bytes if its new domain has no room and it had none before. A failure here leaves
//!   the buffer unchanged.
//! - The types of upstream (`ttm_bo_type_*`) decide who maps a buffer; here every buffer can be mapped. A case
//!   per type upstream is a case per domain here, or per kind of buffer.
//! - Memory is allocated with the room, not at the first use (no `ttm_tt`): there is nothing to populate.

use super::world::{Buffer, Fake, Nature, Refused, Validated};
use super::{UNIT, limits, no_wait, places};
use crate::residency::eviction_failures::SkipReason;
use crate::residency::policy;
use crate::residency::room::evict_bytes;

/// Three domains of 256 units each.
fn world() -> Fake {
    Fake::chain(policy::lru, &[256 * UNIT; 3])
}

/// upstream: `ttm_bo_init_reserved_sys_man`
#[test]
fn a_new_buffer_in_the_slowest_domain() {
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
fn a_new_buffer_in_any_domain() {
    for at in 0..3 {
        let world = world();
        let buffer = world.create(16 * UNIT, at);
        for domain in 0..3 {
            let expected = if domain == at { (16 * UNIT, vec![buffer]) } else { (0, vec![]) };
            assert_eq!((world.used(domain), world.order(domain)), expected);
        }
        world.check();
    }
}

/// upstream: `ttm_bo_validate_basic`
#[test]
fn a_buffer_moves_to_the_requested_domain() {
    for (from, to) in [(2, 0), (1, 0), (0, 1), (0, 2)] {
        let world = world();
        let buffer = world.create(32 * UNIT, from);
        assert_eq!(world.validate(buffer, &places(&[to]), &limits()), Ok(Validated::Moved));
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(to), 32 * UNIT));
        assert_eq!((world.used(from), world.used(to)), (0, 32 * UNIT));
        assert!(world.buffer(buffer).content && world.take_attempts().is_empty());
        world.check();
    }
}

/// upstream: `ttm_bo_validate_invalid_placement`
#[test]
fn an_unknown_domain_changes_nothing() {
    let world = world();
    let (homeless, settled) = (world.add(Buffer::new(UNIT)), world.create(UNIT, 0));
    for (buffer, at) in [(homeless, None), (settled, Some(0))] {
        assert_eq!(world.validate(buffer, &places(&[7]), &limits()), Err(Refused::Failed));
        assert_eq!(world.at(buffer), at);
    }
    world.check();
}

/// upstream: `ttm_bo_validate_same_placement`
#[test]
fn nothing_happens_in_the_current_domain() {
    for at in 0..3 {
        let world = world();
        let buffer = world.create(UNIT, at);
        // Although it is busy, others would be suitable, and the budget is 0.
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
                let result = world.validate(buffer, &places(list), &limits());
                assert_eq!((result, world.at(buffer)), (Err(refused.clone()), at));
            }
        }
        assert_eq!((world.used(0), world.used(1), world.bytes_moved()), (0, 0, 0));
        world.check();
    }
}

/// upstream: `ttm_bo_validate_pinned`
#[test]
fn a_held_buffer_does_not_move_and_may_stay() {
    type Hold = fn(&mut Buffer);
    let ways: [(Hold, SkipReason); 3] = [
        (|buffer| buffer.pins = 1, SkipReason::Pinned),
        (|buffer| buffer.held = true, SkipReason::Held),
        (|buffer| buffer.external = true, SkipReason::Unreachable),
    ];
    for (hold, why) in ways {
        let world = world();
        let buffer = world.create(UNIT, 1);
        world.with(buffer, hold);
        for list in [&[0][..], &[2], &[0, 2], &[]] {
            let result = world.validate(buffer, &places(list), &limits());
            assert_eq!(result, Err(Refused::Kept(why)), "{list:?}");
        }
        for list in [&[1][..], &[0, 1]] {
            let result = world.validate(buffer, &places(list), &limits());
            assert_eq!(result, Ok(Validated::Stayed));
        }
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(1), 0));
        world.check();
    }
}

/// upstream: `ttm_bo_validate_busy_placement`
#[test]
fn a_failing_domain_is_replaced_by_the_fallback() {
    for nature in [Nature::Full, Nature::Busy] {
        let world = world();
        world.set_nature(0, nature);
        let buffer = world.create(16 * UNIT, 2);
        assert_eq!(world.validate(buffer, &places(&[0, 1]), &limits()), Ok(Validated::Moved));
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(1), 16 * UNIT));
        assert_eq!(world.order(1), [buffer]);
        world.check();
    }
}

/// A difference from upstream: evictions in the preferred domain go before a fallback.
#[test]
fn the_preferred_domain_evicts_before_a_fallback_is_used() {
    let world = world();
    let old = world.create(256 * UNIT, 0);
    let buffer = world.add(Buffer::new(UNIT));
    assert_eq!(world.validate(buffer, &places(&[0, 1]), &limits()), Ok(Validated::Moved));
    assert_eq!((world.at(buffer), world.at(old)), (Some(0), Some(1)));
    // But not if evictions are not allowed.
    let another = world.add(Buffer::new(256 * UNIT));
    let gently = super::EvictionLimits { evict: false, ..limits() };
    assert_eq!(world.validate(another, &places(&[0, 2]), &gently), Ok(Validated::Moved));
    assert_eq!((world.at(another), world.at(buffer)), (Some(2), Some(0)));
    world.check();
}

/// upstream: `ttm_bo_validate_multihop`
#[test]
fn a_detour_costs_two_copies() {
    for (from, to) in [(0, 2), (1, 0)] {
        let world = world();
        world.no_way(from, to);
        let buffer = world.create(16 * UNIT, from);
        assert_eq!(world.validate(buffer, &places(&[to]), &limits()), Ok(Validated::Moved));
        assert_eq!((world.at(buffer), world.bytes_moved()), (Some(to), 32 * UNIT));
        assert_eq!((0..3).map(|at| world.used(at)).sum::<u64>(), 16 * UNIT);
        world.check();
    }
}

/// upstream: `ttm_bo_validate_multihop`, where the domain in between is full
#[test]
fn a_failing_detour_leaves_the_buffer_in_its_domain() {
    let world = world();
    world.no_way(0, 2);
    world.set_nature(1, Nature::Full);
    let buffer = world.create(16 * UNIT, 0);
    assert_eq!(world.validate(buffer, &places(&[2]), &limits()), Err(Refused::Full));
    assert_eq!((world.at(buffer), world.bytes_moved(), world.used(2)), (Some(0), 0, 0));
    world.check();
}

/// upstream: `ttm_bo_validate_no_placement_signaled`
#[test]
fn without_a_domain_the_buffer_loses_its_backing() {
    let world = world();
    for buffer in [world.create(UNIT, 0), world.add(Buffer::new(UNIT))] {
        assert_eq!(world.validate(buffer, &[], &limits()), Ok(Validated::Dropped));
        assert_eq!((world.at(buffer), world.used(0), world.bytes_moved()), (None, 0, 0));
        assert!(!world.buffer(buffer).content, "stale bytes are not visible");
        world.check();
        // It can get a new backing.
        assert_eq!(world.validate(buffer, &places(&[1]), &limits()), Ok(Validated::Moved));
        assert_eq!(world.bytes_moved(), 0, "there was nothing to copy");
        world.drop_buffer(buffer);
    }
}

/// upstream: `ttm_bo_validate_no_placement_not_signaled`
#[test]
fn bytes_in_use_are_kept_until_their_work_is_over() {
    for host in [false, true] {
        let world = world();
        let buffer = world.create(256 * UNIT, 0);
        let work = world.begin(buffer, host);
        assert_eq!(world.validate(buffer, &[], &no_wait()), Ok(Validated::Dropped), "at once");
        assert_eq!(
            (world.at(buffer), world.used(0), world.bytes_in_flight(0)),
            (None, 65536, 65536)
        );
        world.check();
        let other = world.add(Buffer::new(UNIT));
        world.validate(other, &places(&[0]), &no_wait()).expect_err("in use");
        world.end(work);
        assert_eq!(world.validate(other, &places(&[0]), &no_wait()), Ok(Validated::Moved));
        assert_eq!(world.used(0), UNIT);
        world.check();
    }
}

/// A domain that is full of bytes that were just left.
fn just_left() -> Fake {
    let world = world();
    let old = world.create(256 * UNIT, 0);
    world.set_slow(true);
    assert_eq!(world.validate(old, &places(&[1]), &limits()), Ok(Validated::Moved));
    world
}

/// upstream: `ttm_bo_validate_move_fence_signaled`
#[test]
fn released_bytes_are_room() {
    let world = just_left();
    (0..world.works()).for_each(|work| world.end(work));
    let buffer = world.add(Buffer::new(UNIT));
    assert_eq!(world.validate(buffer, &places(&[0, 2]), &no_wait()), Ok(Validated::Moved));
    assert_eq!(world.at(buffer), Some(0), "although they were not reclaimed yet");
    world.check();
}

/// upstream: `ttm_bo_validate_move_fence_not_signaled`
#[test]
fn bytes_in_flight_are_waited_for_or_a_fallback_is_used() {
    for (limits, expected) in [(limits(), 0), (no_wait(), 2)] {
        let world = just_left();
        let buffer = world.add(Buffer::new(UNIT));
        assert_eq!(world.validate(buffer, &places(&[0, 2]), &limits), Ok(Validated::Moved));
        assert_eq!(world.at(buffer), Some(expected));
        assert!(world.take_attempts().is_empty());
        world.check();
    }
}

/// upstream: `ttm_bo_validate_swapout`
#[test]
fn all_buffers_are_evicted_to_the_next_domain() {
    let world = world();
    let buffers: Vec<_> = (1..6).map(|units| world.create(units * UNIT, 1)).collect();
    world.with(buffers[3], |buffer| buffer.pins = 1);
    world.set_slow(true);
    let evicted = evict_bytes(&world, super::world::site(1), u64::MAX, &limits());
    assert_eq!((evicted.moved, evicted.failures.bytes(SkipReason::Pinned)), (11 * UNIT, 4 * UNIT));
    assert_eq!((world.used(1), world.used(2)), (4 * UNIT, 11 * UNIT));
    world.check();
}
