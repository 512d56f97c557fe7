//! `drivers/dma-buf/st-dma-resv.c`: a reservation and its fences, for each of the four usages.
//!
//! | upstream | here |
//! |---|---|
//! | `sanitycheck` | [`a_reservation_is_locked_and_unlocked_with_a_fence_in_it`] |
//! | `test_signaling` | [`a_fence_is_pending_until_it_signals`] |
//! | `test_for_each` | [`a_query_returns_fences_of_its_usage_and_stronger_ones`] |
//! | `test_for_each_unlocked` | [`a_snapshot_does_not_change_with_the_list`], [`threads_wait_for_snapshots_without_the_lock_while_others_add`] |
//! | `test_get_fences` | [`a_snapshot_is_exactly_what_was_added`] |
//!
//! Rules of `dma_resv_add_fence` that have no test upstream: [`a_usage_is_promoted_and_never_degraded`].
//! Replacement of fences on one timeline is tested in `dma_fence_unwrap.rs`, because it needs a device.
//!
//! A walk without the lock that restarts (`dma_resv_iter_is_restarted`) does not exist here: a walk uses a
//! copy, made under the lock. Adding without the lock does not compile, because the reservation protects the
//! list.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::sync::reservation::Reservation;
use crate::sync::wait_queue::WaitQueues;
use crate::sync::{Fence, Fences, Signal, Usage};

const LONG: Duration = Duration::from_secs(3600);
const USAGES: [Usage; 4] = [Usage::Move, Usage::Write, Usage::Read, Usage::Bookkeep];

/// Whether two lists hold the same fences, in any order.
fn same(some: &[Fence], others: &[Fence]) -> bool {
    let holds = |list: &[Fence], fence: &Fence| list.iter().any(|one| is_same(one, fence));
    some.len() == others.len()
        && some.iter().all(|fence| holds(others, fence))
        && others.iter().all(|fence| holds(some, fence))
}

fn is_same(one: &Fence, other: &Fence) -> bool {
    one.covers(other) && other.covers(one)
}

/// A list with one fence.
fn one(usage: Usage) -> (Fences, Fence, Signal) {
    let mut fences = Fences::default();
    let (fence, signal) = Fence::host();
    fences.reserve().expect("memory for one");
    fences.add(usage, fence.clone());
    (fences, fence, signal)
}

/// upstream: `sanitycheck`
#[test]
fn a_reservation_is_locked_and_unlocked_with_a_fence_in_it() {
    for usage in USAGES {
        let queues = WaitQueues::new();
        let reservation = Reservation::new(Fences::default());
        let (fence, signal) = Fence::host();
        {
            let mut fences = reservation.lock(&queues);
            fences.reserve().expect("memory for one");
            fences.add(usage, fence);
        }
        assert!(!reservation.lock(&queues).is_idle(), "{usage:?}");
        drop(signal);
        assert!(reservation.lock(&queues).is_idle(), "{usage:?}");
    }
}

/// upstream: `test_signaling`
#[test]
fn a_fence_is_pending_until_it_signals() {
    for usage in USAGES {
        let (mut fences, fence, signal) = one(usage);
        assert!(!fences.is_idle(), "{usage:?}");
        assert!(same(&fences.pending(usage), std::slice::from_ref(&fence)), "{usage:?}");
        drop(signal);
        assert!(fences.pending(usage).is_empty(), "{usage:?}");
        assert!(fences.is_idle(), "{usage:?}");
    }
}

/// upstream: `test_signaling`, where the work fails: the memory is free all the same
#[test]
fn no_use_waits_for_failed_work() {
    for usage in USAGES {
        let (mut fences, fence, signal) = one(usage);
        let seen = fences.pending(Usage::Bookkeep);
        signal.fail("it failed");
        assert!(fences.is_idle(), "{usage:?}");
        // A waiter sees the error.
        assert!(seen[0].wait(LONG).is_err() && fence.failure().is_some(), "{usage:?}");
    }
}

/// upstream: `test_for_each`
#[test]
fn a_query_returns_fences_of_its_usage_and_stronger_ones() {
    for usage in USAGES {
        let (mut fences, fence, _signal) = one(usage);
        for query in USAGES {
            let found = fences.pending(query);
            let expected = if usage <= query { vec![fence.clone()] } else { vec![] };
            assert!(same(&found, &expected), "{usage:?}, query for {query:?}: {found:?}");
        }
    }
}

