//! The promises of the search for room, one by one.

use std::cell::Cell;

use super::world::{Buffer, Fake, Lock, Nature, Refused, Validated, site};
use super::{UNIT, failures, limits, no_wait, places, tried};
use crate::memory::{Domain, DomainId, GroupId};
use crate::residency::domain_state::DomainState;
use crate::residency::eviction_failures::{EvictionFailures, SkipReason};
use crate::residency::list_entry::Victim;
use crate::residency::policy;
use crate::residency::priority::Priority;
use crate::residency::room::{Rejected, evict_bytes, fit, with_room};
use crate::residency::world::{EvictionLimits, Outcomes, ReleaseWait, Trigger, World};

/// A fast domain of so many units, full of buffers of one unit, and a slow domain for all of them.
fn full(units: u64) -> (Fake, Vec<u32>) {
    let world = Fake::chain(policy::lru, &[units * UNIT, 1000 * UNIT]);
    let buffers = (0..units).map(|_| world.create(UNIT, 0)).collect();
    (world, buffers)
}

/// Requests a new buffer of so many units in the fast domain.
fn ask_for(world: &Fake, units: u64, limits: &EvictionLimits) -> (u32, Result<Validated, Refused>) {
    let newcomer = world.add(Buffer::new(units * UNIT));
    (newcomer, world.validate(newcomer, &places(&[0]), limits))
}

#[test]
fn no_more_than_necessary_are_evicted_while_bytes_are_released_one_by_one() {
    let (world, buffers) = full(6);
    world.set_slow(true);
    assert_eq!(ask_for(&world, 3, &limits()).1, Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), buffers[..3]);
    world.check();
}

#[test]
fn bytes_are_released_when_an_explicit_eviction_returns() {
    let (world, buffers) = full(6);
    world.set_slow(true);
    let evicted = evict_bytes(&world, site(0), 3 * UNIT, &limits());
    assert_eq!((evicted.moved, tried(&world.take_attempts())), (3 * UNIT, buffers[..3].to_vec()));
    assert_eq!((world.bytes_in_flight(0), world.used(0)), (0, 3 * UNIT));
    world.check();
}

/// Kernel: two address spaces of xe that evicted each other for ever.
#[test]
fn evicting_all_buffers_ends_although_they_return_at_once() {
    let (world, buffers) = full(4);
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.restless = true));
    let evicted = evict_bytes(&world, site(0), u64::MAX, &limits());
    assert_eq!(evicted.moved, 4 * UNIT, "each was tried once");
    assert_eq!(tried(&world.take_attempts()), buffers);
    world.check();
}

#[test]
fn a_victim_that_is_destroyed_meanwhile_is_no_obstacle() {
    let (world, buffers) = full(2);
    world.with(buffers[0], |buffer| buffer.fleeting = true);
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved));
    world.check();
}

#[test]
fn a_victim_that_was_not_evicted_is_skipped_and_the_next_one_tried() {
    let (world, buffers) = full(5);
    world.with(buffers[0], |buffer| buffer.pins = 1);
    world.with(buffers[1], |buffer| buffer.held = true);
    world.with(buffers[2], |buffer| buffer.lock = Lock::Taken);
    assert_eq!(ask_for(&world, 2, &limits()).1, Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), buffers, "each once");
    assert_eq!([0, 1, 2].map(|n| world.at(buffers[n])), [Some(0); 3]);
    assert_eq!(world.order(0), [buffers[2], 5], "the pinned and the held buffer are parked");
    world.check();
}

#[test]
fn pinned_buffers_are_parked_after_all_were_tried() {
    let (world, buffers) = full(3);
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 1));
    for _ in 0..2 {
        let failures = failures(ask_for(&world, 1, &limits()).1);
        assert_eq!(failures.bytes(SkipReason::Pinned), 3 * UNIT);
        assert_eq!(failures.holders_of_pins().len(), 3);
        assert!(world.order(0).is_empty(), "{:?}", world.order(0));
        assert_eq!(tried(&world.take_attempts()), buffers, "each once, and again the next time");
    }
    world.with(buffers[1], |buffer| buffer.pins = 0);
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved), "it is tried again");
    world.check();
}

