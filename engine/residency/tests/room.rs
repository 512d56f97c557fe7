//! The search for room: what it promises, one by one.

use super::world::{Buffer, Fake, Lock, Nature, Refused, Validated, site};
use super::{UNIT, no_wait, obstacles, places, terms, who};
use crate::memory::GroupId;
use crate::residency::obstacles::Kept;
use crate::residency::policy;
use crate::residency::priority::Priority;
use crate::residency::room::{Terms, Turned, evict_bytes, fit, with_room};

/// A fast place of so many units, full of buffers of one, and a slow one for all of them.
fn full(units: u64) -> (Fake, Vec<u32>) {
    let world = Fake::chain(policy::lru, &[units * UNIT, 1000 * UNIT]);
    let buffers = (0..units).map(|_| world.create(UNIT, 0)).collect();
    (world, buffers)
}

/// A newcomer of so many units, and what comes of its wish to be in the fast place.
fn ask_for(world: &Fake, units: u64, terms: &Terms) -> (u32, Result<Validated, Refused>) {
    let newcomer = world.add(Buffer::new(units * UNIT));
    (newcomer, world.validate(newcomer, &places(&[0]), terms))
}

#[test]
fn no_more_go_than_have_to_while_they_leave_one_by_one() {
    let (world, buffers) = full(6);
    world.set_slow(true);
    assert_eq!(ask_for(&world, 3, &terms()).1, Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), buffers[..3]);
    world.check();
}

#[test]
fn what_is_evicted_by_hand_is_out_when_it_is_over() {
    let (world, buffers) = full(6);
    world.set_slow(true);
    let evicted = evict_bytes(&world, site(0), 3 * UNIT, &terms());
    assert_eq!((evicted.moved, who(&world.take_asked())), (3 * UNIT, buffers[..3].to_vec()));
    assert_eq!((world.on_way(0), world.used(0)), (0, 3 * UNIT));
    world.check();
}

/// Kernel: xe's two address spaces that evicted each other for ever.
#[test]
fn evicting_everybody_ends_though_they_come_back_at_once() {
    let (world, buffers) = full(4);
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.restless = true));
    let evicted = evict_bytes(&world, site(0), u64::MAX, &terms());
    assert_eq!(evicted.moved, 4 * UNIT, "each was asked once");
    assert_eq!(who(&world.take_asked()), buffers);
    world.check();
}

#[test]
fn whoever_is_dropped_while_it_is_asked_is_no_obstacle_to_the_next() {
    let (world, buffers) = full(2);
    world.with(buffers[0], |buffer| buffer.fleeting = true);
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved));
    world.check();
}

#[test]
fn whoever_stayed_is_skipped_and_the_next_one_asked() {
    let (world, buffers) = full(5);
    world.with(buffers[0], |buffer| buffer.pins = 1);
    world.with(buffers[1], |buffer| buffer.held = true);
    world.with(buffers[2], |buffer| buffer.lock = Lock::Taken);
    assert_eq!(ask_for(&world, 2, &terms()).1, Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), buffers, "each once");
    assert_eq!([0, 1, 2].map(|n| world.at(buffers[n])), [Some(0); 3]);
    assert_eq!(world.order(0), [buffers[2], 5], "the pinned one and the held one are in no order");
    world.check();
}

#[test]
fn those_who_stay_after_all_was_tried_are_in_no_order_either() {
    let (world, buffers) = full(3);
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 1));
    for _ in 0..2 {
        let obstacles = obstacles(ask_for(&world, 1, &terms()).1);
        assert_eq!(obstacles.bytes(Kept::Pinned), 3 * UNIT);
        assert_eq!(obstacles.holders_of_pins().len(), 3);
        assert!(world.order(0).is_empty(), "{:?}", world.order(0));
        assert_eq!(who(&world.take_asked()), buffers, "each once, and again the next time");
    }
    world.with(buffers[1], |buffer| buffer.pins = 0);
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved), "it is asked again");
    world.check();
}

#[test]
fn however_many_were_parked_whoever_is_free_again_is_found() {
    const MANY: u64 = 300;
    let (world, buffers) = full(MANY);
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 1));
    let parked = obstacles(ask_for(&world, 1, &terms()).1);
    assert_eq!(parked.iter().collect::<Vec<_>>(), [(Kept::Pinned, MANY * UNIT, 300)]);
    world.take_asked();
    let last = *buffers.last().expect("many");
    world.with(last, |buffer| buffer.pins = 0);
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved));
    assert_eq!(world.at(last), Some(1));
    assert_eq!(who(&world.take_asked()).len(), 300, "nobody was asked twice");
    world.check();
}

