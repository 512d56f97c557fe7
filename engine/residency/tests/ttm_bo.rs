//! `drivers/gpu/drm/ttm/tests/ttm_bo_test.c`: the tests of the order of last use. The others are in
//! `engine/sync/tests/ttm_bo.rs` and in `tests/ttm_bo.rs` at the root.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TB-7 | `ttm_bo_unreserve_basic` | [`the_most_recently_used_is_evicted_last`] |
//! | TB-8 | `ttm_bo_unreserve_pinned` | [`a_pinned_buffer_is_parked_once_it_was_tried`] |
//! | TB-9 | `ttm_bo_unreserve_bulk` | [`a_bulk_group_is_used_together`], [`buffers_that_are_marked_together_stay_together`] |
//! | TB-13 | `ttm_bo_pin_unpin_resource` | [`an_unpinned_buffer_is_back_in_order`] |
//!
//! Upstream, a pin removes an object from its list at once. Here a pin is a count that is read when the buffer
//! is tried as a victim: then the buffer is parked until its next use, or until no other candidate is left.
//! Upstream, releasing a reservation counts as a use; here only a use does. Upstream, a bulk is a range of the
//! list; here it is one entry. Buffers that are used together without a group are marked in one call.

use std::sync::Arc;

use super::world::{Buffer, Fake, Validated};
use super::{UNIT, limits, places};
use crate::residency::bulk_move::BulkGroup;
use crate::residency::policy;
use crate::residency::room::evict_bytes;

/// Four buffers that fill a domain.
fn four() -> (Fake, Vec<u32>) {
    let world = Fake::chain(policy::lru, &[4 * UNIT, 100 * UNIT]);
    let buffers = (0..4).map(|_| world.create(UNIT, 0)).collect();
    (world, buffers)
}

fn another(world: &Fake) -> u32 {
    let new_buffer = world.add(Buffer::new(UNIT));
    assert_eq!(world.validate(new_buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
    new_buffer
}

/// upstream: `ttm_bo_unreserve_basic`
#[test]
fn the_most_recently_used_is_evicted_last() {
    let (world, buffers) = four();
    assert_eq!(world.order(0), [0, 1, 2, 3], "in order of creation");
    world.touch(buffers[0]);
    world.touch(buffers[2]);
    assert_eq!(world.order(0), [1, 3, 0, 2]);
    let new_buffer = another(&world);
    assert_eq!(world.order(0), [3, 0, 2, new_buffer], "the oldest was evicted, the newest is last");
    // A use of a displaced buffer does not change the order of the resident ones.
    world.touch(buffers[1]);
    assert_eq!(world.order(0), [3, 0, 2, new_buffer]);
    assert_eq!(world.order(1), [1]);
}

/// upstream: `ttm_bo_unreserve_pinned`
#[test]
fn a_pinned_buffer_is_parked_once_it_was_tried() {
    let (world, buffers) = four();
    world.with(buffers[0], |buffer| buffer.pins = 1);
    assert_eq!(world.order(0), [0, 1, 2, 3], "it was not tried yet");
    let new_buffer = another(&world);
    assert_eq!(world.order(0), [2, 3, new_buffer]);
    world.take_attempts();
    for _ in 0..3 {
        world.drop_buffer(*world.order(0).last().expect("the new buffer"));
        world.with(world.order(0)[0], |buffer| buffer.pins = 0);
        another(&world);
        let asked = world.take_attempts();
        assert!(asked.iter().all(|asked| asked.buffer != buffers[0]), "it is not tried again");
    }
    // It is tried again after a use. A pinned buffer that is never used costs nothing.
    world.touch(buffers[0]);
    assert_eq!(world.order(0).last(), Some(&buffers[0]));
    world.check();
}

/// upstream: `ttm_bo_unreserve_bulk`. There the used object becomes the last of its bulk, and the bulk the last
/// of the list.
#[test]
fn a_bulk_group_is_used_together() {
    let (world, buffers) = four();
    let age = Arc::new(BulkGroup::new(1));
    world.set_bulk_group(buffers[0], Some(&age));
    world.set_bulk_group(buffers[2], Some(&age));
    assert_eq!(world.order(0), [1, 3, 0, 2]);
    world.touch(buffers[1]);
    assert_eq!(world.order(0), [3, 0, 2, 1]);
    world.touch(buffers[0]);
    assert_eq!(world.order(0), [3, 1, 2, 0], "the other member is as recent, and is evicted first");
    evict_bytes(&world, super::world::site(0), 3 * UNIT, &limits());
    assert_eq!(world.order(0), [buffers[0]]);
    assert_eq!(world.order(1), [3, 1, 2], "in the other domain it is the only member of its group");
    // A use of a displaced member counts for the resident ones.
    let new_buffer = another(&world);
    assert_eq!(world.order(0), [buffers[0], new_buffer]);
    world.touch(buffers[2]);
    assert_eq!(world.order(0), [new_buffer, buffers[0]]);
    // Without the group each buffer is by itself.
    world.set_bulk_group(buffers[2], None);
    world.touch(new_buffer);
    world.touch(buffers[2]);
    assert_eq!(world.order(0), [buffers[0], new_buffer]);
    world.check();
}

/// upstream: `ttm_bo_unreserve_bulk`, without a bulk.
#[test]
fn buffers_that_are_marked_together_stay_together() {
    let (world, buffers) = four();
    let (eviction_list, slots) = (&world.site(0).eviction_list, world.slots(0));
    // One call, in the order of the call, whatever their positions were.
    eviction_list.mark_all_used([slots[2], slots[0]]);
    assert_eq!(world.order(0), [1, 3, 2, 0]);
    eviction_list.mark_all_used([slots[0], slots[2]]);
    assert_eq!(world.order(0), [1, 3, 0, 2]);
    evict_bytes(&world, super::world::site(0), 2 * UNIT, &limits());
    assert_eq!(world.order(0), [buffers[0], buffers[2]], "the group is still together");
    world.check();
}

/// upstream: `ttm_bo_pin_unpin_resource`
#[test]
fn an_unpinned_buffer_is_back_in_order() {
    let (world, buffers) = four();
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 2));
    let new_buffer = world.add(Buffer::new(UNIT));
    world.validate(new_buffer, &places(&[0]), &limits()).expect_err("all are pinned");
    assert!(world.order(0).is_empty());
    // One unpin of two does not help.
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins -= 1));
    world.validate(new_buffer, &places(&[0]), &limits()).expect_err("all are pinned once");
    world.with(buffers[2], |buffer| buffer.pins = 0);
    assert_eq!(world.validate(new_buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
    assert_eq!(world.at(buffers[2]), Some(1));
    // Buffers that were tried again are parked again; the one that was not tried is in order.
    assert_eq!(world.order(0), [buffers[3], new_buffer]);
    world.check();
}
