//! `kernel/locking/test-ww_mutex.c` and `lib/locking-selftest.c`, and TTM's reserve tests.
//!
//! What the kernel's self-tests check at run time and the types rule out here, so that there is nothing
//! to run: `ww_test_context_done_twice`, `_unlock_twice`, `_fini_early`, `_lock_after_done`,
//! `ww_test_object_unlock_twice`, `_lock_unbalanced`, `_lock_stale_context`, `ww_test_diff_class`,
//! `ww_test_unneeded_slow` (a `LockSet` lives only inside `lock_many`'s closure, and guards unlock).

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sync::lock_set::{Contended, TimedOut, lock_many};
use crate::sync::reservation::{Reservation, WaitQueues};

/// A bound that is never reached when things are right.
const LONG: Duration = Duration::from_secs(60);
/// A bound that is reached when nobody lets go.
const SHORT: Duration = Duration::from_millis(20);

/// upstream: `test_mutex`, `ttm_bo_reserve_optimistic_no_ticket`, `ttm_bo_reserve_locked_no_sleep`
#[test]
fn a_lock_is_taken_refused_and_handed_over() {
    let queues = WaitQueues::new();
    let one = Reservation::new(0);
    {
        let mut guard = one.lock(&queues);
        *guard += 1;
        assert!(one.try_lock(&queues).is_none(), "try_lock of a locked one");
    }
    assert_eq!(*one.try_lock(&queues).expect("free again"), 1);
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        let guard = one.lock(&queues);
        let waiter = scope.spawn(|| {
            barrier.wait();
            *one.lock(&queues) += 1;
        });
        barrier.wait();
        drop(guard);
        waiter.join().expect("the waiter gets it");
    });
    assert_eq!(*one.lock(&queues), 2);
}

/// upstream: `ttm_bo_reserve_interrupted` (a bound is how a wait is given up here)
#[test]
fn a_wait_that_is_given_up_leaves_no_trace() {
    let queues = WaitQueues::new();
    let one = Reservation::new(());
    let guard = one.lock(&queues);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| one.lock_timeout(&queues, SHORT).is_none());
        assert!(waiter.join().expect("the waiter ends"));
        let set = scope.spawn(|| lock_many(&queues, SHORT, |set| set.lock(&one)).err());
        assert_eq!(set.join().expect("the set ends"), Some(TimedOut));
    });
    drop(guard);
    assert!(one.try_lock(&queues).is_some());
}

/// upstream: `test_aa`, `ttm_bo_reserve_double_resv`
#[test]
fn the_same_lock_twice_in_a_set_is_the_same() {
    let queues = WaitQueues::new();
    let one = Reservation::new(5);
    let (mut locked, (a, b)) =
        lock_many(&queues, LONG, |set| Ok((set.lock(&one)?, set.lock(&one)?))).expect("free");
    assert_eq!(a, b);
    assert!(one.try_lock(&queues).is_none(), "a foreign trylock fails");
    *locked.get_mut(a) += 1;
    drop(locked);
    assert_eq!(*one.lock(&queues), 6);
}

/// upstream: `test_abba`, `ttm_bo_reserve_deadlock`, `ww_test_edeadlk_normal`
#[test]
fn crossed_locks_make_exactly_one_side_back_off() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(0), Reservation::new(0));
    let barrier = Barrier::new(2);
    let turns = std::thread::scope(|scope| {
        let sides = [(&a, &b), (&b, &a)].map(|(first, second)| {
            let (queues, barrier) = (&queues, &barrier);
            scope.spawn(move || {
                let mut turns = 0;
                let (mut locked, (i, j)) = lock_many(queues, LONG, |set| {
                    turns += 1;
                    let i = set.lock(first)?;
                    if turns == 1 {
                        barrier.wait();
                    }
                    Ok((i, set.lock(second)?))
                })
                .expect("in time");
                *locked.get_mut(i) += 1;
                *locked.get_mut(j) += 1;
                turns
            })
        });
        sides.map(|side| side.join().expect("nobody panics"))
    });
    // More than once, if the other side is still unlocking when it comes back.
    assert!(turns.contains(&1) && turns.iter().any(|&turns| turns > 1), "{turns:?}");
    assert_eq!(*a.lock(&queues), 2);
    assert_eq!(*b.lock(&queues), 2);
}

/// upstream: `test_cycle`
#[test]
fn a_ring_of_any_length_resolves() {
    for length in 2..=8 {
        let queues = WaitQueues::new();
        let ring: Vec<_> = (0..length).map(|_| Reservation::new(0)).collect();
        let barrier = Barrier::new(length);
        std::thread::scope(|scope| {
            for at in 0..length {
                let (queues, ring, barrier) = (&queues, &ring, &barrier);
                scope.spawn(move || {
                    let mut crossed = false;
                    let done = lock_many(queues, LONG, |set| {
                        let own = set.lock(&ring[at])?;
                        if !std::mem::replace(&mut crossed, true) {
                            barrier.wait();
                        }
                        set.lock(&ring[(at + 1) % length])?;
                        Ok(own)
                    });
                    let (mut locked, own) = done.expect("nobody is stuck");
                    *locked.get_mut(own) += 1;
                });
            }
        });
        assert!(ring.iter().all(|one| *one.lock(&queues) == 1), "ring of {length}");
    }
}

/// upstream: `stress` (`STRESS_INORDER`, `STRESS_REORDER`), with the parameters of the ww_mutex stress
/// tool: 16 threads; 8 of 4096 locks each, and 800 of 100,000.
#[test]
fn many_threads_with_many_locks_all_get_through() {
    check_stress(16, 4096, 8, 300, false);
    check_stress(16, 64, 8, 100, false);
    check_stress(16, 64, 8, 100, true);
    check_stress(16, 100_000, 800, 2, false);
}

fn check_stress(threads: u64, locks: usize, each: usize, rounds: usize, in_order: bool) {
    let queues = WaitQueues::new();
    let mut all: Vec<_> = (0..locks).map(|_| Reservation::new(0u64)).collect();
    let total = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (queues, all, total) = (&queues, &all, &total);
            scope.spawn(move || {
                let mut random = thread * 7919 + 1;
                for _ in 0..rounds {
                    let mut picks: Vec<_> = (0..each).map(|_| next(&mut random) % locks).collect();
                    if in_order {
                        picks.sort_unstable();
                    }
                    let (mut locked, indices) = lock_many(queues, LONG, |set| {
                        picks
                            .iter()
                            .map(|&pick| set.lock(&all[pick]))
                            .collect::<Result<Vec<_>, Contended>>()
                    })
                    .expect("nobody starves");
                    for index in indices {
                        *locked.get_mut(index) += 1;
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let sum: u64 = all.iter_mut().map(|one| *one.get_mut()).sum();
    assert_eq!(sum, total.into_inner(), "no update was lost");
    assert_eq!(sum, threads * (each * rounds) as u64);
}

fn next(random: &mut u64) -> usize {
    *random =
        random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*random >> 33) as usize
}

/// upstream: `ww_test_spin_nest_*`, `ww_test_context_try`: what the types cannot rule out, debug builds
/// check.
#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "lock them together in a LockSet")]
fn a_second_lock_outside_a_set_is_caught() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(()), Reservation::new(()));
    let _a = a.lock(&queues);
    let _b = b.lock(&queues);
}
