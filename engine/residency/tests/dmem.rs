//! Client groups, as the dmem cgroup controller has them: `dmem.max` of a region, `dmem_cgroup_try_charge`
//! and `dmem_cgroup_state_evict_valuable`.
//!
//! | kernel | here |
//! |---|---|
//! | who meets the limit of its own evicts its own only | [`a_group_at_its_cap_evicts_its_own_and_nobody_else`] |
//! | a refused charge is no room there: evict, or the next place (N17) | [`the_next_place_will_do_where_nobody_of_the_group_can_go`] |
//! | a limit below what is in use | [`a_smaller_cap_evicts_the_groups_own_down_to_it`] |
//! | what was charged is given back with the resource, not with the object | [`what_has_not_left_counts`] |

use super::world::{Buffer, Fake, Validated, site};
use super::{POLICIES, UNIT, no_wait, obstacles, places, terms, who};
use crate::memory::GroupId;
use crate::residency::obstacles::{CapReached, Kept};
use crate::residency::policy;
use crate::residency::priority::Priority;
use crate::residency::room::fit;

const OURS: u16 = 1;

/// A buffer of one unit on a group's account, in a place that has room for it.
fn create(world: &Fake, group: u16, at: usize) -> u32 {
    let buffer = world.add(Buffer::new(UNIT).on_account_of(group));
    assert_eq!(world.validate(buffer, &places(&[at]), &terms()), Ok(Validated::Moved));
    buffer
}

/// A place of ten units with four old buffers of nobody's, and four of a group that may have four.
fn at_its_cap(make: super::Make) -> (Fake, [u32; 4], [u32; 4]) {
    let world = Fake::chain(make, &[10 * UNIT, 1000 * UNIT]);
    let others = [(); 4].map(|()| create(&world, 0, 0));
    let own = [(); 4].map(|()| create(&world, OURS, 0));
    world.cap(OURS, 0, Some(4 * UNIT));
    (world, others, own)
}

fn newcomer(world: &Fake, units: u64) -> u32 {
    world.add(Buffer::new(units * UNIT).on_account_of(OURS))
}

#[test]
fn a_group_at_its_cap_evicts_its_own_and_nobody_else() {
    for (name, make) in POLICIES {
        let (world, others, own) = at_its_cap(make);
        let newcomer = newcomer(&world, 2);
        assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
        let asked = who(&world.take_asked());
        assert_eq!(asked.len(), 2, "{name}: the smallest set");
        assert!(asked.iter().all(|each| own.contains(each)), "{name}: {asked:?}");
        assert!(others.iter().all(|&each| world.at(each) == Some(0)), "{name}");
        assert_eq!((world.used_by(OURS, 0), world.used_by(OURS, 1)), (4 * UNIT, 2 * UNIT));
        if name == "lru" {
            assert_eq!(asked, own[..2]);
        }
        // Others fill what is left, and are no matter to it.
        create(&world, 0, 0);
        create(&world, 2, 0);
        assert_eq!(world.take_asked().len(), 0, "{name}: there was room");
        world.check();
    }
}

#[test]
fn where_the_place_is_full_as_well_its_own_go_first_and_then_anybody() {
    let (world, others, own) = at_its_cap(policy::lru);
    world.site(0).ledger.set_cap(Some(8 * UNIT));
    world.cap(OURS, 0, Some(5 * UNIT));
    // One unit beyond the cap, and two beyond the budget.
    let newcomer = newcomer(&world, 2);
    assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), [own[0], others[0]]);
    world.check();
}

#[test]
fn lower_priorities_of_the_group_go_first_and_what_may_be_lost_before_all() {
    let (world, _, own) = at_its_cap(policy::lru);
    world.set_priority(own[0], Priority::High);
    let recency = &world.site(0).recency;
    recency.set_purgeable(world.slots(0)[6], true);
    let order = recency.victims_of(GroupId(OURS), 4 * UNIT, Priority::Highest, &|_| false);
    let order: Vec<_> = order.iter().map(|victim| victim.key).collect();
    assert_eq!(order, [own[2], own[1], own[3], own[0]]);
    let normal = recency.victims_of(GroupId(OURS), 4 * UNIT, Priority::Normal, &|_| false);
    assert_eq!(normal.len(), 3);
    assert!(recency.victims_of(GroupId(9), UNIT, Priority::Highest, &|_| false).is_empty());
}

#[test]
fn a_group_of_whom_nobody_can_go_gets_nothing_and_changes_nothing() {
    for (name, make) in POLICIES {
        let (world, _, own) = at_its_cap(make);
        own.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 1));
        let newcomer = newcomer(&world, 1);
        for _ in 0..2 {
            let refused = obstacles(world.validate(newcomer, &places(&[0]), &terms()));
            let reached = refused.cap_reached().expect("it was the cap");
            let CapReached { ref group, asked, cap, used } = *reached;
            assert_eq!((group.as_str(), asked, cap, used), ("1", UNIT, 4 * UNIT, 4 * UNIT));
            assert_eq!(refused.bytes(Kept::Pinned), 4 * UNIT, "{name}: {refused}");
            let mut asked = who(&world.take_asked());
            asked.sort_unstable();
            assert_eq!(asked, own, "{name}: nobody else");
        }
        assert_eq!(
            (world.at(newcomer), world.used(0), world.used_by(OURS, 0)),
            (None, 8 * UNIT, 4 * UNIT)
        );
        assert_eq!(world.bytes_moved(), 0);
        world.with(own[3], |buffer| buffer.pins = 0);
        assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
        assert_eq!(world.at(own[3]), Some(1), "{name}: it is asked again");
        world.check();
    }
}