#[test]
fn an_unpinned_buffer_is_found_among_many_parked_ones() {
    const MANY: u64 = 300;
    let (world, buffers) = full(MANY);
    buffers.iter().for_each(|&each| world.with(each, |buffer| buffer.pins = 1));
    let parked = failures(ask_for(&world, 1, &limits()).1);
    assert_eq!(parked.iter().collect::<Vec<_>>(), [(SkipReason::Pinned, MANY * UNIT, 300)]);
    world.take_attempts();
    let last = *buffers.last().expect("many");
    world.with(last, |buffer| buffer.pins = 0);
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved));
    assert_eq!(world.at(last), Some(1));
    assert_eq!(tried(&world.take_attempts()).len(), 300, "none was tried twice");
    world.check();
}

#[test]
fn a_locked_buffer_is_waited_for_when_no_other_candidate_is_left() {
    let (world, buffers) = full(3);
    world.with(buffers[0], |buffer| buffer.lock = Lock::Yielding);
    world.with(buffers[1], |buffer| buffer.pins = 1);
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved));
    assert_eq!(world.at(buffers[0]), Some(0), "there was another candidate");
    world.take_attempts();
    // The new buffer is evicted before a locked one is waited for.
    assert_eq!(ask_for(&world, 2, &limits()).1, Ok(Validated::Moved));
    let expected = [buffers[0], 3, buffers[1], buffers[0]];
    assert_eq!(tried(&world.take_attempts()), expected, "first all of them without a wait");
    world.check();
}

#[test]
fn without_a_wait_no_lock_is_waited_for() {
    let (world, buffers) = full(1);
    world.with(buffers[0], |buffer| buffer.lock = Lock::Yielding);
    let locked = failures(ask_for(&world, 1, &no_wait()).1);
    assert_eq!(locked.bytes(SkipReason::Locked), UNIT);
    assert_eq!(tried(&world.take_attempts()), buffers, "once");
    world.check();
}

#[test]
fn without_a_wait_evictions_make_room_for_the_next_request() {
    let (world, buffers) = full(3);
    world.set_slow(true);
    let (newcomer, refused) = ask_for(&world, 2, &no_wait());
    assert!(failures(refused).is_empty(), "there was no obstacle");
    assert_eq!(tried(&world.take_attempts()), buffers[..2]);
    world.check();
    // As many bytes are in flight as are needed.
    failures(world.validate(newcomer, &places(&[0]), &no_wait()));
    assert!(world.take_attempts().is_empty(), "nothing else is evicted");
    world.set_slow(false);
    assert_eq!(world.validate(newcomer, &places(&[0]), &limits()), Ok(Validated::Moved));
    world.check();
}

#[test]
fn bytes_that_are_not_released_in_time_cause_no_more_evictions() {
    let (world, buffers) = full(4);
    world.set_slow(true);
    world.set_stuck(true);
    let (newcomer, refused) = ask_for(&world, 2, &limits());
    failures(refused);
    assert_eq!(tried(&world.take_attempts()), buffers[..2]);
    assert_eq!(world.at(newcomer), None);
    world.check();
    world.set_stuck(false);
    assert_eq!(world.validate(newcomer, &places(&[0]), &limits()), Ok(Validated::Moved));
    world.check();
}

/// A victim's old backing stays in use while a mapping of it exists, although the buffer was evicted.
#[test]
fn backings_that_stay_in_use_are_compensated_by_more_evictions() {
    let (world, buffers) = full(3);
    world.with(buffers[0], |buffer| buffer.mapped = true);
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), buffers[..2]);
    world.check();
    world.drop_mappings();
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved));
    assert!(world.take_attempts().is_empty(), "what the ghost had is free");
    world.check();
}

#[test]
fn destroyed_buffers_are_reclaimed_before_any_is_evicted() {
    let (world, buffers) = full(3);
    let work = world.begin(buffers[2], false);
    world.drop_buffer(buffers[2]);
    world.check();
    // Nothing is evicted if there is room at once.
    world.end(work);
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved));
    assert!(world.take_attempts().is_empty());
    world.check();
}

#[test]
fn nothing_is_evicted_for_a_buffer_that_can_never_fit() {
    let (world, _) = full(3);
    assert!(failures(ask_for(&world, 4, &limits()).1).is_empty());
    assert!(world.take_attempts().is_empty());
    world.check();
}

