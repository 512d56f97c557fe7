//! `kernel/locking/test-ww_mutex.c` and the ww part of `lib/locking-selftest.c`. TTM's reserve tests are in
//! `ttm_bo.rs`.
//!
//! | upstream | here |
//! |---|---|
//! | `test_mutex` | [`a_lock_is_taken_refused_and_passed_on`], [`a_lock_is_passed_on_for_every_way_of_taking_it`] |
//! | `test_aa` | [`a_lock_taken_twice_in_a_set_has_one_index`] |
//! | `test_abba` | [`with_crossed_locks_exactly_one_side_backs_off`], [`a_side_that_does_not_retry_does_not_disturb_the_other`] |
//! | `test_cycle` | [`a_ring_of_any_length_resolves`] |
//! | `stress` | [`many_threads_with_many_locks_all_finish`], [`sets_and_single_locks_work_together`] |
//! | `ww_test_normal`, `ww_test_fail_acquire` | [`a_set_that_fails_at_any_step_holds_nothing`] |
//! | `ww_test_two_contexts`, `ww_test_context_block`, `ww_test_block_context`, `ww_test_spin_nest_*` | [`a_second_lock_outside_a_set_is_detected`] and its neighbours |
//! | `ww_test_context_try`, `ww_test_try_block`, `ww_test_try_context` | [`trying_is_allowed_anywhere`] |
//! | `ww_test_edeadlk_normal`, `_normal_slow` | [`with_crossed_locks_exactly_one_side_backs_off`] |
//! | `ww_test_edeadlk_no_unlock`, `_acquire_more`, `_acquire_more_edeadlk`, `_acquire_wrong`, and each `_slow` | [`locking_more_after_a_back_off_is_harmless`] |
//!
//! The types rule out the following, so there is no test: `ww_test_context_done_twice`,
//! `_unlock_twice`, `_fini_early`, `_lock_after_done`, `ww_test_object_unlock_twice`, `_lock_unbalanced`,
//! `_lock_stale_context`, `ww_test_unneeded_slow` (a `LockSet` lives only inside `lock_many`'s closure,
//! nothing but the set takes the slow path, and guards unlock), `ww_test_diff_class` (there is one class; a
//! set's reservations are of one type).

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sync::lock_set::{Contended, TimedOut, lock_many};
use crate::sync::reservation::Reservation;
use crate::sync::wait_queue::{Ticket, WaitQueues};

/// A timeout that is reached only by a hang.
const LONG: Duration = Duration::from_secs(3600);
/// A timeout that is reached if the lock is not released.
const SHORT: Duration = Duration::from_millis(20);

/// upstream: `test_mutex`
#[test]
fn a_lock_is_taken_refused_and_passed_on() {
    let queues = WaitQueues::new();
    let one = Reservation::new(0);
    {
        let mut guard = one.lock(&queues);
        *guard += 1;
        assert!(one.try_lock(&queues).is_none(), "try_lock of a locked reservation");
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

/// Here a wait is given up by its timeout.
#[test]
fn a_timed_out_wait_leaves_no_trace() {
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

/// upstream: `test_aa`
#[test]
fn a_lock_taken_twice_in_a_set_has_one_index() {
    let queues = WaitQueues::new();
    let one = Reservation::new(5);
    let (mut locked, (a, b)) =
        lock_many(&queues, LONG, |set| Ok((set.lock(&one)?, set.lock(&one)?))).expect("free");
    assert_eq!(a, b);
    assert!(one.try_lock(&queues).is_none(), "a try_lock outside the set fails");
    *locked.get_mut(a) += 1;
    drop(locked);
    assert_eq!(*one.lock(&queues), 6);
}

/// upstream: `test_abba`, `ww_test_edeadlk_normal`
#[test]
fn with_crossed_locks_exactly_one_side_backs_off() {
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
        sides.map(|side| side.join().expect("no panic"))
    });
    // The side that backs off may need more than one retry, while the other side is still unlocking.
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
                    let (mut locked, own) = done.expect("no thread is stuck");
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
fn many_threads_with_many_locks_all_finish() {
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
                    .expect("no thread starves");
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

/// upstream: `ww_test_spin_nest_*`: debug builds check what the types cannot rule out.
#[test]
#[should_panic(expected = "takes a reservation while it holds another one")]
fn a_second_lock_outside_a_set_is_detected() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(()), Reservation::new(()));
    let _a = a.lock(&queues);
    let _b = b.lock(&queues);
}

/// upstream: `ww_test_context_block`
#[test]
#[should_panic(expected = "takes a reservation while it holds another one")]
fn a_single_lock_beside_a_set_is_detected() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(()), Reservation::new(()));
    let _set = lock_many(&queues, LONG, |set| set.lock(&a));
    let _b = b.lock(&queues);
}

