//! `drivers/gpu/drm/ttm/tests/ttm_bo_test.c`: those that are about the order of last use. The others are in
//! `engine/sync/tests/ttm_bo.rs` and in `tests/ttm_bo.rs` at the root.
//!
//! | | upstream | here |
//! |---|---|---|
//! | TB-7 | `ttm_bo_unreserve_basic` | [`whoever_is_used_goes_last`] |
//! | TB-8 | `ttm_bo_unreserve_pinned` | [`a_pinned_one_is_in_no_order_once_it_was_asked`] |
//! | TB-9 | `ttm_bo_unreserve_bulk` | [`a_group_ages_together`], [`those_who_are_told_together_age_together`] |
//! | TB-13 | `ttm_bo_pin_unpin_resource` | [`what_is_not_pinned_any_more_is_back_in_order`] |
//!
//! There, a pin takes an object off its list at once. Here a pin is a count that nobody looks at until
//! somebody has to go: then the buffer is parked, until it is used or nobody else is left. There, letting a
//! reservation go counts as a use; here a use does. There, a bulk is a range of the list; here it is one
//! entry of it. Those who are used together and are in no group are told in one call.

use std::sync::Arc;

use super::world::{Buffer, Fake, Validated};
use super::{UNIT, places, terms};
use crate::residency::ageing::Ageing;
use crate::residency::policy;
use crate::residency::room::evict_bytes;

/// Four buffers that fill a place.
fn four() -> (Fake, Vec<u32>) {
    let world = Fake::chain(policy::lru, &[4 * UNIT, 100 * UNIT]);
    let buffers = (0..4).map(|_| world.create(UNIT, 0)).collect();
    (world, buffers)
}

fn another(world: &Fake) -> u32 {
    let newcomer = world.add(Buffer::new(UNIT));
    assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
    newcomer
}

/// upstream: `ttm_bo_unreserve_basic`
#[test]
fn whoever_is_used_goes_last() {
    let (world, buffers) = four();
    assert_eq!(world.order(0), [0, 1, 2, 3], "as they came");
    world.touch(buffers[0]);
    world.touch(buffers[2]);
    assert_eq!(world.order(0), [1, 3, 0, 2]);
    let newcomer = another(&world);
    assert_eq!(world.order(0), [3, 0, 2, newcomer], "the oldest has gone, the newest is last");
    // A use of one that is elsewhere changes nothing for those who are here.
    world.touch(buffers[1]);
    assert_eq!(world.order(0), [3, 0, 2, newcomer]);
    assert_eq!(world.order(1), [1]);
}

/// upstream: `ttm_bo_unreserve_pinned`
#[test]
fn a_pinned_one_is_in_no_order_once_it_was_asked() {
    let (world, buffers) = four();
    world.with(buffers[0], |buffer| buffer.pins = 1);
    assert_eq!(world.order(0), [0, 1, 2, 3], "nobody has looked yet");
    let newcomer = another(&world);
    assert_eq!(world.order(0), [2, 3, newcomer]);
    world.take_asked();
    for _ in 0..3 {
        world.drop_buffer(*world.order(0).last().expect("the newcomer"));
        world.with(world.order(0)[0], |buffer| buffer.pins = 0);
        another(&world);
        let asked = world.take_asked();
        assert!(asked.iter().all(|asked| asked.buffer != buffers[0]), "it is not asked again");
    }
    // It is when it was used: so one that is pinned and never used costs nothing.
    world.touch(buffers[0]);
    assert_eq!(world.order(0).last(), Some(&buffers[0]));
    world.check();
}

/// upstream: `ttm_bo_unreserve_bulk`. There whoever is used is the last of its bulk, and the bulk of the
/// list.
#[test]
fn a_group_ages_together() {
    let (world, buffers) = four();
    let age = Arc::new(Ageing::new(1));
    world.set_age(buffers[0], Some(&age));
    world.set_age(buffers[2], Some(&age));
    assert_eq!(world.order(0), [1, 3, 0, 2]);
    world.touch(buffers[1]);
    assert_eq!(world.order(0), [3, 0, 2, 1]);
    world.touch(buffers[0]);
    assert_eq!(world.order(0), [3, 1, 2, 0], "the other one is as young, and goes first");
    evict_bytes(&world, super::world::site(0), 3 * UNIT, &terms());
    assert_eq!(world.order(0), [buffers[0]]);
    assert_eq!(world.order(1), [3, 1, 2], "elsewhere it stands beside nobody of its group");
    // One that is elsewhere keeps those who are here.
    let newcomer = another(&world);
    assert_eq!(world.order(0), [buffers[0], newcomer]);
    world.touch(buffers[2]);
    assert_eq!(world.order(0), [newcomer, buffers[0]]);
    // Without the group each is on its own.
    world.set_age(buffers[2], None);
    world.touch(newcomer);
    world.touch(buffers[2]);
    assert_eq!(world.order(0), [buffers[0], newcomer]);
    world.check();
}

/// upstream: `ttm_bo_unreserve_bulk`, without a bulk.
#[test]
fn those_who_are_told_together_age_together() {
    let (world, buffers) = four();
    let (recency, slots) = (&world.site(0).recency, world.slots(0));
    // One call, in the order of the call, wherever they stood.
    recency.used_all([slots[2], slots[0]]);
    assert_eq!(world.order(0), [1, 3, 2, 0]);
    recency.used_all([slots[0], slots[2]]);
    assert_eq!(world.order(0), [1, 3, 0, 2]);
    evict_bytes(&world, super::world::site(0), 2 * UNIT, &terms());
    assert_eq!(world.order(0), [buffers[0], buffers[2]], "the group is still together");
    world.check();
}

/// upstream: `ttm_bo_pin_unpin_resource`
#[test]
fn what_is_not_pinned_any_more_is_back_in_order() {
    let (world, buffers) = four();
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 2));
    let newcomer = world.add(Buffer::new(UNIT));
    world.validate(newcomer, &places(&[0]), &terms()).expect_err("all are pinned");
    assert!(world.order(0).is_empty());
    // One unpin of two does not help.
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins -= 1));
    world.validate(newcomer, &places(&[0]), &terms()).expect_err("all are pinned once");
    world.with(buffers[2], |buffer| buffer.pins = 0);
    assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
    assert_eq!(world.at(buffers[2]), Some(1));
    // Those who were asked again are parked again; whose turn did not come is in order.
    assert_eq!(world.order(0), [buffers[3], newcomer]);
    world.check();
}
