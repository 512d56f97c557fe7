//! `drivers/gpu/drm/tests/drm_exec_test.c`.

use std::time::Duration;

use crate::sync::lock_set::lock_many;
use crate::sync::reservation::{Reservation, WaitQueues};

const LONG: Duration = Duration::from_secs(60);

/// upstream: `sanitycheck`
#[test]
fn an_empty_set_is_a_set() {
    let queues = WaitQueues::new();
    let locked = lock_many::<(), _>(&queues, LONG, |_| Ok(()));
    assert!(locked.is_ok());
}

/// upstream: `test_lock`, `test_lock_unlock`
#[test]
fn what_a_set_locked_is_free_when_it_is_dropped() {
    let queues = WaitQueues::new();
    let one = Reservation::new(1);
    for _ in 0..2 {
        let (mut locked, index) = lock_many(&queues, LONG, |set| set.lock(&one)).expect("free");
        *locked.get_mut(index) *= 2;
    }
    assert_eq!(*one.lock(&queues), 4);
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
fn two_of_a_set_can_be_changed_at_once() {
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