#[test]
fn what_is_more_than_a_group_may_have_is_asked_of_nobody() {
    let (world, ..) = at_its_cap(policy::lru);
    let newcomer = newcomer(&world, 5);
    let refused = obstacles(world.validate(newcomer, &places(&[0]), &terms()));
    assert_eq!(refused.cap_reached().map(|reached| reached.asked), Some(5 * UNIT));
    assert_eq!(world.take_asked().len(), 0);
    // A full place is something else.
    let large = world.add(Buffer::new(11 * UNIT).on_account_of(2));
    assert_eq!(obstacles(world.validate(large, &places(&[0]), &terms())).cap_reached(), None);
    world.check();
}

#[test]
fn the_next_place_will_do_where_nobody_of_the_group_can_go() {
    let (world, others, own) = at_its_cap(policy::lru);
    own.iter().for_each(|&each| world.with(each, |buffer| buffer.held = true));
    let newcomer = newcomer(&world, 1);
    assert_eq!(world.validate(newcomer, &places(&[0, 1]), &terms()), Ok(Validated::Moved));
    assert_eq!(world.at(newcomer), Some(1));
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
            assert_eq!(fit(&world, site(0), GroupId(OURS), &terms()).moved, 3 * UNIT, "{name}");
            assert_eq!((world.used_by(OURS, 0), world.used(0)), (UNIT, 5 * UNIT), "{name}");
            assert_eq!(own.iter().filter(|&&each| world.at(each) == Some(0)).count(), 1);
            assert!(others.iter().all(|&each| world.at(each) == Some(0)), "{name}");
            assert_eq!(fit(&world, site(0), GroupId(OURS), &terms()).moved, 0);
            world.cap(OURS, 0, None);
            let back = world.validate(own[0], &places(&[0]), &terms());
            assert!(back.is_ok(), "{name}: there is room, and no cap");
            world.check();
        }
    }
}

#[test]
fn what_has_not_left_counts() {
    let (world, _, own) = at_its_cap(policy::lru);
    // Its mapping keeps the bytes, and their account.
    world.with(own[0], |buffer| buffer.haunted = true);
    let first = newcomer(&world, 1);
    assert_eq!(world.validate(first, &places(&[0]), &terms()), Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), own[..2], "the ghost of the first is still there");
    assert_eq!((world.used_by(OURS, 0), world.on_way(0)), (4 * UNIT, UNIT));
    world.drop_buffer(own[0]);
    assert_eq!(world.used_by(OURS, 0), 4 * UNIT);
    world.lay_ghosts();
    let second = newcomer(&world, 1);
    assert_eq!(world.validate(second, &places(&[0]), &no_wait()), Ok(Validated::Moved));
    assert_eq!(world.take_asked().len(), 0, "it was reaped");
    world.check();
}

#[test]
fn what_is_leaving_is_waited_for_and_nobody_goes_twice_for_it() {
    let (world, _, own) = at_its_cap(policy::lru);
    world.set_slow(true);
    let impatient = newcomer(&world, 2);
    let refused = obstacles(world.validate(impatient, &places(&[0]), &no_wait()));
    assert!(refused.cap_reached().is_some() && refused.iter().next().is_none(), "{refused}");
    assert_eq!(who(&world.take_asked()), own[..2]);
    assert_eq!(world.validate(impatient, &places(&[0]), &terms()), Ok(Validated::Moved));
    assert_eq!(world.take_asked().len(), 0, "two units were on their way out");
    world.check();
}

/// What a group makes free of a full place is not for those who look in between.
#[test]
fn nobody_takes_what_a_group_makes_free_for_itself() {
    for slow in [false, true] {
        let (world, ..) = at_its_cap(policy::lru);
        create(&world, 0, 0);
        create(&world, 0, 0);
        world.set_slow(slow);
        world.set_thief(true);
        let newcomer = newcomer(&world, 4);
        assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
        assert_eq!(world.thefts(), (4, 0), "tried each time, and in vain");
        world.set_thief(false);
        world.check();
    }
}

#[test]
fn victims_are_on_the_account_where_they_go() {
    let (world, others, own) = at_its_cap(policy::lru);
    world.cap(OURS, 1, Some(UNIT));
    let newcomer = newcomer(&world, 2);
    let refused = obstacles(world.validate(newcomer, &places(&[0]), &terms()));
    assert_eq!(refused.bytes(Kept::NoRoom), 3 * UNIT, "one has gone: {refused}");
    assert_eq!((world.used_by(OURS, 0), world.used_by(OURS, 1)), (3 * UNIT, UNIT));
    assert_eq!(world.at(own[0]), Some(1));
    assert!(others.iter().all(|&each| world.at(each) == Some(0)));
    world.check();
}
