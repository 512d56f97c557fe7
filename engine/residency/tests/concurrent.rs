//! Several owners at once: no thread takes the room that another one makes, and every thread makes progress.
//!
//! A deadlock would be a wait that ends after [`LONG`], with an error that these tests do not expect.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::world::{Buffer, Fake, Lock, Refused, Validated, site};
use super::{EvictionLimits, POLICIES, Random, UNIT, limits, places, seeds};
use crate::residency::policy;
use crate::residency::priority::Priority;
use crate::residency::room::{PlacementOption, Rejected, with_room};

/// A time limit that is never reached without a deadlock.
const LONG: Duration = Duration::from_secs(3600);

fn in_time() -> EvictionLimits {
    EvictionLimits { wait: Some(Instant::now() + LONG), ..limits() }
}

/// Two buffers that each need more than half of a domain, in turns: each move in evicts the other.
#[test]
fn two_buffers_in_a_domain_for_one_and_a_half_move_as_often_as_necessary() {
    const TURNS: u32 = 200;
    for (_, make) in POLICIES {
        let world = Fake::chain(make, &[3 * UNIT, 100 * UNIT]);
        world.set_slow(true);
        let buffers = [(); 2].map(|()| world.add(Buffer::new(2 * UNIT)));
        for _ in 0..TURNS {
            for buffer in buffers {
                let there = world.validate(buffer, &places(&[0]), &limits());
                assert_eq!(there, Ok(Validated::Moved));
            }
        }
        world.check();
        // Each returns and is evicted once per turn; the first time it is new and does not return.
        let moves: u32 = buffers.iter().map(|&each| world.buffer(each).moves).sum();
        assert_eq!(moves, 2 * 2 * TURNS - 3);
    }
}