/// upstream: `test_for_each_unlocked`
#[test]
fn a_snapshot_does_not_change_with_the_list() {
    for usage in USAGES {
        let (mut fences, first, signal) = one(usage);
        let before = fences.pending(Usage::Bookkeep);
        let (second, _second) = Fence::host();
        fences.add(usage, second.clone());
        assert!(same(&before, std::slice::from_ref(&first)), "{usage:?}: one was added");
        assert!(same(&fences.pending(usage), &[first.clone(), second.clone()]), "{usage:?}");
        drop(signal);
        assert!(same(&fences.pending(usage), &[second]), "{usage:?}: one has signalled");
        assert!(same(&before, &[first]), "{usage:?}");
        assert!(before[0].is_over(), "{usage:?}: the snapshot's fence has signalled");
    }
}

/// upstream: `test_for_each_unlocked`, while other threads change the list
#[test]
fn threads_wait_for_snapshots_without_the_lock_while_others_add() {
    const THREADS: u32 = 4;
    const TURNS: u32 = 50;
    let queues = WaitQueues::new();
    let reservation = Reservation::new(Fences::default());
    let done = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (queues, reservation, done) = (&queues, &reservation, &done);
            scope.spawn(move || {
                for turn in 0..TURNS {
                    let (fence, signal) = Fence::host();
                    let usage = USAGES[((thread + turn) % 4) as usize];
                    let seen = {
                        let mut fences = reservation.lock(queues);
                        let seen = fences.pending(Usage::Bookkeep);
                        fences.reserve().expect("memory for one");
                        fences.add(usage, fence.clone());
                        seen
                    };
                    // All fences in the snapshot were added before ours, so the waits form no cycle.
                    assert!(!seen.iter().any(|other| is_same(other, &fence)));
                    assert!(seen.iter().all(|other| other.wait(LONG).is_ok()));
                    assert!(seen.iter().all(Fence::is_over));
                    done.fetch_add(1, Ordering::Relaxed);
                    drop(signal);
                }
            });
        }
    });
    assert_eq!(done.into_inner(), THREADS * TURNS);
    assert!(reservation.lock(&queues).is_idle());
}

/// upstream: `test_get_fences`
#[test]
fn a_snapshot_is_exactly_what_was_added() {
    let mut fences = Fences::default();
    let added: Vec<_> = (0..12)
        .map(|at| {
            let (fence, signal) = Fence::host();
            fences.reserve().expect("memory for one");
            fences.add(USAGES[at % 4], fence.clone());
            (USAGES[at % 4], fence, signal)
        })
        .collect();
    for query in USAGES {
        let expected: Vec<_> = added
            .iter()
            .filter(|(usage, ..)| *usage <= query)
            .map(|(_, fence, _)| fence.clone())
            .collect();
        assert!(same(&fences.pending(query), &expected), "{query:?}");
    }
    drop(added);
    assert!(fences.is_idle());
}

/// The rule of `dma_resv_add_fence`: a fence added twice is one fence, with the stronger of its usages.
#[test]
fn a_usage_is_promoted_and_never_degraded() {
    for first in USAGES {
        for second in USAGES {
            let (mut fences, fence, _signal) = one(first);
            fences.add(second, fence.clone());
            for query in USAGES {
                let what = format!("{first:?}, then {second:?}, query for {query:?}");
                let found = fences.pending(query);
                let expected = query >= first.min(second);
                assert_eq!(found.len(), usize::from(expected), "{what}: {found:?}");
                assert!(found.iter().all(|one| is_same(one, &fence)), "{what}");
            }
        }
    }
}

/// The rule of `dma_resv_reserve_fences`: after it, adding needs no memory. There may be several reserved
/// slots; unused ones are no fences.
#[test]
fn reserving_loses_no_fence() {
    let mut fences = Fences::default();
    for _ in 0..2 {
        fences.reserve().expect("memory for one");
        assert!(fences.is_idle(), "a slot is no fence");
    }
    let (fence, _signal) = Fence::host();
    fences.add(Usage::Move, fence.clone());
    fences.reserve().expect("memory for one");
    assert!(same(&fences.pending(Usage::Move), &[fence]), "reserving loses nothing");
}

/// Different fences do not replace each other, for any pair of usages.
#[test]
fn different_fences_are_all_kept() {
    for usage in USAGES {
        for other_usage in USAGES {
            let (mut fences, fence, _signal) = one(usage);
            let (other, _other) = Fence::host();
            fences.add(other_usage, other.clone());
            let found = fences.pending(Usage::Bookkeep);
            assert!(same(&found, &[fence, other]), "{usage:?} and {other_usage:?}: {found:?}");
        }
    }
}