#[test]
fn one_that_is_locked_is_waited_for_when_nobody_else_is_left() {
    let (world, buffers) = full(3);
    world.with(buffers[0], |buffer| buffer.lock = Lock::Yielding);
    world.with(buffers[1], |buffer| buffer.pins = 1);
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved));
    assert_eq!(world.at(buffers[0]), Some(0), "there was somebody else");
    world.take_asked();
    // The newcomer is gone before somebody locked is waited for.
    assert_eq!(ask_for(&world, 2, &terms()).1, Ok(Validated::Moved));
    let expected = [buffers[0], 3, buffers[1], buffers[0]];
    assert_eq!(who(&world.take_asked()), expected, "first without a wait, everybody");
    world.check();
}

#[test]
fn without_a_wait_nobody_is_waited_for() {
    let (world, buffers) = full(1);
    world.with(buffers[0], |buffer| buffer.lock = Lock::Yielding);
    let locked = obstacles(ask_for(&world, 1, &no_wait()).1);
    assert_eq!(locked.bytes(Kept::Locked), UNIT);
    assert_eq!(who(&world.take_asked()), buffers, "once");
    world.check();
}

#[test]
fn without_a_wait_room_is_made_for_the_next_time() {
    let (world, buffers) = full(3);
    world.set_slow(true);
    let (newcomer, refused) = ask_for(&world, 2, &no_wait());
    assert!(obstacles(refused).is_empty(), "nobody stood in the way");
    assert_eq!(who(&world.take_asked()), buffers[..2]);
    world.check();
    // As much is on its way as is wanted.
    obstacles(world.validate(newcomer, &places(&[0]), &no_wait()));
    assert!(world.take_asked().is_empty(), "nobody else is told to go");
    world.set_slow(false);
    assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
    world.check();
}

#[test]
fn what_does_not_get_out_in_time_is_no_reason_to_evict_others() {
    let (world, buffers) = full(4);
    world.set_slow(true);
    world.set_stuck(true);
    let (newcomer, refused) = ask_for(&world, 2, &terms());
    obstacles(refused);
    assert_eq!(who(&world.take_asked()), buffers[..2]);
    assert_eq!(world.at(newcomer), None);
    world.check();
    world.set_stuck(false);
    assert_eq!(world.validate(newcomer, &places(&[0]), &terms()), Ok(Validated::Moved));
    world.check();
}

/// A victim's old place is in use while a mapping of it lives. It has left all the same.
#[test]
fn places_that_stay_in_use_are_made_up_for_by_others() {
    let (world, buffers) = full(3);
    world.with(buffers[0], |buffer| buffer.haunted = true);
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), buffers[..2]);
    world.check();
    world.lay_ghosts();
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved));
    assert!(world.take_asked().is_empty(), "what the ghost had is free");
    world.check();
}

#[test]
fn what_was_dropped_goes_before_anybody_does() {
    let (world, buffers) = full(3);
    let work = world.begin(buffers[2], false);
    world.drop_buffer(buffers[2]);
    world.check();
    // Nobody is evicted for what can be had at once.
    world.end(work);
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved));
    assert!(world.take_asked().is_empty());
    world.check();
}

#[test]
fn nobody_goes_for_somebody_who_can_never_be_there() {
    let (world, _) = full(3);
    assert!(obstacles(ask_for(&world, 4, &terms()).1).is_empty());
    assert!(world.take_asked().is_empty());
    world.check();
}

#[test]
fn nobody_above_the_highest_priority_that_may_go_is_asked() {
    for most in Priority::ALL {
        let (world, buffers) = full(4);
        for (&each, priority) in buffers.iter().zip(Priority::ALL) {
            world.set_priority(each, priority);
        }
        let some = Terms { most, ..terms() };
        let evicted = evict_bytes(&world, site(0), u64::MAX, &some);
        assert_eq!(who(&world.take_asked()), buffers[..=most.index()]);
        assert_eq!(evicted.moved, UNIT * (most.index() as u64 + 1));
        world.check();
    }
}

#[test]
fn a_shrunk_budget_costs_the_excess_and_no_more() {
    let (world, buffers) = full(8);
    world.set_slow(true);
    let store = world.site(0);
    store.ledger.set_cap(Some(5 * UNIT));
    store.budget_changed();
    assert_eq!(fit(&world, site(0), GroupId::NONE, &terms()).moved, 3 * UNIT);
    assert_eq!(who(&world.take_asked()), buffers[..3]);
    assert_eq!(world.used(0), 5 * UNIT, "and they are out");
    assert_eq!(fit(&world, site(0), GroupId::NONE, &terms()).moved, 0);
    world.check();
}