/// upstream: `ww_test_block_context`
#[test]
#[should_panic(expected = "takes a reservation while it holds another one")]
fn a_set_beside_a_single_lock_is_detected() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(()), Reservation::new(()));
    let _a = a.lock(&queues);
    let _set = lock_many(&queues, LONG, |set| set.lock(&b));
}

/// upstream: `ww_test_two_contexts`
#[test]
#[should_panic(expected = "takes a reservation while it holds another one")]
fn a_set_beside_a_set_is_detected() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(()), Reservation::new(()));
    let _one = lock_many(&queues, LONG, |set| set.lock(&a));
    let _two = lock_many(&queues, LONG, |set| set.lock(&b));
}

/// upstream: `ww_test_context_try`, `ww_test_try_block`, `ww_test_try_context`: a thread that does not wait
/// closes no cycle.
#[test]
fn trying_is_allowed_anywhere() {
    let queues = WaitQueues::new();
    let (a, b, c) = (Reservation::new(()), Reservation::new(()), Reservation::new(()));
    {
        let _set = lock_many(&queues, LONG, |set| set.lock(&a));
        assert!(b.try_lock(&queues).is_some() && a.try_lock(&queues).is_none());
    }
    let _a = a.lock(&queues);
    let _b = b.try_lock(&queues).expect("free");
    assert!(c.try_lock(&queues).is_some() && b.try_lock(&queues).is_none());
}

/// upstream: `test_mutex`, every way of holding with every way of waiting
#[test]
fn a_lock_is_passed_on_for_every_way_of_taking_it() {
    type Way = fn(&WaitQueues, &Reservation<u32>, &dyn Fn());
    let ways: [Way; 4] = [
        |queues, one, work| {
            let mut guard = one.lock(queues);
            *guard += 1;
            work();
        },
        |queues, one, work| {
            let mut guard = one.lock_timeout(queues, LONG).expect("in time");
            *guard += 1;
            work();
        },
        |queues, one, work| {
            let mut guard = std::iter::repeat_with(|| {
                std::thread::yield_now();
                one.try_lock(queues)
            })
            .flatten()
            .next()
            .expect("it retries until it has the lock");
            *guard += 1;
            work();
        },
        |queues, one, work| {
            let (mut locked, at) = lock_many(queues, LONG, |set| set.lock(one)).expect("in time");
            *locked.get_mut(at) += 1;
            work();
        },
    ];
    for holder in ways {
        for waiter in ways {
            let (queues, one) = (WaitQueues::new(), Reservation::new(0));
            let held = Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    held.wait();
                    waiter(&queues, &one, &|| ());
                });
                holder(&queues, &one, &|| {
                    held.wait();
                    assert!(one.try_lock(&queues).is_none());
                });
            });
            assert_eq!(*one.lock(&queues), 2);
        }
    }
}

/// upstream: `test_abba` without resolving: one side backs off and does not retry
#[test]
fn a_side_that_does_not_retry_does_not_disturb_the_other() {
    let queues = WaitQueues::new();
    let (a, b) = (Reservation::new(()), Reservation::new(()));
    let mut older = Ticket::of_set();
    assert_eq!(a.acquire(&queues, older, Instant::now()), Ok(()));
    older.holding = true;
    // The younger side holds b, waits for a, and gives up after its timeout.
    let mut turns = 0;
    let younger = lock_many(&queues, SHORT, |set| {
        turns += 1;
        Ok((set.lock(&b)?, set.lock(&a)?))
    });
    assert_eq!((younger.err(), turns), (Some(TimedOut), 1));
    assert_eq!(
        b.acquire(&queues, older, Instant::now()),
        Ok(()),
        "the younger side has released it"
    );
    a.release(&queues, older);
    b.release(&queues, older);
    assert!(a.try_lock(&queues).is_some() && b.try_lock(&queues).is_some());
}