#[test]
fn buffers_above_the_highest_priority_allowed_are_not_tried() {
    for &max_priority in Priority::ALL {
        let (world, buffers) = full(4);
        for (&each, priority) in buffers.iter().zip(Priority::ALL.iter().copied()) {
            world.set_priority(each, priority);
        }
        let some = EvictionLimits { max_priority, ..limits() };
        let evicted = evict_bytes(&world, site(0), u64::MAX, &some);
        assert_eq!(tried(&world.take_attempts()), buffers[..=max_priority.index()]);
        assert_eq!(evicted.moved, UNIT * (max_priority.index() as u64 + 1));
        world.check();
    }
}

#[test]
fn a_smaller_budget_evicts_the_excess_and_no_more() {
    let (world, buffers) = full(8);
    world.set_slow(true);
    let store = world.site(0);
    store.ledger.set_cap(Some(5 * UNIT));
    store.budget_changed();
    assert_eq!(fit(&world, site(0), GroupId::NONE, &limits()).moved, 3 * UNIT);
    assert_eq!(tried(&world.take_attempts()), buffers[..3]);
    assert_eq!(world.used(0), 5 * UNIT, "and they are released");
    assert_eq!(fit(&world, site(0), GroupId::NONE, &limits()).moved, 0);
    world.check();
}

#[test]
fn bytes_in_flight_count_when_the_budget_shrinks() {
    for (cap, asked) in [(5, 2), (4, 2), (3, 3), (1, 5)] {
        let (world, buffers) = full(6);
        world.set_slow(true);
        failures(ask_for(&world, 2, &no_wait()).1);
        world.site(0).ledger.set_cap(Some(cap * UNIT));
        fit(&world, site(0), GroupId::NONE, &limits());
        assert!(world.used(0) <= cap * UNIT, "{cap}");
        assert_eq!(world.order(0), buffers[asked..], "{cap}");
        world.check();
    }
}

#[test]
fn bytes_that_are_released_at_once_are_taken_without_a_wait() {
    let (world, buffers) = full(4);
    world.set_soon(true);
    assert_eq!(ask_for(&world, 2, &no_wait()).1, Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), buffers[..2]);
    world.check();
}

#[test]
fn bytes_that_another_thread_has_reclaimed_are_room_as_well() {
    let (world, buffers) = full(4);
    world.set_slow(true);
    world.set_raced();
    // All bytes in flight were released between the query and the wait.
    assert_eq!(ask_for(&world, 2, &no_wait()).1, Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), buffers[..2]);
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
        let (newcomer, validated) = ask_for(&world, 1, &limits());
        let deepest = world.take_attempts().iter().map(|asked| asked.depth).max();
        let at: Vec<_> = buffers.iter().map(|&each| world.at(each).expect("bytes")).collect();
        if fits {
            assert_eq!(validated, Ok(Validated::Moved), "{length}");
            assert_eq!(at, (1..length).collect::<Vec<_>>(), "each one domain further");
            assert_eq!(deepest.map(usize::from), Some(length - 1));
        } else {
            assert_eq!(failures(validated).bytes(SkipReason::NoRoom), UNIT);
            assert_eq!(at, (0..length - 1).collect::<Vec<_>>(), "nothing has moved");
            assert_eq!((world.at(newcomer), deepest), (None, Some(3)));
        }
        world.check();
    }
}

#[test]
fn a_provider_that_is_out_of_memory_first_gets_unused_memory() {
    let world = Fake::chain(policy::lru, &[8 * UNIT, 100 * UNIT]);
    world.set_nature(0, Nature::Limited(4 * UNIT));
    let buffers: Vec<_> = (0..4).map(|_| world.create(UNIT, 0)).collect();
    world.drop_buffer(buffers[3]);
    assert_eq!(
        ask_for(&world, 1, &limits()).1,
        Ok(Validated::Moved),
        "the destroyed buffer's memory is trimmed"
    );
    assert_eq!((world.trims(), world.take_attempts().len()), (1, 0));
    // Now evictions are necessary, although the ledger has room.
    assert_eq!(ask_for(&world, 2, &limits()).1, Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), buffers[..2]);
    world.check();
}

