//! Client groups, as the dmem cgroup controller has them: `dmem.max` of a region, `dmem_cgroup_try_charge`
//! and `dmem_cgroup_state_evict_valuable`.
//!
//! | kernel | here |
//! |---|---|
//! | a group at its limit evicts only its own | [`a_group_at_its_cap_evicts_only_its_own`] |
//! | a refused charge is no room there: evict, or the next domain (N17) | [`the_next_domain_is_used_if_no_buffer_of_the_group_can_be_evicted`] |
//! | a limit below what is in use | [`a_smaller_cap_evicts_the_groups_own_down_to_it`] |
//! | the charge is returned with the resource, not with the object | [`bytes_in_flight_are_charged`] |

use super::world::{Buffer, Fake, Validated, site};
use super::{POLICIES, UNIT, failures, limits, no_wait, places, tried};
use crate::memory::GroupId;
use crate::residency::eviction_failures::{CapReached, SkipReason};
use crate::residency::policy;
use crate::residency::priority::Priority;
use crate::residency::room::fit;

const OURS: u16 = 1;

/// A buffer of one unit that is charged to a group, in a domain that has room for it.
fn create(world: &Fake, group: u16, at: usize) -> u32 {
    let buffer = world.add(Buffer::new(UNIT).charged_to(group));
    assert_eq!(world.validate(buffer, &places(&[at]), &limits()), Ok(Validated::Moved));
    buffer
}

/// A domain of ten units with four old buffers without a group, and four of a group with a cap of four.
fn at_its_cap(make: super::Make) -> (Fake, [u32; 4], [u32; 4]) {
    let world = Fake::chain(make, &[10 * UNIT, 1000 * UNIT]);
    let others = [(); 4].map(|()| create(&world, 0, 0));
    let own = [(); 4].map(|()| create(&world, OURS, 0));
    world.cap(OURS, 0, Some(4 * UNIT));
    (world, others, own)
}

fn new_buffer(world: &Fake, units: u64) -> u32 {
    world.add(Buffer::new(units * UNIT).charged_to(OURS))
}