#[test]
fn what_is_leaving_already_counts_when_the_budget_shrinks() {
    for (cap, asked) in [(5, 2), (4, 2), (3, 3), (1, 5)] {
        let (world, buffers) = full(6);
        world.set_slow(true);
        obstacles(ask_for(&world, 2, &no_wait()).1);
        world.site(0).ledger.set_cap(Some(cap * UNIT));
        fit(&world, site(0), GroupId::NONE, &terms());
        assert!(world.used(0) <= cap * UNIT, "{cap}");
        assert_eq!(world.order(0), buffers[asked..], "{cap}");
        world.check();
    }
}

#[test]
fn what_is_out_before_anybody_waits_is_taken_without_a_wait() {
    let (world, buffers) = full(4);
    world.set_soon(true);
    assert_eq!(ask_for(&world, 2, &no_wait()).1, Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), buffers[..2]);
    world.check();
}

#[test]
fn what_somebody_else_has_reaped_is_room_as_well() {
    let (world, buffers) = full(4);
    world.set_slow(true);
    world.set_raced();
    // Between the look at what is leaving and the wait for it, all of it got out.
    assert_eq!(ask_for(&world, 2, &no_wait()).1, Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), buffers[..2]);
    world.check();
}

#[test]
fn evictions_are_nested_three_deep_and_no_deeper() {
    for (length, fits) in [(2, true), (3, true), (4, true), (5, false)] {
        // All full, but for the slowest.
        let mut sizes = vec![UNIT; length];
        sizes[length - 1] = 10 * UNIT;
        let world = Fake::chain(policy::lru, &sizes);
        let buffers: Vec<_> = (0..length - 1).map(|at| world.create(UNIT, at)).collect();
        let (newcomer, validated) = ask_for(&world, 1, &terms());
        let deepest = world.take_asked().iter().map(|asked| asked.depth).max();
        let at: Vec<_> = buffers.iter().map(|&each| world.at(each).expect("bytes")).collect();
        if fits {
            assert_eq!(validated, Ok(Validated::Moved), "{length}");
            assert_eq!(at, (1..length).collect::<Vec<_>>(), "each one further");
            assert_eq!(deepest.map(usize::from), Some(length - 1));
        } else {
            assert_eq!(obstacles(validated).bytes(Kept::NoRoom), UNIT);
            assert_eq!(at, (0..length - 1).collect::<Vec<_>>(), "nobody has moved");
            assert_eq!((world.at(newcomer), deepest), (None, Some(3)));
        }
        world.check();
    }
}

#[test]
fn a_provider_that_is_out_of_memory_gets_first_what_nobody_has() {
    let world = Fake::chain(policy::lru, &[8 * UNIT, 100 * UNIT]);
    world.set_nature(0, Nature::Tight(4 * UNIT));
    let buffers: Vec<_> = (0..4).map(|_| world.create(UNIT, 0)).collect();
    world.drop_buffer(buffers[3]);
    assert_eq!(ask_for(&world, 1, &terms()).1, Ok(Validated::Moved), "what was dropped is trimmed");
    assert_eq!((world.trims(), world.take_asked().len()), (1, 0));
    // And now somebody has to go, although the ledger has room.
    assert_eq!(ask_for(&world, 2, &terms()).1, Ok(Validated::Moved));
    assert_eq!(who(&world.take_asked()), buffers[..2]);
    world.check();
}

#[test]
fn a_provider_that_never_has_memory_is_given_up() {
    let (world, _) = full(4);
    world.site(0).ledger.model(100 * UNIT);
    world.set_nature(0, Nature::Full);
    let (newcomer, refused) = ask_for(&world, 1, &terms());
    assert_eq!(refused, Err(Refused::Full));
    assert!(world.trims() <= 5, "{}", world.trims());
    assert_eq!(world.at(newcomer), None);
    world.check();
    // Another place will do.
    let moved = world.validate(newcomer, &places(&[0, 1]), &terms());
    assert_eq!((moved, world.at(newcomer)), (Ok(Validated::Moved), Some(1)));
    world.check();
}

#[test]
fn the_last_reason_is_told_and_no_reason_if_nobody_wanted_any() {
    let world = Fake::chain(policy::lru, &[UNIT, UNIT]);
    let both = places(&[0, 1]);
    let none =
        with_room(&world, &both, UNIT, &terms(), &mut |_, _| Err::<(), _>(Turned::Elsewhere));
    assert_eq!(none, Ok(None));
    let failed = with_room(&world, &both, UNIT, &terms(), &mut |domain, _| {
        Err::<(), _>(if domain == site(0) {
            Turned::Failed(Refused::Failed)
        } else {
            Turned::Elsewhere
        })
    });
    assert_eq!(failed, Err(Refused::Failed));
    let mut tried = vec![];
    let stopped = with_room(&world, &both, UNIT, &terms(), &mut |domain, _| {
        tried.push(domain);
        Err::<(), _>(Turned::Stop(Refused::Full))
    });
    assert_eq!((stopped, tried), (Err(Refused::Full), vec![site(0)]));
    world.check();
}