/// upstream: `ww_test_edeadlk_no_unlock`, `ww_test_edeadlk_acquire_more`,
/// `ww_test_edeadlk_acquire_more_edeadlk`, `ww_test_edeadlk_acquire_wrong`: a closure uses its set after it
/// had to back off. Upstream each of these is a reported error. Here the next turn corrects it, because the
/// set itself releases the locks and knows which one to lock first.
#[test]
fn locking_more_after_a_back_off_is_harmless() {
    let queues = WaitQueues::new();
    let all: [_; 4] = std::array::from_fn(Reservation::new);
    let older = Ticket::of_set();
    for at in [1, 3] {
        assert_eq!(all[at].acquire(&queues, older, Instant::now()), Ok(()));
    }
    let mut turns = 0;
    let (mut locked, indices) = lock_many(&queues, LONG, |set| {
        turns += 1;
        let first = set.lock(&all[0])?;
        let refused = set.lock(&all[1]);
        if turns == 1 {
            assert!(refused.is_err(), "an older ticket has it");
            assert!(set.lock(&all[2]).is_ok(), "another one, which is free");
            assert!(set.lock(&all[1]).is_err(), "again, and refused again");
            assert!(set.lock(&all[3]).is_err(), "another one that an older ticket has");
            assert_eq!(
                set.lock(&all[0]).ok(),
                Some(first),
                "the set keeps its locks until the closure returns"
            );
            [1, 3].into_iter().for_each(|at| all[at].release(&queues, older));
        }
        Ok([first, refused?, set.lock(&all[2])?, set.lock(&all[3])?])
    })
    .expect("the second turn");
    assert_eq!(turns, 2);
    assert_eq!(indices.map(|at| *locked.get_mut(at)), [0, 1, 2, 3]);
    drop(locked);
    assert!(all.iter().all(|one| one.try_lock(&queues).is_some()));
}

/// upstream: `ww_test_fail_acquire` (`-EDEADLK` at any acquisition), `ww_test_normal`
#[test]
fn a_set_that_fails_at_any_step_holds_nothing() {
    const COUNT: usize = 4;
    for taken in 0..COUNT {
        let queues = WaitQueues::new();
        let all: [_; COUNT] = std::array::from_fn(Reservation::new);
        let lock_all = |bound| {
            lock_many(&queues, bound, |set| {
                all.iter().map(|one| set.lock(one)).collect::<Result<Vec<_>, _>>()
            })
        };
        let other = Ticket::of_set();
        assert_eq!(all[taken].acquire(&queues, other, Instant::now()), Ok(()));
        assert_eq!(lock_all(SHORT).err(), Some(TimedOut));
        let free = |at: &usize| all[*at].try_lock(&queues).is_some();
        assert_eq!((0..COUNT).filter(free).count(), COUNT - 1, "all but the one that is held");
        all[taken].release(&queues, other);
        let (mut locked, indices) = lock_all(LONG).expect("free");
        let values: Vec<_> = indices.into_iter().map(|at| *locked.get_mut(at)).collect();
        assert_eq!(values, [0, 1, 2, 3]);
    }
}

/// upstream: `stress` (`STRESS_ALL`: in order, in any order, and one at a time, concurrently)
#[test]
fn sets_and_single_locks_work_together() {
    const THREADS: usize = 6;
    const LOCKS: usize = 8;
    const ROUNDS: u64 = 200;
    let queues = WaitQueues::new();
    let mut all: [_; LOCKS] = std::array::from_fn(|_| Reservation::new(0u64));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (queues, all) = (&queues, &all);
            scope.spawn(move || {
                let mut random = thread as u64 + 1;
                for _ in 0..ROUNDS {
                    let start = next(&mut random) % LOCKS;
                    let picks: [_; LOCKS] = match thread % 3 {
                        0 => std::array::from_fn(|at| at),
                        1 => std::array::from_fn(|at| (start + at * 3) % LOCKS),
                        _ => {
                            *all[start].lock(queues) += 1;
                            continue;
                        }
                    };
                    let set = lock_many(queues, LONG, |set| {
                        picks.iter().map(|&at| set.lock(&all[at])).collect::<Result<Vec<_>, _>>()
                    });
                    let (mut locked, indices) = set.expect("no thread starves");
                    indices.into_iter().for_each(|at| *locked.get_mut(at) += 1);
                }
            });
        }
    });
    let sum: u64 = all.iter_mut().map(|one| *one.get_mut()).sum();
    let (sets, singles) = (THREADS as u64 / 3 * 2, THREADS as u64 / 3);
    assert_eq!(sum, (sets * LOCKS as u64 + singles) * ROUNDS, "no update was lost");
}