#[test]
fn a_group_at_its_cap_evicts_only_its_own() {
    for (name, make) in POLICIES {
        let (world, others, own) = at_its_cap(make);
        let new_buffer = new_buffer(&world, 2);
        assert_eq!(world.validate(new_buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
        let asked = tried(&world.take_attempts());
        assert_eq!(asked.len(), 2, "{name}: the smallest sufficient set");
        assert!(asked.iter().all(|each| own.contains(each)), "{name}: {asked:?}");
        assert!(others.iter().all(|&each| world.at(each) == Some(0)), "{name}");
        assert_eq!((world.used_by(OURS, 0), world.used_by(OURS, 1)), (4 * UNIT, 2 * UNIT));
        if name == "lru" {
            assert_eq!(asked, own[..2]);
        }
        // Other groups fill the rest without an eviction.
        create(&world, 0, 0);
        create(&world, 2, 0);
        assert_eq!(world.take_attempts().len(), 0, "{name}: there was room");
        world.check();
    }
}

#[test]
fn in_a_full_domain_the_groups_own_are_evicted_first_and_then_others() {
    let (world, others, own) = at_its_cap(policy::lru);
    world.site(0).ledger.set_cap(Some(8 * UNIT));
    world.cap(OURS, 0, Some(5 * UNIT));
    // One unit beyond the cap, and two beyond the budget.
    let new_buffer = new_buffer(&world, 2);
    assert_eq!(world.validate(new_buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), [own[0], others[0]]);
    world.check();
}

#[test]
fn purgeable_buffers_of_the_group_are_evicted_first_then_lower_priorities() {
    let (world, _, own) = at_its_cap(policy::lru);
    world.set_priority(own[0], Priority::High);
    let eviction_list = &world.site(0).eviction_list;
    eviction_list.set_purgeable(world.slots(0)[6], true);
    let order = eviction_list.victims_of(GroupId(OURS), 4 * UNIT, Priority::Highest, &|_| false);
    let order: Vec<_> = order.iter().map(|victim| victim.key).collect();
    assert_eq!(order, [own[2], own[1], own[3], own[0]]);
    let normal = eviction_list.victims_of(GroupId(OURS), 4 * UNIT, Priority::Normal, &|_| false);
    assert_eq!(normal.len(), 3);
    assert!(eviction_list.victims_of(GroupId(9), UNIT, Priority::Highest, &|_| false).is_empty());
}

#[test]
fn a_group_without_candidates_gets_no_room_and_changes_nothing() {
    for (name, make) in POLICIES {
        let (world, _, own) = at_its_cap(make);
        own.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 1));
        let new_buffer = new_buffer(&world, 1);
        for _ in 0..2 {
            let refused = failures(world.validate(new_buffer, &places(&[0]), &limits()));
            let reached = refused.cap_reached().expect("the cap was reached");
            let CapReached { ref group, asked, cap, used } = *reached;
            assert_eq!((group.as_str(), asked, cap, used), ("1", UNIT, 4 * UNIT, 4 * UNIT));
            assert_eq!(refused.bytes(SkipReason::Pinned), 4 * UNIT, "{name}: {refused}");
            let mut asked = tried(&world.take_attempts());
            asked.sort_unstable();
            assert_eq!(asked, own, "{name}: only its own");
        }
        assert_eq!(
            (world.at(new_buffer), world.used(0), world.used_by(OURS, 0)),
            (None, 8 * UNIT, 4 * UNIT)
        );
        assert_eq!(world.bytes_moved(), 0);
        world.with(own[3], |buffer| buffer.pins = 0);
        assert_eq!(world.validate(new_buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
        assert_eq!(world.at(own[3]), Some(1), "{name}: it is tried again");
        world.check();
    }
}

#[test]
fn a_request_above_the_cap_evicts_nothing() {
    let (world, ..) = at_its_cap(policy::lru);
    let new_buffer = new_buffer(&world, 5);
    let refused = failures(world.validate(new_buffer, &places(&[0]), &limits()));
    assert_eq!(refused.cap_reached().map(|reached| reached.asked), Some(5 * UNIT));
    assert_eq!(world.take_attempts().len(), 0);
    // A request above the domain's size is no matter of the cap.
    let large = world.add(Buffer::new(11 * UNIT).charged_to(2));
    assert_eq!(failures(world.validate(large, &places(&[0]), &limits())).cap_reached(), None);
    world.check();
}

#[test]
fn the_next_domain_is_used_if_no_buffer_of_the_group_can_be_evicted() {
    let (world, others, own) = at_its_cap(policy::lru);
    own.iter().for_each(|&each| world.with(each, |buffer| buffer.held = true));
    let new_buffer = new_buffer(&world, 1);
    assert_eq!(world.validate(new_buffer, &places(&[0, 1]), &limits()), Ok(Validated::Moved));
    assert_eq!(world.at(new_buffer), Some(1));
    assert!(others.iter().all(|&each| world.at(each) == Some(0)));
    world.check();
}

#[test]
fn a_smaller_cap_evicts_the_groups_own_down_to_it() {
    for slow in [false, true] {
        for (name, make) in POLICIES {
            let (world, others, own) = at_its_cap(make);
            world.set_slow(slow);
            world.cap(OURS, 0, Some(UNIT));
            assert_eq!(fit(&world, site(0), GroupId(OURS), &limits()).moved, 3 * UNIT, "{name}");
            assert_eq!((world.used_by(OURS, 0), world.used(0)), (UNIT, 5 * UNIT), "{name}");
            assert_eq!(own.iter().filter(|&&each| world.at(each) == Some(0)).count(), 1);
            assert!(others.iter().all(|&each| world.at(each) == Some(0)), "{name}");
            assert_eq!(fit(&world, site(0), GroupId(OURS), &limits()).moved, 0);
            world.cap(OURS, 0, None);
            let back = world.validate(own[0], &places(&[0]), &limits());
            assert!(back.is_ok(), "{name}: there is room, and no cap");
            world.check();
        }
    }
}

#[test]
fn bytes_in_flight_are_charged() {
    let (world, _, own) = at_its_cap(policy::lru);
    // A mapping keeps the bytes in use, and charged.
    world.with(own[0], |buffer| buffer.mapped = true);
    let first = new_buffer(&world, 1);
    assert_eq!(world.validate(first, &places(&[0]), &limits()), Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), own[..2], "the first one's ghost is still in use");
    assert_eq!((world.used_by(OURS, 0), world.bytes_in_flight(0)), (4 * UNIT, UNIT));
    world.drop_buffer(own[0]);
    assert_eq!(world.used_by(OURS, 0), 4 * UNIT);
    world.drop_mappings();
    let second = new_buffer(&world, 1);
    assert_eq!(world.validate(second, &places(&[0]), &no_wait()), Ok(Validated::Moved));
    assert_eq!(world.take_attempts().len(), 0, "it was reclaimed");
    world.check();
}

#[test]
fn bytes_in_flight_are_waited_for_and_evict_nothing_else() {
    let (world, _, own) = at_its_cap(policy::lru);
    world.set_slow(true);
    let new_buffer = new_buffer(&world, 2);
    let refused = failures(world.validate(new_buffer, &places(&[0]), &no_wait()));
    assert!(refused.cap_reached().is_some() && refused.iter().next().is_none(), "{refused}");
    assert_eq!(tried(&world.take_attempts()), own[..2]);
    assert_eq!(world.validate(new_buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
    assert_eq!(world.take_attempts().len(), 0, "two units were in flight");
    world.check();
}

/// Room that a group makes in a full domain is not taken by other requests in between.
#[test]
fn room_that_a_group_makes_is_not_taken_by_others() {
    for slow in [false, true] {
        let (world, ..) = at_its_cap(policy::lru);
        create(&world, 0, 0);
        create(&world, 0, 0);
        world.set_slow(slow);
        world.set_thief(true);
        let new_buffer = new_buffer(&world, 4);
        assert_eq!(world.validate(new_buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
        assert_eq!(world.thefts(), (4, 0), "tried each time, without success");
        world.set_thief(false);
        world.check();
    }
}

#[test]
fn victims_are_charged_to_their_group_in_their_new_domain() {
    let (world, others, own) = at_its_cap(policy::lru);
    world.cap(OURS, 1, Some(UNIT));
    let new_buffer = new_buffer(&world, 2);
    let refused = failures(world.validate(new_buffer, &places(&[0]), &limits()));
    assert_eq!(refused.bytes(SkipReason::NoRoom), 3 * UNIT, "one was evicted: {refused}");
    assert_eq!((world.used_by(OURS, 0), world.used_by(OURS, 1)), (3 * UNIT, UNIT));
    assert_eq!(world.at(own[0]), Some(1));
    assert!(others.iter().all(|&each| world.at(each) == Some(0)));
    world.check();
}
