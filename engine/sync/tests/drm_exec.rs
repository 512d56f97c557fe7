//! `drivers/gpu/drm/tests/drm_exec_test.c`.
//!
//! | upstream | here |
//! |---|---|
//! | `sanitycheck` | [`an_empty_set_is_allowed`] |
//! | `test_lock`, `test_lock_unlock` | [`a_set_unlocks_when_it_is_dropped`] |
//! | `test_duplicates` | [`duplicates_are_locked_once`] |
//! | `test_prepare` | [`a_slot_is_reserved_while_locking`] |
//! | `test_prepare_array` | [`slots_are_reserved_in_all_of_a_set`], [`two_values_of_a_set_can_be_changed_together`] |
//! | `test_multiple_loops` | [`one_set_after_the_other`] |
//!
//! Unlocking one of a set (`drm_exec_unlock_obj`) does not exist here: a set is unlocked as a whole.

use std::time::Duration;

use crate::sync::lock_set::{LockSet, Locked, lock_many, with_locked};
use crate::sync::reservation::Reservation;
use crate::sync::wait_queue::WaitQueues;
use crate::sync::{Fence, Fences, Usage};

const LONG: Duration = Duration::from_secs(3600);

/// upstream: `sanitycheck`
#[test]
fn an_empty_set_is_allowed() {
    let queues = WaitQueues::new();
    let locked = lock_many::<(), _>(&queues, LONG, |_| Ok(()));
    assert!(locked.is_ok());
}

/// upstream: `test_lock`, `test_lock_unlock`
#[test]
fn a_set_unlocks_when_it_is_dropped() {
    let queues = WaitQueues::new();
    let one = Reservation::new(1);
    for _ in 0..2 {
        let (mut locked, index) = lock_many(&queues, LONG, |set| set.lock(&one)).expect("free");
        *locked.get_mut(index) *= 2;
    }
    assert_eq!(*one.lock(&queues), 4);
}

/// ours: a set that stays in one place ([`with_locked`])
#[test]
fn a_set_unlocks_after_its_work_even_if_that_panics() {
    let queues = WaitQueues::new();
    let (one, two) = (Reservation::new(1), Reservation::new(2));
    let sum = with_locked(
        &queues,
        LONG,
        |set| Ok([set.lock(&one)?, set.lock(&two)?]),
        |locked, both| both.map(|at| *locked.get_mut(at)).iter().sum::<i32>(),
    );
    assert_eq!(sum, Ok(3));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let work = |locked: &mut Locked<'_, i32>, at| {
            assert_eq!(*locked.get_mut(at), 2, "on purpose");
        };
        with_locked(&queues, LONG, |set| set.lock(&one), work)
    }));
    assert!(panicked.is_err());
    let values = [&one, &two].map(|it| *it.lock(&queues));
    assert_eq!(values, [1, 2], "both are free");
}

/// upstream: `test_duplicates`
#[test]
fn duplicates_are_locked_once() {
    let queues = WaitQueues::new();
    let one = Reservation::new(1);
    let (mut locked, (a, b)) =
        lock_many(&queues, LONG, |set| Ok((set.lock(&one)?, set.lock(&one)?))).expect("free");
    assert_eq!(a, b);
    assert_eq!(*locked.get_mut(a), 1);
}

/// upstream: `test_prepare_array`
#[test]
fn two_values_of_a_set_can_be_changed_together() {
    let queues = WaitQueues::new();
    let (one, two) = (Reservation::new(1), Reservation::new(2));
    let (mut locked, (a, b)) =
        lock_many(&queues, LONG, |set| Ok((set.lock(&one)?, set.lock(&two)?))).expect("free");
    let (first, second) = (*locked.get_mut(a), *locked.get_mut(b));
    (*locked.get_mut(a), *locked.get_mut(b)) = (second, first);
    drop(locked);
    assert_eq!(*one.lock(&queues), 2);
    assert_eq!(*two.lock(&queues), 1);
}

/// upstream: `test_multiple_loops`
#[test]
fn one_set_after_the_other() {
    let queues = WaitQueues::new();
    let one = Reservation::new(());
    drop(lock_many::<(), _>(&queues, LONG, |_| Ok(())).ok());
    let second = lock_many(&queues, LONG, |set| set.lock(&one));
    assert!(second.is_ok());
}

/// upstream: `test_prepare`
#[test]
fn a_slot_is_reserved_while_locking() {
    let queues = WaitQueues::new();
    let one = Reservation::new(Fences::default());
    let (mut locked, at) = lock_many(&queues, LONG, |set| {
        let at = set.lock(&one)?;
        set.get_mut(at).reserve().expect("memory for one");
        Ok(at)
    })
    .expect("free");
    let (fence, signal) = Fence::host();
    locked.get_mut(at).add(Usage::Write, fence);
    drop(locked);
    assert_eq!(one.lock(&queues).pending(Usage::Write).len(), 1);
    drop(signal);
    assert!(one.lock(&queues).is_idle());
}

/// upstream: `test_prepare_array`
#[test]
fn slots_are_reserved_in_all_of_a_set() {
    let queues = WaitQueues::new();
    let all = [(); 4].map(|()| Reservation::new(Fences::default()));
    let (mut locked, indices) = lock_many(&queues, LONG, |set: &mut LockSet<'_, Fences>| {
        let mut prepare = |one| {
            let at = set.lock(one)?;
            set.get_mut(at).reserve().expect("memory for one");
            Ok(at)
        };
        // The last one is locked twice.
        all.iter().chain(&all[3..]).map(&mut prepare).collect::<Result<Vec<_>, _>>()
    })
    .expect("free");
    let (fence, _signal) = Fence::host();
    for at in indices {
        locked.get_mut(at).add(Usage::Write, fence.clone());
    }
    drop(locked);
    assert!(all.iter().all(|one| one.lock(&queues).pending(Usage::Read).len() == 1));
}