/// The same from two threads; each buffer returns as soon as it was evicted.
#[test]
fn two_threads_with_a_domain_for_one_and_a_half_succeed_with_bounded_moves() {
    const TURNS: u32 = 500;
    for slow in [false, true] {
        let world = Fake::chain(policy::lru, &[3 * UNIT, 100 * UNIT]);
        world.set_slow(slow);
        let buffers = [(); 2].map(|()| world.add(Buffer::new(2 * UNIT)));
        let (refused, working, start) = (AtomicU32::new(0), AtomicU32::new(2), Barrier::new(2));
        thread::scope(|scope| {
            for buffer in buffers {
                let (world, refused, working, start) = (&world, &refused, &working, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut moved = 0;
                    while moved < TURNS && working.load(Ordering::Relaxed) == 2 {
                        match world.validate(buffer, &places(&[0]), &in_time()) {
                            Ok(Validated::Moved) => moved += 1,
                            Ok(_) => thread::yield_now(),
                            // The other thread has the room, and has not moved its buffer yet.
                            Err(Refused::NoRoom { .. }) => {
                                refused.fetch_add(1, Ordering::Relaxed);
                                thread::yield_now();
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                    working.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        world.check();
        // Each return evicts the other buffer at most once, and there are no other moves.
        let moves: u32 = buffers.iter().map(|&each| world.buffer(each).moves).sum();
        assert!((2 * TURNS - 3..=4 * TURNS).contains(&moves), "{moves}");
        let usage = world.site(0).ledger.usage();
        assert!(usage.peak <= usage.budget, "{usage:?}");
        // Alone, each succeeds at once.
        for buffer in buffers {
            world
                .validate(buffer, &places(&[0]), &in_time())
                .expect("no other buffer needs the room");
            assert_eq!(world.at(buffer), Some(0));
        }
    }
}

/// Room that becomes free during a walk belongs to the claim of that walk.
#[test]
fn room_that_was_made_for_a_claim_is_not_taken_by_others() {
    for (_, make) in POLICIES {
        for slow in [false, true] {
            let world = Fake::chain(make, &[8 * UNIT, 100 * UNIT]);
            for _ in 0..8 {
                world.create(UNIT, 0);
            }
            world.set_slow(slow);
            world.set_thief(true);
            let buffer = world.add(Buffer::new(4 * UNIT));
            assert_eq!(world.validate(buffer, &places(&[0]), &limits()), Ok(Validated::Moved));
            assert!(world.thefts().0 >= 4, "a theft was tried at every release");
            assert_eq!(world.thefts().1, 0, "no theft succeeded");
            world.set_thief(false);
            world.check();
        }
    }
}

/// Claims are served in order, however small the later ones are.
#[test]
fn first_come_first_served() {
    let world = Fake::chain(policy::lru, &[8 * UNIT, 100 * UNIT]);
    for _ in 0..8 {
        world.create(UNIT, 0);
    }
    let ledger = &world.site(0).ledger;
    let claims = [5, 1, 2].map(|units| ledger.claim(units * UNIT));
    for freed in 1..=8 {
        world.drop_buffer(freed - 1);
        world.end_all();
        let taken = claims.each_ref().map(|claim| {
            let room = claim.take();
            room.map(|room| room.spend()).is_some()
        });
        assert_eq!(taken, [freed == 5, freed == 6, freed == 8], "{freed} are free");
        assert!(ledger.charge(UNIT).is_none(), "a charge without a claim waits");
    }
    ledger.credit(8 * UNIT);
}

/// Room that was taken is in use: other requests fail meanwhile, and succeed as soon as it is returned.
#[test]
fn room_that_is_returned_serves_the_next_request() {
    let world = Fake::chain(policy::lru, &[2 * UNIT, 100 * UNIT]);
    let inside = world.add(Buffer::new(2 * UNIT));
    let place = [PlacementOption { domain: site(0), fallback: false }];
    let failed = with_room(&world, &place, 2 * UNIT, &limits(), &mut |_, room| {
        let refused = world.validate(inside, &places(&[0]), &limits());
        assert!(matches!(refused, Err(Refused::NoRoom { .. })), "{refused:?}");
        drop(room);
        Err::<(), _>(Rejected::Stop(Refused::Failed))
    });
    assert_eq!(failed, Err(Refused::Failed));
    assert_eq!(world.validate(inside, &places(&[0]), &limits()), Ok(Validated::Moved));
    world.check();
}

/// Four threads use, lock, pin and move a few buffers each, in domains that fit a third of them.
#[test]
fn four_threads_make_progress() {
    const EACH: u32 = 6;
    const STEPS: u32 = 400;
    for (name, make) in POLICIES {
        for seed in seeds(4) {
            let world = Fake::chain(make, &[20 * UNIT, 20 * UNIT, 1000 * UNIT]);
            world.set_slow(seed % 2 == 0);
            let owned: Vec<Vec<u32>> = (0..4)
                .map(|owner| {
                    (0..EACH)
                        .map(|n| world.create(UNIT * u64::from(1 + (owner + n) % 5), 2))
                        .collect()
                })
                .collect();
            let served = AtomicU64::new(0);
            thread::scope(|scope| {
                for (owner, mine) in (0..).zip(&owned) {
                    let (world, served) = (&world, &served);
                    let mut random = Random(seed * 4 + owner);
                    scope.spawn(move || {
                        for _ in 0..STEPS {
                            let moved = one_step(world, &mut random, mine);
                            served.fetch_add(u64::from(moved), Ordering::Relaxed);
                        }
                        mine.iter().for_each(|&each| world.with(each, let_go));
                    });
                }
            });
            world.check();
            for at in 0..2 {
                let usage = world.site(at).ledger.usage();
                assert!(usage.peak <= usage.budget, "{name}, seed {seed}, {at}: {usage:?}");
            }
            assert!(served.into_inner() > 0, "{name}, seed {seed}");
            // Nothing is held now, so each buffer can be moved, one by one.
            for each in owned.into_iter().flatten() {
                let there = world.validate(each, &places(&[0]), &in_time());
                assert!(there.is_ok(), "{name}, seed {seed}: {there:?}");
            }
            world.check();
        }
    }
}

fn let_go(buffer: &mut Buffer) {
    (buffer.pins, buffer.held, buffer.lock) = (0, false, Lock::Free);
}

/// One random operation. Returns whether a buffer is where it was requested.
fn one_step(world: &Fake, random: &mut Random, mine: &[u32]) -> bool {
    let each = *random.pick(mine);
    match random.below(10) {
        0 => world.with(each, |buffer| buffer.pins += 1),
        1 | 2 => world.with(each, let_go),
        3 => world.set_priority(each, *random.pick(Priority::ALL)),
        4 => world.touch(each),
        5 => {
            // The buffer is locked for a moment. No room is searched for meanwhile: that is not allowed under a
            // reservation.
            world.with(each, |buffer| buffer.lock = Lock::Taken);
            thread::yield_now();
            let before = world.buffer(each);
            thread::yield_now();
            let after = world.buffer(each);
            assert_eq!((before.at, before.moves), (after.at, after.moves), "it was locked");
            world.with(each, |buffer| buffer.lock = Lock::Free);
        }
        _ => {
            let list = *random.pick(&[&[0][..], &[0, 1], &[1, 2], &[2]]);
            let max_priority = *random.pick(Priority::ALL);
            let limits = EvictionLimits { max_priority, ..in_time() };
            return match world.validate(each, &places(list), &limits) {
                Ok(_) => true,
                Err(Refused::NoRoom { .. } | Refused::Kept(_)) => false,
                Err(other) => panic!("{other:?}"),
            };
        }
    }
    false
}