#[test]
fn sparse_blocks_are_emptied_before_anything_is_evicted() {
    let world = Fake::chain(policy::lru, &[8 * UNIT, 100 * UNIT]);
    world.set_nature(0, Nature::Limited(4 * UNIT));
    let buffers: Vec<_> = (0..2).map(|_| world.create(UNIT, 0)).collect();
    world.set_sparse(0, 2 * UNIT);
    assert_eq!(ask_for(&world, 2, &limits()).1, Ok(Validated::Moved));
    assert_eq!(world.take_attempts().len(), 0, "two units became free in the blocks");
    assert_eq!(ask_for(&world, 1, &limits()).1, Ok(Validated::Moved));
    assert_eq!(tried(&world.take_attempts()), buffers[..1]);
    world.check();
}

#[test]
fn a_provider_that_never_has_memory_is_given_up() {
    let (world, _) = full(4);
    world.site(0).ledger.model(100 * UNIT);
    world.set_nature(0, Nature::Full);
    let (newcomer, refused) = ask_for(&world, 1, &limits());
    assert_eq!(refused, Err(Refused::Full));
    assert!(world.trims() <= 5, "{}", world.trims());
    assert_eq!(world.at(newcomer), None);
    world.check();
    // Another domain works.
    let moved = world.validate(newcomer, &places(&[0, 1]), &limits());
    assert_eq!((moved, world.at(newcomer)), (Ok(Validated::Moved), Some(1)));
    world.check();
}

#[test]
fn the_last_error_is_returned_and_none_if_no_domain_was_suitable() {
    let world = Fake::chain(policy::lru, &[UNIT, UNIT]);
    let both = places(&[0, 1]);
    let none =
        with_room(&world, &both, UNIT, &limits(), &mut |_, _| Err::<(), _>(Rejected::Unsuitable));
    assert_eq!(none, Ok(None));
    let failed = with_room(&world, &both, UNIT, &limits(), &mut |domain, _| {
        Err::<(), _>(if domain == site(0) {
            Rejected::Failed(Refused::Failed)
        } else {
            Rejected::Unsuitable
        })
    });
    assert_eq!(failed, Err(Refused::Failed));
    let mut tried = vec![];
    let stopped = with_room(&world, &both, UNIT, &limits(), &mut |domain, _| {
        tried.push(domain);
        Err::<(), _>(Rejected::Stop(Refused::Full))
    });
    assert_eq!((stopped, tried), (Err(Refused::Full), vec![site(0)]));
    world.check();
}

/// A full domain where bytes are always in flight when a search looks, and never when it waits: other threads release
/// them and take them at once.
struct Passing {
    domain: DomainState<u32>,
    waits: Cell<u32>,
}

impl World for Passing {
    type Key = u32;
    type Error = ();

    fn domain_state(&self, _: DomainId) -> &DomainState<u32> {
        &self.domain
    }

    fn start_tracking(&self, _: DomainId) {}

    fn reclaim(&self, _: DomainId, _: GroupId, _: &dyn Fn() -> bool) {}

    fn trim(&self, _: DomainId) -> u64 {
        0
    }

    fn compact(&self, _: DomainId, _: Trigger) -> u64 {
        0
    }

    fn evict(&self, _: DomainId, _: &[Victim<u32>], _: &EvictionLimits) -> Outcomes {
        Outcomes::new()
    }

    fn in_flight(&self, _: DomainId, _: GroupId) -> u64 {
        UNIT
    }

    fn wait_for_release(
        &self,
        _: DomainId,
        _: &EvictionLimits,
        _: &dyn Fn() -> bool,
    ) -> ReleaseWait {
        self.waits.set(self.waits.get() + 1);
        ReleaseWait::NothingInFlight
    }

    fn name_kept(&self, _: u32, _: SkipReason, _: &mut EvictionFailures) {}

    fn no_room(&self, _: DomainId, _: u64, _: Option<GroupId>, _: EvictionFailures) {}
}

#[test]
fn a_search_ends_although_others_take_each_time_what_is_released() {
    let domain = DomainState::new(Domain::new(site(0), UNIT), policy::lru);
    domain.ledger.charge(UNIT).expect("it is empty").spend();
    let world = Passing { domain, waits: Cell::new(0) };
    let found = with_room(&world, &places(&[0]), UNIT, &no_wait(), &mut |_, _| Ok(()));
    assert_eq!(found, Err(()));
    assert!(world.waits.get() > 1, "it looks again");
    world.domain.ledger.credit(UNIT);
}
